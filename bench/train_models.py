"""The models of the training comparison: for each one its base, its rows and its settings.

Real weights come from the packages that `params.yaml` can name as a base; without the package, or where there is none,
a model of the same sizes has random weights, so that nothing is downloaded.
"""

import csv
import random
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import (
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)

from bench import harness
from bench.harness import FRESH
from data import make_requests
from pipeline.base import import_base
from pipeline.base_packages import PACKAGES
from pipeline.modeling.loading import load_tokenizer, new_weights_expected
from pipeline.tasks.padding import padded_row
from pipeline.tasks.protocol import CorpusInfo, Document, Task
from pipeline.tasks.registry import get_task

STARTER = harness.ROOT / "starter"
DROPOUT = 0.1
SEED = 42
MAX_LENGTH = 128  # tokens of a row, as in params.yaml
RECIPE = "recipe, padded to 128"
LONGEST = "Trainer, padded to the longest"
CAUSAL_VARIANTS = (
    RECIPE,
    "recipe, padded to 256",
    "concatenate and chunk",
    "plain loop",
    f"{FRESH}, fp32",
    FRESH,
)

Row = dict[str, Any]  # a document's columns: `input_ids`, and `labels` where the task has its own


@dataclass(frozen=True)
class TrainedModel:
    """What is trained, and on what.

    Args:
        task: As in params.yaml.
        base: A package of `PACKAGES`, or a folder; "": random weights.
        make: Makes the model with random weights; its arguments override sizes in the config.
        tiny: These arguments for `--quick`; without `make`, the base is small enough.
        texts: Returns more rows than are needed, with the columns of clean.parquet that the task reads.
        lengths: The fewest and the most tokens of a row; others are left out.
        rows: Training rows.
        variants: The peer first.
    """

    task: str
    texts: Callable[[], list[dict[str, str]]]
    rows: int
    epochs: int
    base: str = ""
    make: Callable[..., PreTrainedModel] | None = None
    tiny: Mapping[str, int] = field(default_factory=dict)
    lengths: tuple[int, int] = (2, MAX_LENGTH)
    batch: int = 2
    learning_rate: float = 5e-5
    validation_rows: int = 16
    variants: tuple[str, ...] = (LONGEST, f"{FRESH}, fp32", FRESH)

    def write_base(self, folder: Path, tiny: bool = False) -> str:
        """Write the model to start from to `folder`, a new one, and return where its weights come from."""
        package = PACKAGES.get(self.base)
        is_installed = package is None or find_spec(package.module) is not None
        if self.base and is_installed and not (tiny and self.make):
            import_base(self.base, folder, self.task)
            return f"package {package.name}" if package else Path(self.base).relative_to(harness.ROOT).as_posix()
        assert self.make is not None  # all models but those of the repository have it
        torch.manual_seed(SEED)
        self.make(**(self.tiny if tiny else {})).save_pretrained(folder)
        for file in STARTER.glob("tokenizer*.json"):
            shutil.copy(file, folder)
        return "random weights"


@dataclass(frozen=True)
class Training:
    """One training: the model's base and rows, for as many epochs."""

    model: TrainedModel
    task: Task
    base: Path
    info: CorpusInfo
    rows: list[Row]
    validation: list[Row]
    epochs: int

    def load(self) -> PreTrainedModel:
        """Return the base in float32 with dropout; a new head has the same weights each time."""
        torch.manual_seed(SEED)
        with new_weights_expected():
            return self.task.load_for_training(self.base, DROPOUT, self.info)

    def padded(self, rows: list[Row]) -> list[dict[str, Any]]:
        """Return `rows` as the stage `tokenize` writes them."""
        columns = self.task.token_columns(load_tokenizer(self.base), MAX_LENGTH, self.info)
        return [padded_row(Document(row), columns) for row in rows]

    @property
    def tokens_a_batch(self) -> float:
        """The mean useful tokens of a batch."""
        return self.model.batch * sum(map(useful_tokens, self.rows)) / len(self.rows)


def prepare(name: str, base: Path, rows: int, epochs: int) -> Training:
    """Return the training of a model; raise ValueError if there are fewer rows of the right length."""
    model = MODELS[name]
    task = get_task(model.task)
    texts = [{"split": "train", **text} for text in model.texts()]
    info = task.corpus_info(texts)
    documents = task.documents(texts, load_tokenizer(base), MAX_LENGTH, info)
    fewest, most = model.lengths
    found = [document.columns for document in documents if fewest <= len(document.columns["input_ids"]) <= most]
    count = rows + model.validation_rows
    if count > len(found):
        raise ValueError(f"{name}: there are {len(found)} rows of {fewest} to {most} tokens, not {count}")
    validation, training = found[: model.validation_rows], found[model.validation_rows : count]
    return Training(model, task, base, info, training, validation, epochs)


