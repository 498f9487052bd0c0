"""Bytes to text: unpacking, byte order marks, and what a file that is not in the encoding asked for looks like."""

import codecs
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

import pyarrow as pa

from pipeline.command import UserError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

BLOCK = 1 << 20  # bytes; the unit in which files are scanned
BOMB_RATIO = 200  # bytes unpacked for one packed; text has 3 to 20, gzip can make 1,030 and zstd more
BOMB_BYTES = 64 << 20  # unpacked, below which any ratio is harmless
MARKS = {  # the longer ones first: UTF-32's begins with UTF-16's
    "utf-32-le": codecs.BOM_UTF32_LE,
    "utf-32-be": codecs.BOM_UTF32_BE,
    "utf-8": codecs.BOM_UTF8,
    "utf-16-le": codecs.BOM_UTF16_LE,
    "utf-16-be": codecs.BOM_UTF16_BE,
}
_SAMPLE = 256 * 1024  # bytes of lines that are not ASCII, which is what a detector can tell from
_LINE_SAMPLE = 4096  # bytes of a line
_WEIGHED_LINES = 1000
_SURE = 20  # bytes outside ASCII below which detection is a guess; by trial on sentences in 12 languages
_COMMONEST = "cp1252"
_RIVAL = 0.95  # of the best one's confidence, from which on another encoding is as likely
# What Western European text has outside ASCII in UTF-8; what two bytes of another encoding make by chance seldom is.
_EVERYDAY = frozenset(
    [*map(chr, range(0xC0, 0x100)), *"«»°€", *"\u2013\u2014\u2018\u2019\u201c\u201d\u201e\u2026"]
) - frozenset("\xd7\xf7")
_WORDS = frozenset(b" abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")


class NulError(ValueError):
    """The text holds a NUL."""


class BombError(ValueError):
    """A packed file unpacks to far more than text does."""


@dataclass(frozen=True)
class Detected:
    """What the bytes look like: an encoding, or none with the likeliest ones, and a line as each would read."""

    encoding: str | None
    line: int
    readings: tuple[tuple[str, str], ...]


class Counting(io.RawIOBase):
    """The bytes of a file, unpacked; can refuse NULs.

    `unpacked` counts the bytes given so far, `position` those that were read of the file itself.
    """

    def __init__(self, file: IO[bytes], compression: str, *, refuse_nul: bool) -> None:
        """Read from `file`, which stays the caller's to close."""
        self._file = file
        self._stream: IO[bytes] = (
            file if compression == "none" else pa.CompressedInputStream(pa.PythonFile(file, mode="r"), compression)
        )
        self._refuse_nul = refuse_nul
        self._packed = compression != "none"
        self.unpacked = self.position = 0

    def readable(self) -> bool:
        """Return True, as io asks."""
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        """Fill `buffer` and return with how many bytes; raises NulError at the first NUL if they are refused."""
        view = memoryview(buffer)
        data = self._stream.read(len(view))
        if self._refuse_nul and b"\0" in data:
            raise NulError
        view[: len(data)] = data
        self.unpacked += len(data)
        self.position = self._file.tell()
        if self._packed and self.unpacked > max(BOMB_BYTES, BOMB_RATIO * self.position):
            raise BombError
        return len(data)


@contextmanager
def opened(path: Path, compression: str, *, refuse_nul: bool = False) -> Iterator[Counting]:
    """Open `path` and unpack it on the way; raises UserError where it cannot be read or unpacked."""
    try:
        with path.open("rb") as file:
            yield Counting(file, compression, refuse_nul=refuse_nul)
    except (UnicodeError, NulError):
        raise
    except BombError:
        raise UserError(
            f"{path}: unpacks to more than {BOMB_RATIO} times its size, which text does not; if it is meant so, unpack "
            f"it ({'gunzip' if compression == 'gzip' else 'unzstd'}) and name the unpacked file"
        ) from None
    except OSError as error:
        if compression == "none" or error.errno is not None:
            raise UserError(
                f"{path}: cannot be read ({error.strerror or error}); mend its rights or its disk"
            ) from None
        raise UserError(
            f"{path}: cannot be unpacked as {compression} ({error}); it is cut off or damaged: fetch or pack it again"
        ) from None


def blocks(path: Path, compression: str) -> Iterator[bytes]:
    """Yield the unpacked bytes of `path` in blocks."""
    with opened(path, compression) as source:
        while block := source.read(BLOCK):
            yield block


def mark_of(head: bytes) -> str | None:
    """Return the encoding whose byte order mark `head` begins with."""
    return next((encoding for encoding, mark in MARKS.items() if head.startswith(mark)), None)


