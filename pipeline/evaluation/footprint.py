"""Size and speed of models on this machine, measured in turns so that other load hits all of them."""

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pipeline.evaluation.timing import interleaved
from pipeline.modeling.context import context_of, start_and_end
from pipeline.tasks.protocol import Task

_TOKENS = 16  # per turn: short turns, between which load changes little


class Footprint(NamedTuple):
    """What a model takes: bytes of its weights in memory, and seconds per token or row in each round."""

    bytes: int
    turns: list[float]
    unit: str = "token"  # generated, or row

    def metrics(self) -> dict[str, float]:
        """Return the figures of the model's metrics."""
        return {"bytes": self.bytes, f"seconds_a_{self.unit}": median(self.turns)}


def footprints(task: Task, folders: Sequence[Path]) -> list[Footprint]:
    """Return the footprint of the causal model in each folder: decoding is greedy with a cache, a token at a time."""
    models = [task.load(folder) for folder in folders]
    tokens = min(_TOKENS, *(context_of(model.config) for model, _ in models))
    programs = [partial(_seconds_a_token, *model, tokens) for model in models]
    return measured([model for model, _ in models], programs, "token")


def measured(models: Sequence[PreTrainedModel], programs: Sequence[Callable[[], float]], unit: str) -> list[Footprint]:
    """Return the footprint of each of `models`; its program returns the seconds that a `unit` took.

    Weights are counted in float32, as they are scored: files of one model may differ in size. The programs run by turns
    (`pipeline.evaluation.timing`).
    """
    with torch.inference_mode():
        for program in programs:
            program()  # the first turn allocates
        rounds = interleaved(programs)
    return [Footprint(model.get_memory_footprint(), turns, unit) for model, turns in zip(models, rounds, strict=True)]


def _seconds_a_token(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, tokens: int) -> float:
    token = torch.tensor([[start_and_end(tokenizer)[0]]], device=model.device)  # (batch, tokens)
    cache = None
    began = time.perf_counter()
    for _ in range(tokens):
        output = model(token, past_key_values=cache, use_cache=True)
        cache, token = output.past_key_values, output.logits[:, -1:].argmax(-1)
    token.tolist()  # waits for a GPU
    return (time.perf_counter() - began) / tokens
