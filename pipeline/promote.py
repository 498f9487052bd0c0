"""Promote: the candidate becomes champion if it is better beyond noise and within every bound, else it is said why not.

Not a stage, for which model is champion changes with time: the champion is in the registry, and is scored here, on the
rows, prompts and seeds by which `evaluate` scored the candidate. `decide` judges and writes the verdict and the page,
`carry_out` does what the verdict says; `python -m pipeline.promote` is both.
"""

import argparse
import hashlib
import json
import math
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import params, paths, storage
from pipeline.command import NO, UserError, arg_parser, echo, echo_json, run, utf8_text, warn
from pipeline.registry.model_version import content_version, short
from pipeline.registry.store import Registry, Version
from pipeline.verdict import judge
from pipeline.verdict.judge import Verdict

if TYPE_CHECKING:  # at run time it brings torch along, which a refusal can do without
    from pipeline.evaluate import Evaluated, HeldOut

Pair = tuple[float, float]  # the candidate's figure, and that of the model it is compared with

_TURNS = 20  # of each model, by which its speed is measured: many short ones, of which some are undisturbed
_TOKENS = 16  # a turn
_LOCK = Path("dvc.lock")
_STALE = "run `dvc repro`, then promote again"


@dataclass(frozen=True)
class Decision:
    """A verdict, and what is needed to carry it out."""

    verdict: Verdict
    registry: Registry
    champion: Version | None  # as it was when the candidate was compared with it
    page: Path | None  # of the report; None where nothing was compared


def decide(all_params: params.Params, registry: Registry, force: str | None = None) -> Decision:
    """Return the verdict on the workspace's candidate, with the champion as it is now; write verdict.json and the page.

    With `force`, a reason, the verdict is to promote it whatever speaks against it. Raises UserError where the files of
    `evaluate` are not of the present candidate and test rows, where the champion is damaged, and for a blank reason.
    """
    if force is not None and not force.strip():
        raise UserError("--force: found a blank reason, expected one that others can read")
    metrics = _read(paths.EVALUATE_METRICS)
    _check_version(metrics, "candidate", paths.CANDIDATE)
    champion = registry.champion()
    at = datetime.now(UTC).isoformat(timespec="seconds")
    if champion and champion.version == metrics["candidate"]["version"]:
        judged = judge.unchanged(metrics["candidate"], at)
        _write(judged)  # but no page: the one of the promotion stays
        return Decision(judged, registry, champion, page=None)
    _check_version(metrics, "base", paths.BASE)
    judged, measured = _judge(all_params, registry, champion, metrics, force, at)
    _write(judged)
    return Decision(judged, registry, champion, _report(judged, registry, champion, metrics, measured))


def carry_out(decision: Decision, *, who: str | None = None, why: str | None = None) -> Version | None:
    """Make the candidate champion if the verdict says so, else record the refusal; return the new champion or None.

    `why` is what the history is to say besides the verdict, for instance why the run was started. Raises UserError if
    there is another champion by now, or another candidate.
    """
    judged, registry = decision.verdict, decision.registry
    if judged.difference is None:
        return None  # nothing was compared, so there is nothing to record
    said = judge.summary(judged) + (f" ({why})" if why else "")
    figures = _figures(judged)
    version: str = judged.candidate["version"]
    if not judged.promoted:
        _write(judged)  # anew, for a person may have said no to what `decide` had written
        registry.refuse(version, said, figures)
        return None
    if content_version(paths.CANDIDATE) != version:
        raise UserError(f"{paths.CANDIDATE} is no longer the candidate {version} that was judged; promote again")
    new = registry.add(paths.CANDIDATE, *_described(judged, said, figures))
    registry.move(
        new,
        expected=decision.champion.tag if decision.champion else None,
        action="promote" if judged.forced is None else "force",
        why=said,
        who=who,
        figures=figures,
    )
    return new


