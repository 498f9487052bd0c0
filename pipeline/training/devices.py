"""Several devices: one process each, as under `torchrun`; together they take the steps of a run on one device."""

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
from typing import IO, Any

import torch
from accelerate import PartialState  # type: ignore[import-untyped]
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from pipeline.command import UserError
from pipeline.modeling.batches import TokenRow

_NO_ROW = -1  # of a device without a row in an epoch's last step
_TIED_TO_PARENT = "FINETUNE_TIED_TO_PARENT"
_GRACE = 10.0  # seconds for the other processes to end after the first that does


def launched() -> int:
    """Return how many processes train together; 0 before `launch`, torchrun or accelerate has started them."""
    return int(os.environ["WORLD_SIZE"]) if "RANK" in os.environ and "WORLD_SIZE" in os.environ else 0


def is_first() -> bool:
    """Tell whether this is the process that writes files and messages."""
    return int(os.environ.get("RANK", "0")) == 0


def broadcast_object(compute: Callable[[], Any]) -> Any:
    """Call `compute` in the first process alone and return its result in every process."""
    if launched() <= 1:
        return compute()
    PartialState(cpu=not torch.cuda.is_available())  # joins the processes
    results = [compute() if is_first() else None]
    torch.distributed.broadcast_object_list(results, src=0)
    return results[0]


def broadcast_int(number: int, device: torch.device) -> int:
    """Return the first process's `number` in every process."""
    if launched() <= 1:
        return number
    shared = torch.tensor([number], device=device)
    torch.distributed.broadcast(shared, src=0)
    return int(shared)


def check(devices: int) -> None:
    """Raise UserError where this machine or the processes that were launched are not what `devices` says."""
    if launched() and launched() != devices:
        raise UserError(
            f"params.yaml: finetune.devices: found {devices}, but {launched()} processes were launched;"
            f" set it to {launched()}, or run `dvc repro`, which launches the processes itself"
        )
    if torch.cuda.is_available() and devices > torch.cuda.device_count():
        raise UserError(
            f"params.yaml: finetune.devices: found {devices}, but this machine has {torch.cuda.device_count()} GPUs;"
            " set it to that number or less"
        )


def launch(devices: int, module: str) -> int:
    """Run `python -m module` in `devices` processes with torchrun's environment; return the first exit code above 0.

    SIGINT and SIGTERM are forwarded; when one process fails the others are ended; none outlives this process.
    """
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # port 0: any free port
    threads = max(1, len(os.sched_getaffinity(0)) // devices) if hasattr(os, "sched_getaffinity") else 1
    shared = {
        "WORLD_SIZE": str(devices),
        "LOCAL_WORLD_SIZE": str(devices),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",  # every process connects to the store of this one
        _TIED_TO_PARENT: "1",
    }
    with ExitStack() as opened:
        processes, errors = [], []
        for rank in range(devices):
            # Only the first writes messages; those of another are shown if it is the one that failed.
            errors.append(opened.enter_context(tempfile.TemporaryFile()))
            processes.append(
                subprocess.Popen(  # noqa: S603 - a module of the project
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
                    start_new_session=True,  # Ctrl-C reaches this process alone, which forwards it once
                )
            )
        before = {number: signal.signal(number, _forward(processes[0])) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            return _wait(processes, errors)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def end_with_parent() -> None:
    """End this process at once when the one that launched it is gone, even by SIGKILL: its end of the pipe closes."""
    if os.environ.pop(_TIED_TO_PARENT, None):
        threading.Thread(target=lambda: (os.read(0, 1), os._exit(1)), daemon=True).start()


def _forward(process: subprocess.Popen[bytes]) -> Any:
    """Return a signal handler for the first process, which decides for all at which step they stop."""

    def handler(number: int, _frame: FrameType | None) -> None:
        process.send_signal(number)

    return handler


def _wait(processes: list[subprocess.Popen[bytes]], errors: Sequence[IO[bytes]]) -> int:
    """Wait for all; return the exit code of the process that failed first, 0 if none failed."""
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
    if failed is None or ended[0] > 1:  # above 1 the first ended on purpose, with a message, and others failed with it
        failed = next((rank for rank, code in enumerate(ended) if code), 0)
    if failed:
        errors[failed].seek(0)
        sys.stderr.write(errors[failed].read().decode(errors="replace"))
    code = ended[failed]
    return code if code >= 0 else 128 - code  # a shell's code for a process that a signal ended


class ResumableBatchSampler:
    """Yields the rows of each step, split into one share per device; all shares are the step of a run on one device.

    A share comes in parts of `at_once` rows. All devices get equally many, and all steps but an epoch's last one.

    An epoch's order depends on `seed` and `epoch` alone (torch.randperm of seed + epoch, as accelerate draws it), so a
    resumed run continues at the same place. Each row is seen once per epoch; where the last step has too few rows for
    each device, some parts have none.
    """

    def __init__(self, rows: int, batch_size: int, at_once: int, seed: int, device: tuple[int, int] = (0, 1)) -> None:
        """Take the rows' number and that of a step over all devices; `device` is this one's rank, and their number."""
        self.epoch = 0
        self._rows, self._batch_size, self._at_once, self._seed = rows, batch_size, at_once, seed
        self._rank, self._devices = device

    def __len__(self) -> int:
        """Return the number of parts in an epoch."""
        steps, rest = divmod(self._rows, self._batch_size)
        return steps * self._parts(self._batch_size) + self._parts(rest)

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the indices of this device's rows of each part."""
        order = torch.randperm(self._rows, generator=torch.Generator().manual_seed(self._seed + self.epoch))
        for step in torch.split(order, self._batch_size):
            share = step.tensor_split(self._devices)[self._rank].tolist()
            for part in range(self._parts(len(step))):
                yield share[part * self._at_once : (part + 1) * self._at_once] or [_NO_ROW]

    def _parts(self, rows: int) -> int:
        """Return in how many parts the largest share of a step of `rows` comes."""
        return math.ceil(math.ceil(rows / self._devices) / self._at_once)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, which decides the order."""
        self.epoch = epoch


class TokenDataset(torch.utils.data.Dataset[Any]):
    """Token rows for a loader with a `ResumableBatchSampler`; `ResumableTrainer` collates them."""

    def __init__(self, rows: Any) -> None:
        """Take a `datasets.Dataset`."""
        self._rows = rows

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self._rows)

    def __getitems__(self, indices: list[int]) -> tuple[list[TokenRow], bool]:
        """Return rows, and whether they count: a device without a row computes on any, as the others wait for it."""
        is_empty = indices == [_NO_ROW]
        return self._rows.__getitems__([0] if is_empty else indices), not is_empty
