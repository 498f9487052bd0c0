"""Memory and threads of a process that computes on a CPU."""

import ctypes
import ctypes.util
import functools
import os
import platform
import sys

import psutil
import torch

_PRELOADED = "FINETUNE_ALLOCATOR"  # set once a process has been started again, so that it never is twice


def preload_allocator() -> None:
    """Start this process again with tcmalloc or jemalloc preloaded, where one is installed and none is; say so once.

    They keep freed memory for the next step; giving it back to the system, which must clear it each time, costs up to
    a third of a step. To be called first, by a command: what was computed before is lost.
    """
    if sys.platform != "linux" or torch.cuda.is_available() or _PRELOADED in os.environ or "LD_PRELOAD" in os.environ:
        return
    for name in ("tcmalloc_minimal", "tcmalloc", "jemalloc"):
        if library := ctypes.util.find_library(name):
            sys.stderr.write(f"allocator: {library}\n")
            sys.stderr.flush()
            environment = {**os.environ, "LD_PRELOAD": library, _PRELOADED: library}
            os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)  # noqa: S606 - ourselves


@functools.cache
def keep_freed_memory() -> None:
    """Let glibc's malloc keep what is freed, as a preloaded allocator does; where one is, this changes nothing.

    Blocks above 32 MB still go back to the system: malloc would leave holes between them that grow the process.
    """
    if platform.libc_ver()[0] == "glibc":
        mmap_threshold, trim_threshold = -3, -1  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD of malloc.h
        libc = ctypes.CDLL(None)
        libc.mallopt(mmap_threshold, 2**25)
        libc.mallopt(trim_threshold, 2**31 - 1)


def use_physical_cores() -> None:
    """Give torch one thread a physical core, unless OMP_NUM_THREADS says otherwise: hyperthreads share one FMA unit."""
    if "OMP_NUM_THREADS" not in os.environ:
        usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else psutil.cpu_count() or 1
        torch.set_num_threads(min(usable, psutil.cpu_count(logical=False) or usable))
