"""The tensors of a model's folder, read one by one, from one safetensors file or several."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

_INDEX = "model.safetensors.index.json"


def open_tensors(folder: Path) -> dict[str, Callable[[], torch.Tensor]]:
    """Return what reads each tensor of the model in `folder`, by name; raises OSError or what safetensors raises."""
    files = {"model.safetensors"}
    if (folder / _INDEX).is_file():
        files = set(json.loads((folder / _INDEX).read_text(encoding="utf-8"))["weight_map"].values())
    readers: dict[str, Callable[[], torch.Tensor]] = {}
    for file in files:
        opened: Any = safe_open(folder / file, framework="pt")
        readers |= {name: partial(opened.get_tensor, name) for name in opened.keys()}  # noqa: SIM118 - no iterator
    return readers
