"""The suite of tasks whose models answer a row at a time: the loss of each row, with its interval.

A task without a suite of its own has this one; the others extend it by figures of theirs.
"""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
import torch

from pipeline import paths
from pipeline.evaluation import footprint
from pipeline.evaluation.perplexity import group_metrics, metrics
from pipeline.evaluation.quantity import ROW_PERPLEXITY
from pipeline.evaluation.records import Evaluation, HeldOutData
from pipeline.evaluation.scores import Probes, Scores
from pipeline.modeling.loading import load_config, new_weights_expected
from pipeline.registry.model_version import content_version
from pipeline.tasks.padding import padded_row

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from pipeline import params
    from pipeline.evaluation.footprint import Footprint
    from pipeline.modeling.loss_model import LossModel
    from pipeline.tasks.protocol import CorpusInfo, Task, TokenColumn

Row = dict[str, Any]  # a clean row
_SHARES = ("perplexity", "perplexity_low", "perplexity_high")
_TIMED = 64  # tokens of the row whose time is taken
LONGEST = 512  # tokens that a base reads of a row; what was trained says so itself
NOTHING = Scores(np.zeros(0), np.zeros(0, np.int64), np.zeros(0, np.int64))


@dataclass(frozen=True, kw_only=True)
class RowHeldOutData(HeldOutData):
    """What every model of the task is measured on."""

    test: list[Row]
    train: list[Row]  # a sample of the training rows
    validation: list[Row]  # a sample of the validation rows
    shown: list[Row]  # the test rows whose answers people read
    info: CorpusInfo


@dataclass(frozen=True)
class LoadedModel:
    """A model, and how it reads rows."""

    folder: Path
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    settings: Mapping[str, Any]  # of its task.json; {} for a base
    max_length: int  # tokens that it reads of a row


