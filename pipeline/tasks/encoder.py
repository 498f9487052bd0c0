"""What the tasks share whose models read a text, or a pair, as a whole: inputs, heads and checks of the base."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from pipeline.command import UserError
from pipeline.tasks.protocol import Document, TokenColumn

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


def check_base(base: str, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase, auto_class: str) -> None:
    """Raise UserError unless transformers has a model of `auto_class` for `config`, and its tokenizer fits."""
    import transformers

    if type(config) not in getattr(transformers, auto_class)._model_mapping:
        raise UserError(
            f"params.yaml: base: {base} is of type {config.model_type}, and transformers has no"
            f" {auto_class.removeprefix('AutoModel')} for it; expected a model such as bert or roberta"
        )
    if len(tokenizer) > config.vocab_size:
        raise UserError(
            f"params.yaml: base: {base} has a tokenizer of {len(tokenizer)} tokens for a model of"
            f" {config.vocab_size}; take both from the same model"
        )
    if padding_of(tokenizer) is None:
        raise UserError(
            f"params.yaml: base: the tokenizer of {base} has neither a padding nor an end token; take another base"
        )


def padding_of(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Return the id that pads: the end token where the tokenizer has no token for it, as GPT-2's."""
    padding: int | None = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    return padding


def context_of(auto_class: str, config: PreTrainedConfig) -> int:
    """Return how many tokens a model with this config reads at most; `sys.maxsize` without position embeddings.

    RoBERTa's first position is the one after its padding token's, so it reads fewer tokens than it has positions.
    """
    import torch
    import transformers

    context: int | None = getattr(config, "max_position_embeddings", None)
    if context is None:
        return sys.maxsize
    with torch.device("meta"):  # no memory: only the layers are looked at
        model = getattr(transformers, auto_class).from_config(config)
    padding = [
        module.padding_idx
        for name, module in model.named_modules()
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None
    ]
    return context - (padding[0] + 1 if padding else 0)


def has_head(auto_class: str, folder: Path, labels: int) -> bool:
    """Return whether the model in `folder` was saved with a head of `auto_class` for so many labels."""
    import transformers

    from pipeline.modeling.loading import load_config

    config = load_config(folder)
    model_class = getattr(transformers, auto_class)._model_mapping[type(config)]
    return model_class.__name__ in (config.architectures or ()) and config.num_labels == labels


def token_columns(tokenizer: PreTrainedTokenizerBase, max_length: int) -> dict[str, TokenColumn]:
    """Return the columns of the tokens; the attention mask is added with the padding."""
    columns = {"input_ids": TokenColumn("int32", max_length, padding_of(tokenizer) or 0)}
    if "token_type_ids" in tokenizer.model_input_names:
        columns["token_type_ids"] = TokenColumn("int32", max_length)
    return columns


def documents(
    tokenizer: PreTrainedTokenizerBase, max_length: int, texts: Sequence[str], pairs: Sequence[str] | None = None
) -> list[Document]:
    """Return the tokens of each text, or of each text and its pair, with the special tokens of the model.

    A text that is too long loses its last tokens, or those of the longer one of the pair, but no special token. What
    looks like a special token in a text is characters.
    """
    inputs = [list(part) for part in ((texts,) if pairs is None else (texts, pairs))]
    whole = tokenizer(*inputs, split_special_tokens=True, verbose=False)
    made = []
    for at, ids in enumerate(whole["input_ids"]):
        row = {name: whole[name][at] for name in whole}
        if len(ids) > max_length:
            settings = {"truncation": "longest_first", "max_length": max_length, "split_special_tokens": True}
            row = dict(tokenizer(*(part[at] for part in inputs), verbose=False, **settings))
        row.pop("attention_mask", None)
        made.append(Document(row, len(ids) - len(row["input_ids"])))
    return made


def load_for_training(auto_class: str, folder: Path, dropout: float, **settings: Any) -> PreTrainedModel:
    """Return the model in `folder` in float32, with `dropout` and these settings of its config.

    A head that the base does not have, or of another size, is new: its weights depend on torch's random state.
    """
    from pipeline.modeling import loading

    config = loading.load_config(folder, **settings)
    loading.set_dropout(config, dropout)
    if config.pad_token_id is None:  # GPT-2's head reads the last token that is not padding
        config.pad_token_id = padding_of(loading.load_tokenizer(folder))
    return loading.load_model(auto_class, folder, config=config, ignore_mismatched_sizes=True)


def load_for_inference(
    auto_class: str, folder: Path, **settings: Any
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return the model in `folder` with these settings of its config, as `Task.load` does; and its tokenizer.

    Weights that the folder does not have are 0: the new head of a base answers 0 to every row, and that each time.
    """
    import torch

    from pipeline.modeling import loading

    config = loading.load_config(folder, **settings)
    tokenizer = loading.load_tokenizer(folder)
    if config.pad_token_id is None:  # GPT-2's head reads the last token that is not padding
        config.pad_token_id = padding_of(tokenizer)
    with loading.new_weights_expected():
        model, report = loading.load_model(
            auto_class, folder, config=config, ignore_mismatched_sizes=True, output_loading_info=True
        )
    new = {*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])}
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if name in new:
                weights.zero_()
    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval(), tokenizer
