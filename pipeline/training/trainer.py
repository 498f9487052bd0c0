"""transformers' Trainer, so that it ends in the same bytes however often it was stopped, on however many devices.

What Trainer leaves out and this adds: checkpoints within an epoch that hold all of its state (weights, optimizer,
schedule, random state of each process, early stopping, losses so far) and no pickle; an end at a signal; no row seen
twice in an epoch on several devices.
"""

import json
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from pipeline.modeling.batches import IGNORED_LABEL
from pipeline.training.checkpoints import Checkpoints
from pipeline.training.devices import GlobalBatches, Rows, is_first

_STATE = "trainer_state.json"  # Trainer's own name: it reads this file itself
_WEIGHTS = "weights.safetensors"  # of the parameters that are trained: the others are the base's
_BEST = "best.safetensors"  # likewise, after the best epoch; not there while that is the last one
_OPTIMIZER = "optimizer.safetensors"
_GROUPS = "optimizer.json"
_RANDOM = "random.safetensors"
_CHOICES = "choices.json"


class Stopped(Exception):  # noqa: N818 - it is no error
    """Training ended because a signal asked for it; `number` is the signal's."""

    def __init__(self, number: int) -> None:
        """Keep the number."""
        super().__init__(signal.Signals(number).name)
        self.number = number


