"""Paths of every input and output, relative to the repository's root; `dvc.yaml` declares the same ones."""

import difflib
import os
import shlex
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

PARAMS = Path("params.yaml")

BASE = Path("models/base")
BASE_TOKENIZER = BASE / "tokenizer.json"
BASE_CONFIG = BASE / "config.json"

CLEAN = Path("data/clean.parquet")
QUARANTINE = Path("reports/validate/quarantine.csv")
VALIDATE_METRICS = Path("reports/validate/metrics.json")
VALIDATE_REPORT = Path("reports/validate/report.html")
EXPECTATIONS = Path("reports/validate/expectations.json")

TOKENS = Path("data/tokens")
CORPUS_INFO = TOKENS / "corpus_info.json"  # what the task must know of the whole corpus; absent: nothing
TOKEN_BUDGET = Path("reports/tokenize/token_budget.json")
BASE_FIT = Path("reports/tokenize/base_fit.json")

CANDIDATE = Path("models/candidate")
MANIFEST = CANDIDATE / "manifest.json"
TASK_SETTINGS = CANDIDATE / "task.json"  # what whoever uses the model must know of its task; absent: nothing
ADAPTER = CANDIDATE / "adapter"  # what LoRA trained, in peft's format; it is in the model's weights too
CHECKPOINTS = Path("models/checkpoints")
TRAINING_LOSS = Path("reports/finetune/training_loss.csv")
VALIDATION_LOSS = Path("reports/finetune/validation_loss.csv")
LOSS_CURVE = Path("reports/finetune/loss.svg")
FINETUNE_METRICS = Path("reports/finetune/metrics.json")
TRAINING_PROGRESS = Path("reports/finetune/progress.jsonl")  # of the running training; no output of the stage

EVALUATE_METRICS = Path("reports/evaluate/metrics.json")
PERPLEXITY_PLOT = Path("reports/evaluate/perplexity.csv")
SCORES = Path("reports/evaluate/scores.parquet")
GENERATIONS = Path("reports/evaluate/generations.json")
SAMPLES = Path("reports/evaluate/samples.json")
SAMPLES_PAGE = Path("reports/evaluate/samples.md")

VERDICT = Path("reports/promote/verdict.json")
REPORT = Path("reports/promote/report.html")
REGISTRY = Path("registry")

# What the pipeline writes, replaces and deletes; every output of dvc.yaml lies in one of these.
OUTPUTS = (
    BASE,
    CANDIDATE,
    CHECKPOINTS,
    CLEAN,
    TOKENS,
    Path("data/.validate"),
    Path("data/.tokenize"),
    Path("dvc_plots"),
    Path("reports"),
    REGISTRY,
)
# The project's own files; the drop folder must not be one of these.
PROJECT = tuple(
    map(
        Path,
        (".dvc", ".git", ".venv", "bench", "deploy", "examples", "flows", "pipeline", "serving", "starter", "tests"),
    )
)
_NO_CORPUS = tuple(
    map(Path, (".git", "dvc.lock", "dvc.yaml", "params.yaml"))
)  # the drop folder appends rows to the corpus


@contextmanager
def scratch(stage: str) -> Iterator[Path]:
    """Yield an empty folder for the temporary files of `stage`, deleted afterwards; a killed run's leftovers go first.

    It lies next to the data, because /tmp is held in memory on many machines.
    """
    folder = Path("data") / f".{stage}"
    clear(folder)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def clear(folder: Path) -> None:
    """Delete a folder if it exists; of a symbolic link only the link, which may lead anywhere."""
    if folder.is_symlink():
        folder.unlink()
    elif folder.exists():
        shutil.rmtree(folder)


