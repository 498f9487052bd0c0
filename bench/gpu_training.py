"""The training ladder of `bench.gpu`: ways to train GPT-2 on a GPU, in turns within one process.

A run takes warm-up steps, in which kernels load and compile, then as many timed ones. The device is waited for at both
ends of these alone, so that no measurement slows a step.
"""

import gc
import itertools
import math
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import torch
from datasets import Dataset
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from bench import harness, nano
from bench.gpu_figures import DEVICE, Emit, Figure, Plan, synchronized_time
from bench.train_models import MODELS, SEED, load_model, tokenized
from bench.trainers import BLOCK, stage_config
from pipeline.modeling.compiled import Execution
from pipeline.tasks.causal_lm import TASK
from pipeline.training import precision
from pipeline.training.checkpoints import Checkpoints
from pipeline.training.recipe import RunConfig, build_trainer

DROPOUT = 0.1  # of the runs on texts, as in the recipe; those on blocks have none, as nanoGPT
LOGGING_STEPS = 10  # as of the stage's runs of 1,000 steps and more
ON_GPU = torch.cuda.is_available()
BATCH, LEARNING_RATE, VALIDATION = MODELS["gpt2"].batch, MODELS["gpt2"].learning_rate, MODELS["gpt2"].validation_rows

Rows = list[list[int]]


@dataclass(frozen=True)
class Sizes:
    """How large a ladder is."""

    model: str
    documents: int  # texts of the corpus; repeated where a run needs more
    warm: int  # steps before the clock starts
    steps: int  # that are timed
    batch: int  # texts, of a large step
    blocks: int  # of a step on blocks
    block: int  # tokens
    product: int  # rows of the square matrices whose product gives the limit


FULL = Sizes("gpt2", 2000, 20, 40, 64, 16, 1024, 8192)
QUICK = Sizes("starter", 8, 1, 1, 3, 2, 48, 128)


@dataclass(frozen=True)
class Job:
    """What a run trains on."""

    rows: Rows
    batch: int
    length: int  # to which rows are padded
    warm: int

    @property
    def steps(self) -> int:
        """All steps."""
        return len(self.rows) // self.batch

    @property
    def timed_tokens(self) -> float:
        """Tokens of the timed steps, without padding."""
        return sum(map(len, self.rows)) / self.steps * (self.steps - self.warm)


Train = Callable[[PreTrainedModel, Job], float]  # returns the seconds of the timed steps


@dataclass(frozen=True)
class Variant:
    """A way to train, and the one that it is compared with."""

    name: str
    peer: str
    train: Train
    job: Job
    compiles: bool = False


class _Measured(Exception):  # noqa: N818 - not an error
    """The last timed step is done: what Trainer would do then is not measured."""


class _Clock(TrainerCallback):
    """Times the steps between the warm-up and the last, then ends the training."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._began = math.nan
        self.seconds = math.nan

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        step = state.global_step
        if step == self._job.warm:
            self._began = synchronized_time()
        elif step == self._job.steps:
            self.seconds = synchronized_time() - self._began
            raise _Measured

    def time(self, train: Callable[[], object]) -> float:
        """Return the seconds of the timed steps of `train`."""
        try:
            train()
        except _Measured:
            return self.seconds
        raise RuntimeError("training ended before its last step")


def _dataset(job: Job) -> Dataset:
    def padded(row: list[int], fill: int) -> list[int]:
        return row + [fill] * (job.length - len(row))

    return Dataset.from_list(
        [
            {
                "input_ids": padded(row, 0),
                "attention_mask": padded([1] * len(row), 0),
                "labels": padded([-100, *row[1:]], -100),
            }
            for row in job.rows
        ]
    )


def plain_trainer(bf16: bool) -> Train:
    """Return the training of transformers' Trainer with its defaults."""

    def train(model: PreTrainedModel, job: Job) -> float:
        clock = _Clock(job)
        arguments = TrainingArguments(
            output_dir="trainer",
            per_device_train_batch_size=job.batch,
            num_train_epochs=1,
            learning_rate=LEARNING_RATE,
            lr_scheduler_type="constant",
            weight_decay=0.01,
            save_strategy="no",
            report_to="none",
            seed=SEED,
            bf16=bf16 and ON_GPU,
            dataloader_pin_memory=ON_GPU,
        )
        trainer = Trainer(model=model, args=arguments, train_dataset=_dataset(job), callbacks=[clock])
        trainer.remove_callback(ProgressCallback)
        trainer.remove_callback(PrinterCallback)
        return clock.time(trainer.train)

    return train


def fresh(execution: Execution = "eager") -> Train:
    """Return the training of the stage `finetune`, whose layers run as `execution` says."""

    def train(model: PreTrainedModel, job: Job) -> float:
        config = stage_config(learning_rate=LEARNING_RATE, epochs=1)
        run_config = RunConfig(precision.choose("auto"), job.batch, execution)
        precision.use(run_config.precision)
        fast = TASK.loss_model(model.train(), {})
        rows = _dataset(job).remove_columns("labels")
        clock = _Clock(job)
        splits = {"train": rows, "validation": rows.select([0])}
        trainer = build_trainer(fast, splits, config, run_config, Checkpoints(Path("checkpoints")))
        trainer.args.logging_steps = LOGGING_STEPS
        trainer.add_callback(clock)
        return clock.time(trainer.resume)

    return train


