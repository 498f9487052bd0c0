"""Stage `base`: imports the model to start from, so that DVC versions it like any other input.

The task's starter, a model out of an installed package, a local folder, a version of a registry, a `.gguf` file or a
model of the Hugging Face hub at one commit is written to `models/base` when `base` in `params.yaml` changes. After
editing a local folder in place, or installing another version of a package, run `dvc repro --force base`.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline import base_hub, base_packages, base_registry, gguf_file, params, paths, storage
from pipeline.command import UserError
from pipeline.modeling.safety import unsafe
from pipeline.tasks.protocol import Task
from pipeline.tasks.registry import get_task
from pipeline.workspace import run_stage

STARTER = "starter"


def main() -> None:
    """Run the stage."""
    if os.environ.pop("HF_HUB_OFFLINE_BY_DEFAULT", None):  # set by the package; only this stage uses the hub
        del os.environ["HF_HUB_OFFLINE"]  # read when huggingface_hub is imported, which nothing above does
    all_params = params.load()
    import_base(all_params.base, paths.BASE, all_params.task)


def import_base(base: str, destination: Path, task: str) -> None:
    """Write the model that `base` names to `destination`, a new folder; the same bytes each time.

    Raises UserError when there is no such model, it cannot be reached, or it is not a model of `task` with safetensors
    weights and a tokenizer.
    """
    the_task = get_task(task)
    with _source(base, the_task, destination.with_name(f".new-{destination.name}")) as source:
        _check(base, source, the_task)
        files = sorted(file for pattern in base_hub.MODEL_FILES for file in source.glob(pattern))
        files = [file for file in files if not _is_of_another_task(file, task)]
        paths.clear(destination)
        destination.mkdir(parents=True)
        for file in files:
            shutil.copyfile(file, destination / file.name)
            (destination / file.name).chmod(0o644)  # safetensors writes for the owner alone


def _is_of_another_task(file: Path, task: str) -> bool:
    """Return whether `file` says how to use a model of another task than `task`, which the base is to become."""
    if file.name != paths.TASK_SETTINGS.name:
        return False
    settings = storage.read_json(file)
    return not isinstance(settings, dict) or settings.get("task") != task


@contextmanager
def _source(base: str, task: Task, scratch: Path) -> Iterator[Path]:
    """Yield a folder with the model that `base` names; `scratch` is for what must be made first, and is deleted."""
    path = Path(base)
    try:
        if base == STARTER:
            yield _starter(task)
        elif base in base_packages.PACKAGES:
            yield base_packages.extract(base, scratch)
        elif path.is_dir():
            yield path
        elif base.startswith(base_registry.PREFIX):
            yield base_registry.folder_of(base)
        elif path.suffix == ".gguf" and path.is_file():
            gguf_file.convert(base, path, scratch)
            yield scratch
        else:
            yield base_hub.download(base)
    finally:
        paths.clear(scratch)


def _starter(task: Task) -> Path:
    """Return the folder of the task's embedded base; raises UserError where it has none."""
    if not task.starter:
        raise UserError(
            f"params.yaml: base: {STARTER} has no model for this task; name one of {', '.join(base_packages.PACKAGES)},"
            " a folder with a model in it, or a model of the hub with its commit"
        )
    return Path(task.starter)


def _check(base: str, source: Path, task: Task) -> None:
    """Raise UserError unless `source` holds a model that the stages can use."""
    if not (source / "config.json").is_file():
        raise UserError(f"params.yaml: base: {base} holds no config.json, so it is not a model's folder")
    if not any(source.glob("*.safetensors")):
        raise UserError(
            f"params.yaml: base: {base} holds no .safetensors weights, the only format read from a folder; convert it "
            "with transformers: load it by the class that its config.json names under architectures, then "
            "save_pretrained(...)"
        )
    if reason := unsafe(source):
        raise UserError(f"params.yaml: base: {base} {reason}")

    from transformers import AutoConfig, AutoTokenizer

    try:
        config = AutoConfig.from_pretrained(source, local_files_only=True, trust_remote_code=False)
        tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # whatever untrusted files make transformers raise
        reason = " ".join(str(error).split())
        raise UserError(f"params.yaml: base: {base} is not readable as a model with its tokenizer: {reason}") from None
    task.check_base(base, config, tokenizer)


if __name__ == "__main__":
    run_stage(main)
