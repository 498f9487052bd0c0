"""Train in one of the compared ways, in a process of its own: `python -m bench.trainers VARIANT MODEL ROWS EPOCHS`.

The last line is JSON: `tokens` (useful ones, not padding, a second), `loss` (mean over the labels of the same
validation rows, scored in the same plain way, in nats), `operations` (floating-point operations a useful token).
"""

import contextlib
import gc
import itertools
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from datasets import Dataset
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    DataCollatorForSeq2Seq,
    DataCollatorWithPadding,
    PreTrainedModel,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from bench import harness
from bench.harness import FRESH
from bench.train_models import DROPOUT, LONGEST, MODELS, RECIPE, SEED, Row, Training, losses_of, prepare, useful_tokens
from pipeline import finetune, params, paths
from pipeline.command import arg_parser, echo, run
from pipeline.modeling import cpu
from pipeline.modeling.batches import IGNORED_LABEL
from pipeline.modeling.loading import load_config, load_tokenizer
from pipeline.training.checkpoints import Checkpoints
from pipeline.training.precision import choose
from pipeline.training.recipe import RunConfig, build_trainer
from pipeline.workspace import restart_with

BLOCK = 128  # tokens, where texts are strung together and cut
LIMITS = {"limit, fp32": "highest", "limit, bf16": "medium"}

# Returns the trained model and the seconds a useful token.
Train = Callable[[Training], tuple[PreTrainedModel, float]]


def main() -> None:
    """Train and print the figures."""
    parser = arg_parser()
    parser.add_argument("variant", choices=[*LIMITS, *VARIANTS])
    parser.add_argument("model", nargs="?", choices=MODELS, default="starter")
    parser.add_argument("rows", nargs="?", type=int, default=16)
    parser.add_argument("epochs", nargs="?", type=int, default=1)
    parser.add_argument("--base", type=Path, help="the folder of the model's base; by default it is made")
    arguments = parser.parse_args()
    if arguments.variant.startswith(FRESH):
        restart_with(cpu.allocator_environment())  # as the stage does
    if arguments.variant in LIMITS:
        _print({"operations_a_second": gemm_limit(LIMITS[arguments.variant])})
        return
    with tempfile.TemporaryDirectory() as folder:
        if arguments.base is None:
            arguments.base = Path(folder, "base")
            MODELS[arguments.model].write_base(arguments.base)
        training = prepare(arguments.model, arguments.base, arguments.rows, arguments.epochs)
        _print(figures(training, VARIANTS[arguments.variant]))


def figures(training: Training, train: Train) -> dict[str, float]:
    """Train in one of the ways and return its figures."""
    model, seconds_a_token = train(training)
    model.zero_grad()
    gc.collect()  # else the optimizer's state is still in memory, and validation may take more than training
    loss, operations = validate(training, model)
    return {"tokens": 1 / seconds_a_token, "loss": loss, "operations": operations}


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


@torch.no_grad()
def validate(training: Training, model: PreTrainedModel) -> tuple[float, float]:
    """Return the mean loss a label, computed by transformers one row at a time, and the operations a useful token.

    Operations are those of the matrix products that a training step needs, counted by torch where they run: forward,
    and twice as many backward. So each part of a model counts the tokens that pass it, and attention is a full square,
    as in the PaLM paper's model FLOPs utilization.
    """
    torch.set_float32_matmul_precision("highest")
    plain = training.load().eval()
    plain.set_attn_implementation("eager")
    plain.load_state_dict(model.state_dict())
    losses, labels, tokens = 0.0, 0, 0
    with FlopCounterMode(display=False) as forward:
        for row in training.validation:
            inputs = {name: torch.tensor([value]) for name, value in row.items()}  # a batch of one
            losses += float(plain(**{"labels": inputs["input_ids"], **inputs}).loss) * losses_of(row)
            labels += losses_of(row)
            tokens += useful_tokens(row)
    return losses / labels, 3 * forward.get_total_flops() / tokens


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


def _plain_trainer(
    training: Training, rows: list[Row], collate: Callable[[Any], Any] | None = None
) -> tuple[PreTrainedModel, float]:
    """Train with transformers' Trainer and its defaults; return the model and the seconds a step."""
    clock, model = _Clock(), training.load()
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=training.model.batch,
            num_train_epochs=training.epochs,
            learning_rate=training.model.learning_rate,
            lr_scheduler_type="constant",
            weight_decay=0.01,
            save_strategy="no",
            report_to="none",
            seed=SEED,
            dataloader_pin_memory=False,
        )
        trainer = Trainer(
            model=model, args=arguments, data_collator=collate, train_dataset=Dataset.from_list(rows), callbacks=[clock]
        )
        trainer.remove_callback(ProgressCallback)
        trainer.train()
    return model, _mean(clock.seconds)