def nano_loop(compiled: bool) -> Train:
    """Return nanoGPT's training: its own model, bf16 autocast, fused AdamW; `model` lends its sizes."""

    def train(model: PreTrainedModel, job: Job) -> float:
        torch.manual_seed(SEED)
        plain = nano.NanoGpt(model.config).to(DEVICE)
        step_model = torch.compile(plain) if compiled else plain
        steps = nano.optimizer(plain)
        torch.set_float32_matmul_precision("high")  # TF32, as nanoGPT allows it
        data = torch.tensor(job.rows)
        data = data.pin_memory() if ON_GPU else data
        began = math.nan
        order = torch.randperm(len(data))
        for number, rows in enumerate(torch.split(order, job.batch)[: job.steps], start=1):
            ids = data[rows].to(DEVICE, non_blocking=True)
            with torch.autocast(DEVICE, torch.bfloat16):
                loss = step_model(ids[:, :-1], ids[:, 1:])
            loss.backward()
            torch.nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
            steps.step()
            steps.zero_grad(set_to_none=True)
            if number == job.warm:
                began = synchronized_time()
        return synchronized_time() - began

    return train


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


def variants(sizes: Sizes) -> tuple[list[Variant], Rows]:
    """Return the ladder, those that compile last, and the texts that losses are measured on."""
    documents = tokenized(sizes.documents + VALIDATION)
    texts = itertools.cycle(documents[VALIDATION:])
    ids = [token for one in documents[VALIDATION:] for token in one]
    count = sizes.blocks * (sizes.warm + sizes.steps)
    starts = itertools.cycle(range(0, len(ids) - sizes.block, sizes.block))

    def of_texts(batch: int) -> Job:
        rows = list(itertools.islice(texts, batch * (sizes.warm + sizes.steps)))
        return Job(rows, batch, BLOCK, sizes.warm)

    small, large = of_texts(BATCH), of_texts(sizes.batch)
    blocks = [ids[at : at + sizes.block] for at in itertools.islice(starts, count)]
    long = Job(blocks, sizes.blocks, sizes.block, sizes.warm)
    recipe_name, trainer = f"recipe, batch {BATCH}, fp32", f"Trainer, batch {sizes.batch}, bf16"
    shape = f"{sizes.blocks} x {sizes.block:,}"
    loop, compiled_loop = f"nanoGPT, {shape}", f"nanoGPT, {shape}, compiled"
    return [
        Variant(recipe_name, recipe_name, plain_trainer(bf16=False), small),
        Variant(f"fresh, batch {BATCH}", recipe_name, fresh(), small),
        Variant(trainer, trainer, plain_trainer(bf16=True), large),
        Variant(f"fresh, batch {sizes.batch}", trainer, fresh(), large),
        Variant(loop, compiled_loop, nano_loop(compiled=False), long),
        Variant(f"fresh, {shape}", compiled_loop, fresh(), long),
        Variant(compiled_loop, compiled_loop, nano_loop(compiled=True), long, compiles=True),
        Variant(f"fresh, {shape}, compiled", compiled_loop, fresh("compiled"), long, compiles=True),
        Variant(f"fresh, batch {BATCH}, graphs", recipe_name, fresh("graphs"), small, compiles=True),
        Variant(f"fresh, batch {sizes.batch}, compiled", trainer, fresh("compiled"), large, compiles=True),
    ], documents[:VALIDATION]


def matrix_rate(size: int) -> float:
    """Return the floating-point operations a second of square bf16 matrix products."""
    left, right = (torch.randn(size, size, device=DEVICE, dtype=torch.bfloat16) for _ in range(2))
    count = 20 if ON_GPU else 2
    for _ in range(count):
        left @ right
    began = synchronized_time()
    for _ in range(count):
        left @ right
    return 2 * size**3 * count / (synchronized_time() - began)


def measure(plan: Plan, emit: Emit) -> None:
    """Run the ladder, round after round while there is time."""
    sizes = QUICK if plan.quick else FULL
    limit = matrix_rate(sizes.product)
    emit(Figure("bf16 matrix products", "", limit / 1e12, "TFLOP/s"))
    ladder, documents = variants(sizes)
    took: dict[str, float] = {}
    for number in range(plan.rounds):
        for variant in [*ladder[number % len(ladder) :], *ladder[: number % len(ladder)]]:
            if variant.compiles and plan.quick:
                emit(Figure(variant.name, variant.peer, reason="compiling takes longer than a quick run"))
            elif (left := plan.deadline - time.monotonic()) > took.get(variant.name, 0.0):
                began = time.monotonic()
                _run(variant, sizes, documents, limit, emit)
                took[variant.name] = time.monotonic() - began
            elif number == 0:
                emit(Figure(variant.name, variant.peer, reason=f"no time was left ({left:.0f} s)"))


def _run(variant: Variant, sizes: Sizes, documents: Rows, limit: float, emit: Emit) -> None:
    """Run a variant once, and emit its figure or what went wrong."""
    try:
        with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ):  # Trainer sets variables
            os.chdir(folder)
            torch.set_float32_matmul_precision("highest")
            torch.compiler.reset()
            with torch.device(DEVICE):
                model = load_model(sizes.model)
            for module in model.modules():
                if isinstance(module, torch.nn.Dropout):
                    module.p = 0.0 if variant.job.length == sizes.block else DROPOUT
            seconds = variant.train(model.train(), variant.job)
            rate = variant.job.timed_tokens / seconds
            operations = 6 * (model.num_parameters() - model.transformer.wpe.weight.numel())
            loss = None
            if not variant.name.startswith("nanoGPT"):
                with torch.device(DEVICE):
                    loss = validation_loss(model, documents)
            emit(Figure(variant.name, variant.peer, rate, "useful tokens/s", rate * operations / limit, loss))
    except Exception as error:  # of one variant: the others go on
        emit(Figure(variant.name, variant.peer, reason=f"{type(error).__name__}: {error}"))
    finally:
        os.chdir(harness.ROOT)
        gc.collect()
        if ON_GPU:
            torch.cuda.empty_cache()
