"""The recipe of `params.yaml` as a Trainer: its arguments, its validation metric, its progress."""

import math
import sys
from dataclasses import asdict, dataclass
from typing import Any

import torch
from datasets import Dataset
from transformers import (
    EarlyStoppingCallback,
    EvalPrediction,
    ProgressCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from pipeline import params, paths
from pipeline.command import UserError
from pipeline.modeling import compiled
from pipeline.modeling.compiled import Execution
from pipeline.modeling.loss_model import LossModel
from pipeline.modeling.nats import MAX_NATS
from pipeline.training import optimizer
from pipeline.training.checkpoints import Checkpoints
from pipeline.training.precision import Precision
from pipeline.training.progress import ProgressWriter
from pipeline.training.trainer import ResumableTrainer

_MAX_LOGGED_STEPS = 10_000  # beyond it a log entry is the mean of several steps, so that memory is bounded
_STEPS_BETWEEN_WAITS, _MIN_LOG_ENTRIES = 10, 100  # on a GPU: at most and at least
_WORKERS = 2  # processes that collate a GPU's batches ahead


@dataclass(frozen=True)
class RunConfig:
    """What a run chose by measurement when it began; a resumed run keeps it."""

    precision: Precision
    batch_size: int  # rows per step, over all devices
    execution: Execution = "eager"  # of the layers, on a GPU

    def recorded(self) -> dict[str, Any]:
        """Return it for the manifest, which names an execution only where there was a choice."""
        recorded = asdict(self)
        if self.execution == "eager":
            del recorded["execution"]
        return recorded


def build_trainer(
    model: LossModel,
    tokens: dict[str, Dataset],
    config: params.Finetune,
    run_config: RunConfig,
    checkpoints: Checkpoints,
) -> ResumableTrainer:
    """Return the Trainer of the recipe; its best epoch is the one with the lowest loss per validation token."""
    rows = tokens["train"]
    steps = config.epochs * math.ceil(len(rows) / run_config.batch_size)
    at_once = config.at_once(run_config.batch_size)
    compiled.use(model, run_config.execution, [rows[at] for at in range(min(at_once, len(rows)))])
    trainer = ResumableTrainer(
        model=model,
        args=_training_arguments(config, run_config, steps),
        train_dataset=rows,
        eval_dataset=tokens["validation"],
        data_collator=model.collate,
        optimizer_cls_and_kwargs=optimizer.class_and_settings(config.learning_rate),
        compute_metrics=_TokenLoss(),
        callbacks=[EarlyStoppingCallback(config.early_stopping_patience)],
        checkpoints=checkpoints,
        checkpoint_seconds=config.checkpoint_seconds,
        run_config=asdict(run_config),
        sharding=config.sharding,
    )
    trainer.remove_callback(ProgressCallback)  # it prints a line per step
    trainer.add_callback(_ProgressBar())
    trainer.add_callback(_ProgressFile())
    return trainer


def _training_arguments(config: params.Finetune, run_config: RunConfig, steps: int) -> TrainingArguments:
    """Return Trainer's arguments for a run of at most `steps` steps."""
    on_gpu = torch.cuda.is_available()
    share = run_config.batch_size // config.devices
    rows = config.at_once(share)
    return TrainingArguments(
        output_dir=str(paths.CHECKPOINTS),
        learning_rate=config.learning_rate,
        per_device_train_batch_size=rows,
        gradient_accumulation_steps=share // rows,  # each part's loss is divided by the labels of the whole step
        per_device_eval_batch_size=8 * rows,  # no gradients are kept, so more fits
        num_train_epochs=config.epochs,
        weight_decay=config.weight_decay,
        lr_scheduler_type="constant_with_warmup" if config.schedule == "constant" else config.schedule,
        warmup_steps=config.warmup_share,  # below 1 it is a share of all steps
        seed=config.seed,
        eval_strategy="epoch",
        eval_on_start=True,  # the base's loss, where the curve starts
        batch_eval_metrics=True,  # batch by batch, so that memory does not grow with the validation split
        save_strategy="epoch",
        restore_callback_states_from_checkpoint=True,  # early stopping continues counting
        metric_for_best_model="token_loss",
        greater_is_better=False,
        logging_steps=_logging_steps(steps, on_gpu),
        logging_nan_inf_filter=False,  # show a loss that is not finite instead of the previous one
        report_to="none",
        remove_unused_columns=False,  # the columns are the model's inputs already
        use_cpu=config.devices > 1 and not on_gpu,  # without it accelerate joins no processes on CPUs
        ddp_find_unused_parameters=not config.activation_checkpointing,  # the two exclude each other
        bf16=on_gpu and run_config.precision == "bf16",  # on a CPU it is torch's switch, see `precision.use`
        max_grad_norm=0.0,  # the optimizer clips
        dataloader_pin_memory=on_gpu,
        dataloader_num_workers=_WORKERS if on_gpu and sys.platform == "linux" else 0,
    )


def _logging_steps(steps: int, on_gpu: bool) -> int:
    """Return after how many steps the loss is read: for that the host waits for a GPU, so not after each of many."""
    few = min(_STEPS_BETWEEN_WAITS, steps // _MIN_LOG_ENTRIES) if on_gpu else 1
    return max(1, few, math.ceil(steps / _MAX_LOGGED_STEPS))


class _TokenLoss:
    """The mean loss in nats, summed batch by batch; Trainer's `eval_loss` is the mean over batches."""

    def __init__(self) -> None:
        self._sums = torch.zeros(2, dtype=torch.float64)  # loss, tokens

    def __call__(self, prediction: EvalPrediction, compute_result: bool) -> dict[str, float]:
        self._sums += prediction.predictions.double().sum(dim=0).cpu()
        if not compute_result:
            return {}
        loss, count = self._sums.tolist()
        self._sums.zero_()
        if not loss / count <= MAX_NATS:  # also true of NaN
            raise UserError(
                "params.yaml: finetune.learning_rate: training diverged, the validation loss is "
                f"{loss / count:.4g} nats; lower it (or take another base, if no step was trained yet)"
            )
        return {"token_loss": loss / count}


class _ProgressBar(ProgressCallback):
    """The progress bar with the loss beside it, and a line per epoch."""

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if self.training_bar is None or logs is None:
            return
        if "loss" in logs:
            self.training_bar.set_postfix(loss=f"{logs['loss']:.3f}", refresh=False)
        if "eval_token_loss" in logs:
            loss = logs["eval_token_loss"]
            self.training_bar.write(
                f"epoch {state.epoch or 0:.0f}: validation loss {loss:.4f}, perplexity {math.exp(loss):.2f}"
            )


class _ProgressFile(TrainerCallback):
    """Writes `paths.TRAINING_PROGRESS` from the first process."""

    def __init__(self) -> None:
        self._writer: ProgressWriter | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if not state.is_world_process_zero:
            return
        self._writer = ProgressWriter(paths.TRAINING_PROGRESS, state.global_step)
        for entry in state.log_history:  # of the run that this one resumes
            if "eval_token_loss" in entry:
                self._writer.epoch(round(entry["epoch"]), entry["eval_token_loss"])

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if self._writer is None or logs is None:
            return
        if "loss" in logs:
            self._writer.step(state.global_step, state.max_steps, logs["loss"])
        if "eval_token_loss" in logs:
            self._writer.epoch(round(state.epoch or 0), logs["eval_token_loss"])
