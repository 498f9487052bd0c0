"""Stage `evaluate`: measures base and candidate on the test split, side by side; see `pipeline.evaluation.suite`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy.typing as npt
import pandas as pd
from transformers.utils.logging import disable_progress_bar

from pipeline import escape, params, paths
from pipeline.command import warn
from pipeline.evaluation.records import Evaluation, HeldOutData
from pipeline.evaluation.scores import Probes, Scores
from pipeline.evaluation.suite import get_suite
from pipeline.modeling import cpu
from pipeline.workspace import run_stage

BLANK = "(blank)"  # for a text of white space alone
MODELS = {"base": paths.BASE, "candidate": paths.CANDIDATE}


def main() -> None:
    """Run the stage."""
    disable_progress_bar()  # loading weights is too short for a bar
    cpu.keep_freed_memory()
    all_params = params.load()
    config = all_params.evaluate
    suite = get_suite(all_params.task, all_params.task_config)
    data = suite.load_data(config)
    if data.warning:
        warn(data.warning)
    evaluations = {}
    for name, folder in MODELS.items():
        warn(f"{name}: {data.work()}")
        evaluations[name] = suite.evaluate(folder, data, config)
    metrics = {name: evaluation.metrics for name, evaluation in evaluations.items()}
    metrics["test_rows"] = suite.reference_metrics(data, config)
    for sentence in suite.warnings(metrics):
        warn(sentence)

    paths.EVALUATE_METRICS.parent.mkdir(parents=True, exist_ok=True)
    _write_json(paths.EVALUATE_METRICS, metrics)
    plot = {"model": list(MODELS), suite.plot_metric: [metrics[name][suite.plot_metric] for name in MODELS]}
    pd.DataFrame(plot).to_csv(paths.PERPLEXITY_PLOT, index=False, lineterminator="\n")
    _score_table(data, evaluations).to_parquet(paths.SCORES, index=False)
    _write_json(paths.GENERATIONS, suite.details(data, evaluations))
    samples = side_by_side(data, evaluations)
    _write_json(paths.SAMPLES, samples)
    paths.SAMPLES_PAGE.write_text(_page(samples), encoding="utf-8")


def side_by_side(data: HeldOutData, evaluations: Mapping[str, Evaluation]) -> list[dict[str, str]]:
    """Return a dictionary per sample prompt: the prompt, the right answer if there is one, and each model's."""
    return [
        {
            "prompt": prompt,
            **({"expected": data.expected[index]} if data.expected else {}),
            **{name: evaluation.samples[index] for name, evaluation in evaluations.items()},
        }
        for index, prompt in enumerate(data.sample_prompts)
    ]


def _score_table(data: HeldOutData, evaluations: Mapping[str, Evaluation]) -> pd.DataFrame:
    """Return a row per scored text: its part, number, group and bytes, and each model's loss (nats) and tokens.

    The part is test, or the name of a probe, whose texts have neither number nor group here. Test texts also have the
    models' further figures.
    """
    groups = data.groups or [""] * len(data.rows)
    further = {
        f"{name}_{figure}": values
        for name, evaluation in evaluations.items()
        for figure, values in evaluation.row_figures.items()
    }
    test = {"part": "test", "row": data.rows, "group": groups} | _columns(evaluations, "scores") | further
    tables = [pd.DataFrame(test)]
    for part in Probes._fields:
        columns = _columns({name: evaluation.probes for name, evaluation in evaluations.items()}, part)
        tables.append(pd.DataFrame({"part": part, "row": 0, "group": ""} | columns))
    return pd.concat(tables, ignore_index=True)


def _columns(models: Mapping[str, Any], field: str) -> dict[str, npt.NDArray[Any]]:
    columns: dict[str, npt.NDArray[Any]] = {}
    for name, model in models.items():
        scores: Scores = getattr(model, field)
        columns |= {"bytes": scores.bytes, f"{name}_loss": scores.loss, f"{name}_tokens": scores.tokens}
    return columns


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _page(samples: list[dict[str, str]]) -> str:
    """Return the samples as Markdown."""
    parts = ["# The same prompts, base and candidate"]
    for sample in samples:
        goes_on = "" if "expected" in sample else " …"  # an answer is no continuation
        parts.append(f"## {escape.markdown(sample['prompt'])}{goes_on}")
        if "expected" in sample:
            parts.append(f"**expected**: {escape.markdown(sample['expected'])}")
        parts.extend(f"**{name}**:{goes_on} {escape.markdown(sample[name]) or BLANK}" for name in MODELS)
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    run_stage(main, inputs=(paths.BASE, paths.CLEAN, paths.CANDIDATE), environment=cpu.allocator_environment)
