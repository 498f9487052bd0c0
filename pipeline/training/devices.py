"""More than one device: one process each, as under `torchrun`, and the same steps of the same rows as on one."""

import math
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from types import FrameType
from typing import IO, Any, Literal

import torch
from accelerate import PartialState  # type: ignore[import-untyped]
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from pipeline.command import UserError

_NOTHING = -1  # stands for "no row": a device that has none in an epoch's last step
_TIED_TO_PARENT = "FINETUNE_TIED_TO_PARENT"
_GRACE = 10.0  # seconds for the other processes to end once one has

Row = dict[str, list[int]]


def launched() -> int:
    """Return how many processes train together: 0 if nobody (we, torchrun, accelerate launch) has started them yet."""
    return int(os.environ["WORLD_SIZE"]) if "RANK" in os.environ and "WORLD_SIZE" in os.environ else 0


def is_first() -> bool:
    """Tell whether this is the process that writes and speaks."""
    return int(os.environ.get("RANK", "0")) == 0


def agreed(choose: Callable[[], Any]) -> Any:
    """Return what the first process's `choose` returns, in every process; none of the others calls it."""
    if launched() <= 1:
        return choose()
    PartialState(cpu=not torch.cuda.is_available())  # joins the processes
    chosen = [choose() if is_first() else None]
    torch.distributed.broadcast_object_list(chosen, src=0)
    return chosen[0]


def check(devices: int, batch_size: int | Literal["auto"]) -> None:
    """Raise UserError where `devices` cannot train together with steps of `batch_size` rows."""
    if batch_size != "auto" and batch_size % devices:
        multiple = math.ceil(batch_size / devices) * devices
        raise UserError(
            f"params.yaml: finetune.devices: found {devices}, but finetune.batch_size, {batch_size} rows a step over"
            f" all devices, is no multiple of it; set batch_size to one, for example {multiple}"
        )
    if launched() and launched() != devices:
        raise UserError(
            f"params.yaml: finetune.devices: found {devices}, but {launched()} processes were launched;"
            f" set it to {launched()}, or run `dvc repro`, which launches them itself"
        )
    if torch.cuda.is_available() and devices > torch.cuda.device_count():
        raise UserError(
            f"params.yaml: finetune.devices: found {devices}, but this machine has {torch.cuda.device_count()} GPUs;"
            " set it to that or less"
        )


def launch(devices: int, module: str) -> int:
    """Run `python -m module` in `devices` processes with torchrun's environment; return the first exit code not 0.

    Signals to end are handed on; when one process ends in an error the others are ended; none outlives this one.
    """
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # port 0: one that is free
    threads = max(1, len(os.sched_getaffinity(0)) // devices) if hasattr(os, "sched_getaffinity") else 1
    shared = {
        "WORLD_SIZE": str(devices),
        "LOCAL_WORLD_SIZE": str(devices),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",  # the store is here already: every process only connects to it
        _TIED_TO_PARENT: "1",
    }
    with ExitStack() as opened:
        processes, errors = [], []
        for rank in range(devices):
            # Only the first speaks; what another has to say is shown if it is the one that failed.
            errors.append(opened.enter_context(tempfile.TemporaryFile()))
            processes.append(
                subprocess.Popen(  # noqa: S603 - our own module
                    [sys.executable, "-m", module],
                    env={
                        "OMP_NUM_THREADS": str(threads),
                        **os.environ,
                        **shared,
                        "RANK": str(rank),
                        "LOCAL_RANK": str(rank),
                    },
                    stdin=subprocess.PIPE,
                    stderr=errors[rank] if rank else None,
                    start_new_session=True,  # Ctrl-C reaches this process alone, which hands it on once
                )
            )
        before = {number: signal.signal(number, _hand_on(processes[0])) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            return _wait(processes, errors)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def end_with_parent() -> None:
    """End this process at once when the one that launched it is gone, even by SIGKILL: its pipe then closes."""
    if os.environ.pop(_TIED_TO_PARENT, None):
        threading.Thread(target=lambda: (os.read(0, 1), os._exit(1)), daemon=True).start()


def _hand_on(process: subprocess.Popen[bytes]) -> Any:
    """Return a signal handler; the first process decides for all at which step they stop."""

    def handler(number: int, _frame: FrameType | None) -> None:
        process.send_signal(number)

    return handler


def _wait(processes: list[subprocess.Popen[bytes]], errors: Sequence[IO[bytes]]) -> int:
    """Wait for all; return the exit code of the one whose end made the others fail, 0 if none failed."""
    failed: int | None = None
    deadline = math.inf
    while any(process.poll() is None for process in processes):
        codes = [process.poll() for process in processes]
        if failed is None and any(codes):
            failed = next(rank for rank, code in enumerate(codes) if code)
            deadline = time.monotonic() + _GRACE
        if failed is not None and (codes[0] is not None or time.monotonic() > deadline):
            for process in processes:
                process.kill()
        time.sleep(0.02)
    ended = [process.wait() for process in processes]
    if failed is None or ended[0] > 1:  # above 1 the first ended on purpose, with its sentence, and others fell with it
        failed = next((rank for rank, code in enumerate(ended) if code), 0)
    if failed:
        errors[failed].seek(0)
        sys.stderr.write(errors[failed].read().decode(errors="replace"))
    code = ended[failed]
    return code if code >= 0 else 128 - code  # as a shell reports a process that a signal ended


class GlobalBatches:
    """The rows of each step, cut into one share a device: together they are the steps of a run on one device.

    An epoch's order hangs on `seed` and `epoch` alone (torch.randperm of seed + epoch, as accelerate draws it), so a
    resumed run finds its place. Each row is seen once an epoch; where the last step has fewer rows than there are
    devices, the others get none.
    """

    def __init__(self, rows: int, batch_size: int, seed: int, rank: int = 0, devices: int = 1) -> None:
        """Cut steps of `batch_size` rows over all devices."""
        self.epoch = 0
        self._rows, self._batch_size, self._seed, self._rank, self._devices = rows, batch_size, seed, rank, devices

    def __len__(self) -> int:
        """Return the number of steps in an epoch."""
        return math.ceil(self._rows / self._batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the row numbers of this device's share of each step."""
        order = torch.randperm(self._rows, generator=torch.Generator().manual_seed(self._seed + self.epoch))
        for step in torch.split(order, self._batch_size):
            shares = step.tensor_split(self._devices)
            yield shares[self._rank].tolist() or [_NOTHING]

    def set_epoch(self, epoch: int) -> None:
        """Set which order comes next."""
        self.epoch = epoch


class Rows(torch.utils.data.Dataset[Any]):
    """Token rows for a loader whose batches come from `GlobalBatches`; to be collated by `ResumableTrainer`."""

    def __init__(self, rows: Any) -> None:
        """Take a `datasets.Dataset`."""
        self._rows = rows

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self._rows)

    def __getitems__(self, numbers: list[int]) -> tuple[list[Row], bool]:
        """Return rows, and whether they count; a device without a row computes on any, for the others wait for it."""
        nothing = numbers == [_NOTHING]
        return self._rows.__getitems__([0] if nothing else numbers), not nothing
