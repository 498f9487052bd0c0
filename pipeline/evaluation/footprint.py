"""Size and speed of causal models on this machine, measured in turns so that other load hits all of them."""

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pipeline.evaluation.timing import interleaved
from pipeline.modeling.context import context_of, start_and_end
from pipeline.tasks.causal_lm import TASK

_TOKENS = 16  # per turn: short turns, between which load changes little


class Footprint(NamedTuple):
    """What a model takes: bytes of its weights in memory, and seconds per generated token in each round."""

    bytes: int
    turns: list[float]

    def metrics(self) -> dict[str, float]:
        """Return the figures of the model's metrics."""
        return {"bytes": self.bytes, "seconds_a_token": median(self.turns)}


def footprints(folders: Sequence[Path]) -> list[Footprint]:
    """Return the footprint of the model in each folder.

    Weights are counted in float32, as they are scored: files of one model may differ in size. Decoding is greedy with
    a cache, one token after another, by turns (`pipeline.evaluation.timing`).
    """
    models = [TASK.load(folder) for folder in folders]
    tokens = min(_TOKENS, *(context_of(model.config) for model, _ in models))
    with torch.inference_mode():
        programs = [partial(_seconds_a_token, *model, tokens) for model in models]
        for program in programs:
            program()  # the first turn allocates
        rounds = interleaved(programs)
    return [Footprint(model.get_memory_footprint(), turns) for (model, _), turns in zip(models, rounds, strict=True)]


def _seconds_a_token(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, tokens: int) -> float:
    token = torch.tensor([[start_and_end(tokenizer)[0]]], device=model.device)  # (batch, tokens)
    cache = None
    began = time.perf_counter()
    for _ in range(tokens):
        output = model(token, past_key_values=cache, use_cache=True)
        cache, token = output.past_key_values, output.logits[:, -1:].argmax(-1)
    token.tolist()  # waits for a GPU
    return (time.perf_counter() - began) / tokens
