"""Stage `evaluate`: what base and candidate make of the test split, side by side.

Perplexity with its interval, what their texts are like, what they copy from the training rows, how well they still
know general English, and samples. `evaluate_model` gives the same for any model's folder.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.logging import disable_progress_bar

from pipeline import escape, params, paths
from pipeline.command import warn
from pipeline.evaluation import canaries, memorisation, perplexity
from pipeline.evaluation.diversity import diversity
from pipeline.evaluation.generation import Generated, Openings, first_words, openings, write
from pipeline.evaluation.perplexity import Score
from pipeline.modeling import cpu
from pipeline.modeling.context import context_of
from pipeline.registry.model_version import content_version
from pipeline.workspace import run_stage

MODELS = {"base": paths.BASE, "candidate": paths.CANDIDATE}
GENERAL = Path(__file__).parent / "evaluation" / "general.csv"
_WORST = 5  # copies shown a model
_TOKENS_A_WORD = 4  # of a test prompt at most, for scripts without spaces


@dataclass(frozen=True)
class HeldOut:
    """What models are measured on: the same for all of them."""

    rows: list[int]  # of the test split, as numbered in the corpus
    texts: list[str]
    groups: list[str] | None  # of each text, where the corpus has a category
    prompts: list[str]  # for the samples that people read
    openings: Openings  # of test rows, for the texts that are measured
    training: list[str]  # a sample of the training rows
    general: list[str]  # plain English of ours
    index: memorisation.Index  # of all training rows
    tokenizer: PreTrainedTokenizerBase  # the base's, by which every model's texts are measured
    sha256: str  # of the test rows and of all settings: figures of two models compare only if both had the same


@dataclass(frozen=True)
class Evaluated:
    """What one model made of the held-out texts."""

    figures: dict[str, Any]
    scores: Score  # of `HeldOut.texts`
    generations: list[Generated]  # for the prompts of `HeldOut.openings`
    samples: list[str]  # for `HeldOut.prompts`
    worst: list[memorisation.Copy]


def main() -> None:
    """Run the stage."""
    disable_progress_bar()  # loading weights takes no time worth a bar
    cpu.keep_freed_memory()
    wanted = params.load().evaluate
    texts = held_out(wanted)
    opened = texts.openings
    if opened.prompt_tokens < wanted.prompt_tokens:
        warn(
            f"warning: evaluate.prompt_tokens is {wanted.prompt_tokens}, but most test rows have fewer than twice as"
            f" many tokens; models continue the first {opened.prompt_tokens}, and {opened.too_short} rows are too short"
            " even for that"
        )
    evaluated = {}
    for name, folder in MODELS.items():
        warn(f"{name}: scoring {len(texts.texts)} test rows, writing {len(opened.prompts)} texts")
        evaluated[name] = evaluate_model(folder, texts, wanted)
    metrics = {name: model.figures for name, model in evaluated.items()} | {"test_rows": yardstick(texts, wanted)}

    paths.EVALUATE_METRICS.parent.mkdir(parents=True, exist_ok=True)
    _write_json(paths.EVALUATE_METRICS, metrics)
    plotted = pd.DataFrame({"model": list(MODELS), "perplexity": [metrics[name]["perplexity"] for name in MODELS]})
    plotted.to_csv(paths.PERPLEXITY_PLOT, index=False, lineterminator="\n")
    _table_of_scores(texts, evaluated).to_parquet(paths.SCORES, index=False)
    generations = {name: [asdict(text) for text in model.generations] for name, model in evaluated.items()}
    worst = {name: [asdict(copy) for copy in model.worst] for name, model in evaluated.items()}
    begun = {"openings": opened.prompts, "real": opened.real}
    _write_json(paths.GENERATIONS, {**begun, **generations, "worst": worst})
    samples = side_by_side(texts, evaluated)
    _write_json(paths.SAMPLES, samples)
    paths.SAMPLES_PAGE.write_text(_page(samples), encoding="utf-8")


def held_out(wanted: params.Evaluate) -> HeldOut:
    """Return what to measure models on, from the workspace's clean rows, its base and the general text of ours."""
    clean = pd.read_parquet(paths.CLEAN)
    test, train = clean[clean["split"] == "test"], clean[clean["split"] == "train"]
    texts = test["text"].tolist()
    tokenizer = AutoTokenizer.from_pretrained(paths.BASE, local_files_only=True, trust_remote_code=False)
    context = context_of(AutoConfig.from_pretrained(paths.BASE, local_files_only=True, trust_remote_code=False))
    most = min(_TOKENS_A_WORD * wanted.test_prompt_words, context // 2)
    return HeldOut(
        rows=test["row"].tolist(),
        texts=texts,
        groups=test["group"].tolist() if "group" in test else None,
        prompts=[
            *wanted.prompts,
            *first_words(texts, tokenizer, wanted.test_prompts, wanted.test_prompt_words, most),
        ],
        openings=openings(
            texts, tokenizer, wanted.generations, min(wanted.prompt_tokens, context // 2), wanted.max_new_tokens
        ),
        training=memorisation.training_sample(clean, wanted.membership_rows),
        general=pd.read_csv(GENERAL, keep_default_na=False)["text"].tolist(),
        index=memorisation.Index(train["row"].tolist(), train["text"].tolist()),
        tokenizer=tokenizer,
        sha256=_sha256([test.to_dict("list"), wanted.model_dump()]),
    )


def evaluate_model(folder: Path, texts: HeldOut, wanted: params.Evaluate) -> Evaluated:
    """Return what the model in `folder` makes of `texts`; the same for the same files, texts and settings."""
    model, tokenizer = load_model(folder)

    def scored(some: Sequence[str]) -> Score:
        return perplexity.score(model, tokenizer, some, wanted.batch_tokens, wanted.stride)

    bootstrap = (wanted.resamples, wanted.confidence, wanted.seed)
    scores = scored(texts.texts)
    figures: dict[str, Any] = {"version": content_version(folder), **perplexity.figures(scores, *bootstrap)}
    if texts.groups is not None:
        figures["groups"] = perplexity.grouped(scores, texts.groups, *bootstrap)
    figures["general"] = perplexity.figures(scored(texts.general), *bootstrap)

    generations = write(model, tokenizer, texts.openings.prompts, wanted)
    written = [text.text for text in generations]
    figures["text"] = diversity(written, texts.tokenizer, [text.ended for text in generations])
    copies = texts.index.longest(written, texts.tokenizer)
    figures["memorisation"] = {
        **memorisation.figures(copies, wanted.copied_tokens),
        "membership": memorisation.membership(scored(texts.training), scores),
    }
    if planted := _planted(folder):
        figures["memorisation"] |= canaries.drawn_out(model, tokenizer, canaries.canaries(planted), wanted.batch_tokens)
    samples = [sample.text for sample in write(model, tokenizer, texts.prompts, wanted)]
    return Evaluated(figures, scores, generations, samples, memorisation.worst(copies, _WORST))


def yardstick(texts: HeldOut, wanted: params.Evaluate) -> dict[str, Any]:
    """Return of real texts what `evaluate_model` returns of written ones: how much they repeat, and share by chance."""
    opened = texts.openings
    copies = texts.index.longest(opened.real, texts.tokenizer)
    return {
        "sha256": texts.sha256,
        "openings": {
            "texts": len(opened.prompts),
            "prompt_tokens": opened.prompt_tokens,
            "too_short": opened.too_short,
        },
        "text": diversity(opened.real, texts.tokenizer, opened.whole),
        "memorisation": memorisation.figures(copies, wanted.copied_tokens),
    }


def load_model(folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return the model in `folder` in float32, without dropout, on the GPU when there is one, and its tokenizer."""
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, local_files_only=True, trust_remote_code=False, use_safetensors=True
    )
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    return model.eval(), AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def side_by_side(texts: HeldOut, evaluated: Mapping[str, Evaluated]) -> list[dict[str, str]]:
    """Return a dictionary a prompt: the prompt, and what each model writes after it."""
    return [
        {"prompt": prompt, **{name: model.samples[at] for name, model in evaluated.items()}}
        for at, prompt in enumerate(texts.prompts)
    ]


def _sha256(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _planted(folder: Path) -> int:
    """Return how many canaries stood in the training data of the model in `folder`, as its manifest says."""
    manifest = folder / paths.MANIFEST.name
    if not manifest.is_file():
        return 0
    found: dict[str, Any] = json.loads(manifest.read_text(encoding="utf-8"))
    return int(found["params"]["tokenize"].get("canaries", 0))


def _table_of_scores(texts: HeldOut, evaluated: Mapping[str, Evaluated]) -> pd.DataFrame:
    """Return a row a test text: its number, bytes, group, and each model's loss (nats) and tokens."""
    table = pd.DataFrame({"row": texts.rows, "group": texts.groups or [""] * len(texts.rows)})
    for name, model in evaluated.items():
        table["bytes"] = model.scores.bytes
        table[f"{name}_loss"], table[f"{name}_tokens"] = model.scores.loss, model.scores.tokens
    return table


def scores_of(table: pd.DataFrame, name: str) -> Score:
    """Return the scores of the model called `name` from the table in `paths.SCORES`."""
    return Score(*(table[column].to_numpy() for column in (f"{name}_loss", f"{name}_tokens", "bytes")))


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _page(samples: list[dict[str, str]]) -> str:
    """Return the samples as Markdown, for people."""
    parts = ["# The same prompts, base and candidate"]
    for sample in samples:
        parts.append(f"## {escape.markdown(sample['prompt'])} …")
        parts.extend(f"**{name}**: … {escape.markdown(sample[name])}" for name in MODELS)
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    run_stage(main, inputs=(paths.BASE, paths.CLEAN, paths.CANDIDATE), environment=cpu.allocator_environment)
