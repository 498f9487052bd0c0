"""Loads models and tokenizers from a folder: weights as safetensors only, and never code that comes with them."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

# What model configurations call their dropout probabilities.
_DROPOUTS = (
    "resid_pdrop",
    "embd_pdrop",
    "attn_pdrop",
    "attention_dropout",
    "hidden_dropout",
    "resid_dropout",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "classifier_dropout",
    "seq_classif_dropout",
    "summary_first_dropout",
    "dropout",
    "dropout_rate",
    "activation_dropout",
)


def load_config(folder: Path, **changes: Any) -> PreTrainedConfig:
    """Return the config in `folder`, with `changes`."""
    config: PreTrainedConfig = AutoConfig.from_pretrained(
        folder, local_files_only=True, trust_remote_code=False, **changes
    )
    return config


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Return the tokenizer in `folder`."""
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
        folder, local_files_only=True, trust_remote_code=False
    )
    return tokenizer


def load_model(auto_class: str, folder: Path, **settings: Any) -> PreTrainedModel:
    """Return the model in `folder` in float32; `auto_class` is transformers', such as AutoModelForCausalLM."""
    model: PreTrainedModel = getattr(transformers, auto_class).from_pretrained(
        folder, dtype=torch.float32, local_files_only=True, trust_remote_code=False, use_safetensors=True, **settings
    )
    return model


def load_for_inference(auto_class: str, folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return the model in `folder` in float32, without dropout, on a GPU where there is one; and its tokenizer."""
    model = load_model(auto_class, folder)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    return model.eval(), load_tokenizer(folder)


@contextmanager
def new_weights_expected() -> Iterator[None]:
    """Keep transformers from reporting weights that a base does not have, such as those of a new head."""
    logger = logging.getLogger("transformers.modeling_utils")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def set_dropout(config: PreTrainedConfig, dropout: float) -> None:
    """Set every dropout probability that `config` has."""
    for name in _DROPOUTS:
        if hasattr(config, name):
            setattr(config, name, dropout)
