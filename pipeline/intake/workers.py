"""Inspects texts in parallel processes; the results come in the order of the corpus."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from pipeline import params
from pipeline.intake.minhash import Fingerprints, fingerprint
from pipeline.intake.row_metrics import RowMetrics, compute_row_metrics

T = TypeVar("T")


@dataclass(frozen=True)
class Inspection:
    """What the texts of one chunk give, each on its own."""

    metrics: RowMetrics
    fingerprints: Fingerprints


def inspect(texts: Sequence[str], config: params.Validate) -> Inspection:
    """Return the metrics and fingerprints of `texts`."""
    return Inspection(compute_row_metrics(texts, config.rules), fingerprint(texts, config))


def inspect_all(
    batches: Iterable[tuple[T, list[str]]], config: params.Validate, processes: int
) -> Iterator[tuple[T, Inspection]]:
    """Yield each batch with the inspection of its texts, in order; with 0 `processes`, in this process.

    At most two batches more than there are processes are in flight, so memory does not depend on how fast the corpus is
    read.
    """
    if processes == 0:
        for batch, texts in batches:
            yield batch, inspect(texts, config)
        return
    context = multiprocessing.get_context("spawn")  # Arrow's threads do not survive a fork
    in_flight: deque[tuple[T, Future[Inspection]]] = deque()
    with ProcessPoolExecutor(processes, context, initializer=_exit_with_parent) as pool:
        try:
            for batch, texts in batches:
                in_flight.append((batch, pool.submit(inspect, texts, config)))
                if len(in_flight) > processes + 1:
                    yield _wait(*in_flight.popleft())
            while in_flight:
                yield _wait(*in_flight.popleft())
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _wait(batch: T, future: "Future[Inspection]") -> tuple[T, Inspection]:
    return batch, future.result()


def _exit_with_parent() -> None:
    """Leave Ctrl-C to the parent, and exit when it does: a killed parent cannot say that there is no more work."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is None:
        raise RuntimeError("not in a process of the pool")

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
