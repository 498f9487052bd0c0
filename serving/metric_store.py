"""Where a worker keeps its metrics: in memory, or in files where several workers add up.

prometheus_client's files are sparse and mapped into memory: on a full disk, the first write to a page of them is a
SIGBUS, which kills the worker without a line in the log. So a single worker uses no files, and files get their blocks
before they are mapped; values without space stay in memory. This module alone uses prometheus_client's private names;
tests/serving/test_metric_store.py runs each of them.
"""

import errno
import logging
import os
from typing import Any

import prometheus_client
import prometheus_client.values
from prometheus_client.mmap_dict import MmapedDict

from serving import bentoml_internals

logger = logging.getLogger("bentoml.serving")

FOLDER = "PROMETHEUS_MULTIPROC_DIR"  # set by `serving.supervisor` where there are several workers
_BLOCK = 1 << 16  # bytes: prometheus_client's own initial size
_ENTRY = 64  # bytes of an entry besides its key and padding


def prepare() -> None:
    """Choose the place. Call it before the first metric is made."""
    prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
    if FOLDER in os.environ:
        prometheus_client.values.MmapedDict = ReservedFile  # type: ignore[attr-defined]
    else:
        bentoml_internals.keep_metrics_in_memory()


class ReservedFile(MmapedDict):
    """A file of metrics whose blocks are allocated before they are mapped."""

    def __init__(self, filename: str, read_mode: bool = False) -> None:
        """Open or make the file; without space for it, all values stay in memory."""
        self._memory: dict[str, tuple[float, float]] = {}  # value and timestamp by key, without space in the file
        self._is_full = False
        self._has_file = read_mode or _reserve(filename, _BLOCK)
        if self._has_file:
            super().__init__(filename, read_mode)  # type: ignore[no-untyped-call]

    def read_value(self, key: str) -> Any:
        """Return value and timestamp of an entry, which is made if missing."""
        if self._fits(key):
            return super().read_value(key)  # type: ignore[no-untyped-call]
        return self._memory.setdefault(key, (0.0, 0.0))

    def write_value(self, key: str, value: float, timestamp: float) -> None:
        """Set value and timestamp."""
        if self._fits(key):
            super().write_value(key, value, timestamp)  # type: ignore[no-untyped-call]
        else:
            self._memory[key] = (value, timestamp)

    def close(self) -> None:
        """Close the file."""
        if self._has_file:
            super().close()  # type: ignore[no-untyped-call]

    def _fits(self, key: str) -> bool:
        """Return whether the key is in the file, or there is space for it."""
        if self._has_file and key in self._positions:
            return True
        if not self._has_file or self._is_full:
            return False
        size = self._capacity
        while self._used + len(key.encode()) + _ENTRY > size:
            size *= 2
        self._is_full = size > self._capacity and not _reserve(self._fname, size)
        return not self._is_full


def _reserve(filename: str, size: int) -> bool:
    """Extend the file to `size` with allocated blocks; return whether there was space."""
    with open(filename, "ab", buffering=0) as file:  # noqa: PTH123 - prometheus_client passes a str
        start = file.tell()
        missing = max(0, size - start)
        try:
            if file.write(bytes(missing)) < missing:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(file.fileno())
        except OSError as error:
            file.truncate(start)
            if start == 0:
                os.unlink(filename)  # noqa: PTH108 - an empty file breaks the reader
            logger.error("some metrics of this worker are missing from /metrics: %s: %s", filename, error.strerror)
            return False
    return True
