"""transformers' Trainer with exact checkpoints: a run ends in the same bytes however often it was stopped.

A checkpoint holds the complete training state (weights, optimizer, schedule, random state of each process, early
stopping, losses so far) and no pickle. This is the only module that overrides or sets private names of `Trainer`;
`tests/pipeline/training/test_trainer.py` checks that they are still there.
"""

import functools
import json
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from pipeline.modeling.batches import IGNORED_LABEL, Batch, TokenRow, to_device
from pipeline.training.checkpoints import Checkpoints
from pipeline.training.devices import ResumableBatchSampler, TokenDataset, broadcast_int, is_first
from pipeline.training.sharding import gathered, shard, split_like

_STATE = "trainer_state.json"  # Trainer reads this name itself
_WEIGHTS = "weights.safetensors"  # of the trained parameters: the others are the base's
_BEST = "best.safetensors"  # likewise, after the best epoch; absent while that is the last one
_OPTIMIZER = "optimizer.safetensors"
_GROUPS = "optimizer.json"
_RANDOM = "random.safetensors"
_RUN_CONFIG = "run_config.json"


class Stopped(Exception):  # noqa: N818 - not an error
    """A signal ended training; `number` is the signal's."""

    def __init__(self, number: int) -> None:
        """Keep the number."""
        super().__init__(signal.Signals(number).name)
        self.number = number