def _judge(
    all_params: params.Params,
    registry: Registry,
    champion: Version | None,
    metrics: Mapping[str, Any],
    force: str | None,
    at: str,
) -> tuple[Verdict, "Evaluated | None"]:
    """Return the verdict, and what the champion made of the test rows."""
    from transformers.utils.logging import disable_progress_bar

    from pipeline import evaluate

    disable_progress_bar()  # loading weights takes no time worth a bar
    texts = evaluate.held_out(all_params.evaluate)
    table = _scores(texts, metrics)
    candidate_scores = evaluate.scores_of(table, "candidate")
    if champion is None:
        measured, opponent, opponent_scores = None, metrics["base"], evaluate.scores_of(table, "base")
        folder = paths.BASE
    else:
        warn(f"{champion.tag}: scoring {len(texts.texts)} test rows, writing {len(texts.openings.prompts)} texts")
        measured = evaluate.evaluate_model(champion.folder, texts, all_params.evaluate)
        opponent, opponent_scores, folder = measured.figures, measured.scores, champion.folder
    warn("measuring size and speed")
    size, latency = measure(paths.CANDIDATE, folder)
    candidate, opponent = (
        {**figures, "bytes": bytes_, "seconds_a_token": seconds}
        for figures, bytes_, seconds in zip((metrics["candidate"], opponent), size, latency, strict=True)
    )
    left = registry.rolled_back(candidate["version"])
    judged = judge.judge(
        candidate,
        opponent,
        candidate_scores,
        opponent_scores,
        texts.groups or [],
        metrics["test_rows"],
        size,
        latency,
        all_params.promote,
        all_params.evaluate.seed,
        base=metrics["base"],
        against="champion" if champion else "base",
        texts=len(texts.openings.prompts),
        copied_tokens=all_params.evaluate.copied_tokens,
        canaries=_manifest().get("params", {}).get("tokenize", {}).get("canaries", 0),
        rolled_back=f"{left.why} ({left.at})" if left else None,
        forced=force,
        at=at,
    )
    return judged, measured


def measure(candidate: Path, opponent: Path) -> tuple[Pair, Pair]:
    """Return the bytes in memory of the models in two folders, and the seconds a token that they take here.

    In memory, in float32, as they are scored: files of one model may differ in size. Decoded greedily with a cache, one
    token after another, in turns, so that what else the machine does meets both; the best turn counts.
    """
    import torch

    from pipeline.evaluate import load_model
    from pipeline.modeling.context import context_of, start_and_end

    models = [load_model(folder) for folder in (candidate, opponent)]
    tokens = min(_TOKENS, *(context_of(model.config) for model, _ in models))
    best = [math.inf] * len(models)
    with torch.inference_mode():
        for turn in range(_TURNS * len(models)):
            model, tokenizer = models[turn % len(models)]
            token = torch.tensor([[start_and_end(tokenizer)[0]]], device=model.device)
            past = None
            began = time.perf_counter()
            for _ in range(tokens):
                output = model(token, past_key_values=past, use_cache=True)
                past, token = output.past_key_values, output.logits[:, -1:].argmax(-1)
            token.tolist()  # waits for a GPU
            best[turn % len(models)] = min(best[turn % len(models)], (time.perf_counter() - began) / tokens)
    ours, theirs = (model.get_memory_footprint() for model, _ in models)
    return (ours, theirs), (best[0], best[1])


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is not here, and a verdict rests on it; {_STALE}") from None
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}; {_STALE}") from None


def _manifest() -> dict[str, Any]:
    manifest: dict[str, Any] = _read(paths.MANIFEST)
    return manifest


def _check_version(metrics: Mapping[str, Any], name: str, folder: Path) -> None:
    """Raise UserError unless the figures under `name` are those of the model in `folder`."""
    if not folder.is_dir():
        raise UserError(f"{folder} is not here, so there is nothing to promote; {_STALE}")
    measured, found = metrics.get(name, {}).get("version"), content_version(folder)
    if measured != found:
        raise UserError(
            f"{paths.EVALUATE_METRICS} is of another {name} ({measured}) than {folder} holds ({found}); {_STALE}"
        )


def _scores(texts: "HeldOut", metrics: Mapping[str, Any]) -> Any:
    """Return the table of scores; raises UserError unless it is of the present test rows and settings."""
    import pandas as pd

    if metrics["test_rows"].get("sha256") != texts.sha256:
        raise UserError(
            f"{paths.EVALUATE_METRICS} is of other test rows or settings (evaluate in {paths.PARAMS}) than are here"
            f" now; {_STALE}"
        )
    try:
        return pd.read_parquet(paths.SCORES)
    except FileNotFoundError:
        raise UserError(f"{paths.SCORES} is not here, and a verdict rests on it; {_STALE}") from None


