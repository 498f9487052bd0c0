"""Stage `finetune`: trains the base on the train split and validates it every epoch; the best epoch is the candidate.

The recipe is the section of `params.yaml`, run by transformers' Trainer. Against overfitting: early stopping on the
validation loss, weight decay, dropout. A stopped run continues from its last checkpoint and ends in the same bytes; so
does one on several devices, which this stage launches itself.
"""

import hashlib
import json
import logging
import math
import platform
import shutil
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from datasets import Dataset, DatasetDict
from transformers import PreTrainedModel, TrainerState
from transformers.utils.logging import disable_progress_bar

from pipeline import fit_warnings, params, paths
from pipeline.command import warn
from pipeline.modeling import cpu, four_bits, lora
from pipeline.modeling.context import check_prompts
from pipeline.modeling.loading import load_config, load_tokenizer
from pipeline.modeling.loss_model import LossModel
from pipeline.revision import git_revision
from pipeline.tasks import registry
from pipeline.tasks.protocol import CorpusInfo, Task
from pipeline.training import checkpoints, curve, devices, estimate, execution, optimizer, plan, precision
from pipeline.training.checkpoints import Checkpoints
from pipeline.training.precision import Precision
from pipeline.training.recipe import RunConfig, build_trainer
from pipeline.training.trainer import Stopped, saved_run_config
from pipeline.workspace import run_stage

_LIBRARIES = ("accelerate", "datasets", "tokenizers", "torch", "transformers")
NON_SEMANTIC_KEYS = {"checkpoint_seconds"}  # of the section: they do not change the result
_PATIENCE = 10.0  # seconds: a run that was just stopped may still be writing its checkpoint


def main() -> None:
    """Run the stage."""
    config = params.load().finetune
    devices.check(config.devices)
    if config.frozen_weights == "nf4":
        four_bits.check()
    if config.devices > 1 and not devices.launched():
        sys.exit(devices.launch(config.devices, "pipeline.finetune"))
    devices.end_with_parent()
    try:
        if devices.is_first():
            with checkpoints.locked(paths.CHECKPOINTS, _PATIENCE):
                _train_and_write()
        else:
            _train_and_write()
    except Stopped as stopped:
        sys.exit(128 + stopped.number)  # a shell's code for a command that a signal ended


def _train_and_write() -> None:
    _silence_libraries()
    if devices.is_first():
        _repeat_warnings()
    all_params = params.load()
    config = all_params.finetune
    # `tokenize` checks the prompts too, but DVC skips it where only the section `evaluate` has changed.
    task = registry.get_task(all_params.task, all_params.task_config)
    check_prompts(all_params.evaluate.prompts, load_tokenizer(paths.BASE), task.context(load_config(paths.BASE)))
    tokens = DatasetDict.load_from_disk(paths.TOKENS)
    cpu.use_physical_cores()
    store = Checkpoints(paths.CHECKPOINTS / run_key(all_params))
    build = ModelBuilder(task, paths.BASE, config, corpus_info())
    run_config = devices.broadcast_object(lambda: _run_config(build, store, tokens["train"], all_params))

    model = build(run_config.precision)
    trainer = build_trainer(model, tokens, config, run_config, store)
    try:
        trainer.resume()
    except Stopped as stopped:
        step, steps = trainer.state.global_step, trainer.state.max_steps
        warn(f"stopped by {stopped} at step {step} of {steps}; `dvc repro` {store.next_run()}")
        raise
    if not devices.is_first():
        return
    if config.sharding != "none":  # no process holds the model
        model = build(run_config.precision)
        trainer.load_best(model)
    adapter = lora.take(model.model) if config.lora_rank else None
    if adapter:
        lora.merge(model.model)
    with checkpoints.disk_errors("the results", Path(), "free some space, then `dvc repro` only writes them again"):
        metrics = _write_curves(trainer.state, task.unit)
        settings = task.settings_of(model, tokens["validation"], build.info)
        _save_candidate(model.model, adapter, settings, all_params, run_config, metrics)
    shutil.rmtree(paths.CHECKPOINTS)


