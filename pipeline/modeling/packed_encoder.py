"""The layers of an encoder without padding: embeddings and head see padded batches, what lies between only tokens.

The model is called as before, with `attention_mask`, and gives the same states where a token is; at padding they are 0.
"""

import inspect
import os
from typing import Any

import torch
from transformers import PreTrainedModel

from pipeline.modeling.fast_layers import use_fast_dropout, use_tanh_gelu
from pipeline.modeling.packed_attention import boundaries, is_varlen, supports_varlen, use_varlen_attention


def prepare_encoder(model: PreTrainedModel) -> None:
    """Change an encoder in place for fast training and scoring."""
    use_tanh_gelu(model)
    if not torch.cuda.is_available():
        use_fast_dropout(model)
        pack_layers(model)
        # Where the output layer is another tensor or none, a batch's gradient has rows for its own words alone.
        words, output = model.get_input_embeddings(), model.get_output_embeddings()
        is_tied = output is not None and output.weight is words.weight
        words.sparse = not is_tied and int(os.environ.get("WORLD_SIZE", "1")) == 1


def pack_layers(model: PreTrainedModel) -> bool:
    """Change an encoder in place so that its layers compute no padding; tell whether it could be changed.

    It can where embeddings, layers and head are modules of their own, as in BERT, RoBERTa, ELECTRA and DistilBERT.
    """
    if is_varlen(model):
        return True
    layers = _layers(model)
    if (
        layers is None
        or not supports_varlen(model)
        or model.config.is_encoder_decoder
        or getattr(model.config, "is_decoder", False)
    ):
        return False
    use_varlen_attention(model)
    packing = _Packing()
    model.base_model.register_forward_pre_hook(packing.note_mask, with_kwargs=True)
    layers.register_forward_pre_hook(packing.pack, with_kwargs=True)
    layers.register_forward_hook(packing.unpack)
    return True


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

    def note_mask(self, module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
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
