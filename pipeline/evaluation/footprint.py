"""Size and speed of causal models on this machine, measured in turns so that other load hits all of them."""

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pipeline.modeling.context import context_of, start_and_end
from pipeline.tasks.causal_lm import TASK

_TURNS = 20  # per model: many short ones, some of which nothing disturbs
_TOKENS = 16  # per turn


class Footprint(NamedTuple):
    """What a model takes: bytes of its weights in memory, and seconds per generated token."""

    bytes: int
    seconds_a_token: float


def footprints(folders: Sequence[Path]) -> list[Footprint]:
    """Return the footprint of the model in each folder.

    Weights are counted in float32, as they are scored: files of one model may differ in size. Decoding is greedy with
    a cache, one token after another; the fastest turn counts.
    """
    models = [TASK.load(folder) for folder in folders]
    tokens = min(_TOKENS, *(context_of(model.config) for model, _ in models))
    fastest = [math.inf] * len(models)
    with torch.inference_mode():
        for _ in range(_TURNS):
            for position, model in enumerate(models):
                fastest[position] = min(fastest[position], _seconds_a_token(*model, tokens))
    return [
        Footprint(model.get_memory_footprint(), seconds) for (model, _), seconds in zip(models, fastest, strict=True)
    ]


def _seconds_a_token(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, tokens: int) -> float:
    token = torch.tensor([[start_and_end(tokenizer)[0]]], device=model.device)  # (batch, tokens)
    cache = None
    began = time.perf_counter()
    for _ in range(tokens):
        output = model(token, past_key_values=cache, use_cache=True)
        cache, token = output.past_key_values, output.logits[:, -1:].argmax(-1)
    token.tolist()  # waits for a GPU
    return (time.perf_counter() - began) / tokens
