"""The costly look at texts, in as many processes as there are cores, its results in the order of the corpus."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from numpy.typing import NDArray

from pipeline import params
from pipeline.intake.duplicates import Fingerprints, fingerprint
from pipeline.intake.row_metrics import compute_row_metrics

T = TypeVar("T")


@dataclass(frozen=True)
class Inspection:
    """What is known of the texts of one chunk."""

    measures: dict[str, NDArray[Any]]
    fingerprints: Fingerprints


def inspect(texts: Sequence[str], wanted: params.Validate) -> Inspection:
    """Return what is known of `texts` by themselves."""
    return Inspection(compute_row_metrics(texts, wanted.rules), fingerprint(texts, wanted))


def inspect_all(
    parts: Iterable[tuple[T, list[str]]], wanted: params.Validate, processes: int
) -> Iterator[tuple[T, Inspection]]:
    """Yield each part of the corpus with what is known of its texts, in order; 0 `processes` are this one alone.

    At most two parts more than processes are under way, so that memory does not hang on how fast the corpus is read.
    """
    if processes == 0:
        for part, texts in parts:
            yield part, inspect(texts, wanted)
        return
    context = multiprocessing.get_context("spawn")  # Arrow's threads would not survive a fork
    waiting: deque[tuple[T, Future[Inspection]]] = deque()
    with ProcessPoolExecutor(processes, context, initializer=_end_with_the_parent) as pool:
        try:
            for part, texts in parts:
                waiting.append((part, pool.submit(inspect, texts, wanted)))
                if len(waiting) > processes + 1:
                    yield _done(*waiting.popleft())
            while waiting:
                yield _done(*waiting.popleft())
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _done(part: T, future: "Future[Inspection]") -> tuple[T, Inspection]:
    return part, future.result()


def _end_with_the_parent() -> None:
    """Leave Ctrl-C to the parent, and do not outlive it: a killed one could not say that there is no more work."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is None:
        raise RuntimeError("not in a process of the pool")

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
