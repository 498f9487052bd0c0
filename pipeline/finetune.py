"""Stage `finetune`: the base, trained on the train split, validated after every epoch; the best epoch is the candidate.

The recipe is that of `params.yaml`, run by transformers' Trainer. Against overfitting: early stopping on the
validation loss, weight decay, dropout. A run that was stopped goes on from its last checkpoint and ends in the same
bytes; so does one on several devices, which this stage launches itself.
"""

import hashlib
import json
import logging
import math
import platform
import shutil
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from datasets import Dataset, DatasetDict
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    EarlyStoppingCallback,
    EvalPrediction,
    PreTrainedModel,
    ProgressCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.utils.logging import disable_progress_bar

from pipeline import params, paths
from pipeline.command import UserError, warn
from pipeline.modeling import cpu, lora, loss_model
from pipeline.modeling.context import check_prompts, context_of
from pipeline.modeling.nats import MOST_NATS
from pipeline.revision import git_revision
from pipeline.training import checkpoints, curve, devices, estimate, optimizer, precision
from pipeline.training.checkpoints import Checkpoints
from pipeline.training.precision import Precision
from pipeline.training.trainer import ResumableTrainer, Stopped, saved_choices
from pipeline.workspace import run_stage

# What model configurations call their dropout probabilities.
_DROPOUTS = ("resid_pdrop", "embd_pdrop", "attn_pdrop", "attention_dropout", "hidden_dropout", "resid_dropout")
_LIBRARIES = ("accelerate", "datasets", "tokenizers", "torch", "transformers")
_NO_PART = {"checkpoint_seconds"}  # in the result
_LOGGED_STEPS = 10_000  # at most: beyond it the loss is logged as the mean of several steps, so that memory is bounded
_PATIENCE = 10.0  # seconds for a run that was just told to stop: it may still be writing its checkpoint


def main() -> None:
    """Run the stage."""
    wanted = params.load().finetune
    devices.check(wanted.devices, wanted.batch_size)
    if wanted.devices > 1 and not devices.launched():
        sys.exit(devices.launch(wanted.devices, "pipeline.finetune"))
    devices.end_with_parent()
    try:
        if devices.is_first():
            with checkpoints.locked(paths.CHECKPOINTS, _PATIENCE):
                _train_and_write()
        else:
            _train_and_write()
    except Stopped as stopped:
        sys.exit(128 + stopped.number)  # what a shell reports for a command that a signal ended


def _train_and_write() -> None:
    # Its bars are of no use beside the training's, and what it warns of is meant: tied weights stored once, a loss
    # function by default, the best model loaded by ourselves.
    disable_progress_bar()
    for name in ("distributed.tensor_parallel", "modeling_utils", "trainer", "trainer_callback"):
        logging.getLogger(f"transformers.{name}").setLevel(logging.ERROR)
    all_params = params.load()
    wanted = all_params.finetune
    # `tokenize` checks them too, but DVC skips it where only section `evaluate` has changed.
    tokenizer = AutoTokenizer.from_pretrained(paths.BASE, local_files_only=True, trust_remote_code=False)
    config = AutoConfig.from_pretrained(paths.BASE, local_files_only=True, trust_remote_code=False)
    check_prompts(all_params.evaluate.prompts, tokenizer, context_of(config))
    tokens = DatasetDict.load_from_disk(paths.TOKENS)
    cpu.use_physical_cores()
    store = Checkpoints(paths.CHECKPOINTS / _key(all_params))
    choices = devices.agreed(lambda: _choices(store, tokens["train"], wanted))

    model = make_model(paths.BASE, wanted, choices["precision"])
    trainer = make_trainer(model, tokens, wanted, choices, store)
    try:
        trainer.resume()
    except Stopped as stopped:
        last = store.last()
        goes_on = f"goes on from step {last.name.rpartition('-')[2]}" if last else "starts again"
        warn(
            f"stopped by {stopped} at step {trainer.state.global_step} of {trainer.state.max_steps};"
            f" `dvc repro` {goes_on}"
        )
        raise
    if not devices.is_first():
        return
    if wanted.lora_rank:
        lora.merge(model)
    with checkpoints.disk_errors("the results", Path(), "make room, then `dvc repro` only writes them again"):
        metrics = _write_curves(trainer.state)
        _save_candidate(model, all_params, choices, metrics)
    shutil.rmtree(paths.CHECKPOINTS)


