"""Refuses model folders that would run code or load other files, before anything loads them.

Every `from_pretrained` in the project passes `trust_remote_code=False`, so Python files in a folder (`auto_map`,
`custom_generate`) never run. This module covers the rest.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ADAPTER = "adapter_config.json"


def unsafe(folder: Path) -> str:
    """Return why the model in `folder` must not be loaded, as a clause; empty for a safe one."""
    if (folder / ADAPTER).exists():
        return (
            f"holds an adapter ({ADAPTER}), which is loaded on top of the model and may name another one; merge it "
            "into the model (in peft: `merge_and_unload`) and save that"
        )
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        return f"holds a config.json that cannot be read ({error})"
    for key, value in _settings(config):
        if key == "transformers_weights" and value is not None:
            return f"has config.json read its weights from {value!r}; take out transformers_weights"
        if "_implementation" in key and "/" in json.dumps(value):  # transformers runs such a kernel's code
            return f"has config.json take code from the hub ({key} {value!r}); take out {key}"
    return ""


def _settings(config: Any) -> Iterator[tuple[str, Any]]:
    """Yield every key of a configuration and of those within it, with its value."""
    if isinstance(config, dict):
        for key, value in config.items():
            yield key, value
            yield from _settings(value)
