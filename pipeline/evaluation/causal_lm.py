"""The suite of causal language models.

Perplexity with its interval, variety of generated texts, copies from training rows, likeness to real texts, forgetting
of general English, and samples.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from pipeline import params, paths
from pipeline.evaluation import canaries, footprint, memorisation
from pipeline.evaluation.diversity import Diversity, repetition_metrics
from pipeline.evaluation.endings import label_endings
from pipeline.evaluation.footprint import Footprint
from pipeline.evaluation.generation import Prompts, cut_to_lengths, generate, sample_prompts, select_prompts
from pipeline.evaluation.likeness import Likeness, Texts
from pipeline.evaluation.measure import measure
from pipeline.evaluation.memorisation import Copy, CorpusIndex, Memorisation, Rule
from pipeline.evaluation.perplexity import Perplexity
from pipeline.evaluation.quantity import PERPLEXITY
from pipeline.evaluation.records import Evaluation, HeldOutData
from pipeline.evaluation.scores import Probes, concatenated
from pipeline.evaluation.scoring import score
from pipeline.modeling.context import context_of, encoded_as_text
from pipeline.registry.model_version import content_version
from pipeline.tasks.protocol import Task

GENERAL = Path(__file__).with_name("general.csv")
_COPIES = 5  # shown per model
_TOKENS_PER_WORD = 4  # of a sample prompt at most, for scripts without spaces


@dataclass(frozen=True, kw_only=True)
class CausalHeldOutData(HeldOutData):
    """What every causal language model is measured on."""

    prompts: Prompts  # from test rows, for the texts that are measured
    training_texts: list[str]  # a sample of the training rows
    validation_texts: list[str]  # a sample of the validation rows
    general_texts: list[str]  # plain English that comes with the project
    corpus: CorpusIndex  # of all training rows
    likeness: Likeness  # the scale from real texts to nonsense
    tokenizer: PreTrainedTokenizerBase  # the base's: every model's texts are measured in its tokens


class CausalLMSuite:
    """See `pipeline.evaluation.suite.EvaluationSuite`."""

    plot_metric = "perplexity"
    quantity = PERPLEXITY
    gates = "gates"

    def __init__(self, task: Task) -> None:
        """Take the task whose models are measured."""
        self._task = task

    def load_data(self, config: params.Evaluate) -> CausalHeldOutData:
        """Return the test data of the workspace: its clean rows, its base's tokenizer and the general texts."""
        clean = pd.read_parquet(paths.CLEAN)
        test, train = clean[clean["split"] == "test"], clean[clean["split"] == "train"]
        texts = test["text"].tolist()
        tokenizer = AutoTokenizer.from_pretrained(paths.BASE, local_files_only=True, trust_remote_code=False)
        context = context_of(AutoConfig.from_pretrained(paths.BASE, local_files_only=True, trust_remote_code=False))
        max_tokens = min(_TOKENS_PER_WORD * config.test_prompt_words, context // 2)
        prompt_tokens = min(config.prompt_tokens, context // 2)
        prompts = select_prompts(texts, tokenizer, config.generations, prompt_tokens, config.max_new_tokens)
        return CausalHeldOutData(
            rows=test["row"].tolist(),
            texts=texts,
            groups=test["group"].tolist() if "group" in test else None,
            sample_prompts=[
                *config.prompts,
                *sample_prompts(texts, tokenizer, config.test_prompts, config.test_prompt_words, max_tokens),
            ],
            generations=len(prompts.texts),
            sha256=_sha256([test.to_dict("list"), config.model_dump()]),
            warning=_warning(prompts, config),
            prompts=prompts,
            training_texts=memorisation.sample_texts(clean, "train", config.membership_rows),
            validation_texts=memorisation.sample_texts(clean, "validation", config.membership_rows),
            general_texts=pd.read_csv(GENERAL, keep_default_na=False)["text"].tolist(),
            corpus=CorpusIndex(train["row"].tolist(), train["text"].tolist()),
            likeness=_likeness(clean, prompts, config),
            tokenizer=tokenizer,
        )

    def evaluate(self, folder: Path, data: CausalHeldOutData, config: params.Evaluate) -> Evaluation:
        """Return what the model in `folder` makes of `data`; deterministic."""
        model, tokenizer = self._task.load(folder)
        metrics: dict[str, Any] = {"version": content_version(folder)}
        metrics |= _perplexity(model, tokenizer, data.texts, config, groups=data.groups)
        scores = metrics.pop("scores")
        metrics["general"] = _perplexity(model, tokenizer, data.general_texts, config)
        train, validation = (
            score(model, tokenizer, texts, config.batch_tokens, config.stride)
            for texts in (data.training_texts, data.validation_texts)
        )
        probes = Probes(metrics["general"].pop("scores"), train, validation)

        generations = generate(model, tokenizer, data.prompts.texts, config)
        texts = [generation.text for generation in generations]
        ended = [generation.ended for generation in generations]
        metrics["text"] = measure(Diversity, data=texts, tokenizer=data.tokenizer, ended=ended)
        metrics["memorisation"], copies = _copying(texts, data, config)
        metrics["likeness"] = data.likeness.metrics(texts, ended, config.confidence)
        metrics["real"] = _real_metrics(texts, data, config)
        held_out = concatenated(scores, validation)
        metrics["memorisation"]["membership"] = memorisation.membership_gap(train, held_out)
        if planted := _planted_canaries(folder):
            metrics["memorisation"] |= canaries.extraction_metrics(
                model, tokenizer, canaries.canaries(planted), config.batch_tokens
            )
        samples = [sample.text for sample in generate(model, tokenizer, data.sample_prompts, config)]
        longest = memorisation.longest_copies(copies, _COPIES)
        return Evaluation(metrics, scores, probes, samples, generations, longest)

    def reference_metrics(self, data: CausalHeldOutData, config: params.Evaluate) -> dict[str, Any]:
        """Return the metrics of the real continuations of the prompts: how much they repeat and share by chance."""
        prompts = data.prompts
        shared, _ = _copying(prompts.continuations, data, config)
        return {
            "sha256": data.sha256,
            "prompts": {
                "texts": len(prompts.texts),
                "prompt_tokens": prompts.prompt_tokens,
                "too_short": prompts.too_short,
            },
            "text": measure(Diversity, data=prompts.continuations, tokenizer=data.tokenizer, ended=prompts.is_complete),
            "memorisation": shared,
            "label_endings": asdict(labels) if (labels := label_endings(data.texts)) else None,
            "likeness": data.likeness.reference_metrics(),
        }

    def warnings(self, metrics: Mapping[str, Mapping[str, Any]]) -> list[str]:
        """Return which model wrote blank texts."""
        texts = metrics["test_rows"]["prompts"]["texts"]
        blank = {name: metrics[name]["text"]["blank"] for name in ("base", "candidate")}
        return [f"{name}: {100 * share:.1f} % of its {texts} texts are blank" for name, share in blank.items() if share]

    def details(self, data: CausalHeldOutData, evaluations: Mapping[str, Evaluation]) -> dict[str, Any]:
        """Return the prompts with their real and generated continuations, and the longest copies."""
        generations = {name: [asdict(text) for text in model.generations] for name, model in evaluations.items()}
        copies = {name: [asdict(copy) for copy in model.copies] for name, model in evaluations.items()}
        prompts = {"prompts": data.prompts.texts, "real": data.prompts.continuations}
        return {**prompts, **generations, "worst": copies}

    def row_metrics(self, folder: Path, rows: Sequence[Mapping[str, Any]], config: params.Evaluate) -> dict[str, Any]:
        """Return the perplexity of the model in `folder` on the texts of `rows`, with its interval."""
        metrics = _perplexity(*self._task.load(folder), [row["text"] for row in rows], config)
        del metrics["scores"]
        return metrics

    def footprints(self, folders: Sequence[Path]) -> list[Footprint]:
        """Return memory and greedy decoding speed of the models in `folders`."""
        return footprint.footprints(self._task, folders)


SUITE = CausalLMSuite


def _perplexity(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    config: params.Evaluate,
    groups: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Return the figures of `texts` and, under "scores", their scores."""
    return measure(
        Perplexity,
        data=texts,
        model=model,
        tokenizer=tokenizer,
        groups=groups,
        with_scores=True,
        **config.model_dump(include={"batch_tokens", "stride", "resamples", "confidence", "seed"}),
    )


def _likeness(clean: pd.DataFrame, prompts: Prompts, config: params.Evaluate) -> Likeness:
    training_texts = memorisation.sample_texts(clean, "train", len(clean))  # all of them, in random order
    real = Texts([text.encode() for text in prompts.continuations], prompts.is_complete)
    return Likeness(training_texts, prompts.texts, real, config.seed)


def _copying(
    texts: Sequence[str], data: CausalHeldOutData, config: params.Evaluate
) -> tuple[dict[str, Any], list[Copy]]:
    """Return how much of `texts` is in training rows, and each text's copy."""
    rule = Rule(config.copied_tokens, config.common_rows)
    result = measure(Memorisation, data=texts, tokenizer=data.tokenizer, corpus=data.corpus, rule=rule)
    return result, result.pop("copies")


def _real_metrics(texts: Sequence[str], data: CausalHeldOutData, config: params.Evaluate) -> dict[str, float]:
    """Return what `texts` are compared with: the same figures of real unseen texts of the same lengths."""
    lengths = [len(ids) for ids in encoded_as_text(data.tokenizer, list(texts))["input_ids"]]
    real = cut_to_lengths(data.prompts.real, lengths, data.tokenizer)
    copied, _ = _copying(real, data, config)
    ids = encoded_as_text(data.tokenizer, real)["input_ids"]
    return {"texts": len(real), "copied": copied["copied"], **repetition_metrics(ids)}


def _warning(prompts: Prompts, config: params.Evaluate) -> str:
    if prompts.prompt_tokens == config.prompt_tokens:
        return ""
    return (
        f"warning: evaluate.prompt_tokens is {config.prompt_tokens}, but most test rows have fewer than twice as many"
        f" tokens; models continue the first {prompts.prompt_tokens}, and {prompts.too_short} rows are too short even"
        " for that"
    )


def _sha256(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _planted_canaries(folder: Path) -> int:
    """Return how many canaries the training data of the model in `folder` had, by its manifest."""
    path = folder / paths.MANIFEST.name
    if not path.is_file():
        return 0
    manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return int(manifest["params"]["tokenize"].get("canaries", 0))