class RowSuite:
    """See `pipeline.evaluation.suite.EvaluationSuite`."""

    plot_metric: ClassVar = "perplexity"
    quantity: ClassVar = ROW_PERPLEXITY
    gates: ClassVar = "shared_gates"
    headline: ClassVar[tuple[str, ...]] = ()  # the figures that people see first, besides perplexity; dotted keys

    def __init__(self, task: Task) -> None:
        """Take the task whose models are measured."""
        self.task = task

    def load_data(self, config: params.Evaluate) -> RowHeldOutData:
        """Return the test data of the workspace."""
        clean = pd.read_parquet(paths.CLEAN)
        rows = {split: _as_rows(clean[clean["split"] == split]) for split in ("train", "validation", "test")}
        train, validation = (
            sample_rows(rows[split], config.membership_rows, config.seed) for split in ("train", "validation")
        )
        test = rows["test"]
        shown = sample_rows(test, config.test_prompts, config.seed)
        return RowHeldOutData(
            rows=[row["row"] for row in test],
            texts=[row["text"] for row in test],
            groups=[row["group"] for row in test] if "group" in clean else None,
            sample_prompts=[row["text"] for row in shown],
            expected=[self.expected(row) for row in shown],
            generations=0,
            sha256=_sha256([test, config.model_dump(), self.task_settings()]),
            warning="",
            test=test,
            train=train,
            validation=validation,
            shown=shown,
            info=self.task.corpus_info([row for split in rows.values() for row in split]),
            **self.structure(test),
        )

    def task_settings(self) -> Mapping[str, Any]:
        """Return the settings of the task that figures depend on."""
        return {}

    def structure(self, rows: Sequence[Row]) -> dict[str, list[str]]:
        """Return `clusters` or `classes` of the test rows, where the task has them."""
        return {}

    def expected(self, row: Row) -> str:
        """Return the right answer to a row, for people; "" where it has none."""
        return ""

    def evaluate(self, folder: Path, data: RowHeldOutData, config: params.Evaluate) -> Evaluation:
        """Return what the model in `folder` makes of `data`; deterministic."""
        model = self.load(folder, data)
        answers = self.answers(model, data.test, data, config)
        scores = self.scores(answers, data.test, data)
        probes = Probes(
            self.general_scores(model, data, config),
            *(
                self.scores(self.answers(model, rows, data, config), rows, data)
                for rows in (data.train, data.validation)
            ),
        )
        shown = self.answers(model, data.shown, data, config)
        return Evaluation(
            {
                "version": content_version(folder),
                **loss_metrics(scores, data.groups, config),
                **self.metrics(model, answers, data, config),
            },
            scores,
            probes,
            self.samples(model, shown, data.shown, data),
            details=self.chart_data(model, answers, data, config),
            row_figures=self.row_figures(model, answers, data),
        )

    def load(self, folder: Path, data: RowHeldOutData) -> Any:
        """Return the model in `folder`, for `answers`."""
        return self.loaded(folder)

    def loaded(self, folder: Path) -> LoadedModel:
        """Return the model in `folder` with its settings."""
        model, tokenizer = self.task.load(folder)
        file = folder / paths.TASK_SETTINGS.name
        settings = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        context = self.task.context(load_config(folder))
        return LoadedModel(folder, model, tokenizer, settings, min(context, settings.get("max_length", LONGEST)))

    def answers(self, model: Any, rows: Sequence[Row], data: RowHeldOutData, config: params.Evaluate) -> Any:
        """Return what the model makes of rows, in their order: here their `Scores`."""
        return token_scores(self.task, model, rows, data.info, config.batch_tokens)

    def scores(self, answers: Any, rows: Sequence[Row], data: RowHeldOutData) -> Scores:
        """Return the loss of each row."""
        scores: Scores = answers
        return scores

    def general_scores(self, model: Any, data: RowHeldOutData, config: params.Evaluate) -> Scores:
        """Return the scores of plain English, where a model of this task could forget it."""
        return NOTHING

    def metrics(self, model: Any, answers: Any, data: RowHeldOutData, config: params.Evaluate) -> dict[str, Any]:
        """Return the figures of the task's own."""
        return {}

    def chart_data(self, model: Any, answers: Any, data: RowHeldOutData, config: params.Evaluate) -> dict[str, Any]:
        """Return what charts are drawn from."""
        return {}

    def row_figures(self, model: Any, answers: Any, data: RowHeldOutData) -> dict[str, Any]:
        """Return further figures of each test row, by name."""
        return {}

    def samples(self, model: Any, answers: Any, rows: Sequence[Row], data: RowHeldOutData) -> list[str]:
        """Return the model's answers to rows, for people."""
        return [""] * len(rows)

    def reference_metrics(self, data: RowHeldOutData, config: params.Evaluate) -> dict[str, Any]:
        """Return what identifies the test rows, and how the figures are to be shown."""
        return {
            "sha256": data.sha256,
            "rows": len(data.test),
            "quantity": self.quantity.name,
            "unit": self.quantity.unit,
            "headline": list(self.headline),
        }

    def warnings(self, metrics: Mapping[str, Mapping[str, Any]]) -> list[str]:
        """Return nothing."""
        return []

    def details(self, data: RowHeldOutData, evaluations: Mapping[str, Evaluation]) -> dict[str, Any]:
        """Return the content of `paths.GENERATIONS`: what charts are drawn from, by model."""
        return {"charts": {name: dict(evaluation.details) for name, evaluation in evaluations.items()}}

    def row_metrics(self, folder: Path, rows: Sequence[Row], config: params.Evaluate) -> dict[str, Any]:
        """Return how hard any rows are for the model in `folder`, with an interval."""
        info = self.task.corpus_info([{"split": "train", **row} for row in rows])
        data = RowHeldOutData(
            rows=[],
            texts=[row["text"] for row in rows],
            groups=None,
            sample_prompts=[],
            generations=0,
            sha256="",
            warning="",
            test=list(rows),
            train=[],
            validation=[],
            shown=[],
            info=info,
        )
        answers = self.answers(self.load(folder, data), data.test, data, config)
        return loss_metrics(self.scores(answers, data.test, data), None, config)

    def footprints(self, folders: Sequence[Path]) -> list[Footprint]:
        """Return memory and speed of the models in `folders`: a row at a time."""
        with new_weights_expected():
            models = [self.task.load(folder)[0] for folder in folders]
        tokens = min(_TIMED, *(self.task.context(model.config) for model in models))
        return footprint.measured(models, [partial(_seconds_a_row, model, tokens) for model in models], "row")


def loss_metrics(scores: Scores, groups: Sequence[str] | None, config: params.Evaluate) -> dict[str, Any]:
    """Return e to the mean loss, with its interval, and the number of rows; by group too where there are groups."""
    settings = (config.resamples, config.confidence, config.seed)
    whole = metrics(scores, *settings)
    result: dict[str, Any] = {name: whole[name] for name in _SHARES} | {"rows": len(scores.loss)}
    if groups is not None:
        of_groups = group_metrics(scores, groups, *settings)
        result["groups"] = {
            name: {figure: figures[figure] for figure in ("rows", *_SHARES)} for name, figures in of_groups.items()
        }
    return result


