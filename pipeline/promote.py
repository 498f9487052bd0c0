"""Promote: make the candidate champion if it is better beyond noise and within every bound, else say why not.

Not a stage, because which model is champion changes with time: the registry knows the champion, and it is scored here
on the rows, prompts and seeds that `evaluate` scored the candidate on. `decide` judges and writes the verdict and the
page, `carry_out` does what the verdict says; `fresh promote` does both.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import params, paths, storage
from pipeline.command import UserError, warn
from pipeline.evaluation.scores import from_table, probes_from_table, row_figures_from_table
from pipeline.evaluation.suite import get_suite
from pipeline.registry.model_version import content_version, short
from pipeline.registry.store import Registry
from pipeline.registry.versions import Version
from pipeline.reporting.headline import Headline, headline_of
from pipeline.verdict import rendering
from pipeline.verdict.challenges import next_challenge
from pipeline.verdict.judge import judge, unchanged
from pipeline.verdict.known_rows import fingerprint, known_rows
from pipeline.verdict.records import Comparison, ModelFigures, Verdict
from pipeline.verdict.tables import load_table

if TYPE_CHECKING:  # at run time it imports torch, which a refusal can do without
    from pipeline.evaluation.records import Evaluation, HeldOutData
    from pipeline.evaluation.suite import EvaluationSuite

_LOCK = Path("dvc.lock")
_STALE = "run `dvc repro`, then promote again"


@dataclass(frozen=True)
class Decision:
    """A verdict, and what is needed to carry it out."""

    verdict: Verdict
    registry: Registry
    champion: Version | None  # when the candidate was compared with it
    page: Path | None  # of the report; None where nothing was compared
    test_rows: Mapping[str, int | str] | None = None  # a fingerprint of those that it was judged on
    headline: Headline = field(default_factory=Headline)  # the figures that the history keeps besides perplexity


def decide(all_params: params.Params, registry: Registry, force: str | None = None) -> Decision:
    """Judge the workspace's candidate against the present champion; write verdict.json and the page.

    Args:
        all_params: The settings of params.yaml.
        registry: Where the champion is.
        force: Why to promote the candidate whatever speaks against it.

    Raises:
        UserError: The files of `evaluate` belong to another candidate, base or test split; the champion is damaged; or
            `force` is blank.
    """
    if force is not None and not force.strip():
        raise UserError("--force: found a blank reason, expected one that others can read")
    metrics = _read_json(paths.EVALUATE_METRICS)
    _check_version(metrics, "candidate", paths.CANDIDATE)
    champion = registry.champion()
    now = datetime.now(UTC).isoformat(timespec="seconds")
    if champion and champion.version == metrics["candidate"]["version"]:
        verdict = unchanged(metrics["candidate"], now)
        _write(verdict)  # but no page: the one of the promotion stays
        return Decision(verdict, registry, champion, page=None)
    _check_version(metrics, "base", paths.BASE)
    suite = get_suite(all_params.task, all_params.task_config)
    held_out = suite.load_data(all_params.evaluate)
    comparison, evaluated_champion = _compare(all_params, registry, champion, metrics, held_out)
    budget = all_params.promote.false_promotions
    challenge = next_challenge(registry.history(), budget, now) if champion else None
    verdict = judge(
        comparison, all_params.promote, table=load_table(suite.gates), challenge=challenge, forced=force, at=now
    )
    _write(verdict)
    page = _write_page(verdict, registry, champion, metrics, evaluated_champion)
    return Decision(verdict, registry, champion, page, fingerprint(held_out.texts), headline_of(metrics))


def carry_out(decision: Decision, *, who: str | None = None, why: str | None = None) -> Version | None:
    """Make the candidate champion if the verdict says so, else record the refusal.

    Args:
        decision: From `decide`.
        who: Who decides, for the history.
        why: What the history says besides the verdict, for instance why the run was started.

    Returns:
        The new champion, or None.

    Raises:
        UserError: The champion or the candidate has changed since `decide`.
    """
    verdict, registry = decision.verdict, decision.registry
    if verdict.difference is None:
        return None  # nothing was compared, so there is nothing to record
    summary = rendering.summary(verdict) + (f" ({why})" if why else "")
    figures = _history_figures(verdict, decision.headline)
    version: str = verdict.candidate["version"]
    if not verdict.promoted:
        _write(verdict)  # again: a person may have rejected what `decide` wrote
        registry.refuse(version, summary, figures)
        return None
    if content_version(paths.CANDIDATE) != version:
        raise UserError(f"{paths.CANDIDATE} is no longer the candidate {version} that was judged; promote again")
    metadata = _metadata(verdict, summary, figures) | {"test_rows": decision.test_rows}
    new = registry.add(paths.CANDIDATE, _labels(), metadata)
    registry.move(
        new,
        expected=decision.champion.tag if decision.champion else None,
        action="promote" if verdict.forced is None else "force",
        why=summary,
        who=who,
        figures=figures,
    )
    return new


def _compare(
    all_params: params.Params,
    registry: Registry,
    champion: Version | None,
    metrics: Mapping[str, Any],
    held_out: "HeldOutData",
) -> tuple[Comparison, "Evaluation | None"]:
    """Score the champion, measure size and speed, and return the comparison and what the champion made of the rows."""
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # loading weights takes no time worth a bar
    config = all_params.evaluate
    suite = get_suite(all_params.task, all_params.task_config)
    scores = _read_scores(held_out, metrics)
    candidate, base = (_figures(metrics, scores, name) for name in ("candidate", "base"))
    evaluated = _evaluate(suite, champion, held_out, config) if champion else None
    if champion and evaluated:
        figures = evaluated.metrics, evaluated.scores, evaluated.probes
        baseline, folder = ModelFigures(*figures, row_figures=evaluated.row_figures), champion.folder
    else:
        baseline, folder = base, paths.BASE
    warn("measuring size and speed")
    candidate, baseline = (
        replace(model, metrics={**model.metrics, **footprint.metrics()}, turns=footprint.turns)
        for model, footprint in zip((candidate, baseline), suite.footprints([paths.CANDIDATE, folder]), strict=True)
    )
    rollback = registry.rolled_back(candidate.metrics["version"])
    comparison = Comparison(
        candidate=candidate,
        baseline=baseline,
        against="champion" if champion else "base",
        base=base,
        reference_metrics=metrics["test_rows"],
        groups=held_out.groups or [],
        generations=held_out.generations,
        copied_tokens=config.copied_tokens,
        seed=config.seed,
        canaries=_read_json(paths.MANIFEST).get("params", {}).get("tokenize", {}).get("canaries", 0),
        rolled_back=f"{rollback.why} ({rollback.at})" if rollback else None,
        clusters=held_out.clusters,
        classes=held_out.classes,
        test_share=all_params.validate_.test_share,
        old_rows=known_rows(held_out.texts, champion.metadata.get("test_rows")) if champion else None,
    )
    return comparison, evaluated


def _figures(metrics: Mapping[str, Any], scores: Any, name: str) -> ModelFigures:
    """Return what the stage `evaluate` made of the base or the candidate."""
    return ModelFigures(
        metrics[name],
        from_table(scores, name),
        probes_from_table(scores, name),
        row_figures=row_figures_from_table(scores, name),
    )


def _evaluate(
    suite: "EvaluationSuite", champion: Version, held_out: "HeldOutData", config: params.Evaluate
) -> "Evaluation":
    warn(f"{champion.tag}: {held_out.work()}")
    return suite.evaluate(champion.folder, held_out, config)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist, and the verdict needs it; {_STALE}") from None
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}; {_STALE}") from None
    return content


def _read_scores(held_out: "HeldOutData", metrics: Mapping[str, Any]) -> Any:
    """Return the table of scores; raises UserError unless it is of the present test rows and settings."""
    import pandas as pd

    if metrics["test_rows"].get("sha256") != held_out.sha256:
        raise UserError(
            f"{paths.EVALUATE_METRICS} belongs to other test rows, or to other settings of `evaluate` in"
            f" {paths.PARAMS}; {_STALE}"
        )
    try:
        scores = pd.read_parquet(paths.SCORES)
    except FileNotFoundError:
        raise UserError(f"{paths.SCORES} does not exist, and the verdict needs it; {_STALE}") from None
    if "part" not in scores:
        raise UserError(f"{paths.SCORES} is of an older release; {_STALE}")
    return scores


def _check_version(metrics: Mapping[str, Any], name: str, folder: Path) -> None:
    """Raise UserError unless the figures under `name` belong to the model in `folder`."""
    if not folder.is_dir():
        raise UserError(f"{folder} does not exist, so there is nothing to promote; {_STALE}")
    evaluated, present = metrics.get(name, {}).get("version"), content_version(folder)
    if evaluated != present:
        raise UserError(
            f"{paths.EVALUATE_METRICS} belongs to another {name} ({evaluated}) than {folder} ({present}); {_STALE}"
        )


def _write(verdict: Verdict) -> None:
    """Write verdict.json, whole or not at all."""
    content = json.dumps(rendering.as_json(verdict), indent=2, ensure_ascii=False)
    storage.write_atomic(paths.VERDICT, content + "\n")


def _write_page(
    verdict: Verdict,
    registry: Registry,
    champion: Version | None,
    metrics: dict[str, Any],
    evaluated_champion: "Evaluation | None",
) -> Path:
    from pipeline.reporting import report, run_data

    champion_run = None
    if champion and evaluated_champion:
        description = {
            "version": champion.version,
            "tag": short(champion.tag),
            "since": registry.since(champion.tag),
            "labels": champion.labels,
        }
        champion_run = run_data.Champion(description, champion.folder, evaluated_champion)
    history = [entry.as_json() for entry in registry.history()]
    return report.write(run_data.collect(rendering.as_json(verdict), metrics, champion_run, history))


def _history_figures(verdict: Verdict, headline: Headline) -> dict[str, float | str | None]:
    """Return the figures that the history keeps."""
    gain = verdict.difference or {}
    return {
        **{key: verdict.candidate.get(key) for key in ("perplexity", "perplexity_low", "perplexity_high")},
        **headline.values(verdict.candidate),
        "gain": gain.get("gain"),
        "gain_low": gain.get("low"),
        "gain_high": gain.get("high"),
        "against": verdict.champion["version"] if verdict.champion else verdict.against,
        "alpha": verdict.challenge.alpha if verdict.challenge and verdict.forced is None else None,  # what it spends
    }


def _labels() -> dict[str, str]:
    """Return the labels of the new version."""
    manifest = _read_json(paths.MANIFEST)
    keys = ("data", "git_revision", "base", "corpus")
    return {key: str(manifest[key]) for key in keys if manifest.get(key) is not None}


def _sample_prompts() -> list[str]:
    """Return the prompts of the last evaluation, without personal data; the playground begins with them."""
    from pipeline.redaction import redact

    region = params.load().validate_.rules.phone.region
    try:
        samples: list[dict[str, str]] = storage.read_json(paths.SAMPLES)
    except FileNotFoundError:
        return []
    return [redact(sample["prompt"], region) for sample in samples]


def _metadata(verdict: Verdict, summary: str, figures: Mapping[str, float | str | None]) -> dict[str, Any]:
    """Return the metadata of the new version; the service reads the verdict and the prompts."""
    manifest = _read_json(paths.MANIFEST)
    lock = {"dvc_lock_sha256": hashlib.sha256(_LOCK.read_bytes()).hexdigest()} if _LOCK.is_file() else {}
    return {
        "params": manifest.get("params"),
        "figures": dict(figures),
        "prompts": _sample_prompts(),
        "verdict": {"summary": summary, "forced": verdict.forced, "at": verdict.at},
        "reproduce": {"git_revision": manifest.get("git_revision"), **lock},
    }


def outcome(decision: Decision, new: Version | None, *, is_dry_run: bool) -> str:
    """Return what was done, for a person."""
    champion = short(decision.champion.tag) if decision.champion else "none"
    if new:
        lines = [
            f"Champion: {short(new.tag)} (before: {champion}).",
            "To go back: fresh registry rollback --why ...",
        ]
    elif is_dry_run:
        lines = ["Nothing changed: this was a dry run."]
    else:
        lines = [f"Champion: {champion}, as before."]
    lines.append(f"Verdict: {paths.VERDICT}")
    if decision.page:
        lines.append(f"Report: {decision.page}")
    return "\n".join(lines)