class ResumableTrainer(Trainer):
    """Trainer with exact checkpoints every `seconds` and after every epoch, in `checkpoints`."""

    def __init__(self, *, checkpoints: Checkpoints, seconds: float, choices: dict[str, Any], **arguments: Any) -> None:
        """Take Trainer's own arguments besides; `choices` go into every checkpoint, see `saved_choices`."""
        super().__init__(**arguments)
        self._checkpoints = checkpoints
        self._choices = choices
        self.add_callback(_Moments(seconds))
        self.batches = GlobalBatches(
            len(self.train_dataset),
            self._train_batch_size * self.args.world_size,
            self.args.seed,
            self.args.process_index,
            self.args.world_size,
        )
        # Each process its own dropout: of one mask for all rows of a step, some units would learn nothing in it.
        torch.manual_seed(self.args.seed + self.args.process_index)

    def resume(self) -> None:
        """Train from the last checkpoint, or from the start; the model is then the best epoch's."""
        last = self._checkpoints.last()
        self.args.eval_on_start = last is None  # a run that goes on has the base's loss in its state
        with _signals_noted():
            if last and _has_ended(last):  # it was stopped while its results were written
                self.state = TrainerState.load_from_json(str(last / _STATE))
            else:
                self.train(resume_from_checkpoint=str(last) if last else None)
        last = self._checkpoints.last()
        assert last is not None  # there is one after every epoch
        self._load_weights(last / (_BEST if (last / _BEST).exists() else _WEIGHTS))

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Return the loader of this device's share of each step."""

        def collate(fetched: Any) -> Any:
            rows, counts = fetched
            batch = self.data_collator(rows)
            if not counts:
                batch["labels"].fill_(IGNORED_LABEL)
            return batch

        return DataLoader(
            Rows(self.train_dataset),
            batch_sampler=self.batches,
            collate_fn=collate,
            pin_memory=self.args.dataloader_pin_memory,
        )

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Save all that the rest of the run hangs on, from the first process."""
        random = {"cpu": torch.get_rng_state()}
        if torch.cuda.is_available():
            random["cuda"] = torch.cuda.get_rng_state()
        device = self.args.device
        random = {name: self.accelerator.gather(state.to(device)).cpu() for name, state in random.items()}
        if self.args.should_save:
            for callback in (*self.callback_handler.callbacks, self.control):
                if isinstance(callback, ExportableState):
                    self.state.stateful_callbacks[type(callback).__name__] = callback.state()
            with self._checkpoints.writing(self.state.global_step) as folder:
                self._write(folder, random)
            self._checkpoints.delete_others()

    def _write(self, folder: Path, random: dict[str, torch.Tensor]) -> None:
        save_file({name: value.data.contiguous() for name, value in self._trained().items()}, folder / _WEIGHTS)
        last = self._checkpoints.last()
        if self.state.best_global_step not in (None, 0, self.state.global_step) and last is not None:
            best = last / _BEST
            # No link: one damaged block would spoil both checkpoints.
            shutil.copyfile(best if best.exists() else last / _WEIGHTS, folder / _BEST)
        optimizer = self.optimizer.state_dict()
        tensors = {f"{at}.{key}": value for at, state in optimizer["state"].items() for key, value in state.items()}
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / _OPTIMIZER)
        groups = {"groups": optimizer["param_groups"], "schedule": self.lr_scheduler.state_dict()}
        (folder / _GROUPS).write_text(json.dumps(groups), encoding="utf-8")
        save_file(random, folder / _RANDOM)
        (folder / _CHOICES).write_text(json.dumps(self._choices), encoding="utf-8")
        self.state.save_to_json(str(folder / _STATE))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        self._load_weights(Path(resume_from_checkpoint) / _WEIGHTS)

    def _load_weights(self, file: Path) -> None:
        saved = load_file(file)
        with torch.no_grad():
            for name, parameter in self._trained().items():
                parameter.copy_(saved[name])

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        state: dict[int, dict[str, torch.Tensor]] = {}
        for name, tensor in load_file(Path(checkpoint) / _OPTIMIZER).items():
            at, key = name.split(".", maxsplit=1)
            state.setdefault(int(at), {})[key] = tensor
        saved = json.loads((Path(checkpoint) / _GROUPS).read_text(encoding="utf-8"))
        self.optimizer.load_state_dict({"state": state, "param_groups": saved["groups"]})
        self.lr_scheduler.load_state_dict(saved["schedule"])

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        saved = load_file(Path(checkpoint) / _RANDOM)
        devices, mine = self.args.world_size, self.args.process_index
        # A clone: torch reads a view's state from the start of what it is a view of.
        random = {name: states.chunk(devices)[mine].clone() for name, states in saved.items()}
        torch.set_rng_state(random["cpu"])
        if "cuda" in random:
            torch.cuda.set_rng_state(random["cuda"])

    def _trained(self) -> dict[str, torch.nn.Parameter]:
        return {name: value for name, value in self.model.named_parameters() if value.requires_grad}


def saved_choices(checkpoint: Path) -> dict[str, Any]:
    """Return what was measured and chosen when the run began, for another measurement might choose otherwise."""
    choices: dict[str, Any] = json.loads((checkpoint / _CHOICES).read_text(encoding="utf-8"))
    return choices


class _Moments(TrainerCallback):
    """When to save and when to stop; none of it has a part in what is computed."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._saved = time.monotonic()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._saved = time.monotonic()

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        kwargs["train_dataloader"].batch_sampler.set_epoch(state.global_step // _steps_an_epoch(state))

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.global_step % _steps_an_epoch(state) == 0:
            control.should_log = True  # what is not logged yet is in no checkpoint, and one follows the validation
        elif control.should_log:
            due = bool(_asked) or time.monotonic() - self._saved >= self._seconds
            control.should_save = bool(_of_the_first(int(due), args))

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._saved = time.monotonic()
        if number := _of_the_first(_asked[0] if _asked else 0, args):
            raise Stopped(number)

    def on_prediction_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if _asked:  # a validation may take long: it is done again
            raise Stopped(_asked[0])


_asked: list[int] = []  # the signal that asked training to end, if one did


@contextmanager
def _signals_noted() -> Iterator[None]:
    """Note the first SIGINT or SIGTERM instead of ending; a second one ends the process as usual."""

    def note(number: int, _frame: FrameType | None) -> None:
        for one, handler in before.items():
            signal.signal(one, handler)
        _asked.append(number)

    _asked.clear()
    # The first process decides for all, so that they stop at the same step.
    handler = note if is_first() else signal.SIG_IGN
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, handler)
    try:
        yield
        if _asked:
            raise Stopped(_asked[0])
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def _of_the_first(number: int, args: TrainingArguments) -> int:
    """Return the first process's `number`, in every process."""
    if args.world_size == 1:
        return number
    shared = torch.tensor([number], device=args.device)
    torch.distributed.broadcast(shared, src=0)
    return int(shared)


def _steps_an_epoch(state: TrainerState) -> int:
    return int(state.max_steps // state.num_train_epochs)


def _has_ended(checkpoint: Path) -> bool:
    """Tell whether training was over, at the last epoch or at an early stop, when `checkpoint` was saved."""
    state = TrainerState.load_from_json(str(checkpoint / _STATE))
    return bool(state.stateful_callbacks["TrainerControl"]["args"]["should_training_stop"])
