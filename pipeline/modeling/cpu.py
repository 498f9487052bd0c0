"""Memory and threads of a process that computes on a CPU: what a training step and scoring gain without new arithmetic.

Freed memory is kept for the next step: giving it back to the system, which must clear it each time, costs up to a
third of a step.
"""

import ctypes
import ctypes.util
import functools
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import torch


def allocator_environment() -> dict[str, str]:
    """Return the variables that preload tcmalloc or jemalloc into a process; empty where none is of use.

    None is where another library is preloaded already, and where a GPU computes.
    """
    if sys.platform == "linux" and not torch.cuda.is_available() and "LD_PRELOAD" not in os.environ:
        for name in ("tcmalloc_minimal", "tcmalloc", "jemalloc"):
            if library := ctypes.util.find_library(name):
                return {"LD_PRELOAD": library}
    return {}


def prepare() -> None:
    """Prepare this process for training and scoring, where no GPU does that."""
    if not torch.cuda.is_available():
        keep_freed_memory()
        use_physical_cores()


@contextmanager
def exact_products() -> Iterator[None]:
    """Compute matrix products in float32, whatever precision the process has chosen for them."""
    products = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(products)


@functools.cache
def keep_freed_memory() -> None:
    """Make glibc's malloc keep freed memory, as a preloaded allocator does; without effect on another allocator.

    Blocks above 32 MB still go back to the system: malloc would leave holes between them that grow the process.
    """
    if platform.libc_ver()[0] == "glibc":
        mmap_threshold, trim_threshold = -3, -1  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD of malloc.h
        libc = ctypes.CDLL(None)
        libc.mallopt(mmap_threshold, 2**25)
        libc.mallopt(trim_threshold, 2**31 - 1)


def use_physical_cores() -> None:
    """Give torch one thread per physical core, unless OMP_NUM_THREADS is set: hyperthreads share one FMA unit."""
    if "OMP_NUM_THREADS" not in os.environ:
        usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else psutil.cpu_count() or 1
        torch.set_num_threads(min(usable, psutil.cpu_count(logical=False) or usable))
