"""The suite of masked language models: the loss of fixed masks, pseudo-perplexity, forgetting, and gaps filled in."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from pipeline import paths
from pipeline.evaluation.quantity import MASKED_PERPLEXITY
from pipeline.evaluation.rows import (
    LONGEST,
    LoadedModel,
    Row,
    RowHeldOutData,
    RowSuite,
    batches_by_length,
    loss_metrics,
    sample_rows,
    sizes_of,
    token_rows_of,
    token_scores,
)
from pipeline.evaluation.scores import Scores
from pipeline.modeling.batches import IGNORED_LABEL
from pipeline.modeling.loading import load_tokenizer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedTokenizerBase

    from pipeline import params

GENERAL = Path(__file__).with_name("general.csv")
_SHOWN_TOKENS = 128  # of a row whose gaps people see
_PSEUDO_ROWS = 32  # test rows, each of which is read once for every token


class MaskedLMSuite(RowSuite):
    """See `pipeline.evaluation.suite.EvaluationSuite`."""

    quantity: ClassVar = MASKED_PERPLEXITY
    gates: ClassVar = "masked_lm_gates"
    headline: ClassVar = ("pseudo_perplexity",)

    def load_data(self, config: params.Evaluate) -> RowHeldOutData:
        """Return the test data of the workspace; people read texts with the base's masks."""
        data = super().load_data(config)
        tokenizer = load_tokenizer(paths.BASE)
        gaps = [_texts_with_gaps(self._tokens(row, tokenizer), tokenizer) for row in data.shown]
        return replace(data, sample_prompts=[masked for masked, _ in gaps], expected=[whole for _, whole in gaps])

    def loaded(self, folder: Path) -> LoadedModel:
        """Return the model in `folder`; all models read as much of a row, so that they have the same masks."""
        model = super().loaded(folder)
        return replace(model, max_length=min(model.max_length, _longest()))

    def _tokens(self, row: Row, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
        [document] = self.task.documents([row], tokenizer, min(_SHOWN_TOKENS, _longest()), {})
        return document.columns

    def task_settings(self) -> dict[str, Any]:
        """Return the share of tokens that is masked."""
        settings: dict[str, Any] = self.task.config.model_dump()  # type: ignore[attr-defined]
        return settings

    def general_scores(self, model: Any, data: RowHeldOutData, config: params.Evaluate) -> Scores:
        """Return the scores of plain English, at fixed masks too."""
        with GENERAL.open(encoding="utf-8", newline="") as file:
            rows = [{"text": row["text"]} for row in csv.DictReader(file)]
        return token_scores(self.task, model, rows, {}, config.batch_tokens)

    def metrics(self, model: Any, answers: Any, data: RowHeldOutData, config: params.Evaluate) -> dict[str, Any]:
        """Return the pseudo-perplexity of a sample of the test rows, and the number of masks."""
        sample = sample_rows(data.test, _PSEUDO_ROWS, config.seed)
        scores = pseudo_scores(self, model, sample, config.batch_tokens)
        figures = loss_metrics(scores, None, config)
        return {
            **{f"pseudo_{name}": figures[name] for name in ("perplexity", "perplexity_low", "perplexity_high")},
            "pseudo_rows": len(sample),
            "masked_tokens": int(answers.tokens.sum()),
        }

    @torch.inference_mode()
    def samples(self, model: Any, answers: Any, rows: Sequence[Row], data: RowHeldOutData) -> list[str]:
        """Return each text with the model's likeliest token in each gap."""
        filled = []
        for row in rows:
            columns = self._tokens(row, model.tokenizer)
            labels = torch.tensor(columns["labels"])
            ids = torch.tensor(columns["input_ids"])
            is_masked = labels != IGNORED_LABEL
            ids[is_masked] = columns["mask_token"]
            guessed = model.model(ids[None].to(model.model.device)).logits[0].argmax(-1).cpu()
            ids[is_masked] = guessed[is_masked]
            right = int((guessed == labels)[is_masked].sum())
            text = _decoded(ids.tolist(), model.tokenizer)
            filled.append(f"{text} ({right} of {int(is_masked.sum())} right)")
        return filled


def _longest() -> int:
    """Return how many tokens the workspace's candidate reads of a row."""
    settings = json.loads(paths.TASK_SETTINGS.read_text(encoding="utf-8")) if paths.TASK_SETTINGS.exists() else {}
    return int(settings.get("max_length", LONGEST))


@torch.inference_mode()
def pseudo_scores(suite: RowSuite, model: LoadedModel, rows: Sequence[Row], batch_tokens: int) -> Scores:
    """Return the pseudo-log-likelihood of each row: each token is masked in turn and the others are read.

    Salazar et al. 2020, "Masked language model scoring": e to the mean of these losses is the pseudo-perplexity.
    """
    whole = token_rows_of(suite.task, model, rows, {})
    of_row, variants = [], []
    for at, row in enumerate(whole):
        for place in np.flatnonzero(row["can_mask"]).tolist():
            labels = [IGNORED_LABEL] * len(row["labels"])
            labels[place] = row["input_ids"][place]
            variants.append({**row, "labels": labels})
            of_row.append(at)
    loss_model = suite.task.loss_model(model.model, {}).eval()
    sums = np.zeros((len(rows), 2))
    for batch in batches_by_length([sum(row["attention_mask"]) for row in variants], batch_tokens):
        inputs = loss_model.collate([variants[at] for at in batch])
        output = loss_model(**{name: tensor.to(loss_model.device) for name, tensor in inputs.items()})
        np.add.at(sums, [of_row[at] for at in batch], output["scores"].double().cpu().numpy())
    return Scores(sums[:, 0], sums[:, 1].astype(np.int64), sizes_of(rows))


def _texts_with_gaps(columns: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> tuple[str, str]:
    """Return a text with its masks, and without."""
    pairs = zip(columns["input_ids"], columns["labels"], strict=True)
    masked = [token if label == IGNORED_LABEL else columns["mask_token"] for token, label in pairs]
    return _decoded(masked, tokenizer), _decoded(columns["input_ids"], tokenizer)


def _decoded(ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the text of tokens, masks included, without the special tokens around it."""
    hidden = set(tokenizer.all_special_ids) - {tokenizer.mask_token_id, tokenizer.unk_token_id}
    text: str = tokenizer.decode([token for token in ids if token not in hidden])
    return text.strip()


SUITE = MaskedLMSuite
