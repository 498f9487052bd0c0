"""Stage `base`: imports the model to start from, so that DVC versions it like any other input.

The starter, a local folder or a model of the Hugging Face hub at one commit is copied to `models/base` when `base` in
`params.yaml` changes. After editing a local folder in place, run `dvc repro --force base`.
"""

import os
import re
import shutil
from pathlib import Path

from pipeline import params, paths
from pipeline.command import UserError
from pipeline.modeling.safety import unsafe
from pipeline.tasks.registry import get_task
from pipeline.workspace import run_stage

GPT2_WITH_COMMIT = "openai-community/gpt2@607a30d783dfa663caf39e06633721c8d4cfcc7e"
_HUB_MODEL = re.compile(r"(?P<repository>[\w.-]+/[\w.-]+)(@(?P<commit>\w+))?")
# Weights as safetensors only: the other formats are pickles, which run code when loaded.
_MODEL_FILES = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja")


def main() -> None:
    """Run the stage."""
    if os.environ.pop("HF_HUB_OFFLINE_BY_DEFAULT", None):  # set by the package; only this stage uses the hub
        del os.environ["HF_HUB_OFFLINE"]  # read when huggingface_hub is imported, which nothing above does
    all_params = params.load()
    import_base(all_params.base, paths.BASE, all_params.task)


def import_base(base: str, destination: Path, task: str) -> None:
    """Copy the model that `base` names to `destination`, a new folder.

    Raises UserError when there is no such model, it cannot be reached, or it is not a model of `task` with safetensors
    weights and a tokenizer.
    """
    source = Path(base) if Path(base).is_dir() else _from_hub(base)
    files = sorted(file for pattern in _MODEL_FILES for file in source.glob(pattern))
    _check(base, source, task)
    paths.clear(destination)
    destination.mkdir(parents=True)
    for file in files:
        shutil.copyfile(file, destination / file.name)


def _from_hub(base: str) -> Path:
    """Return the folder of the hub's local cache with `base`, downloaded where it is missing."""
    hub_model = _HUB_MODEL.fullmatch(base)
    if not hub_model:
        raise UserError(
            f"params.yaml: base: there is no folder {base!r} here; {paths.meant(Path(base))}name 'starter', a "
            f"folder with a model in it or a hub model with its commit, such as {GPT2_WITH_COMMIT}"
        )
    repository, commit = hub_model["repository"], hub_model["commit"]
    if not re.fullmatch(r"[0-9a-f]{40}", commit or ""):
        raise UserError(
            f"params.yaml: base: found {base!r}, which is no folder here; {paths.meant(Path(base))}a hub model needs "
            f"its commit: 40 hex digits after an @, from the model's page under Files, such as {GPT2_WITH_COMMIT}"
        )

    from huggingface_hub import snapshot_download
    from huggingface_hub import utils as hub
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    hub.logging.set_verbosity_error()  # hide warnings about retries; the message below is for the user
    try:
        return Path(snapshot_download(repository, revision=commit, allow_patterns=list(_MODEL_FILES)))
    except GatedRepoError:
        reason = f"{repository} needs an account at the hub: run `hf auth login` first"
    except RepositoryNotFoundError:
        reason = f"the hub has no public model {repository}: check the name"
    except RevisionNotFoundError:
        reason = f"{repository} has no commit {commit}: check it on the model's page"
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, HfHubHTTPError, OSError) as error:
        reason = (
            f"the Hugging Face hub cannot be reached ({type(error).__name__}), and {repository} is not in its local "
            "cache; set base to a folder with the model's files, fetched on another machine, or to 'starter'"
        )
    raise UserError(f"params.yaml: base: {reason}") from None


def _check(base: str, source: Path, task: str) -> None:
    """Raise UserError unless `source` holds a model that the stages can use."""
    if not (source / "config.json").is_file():
        raise UserError(f"params.yaml: base: {base} holds no config.json, so it is not a model's folder")
    if not any(source.glob("*.safetensors")):
        raise UserError(
            f"params.yaml: base: {base} holds no .safetensors weights, the only format read here; "
            "convert it with transformers: AutoModelForCausalLM.from_pretrained(...).save_pretrained(...)"
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
    get_task(task).check_base(base, config, tokenizer)


if __name__ == "__main__":
    run_stage(main)
