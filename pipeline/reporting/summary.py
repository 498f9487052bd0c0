"""The last `dvc repro` in ten lines: the corpus, the training, the improvement, and what to do next."""

import json
from pathlib import Path
from typing import Any

from pipeline import fit_warnings, params, paths
from pipeline.command import UserError
from pipeline.reporting.headline import headline_of, label_of


def summary() -> list[tuple[str, str]]:
    """Return a name and a value per line; raises UserError if a stage has not run."""
    validate, finetune, evaluate = (
        _metrics(path) for path in (paths.VALIDATE_METRICS, paths.FINETUNE_METRICS, paths.EVALUATE_METRICS)
    )
    base, candidate = evaluate["base"], evaluate["candidate"]
    headline = headline_of(evaluate)
    return [
        ("corpus", f"{validate['corpus']}: {validate['rows_in']:,} rows, {validate['rows_clean']:,} clean"),
        ("quarantined", f"{validate['rows_quarantined']:,} rows, see {paths.QUARANTINE}"),
        ("base", params.load().base),
        ("training", f"{finetune['steps']:,} steps, best of {finetune['epochs']} epochs: {finetune['best_epoch']}"),
        (headline.quantity, f"{_perplexity(base)} -> {_perplexity(candidate)}, on the test rows"),
        *(
            (label_of(key), f"{_two_digits(before)} -> {_two_digits(after)}")
            for (key, before), after in zip(
                headline.values(base).items(), headline.values(candidate).values(), strict=True
            )
        ),
        *fit_warnings.read().items(),
        ("candidate", str(paths.CANDIDATE)),
        ("samples", str(paths.SAMPLES_PAGE)),
        ("plots", "dvc plots show"),
        ("next", "fresh promote   (serve it if it is better beyond noise)"),
    ]


def _metrics(path: Path) -> dict[str, Any]:
    try:
        metrics: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist, so there is no run to show; run `dvc repro`") from None
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}); run `dvc repro`") from None
    return metrics


def _perplexity(figures: dict[str, Any]) -> str:
    low, middle, high = (_three_digits(figures[f"perplexity{end}"]) for end in ("_low", "", "_high"))
    return f"{middle} ({low} to {high})"


def _two_digits(value: float | None) -> str:
    return "not defined" if value is None else f"{value:.2f}"


def _three_digits(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
