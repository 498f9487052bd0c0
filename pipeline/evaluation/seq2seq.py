"""The suite of encoders with decoders: the loss of the targets, and the targets that a model writes by itself.

Losses are of the present targets under every model; a model reads a source as it was trained to, with its own prefix.
Written targets are greedy, so they are the same each time. They are compared as texts, so that what pads labels (-100)
is never decoded.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
import torch
from tqdm import tqdm
from transformers import GenerationConfig

from pipeline.evaluation import footprint, overlap
from pipeline.evaluation.generation import Generation
from pipeline.evaluation.quantity import TARGET_PERPLEXITY
from pipeline.evaluation.records import Evaluation
from pipeline.evaluation.rows import (
    NOTHING,
    LoadedModel,
    Row,
    RowHeldOutData,
    RowSuite,
    loss_metrics,
    sample_rows,
    token_scores,
)
from pipeline.evaluation.scores import Probes, Scores
from pipeline.registry.model_version import content_version
from pipeline.tasks.seq2seq import Seq2Seq

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt
    from transformers import PreTrainedModel

    from pipeline import params
    from pipeline.evaluation.footprint import Footprint
    from pipeline.tasks.protocol import Task

_LONGEST = 512  # tokens that a base reads of a source; what was trained says so itself
_BATCH = 32  # targets written at once
_TIMED = (64, 16)  # tokens that a turn of the timing reads, and those it writes


@dataclass(frozen=True, kw_only=True)
class Seq2SeqHeldOutData(RowHeldOutData):
    """What every model of the task is measured on."""

    written: list[int]  # the indices of the test rows whose targets the models write


class Seq2SeqSuite(RowSuite):
    """See `pipeline.evaluation.suite.EvaluationSuite`."""

    quantity: ClassVar = TARGET_PERPLEXITY
    gates: ClassVar = "seq2seq_gates"
    headline: ClassVar = ("text.rouge_l", "text.chrf", "text.exact_match", "text.copied")

    def __init__(self, task: Task) -> None:
        """Take the task whose models are measured."""
        super().__init__(task)
        self._config = cast("Seq2Seq", task).config

    def task_settings(self) -> Mapping[str, Any]:
        """Return the settings of the task that figures depend on."""
        return self._config.model_dump()

    def load_data(self, config: params.Evaluate) -> Seq2SeqHeldOutData:
        """Return the test data of the workspace, and which of its rows the models write."""
        data = super().load_data(config)
        chosen = {id(row) for row in sample_rows(data.test, max(config.generations, config.test_prompts), config.seed)}
        written = [at for at, row in enumerate(data.test) if id(row) in chosen]
        further = {"generations": len(written), "sample_prompts": [row["source"] for row in data.shown]}
        return Seq2SeqHeldOutData(**{**vars(data), **further}, written=written)

    def expected(self, row: Row) -> str:
        """Return the target."""
        target: str = row["target"]
        return target

    def loaded(self, folder: Path) -> LoadedModel:
        """Return the model in `folder` with its settings; a base has those of params.yaml."""
        model = super().loaded(folder)
        context = self.task.context(model.model.config)
        settings = {
            "prefix": self._config.prefix,
            "max_target_tokens": self._config.max_target_length,
            **model.settings,
        }
        return replace(
            model, settings=settings, max_length=min(context, model.settings.get("max_source_tokens", _LONGEST))
        )

    def evaluate(self, folder: Path, data: RowHeldOutData, config: params.Evaluate) -> Evaluation:
        """Return what the model in `folder` makes of `data`; deterministic."""
        held_out = cast("Seq2SeqHeldOutData", data)
        model = self.loaded(folder)
        scores, train, validation = (
            self.answers(model, rows, data, config) for rows in (data.test, data.train, data.validation)
        )
        written = [data.test[at] for at in held_out.written]
        generations = self.write(model, written)
        texts = [generation.text for generation in generations]
        figures = _overlap(written, texts)
        of_rows = {id(row): text for row, text in zip(written, texts, strict=True)}
        return Evaluation(
            {
                "version": content_version(folder),
                **loss_metrics(scores, data.groups, config),
                "bits_per_byte": float(scores.loss.sum() / math.log(2) / max(1, scores.bytes.sum())),
                "tokens": int(scores.tokens.sum()),
                "text": _text_metrics(figures, written, texts, config),
            },
            scores,
            Probes(NOTHING, train, validation),
            [of_rows[id(row)] for row in data.shown],
            generations,
            row_figures=_row_figures(figures, held_out.written, len(data.test)),
        )

    def reference_metrics(self, data: RowHeldOutData, config: params.Evaluate) -> dict[str, Any]:
        """Return what identifies the test rows, and the figures of the targets in the place of written ones."""
        rows = [data.test[at] for at in cast("Seq2SeqHeldOutData", data).written]
        targets = [self.expected(row) for row in rows]
        return {
            **super().reference_metrics(data, config),
            "text": _text_metrics(_overlap(rows, targets), rows, targets, config),
        }

    def answers(self, model: LoadedModel, rows: Sequence[Row], data: Any, config: params.Evaluate) -> Scores:
        """Return the loss, the tokens and the bytes of each row's target."""
        scores = token_scores(self._task_of(model), model, rows, {}, config.batch_tokens)
        return scores._replace(bytes=np.array([len(row["target"].encode()) for row in rows], np.int64))

    def write(self, model: LoadedModel, rows: Sequence[Row]) -> list[Generation]:
        """Return the target that the model writes for each row."""
        documents = self._task_of(model).documents(rows, model.tokenizer, model.max_length, {})
        sources = [document.columns["input_ids"] for document in documents]
        written = greedy(model, sources, self._longest_target(model))
        end = {model.tokenizer.eos_token_id}
        generations = []
        for row, ids in zip(rows, written, strict=True):
            has_ended = bool(end & set(ids[1:]))
            text = model.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
            special = set(model.tokenizer.all_special_ids)
            generations.append(Generation(row["source"], text, sum(token not in special for token in ids), has_ended))
        return generations

    def _longest_target(self, model: LoadedModel) -> int:
        longest: int = model.settings["max_target_tokens"]
        return min(longest, self.task.context(model.model.config) - 1)  # its start token takes a position too

    def _task_of(self, model: LoadedModel) -> Task:
        """Return the task as the model knows it: with its own prefix, but with the targets of params.yaml."""
        return Seq2Seq(self._config.model_copy(update={"prefix": model.settings["prefix"]}))

    def details(self, data: RowHeldOutData, evaluations: Mapping[str, Evaluation]) -> dict[str, Any]:
        """Return the sources with their targets, and those that the models have written."""
        rows = [data.test[at] for at in cast("Seq2SeqHeldOutData", data).written]
        generations = {name: [asdict(text) for text in model.generations] for name, model in evaluations.items()}
        texts = {"prompts": [row["source"] for row in rows], "real": [row["target"] for row in rows]}
        return {**texts, **generations, "worst": {}}

    def footprints(self, folders: Sequence[Path]) -> list[Footprint]:
        """Return memory and greedy decoding speed of the models in `folders`, with the time to read a source."""
        models = [self.task.load(folder)[0] for folder in folders]
        context = min(self.task.context(model.config) for model in models)
        read, write = (min(tokens, context) for tokens in _TIMED)
        return footprint.measured(models, [partial(_seconds_a_token, model, read, write) for model in models], "token")