def _silence_libraries() -> None:
    """Hide bars beside the training's own, and warnings about what is intended: tied weights, the default loss."""
    disable_progress_bar()
    for name in ("distributed.tensor_parallel", "modeling_utils", "trainer", "trainer_callback"):
        logging.getLogger(f"transformers.{name}").setLevel(logging.ERROR)


def _repeat_warnings() -> None:
    """Say again what `tokenize` warned of: DVC may have skipped it. Not a dependency: it changes no result."""
    for sentence in fit_warnings.read().values():
        warn(sentence)


def corpus_info() -> CorpusInfo:
    """Return what `tokenize` found that the task must know of the whole corpus."""
    if not paths.CORPUS_INFO.exists():
        return {}
    info: CorpusInfo = json.loads(paths.CORPUS_INFO.read_text(encoding="utf-8"))
    return info


def _run_config(build: "ModelBuilder", store: Checkpoints, rows: Dataset, all_params: params.Params) -> RunConfig:
    """Return the run config of the run that this one resumes, or else one from measurements, with an estimate.

    Raises UserError where the run cannot fit into memory.
    """
    store.clean()
    if last := store.last():
        return RunConfig(**saved_run_config(last))
    config = all_params.finetune
    of_base = load_config(build.folder)
    plan.check(of_base, config, plan.Rows.of(all_params), plan.Machine.this())
    chosen = precision.choose(config.precision, of_base.hidden_size)
    if config.sharding != "none":
        warn(
            f"training in {precision.describe(chosen, config.devices)}, the model split among {config.devices} devices"
        )
        return RunConfig(chosen, int(config.batch_size))
    model = build(chosen).to("cuda" if torch.cuda.is_available() else "cpu")
    share = 8 if config.batch_size == "auto" else config.batch_size // config.devices  # rows per step of one process
    at_once = config.at_once(share)
    with precision.autocast(chosen):
        measurement = estimate.measure(model, rows, optimizer.class_and_settings(config.learning_rate), at_once)
    if config.batch_size == "auto":
        whole = config.rows_at_once == "all"
        share = estimate.auto_batch_size(measurement, len(rows) // config.devices, None if whole else at_once)
        at_once = config.at_once(share)
    kept = json.loads(paths.TOKEN_BUDGET.read_text(encoding="utf-8"))["splits"]["train"]["kept"]
    prediction = estimate.predict(
        measurement, share, config.epochs, math.ceil(len(rows) / config.devices), kept, at_once
    )
    estimate.check(prediction, measurement, at_once, config.activation_checkpointing)
    warn(f"training in {precision.describe(chosen, config.devices)}: {prediction}")
    del model  # its memory is the trial's
    is_one_gpu = torch.cuda.is_available() and config.devices == 1
    parts = share // at_once
    way = execution.choose(build, chosen, rows, at_once, parts * prediction.steps, parts > 1) if is_one_gpu else "eager"
    return RunConfig(chosen, share * config.devices, way)


@dataclass(frozen=True)
class ModelBuilder:
    """Makes the base ready for the recipe's training; the same weights each time."""

    task: Task
    folder: Path
    config: params.Finetune
    info: CorpusInfo

    def __call__(self, chosen: Precision) -> LossModel:
        """Return the model with its loss; with adapters where these are trained."""
        precision.use(chosen)
        torch.manual_seed(self.config.seed)  # of the weights that the base does not have
        model = self.task.loss_model(
            self.task.load_for_training(self.folder, self.config.dropout, self.info), self.info
        )
        if self.config.lora_rank:
            torch.manual_seed(self.config.seed)  # of the adapters' initial weights
            lora.add(model.model, self.config.lora_rank)
            if self.config.frozen_weights == "nf4":
                four_bits.quantize(model.model, precision.dtype(chosen))
        if self.config.activation_checkpointing:
            model.model.activation_checkpointing_enable({"use_reentrant": False})
        return model


def _write_curves(state: TrainerState, unit: str) -> dict[str, Any]:
    """Write the two loss curves as CSV and as a chart, and the stage's metrics; return the metrics."""
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
            f"warning: the validation loss rose after epoch {best_epoch}: from {best['loss']:.4f} to"
            f" {trained['loss'].iloc[-1]:.4f} after epoch {metrics['epochs']}; the best epoch's model is kept"
        )
    paths.TRAINING_LOSS.parent.mkdir(parents=True, exist_ok=True)
    training[["step", "loss"]].to_csv(paths.TRAINING_LOSS, index=False, lineterminator="\n")
    paths.LOSS_CURVE.write_text(
        curve.draw(training[["epoch", "loss"]], validation, best_epoch, unit), encoding="utf-8", newline="\n"
    )
    validation.to_csv(paths.VALIDATION_LOSS, index=False, lineterminator="\n")
    paths.FINETUNE_METRICS.write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
    return metrics


