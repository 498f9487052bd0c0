"""What a model reads: its context, the tokens around a text, and whether prompts leave it room."""

import sys
from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from pipeline.command import UserError


def encoded_as_text(tokenizer: PreTrainedTokenizerBase, texts: Any, **more: bool) -> Any:
    """Return what `tokenizer` makes of a text or several, without tokens around them.

    A special token's name in a text, such as `<|endoftext|>`, is the characters that it has, not that token.
    """
    return tokenizer(texts, add_special_tokens=False, split_special_tokens=True, verbose=False, **more)


def context_of(config: PreTrainedConfig) -> int:
    """Return how many tokens a model reads at most; a model without position embeddings sets no limit."""
    context: int = getattr(config, "max_position_embeddings", sys.maxsize)
    return context


def start_and_end(tokenizer: PreTrainedTokenizerBase) -> tuple[int, int]:
    """Return the ids of the tokens before and behind a text; GPT-2 has one, `<|endoftext|>`, for both."""
    end = tokenizer.eos_token_id
    start = tokenizer.bos_token_id
    return (end if start is None else start), end


def check_prompts(prompts: Sequence[str], tokenizer: PreTrainedTokenizerBase, context: int) -> None:
    """Raise UserError for prompts of `evaluate` that leave a model no room: here, not after hours of training."""
    problems = []
    for prompt in prompts:
        tokens = len(encoded_as_text(tokenizer, prompt)["input_ids"])
        if tokens + 1 >= context:  # the start token
            problems.append(
                f"params.yaml: evaluate.prompts: {prompt[:40]!r} has {tokens} tokens, but the base reads {context} with"
                f" the start token and what it writes; shorten it to at most {context - 2} tokens"
            )
    if problems:
        raise UserError("\n".join(problems))
