"""Where each stage reads and writes, relative to the repository's root; `dvc.yaml` declares the same paths."""

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

CLEAN = Path("data/clean.parquet")
QUARANTINE = Path("reports/validate/quarantine.csv")
VALIDATE_METRICS = Path("reports/validate/metrics.json")
VALIDATE_REPORT = Path("reports/validate/report.html")
EXPECTATIONS = Path("reports/validate/expectations.json")

TOKENS = Path("data/tokens")
TOKEN_BUDGET = Path("reports/tokenize/token_budget.json")

CANDIDATE = Path("models/candidate")
MANIFEST = CANDIDATE / "manifest.json"
CHECKPOINTS = Path("models/checkpoints")
TRAINING_LOSS = Path("reports/finetune/training_loss.csv")
VALIDATION_LOSS = Path("reports/finetune/validation_loss.csv")
LOSS_CURVE = Path("reports/finetune/loss.svg")
FINETUNE_METRICS = Path("reports/finetune/metrics.json")

EVALUATE_METRICS = Path("reports/evaluate/metrics.json")
PERPLEXITY_PLOT = Path("reports/evaluate/perplexity.csv")
SCORES = Path("reports/evaluate/scores.parquet")
GENERATIONS = Path("reports/evaluate/generations.json")
SAMPLES = Path("reports/evaluate/samples.json")
SAMPLES_PAGE = Path("reports/evaluate/samples.md")

VERDICT = Path("reports/promote/verdict.json")
REPORT = Path("reports/promote/report.html")
REGISTRY = Path("registry")

# What the pipeline itself writes, replaces and deletes: every output of dvc.yaml lies in one of these.
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
# What the project is made of: nothing for the inbox to take files from.
PROJECT = tuple(
    map(Path, (".dvc", ".git", ".venv", "bench", "deploy", "flows", "pipeline", "serving", "starter", "tests"))
)
_NO_CORPUS = tuple(map(Path, (".git", "dvc.lock", "dvc.yaml", "params.yaml")))  # the inbox would append rows to it


@contextmanager
def scratch(stage: str) -> Iterator[Path]:
    """Yield an empty folder for what `stage` puts aside, and delete it; first the one that a killed run left.

    It lies beside the data, for the folder of temporary files is memory on many machines.
    """
    folder = Path("data") / f".{stage}"
    clear(folder)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def clear(folder: Path) -> None:
    """Delete a folder of the pipeline's where it is there; of a link the link alone, for it may lead to anything."""
    if folder.is_symlink():
        folder.unlink()
    elif folder.exists():
        shutil.rmtree(folder)


def conflicts(root: Path, data: str, base: str, inbox: str) -> Iterator[str]:
    """Yield "key: sentence" for each of these settings that names files which are the pipeline's own.

    Args:
        root: The project's folder, which relative settings start from.
        data: `data.path`.
        base: `base`; the name of a hub model is a path that is in nobody's way.
        inbox: `watch.inbox`.
    """
    # Where a file that may be a link lies; what it links to counts too, but for DVC's cache.
    corpus = _real((root / data).parent) / Path(data).name
    outputs, project = _places(root, OUTPUTS), _places(root, PROJECT)
    found = _around(corpus, outputs | _places(root, _NO_CORPUS)) or _around(_real(root / data), outputs)
    if found:
        copy = f"data/my-{Path(data).name}"
        yield f"data.path: {data} {_owned(data, found)}; copy the file, for example to {copy}, and name the copy"
    if found := _around(_real(root / base), outputs):
        yield f"base: {base} {_owned(base, found)}; copy the folder, for example to models/my-base, and name the copy"
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
    """Return the path without links, dots or double slashes, whether it exists or not."""
    return Path(os.path.realpath(path))


def _places(root: Path, names: Iterable[Path]) -> dict[Path, Path]:
    return {name: _real(root / name) for name in names}


def _around(path: Path, places: Mapping[Path, Path]) -> Path | None:
    """Return the name of the first of `places` that is `path` or a folder around it."""
    return next((name for name, place in places.items() if place in (path, *path.parents)), None)


def _owned(path: str, found: Path) -> str:
    place = "belongs to the pipeline" if Path(path) == found else f"is in {found}, which belongs to the pipeline"
    return f"{place} and may be overwritten or deleted by any run"


def meant(path: Path) -> str:
    """Return "did you mean …? Or " for a path that does not exist, to begin a sentence's advice; "" for no idea."""
    place = Path(path.anchor)
    for part in path.relative_to(place).parts:
        if (place / part).exists():
            place /= part
            continue
        try:
            names = {child.name.casefold(): child.name for child in sorted(place.iterdir()) if child.name[0] != "."}
        except OSError:  # no folder, or one that may not be read: there is nothing to name
            names = {}
        for close in difflib.get_close_matches(part.casefold(), names, n=3):
            found = place.joinpath(names[close], *path.parts[len(place.parts) + 1 :])
            if found.exists():
                return f"did you mean {str(found)!r}? Or "
        break
    beside = Path("data", path.name)
    return f"did you mean {str(beside)!r}? Or " if path.name and beside.exists() else ""


def untracked(path: Path) -> str:
    """Return what keeps no version of the file `path`, as the end of a sentence; "" where DVC or git tracks it.

    So too outside a DVC repository, where no run is recorded.
    """
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
