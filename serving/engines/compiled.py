"""Functions that numba compiles, called in one thread or in those of torch.

A kernel takes a pointer to a structure that begins with `claimed`. Its threads claim items, such as rows, until none is
left, so it does not matter how many threads there are.
"""

import ctypes
import functools
import hashlib
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numba
import numpy as np
import torch
from llvmlite import ir
from numba import carray, types
from numba.core import caching
from numba.extending import intrinsic

logger = logging.getLogger("bentoml.serving")

_SERIAL = 2**15  # numbers: one thread computes so many before a second one has begun

EXACT: dict[str, Any] = {"error_model": "numpy"}  # numpy's: a division by 0 is no exception
# Sums in any order and fused multiplications: the same ones at every call, for the code has no other path.
OPTIONS = EXACT | {"fastmath": {"reassoc", "contract", "nsz"}}

CLAIMED = (  # the first fields of a kernel's arguments
    ("claimed", ctypes.c_int64),
    ("_apart", ctypes.c_int64 * 15),  # so that what threads write is in another cache line than what they read
)


@intrinsic
def pointer_to(_: Any, address: Any) -> Any:
    """Return an address as a pointer."""

    def generate(context: Any, builder: Any, __: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(types.voidptr))

    return types.voidptr(address), generate


@intrinsic
def claim(_: Any, arguments: Any) -> Any:
    """Add 1 to `claimed`, which comes first, in one operation among threads; return what it was."""

    def generate(__: Any, builder: Any, ___: Any, values: Any) -> Any:
        integer = ir.IntType(64)
        claimed = builder.bitcast(values[0], integer.as_pointer())
        return builder.atomic_rmw("add", claimed, ir.Constant(integer, 1), "monotonic")

    return types.int64(arguments), generate


@numba.njit(**OPTIONS)
def matrix(address: int, rows: int, width: int) -> Any:
    """Return the float32 numbers at an address."""
    return carray(pointer_to(address), (rows, width), np.float32)


class Kernel:
    """A function of a pointer to arguments, compiled when it is first called; its code is kept on disk."""

    def __init__(
        self, function: Callable[[Any], None], arguments: type[ctypes.Structure], options: Mapping[str, Any] = OPTIONS
    ) -> None:
        """Take the function, whose arguments begin with `CLAIMED`, and how numba compiles it."""
        self._function, self._arguments, self._options = function, arguments, options

    @functools.cached_property
    def _address(self) -> int:
        signature = types.void(types.CPointer(numba.from_dtype(np.dtype(self._arguments))))
        try:
            self._compiled = numba.cfunc(signature, cache=True, **self._options)(self._function)
        except RuntimeError as error:
            logger.info("compiled code cannot be kept, so each start compiles: %s", error)
            self._compiled = numba.cfunc(signature, **self._options)(self._function)
        address: int = self._compiled.address
        return address

    @functools.cached_property
    def _call(self) -> Callable[[int], None]:
        return ctypes.PYFUNCTYPE(None, ctypes.c_void_p)(self._address)

    def __call__(self, arguments: ctypes.Structure, numbers: int) -> None:
        """Run with `arguments`, in one thread, or in torch's where so many numbers are worth it."""
        arguments.claimed = 0
        if _run_in_threads is None or numbers < _SERIAL or (threads := torch.get_num_threads()) == 1:
            self._call(ctypes.addressof(arguments))
        else:
            _run_in_threads(self._address, ctypes.addressof(arguments), threads, 0)


class _SourceHashLocator(caching._CacheLocator):
    """Where numba keeps the code of a kernel: by what its sources are, so that all checkouts on a machine share it.

    numba's own locators go by the path and the time of one file.
    """

    def __init__(self, line: int, sources: str) -> None:
        self._line, self._sources = line, sources

    def get_cache_path(self) -> str:
        folder = os.environ.get("NUMBA_CACHE_DIR")
        caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        return str((Path(folder) if folder else caches / "fresh-gpt2" / "kernels") / self._sources[:16])

    def get_source_stamp(self) -> str:
        return self._sources

    def get_disambiguator(self) -> str:
        return str(self._line)

    @classmethod
    def from_function(cls, function: Any, file: str) -> "_SourceHashLocator | None":
        """Return where a kernel's code is; None for other functions. Raises RuntimeError where nothing can be kept."""
        if Path(file).parent != Path(__file__).parent:
            return None
        sources = sorted(Path(__file__).parent.glob("*.py"))  # kernels call functions of several of them
        digest = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()
        locator = cls(function.__code__.co_firstlineno, digest)
        try:
            locator.ensure_cache_path()
        except OSError as error:
            raise RuntimeError(str(error)) from None
        return locator


caching.CacheImpl._locator_classes.insert(0, _SourceHashLocator)


def _torchs_threads() -> Any:
    """Return what runs a function in the threads that torch keeps for its own operations; None where those are others.

    Threads of another pool would wait for a core on which torch's spin. `GOMP_parallel` is what compilers call for
    `#pragma omp parallel`: https://gcc.gnu.org/onlinedocs/libgomp/Implementing-PARALLEL-construct.html
    """
    try:
        run = ctypes.CDLL("libgomp.so.1").GOMP_parallel  # torch has loaded it, under this name
    except (OSError, AttributeError):
        return None
    run.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
    run.restype = None
    return run


_run_in_threads = _torchs_threads()