def wide_encoding_of(sample: bytes) -> str | None:
    """Return the UTF-16 or UTF-32 that `sample` is in without a byte order mark, None where it is neither.

    No other encoding of text holds a NUL, and in these every line break does. But NULs also stray into other files,
    whose bytes, two by two, are then characters of UTF-16 as well.
    """
    if b"\0" not in sample:
        return None
    for encoding, width in (("utf-32-le", 4), ("utf-32-be", 4), ("utf-16-le", 2), ("utf-16-be", 2)):
        try:
            text = codecs.getincrementaldecoder(encoding)().decode(sample)
        except UnicodeDecodeError:
            continue
        ascii_share = sum(character < "\x80" for character in text) / max(1, len(text))
        likely = "\n" in text or "\r" in text or ascii_share > 0.2
        if likely and "\0" not in text and len(text) >= len(sample) // width // 2:
            return None if width == 2 and _is_narrow(sample) else encoding
    return None


def _is_narrow(sample: bytes) -> bool:
    """Return whether `sample`, which could be UTF-16, is text of another encoding with stray NULs.

    In UTF-16 only what is beyond Latin-1 has no NUL among its two bytes, and these two are seldom both letters of
    ASCII or spaces: by trial in 0.2 of Chinese, but in 0.5 and more of French and Polish in 8 bits.
    """
    pairs = [(sample[at], sample[at + 1]) for at in range(0, len(sample) - 1, 2) if sample[at] and sample[at + 1]]
    if len(pairs) <= 0.25 * (len(sample) // 2):
        return False
    if sum(first in _WORDS and second in _WORDS for first, second in pairs) > 0.35 * len(pairs):
        return True
    rest = sample.replace(b"\0", b"")
    if rest.decode("utf-8", "replace").count("\ufffd") > 0.05 * len(rest):
        return False
    # Cyrillic in UTF-16 is UTF-8 too, but each of its characters holds the control character \4.
    return sum(byte < 0x20 and byte not in b"\t\r\n" for byte in rest) < 0.01 * len(rest)


class Lines:
    """Counts line breaks (LF, CRLF and CR) in text that comes in pieces."""

    def __init__(self) -> None:
        """Start at line 1."""
        self.line = 1
        self._after_cr = False

    def add(self, text: str) -> None:
        """Count the line breaks of `text`."""
        if not text:
            return
        self.line += text.count("\n") + text.count("\r") - text.count("\r\n")
        if self._after_cr and text.startswith("\n"):
            self.line -= 1
        self._after_cr = text.endswith("\r")


def first_fault(path: Path, compression: str, encoding: str, skip: int) -> tuple[int, bytes, str] | None:
    """Return line, bytes and what is before them on the line for the first that is not `encoding` or is a NUL.

    `skip` is the length of the byte order mark.
    """
    decoder = codecs.getincrementaldecoder(encoding)()
    lines, tail = Lines(), ""

    def before(good: str) -> str:
        lines.add(good)
        return (tail + good).replace("\r", "\n").rpartition("\n")[2][-40:]

    for block in _and_the_end(blocks(path, compression)):
        piece, skip = (block or b"")[skip:], max(0, skip - len(block or b""))
        state = decoder.getstate()
        try:
            text = decoder.decode(piece, final=block is None)
        except UnicodeDecodeError as error:
            decoder.setstate(state)
            waiting = len(error.object) - len(piece)  # bytes of a character that began in the block before
            ahead = before(decoder.decode(piece[: max(0, error.start - waiting)]))
            return lines.line, bytes(error.object[error.start : error.end + 3]), ahead
        if "\0" in text:
            ahead = before(text[: text.index("\0")])
            return lines.line, b"\0", ahead
        tail = before(text)
    return None


def _and_the_end(stream: Iterator[bytes]) -> Iterator[bytes | None]:
    yield from stream
    yield None


def is_utf8(path: Path, compression: str) -> bool:
    """Return whether the whole file is UTF-8."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for block in blocks(path, compression):
            decoder.decode(block)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True


@dataclass(frozen=True)
class Foreign:
    """The lines of a file that are not ASCII: a sample, and how many are UTF-8 and how many are not."""

    sample: bytes
    line: int  # the first that is not UTF-8
    utf8: int
    not_utf8: int
    utf8_lines: tuple[tuple[int, bytes], ...]  # the first of those that are UTF-8, each with its number


def foreign_lines(path: Path, compression: str) -> Foreign:
    """Return what the lines outside ASCII hold, sampled over the whole file."""
    sample: list[bytes] = []
    utf8_lines: list[tuple[int, bytes]] = []
    size = line = utf8 = not_utf8 = first = 0
    rest = b""
    for block in _and_the_end(blocks(path, compression)):
        found = (rest + (block or b"")).splitlines(keepends=True)
        # A line that goes on in the next block waits for it; one longer than a block counts as several.
        rest = found.pop() if block and found and len(found[-1]) < BLOCK else b""
        room = _SAMPLE if size < _SAMPLE // 4 else _SAMPLE // 64
        for candidate in found:
            line += 1
            if candidate.isascii():
                continue
            try:
                candidate.decode("utf-8")
            except UnicodeDecodeError:
                not_utf8 += 1
                first = first or line
            else:
                utf8 += 1
                if utf8 <= _WEIGHED_LINES:
                    utf8_lines.append((line, candidate[:_LINE_SAMPLE]))
                continue
            if room > 0 and size < _SAMPLE:
                sample.append(candidate[:_LINE_SAMPLE])
                size += len(sample[-1])
                room -= len(sample[-1])
    return Foreign(b"".join(sample), first, utf8, not_utf8, tuple(utf8_lines))


@dataclass
class _Reading:
    name: str
    confidence: float
    text: str


def detected(foreign: Foreign) -> Detected:
    """Return the encoding of lines that are not UTF-8, or none where that cannot be told."""
    import chardet

    sample = foreign.sample
    first_line = sample.splitlines()[0] if sample else b""
    likely: list[_Reading] = []
    for found in chardet.detect_all(sample, max_bytes=max(1, len(sample))):
        name = _common_name(found["encoding"])
        try:
            text = sample.decode(name)
        except (UnicodeDecodeError, LookupError):
            continue
        if any("\x80" <= character <= "\x9f" for character in text):
            continue  # control characters that no text holds: the encoding of another byte
        same = next((known for known in likely if known.text == text), None)
        if same is None:
            likely.append(_Reading(name, found["confidence"], text))
        elif name == _COMMONEST:  # lines beyond the sample may differ, and then it is the likelier
            same.name = name
    sure = (
        bool(likely)
        and sum(byte > 0x7F for byte in sample) >= _SURE
        and all(rival.confidence < _RIVAL * likely[0].confidence for rival in likely[1:])
    )
    readings = tuple(
        (reading.name, excerpt(first_line.decode(reading.name, "replace"))) for reading in likely[: 1 if sure else 4]
    )
    return Detected(likely[0].name if sure else None, foreign.line, readings)


@dataclass(frozen=True)
class Weighed:
    """A file that is not UTF-8 as a whole: its best reading, and the lines that speak against it.

    `against` has the first of `count` such lines: number, text as it should read, text as `best` reads it ("" where
    that is not possible). `by_chance` are lines that are valid UTF-8, but read better in `best`.
    """

    best: str
    count: int
    against: tuple[tuple[int, str, str], ...]
    by_chance: tuple[int, ...] = ()


def weighed(foreign: Foreign, guess: Detected) -> Weighed:
    """Weigh UTF-8 against the likeliest other encoding over all lines outside ASCII.

    A line that is valid UTF-8 speaks for UTF-8 only where the other encoding would garble it: two bytes such as those
    of `É®` in cp1252 are a character of UTF-8 by chance.
    """
    readings = dict(guess.readings) or {"latin-1": ""}
    name = _COMMONEST if guess.encoding is None and _COMMONEST in readings else next(iter(readings))
    common = _outside_ascii(foreign.sample.decode(name, "replace"))
    pairs = [(line, data.decode("utf-8", "ignore"), data.decode(name, "replace")) for line, data in foreign.utf8_lines]
    garbled = [pair for pair in pairs if _is_garbled(pair[2], pair[1], common)]
    count = round(foreign.utf8 * len(garbled) / max(1, len(pairs)))
    if count > foreign.not_utf8:
        return Weighed("utf-8", foreign.not_utf8, ((foreign.line, readings[name], ""),))
    shown = tuple((line, excerpt(text), excerpt(as_read)) for line, text, as_read in garbled[:5])
    return Weighed(name, count, shown, tuple(line for line, *_ in pairs if line not in {at for at, *_ in garbled})[:5])


def _is_garbled(text: str, as_utf8: str, common: frozenset[str]) -> bool:
    """Return whether `text` is what reading a line of UTF-8 in another encoding makes of it.

    `common` are the characters of lines that are surely in that encoding.
    """
    from ftfy.badness import badness

    if badness(text) > badness(as_utf8) or any("\x80" <= character <= "\x9f" for character in text):
        return True
    outside = _outside_ascii(as_utf8)
    return not _outside_ascii(text) <= common and (outside <= common or outside <= _EVERYDAY)


def _outside_ascii(text: str) -> frozenset[str]:
    return frozenset(character for character in text if character > "\x7f")


def _common_name(encoding: str | None) -> str:
    """Return the superset under which an encoding's files are usually written."""
    name = codecs.lookup(encoding or "ascii").name
    return {"ascii": "cp1252", "iso8859-1": "cp1252", "shift_jis": "cp932", "gb2312": "gb18030", "big5": "cp950"}.get(
        name, name
    )


def excerpt(text: str, width: int = 60) -> str:
    """Return the part of `text` around its first character outside ASCII, or its beginning."""
    at = next((index for index, character in enumerate(text) if character > "\x7f"), 0)
    start = max(0, at - width // 2)
    part = " ".join(text[start : start + width].split())
    return ("… " if start else "") + part + (" …" if start + width < len(text) else "")


def plain_name(encoding: str) -> str:
    """Return the name under which `encoding` is compared here: utf-8-sig is utf-8, a mark being read anyway."""
    name = codecs.lookup(encoding).name
    return "utf-8" if name == "utf-8-sig" else name