def _save_candidate(
    model: PreTrainedModel,
    adapter: lora.Adapter | None,
    settings: dict[str, Any],
    all_params: params.Params,
    run_config: RunConfig,
    metrics: dict[str, Any],
) -> None:
    """Write weights, adapter, tokenizer, the task's settings and `manifest.json`, which records the model's inputs."""
    tokenizer = load_tokenizer(paths.BASE)
    if model.can_generate():
        model.config.use_cache = model.generation_config.use_cache = True
        if not model.config.is_encoder_decoder:  # these have a token for padding
            model.generation_config.eos_token_id = tokenizer.eos_token_id
            model.generation_config.pad_token_id = tokenizer.eos_token_id
    budget = json.loads(paths.TOKEN_BUDGET.read_text(encoding="utf-8"))
    # Later settings have defaults: with these a manifest stays as it was.
    finetune = all_params.finetune.model_dump(exclude=NON_SEMANTIC_KEYS, exclude_defaults=True)
    manifest = {
        "base": all_params.base,
        "base_sha256": _hash_of_folder(paths.BASE),
        "corpus": all_params.data.path,
        "data": budget["data"],
        "clean_md5": budget["clean_md5"],  # `data_diff` finds the clean data by it
        "params": {
            **_of_task(all_params),
            "tokenize": all_params.tokenize.model_dump(),
            "finetune": finetune | run_config.recorded(),
        },
        "git_revision": git_revision(),
        "libraries": {name: version(name) for name in _LIBRARIES},
        "metrics": metrics,
    }
    paths.clear(paths.CANDIDATE)
    model.save_pretrained(paths.CANDIDATE)
    tokenizer.save_pretrained(paths.CANDIDATE)
    if adapter:
        adapter.save(paths.ADAPTER, all_params.base)
    if settings:
        paths.TASK_SETTINGS.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    for file in (path for path in paths.CANDIDATE.rglob("*") if path.is_file()):
        file.chmod(0o644)  # safetensors writes files for the owner alone; a container runs as another user
    paths.MANIFEST.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def _of_task(all_params: params.Params) -> dict[str, Any]:
    """Return the task and its settings, for the manifest; nothing where there is nothing to set."""
    settings = all_params.task_config.model_dump()
    return {"task": all_params.task, all_params.task: settings} if settings else {}


def run_key(all_params: params.Params) -> str:
    """Return a hash of everything that determines the result, so that only an equal run resumes a checkpoint."""
    root = Path(__file__).parent
    sources = [
        root / "__init__.py",
        Path(__file__),
        *(root / "training").glob("*.py"),
        *(root / "modeling").glob("*.py"),
        *(file for file in (root / "tasks").glob("*.py") if file.stem not in {*registry.NAMES} - {all_params.task}),
    ]
    parts = [
        all_params.task,
        all_params.task_config.model_dump_json(),
        all_params.finetune.model_dump_json(exclude=NON_SEMANTIC_KEYS),
        _hash_of_folder(paths.BASE),
        _hash_of_folder(paths.TOKENS),
        *(file.read_text(encoding="utf-8") for file in sorted(sources)),
        *(version(name) for name in _LIBRARIES),
        # Hardware and threads decide the order of sums, and so their last digit.
        platform.machine(),
        torch.backends.cpu.get_cpu_capability(),
        str(torch.get_num_threads()),
        torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _hash_of_folder(folder: Path) -> str:
    """Return the SHA-256 of the names and bytes of all files below `folder`."""
    digest = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(file.relative_to(folder).as_posix().encode() + b"\0")
        with file.open("rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()


if __name__ == "__main__":
    run_stage(main, inputs=(paths.BASE, paths.TOKENS, paths.TOKEN_BUDGET), environment=cpu.allocator_environment)
