"""The suite of classifiers: log loss with its interval, and the figures of their decisions and probabilities.

A base without a head for these labels knows nothing of them; what stands in for it guesses each label by its frequency
among the training rows.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
import torch
from scipy.special import expit, log_softmax, logsumexp

from pipeline.evaluation import classification
from pipeline.evaluation.quantity import LABEL_PERPLEXITY
from pipeline.evaluation.rows import LoadedModel, Row, RowHeldOutData, RowSuite, batches_by_length, sizes_of
from pipeline.evaluation.scores import Scores
from pipeline.modeling.batches import collate_rows
from pipeline.modeling.decision import Decision, decide
from pipeline.modeling.decision_fit import row_losses
from pipeline.tasks.classify import Classify, ClassifyConfig
from pipeline.tasks.padding import padded_row

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import numpy.typing as npt

    from pipeline import params

    Logits = npt.NDArray[np.float64]

_UNKNOWN = float(np.log(1e-6))  # of a label that a champion has never seen, as a logarithm of its probability
_SHOWN = 3  # labels of a sample
_CHARTS = ("confusion", "reliability")  # figures that are only drawn


@dataclass(frozen=True)
class Classifier:
    """A model with its decision, or in its place the frequencies of the labels."""

    decision: Decision  # over the labels of the corpus
    labels: tuple[str, ...] = ()  # of the model's head
    model: LoadedModel | None = None
    logits: Logits | None = None  # (labels of the corpus,), of the frequencies


class ClassifySuite(RowSuite):
    """See `pipeline.evaluation.suite.EvaluationSuite`."""

    quantity: ClassVar = LABEL_PERPLEXITY
    gates: ClassVar = "classify_gates"
    headline: ClassVar = ("accuracy", "macro_f1", "pr_auc", "ece")

    @property
    def config(self) -> ClassifyConfig:
        """The section tasks.classify."""
        return self._task.config

    @property
    def _task(self) -> Classify:
        return cast("Classify", self.task)

    def task_settings(self) -> Mapping[str, Any]:
        """Return the settings that say what an error costs."""
        return self.config.model_dump(include={"costs", "positive", "separator"})

    def structure(self, rows: Sequence[Row]) -> dict[str, list[str]]:
        """Return the label of each row; several as one."""
        return {"classes": [self.expected(row) for row in rows]}

    def expected(self, row: Row) -> str:
        """Return the label, or the labels."""
        return ", ".join(row["label"]) if self.config.is_multi_label else str(row["label"])

    def load(self, folder: Path, data: RowHeldOutData) -> Classifier:
        """Return the model in `folder`, or the frequencies of the labels where it has no head for any of them."""
        labels = tuple(data.info["labels"])
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        own = tuple(label for _, label in sorted((int(at), label) for at, label in config.get("id2label", {}).items()))
        if not set(own) & set(labels):
            shares = np.clip(np.array(data.info["counts"]) / data.info["rows"], 1e-6, 1 - 1e-6)
            logits = np.log(shares) - (np.log1p(-shares) if self.config.is_multi_label else 0)
            return Classifier(self._over(labels, Decision(labels)), logits=logits)
        model = self.loaded(folder)
        return Classifier(self._over(labels, Decision.from_task(model.settings, own)), own, model)

    def _over(self, labels: tuple[str, ...], decision: Decision) -> Decision:
        """Return `decision` over the labels of the corpus: those it does not know have the usual threshold."""
        thresholds = {label: value for label, value in decision.thresholds.items() if label in labels}
        if self.config.is_multi_label:
            thresholds = {label: thresholds.get(label, 0.5) for label in labels}
        costs = {
            truth: {decided: cost for decided, cost in row.items() if decided in labels}
            for truth, row in decision.costs.items()
            if truth in labels
        }
        return replace(
            decision, labels=labels, thresholds=thresholds, costs=costs, multi_label=self.config.is_multi_label
        )

    def answers(self, model: Any, rows: Sequence[Row], data: RowHeldOutData, config: params.Evaluate) -> Any:
        """Return the logits of the labels of the corpus after the temperature, (rows, labels)."""
        classifier = cast("Classifier", model)
        if classifier.model is None:
            return np.tile(cast("Logits", classifier.logits), (len(rows), 1))
        own = self._logits(classifier.model, rows, config.batch_tokens) / classifier.decision.temperature
        if classifier.labels == classifier.decision.labels:
            return own
        # A label that the model does not have gets next to no probability, and one that the corpus lost none.
        unknown = _UNKNOWN + (0 if self.config.is_multi_label else logsumexp(own, axis=1))
        logits = np.empty((len(rows), len(classifier.decision.labels)))
        for at, label in enumerate(classifier.decision.labels):
            logits[:, at] = own[:, classifier.labels.index(label)] if label in classifier.labels else unknown
        return logits

    @torch.inference_mode()
    def _logits(self, model: LoadedModel, rows: Sequence[Row], batch_tokens: int) -> Logits:
        """Return the model's logits, (rows, its labels); rows of like length share a batch."""
        documents = self.task.documents([{"text": row["text"]} for row in rows], model.tokenizer, model.max_length, {})
        columns = self.task.token_columns(model.tokenizer, model.max_length, {"labels": []})
        token_rows = [padded_row(document, columns) for document in documents]
        logits = np.zeros((len(rows), model.model.config.num_labels))
        for batch in batches_by_length([sum(row["attention_mask"]) for row in token_rows], batch_tokens):
            inputs = collate_rows([token_rows[at] for at in batch])
            inputs = {name: tensor.to(model.model.device) for name, tensor in inputs.items()}
            logits[batch] = model.model(**inputs).logits.double().cpu().numpy()
        return logits

    def scores(self, answers: Any, rows: Sequence[Row], data: RowHeldOutData) -> Scores:
        """Return the log loss of each row; of one that may have several labels, the mean over the labels."""
        return Scores(row_losses(answers, self._truth(rows, data), 1.0), np.ones(len(rows), np.int64), sizes_of(rows))

    def _truth(self, rows: Sequence[Row], data: RowHeldOutData) -> npt.NDArray[np.int64]:
        """Return the index of each row's label, (rows,); where it may have several, a 0 or 1 for each label."""
        labels: list[str] = data.info["labels"]
        if self.config.is_multi_label:
            return np.array([[int(label in row["label"]) for label in labels] for row in rows], np.int64)
        index = {label: at for at, label in enumerate(labels)}
        return np.array([index[row["label"]] for row in rows], np.int64)

    def metrics(self, model: Any, answers: Any, data: RowHeldOutData, config: params.Evaluate) -> dict[str, Any]:
        """Return the figures of decisions and probabilities."""
        figures = self._figures(model, answers, data, config)
        decision = cast("Classifier", model).decision.as_json()
        return {key: value for key, value in figures.items() if key not in _CHARTS} | {"decision": decision}

    def chart_data(self, model: Any, answers: Any, data: RowHeldOutData, config: params.Evaluate) -> dict[str, Any]:
        """Return the confusion matrix, the reliability bins and, with one label to find, its precision and recall."""
        figures = self._figures(model, answers, data, config)
        labels: list[str] = data.info["labels"]
        charts = {key: figures[key] for key in _CHARTS} | {"labels": labels}
        if positive := self._task.positive(data.info):
            column = labels.index(positive)
            shares = np.exp(log_softmax(answers, axis=1))[:, column]
            charts["precision_recall"] = {
                "positive": positive,
                "threshold": cast("Classifier", model).decision.thresholds.get(positive),
                "points": classification.precision_recall_points(shares, self._truth(data.test, data) == column),
            }
        return charts

    def _figures(self, model: Any, answers: Any, data: RowHeldOutData, config: params.Evaluate) -> dict[str, Any]:
        decision = cast("Classifier", model).decision
        settings = classification.Settings(
            self._task.positive(data.info), self.config.costs, config.resamples, config.confidence, config.seed
        )
        return classification.classification_metrics(
            answers, self._truth(data.test, data), replace(decision, temperature=1.0), settings
        )

    def row_figures(self, model: Any, answers: Any, data: RowHeldOutData) -> dict[str, Any]:
        """Return whether each row is decided right, how sure the model was, what it costs, and whose recall it is."""
        decision = replace(cast("Classifier", model).decision, temperature=1.0)
        truth = self._truth(data.test, data)
        return dict(classification.row_figures(answers, truth, decision, self.config.costs))

    def samples(self, model: Any, answers: Any, rows: Sequence[Row], data: RowHeldOutData) -> list[str]:
        """Return the likeliest labels of each row with their probabilities, the decision first."""
        decision = cast("Classifier", model).decision
        shares = expit(answers) if decision.multi_label else np.exp(log_softmax(answers, axis=1))
        decided = decide(shares, decision)
        return [_sample(*row, decision) for row in zip(shares, decided, strict=True)]


def _sample(shares: npt.NDArray[np.float64], decided: Any, decision: Decision) -> str:
    chosen = {int(at) for at in (np.flatnonzero(decided) if decision.multi_label else [decided])}
    order = sorted(range(len(shares)), key=lambda at: (at not in chosen, -shares[at], at))
    shown = order[: max(_SHOWN, len(chosen))]
    return ", ".join(f"{decision.labels[at]} ({100 * shares[at]:.1f} %)" for at in shown)


SUITE = ClassifySuite