def tokenized(count: int) -> list[list[int]]:
    """Return `count` tales as ids between start and end; raise ValueError if there are fewer."""
    model = MODELS["starter"]
    training = prepare("starter", STARTER, max(0, count - model.validation_rows), 1)
    return [row["input_ids"] for row in training.validation + training.rows][:count]


def load_model(name: str) -> PreTrainedModel:
    """Return a model of MODELS in float32, with GPT-2's dropout."""
    model = MODELS[name]
    if model.make is not None and not model.base:  # random weights need no detour over files
        torch.manual_seed(SEED)
        return model.make()
    with tempfile.TemporaryDirectory() as folder:
        model.write_base(Path(folder, "base"))
        return prepare(name, Path(folder, "base"), 1, 1).load()


def useful_tokens(row: Row) -> int:
    """Return the tokens that are read or written: those of the target count too, where there is one."""
    labels = row.get("labels")
    return len(row["input_ids"]) + (len(labels) if isinstance(labels, list) else 0)


def losses_of(row: Row) -> int:
    """Return over how many labels the row's mean loss is: all tokens but the first, those of the target, or one."""
    labels = row.get("labels", row["input_ids"][1:])
    return len(labels) if isinstance(labels, list) else 1


def _tales() -> list[dict[str, str]]:
    with (harness.ROOT / "data" / "tales.csv").open(encoding="utf-8", newline="") as file:
        return [{"text": row["text"]} for row in csv.DictReader(file)]


def _requests() -> list[dict[str, str]]:
    """Return customers' messages and their summaries."""
    rows = make_requests.make_rows(random.Random(make_requests.SEED))
    return [{"source": source, "target": target} for source, target in rows]


def _intents(labels: int = 77, count: int = 2000) -> list[dict[str, str]]:
    """Return short messages of customers, as short as banking77's; a label is a fault of an article with a wish."""
    rng = random.Random(SEED)
    wishes: dict[str, list[str]] = {}
    for sentence, wish in make_requests.WISHES.items():
        wishes.setdefault(wish, []).append(sentence)
    faults = [(article, fault) for article, of_one in make_requests.FAULTS.items() for fault in of_one]
    intents = [(*fault, wish) for fault in faults for wish in wishes][:labels]
    rows = []
    for _ in range(count):
        article, fault, wish = rng.choice(intents)
        asides = rng.sample(make_requests.ASIDES, rng.choices((0, 1, 2), (6, 3, 1))[0])
        sentences = [f"My {article}: {fault}.", *asides, rng.choice(wishes[wish])]
        rows.append({"text": " ".join(sentences), "label": f"{article}: {fault}; {wish}"})
    return rows


def _gpt2(**sizes: int) -> PreTrainedModel:
    """Return GPT-2 of 124 million parameters."""
    return GPT2LMHeadModel(GPT2Config(use_cache=False, bos_token_id=0, eos_token_id=0, **sizes))


def _smollm2(**sizes: int) -> PreTrainedModel:
    """Return a Llama of SmolLM2-135M's sizes."""
    heads = {"num_attention_heads": 9, "num_key_value_heads": 3}
    layers = {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30}
    return LlamaForCausalLM(LlamaConfig(**{"vocab_size": 49152, **heads, **layers, **sizes}, tie_word_embeddings=True))


def _minilm(**sizes: int) -> PreTrainedModel:
    """Return a BERT of all-MiniLM-L6-v2's sizes."""
    layers = {"hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 6}
    return BertModel(BertConfig(**{**layers, **sizes}))


TALES_OF_105 = (92, MAX_LENGTH)  # tokens, start and end included: 105 on average
TINY = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2}

MODELS = {
    "gpt2": TrainedModel(
        "causal_lm",
        _tales,
        rows=24,
        epochs=1,
        make=_gpt2,
        tiny={"n_embd": 48, "n_layer": 2},
        lengths=TALES_OF_105,
        variants=CAUSAL_VARIANTS,
    ),
    "starter": TrainedModel(
        "causal_lm", _tales, rows=256, epochs=3, base=str(STARTER), lengths=TALES_OF_105, variants=CAUSAL_VARIANTS
    ),
    "smollm2": TrainedModel(
        "causal_lm",
        _tales,
        rows=64,
        epochs=1,
        base="smollm2",
        make=_smollm2,
        tiny={**TINY, "num_attention_heads": 6, "num_key_value_heads": 3, "vocab_size": 8192},
        batch=8,
    ),
    "minilm": TrainedModel(
        "classify",
        _intents,
        rows=640,
        epochs=2,
        base="minilm",
        make=_minilm,
        tiny=TINY,
        lengths=(8, 40),
        batch=32,
        learning_rate=3e-4,
        validation_rows=64,
    ),
    "t5": TrainedModel(
        "seq2seq",
        _requests,
        rows=384,
        epochs=2,
        base=str(STARTER / "t5"),
        batch=16,
        learning_rate=5e-4,
        validation_rows=64,
    ),
}