def recipe(length: int) -> Train:
    """Return the recipe: a row a text, padded to `length`."""

    def train(training: Training) -> tuple[PreTrainedModel, float]:
        rows = []
        for ids in (row["input_ids"] for row in training.rows):
            missing = length - len(ids)
            row = {"input_ids": ids + [0] * missing, "attention_mask": [1] * len(ids) + [0] * missing}
            rows.append({**row, "labels": [IGNORED_LABEL, *ids[1:]] + [IGNORED_LABEL] * missing})
        model, seconds = _plain_trainer(training, rows)
        return model, seconds / training.tokens_a_batch

    return train


def padded_to_the_longest(training: Training) -> tuple[PreTrainedModel, float]:
    """Train as usual with Trainer: each batch is padded to its longest row by transformers' collator."""
    tokenizer = load_tokenizer(training.base)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    has_one_label = isinstance(training.rows[0].get("labels"), int)
    collate = (DataCollatorWithPadding if has_one_label else DataCollatorForSeq2Seq)(tokenizer)
    rows = []
    for row in training.rows:
        ids = row["input_ids"]
        rows.append({"labels": [IGNORED_LABEL, *ids[1:]], "attention_mask": [1] * len(ids), **row})
    model, seconds = _plain_trainer(training, rows, collate)
    return model, seconds / training.tokens_a_batch


def concatenate_and_chunk(training: Training) -> tuple[PreTrainedModel, float]:
    """Train like transformers' language-modelling example: all texts concatenated, then cut into blocks."""
    ids = [token for row in training.rows for token in row["input_ids"]]
    blocks = [ids[at : at + BLOCK] for at in range(0, len(ids) - BLOCK + 1, BLOCK)]
    rows = [{"input_ids": block, "attention_mask": [1] * BLOCK, "labels": block} for block in blocks]
    model, seconds = _plain_trainer(training, rows)
    return model, seconds / (training.model.batch * BLOCK)


def plain_loop(training: Training) -> tuple[PreTrainedModel, float]:
    """Train like nanoGPT: blocks from random positions of the concatenated texts, in a bare loop."""
    ids = torch.tensor([token for row in training.rows for token in row["input_ids"]])
    model, batch_size = training.load().train(), training.model.batch
    weights = [weight for weight in model.parameters() if weight.ndim >= 2]
    others = [weight for weight in model.parameters() if weight.ndim < 2]
    groups = [{"params": weights, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=training.model.learning_rate, betas=(0.9, 0.95), fused=True)
    ends = []
    for _ in range(training.epochs * len(ids) // (batch_size * BLOCK)):
        starts = torch.randint(len(ids) - BLOCK, (batch_size,))
        batch = torch.stack([ids[start : start + BLOCK] for start in starts])
        model(batch, labels=batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        ends.append(time.perf_counter())
    return model, _mean([after - before for before, after in itertools.pairwise(ends)]) / (batch_size * BLOCK)


def stage_config(**changes: Any) -> params.Finetune:
    """Return the section `finetune` of params.yaml as all runs have it, with `changes`."""
    fixed = {"schedule": "constant", "warmup_share": 0.0, "seed": SEED, "devices": 1}
    whole = {"lora_rank": 0, "activation_checkpointing": False}
    return params.load(harness.ROOT / paths.PARAMS).finetune.model_copy(update={**fixed, **whole, **changes})


def fresh(precision: Literal["auto", "fp32"]) -> Train:
    """Return the training of the stage `finetune`, with the learning rate and batch of the others."""

    def train(training: Training) -> tuple[PreTrainedModel, float]:
        config = stage_config(
            learning_rate=training.model.learning_rate,
            epochs=training.epochs,
            early_stopping_patience=training.epochs,
            weight_decay=0.01,
            dropout=DROPOUT,
        )
        clock, base = _Clock(), training.base.resolve()
        run_config = RunConfig(choose(precision, load_config(base).hidden_size), training.model.batch)
        # The stage writes its progress below the working directory.
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            fast = finetune.ModelBuilder(training.task, base, config, training.info)(run_config.precision)
            # The best epoch is kept: by loss on rows that are learned, which is the last one, as in the other ways.
            splits = {
                name: Dataset.from_list(training.padded(rows))
                for name, rows in (("train", training.rows), ("validation", training.rows[: training.model.batch]))
            }
            trainer = build_trainer(fast, splits, config, run_config, Checkpoints(Path("checkpoints")))
            trainer.add_callback(clock)
            trainer.resume()
        return fast.model, _mean(clock.seconds) / training.tokens_a_batch

    return train


VARIANTS: dict[str, Train] = {
    RECIPE: recipe(128),
    "recipe, padded to 256": recipe(256),
    "concatenate and chunk": concatenate_and_chunk,
    "plain loop": plain_loop,
    LONGEST: padded_to_the_longest,
    f"{FRESH}, fp32": fresh("fp32"),
    FRESH: fresh("auto"),
}


if __name__ == "__main__":
    run(main)
