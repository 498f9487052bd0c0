"""Classification: the model says which label a text has, or which labels (BERT, RoBERTa, GPT-2 and others)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from pipeline.command import UserError, warn
from pipeline.param_types import Count, Name, Section, clipped
from pipeline.tasks import encoder
from pipeline.tasks.columns import Column, Columns
from pipeline.tasks.protocol import CorpusInfo, Document, TokenColumn

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from datasets import Dataset
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from pipeline.modeling.decision_fit import Rule
    from pipeline.modeling.loss_model import LossModel

MODEL = "AutoModelForSequenceClassification"
_NOTES = 5  # shown


class ClassifyConfig(Section):
    """The section tasks.classify."""

    label: Name = "label"
    separator: Name = "none"
    class_weight: Literal["auto", "none"] = "none"
    min_rows: Count = 10
    decide: Literal["argmax", "f1", "cost"] = "f1"
    positive: Name = "auto"
    costs: dict[str, dict[str, Annotated[float, Field(ge=0)]]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _has_costs(self) -> ClassifyConfig:
        if self.decide == "cost" and not self.costs:
            raise ValueError(
                "decide: cost needs costs: for each true label what each answer costs, such as"
                " {fraud: {ok: 50}, ok: {fraud: 1}}; what is not listed costs 0 if it is right and 1 if it is wrong"
            )
        if self.costs and self.separator != "none":
            raise ValueError("costs are for one label a row; remove them, or set separator to none")
        return self

    @property
    def is_multi_label(self) -> bool:
        """Whether a row can have several labels."""
        return self.separator != "none"


@dataclass(frozen=True)
class Classify:
    """See `pipeline.tasks.protocol.Task`."""

    config: ClassifyConfig = field(default_factory=ClassifyConfig)

    Config: ClassVar = ClassifyConfig
    starter: ClassVar = "starter/roberta"
    unit: ClassVar = "row"
    packs: ClassVar = False
    reads_texts: ClassVar = False

    def columns(self) -> Columns:
        """Return the column of the labels."""
        kind: Literal["label", "labels"] = "labels" if self.config.is_multi_label else "label"
        separator = self.config.separator if self.config.is_multi_label else ""
        label = Column("label", self.config.label, "tasks.classify.label", kind, separator, self.config.min_rows)
        return Columns(kept=(label,))

    def context(self, config: PreTrainedConfig) -> int:
        """Return how many tokens a model with this config reads at most."""
        return encoder.context_of(MODEL, config)

    def check_base(self, base: str, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase) -> None:
        """Raise UserError unless `base` is a model that can get a classification head."""
        encoder.check_base(base, config, tokenizer, MODEL)

    def corpus_info(self, rows: Iterable[Mapping[str, Any]]) -> CorpusInfo:
        """Return the labels of all rows, sorted, and how many training rows have each."""
        counts: dict[str, int] = {}
        total = 0
        for row in rows:
            labels = row["label"] if self.config.is_multi_label else [row["label"]]
            is_training = row["split"] == "train"
            total += is_training
            for label in labels:
                counts[label] = counts.get(label, 0) + is_training
        labels = sorted(counts)
        info: CorpusInfo = {"labels": labels, "counts": [counts[label] for label in labels], "rows": total}
        self.rule(info)
        return info

    def positive(self, info: CorpusInfo) -> str | None:
        """Return the label to find: the one that params.yaml names, or of two the rarer one; None without one.

        Raises UserError for a label that no row has.
        """
        labels, name = info["labels"], self.config.positive
        if self.config.is_multi_label:
            return None
        if name != "auto":
            if name not in labels:
                raise UserError(
                    f"params.yaml: tasks.classify.positive: found {name!r}, but no row has this label; expected auto or"
                    f" one of {clipped(labels)}"
                )
            return name
        return labels[info["counts"].index(min(info["counts"]))] if len(labels) == 2 else None

    def rule(self, info: CorpusInfo) -> Rule:
        """Return how labels are decided; raises UserError for costs of labels that no row has."""
        from pipeline.modeling.decision import cost_matrix
        from pipeline.modeling.decision_fit import Rule

        try:
            cost_matrix(self.config.costs, info["labels"])
        except ValueError as error:
            raise UserError(f"params.yaml: tasks.classify.{error}") from None
        positive = self.positive(info) if self.config.decide == "f1" or len(info["labels"]) == 2 else None
        return Rule(self.config.decide, positive, self.config.costs)

    def token_columns(
        self, tokenizer: PreTrainedTokenizerBase, max_length: int, info: CorpusInfo
    ) -> dict[str, TokenColumn]:
        """Return the columns of the tokens, and the label's index or a 0 or 1 for each label."""
        is_list = self.config.is_multi_label
        labels = TokenColumn("float32", len(info["labels"])) if is_list else TokenColumn("int32")
        return {**encoder.token_columns(tokenizer, max_length), "labels": labels}

    def documents(
        self,
        rows: Sequence[Mapping[str, Any]],
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        info: CorpusInfo,
    ) -> list[Document]:
        """Return the tokens of each text, cut so that its end token stays, and its label."""
        index = {label: at for at, label in enumerate(info.get("labels", ()))}
        documents = encoder.documents(tokenizer, max_length, [row["text"] for row in rows])
        for document, row in zip(documents, rows, strict=True) if index else ():
            document.columns["labels"] = (
                [float(label in row["label"]) for label in index] if self.config.is_multi_label else index[row["label"]]
            )
        return documents

    def load(self, folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """Return the model in `folder` in float32, without dropout, on a GPU where there is one; and its tokenizer."""
        from pipeline.modeling.loading import load_for_inference

        return load_for_inference(MODEL, folder)

    def load_for_training(self, folder: Path, dropout: float, info: CorpusInfo) -> PreTrainedModel:
        """Return the model in `folder` in float32 with a head for these labels: the base's own where it has them."""
        labels = info["labels"]
        return encoder.load_for_training(
            MODEL,
            folder,
            dropout,
            id2label=dict(enumerate(labels)),
            label2id={label: at for at, label in enumerate(labels)},
            problem_type="multi_label_classification" if self.config.is_multi_label else "single_label_classification",
        )

    def loss_model(self, model: PreTrainedModel, info: CorpusInfo) -> LossModel:
        """Return the model with its log loss, weighted by class in training where params.yaml says so."""
        from pipeline.modeling import row_loss

        loss = row_loss.binary_log_losses if self.config.is_multi_label else row_loss.log_losses
        return row_loss.RowLossModel(model, loss, self._class_weights(info))

    def _class_weights(self, info: CorpusInfo) -> list[float] | None:
        """Return the weight of each label's loss: rows / (labels * rows with it), as scikit-learn's "balanced"."""
        if self.config.class_weight == "none":
            return None
        counts = info["counts"]
        return [info["rows"] / (len(counts) * max(1, count)) for count in counts]

    def settings_of(self, model: LossModel, validation: Dataset, info: CorpusInfo) -> dict[str, Any]:
        """Return temperature and thresholds, chosen on the validation split."""
        from pipeline.modeling import row_loss
        from pipeline.modeling.decision_fit import choose_decision

        logits, truth = row_loss.logits_and_labels(model, validation)
        arrays = logits.double().numpy(), truth.long().numpy()
        decision, notes = choose_decision(*arrays, info["labels"], self.rule(info))
        for note in notes[:_NOTES]:
            warn(f"warning: {note}")
        if len(notes) > _NOTES:
            warn(f"warning: {len(notes) - _NOTES} more such sentences are left out")
        return {"task": "classify", **decision.as_json(), "max_length": len(validation[0]["input_ids"])}


TASK = Classify()
