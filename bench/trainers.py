"""Train in one of the compared ways, in a process of its own: `python -m bench.trainers VARIANT MODEL TEXTS EPOCHS`.

The last line is JSON: `tokens` (useful ones, not padding, a second), `loss` (mean over the tokens of the same
validation texts, scored in the same plain way, in nats), `operations` (floating-point operations a useful token).
"""

import csv
import itertools
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from datasets import Dataset
from transformers import (
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from bench import harness
from bench.harness import FRESH
from pipeline import finetune, params, paths
from pipeline.command import arg_parser, echo, run
from pipeline.modeling import cpu
from pipeline.tasks.causal_lm import TASK
from pipeline.training.checkpoints import Checkpoints
from pipeline.training.precision import choose
from pipeline.training.recipe import RunConfig, build_trainer
from pipeline.workspace import restart_with

STARTER = harness.ROOT / "starter"
LENGTHS = (90, 126)  # tokens of a text, without start and end: about 105 on average, none above 128 with them
VALIDATION = 16  # texts
BLOCK = 128  # tokens, where texts are strung together and cut
BATCH = 2
LEARNING_RATE = 5e-5
SEED = 42
LIMITS = {"limit, fp32": "highest", "limit, bf16": "medium"}

Rows = list[list[int]]
Train = Callable[[PreTrainedModel, Rows, int], float]


def main() -> None:
    """Train and print the figures."""
    parser = arg_parser()
    parser.add_argument("variant", choices=[*LIMITS, *VARIANTS])
    parser.add_argument("model")
    parser.add_argument("texts", type=int)
    parser.add_argument("epochs", type=int)
    arguments = parser.parse_args()
    if arguments.variant.startswith(FRESH):
        restart_with(cpu.allocator_environment())  # as the stage does
    if arguments.variant in LIMITS:
        _print({"operations_a_second": gemm_limit(LIMITS[arguments.variant])})
        return
    documents = tokenized(arguments.texts + VALIDATION)
    model = load_model(arguments.model)
    seconds_a_token = VARIANTS[arguments.variant](model, documents[VALIDATION:], arguments.epochs)
    _print(
        {
            "tokens": 1 / seconds_a_token,
            "loss": validation_loss(model, documents[:VALIDATION]),
            "operations": 6 * (model.num_parameters() - model.transformer.wpe.weight.numel()),
        }
    )


def _print(result: dict[str, float]) -> None:
    echo("\n" + json.dumps(result))


def gemm_limit(setting: str, size: int = 2048) -> float:
    """Return the most floating-point operations a second of square matrix products, under torch's `setting`."""
    torch.set_float32_matmul_precision(setting)
    left, right, result = (torch.ones(size, size) for _ in range(3))
    seconds = []
    for _ in range(12):
        started = time.perf_counter()
        torch.mm(left, right, out=result)
        seconds.append(time.perf_counter() - started)
    return 2 * size**3 / min(seconds)


def tokenized(count: int) -> Rows:
    """Return `count` tales of the sample corpus as ids between start and end; raise ValueError if there are fewer."""
    tokenizer = AutoTokenizer.from_pretrained(STARTER, local_files_only=True, trust_remote_code=False)
    end = tokenizer.eos_token_id
    with (harness.ROOT / "data" / "tales.csv").open(encoding="utf-8", newline="") as file:
        ids = tokenizer([row["text"] for row in csv.DictReader(file)], add_special_tokens=False)["input_ids"]
    documents = [[end, *text, end] for text in ids if LENGTHS[0] <= len(text) <= LENGTHS[1]]
    if count > len(documents):
        raise ValueError(f"there are {len(documents)} texts of the right length, not {count}")
    return documents[:count]


def load_model(name: str) -> PreTrainedModel:
    """Return GPT-2 of 124 million parameters with random weights, or the starter, with GPT-2's dropout, in float32."""
    torch.manual_seed(SEED)
    if name == "gpt2":
        return GPT2LMHeadModel(GPT2Config(use_cache=False, bos_token_id=0, eos_token_id=0))
    return TASK.load_for_training(STARTER, 0.1, {})


@torch.inference_mode()
def validation_loss(model: PreTrainedModel, documents: Rows) -> float:
    """Return the mean loss a token, computed by transformers one document at a time."""
    torch.set_float32_matmul_precision("highest")
    plain = type(model)(model.config).eval()
    plain.set_attn_implementation("eager")
    plain.load_state_dict(model.state_dict())
    losses = [float(plain(ids, labels=ids).loss) for ids in map(torch.tensor, ([one] for one in documents))]
    counts = [len(one) - 1 for one in documents]
    return sum(loss * count for loss, count in zip(losses, counts, strict=True)) / sum(counts)


class _Clock(TrainerCallback):
    """The time between the ends of consecutive steps within an epoch."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._last: float | None = None

    def on_step_end(self, *arguments: Any, **kwargs: Any) -> None:
        now = time.perf_counter()
        if self._last is not None:
            self.seconds.append(now - self._last)
        self._last = now

    def on_epoch_end(self, *arguments: Any, **kwargs: Any) -> None:
        self._last = None  # a validation comes between


def _mean(seconds: list[float]) -> float:
    """Return the mean time of a step, without the first two, which are the warm-up."""
    timed = seconds[2:] or seconds
    return sum(timed) / len(timed)


def _plain_trainer(model: PreTrainedModel, rows: Dataset, epochs: int) -> float:
    """Train with transformers' Trainer and its defaults; return seconds a step."""
    clock = _Clock()
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=BATCH,
            num_train_epochs=epochs,
            learning_rate=LEARNING_RATE,
            lr_scheduler_type="constant",
            weight_decay=0.01,
            save_strategy="no",
            report_to="none",
            seed=SEED,
            dataloader_pin_memory=False,
        )
        trainer = Trainer(model=model, args=arguments, train_dataset=rows, callbacks=[clock])
        trainer.remove_callback(ProgressCallback)
        trainer.train()
    return _mean(clock.seconds)


