"""The inputs of a causal model: encoded texts, start and end tokens, the size of the context."""

import sys
from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from pipeline.command import UserError


def encoded_as_text(tokenizer: PreTrainedTokenizerBase, texts: Any, **more: bool) -> Any:
    """Tokenize a text or several without special tokens: `<|endoftext|>` in a text is characters, not the token."""
    return tokenizer(texts, add_special_tokens=False, split_special_tokens=True, verbose=False, **more)


def context_of(config: PreTrainedConfig) -> int:
    """Return the size of a model's context in tokens; `sys.maxsize` for a model without position embeddings."""
    context: int = getattr(config, "max_position_embeddings", sys.maxsize)
    return context


def start_and_end(tokenizer: PreTrainedTokenizerBase) -> tuple[int, int]:
    """Return the ids of the tokens before and after a text; GPT-2 has one, `<|endoftext|>`, for both."""
    end = tokenizer.eos_token_id
    start = tokenizer.bos_token_id
    return (end if start is None else start), end


def check_prompts(prompts: Sequence[str], tokenizer: PreTrainedTokenizerBase, context: int) -> None:
    """Raise UserError for prompts of `evaluate` that leave no room in the context, before hours of training."""
    problems = []
    for prompt in prompts:
        tokens = len(encoded_as_text(tokenizer, prompt)["input_ids"])
        if tokens + 1 >= context:  # the start token
            problems.append(
                f"params.yaml: evaluate.prompts: {prompt[:40]!r} has {tokens} tokens, but the base's context is"
                f" {context} tokens, with the start token and the generated text; shorten it to at most"
                f" {context - 2} tokens"
            )
    if problems:
        raise UserError("\n".join(problems))
