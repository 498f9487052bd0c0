"""What an evaluation suite takes and returns; light to import."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    import numpy.typing as npt

    from pipeline.evaluation.generation import Generation
    from pipeline.evaluation.memorisation import Copy
    from pipeline.evaluation.scores import Probes, Scores


@dataclass(frozen=True, kw_only=True)
class HeldOutData:
    """What every model is measured on."""

    rows: list[int]  # of the test split, as numbered in the corpus
    texts: list[str]
    groups: list[str] | None  # of each text, where the corpus has a category
    sample_prompts: list[str]  # for the samples that people read
    generations: int  # how many texts each model generates to be measured; 0: it writes none
    sha256: str  # of the test rows and all settings: figures of two models compare only where it is equal
    warning: str  # about the settings; empty without one
    expected: list[str] | None = None  # the right answer to each sample prompt, where there is one
    clusters: list[str] | None = None  # of each text: rows of one cluster are not independent of each other
    classes: list[str] | None = None  # of each text, where the task has classes that may be rare

    def work(self) -> str:
        """Return what measuring a model means, for a progress message."""
        scoring = f"scoring {len(self.texts)} test rows"
        return f"{scoring}, generating {self.generations} texts" if self.generations else scoring


@dataclass(frozen=True)
class Evaluation:
    """What one model makes of the test data."""

    metrics: dict[str, Any]
    scores: Scores  # of `HeldOutData.texts`
    probes: Probes
    samples: list[str]  # for `HeldOutData.sample_prompts`
    generations: list[Generation] = field(default_factory=list)
    copies: list[Copy] = field(default_factory=list)  # the longest from training rows among its generations
    details: Mapping[str, Any] = field(default_factory=dict)  # what charts are drawn from, for `paths.GENERATIONS`
    # Further figures of each text of `HeldOutData.texts`, by name, (rows,); NaN where a text has none.
    row_figures: Mapping[str, npt.NDArray[np.float64]] = field(default_factory=dict)