def recipe(length: int) -> Train:
    """Return the recipe: a row a text, padded to `length`."""

    def train(model: PreTrainedModel, documents: Rows, epochs: int) -> float:
        rows = Dataset.from_list(
            [
                {
                    "input_ids": one + [0] * (length - len(one)),
                    "attention_mask": [1] * len(one) + [0] * (length - len(one)),
                    "labels": [-100, *one[1:]] + [-100] * (length - len(one)),
                }
                for one in documents
            ]
        )
        return _plain_trainer(model, rows, epochs) / (BATCH * sum(map(len, documents)) / len(documents))

    return train


def concatenate_and_chunk(model: PreTrainedModel, documents: Rows, epochs: int) -> float:
    """Train like transformers' language-modelling example: all texts concatenated, then cut into blocks."""
    ids = [token for one in documents for token in one]
    blocks = [ids[at : at + BLOCK] for at in range(0, len(ids) - BLOCK + 1, BLOCK)]
    rows = Dataset.from_list([{"input_ids": block, "attention_mask": [1] * BLOCK, "labels": block} for block in blocks])
    return _plain_trainer(model, rows, epochs) / (BATCH * BLOCK)


def plain_loop(model: PreTrainedModel, documents: Rows, epochs: int) -> float:
    """Train like nanoGPT: blocks from random positions of the concatenated texts, in a bare loop."""
    ids = torch.tensor([token for one in documents for token in one])
    weights = [weight for weight in model.parameters() if weight.ndim >= 2]
    others = [weight for weight in model.parameters() if weight.ndim < 2]
    groups = [{"params": weights, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=(0.9, 0.95), fused=True)
    model.train()
    ends = []
    for _ in range(epochs * len(ids) // (BATCH * BLOCK)):
        starts = torch.randint(len(ids) - BLOCK, (BATCH,))
        batch = torch.stack([ids[start : start + BLOCK] for start in starts])
        model(batch, labels=batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        ends.append(time.perf_counter())
    return _mean([after - before for before, after in itertools.pairwise(ends)]) / (BATCH * BLOCK)


def fresh(precision: Literal["auto", "fp32"]) -> Train:
    """Return the training of the stage `finetune`, with the learning rate and batch of the others."""

    def train(model: PreTrainedModel, documents: Rows, epochs: int) -> float:
        config = params.load(harness.ROOT / paths.PARAMS).finetune.model_copy(
            update={
                "learning_rate": LEARNING_RATE,
                "epochs": epochs,
                "early_stopping_patience": epochs,
                "schedule": "constant",
                "warmup_share": 0.0,
                "seed": SEED,
                "lora_rank": 0,
                "activation_checkpointing": False,
                "devices": 1,
            }
        )
        run_config = RunConfig(choose(precision), BATCH)
        clock = _Clock()
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            fast = finetune.ModelBuilder(TASK, Path(folder), config, {})(run_config.precision)
            splits = {"train": _padded(documents), "validation": _padded(documents[:1])}
            trainer = build_trainer(fast, splits, config, run_config, Checkpoints(Path(folder, "checkpoints")))
            trainer.add_callback(clock)
            trainer.resume()
        model.load_state_dict(fast.model.state_dict())
        return _mean(clock.seconds) / (BATCH * sum(map(len, documents)) / len(documents))

    return train


def _padded(documents: Rows) -> Dataset:
    """Return rows as `pipeline.tokenize` writes them."""

    def rows() -> Iterator[dict[str, list[int]]]:
        for one in documents:
            missing = BLOCK - len(one)
            yield {"input_ids": one + [0] * missing, "attention_mask": [1] * len(one) + [0] * missing}

    return Dataset.from_list(list(rows()))


VARIANTS: dict[str, Train] = {
    "recipe, padded to 128": recipe(128),
    "recipe, padded to 256": recipe(256),
    "concatenate and chunk": concatenate_and_chunk,
    "plain loop": plain_loop,
    f"{FRESH}, fp32": fresh("fp32"),
    FRESH: fresh("auto"),
}


if __name__ == "__main__":
    run(main)
