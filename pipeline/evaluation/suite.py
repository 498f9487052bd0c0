"""Evaluation suites: how models of a task are measured, on the same held-out rows with the same settings.

A suite is a module of this package with the task's name; a task without one is measured by its loss alone (`rows`).
`evaluate`, `promote` and the drift check get their figures from it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, cast

from pipeline.tasks.registry import get_task

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from pipeline import params
    from pipeline.evaluation.footprint import Footprint
    from pipeline.evaluation.quantity import Quantity
    from pipeline.evaluation.records import Evaluation, HeldOutData
    from pipeline.param_types import Section

# `task` in params.yaml -> the module whose SUITE it is, imported when it is needed.
_MODULES = {
    "causal_lm": "pipeline.evaluation.causal_lm",
    "classify": "pipeline.evaluation.classify",
    "seq2seq": "pipeline.evaluation.seq2seq",
    "masked_lm": "pipeline.evaluation.masked_lm",
    "rank": "pipeline.evaluation.rank",
}
_DEFAULT = "pipeline.evaluation.rows"


class EvaluationSuite(Protocol):
    """How models of one task are measured."""

    plot_metric: str  # the figure of the bar chart, a key of `Evaluation.metrics`
    quantity: Quantity  # what the loss is called
    gates: str  # the module of pipeline.verdict with the task's gates

    def load_data(self, config: params.Evaluate) -> HeldOutData:
        """Return the test data of the workspace: its clean rows and its base's tokenizer."""

    def evaluate(self, folder: Path, data: HeldOutData, config: params.Evaluate) -> Evaluation:
        """Return what the model in `folder` makes of `data`; deterministic."""

    def reference_metrics(self, data: HeldOutData, config: params.Evaluate) -> dict[str, Any]:
        """Return the metrics of real texts in the place of generated ones."""

    def warnings(self, metrics: Mapping[str, Mapping[str, Any]]) -> list[str]:
        """Return what people should know of these figures, by model and of `test_rows`, at once; a sentence each."""

    def details(self, data: HeldOutData, evaluations: Mapping[str, Evaluation]) -> dict[str, Any]:
        """Return the content of `paths.GENERATIONS`."""

    def row_metrics(self, folder: Path, rows: Sequence[Mapping[str, Any]], config: params.Evaluate) -> dict[str, Any]:
        """Return how hard any rows are for the model in `folder`, with an interval."""

    def footprints(self, folders: Sequence[Path]) -> list[Footprint]:
        """Return what the models in `folders` take, measured in turns so that other load hits all of them."""


def get_suite(task: str, config: Section | None = None) -> EvaluationSuite:
    """Return the suite of the task called `task` in params.yaml; `config` is its section there."""
    suite = import_module(_MODULES.get(task, _DEFAULT)).SUITE
    return cast("EvaluationSuite", suite(get_task(task, config)))