SUITE = Seq2SeqSuite


def _overlap(rows: Sequence[Row], texts: Sequence[str]) -> dict[str, npt.NDArray[np.float64]]:
    return overlap.row_overlap([row["source"] for row in rows], texts, [row["target"] for row in rows])


def _text_metrics(
    figures: dict[str, npt.NDArray[np.float64]], rows: Sequence[Row], texts: Sequence[str], config: params.Evaluate
) -> dict[str, Any]:
    resampling = (config.resamples, config.confidence, config.seed)
    return overlap.overlap_metrics(figures, texts, [row["target"] for row in rows], resampling)


def _row_figures(
    figures: dict[str, npt.NDArray[np.float64]], written: Sequence[int], rows: int
) -> dict[str, npt.NDArray[np.float64]]:
    """Return the figures that gates compare, (rows,): NaN where no target was written.

    Gates pair the rows of two models, so an empty text has a figure like any other: it copies nothing.
    """
    spread = {}
    for name, values in overlap.row_figures(figures).items():
        spread[name] = np.full(rows, np.nan)
        spread[name][list(written)] = np.nan_to_num(values, nan=0.0)
    return spread


@torch.inference_mode()
def greedy(model: LoadedModel, sources: Sequence[list[int]], max_new_tokens: int) -> list[list[int]]:
    """Return the likeliest next tokens after each of `sources`, with the start token and what pads them.

    Beams, penalties and the like of the base's `generation_config.json` do not count: models are compared as they are.
    """
    module = model.model
    own = module.generation_config
    tokens = ("decoder_start_token_id", "forced_bos_token_id", "bos_token_id", "eos_token_id", "pad_token_id")
    module.generation_config = GenerationConfig(**{name: getattr(own, name, None) for name in tokens})
    padding = model.tokenizer.pad_token_id
    order = sorted(range(len(sources)), key=lambda at: len(sources[at]))  # of like length, so with little padding
    written: dict[int, list[int]] = {}
    with tqdm(total=len(sources), desc="writing", unit=" targets", leave=False, disable=None) as progress:
        for batch in (order[start : start + _BATCH] for start in range(0, len(order), _BATCH)):
            longest = len(sources[batch[-1]])
            rows = [sources[at] + [padding] * (longest - len(sources[at])) for at in batch]
            ids = torch.tensor(rows, device=module.device)  # (batch, longest)
            lengths = torch.tensor([[len(sources[at])] for at in batch], device=module.device)
            mask = (torch.arange(longest, device=module.device) < lengths).long()
            output = module.generate(
                ids, attention_mask=mask, do_sample=False, num_beams=1, max_new_tokens=max_new_tokens, use_cache=True
            )
            written |= zip(batch, output.tolist(), strict=True)
            progress.update(len(batch))
    module.generation_config = own
    return [written[at] for at in range(len(sources))]


def _seconds_a_token(model: PreTrainedModel, read: int, write: int) -> float:
    """Return how long a token of a target takes, with its share of reading the source."""
    source = torch.full((1, read), 1, device=model.device)
    token = torch.full((1, 1), model.config.decoder_start_token_id, device=model.device)
    cache = None
    began = time.perf_counter()
    encoded = model.get_encoder()(input_ids=source)
    for _ in range(write):
        output = model(encoder_outputs=encoded, decoder_input_ids=token, past_key_values=cache, use_cache=True)
        cache, token = output.past_key_values, output.logits[:, -1:].argmax(-1)
    token.tolist()  # waits for a GPU
    return (time.perf_counter() - began) / write