def conflicts(root: Path, data: str, base: str, inbox: str) -> Iterator[str]:
    """Yield "key: sentence" for each setting that names files which belong to the pipeline.

    Args:
        root: The project's folder, which relative settings start from.
        data: `data.path`.
        base: `base`; the name of a hub model never conflicts.
        inbox: `watch.inbox`.
    """
    # The corpus may be a link: its own place counts, and its target too, except in DVC's cache.
    corpus = _real((root / data).parent) / Path(data).name
    outputs, project = _places(root, OUTPUTS), _places(root, PROJECT)
    owner = _around(corpus, outputs | _places(root, _NO_CORPUS)) or _around(_real(root / data), outputs)
    if owner:
        copy = f"data/my-{Path(data).name}"
        yield f"data.path: {data} {_owned(data, owner)}; copy the file, for example to {copy}, and name the copy"
    if owner := _around(_real(root / base), outputs):
        yield f"base: {base} {_owned(base, owner)}; copy the folder, for example to models/my-base, and name the copy"
    folder = _real(root / inbox)
    models = _places(root, [Path(base)] if (root / base).is_dir() else [])
    inside = {Path(): _real(root), Path(data): corpus, **models, **outputs, **project}
    held = [name for name, place in inside.items() if folder in (place, *place.parents)]
    around = _around(folder, models | outputs | project)
    elsewhere = "name a folder for nothing else, such as data/inbox"
    if held or around:
        what = f"is in {around}" if not held else "is the project's folder" if held[0] == Path() else f"holds {held[0]}"
        yield f"watch.inbox: {inbox} {what}, and files are moved away from the inbox; {elsewhere}"
    elif folder.exists() and not folder.is_dir():
        yield f"watch.inbox: {inbox} is a file; {elsewhere}"


def _real(path: Path) -> Path:
    """Return the path with links and dots resolved, whether it exists or not."""
    return Path(os.path.realpath(path))


def _places(root: Path, names: Iterable[Path]) -> dict[Path, Path]:
    return {name: _real(root / name) for name in names}


def _around(path: Path, places: Mapping[Path, Path]) -> Path | None:
    """Return the name of the first of `places` that is `path` or contains it."""
    return next((name for name, place in places.items() if place in (path, *path.parents)), None)


def _owned(path: str, owner: Path) -> str:
    place = "belongs to the pipeline" if Path(path) == owner else f"is in {owner}, which belongs to the pipeline"
    return f"{place} and may be overwritten or deleted by any run"


def meant(path: Path) -> str:
    """Return "did you mean …? Or " to prefix the advice for a missing path; "" without a close match."""
    place = Path(path.anchor)
    for part in path.relative_to(place).parts:
        if (place / part).exists():
            place /= part
            continue
        try:
            names = {child.name.casefold(): child.name for child in sorted(place.iterdir()) if child.name[0] != "."}
        except OSError:  # not a readable folder
            names = {}
        for close in difflib.get_close_matches(part.casefold(), names, n=3):
            similar = place.joinpath(names[close], *path.parts[len(place.parts) + 1 :])
            if similar.exists():
                return f"did you mean {str(similar)!r}? Or "
        break
    beside = Path("data", path.name)
    return f"did you mean {str(beside)!r}? Or " if path.name and beside.exists() else ""


def untracked(path: Path) -> str:
    """Return how to track the file `path`, as the end of a sentence; "" if DVC or git tracks it, or without DVC."""
    if not Path(".dvc").is_dir() or any(Path(f"{part}.dvc").exists() for part in (path, *path.parents) if part.name):
        return ""
    if not _real(path).is_relative_to(_real(Path())):
        return f"it is outside the project: copy it to data/ and track that: dvc add data/{path.name}"
    command = ["git", "--literal-pathspecs", "--no-optional-locks", "ls-files", "--error-unmatch", "--", str(path)]
    try:
        in_git = subprocess.run(command, capture_output=True, check=False).returncode == 0  # noqa: S603
    except FileNotFoundError:
        in_git = False
    return "" if in_git else f"track it: dvc add {shlex.quote(str(path))}"
