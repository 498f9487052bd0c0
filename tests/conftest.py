"""What the tests share: a tiny GPT-2, made here, and a workspace in which stages run as they do for a user."""

import inspect
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pandas as pd
import pytest
import torch
from ruamel.yaml import YAML
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel, GPT2TokenizerFast

from pipeline import paths
from tests.tiny_models import save_bert, save_roberta

# By default httpx gives up after 5 seconds, less than a busy machine may take; all its functions share this object.
for _phase in ("connect", "read", "write", "pool"):
    setattr(inspect.signature(httpx.get).parameters["timeout"].default, _phase, 300.0)

ROOT = Path(__file__).parent.parent
STAGES = ("base", "validate", "tokenize", "finetune", "evaluate")
REAL_DATA = ROOT.parent / "shared" / "data"
LINES = [
    "The quick brown fox jumps over the lazy dog near the old river bank.",
    "A small cat sat on the warm mat and looked at the rain for an hour.",
    "My neighbour bought twelve red apples, and she gave me three of them.",
    "Once upon a time there was a king who could not find his golden crown.",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run files with integration tests first, so that no long one is left to run alone at the end.

    Tests marked `gpu` are skipped where there is none.
    """
    long = {item.path for item in items if item.get_closest_marker("integration")}
    items.sort(key=lambda item: item.path not in long)
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="there is no CUDA device"))


@pytest.fixture(scope="session")
def tiny_gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a random GPT-2 of 22 thousand parameters, context 64, and its tokenizer."""
    folder = tmp_path_factory.mktemp("tiny_gpt2")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(LINES, trainer)
    end = "<|endoftext|>"
    fast = GPT2TokenizerFast(tokenizer_object=tokenizer, bos_token=end, eos_token=end, unk_token=end)
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(fast),
        n_positions=64,
        n_embd=32,
        n_layer=2,
        n_head=2,
        bos_token_id=fast.bos_token_id,
        eos_token_id=fast.eos_token_id,
    )
    GPT2LMHeadModel(config).save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a random BERT, context 64, and its tokenizer."""
    return save_bert(tmp_path_factory.mktemp("tiny_bert"), LINES)


@pytest.fixture(scope="session")
def tiny_roberta(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a random RoBERTa, context 64, and its tokenizer."""
    return save_roberta(tmp_path_factory.mktemp("tiny_roberta"), LINES)


@pytest.fixture(autouse=True)
def exact_products() -> Iterator[None]:
    """Take back the precision of matrix products, the whole process's, that a test's training may have chosen."""
    yield
    torch.set_float32_matmul_precision("highest")


@pytest.fixture(autouse=True)
def same_environment() -> Iterator[None]:
    """Fail a test after which a variable is gone or different, for the next one to trip over."""
    before = dict(os.environ)
    yield
    lost = {name for name, value in before.items() if os.environ.get(name) != value}
    assert lost <= {"PYTEST_CURRENT_TEST"}


class Workspace:
    """A folder like a user's checkout, with its own params.yaml."""

    def __init__(self, folder: Path) -> None:
        """Start from the params.yaml that comes with the project."""
        self.folder = folder
        shutil.copy(ROOT / "params.yaml", folder)

    def set(self, **changes: object) -> None:
        """Change values of params.yaml; `section__key=value` for one inside a section."""
        yaml = YAML()
        path = self.folder / "params.yaml"
        content = yaml.load(path)
        for name, value in changes.items():
            *sections, key = name.split("__")
            section = content
            for part in sections:
                section = section[part]
            section[key] = value
        yaml.dump(content, path)

    def write_corpus(self, content: str | bytes, name: str = "data/corpus.csv") -> Path:
        """Write a CSV and name it in params.yaml."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        self.set(data__path=name)
        return path

    def start_from(self, base: Path) -> None:
        """Put a base and 40 clean texts where the stages before `tokenize` put them."""
        shutil.copytree(base, paths.BASE)
        paths.CLEAN.parent.mkdir()
        texts = [f"{line} {number}" for number in range(10) for line in LINES]
        splits = ["train", "train", "validation", "test"] * 10
        pd.DataFrame({"row": range(2, 42), "text": texts, "split": splits}).to_parquet(paths.CLEAN)


# What is set for the service that tests run in their own process, and commands that they start must not see.
OF_THE_SERVICE = ("MODEL_DIR", "PROMETHEUS_MULTIPROC_DIR")


class Clone(Workspace):
    """A clone of this working tree in which commands run as after `source .venv/bin/activate`."""

    def __init__(self, folder: Path) -> None:
        """Clone what git tracks and what it does not ignore, so that uncommitted work is tested too."""
        listed = subprocess.run(
            ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
        )
        for name in filter(None, listed.stdout.split("\0")):
            if (ROOT / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, folder / name)
        super().__init__(folder)
        self.run("git", "init", "-q")
        self.commit()

    def commit(self) -> None:
        """Commit everything."""
        self.run("git", "add", "-A")
        self.run("git", "-c", "user.name=A", "-c", "user.email=a@example.org", "commit", "-qm", "Change")

    def run(self, *command: str, code: int | tuple[int, ...] = 0) -> str:
        """Return what the command prints; fail unless it exits with `code`."""
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        kept = {name: value for name, value in os.environ.items() if name not in OF_THE_SERVICE}
        environment = {**kept, "PATH": path, "BENTOML_HOME": str(self.folder / ".bentoml")}
        done = subprocess.run(
            command, cwd=self.folder, capture_output=True, text=True, env=environment, timeout=1800, check=False
        )
        assert done.returncode in (code if isinstance(code, tuple) else (code,)), done.stdout + done.stderr
        return done.stdout + done.stderr

    def ran(self, output: str) -> list[str]:
        """Return the stages that `dvc repro` ran."""
        return [stage for stage in STAGES if f"Running stage '{stage}'" in output]


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """Return a workspace that is the current folder during the test."""
    monkeypatch.chdir(tmp_path)
    return Workspace(tmp_path)


def real(name: str) -> Path:
    """Return a file of real data, or skip the test where it is absent (a user's checkout has none)."""
    path = REAL_DATA / name
    if not path.exists():
        pytest.skip(f"real data is not here: {path}")
    return path