def _choices(store: Checkpoints, rows: Dataset, wanted: params.Finetune) -> dict[str, Any]:
    """Return the precision and the rows a step, as the run that goes on chose them, else as measured now.

    Says what the run will take; raises UserError where it cannot fit.
    """
    store.clean()
    if last := store.last():
        return saved_choices(last)
    precision = precision.choose(wanted.precision)
    model = make_model(paths.BASE, wanted, precision).to("cuda" if torch.cuda.is_available() else "cpu")
    share = 8 if wanted.batch_size == "auto" else wanted.batch_size // wanted.devices
    with precision.autocast(precision):
        measured = estimate.measure(
            model, rows, loss_model.collate(model), optimizer.optimizer(wanted.learning_rate), share
        )
    if wanted.batch_size == "auto":
        share = estimate.auto_batch_size(measured, len(rows) // wanted.devices)
    kept = json.loads(paths.TOKEN_BUDGET.read_text(encoding="utf-8"))["splits"]["train"]["kept"]
    expected = estimate.expect(measured, share, wanted.epochs, math.ceil(len(rows) / wanted.devices), kept)
    estimate.check(expected, measured, share, wanted.activation_checkpointing)
    warn(str(expected))
    return {"precision": precision, "batch_size": share * wanted.devices}


def make_model(folder: Path, wanted: params.Finetune, precision: Precision) -> PreTrainedModel:
    """Return the base, ready for the recipe's training: fast, and with adapters if they are what is trained."""
    model = loss_model.prepare(load_base(folder, wanted.dropout), precision)
    if wanted.lora_rank:
        lora.add(model, wanted.lora_rank)
    if wanted.activation_checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    return model


def load_base(folder: Path, dropout: float) -> PreTrainedModel:
    """Return the base model in float32, with `dropout` wherever its architecture has one."""
    config = AutoConfig.from_pretrained(
        folder,
        use_cache=False,  # with a cache, packed rows would attend to each other
        local_files_only=True,
        trust_remote_code=False,
    )
    for name in _DROPOUTS:
        if hasattr(config, name):
            setattr(config, name, dropout)
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        folder,
        config=config,
        dtype=torch.float32,
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
    )
    return model


def make_trainer(
    model: PreTrainedModel,
    tokens: dict[str, Dataset],
    wanted: params.Finetune,
    choices: dict[str, Any],
    store: Checkpoints,
) -> ResumableTrainer:
    """Return the Trainer of the recipe for what `make_model` returned; `choices` are its precision and batch_size.

    Its best epoch is the one with the lowest loss a validation token.
    """
    rows = choices["batch_size"] // wanted.devices
    steps = wanted.epochs * math.ceil(len(tokens["train"]) / choices["batch_size"])
    processed = steps * choices["batch_size"] * len(tokens["train"][0]["input_ids"])
    arguments = TrainingArguments(
        output_dir=str(paths.CHECKPOINTS),
        learning_rate=wanted.learning_rate,
        per_device_train_batch_size=rows,
        per_device_eval_batch_size=8 * rows,  # no gradients are kept, so more fits
        num_train_epochs=wanted.epochs,
        weight_decay=wanted.weight_decay,
        lr_scheduler_type="constant_with_warmup" if wanted.schedule == "constant" else wanted.schedule,
        warmup_steps=wanted.warmup_share,  # below 1 it is a share of all steps
        seed=wanted.seed,
        eval_strategy="epoch",
        eval_on_start=True,  # the base's loss, from which the curve starts
        batch_eval_metrics=True,  # batch by batch, so that memory does not grow with the validation split
        save_strategy="epoch",
        restore_callback_states_from_checkpoint=True,  # early stopping goes on counting where it was
        metric_for_best_model="token_loss",
        greater_is_better=False,
        logging_steps=math.ceil(steps / _LOGGED_STEPS),
        logging_nan_inf_filter=False,  # a loss that is no number is shown, not replaced by the one before
        report_to="none",
        remove_unused_columns=False,  # the columns are the model's inputs already
        use_cpu=wanted.devices > 1 and not torch.cuda.is_available(),  # unsaid, accelerate joins no processes on CPUs
        **loss_model.training_arguments(choices["precision"], 6 * model.num_parameters() * processed),
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)  # with more, Trainer splits each batch over all GPUs it sees
    trainer = ResumableTrainer(
        model=model,
        args=arguments,
        train_dataset=tokens["train"],
        eval_dataset=tokens["validation"],
        data_collator=loss_model.collate(model),
        optimizer_cls_and_kwargs=optimizer.optimizer(wanted.learning_rate),
        compute_metrics=_TokenLoss(),
        callbacks=[EarlyStoppingCallback(wanted.early_stopping_patience)],
        checkpoints=store,
        seconds=wanted.checkpoint_seconds,
        choices=choices,
    )
    trainer.remove_callback(ProgressCallback)  # it prints a line a step
    trainer.add_callback(_Progress())
    return trainer


class _TokenLoss:
    """The mean loss a token, in nats, summed up batch by batch; Trainer's `eval_loss` is the mean over batches."""

    def __init__(self) -> None:
        self._sums = torch.zeros(2, dtype=torch.float64)

    def __call__(self, scored: EvalPrediction, compute_result: bool) -> dict[str, float]:
        self._sums += scored.predictions.double().sum(dim=0).cpu()
        if not compute_result:
            return {}
        loss, count = self._sums.tolist()
        self._sums.zero_()
        if not loss / count <= MOST_NATS:  # so that NaN is refused, too
            raise UserError(
                "params.yaml: finetune.learning_rate: training diverged, the validation loss is "
                f"{loss / count:.4g} nats a token; lower it (or take another base, if no step was trained yet)"
            )
        return {"token_loss": loss / count}


