"""LoRA adapters on a model of transformers: each row of a batch gets what its own adapter adds, or nothing.

The matrices of all adapters are stacked, and each row's are gathered, so that a batch of several adapters is one pass.
"""

from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from serving.engines.lora import Adapter, LowRank, require_fit


class LoraBatch:
    """The adapters of a model, and which one each row of the present batch has."""

    def __init__(self, model: PreTrainedModel) -> None:
        """Change nothing until there is an adapter."""
        self.rows: torch.Tensor | None = None  # (batch,) numbers of adapters, 0 for none; None where no row has one
        self._model = model
        self._layers: dict[str, _StackedLayer] = {}
        self._numbers: set[int] = set()

    @property
    def is_used(self) -> bool:
        """Whether there is any adapter."""
        return bool(self._numbers)

    def load(self, adapter: Adapter) -> int:
        """Take an adapter and return its number; raises EngineError where it does not fit the model."""
        modules = {name: self._module(name, layer) for name, layer in adapter.layers.items()}
        number = next(number for number in range(1, len(self._numbers) + 2) if number not in self._numbers)
        self._numbers.add(number)
        for name, module in modules.items():
            if name not in self._layers:
                self._layers[name] = _StackedLayer(self, module)
        for name, stacked in self._layers.items():
            stacked.put(number, adapter.layers.get(name))
        return number

    def unload(self, number: int) -> None:
        """Forget an adapter that no row has."""
        self._numbers.remove(number)
        for stacked in self._layers.values():
            stacked.put(number, None)

    def _module(self, name: str, layer: LowRank) -> torch.nn.Module:
        """Return the layer that an adapter changes; raises EngineError where the model has none that fits."""
        module: torch.nn.Module | None
        try:
            module = self._model.get_submodule(name)
        except AttributeError:
            module = None
        is_linear = isinstance(module, torch.nn.Linear | Conv1D)
        require_fit(name, layer, _shape(module) if is_linear else None)
        assert module
        return module


class _StackedLayer:
    """What all adapters add to one linear layer."""

    def __init__(self, batch: LoraBatch, module: Any) -> None:
        self._batch = batch
        weight: torch.Tensor = module.weight
        outputs, inputs = _shape(module)
        self._down = weight.new_zeros(1, inputs, 0)  # (adapters, inputs, rank)
        self._up = weight.new_zeros(1, 0, outputs)  # (adapters, rank, outputs)
        module.register_forward_hook(self._add)

    def put(self, number: int, layer: LowRank | None) -> None:
        """Set the matrices of an adapter; zeros where it does not change this layer."""
        rank = max(self._down.shape[2], len(layer.down) if layer else 0)
        self._down = _grown(self._down, (max(len(self._down), number + 1), self._down.shape[1], rank))
        self._up = _grown(self._up, (max(len(self._up), number + 1), rank, self._up.shape[2]))
        self._down[number], self._up[number] = 0, 0
        if layer:
            self._down[number, :, : len(layer.down)] = layer.down.t()
            self._up[number, : len(layer.down)] = layer.up.t()

    def _add(self, _: torch.nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        """Add to the output, (batch, tokens, outputs), as a forward hook; some models join the first two for an MLP."""
        if (rows := self._batch.rows) is None:
            return output
        x = inputs[0].reshape(len(rows), -1, inputs[0].shape[-1])
        return output + torch.bmm(torch.bmm(x, self._down[rows]), self._up[rows]).view_as(output)


def _shape(module: Any) -> tuple[int, ...]:
    """Return the outputs and inputs of a linear layer."""
    shape = tuple(module.weight.shape)
    return shape[::-1] if isinstance(module, Conv1D) else shape


def _grown(stack: torch.Tensor, shape: tuple[int, int, int]) -> torch.Tensor:
    """Return `stack`, or a larger one with zeros after what it holds."""
    if stack.shape == shape:
        return stack
    grown = stack.new_zeros(shape)
    grown[: stack.shape[0], : stack.shape[1], : stack.shape[2]] = stack
    return grown