def _write(judged: Verdict) -> None:
    """Write verdict.json, whole or not at all."""
    storage.write_atomic(paths.VERDICT, json.dumps(judge.as_json(judged), indent=2, ensure_ascii=False) + "\n")


def _report(
    judged: Verdict,
    registry: Registry,
    champion: Version | None,
    metrics: Mapping[str, Any],
    measured: "Evaluated | None",
) -> Path:
    from pipeline.reporting import report, run_data

    shown = None
    if champion:
        shown = {
            "version": champion.version,
            "tag": short(champion.tag),
            "since": registry.since(champion.tag),
            "labels": champion.labels,
        }
    collected = run_data.collect(
        judge.as_json(judged),
        {**metrics, **({"champion": measured.figures} if measured else {})},
        champion=shown,
        champion_folder=champion.folder if champion else None,
        champion_model=measured,
        history=[entry.as_json() for entry in registry.history()],
    )
    return report.write(collected)


def _figures(judged: Verdict) -> dict[str, float | str | None]:
    """Return the figures that the history keeps."""
    difference = judged.difference or {}
    kept = ("perplexity", "perplexity_low", "perplexity_high", "bits_per_byte")
    return {
        **{name: judged.candidate.get(name) for name in kept},
        **{name: difference.get(key) for name, key in (("gain", "gain"), ("gain_low", "low"), ("gain_high", "high"))},
        "against": judged.champion["version"] if judged.champion else judged.against,
    }


def _described(
    judged: Verdict, said: str, figures: Mapping[str, float | str | None]
) -> tuple[dict[str, str], dict[str, Any]]:
    """Return the labels and the metadata of the new version."""
    manifest = _manifest()
    names = ("data", "git_revision", "base", "corpus")
    labels = {name: str(manifest[name]) for name in names if manifest.get(name) is not None}
    reproduced = {"git_revision": manifest.get("git_revision")}
    if _LOCK.is_file():
        reproduced["dvc_lock_sha256"] = hashlib.sha256(_LOCK.read_bytes()).hexdigest()
    metadata = {
        "params": manifest.get("params"),
        "figures": dict(figures),
        "verdict": {"summary": said, "forced": judged.forced, "at": judged.at},
        "reproduce": reproduced,
    }
    return labels, metadata


def main() -> None:
    """Judge the candidate and carry the verdict out."""
    arguments = _arguments()
    decision = decide(params.load(), Registry(), arguments.force)
    judged = decision.verdict
    new = None if arguments.dry_run else carry_out(decision, why=arguments.force if judged.forced is None else None)
    if arguments.json:
        echo_json(judge.as_json(judged))
    else:
        echo(judge.text(judged) + "\n" + _ending(decision, new, arguments.dry_run))
    if not judged.promoted:
        sys.exit(NO)


def _ending(decision: Decision, new: Version | None, dry: bool) -> str:
    """Return what was done, for a person."""
    lines = []
    if new:
        before = short(decision.champion.tag) if decision.champion else "none"
        lines.append(f"Champion: {short(new.tag)} (before: {before}).")
        lines.append("The way back: python -m pipeline.registry rollback --why ...")
    elif dry:
        lines.append("Nothing was moved, for this was a dry run.")
    else:
        lines.append(f"Champion: {short(decision.champion.tag) if decision.champion else 'none'}, as before.")
    lines.append(f"Verdict: {paths.VERDICT}")
    if decision.page:
        lines.append(f"Report: {decision.page}")
    return "\n".join(lines)


def _arguments() -> argparse.Namespace:
    parser = arg_parser(no="the verdict is no")
    parser.add_argument("--json", action="store_true", help="print the verdict as JSON")
    parser.add_argument("--dry-run", action="store_true", help="judge and write the verdict, but move nothing")
    parser.add_argument("--force", type=utf8_text, metavar="WHY", help="promote it in any case; WHY is recorded")
    return parser.parse_args()


if __name__ == "__main__":
    run(main)
