"""The layers of an encoder without padding: embeddings and head see padded batches, what lies between only tokens.

The model is called as before, with `attention_mask`, and gives the same states where a token is; at padding they are 0.
"""

import inspect
import os
from typing import Any

import torch
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from pipeline.modeling import varlen_kernel
from pipeline.modeling.batches import TOKEN_INDEX
from pipeline.modeling.fast_layers import use_fast_layers, use_tanh_gelu
from pipeline.modeling.packed_attention import (
    boundaries,
    has_varlen_kernel,
    is_varlen,
    supports_varlen,
    use_varlen_attention,
)


def prepare_encoder(model: PreTrainedModel) -> bool:
    """Change an encoder in place for fast training and scoring; tell whether its batches need `with_token_index`."""
    if torch.cuda.is_available():
        use_tanh_gelu(model)
        return varlen_kernel.is_wanted() and _pack_layers_on_gpu(model)
    use_fast_layers(model)
    pack_layers(model)
    # Where the output layer is another tensor or none, a batch's gradient has rows for its own words alone.
    words, output = model.get_input_embeddings(), model.get_output_embeddings()
    is_tied = output is not None and output.weight is words.weight
    words.sparse = not is_tied and int(os.environ.get("WORLD_SIZE", "1")) == 1
    return False


def pack_layers(model: PreTrainedModel) -> bool:
    """Change an encoder in place so that its layers compute no padding; tell whether it could be changed.

    It can where embeddings, layers and head are modules of their own, as in BERT, RoBERTa, ELECTRA and DistilBERT.
    """
    if is_varlen(model):
        return True
    layers = _packable_layers(model)
    if layers is None:
        return False
    use_varlen_attention(model)
    _Packing().hook(model.base_model, layers)
    return True


def _pack_layers_on_gpu(model: PreTrainedModel) -> bool:
    """Let the layers compute no padding in batches with a token index, if they can and the GPU's kernel is right."""
    layers = _packable_layers(model)
    if layers is None or hasattr(model, "packing"):
        return layers is not None
    packing = _GivenPacking(model)
    hooks = packing.hook(model.base_model, layers)
    is_right = has_varlen_kernel(model, token_at=torch.arange(2, device=model.device))
    packing.use_attention(is_packed=False)
    if is_right:
        model.packing = packing
        return True
    for hook in hooks:
        hook.remove()
    return False


def _packable_layers(model: PreTrainedModel) -> torch.nn.Module | None:
    is_encoder = not (model.config.is_encoder_decoder or getattr(model.config, "is_decoder", False))
    return _layers(model) if is_encoder and supports_varlen(model) else None


def _layers(model: PreTrainedModel) -> torch.nn.Module | None:
    """Return the module that holds the layers, unless it holds the embeddings too."""
    count = model.config.num_hidden_layers
    for module in model.base_model.modules():
        lists = [child for child in module.children() if isinstance(child, torch.nn.ModuleList)]
        if any(len(layers) == count for layers in lists):
            return None if module is model.base_model else module
    return None


class _Packing:
    """The hooks of a model: `kept` says where its batch has tokens."""

    def __init__(self) -> None:
        self.kept: torch.Tensor | None = None  # (rows, tokens), True for a token; None without padding

    def hook(self, encoder: torch.nn.Module, layers: torch.nn.Module) -> list[RemovableHandle]:
        """Add the hooks to a whole encoder and to its layers."""
        return [
            encoder.register_forward_pre_hook(self.note_mask, with_kwargs=True),
            layers.register_forward_pre_hook(self.pack, with_kwargs=True),
            layers.register_forward_hook(self.unpack),
        ]

    def note_mask(self, module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Keep the mask of a call of the whole encoder."""
        given = inspect.signature(module.forward).bind_partial(*args, **kwargs).arguments
        mask = given.get("attention_mask")
        self.kept = None if mask is None else mask.bool()

    def pack(self, _module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Give the layers the tokens alone, (1, tokens, hidden), and where each row begins."""
        states = args[0] if args else kwargs["hidden_states"]  # (rows, tokens, hidden)
        if self.kept is None:
            self.kept = torch.ones(states.shape[:2], dtype=torch.bool, device=states.device)
        kwargs = {**kwargs, "cu_seq_lens_q": boundaries(self.kept)}
        packed = states[self.kept][None]
        return ((packed, *args[1:]), kwargs) if args else ((), {**kwargs, "hidden_states": packed})

    def unpack(self, _module: torch.nn.Module, _args: tuple[Any, ...], output: Any) -> Any:
        """Put the states back where the tokens were."""
        assert self.kept is not None
        packed = output.last_hidden_state[0]  # (tokens, hidden)
        padded = packed.new_zeros(*self.kept.shape, packed.shape[-1])
        output.last_hidden_state = padded.index_put(self.kept.nonzero(as_tuple=True), packed)
        return output


class _GivenPacking(_Packing):
    """The hooks for a GPU, where to find the tokens the host would wait: a batch says where they are, or is padded."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self._model, self._padded_attention = model, model.config._attn_implementation
        self._index: torch.Tensor | None = None  # of each token in the batch, (tokens,); None for a padded batch
        self._varlen: dict[str, Any] = {}  # what attention needs
        self._shape = torch.Size()  # of the states: rows, tokens, hidden

    def use_attention(self, is_packed: bool) -> None:
        """Give the model the attention for packed or for padded batches."""
        if is_packed and not is_varlen(self._model):
            use_varlen_attention(self._model)
        elif not is_packed and is_varlen(self._model):
            self._model.set_attn_implementation(self._padded_attention)

    def note_mask(self, module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Take from a call of the whole encoder where its batch's tokens are."""
        given = {name: kwargs[name] for name in TOKEN_INDEX if name in kwargs}
        self._index, self._varlen = given.pop("token_at", None), given
        self.use_attention(is_packed=self._index is not None)
        return args, {name: value for name, value in kwargs.items() if name not in TOKEN_INDEX}

    def pack(self, _module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Give the layers the tokens alone, (1, tokens, hidden), and where each row begins."""
        if self._index is None:
            return None
        states = args[0] if args else kwargs["hidden_states"]  # (rows, tokens, hidden)
        self._shape = states.shape
        packed = states.flatten(0, 1).index_select(0, self._index)[None]
        kwargs = {**kwargs, **self._varlen}
        return ((packed, *args[1:]), kwargs) if args else ((), {**kwargs, "hidden_states": packed})

    def unpack(self, _module: torch.nn.Module, _args: tuple[Any, ...], output: Any) -> Any:
        """Put the states back where the tokens were."""
        if self._index is not None:
            packed = output.last_hidden_state[0]  # (tokens, hidden)
            padded = packed.new_zeros(self._shape).flatten(0, 1)
            output.last_hidden_state = padded.index_copy(0, self._index, packed).view(self._shape)
        return output