@torch.inference_mode()
def token_scores(task: Task, model: LoadedModel, rows: Sequence[Row], info: CorpusInfo, batch_tokens: int) -> Scores:
    """Return the loss and the number of labels of each row, as training has them; rows of like length share a batch."""
    loss_model = task.loss_model(model.model, info).eval()
    columns = task.token_columns(model.tokenizer, model.max_length, info)
    token_rows = token_rows_of(task, model, rows, info)
    sums = np.zeros((len(rows), 2))
    for batch in batches_by_length([_size(row, columns) for row in token_rows], batch_tokens):
        sums[batch] = _batch_scores(loss_model, [token_rows[at] for at in batch])
    return Scores(sums[:, 0], sums[:, 1].astype(np.int64), sizes_of(rows))


def _size(row: Row, columns: Mapping[str, TokenColumn]) -> int:
    """Return how many tokens a token row holds, with those of a target, which has a length of its own."""
    targets = (sum(token != column.fill for token in row[name]) for name, column in columns.items() if column.key)
    return int(sum(row["attention_mask"]) + sum(targets))


@torch.inference_mode()
def row_logits(
    task: Task, model: LoadedModel, rows: Sequence[Row], info: CorpusInfo, batch_tokens: int
) -> npt.NDArray[np.float64]:
    """Return the logits of rows with one answer each, (rows, labels), in order."""
    loss_model = task.loss_model(model.model, info).eval()
    token_rows = token_rows_of(task, model, rows, info)
    logits = np.zeros((len(rows), model.model.config.num_labels))
    for batch in batches_by_length([sum(row["attention_mask"]) for row in token_rows], batch_tokens):
        inputs = loss_model.collate([token_rows[at] for at in batch])
        del inputs["labels"]
        on_device = {name: tensor.to(loss_model.device) for name, tensor in inputs.items()}
        logits[batch] = loss_model.model(**on_device).logits.double().cpu().numpy()
    return logits


def token_rows_of(task: Task, model: LoadedModel, rows: Sequence[Row], info: CorpusInfo) -> list[dict[str, Any]]:
    """Return the token row of each row, as training has them."""
    columns = task.token_columns(model.tokenizer, model.max_length, info)
    documents = task.documents(rows, model.tokenizer, model.max_length, info)
    return [padded_row(document, columns) for document in documents]


def sizes_of(rows: Sequence[Row]) -> npt.NDArray[np.int64]:
    """Return the bytes of each row's text."""
    return np.array([len(row["text"].encode()) for row in rows], np.int64)


def _batch_scores(model: LossModel, rows: list[Any]) -> Any:
    inputs = {name: tensor.to(model.device) for name, tensor in model.collate(rows).items()}
    return model(**inputs)["scores"].double().cpu().numpy()


def batches_by_length(lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Return the indices of rows in batches of at most `batch_tokens` tokens with padding, the longest rows first."""
    batches: list[list[int]] = []
    for at in sorted(range(len(lengths)), key=lambda at: (-lengths[at], at)):
        if not batches or (len(batches[-1]) + 1) * lengths[batches[-1][0]] > batch_tokens:
            batches.append([])
        batches[-1].append(at)
    return batches


def _as_rows(frame: pd.DataFrame) -> list[Row]:
    """Return the rows of a frame; lists of labels come out of Parquet as arrays."""
    rows: list[Row] = frame.to_dict("records")
    for row in rows:
        for name, value in row.items():
            if isinstance(value, np.ndarray):
                row[name] = value.tolist()
    return rows


def sample_rows(rows: Sequence[Row], count: int, seed: int) -> list[Row]:
    """Return a bottom-k hash sample, in the corpus's order: the same rows as long as the corpus only grows."""

    def key(row: Row) -> bytes:
        return hashlib.sha256(f"{seed} {row['text']}".encode()).digest()

    kept = {id(row) for row in sorted(rows, key=key)[:count]}
    return [row for row in rows if id(row) in kept]


def _sha256(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _seconds_a_row(model: PreTrainedModel, tokens: int) -> float:
    """Return how long a row of so many tokens takes."""
    ids = torch.ones((1, tokens), dtype=torch.long, device=model.device)
    inputs = {"decoder_input_ids": ids[:, :1]} if model.config.is_encoder_decoder else {}
    began = time.perf_counter()
    model(input_ids=ids, attention_mask=torch.ones_like(ids), **inputs).logits.tolist()  # waits for a GPU
    return time.perf_counter() - began


SUITE = RowSuite
