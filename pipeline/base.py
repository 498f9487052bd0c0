"""Stage `base`: takes in the model to start from, so that DVC versions it like any other input.

The starter, a local folder or a model of the Hugging Face hub at one commit is copied to `models/base`. It is an
import: it happens when `base` in `params.yaml` changes. After editing a local folder in place, run
`dvc repro --force base`.
"""

import os
import re
import shutil
from pathlib import Path

from pipeline import params, paths
from pipeline.command import UserError
from pipeline.modeling.safety import unsafe
from pipeline.workspace import run_stage

GPT2_AT_ITS_COMMIT = "openai-community/gpt2@607a30d783dfa663caf39e06633721c8d4cfcc7e"
_HUB_MODEL = re.compile(r"(?P<repository>[\w.-]+/[\w.-]+)(@(?P<commit>\w+))?")
# Weights as safetensors only: the other formats are pickles, which run code when they are read.
_MODEL_FILES = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja")


def main() -> None:
    """Run the stage."""
    if os.environ.pop("HF_HUB_OFFLINE_BY_DEFAULT", None):  # set by the package; this stage alone asks the hub
        del os.environ["HF_HUB_OFFLINE"]  # read when huggingface_hub is imported, which nothing above does
    take_in(params.load().base, paths.BASE)


def take_in(base: str, destination: Path) -> None:
    """Copy the model that `base` names to `destination`, a folder made anew.

    Raises UserError when there is no such model, it cannot be reached, or it is not a causal language model with
    safetensors weights and a tokenizer.
    """
    source = Path(base) if Path(base).is_dir() else _from_hub(base)
    files = sorted(file for pattern in _MODEL_FILES for file in source.glob(pattern))
    _check(base, source)
    paths.clear(destination)
    destination.mkdir(parents=True)
    for file in files:
        shutil.copyfile(file, destination / file.name)


def _from_hub(base: str) -> Path:
    """Return the folder of the hub's local cache that holds `base`, downloaded if it was not there."""
    hub_model = _HUB_MODEL.fullmatch(base)
    if not hub_model:
        raise UserError(
            f"params.yaml: base: there is no folder {base!r} here; {paths.meant(Path(base))}name 'starter', a "
            f"folder with a model in it or a hub model with its commit, such as {GPT2_AT_ITS_COMMIT}"
        )
    repository, commit = hub_model["repository"], hub_model["commit"]
    if not re.fullmatch(r"[0-9a-f]{40}", commit or ""):
        raise UserError(
            f"params.yaml: base: found {base!r}, which is no folder here; {paths.meant(Path(base))}a hub model needs "
            f"its commit: 40 hex digits after an @, from the model's page under Files, such as {GPT2_AT_ITS_COMMIT}"
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

    hub.logging.set_verbosity_error()  # its retries are warnings; what matters to the user is the sentence below
    try:
        return Path(snapshot_download(repository, revision=commit, allow_patterns=list(_MODEL_FILES)))
    except GatedRepoError:
        reason = f"the hub asks for an account to hand out {repository}: run `hf auth login` first"
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


def _check(base: str, source: Path) -> None:
    """Raise UserError unless `source` holds a causal language model that the stages can use."""
    if not (source / "config.json").is_file():
        raise UserError(f"params.yaml: base: {base} holds no config.json, so it is not a model's folder")
    if not any(source.glob("*.safetensors")):
        raise UserError(
            f"params.yaml: base: {base} holds no .safetensors weights, the only format read here; "
            "save it again with transformers: AutoModelForCausalLM.from_pretrained(...).save_pretrained(...)"
        )
    if reason := unsafe(source):
        raise UserError(f"params.yaml: base: {base} {reason}")

    from transformers import AutoConfig, AutoTokenizer
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    try:
        config = AutoConfig.from_pretrained(source, local_files_only=True, trust_remote_code=False)
        tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # whatever a stranger's files make transformers raise
        found = " ".join(str(error).split())
        raise UserError(f"params.yaml: base: {base} is not readable as a model with its tokenizer: {found}") from None
    if config.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or config.is_encoder_decoder:
        raise UserError(
            f"params.yaml: base: {base} is of type {config.model_type}; expected a causal language model, such as gpt2"
        )
    if tokenizer.eos_token_id is None:
        raise UserError(f"params.yaml: base: the tokenizer of {base} has no end-of-text token, so texts could not end")
    if len(tokenizer) > config.vocab_size:
        raise UserError(
            f"params.yaml: base: {base} has a tokenizer of {len(tokenizer)} tokens for a model of {config.vocab_size}; "
            "they are not of the same model"
        )


if __name__ == "__main__":
    run_stage(main)