class _Progress(ProgressCallback):
    """The progress bar with the loss beside it, and one line an epoch."""

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


def _write_curves(state: TrainerState) -> dict[str, Any]:
    """Write the two loss curves as CSV and as a picture, and the stage's metrics; return the metrics."""
    history = pd.DataFrame(state.log_history)
    training = history.loc[history["loss"].notna(), ["step", "epoch", "loss"]].reset_index(drop=True)
    validation = history.loc[history["eval_token_loss"].notna(), ["epoch", "eval_token_loss"]]
    validation = validation.rename(columns={"eval_token_loss": "loss"}).astype({"epoch": int})
    trained = validation.loc[validation["epoch"] > 0].reset_index(drop=True)
    best = trained.loc[trained["loss"].idxmin()]
    best_epoch = int(best["epoch"])
    metrics = {
        "steps": int(training["step"].max()),
        "epochs": int(trained["epoch"].max()),
        "best_epoch": best_epoch,
        "validation_loss_base": float(validation.loc[validation["epoch"] == 0, "loss"].iloc[0]),
        "validation_loss": float(best["loss"]),
    }
    if best_epoch < metrics["epochs"]:
        warn(
            f"warning: the validation loss turned after epoch {best_epoch}: {best['loss']:.4f} then,"
            f" {trained['loss'].iloc[-1]:.4f} after epoch {metrics['epochs']}; the best epoch's model is kept"
        )
    paths.TRAINING_LOSS.parent.mkdir(parents=True, exist_ok=True)
    training[["step", "loss"]].to_csv(paths.TRAINING_LOSS, index=False, lineterminator="\n")
    paths.LOSS_CURVE.write_text(
        curve.draw(training[["epoch", "loss"]], validation, best_epoch), encoding="utf-8", newline="\n"
    )
    validation.to_csv(paths.VALIDATION_LOSS, index=False, lineterminator="\n")
    paths.FINETUNE_METRICS.write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
    return metrics


def _save_candidate(
    model: PreTrainedModel, all_params: params.Params, choices: dict[str, Any], metrics: dict[str, Any]
) -> None:
    """Write weights, tokenizer, generation config and `manifest.json`, which says what made the model."""
    tokenizer = AutoTokenizer.from_pretrained(paths.BASE, local_files_only=True, trust_remote_code=False)
    model.config.use_cache = model.generation_config.use_cache = True
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.eos_token_id
    budget = json.loads(paths.TOKEN_BUDGET.read_text(encoding="utf-8"))
    manifest = {
        "base": all_params.base,
        "base_sha256": _hash_of_folder(paths.BASE),
        "corpus": all_params.data.path,
        "data": budget["data"],
        "clean_md5": budget["clean_md5"],  # by which `data_diff` finds the clean data again
        "params": {
            "tokenize": all_params.tokenize.model_dump(),
            "finetune": all_params.finetune.model_dump(exclude=_NO_PART) | choices,
        },
        "git_revision": git_revision(),
        "libraries": {name: version(name) for name in _LIBRARIES},
        "metrics": metrics,
    }
    paths.clear(paths.CANDIDATE)
    model.save_pretrained(paths.CANDIDATE)
    tokenizer.save_pretrained(paths.CANDIDATE)
    for file in paths.CANDIDATE.iterdir():
        file.chmod(0o644)  # safetensors writes for the owner alone; a container runs as another user
    paths.MANIFEST.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def _key(all_params: params.Params) -> str:
    """Return a hash of all that determines the result, so that a checkpoint is only taken up by an equal run."""
    sources = [Path(__file__).with_name("__init__.py"), Path(__file__), *Path(devices.__file__).parent.glob("*.py")]
    parts = [
        all_params.finetune.model_dump_json(exclude=_NO_PART),
        _hash_of_folder(paths.BASE),
        _hash_of_folder(paths.TOKENS),
        *(file.read_text(encoding="utf-8") for file in sorted(sources)),
        *(version(name) for name in _LIBRARIES),
        # Sums in another order differ in their last digit.
        platform.machine(),
        torch.backends.cpu.get_cpu_capability(),
        str(torch.get_num_threads()),
        torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _hash_of_folder(folder: Path) -> str:
    """Return the SHA-256 of the names and bytes of all files below `folder`."""
    total = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        total.update(file.relative_to(folder).as_posix().encode() + b"\0")
        with file.open("rb") as opened:
            total.update(hashlib.file_digest(opened, "sha256").digest())
    return total.hexdigest()


if __name__ == "__main__":
    run_stage(main, inputs=(paths.BASE, paths.TOKENS, paths.TOKEN_BUDGET), first=cpu.preload_allocator)
