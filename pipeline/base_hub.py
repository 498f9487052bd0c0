"""A base from the Hugging Face hub, at one commit."""

import re
from pathlib import Path

from pipeline import paths
from pipeline.command import UserError

GPT2_WITH_COMMIT = "openai-community/gpt2@607a30d783dfa663caf39e06633721c8d4cfcc7e"
# Weights as safetensors only: the other formats are pickles, which run code when loaded. NOTICE says whose model it is.
MODEL_FILES = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "NOTICE")
_HUB_MODEL = re.compile(r"(?P<repository>[\w.-]+/[\w.-]+)(@(?P<commit>\w+))?")


def download(base: str) -> Path:
    """Return the folder of the hub's local cache with `base`, downloaded where it is missing."""
    hub_model = _HUB_MODEL.fullmatch(base)
    if not hub_model or base.endswith(".gguf"):
        kind = "file" if base.endswith(".gguf") else "folder"
        raise UserError(
            f"params.yaml: base: there is no {kind} {base!r} here; {paths.meant(Path(base))}name 'starter', 'smollm2', "
            "'minilm', a folder with a model in it, a .gguf file or a hub model with its commit, such as "
            f"{GPT2_WITH_COMMIT}"
        )
    repository, commit = hub_model["repository"], hub_model["commit"]
    if not re.fullmatch(r"[0-9a-f]{40}", commit or ""):
        raise UserError(
            f"params.yaml: base: found {base!r}, which is no folder here; {paths.meant(Path(base))}a hub model needs "
            f"its commit: 40 hex digits after an @, from the model's page under Files, such as {GPT2_WITH_COMMIT}"
        )
    return _snapshot(repository, commit)


def _snapshot(repository: str, commit: str) -> Path:
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
        return Path(snapshot_download(repository, revision=commit, allow_patterns=list(MODEL_FILES)))
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
