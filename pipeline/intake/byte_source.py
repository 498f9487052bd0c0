"""The bytes of a corpus file, unpacked on the way, with limits on what a packed file may unpack to."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

import pyarrow as pa

from pipeline.command import UserError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

BLOCK = 1 << 20  # bytes read at once
BOMB_RATIO = 200  # bytes unpacked per packed byte; text has 3 to 20, gzip can reach 1,030 and zstd more
BOMB_BYTES = 64 << 20  # unpacked size up to which any ratio is accepted


class NulError(ValueError):
    """The text holds a NUL."""


class _BombError(ValueError):
    """A packed file unpacks to far more than text does."""


class ByteSource(io.RawIOBase):
    """The unpacked bytes of a file, counted as they are read."""

    def __init__(self, file: IO[bytes], compression: str, *, refuse_nul: bool) -> None:
        """Read from `file`, which the caller closes."""
        self._file = file
        self._stream: IO[bytes] = (
            file if compression == "none" else pa.CompressedInputStream(pa.PythonFile(file, mode="r"), compression)
        )
        self._refuse_nul = refuse_nul
        self._packed = compression != "none"
        self.unpacked = 0  # bytes returned so far
        self.position = 0  # bytes read of the file on disk so far

    def readable(self) -> bool:
        """Return True, as io requires."""
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        """Fill `buffer` and return the number of bytes; raises NulError at the first NUL if NULs are refused."""
        view = memoryview(buffer)
        data = self._stream.read(len(view))
        if self._refuse_nul and b"\0" in data:
            raise NulError
        view[: len(data)] = data
        self.unpacked += len(data)
        self.position = self._file.tell()
        if self._packed and self.unpacked > max(BOMB_BYTES, BOMB_RATIO * self.position):
            raise _BombError
        return len(data)


@contextmanager
def open_source(path: Path, compression: str, *, refuse_nul: bool = False) -> Iterator[ByteSource]:
    """Open `path` for reading; raises UserError if it cannot be read or unpacked."""
    try:
        with path.open("rb") as file:
            yield ByteSource(file, compression, refuse_nul=refuse_nul)
    except (UnicodeError, NulError):
        raise
    except _BombError:
        raise UserError(
            f"{path}: unpacks to more than {BOMB_RATIO} times its size, far more than text does; if that is intended, "
            f"unpack it ({'gunzip' if compression == 'gzip' else 'unzstd'}) and set data.path to the unpacked file"
        ) from None
    except OSError as error:
        if compression == "none" or error.errno is not None:
            raise UserError(
                f"{path}: cannot be read ({error.strerror or error}); check its permissions and its disk"
            ) from None
        raise UserError(
            f"{path}: cannot be unpacked as {compression} ({error}); it is truncated or damaged: download or pack it "
            "again"
        ) from None


def read_blocks(path: Path, compression: str) -> Iterator[bytes]:
    """Yield the unpacked bytes of `path` in blocks."""
    with open_source(path, compression) as source:
        while block := source.read(BLOCK):
            yield block
