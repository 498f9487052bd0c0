"""What an evaluation suite takes and returns; light to import."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.evaluation.generation import Generation
    from pipeline.evaluation.memorisation import Copy
    from pipeline.evaluation.scores import Probes, Scores


@dataclass(frozen=True)
class HeldOutData:
    """What every model is measured on."""

    rows: list[int]  # of the test split, as numbered in the corpus
    texts: list[str]
    groups: list[str] | None  # of each text, where the corpus has a category
    sample_prompts: list[str]  # for the samples that people read
    generations: int  # how many texts each model generates to be measured
    sha256: str  # of the test rows and all settings: figures of two models compare only where it is equal
    warning: str  # about the settings; empty without one


@dataclass(frozen=True)
class Evaluation:
    """What one model makes of the test data."""

    metrics: dict[str, Any]
    scores: Scores  # of `HeldOutData.texts`
    probes: Probes
    samples: list[str]  # for `HeldOutData.sample_prompts`
    generations: list[Generation]
    copies: list[Copy]  # the longest from training rows among its generations
