"""Causal language modelling: the model continues texts (GPT-2, Llama, Qwen, Gemma, Mistral and others)."""

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from pipeline.command import UserError
from pipeline.modeling import loss_model
from pipeline.modeling.context import encoded_as_text, start_and_end
from pipeline.modeling.loss_model import LossModel

# What model configurations call their dropout probabilities.
_DROPOUTS = ("resid_pdrop", "embd_pdrop", "attn_pdrop", "attention_dropout", "hidden_dropout", "resid_dropout")


class CausalLM:
    """See `pipeline.tasks.Task`."""

    def check_base(self, base: str, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase) -> None:
        """Raise UserError unless `base` is a causal language model with an end-of-text token."""
        if config.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or config.is_encoder_decoder:
            raise UserError(
                f"params.yaml: base: {base} is of type {config.model_type}; expected a causal language model, such as"
                " gpt2"
            )
        if tokenizer.eos_token_id is None:
            raise UserError(
                f"params.yaml: base: the tokenizer of {base} has no end-of-text token, so generated texts could not"
                " end; take another base"
            )
        if len(tokenizer) > config.vocab_size:
            raise UserError(
                f"params.yaml: base: {base} has a tokenizer of {len(tokenizer)} tokens for a model of"
                f" {config.vocab_size}; take both from the same model"
            )

    def documents(self, texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
        """Return the token ids of each text between the start and the end token."""
        start, end = start_and_end(tokenizer)
        return [[start, *ids, end] for ids in encoded_as_text(tokenizer, list(texts))["input_ids"]]

    def load(self, folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """Return the model in `folder` in float32, without dropout, on a GPU where there is one; and its tokenizer."""
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True, trust_remote_code=False, use_safetensors=True
        )
        model.to("cuda" if torch.cuda.is_available() else "cpu")
        return model.eval(), AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)

    def load_for_training(self, folder: Path, dropout: float) -> PreTrainedModel:
        """Return the model in `folder` in float32, with `dropout` wherever its architecture has dropout."""
        config = AutoConfig.from_pretrained(
            folder,
            use_cache=False,  # with a cache, documents of a packed row would attend to each other
            local_files_only=True,
            trust_remote_code=False,
        )
        for name in _DROPOUTS:
            if hasattr(config, name):
                setattr(config, name, dropout)
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            dtype=torch.float32,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
        )
        return model

    def loss_model(self, model: PreTrainedModel) -> LossModel:
        """Change `model` in place for fast training and return it with its loss as its output."""
        return loss_model.prepare(model)


TASK = CausalLM()
