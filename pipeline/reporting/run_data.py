"""What the report of a run shows: the stages' files, the verdict, and what changed since the champion's data."""

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ruamel.yaml import YAML

from pipeline import fit_warnings, params, paths
from pipeline.command import UserError
from pipeline.data_diff.compare import diff
from pipeline.data_diff.resolve import clean_data_file
from pipeline.data_diff.result import DataDiff
from pipeline.evaluation.folding import fold

if TYPE_CHECKING:
    from pipeline.evaluation.records import Evaluation

_LOCK = Path("dvc.lock")


@dataclass(frozen=True)
class Run:
    """What the page shows."""

    verdict: dict[str, Any]  # as in verdict.json
    metrics: dict[str, Any]  # from the stage `evaluate`, with "champion" where there is one
    samples: list[dict[str, str]]  # the prompt, and what each model wrote after it
    worst: dict[str, list[dict[str, Any]]]  # model -> the fields of a Copy, with `prompt` and `written`
    history: list[dict[str, Any]]  # the registry's entries before this verdict, oldest first
    manifest: dict[str, Any]  # the candidate's
    champion: dict[str, Any] | None  # version, tag, since and labels
    loss_svg: str  # "" without a drawing
    data_changes: DataDiff | None  # since the champion's data
    data_changes_reason: str  # why there are none, in one sentence
    reproduce: dict[str, Any]  # git_revision, files (path and md5 each), libraries, commands
    chart_data: dict[str, Any] = field(default_factory=dict)  # of the candidate's charts
    fit_warnings: dict[str, str] = field(default_factory=dict)  # of `tokenize`, by what they are about
    region: str = "none"  # of the rule `phone`, which texts are redacted by


@dataclass(frozen=True)
class Champion:
    """The champion that the candidate was compared with."""

    description: dict[str, Any]  # version, tag, since and labels
    folder: Path
    evaluated: "Evaluation"


def collect(
    verdict: dict[str, Any],
    metrics: dict[str, Any],
    champion: Champion | None = None,
    history: Sequence[dict[str, Any]] = (),
) -> Run:
    """Return the run whose files are in the current folder.

    Args:
        verdict: As in verdict.json.
        metrics: From the stage `evaluate`.
        champion: What the candidate was compared with; None: the base.
        history: The registry's entries before this verdict, oldest first.

    Raises:
        UserError: A file of a stage is missing or is not JSON.
    """
    region = params.load().validate_.rules.phone.region
    manifest = _read(paths.MANIFEST, "finetune")
    changes, reason = _data_changes(champion.folder if champion else None, region)
    return Run(
        verdict=verdict,
        metrics=metrics | ({"champion": champion.evaluated.metrics} if champion else {}),
        samples=_samples(champion),
        worst=_worst_copies(champion),
        history=list(history),
        manifest=manifest,
        champion=champion.description if champion else None,
        loss_svg=paths.LOSS_CURVE.read_text(encoding="utf-8") if paths.LOSS_CURVE.is_file() else "",
        data_changes=changes,
        data_changes_reason=reason,
        reproduce=_reproduce(manifest),
        chart_data=_read(paths.GENERATIONS, "evaluate").get("charts", {}).get("candidate", {}),
        fit_warnings=fit_warnings.read(),
        region=region,
    )


def _read(path: Path, stage: str) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; run `dvc repro {stage}`") from None
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}); run `dvc repro --force {stage}`") from None


def _samples(champion: Champion | None) -> list[dict[str, str]]:
    samples: list[dict[str, str]] = _read(paths.SAMPLES, "evaluate")
    if champion:
        for sample, text in zip(samples, champion.evaluated.samples, strict=True):
            sample["champion"] = text
    return samples


def _worst_copies(champion: Champion | None) -> dict[str, list[dict[str, Any]]]:
    """Return each model's longest copies, with the prompt and the text that they are in."""
    generations = _read(paths.GENERATIONS, "evaluate")
    copies_of = generations.get("worst", {})
    texts_of = {name: [text["text"] for text in generations[name]] for name in copies_of}
    if champion and copies_of:
        copies_of["champion"] = [asdict(copy) for copy in champion.evaluated.copies]
        texts_of["champion"] = [text.text for text in champion.evaluated.generations]
    return {
        name: [
            copy
            | {
                "prompt": generations["prompts"][copy["generation"]],
                "written": fold(texts_of[name][copy["generation"]]),  # as the run and its source are
            }
            for copy in copies
        ]
        for name, copies in copies_of.items()
    }


def _data_changes(champion: Path | None, region: str) -> tuple[DataDiff | None, str]:
    """Return what changed since the data of the model in this folder, or why there is no comparison."""
    if champion is None:
        return None, "There is no champion yet, so there is no earlier data to compare with."
    names = ("the champion's data", "the candidate's data")
    try:
        with clean_data_file(str(champion)) as old, clean_data_file(str(paths.CLEAN)) as new:
            return diff(old, new, names=names, region=region), ""
    except UserError as error:
        reason = str(error).replace(f"{champion}/", "the champion's ").replace(str(champion), "the champion")
        return None, f"There is no comparison: {reason}."


def _reproduce(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return the candidate's inputs and library versions, and the commands that reproduce it."""
    corpus = [manifest["corpus"]] if "corpus" in manifest else []
    tracked = [*corpus, *map(str, (paths.CLEAN, paths.TOKENS, paths.BASE, paths.CANDIDATE, paths.EVALUATE_METRICS))]
    hashes: dict[str, str] = {}
    if _LOCK.is_file():
        for stage in YAML(typ="safe").load(_LOCK.read_text(encoding="utf-8"))["stages"].values():
            hashes |= {file["path"]: file["md5"] for kind in ("deps", "outs") for file in stage.get(kind, ())}
    revision = manifest.get("git_revision")
    checkout = [f"git checkout {revision.removesuffix('+changes')}"] if revision else []
    return {
        "git_revision": revision,
        "files": [{"path": path, "md5": hashes[path]} for path in tracked if path in hashes],
        "libraries": {"python": platform.python_version(), **manifest.get("libraries", {})},
        "commands": [*checkout, "make model", "source .venv/bin/activate", "fresh promote --dry-run"],
    }
