"""What each architecture of decoders computes, as data for `serving.engines.decoder`; read from a model's config.json.

An architecture is a function in `ARCHITECTURES`. Names of tensors are those of transformers, without the prefix of the
base model; `{}` stands for the number of a layer.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from serving.engines.activations import ACTIVATIONS, Activation

_STATIC_ROPE = ("linear", "llama3", "yarn")  # whose frequencies do not depend on the length of the text


class UnsupportedModelError(Exception):
    """The engine cannot run a model; the message says why, as a clause."""


@dataclass(frozen=True)
class Names:
    """Where a file keeps the tensors of a model."""

    prefix: str
    tokens: str
    final_norm: str
    attention_norm: str
    qkv: tuple[str, ...]  # in one tensor, or queries, keys and values
    attention_out: str
    mlp_norm: str
    mlp_in: tuple[str, ...]  # up, or gate and up
    mlp_out: str
    positions: str = ""  # of learned positions
    query_norm: str = ""
    key_norm: str = ""
    head: str = "lm_head"  # outside of the base model
    transposed: bool = False  # whether weights are (in, out)


@dataclass(frozen=True)
class Rotary:
    """Rotary positions (arXiv:2104.09864), in halves as transformers does."""

    frequencies: torch.Tensor  # (head_dim / 2,), radians a token
    scale: float  # of the rotated queries and keys


@dataclass(frozen=True)
class DecoderSpec:
    """A decoder with norms before its attention and MLP."""

    names: Names
    layers: int
    heads: int
    key_value_heads: int
    head_dim: int
    context: int
    activation: Activation
    epsilon: float
    is_rms_norm: bool = True
    norm_offset: float = 0.0  # added to the weights of norms
    embedding_scale: float = 1.0
    is_head_tied: bool = True
    rotary: Rotary | None = None
    window: int | None = None  # tokens that a token attends to, itself among them


def read_spec(folder: Path) -> DecoderSpec:
    """Return what the model in `folder` computes; raises UnsupportedModelError."""
    content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    model_type = content.get("model_type")
    if model_type not in ARCHITECTURES:
        supported = ", ".join(ARCHITECTURES)
        raise UnsupportedModelError(f"it runs models of the types {supported}, and this model is of type {model_type}")
    if "quantization_config" in content:
        raise UnsupportedModelError("its config.json has a quantization_config, and it rounds float weights by itself")
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    return ARCHITECTURES[model_type](config)


def _gpt2(config: Any) -> DecoderSpec:
    _require(config, scale_attn_weights=True, scale_attn_by_inverse_layer_idx=False, add_cross_attention=False)
    names = Names(
        prefix="transformer.",
        tokens="wte",
        positions="wpe",
        final_norm="ln_f",
        attention_norm="h.{}.ln_1",
        qkv=("h.{}.attn.c_attn",),
        attention_out="h.{}.attn.c_proj",
        mlp_norm="h.{}.ln_2",
        mlp_in=("h.{}.mlp.c_fc",),
        mlp_out="h.{}.mlp.c_proj",
        transposed=True,
    )
    return DecoderSpec(
        names,
        layers=config.n_layer,
        heads=config.n_head,
        key_value_heads=config.n_head,
        head_dim=config.n_embd // config.n_head,
        context=config.n_positions,
        activation=_activation(config.activation_function),
        epsilon=config.layer_norm_epsilon,
        is_rms_norm=False,
        is_head_tied=config.tie_word_embeddings,
    )


def _llama(config: Any) -> DecoderSpec:
    names = Names(
        prefix="model.",
        tokens="embed_tokens",
        final_norm="norm",
        attention_norm="layers.{}.input_layernorm",
        qkv=("layers.{}.self_attn.q_proj", "layers.{}.self_attn.k_proj", "layers.{}.self_attn.v_proj"),
        attention_out="layers.{}.self_attn.o_proj",
        mlp_norm="layers.{}.post_attention_layernorm",
        mlp_in=("layers.{}.mlp.gate_proj", "layers.{}.mlp.up_proj"),
        mlp_out="layers.{}.mlp.down_proj",
    )
    return DecoderSpec(
        names,
        layers=config.num_hidden_layers,
        heads=config.num_attention_heads,
        key_value_heads=config.num_key_value_heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
        context=config.max_position_embeddings,
        activation=_activation(config.hidden_act),
        epsilon=config.rms_norm_eps,
        is_head_tied=config.tie_word_embeddings,
        rotary=_rotary(config),
    )


def _mistral(config: Any) -> DecoderSpec:
    return replace(_llama(config), window=config.sliding_window)


def _qwen2(config: Any) -> DecoderSpec:
    if set(config.layer_types) != {"full_attention"}:
        raise UnsupportedModelError("it does not support attention that differs by layer (layer_types in config.json)")
    return _llama(config)


def _qwen3(config: Any) -> DecoderSpec:
    spec = _qwen2(config)
    names = replace(spec.names, query_norm="layers.{}.self_attn.q_norm", key_norm="layers.{}.self_attn.k_norm")
    return replace(spec, names=names)


def _gemma(config: Any) -> DecoderSpec:
    if config.use_bidirectional_attention:
        raise UnsupportedModelError("it does not support the setting use_bidirectional_attention in config.json")
    return replace(_llama(config), norm_offset=1.0, embedding_scale=config.hidden_size**0.5)


ARCHITECTURES: dict[str, Callable[[Any], DecoderSpec]] = {
    "gpt2": _gpt2,
    "llama": _llama,
    "mistral": _mistral,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "gemma": _gemma,
}


def _require(config: Any, **settings: object) -> None:
    unsupported = [name for name, value in settings.items() if getattr(config, name) != value]
    if unsupported:
        raise UnsupportedModelError(f"it does not support the settings {', '.join(unsupported)} in config.json")


def _activation(name: str) -> Activation:
    if name not in ACTIVATIONS:
        raise UnsupportedModelError(f"it does not support the activation function {name}")
    return ACTIVATIONS[name]


def _rotary(config: Any) -> Rotary:
    parameters = config.rope_parameters
    kind = parameters.get("rope_type")
    if parameters.get("partial_rotary_factor", 1.0) != 1.0:
        raise UnsupportedModelError("it does not support rotary positions in a part of each head")
    if kind == "default":
        dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return Rotary(1.0 / parameters["rope_theta"] ** (torch.arange(0, dim, 2, dtype=torch.float32) / dim), 1.0)
    if kind not in _STATIC_ROPE:
        raise UnsupportedModelError(f"it does not support rotary positions of the type {kind}")
    return Rotary(*ROPE_INIT_FUNCTIONS[kind](config, torch.device("cpu")))