class StopSignal:
    """Notes the first SIGINT or SIGTERM instead of ending the process; a second one ends it as usual."""

    def __init__(self) -> None:
        """Note nothing yet."""
        self.number = 0  # of the signal; 0: none came

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Note signals inside the block; raises Stopped at its end if one came."""
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

        def restore() -> None:
            for number, handler in before.items():
                signal.signal(number, handler)

        def note(number: int, _frame: FrameType | None) -> None:
            restore()
            self.number = number

        for number in before:
            # The first process decides for all, so that they stop at the same step.
            signal.signal(number, note if is_first() else signal.SIG_IGN)
        try:
            yield
            if self.number:
                raise Stopped(self.number)
        finally:
            restore()


class ResumableTrainer(Trainer):
    """Trainer that checkpoints every `checkpoint_seconds` and after every epoch.

    On several devices no row is seen twice in an epoch.
    """

    def __init__(
        self,
        *,
        args: TrainingArguments,
        checkpoints: Checkpoints,
        checkpoint_seconds: float,
        run_config: dict[str, Any],
        sharding: str = "none",
        **arguments: Any,
    ) -> None:
        """Take Trainer's own arguments besides; `run_config` goes into every checkpoint, see `saved_run_config`."""
        args._n_gpu = min(args.n_gpu, 1)  # with more, Trainer splits each batch over all GPUs it sees
        self._is_sharded = sharding != "none"
        if self._is_sharded:
            shard(arguments["model"])
        super().__init__(args=args, **arguments)
        if self._is_sharded:
            # accelerate wraps the model in nothing then. As an attribute of `model` it would forbid checkpoints.
            self.is_distributed_loading_by_transformers = True
        self._checkpoints = checkpoints
        self._run_config = run_config
        self._stop_signal = StopSignal()
        self.add_callback(CheckpointCallback(checkpoint_seconds, self._stop_signal))
        self.batch_sampler = ResumableBatchSampler(
            len(self.train_dataset),
            self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size,
            self.args.train_batch_size,
            self.args.seed,
            (self.args.process_index, self.args.world_size),
        )
        # One dropout mask per process: with the same for all rows of a step, some units would learn nothing in it.
        torch.manual_seed(self.args.seed + self.args.process_index)

    def resume(self) -> None:
        """Train from the last checkpoint, or from the start; a model that is whole is then the best epoch's."""
        last = self._checkpoints.last()
        self.args.eval_on_start = last is None  # a resumed run has the base's loss in its state
        with self._stop_signal.noted():
            if last and _has_ended(last):  # it was stopped while its results were written
                self.state = TrainerState.load_from_json(str(last / _STATE))
            else:
                self.train(resume_from_checkpoint=str(last) if last else None)
        if not self._is_sharded:
            self.load_best(self.model)

    def load_best(self, model: torch.nn.Module) -> None:
        """Give `model`, which is whole, the weights after the best epoch."""
        last = self._checkpoints.last()
        assert last is not None  # every epoch ends with one
        _load_weights(last / (_BEST if (last / _BEST).exists() else _WEIGHTS), model)

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Return the loader of this device's share of each step, part by part."""
        return DataLoader(
            TokenDataset(self.train_dataset),
            batch_sampler=self.batch_sampler,
            collate_fn=functools.partial(_collate_share, self.data_collator),
            pin_memory=self.args.dataloader_pin_memory,
            num_workers=self.args.dataloader_num_workers,
            worker_init_fn=_ignore_interrupts,
        )

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Any]:
        """Return the batches of a step and the number of their labels, on the way to the device: nobody waits for them.

        Trainer's own copies block the host until the device has done all its work.
        """
        is_single = device.type == "cuda" and self.args.world_size == 1
        counted_on = torch.device("cpu") if is_single else device
        batches, count = super().get_batch_samples(epoch_iterator, num_batches, counted_on)
        if not is_single:
            return batches, count
        if count is not None:
            count = count.pin_memory().to(device, non_blocking=True)
        return [to_device(batch, device) for batch in batches], count

    def _move_model_to_device(self, model: Any, device: torch.device) -> None:
        """Leave a model that is split among devices where it is."""
        if not self._is_sharded:
            super()._move_model_to_device(model, device)

    @contextmanager
    def _defer_fsdp_gradient_reduction(self) -> Iterator[None]:
        """Split the gradients of each part at once: kept until the step's last part, they would be whole."""
        yield

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> None:
        """Compute none: the optimizer clips by its own, and for a log Trainer would read and write all gradients."""

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Save the complete training state, from the first process."""
        random = {"cpu": torch.get_rng_state()}
        if torch.cuda.is_available():
            random["cuda"] = torch.cuda.get_rng_state()
        device = self.args.device
        random = {name: self.accelerator.gather(state.to(device)).cpu() for name, state in random.items()}
        optimizer = self.optimizer.state_dict()
        tensors = {
            _WEIGHTS: {name: gathered(value.data) for name, value in _trained(self.model).items()},
            _OPTIMIZER: {
                f"{index}.{key}": gathered(value)
                for index, state in optimizer["state"].items()
                for key, value in state.items()
            },
            _RANDOM: random,
        }
        if self.args.should_save:
            for callback in (*self.callback_handler.callbacks, self.control):
                if isinstance(callback, ExportableState):
                    self.state.stateful_callbacks[type(callback).__name__] = callback.state()
            with self._checkpoints.writing(self.state.global_step) as folder:
                self._write(folder, tensors, optimizer["param_groups"])
            self._checkpoints.delete_others()

    def _write(self, folder: Path, tensors: dict[str, dict[str, torch.Tensor]], groups: Any) -> None:
        for file, content in tensors.items():
            save_file({name: tensor.contiguous() for name, tensor in content.items()}, folder / file)
        last = self._checkpoints.last()
        if self.state.best_global_step not in (None, 0, self.state.global_step) and last is not None:
            best = last / _BEST
            # Not a link: one damaged block would spoil both checkpoints.
            shutil.copyfile(best if best.exists() else last / _WEIGHTS, folder / _BEST)
        schedule = {"groups": groups, "schedule": self.lr_scheduler.state_dict()}
        (folder / _GROUPS).write_text(json.dumps(schedule), encoding="utf-8")
        (folder / _RUN_CONFIG).write_text(json.dumps(self._run_config), encoding="utf-8")
        self.state.save_to_json(str(folder / _STATE))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        _load_weights(Path(resume_from_checkpoint) / _WEIGHTS, self.model)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        state: dict[int, dict[str, torch.Tensor]] = {}
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        for name, tensor in load_file(Path(checkpoint) / _OPTIMIZER).items():
            index, key = name.split(".", maxsplit=1)
            state.setdefault(int(index), {})[key] = split_like(tensor, parameters[int(index)])
        saved = json.loads((Path(checkpoint) / _GROUPS).read_text(encoding="utf-8"))
        self.optimizer.load_state_dict({"state": state, "param_groups": saved["groups"]})
        self.lr_scheduler.load_state_dict(saved["schedule"])

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        saved = load_file(Path(checkpoint) / _RANDOM)
        # A clone: torch reads a view's state from the start of its storage.
        random = {
            name: states.chunk(self.args.world_size)[self.args.process_index].clone() for name, states in saved.items()
        }
        torch.set_rng_state(random["cpu"])
        if "cuda" in random:
            torch.cuda.set_rng_state(random["cuda"])


def _collate_share(collate: Callable[[list[TokenRow]], Batch], fetched: tuple[list[TokenRow], bool]) -> Batch:
    """Collate what a `TokenDataset` gives; no label counts where the rows do not."""
    rows, has_rows = fetched
    batch = collate(rows)
    if not has_rows:
        batch["labels"].fill_(IGNORED_LABEL)
    return batch


def _ignore_interrupts(_worker: int) -> None:
    """Leave Ctrl-C, which a terminal sends to the loader's processes too, to the trainer."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class CheckpointCallback(TrainerCallback):
    """Decides when to save and when to stop; neither changes what is computed."""

    def __init__(self, seconds: float, stop_signal: StopSignal) -> None:
        """Save every `seconds`, and before stopping at a signal."""
        self._seconds, self._stop_signal = seconds, stop_signal
        self._saved = time.monotonic()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the clock."""
        self._saved = time.monotonic()

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Give the sampler the epoch, which decides the order of the rows."""
        kwargs["train_dataloader"].batch_sampler.set_epoch(state.global_step // _steps_per_epoch(state))

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Ask for a checkpoint where one is due."""
        if state.global_step % _steps_per_epoch(state) == 0:
            control.should_log = True  # a checkpoint holds only logged losses, and one follows the validation
        elif control.should_log:
            is_due = bool(self._stop_signal.number) or time.monotonic() - self._saved >= self._seconds
            control.should_save = bool(broadcast_int(int(is_due), args.device))

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Stop all processes after a checkpoint if the first one got a signal."""
        self._saved = time.monotonic()
        if number := broadcast_int(self._stop_signal.number, args.device):
            raise Stopped(number)

    def on_prediction_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Stop at once: a validation may take long, and a resumed run repeats it."""
        if self._stop_signal.number:
            raise Stopped(self._stop_signal.number)


def saved_run_config(checkpoint: Path) -> dict[str, Any]:
    """Return what the run chose by measurement when it began: measuring again might choose otherwise."""
    run_config: dict[str, Any] = json.loads((checkpoint / _RUN_CONFIG).read_text(encoding="utf-8"))
    return run_config


def _trained(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    return {name: value for name, value in model.named_parameters() if value.requires_grad}


def _load_weights(file: Path, model: torch.nn.Module) -> None:
    saved = load_file(file)
    with torch.no_grad():
        for name, parameter in _trained(model).items():
            parameter.copy_(split_like(saved[name], parameter))


def _steps_per_epoch(state: TrainerState) -> int:
    return int(state.max_steps // state.num_train_epochs)


def _has_ended(checkpoint: Path) -> bool:
    """Tell whether training was over, at the last epoch or by early stopping, when `checkpoint` was saved."""
    state = TrainerState.load_from_json(str(checkpoint / _STATE))
    return bool(state.stateful_callbacks["TrainerControl"]["args"]["should_training_stop"])
