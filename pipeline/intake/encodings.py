"""Which encoding the bytes of a file are in: byte order marks, UTF-16 without one, and legacy encodings."""

import codecs
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.intake.byte_source import BLOCK, read_blocks

BYTE_ORDER_MARKS = {  # the longer ones first: UTF-32's begins with UTF-16's
    "utf-32-le": codecs.BOM_UTF32_LE,
    "utf-32-be": codecs.BOM_UTF32_BE,
    "utf-8": codecs.BOM_UTF8,
    "utf-16-le": codecs.BOM_UTF16_LE,
    "utf-16-be": codecs.BOM_UTF16_BE,
}
_SAMPLE = 256 * 1024  # bytes of non-ASCII lines that the detector sees
_LINE_SAMPLE = 4096  # bytes of a line
_WEIGHED_LINES = 1000
_ENOUGH = 20  # non-ASCII bytes below which detection is a guess; measured on sentences in 12 languages
_MOST_COMMON = "cp1252"
_RIVAL = 0.95  # share of the best confidence from which another encoding is as likely
# What Western European text has outside ASCII in UTF-8; two bytes of another encoding rarely form one of these.
_EVERYDAY = frozenset(
    [*map(chr, range(0xC0, 0x100)), *"«»°€", *"\u2013\u2014\u2018\u2019\u201c\u201d\u201e\u2026"]
) - frozenset("\xd7\xf7")
_WORDS = frozenset(b" abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
# Encodings and the superset under which files in them are usually written.
_SUPERSETS = {"ascii": "cp1252", "iso8859-1": "cp1252", "shift_jis": "cp932", "gb2312": "gb18030", "big5": "cp950"}


@dataclass(frozen=True)
class Detected:
    """The encoding that bytes look like, or None, and a line as each likely encoding reads it."""

    encoding: str | None
    line: int
    readings: tuple[tuple[str, str], ...]  # encoding, the line in it; the likeliest first


@dataclass(frozen=True)
class NonAsciiLines:
    """The lines of a file that hold more than ASCII: a sample, and how many are UTF-8 and how many are not."""

    sample: bytes
    line: int  # the first that is not UTF-8
    utf8: int
    not_utf8: int
    utf8_lines: tuple[tuple[int, bytes], ...]  # the first of those that are UTF-8, each with its number


@dataclass(frozen=True)
class EncodingEvidence:
    """The best encoding of a file that is not UTF-8 as a whole, and the lines that contradict it."""

    best: str
    count: int  # lines that contradict it
    contradicting: tuple[tuple[int, str, str], ...]  # the first: number, correct text, text in `best` ("" if none)
    utf8_by_chance: tuple[int, ...] = ()  # lines that are valid UTF-8 but read better in `best`


class LineCounter:
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


def canonical_name(encoding: str) -> str:
    """Return Python's name of `encoding`; utf-8-sig becomes utf-8, since a byte order mark is skipped anyway."""
    name = codecs.lookup(encoding).name
    return "utf-8" if name == "utf-8-sig" else name


def encoding_of_mark(head: bytes) -> str | None:
    """Return the encoding whose byte order mark `head` begins with."""
    return next((encoding for encoding, mark in BYTE_ORDER_MARKS.items() if head.startswith(mark)), None)


def detect_utf16_or_32(sample: bytes) -> str | None:
    """Return the UTF-16 or UTF-32 that `sample` is in without a byte order mark, or None.

    In other encodings text holds no NUL; in these every line break does. But stray NULs occur in other files too, whose
    bytes, taken in pairs, are then valid UTF-16.
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
            return None if width == 2 and _has_stray_nuls(sample) else encoding
    return None


def _has_stray_nuls(sample: bytes) -> bool:
    """Return whether `sample`, which could be UTF-16, is text of an 8-bit encoding with stray NULs.

    In UTF-16 only characters beyond Latin-1 have no NUL among their two bytes, and both bytes are rarely ASCII letters
    or spaces: measured at 0.2 of them in Chinese, but 0.5 and more in French and Polish read as 8 bits.
    """
    pairs = [(sample[at], sample[at + 1]) for at in range(0, len(sample) - 1, 2) if sample[at] and sample[at + 1]]
    if len(pairs) <= 0.25 * (len(sample) // 2):
        return False
    if sum(first in _WORDS and second in _WORDS for first, second in pairs) > 0.35 * len(pairs):
        return True
    rest = sample.replace(b"\0", b"")
    if rest.decode("utf-8", "replace").count("\ufffd") > 0.05 * len(rest):
        return False
    # Cyrillic in UTF-16 is valid UTF-8 too, but each of its characters holds the control character \4.
    return sum(byte < 0x20 and byte not in b"\t\r\n" for byte in rest) < 0.01 * len(rest)


def first_undecodable(path: Path, compression: str, encoding: str, skip: int) -> tuple[int, bytes, str] | None:
    """Return line, bytes and the text before them of the first that is not valid in `encoding`, or is a NUL.

    `skip` is the length of the byte order mark.
    """
    decoder = codecs.getincrementaldecoder(encoding)()
    counter, tail = LineCounter(), ""

    def text_before(good: str) -> str:
        counter.add(good)
        return (tail + good).replace("\r", "\n").rpartition("\n")[2][-40:]

    for block in _then_none(read_blocks(path, compression)):
        piece, skip = (block or b"")[skip:], max(0, skip - len(block or b""))
        state = decoder.getstate()
        try:
            text = decoder.decode(piece, final=block is None)
        except UnicodeDecodeError as error:
            decoder.setstate(state)
            pending = len(error.object) - len(piece)  # bytes of a character that began in the block before
            before = text_before(decoder.decode(piece[: max(0, error.start - pending)]))
            return counter.line, bytes(error.object[error.start : error.end + 3]), before
        if "\0" in text:
            before = text_before(text[: text.index("\0")])
            return counter.line, b"\0", before
        tail = text_before(text)
    return None


def _then_none(stream: Iterator[bytes]) -> Iterator[bytes | None]:
    """Yield the items of `stream`, then None to mark its end."""
    yield from stream
    yield None


def is_utf8(path: Path, compression: str) -> bool:
    """Return whether the whole file is UTF-8."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for block in read_blocks(path, compression):
            decoder.decode(block)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True


def scan_non_ascii_lines(path: Path, compression: str) -> NonAsciiLines:
    """Return the lines that hold more than ASCII, sampled over the whole file."""
    sample: list[bytes] = []
    utf8_lines: list[tuple[int, bytes]] = []
    size = line = utf8 = not_utf8 = first = 0
    rest = b""
    for block in _then_none(read_blocks(path, compression)):
        lines = (rest + (block or b"")).splitlines(keepends=True)
        # A line that goes on in the next block waits for it; one longer than a block counts as several.
        rest = lines.pop() if block and lines and len(lines[-1]) < BLOCK else b""
        room = _SAMPLE if size < _SAMPLE // 4 else _SAMPLE // 64
        for content in lines:
            line += 1
            if content.isascii():
                continue
            if _is_valid_utf8(content):
                utf8 += 1
                if utf8 <= _WEIGHED_LINES:
                    utf8_lines.append((line, content[:_LINE_SAMPLE]))
                continue
            not_utf8 += 1
            first = first or line
            if room > 0 and size < _SAMPLE:
                sample.append(content[:_LINE_SAMPLE])
                size += len(sample[-1])
                room -= len(sample[-1])
    return NonAsciiLines(b"".join(sample), first, utf8, not_utf8, tuple(utf8_lines))


def _is_valid_utf8(content: bytes) -> bool:
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


@dataclass
class _Reading:
    """The sample, decoded in one encoding."""

    encoding: str
    confidence: float
    text: str


def detect_encoding(lines: NonAsciiLines) -> Detected:
    """Return the encoding of lines that are not UTF-8, or None if it cannot be told."""
    import chardet

    sample = lines.sample
    first_line = sample.splitlines()[0] if sample else b""
    likely: list[_Reading] = []
    for result in chardet.detect_all(sample, max_bytes=max(1, len(sample))):
        encoding = _common_superset(result["encoding"])
        try:
            text = sample.decode(encoding)
        except (UnicodeDecodeError, LookupError):
            continue
        if _holds_c1_controls(text):
            continue  # control characters that no text holds: wrong encoding
        same = next((reading for reading in likely if reading.text == text), None)
        if same is None:
            likely.append(_Reading(encoding, result["confidence"], text))
        elif encoding == _MOST_COMMON:  # lines beyond the sample may differ, and then it is the likelier
            same.encoding = encoding
    certain = (
        bool(likely)
        and sum(byte > 0x7F for byte in sample) >= _ENOUGH
        and all(rival.confidence < _RIVAL * likely[0].confidence for rival in likely[1:])
    )
    readings = tuple(
        (reading.encoding, excerpt(first_line.decode(reading.encoding, "replace")))
        for reading in likely[: 1 if certain else 4]
    )
    return Detected(likely[0].encoding if certain else None, lines.line, readings)


def weigh_evidence(lines: NonAsciiLines, guess: Detected) -> EncodingEvidence:
    """Weigh UTF-8 against the likeliest other encoding over all lines that hold more than ASCII.

    A line that is valid UTF-8 counts for UTF-8 only if the other encoding would garble it: two bytes such as those of
    `É®` in cp1252 are a UTF-8 character by chance.
    """
    readings = dict(guess.readings) or {"latin-1": ""}
    encoding = _MOST_COMMON if guess.encoding is None and _MOST_COMMON in readings else next(iter(readings))
    common = _non_ascii(lines.sample.decode(encoding, "replace"))
    decoded = [
        (line, data.decode("utf-8", "ignore"), data.decode(encoding, "replace")) for line, data in lines.utf8_lines
    ]
    garbled = [entry for entry in decoded if _is_garbled(entry[2], entry[1], common)]
    count = round(lines.utf8 * len(garbled) / max(1, len(decoded)))
    if count > lines.not_utf8:
        return EncodingEvidence("utf-8", lines.not_utf8, ((lines.line, readings[encoding], ""),))
    contradicting = tuple((line, excerpt(text), excerpt(other)) for line, text, other in garbled[:5])
    garbled_lines = {line for line, *_ in garbled}
    by_chance = tuple(line for line, *_ in decoded if line not in garbled_lines)[:5]
    return EncodingEvidence(encoding, count, contradicting, by_chance)


def _is_garbled(text: str, as_utf8: str, common: frozenset[str]) -> bool:
    """Return whether `text` is a line of UTF-8 that was decoded in another encoding.

    `common` are the non-ASCII characters of lines that are certainly in that encoding.
    """
    from ftfy.badness import badness

    if badness(text) > badness(as_utf8) or _holds_c1_controls(text):
        return True
    outside = _non_ascii(as_utf8)
    return not _non_ascii(text) <= common and (outside <= common or outside <= _EVERYDAY)


def _holds_c1_controls(text: str) -> bool:
    return any("\x80" <= character <= "\x9f" for character in text)


def _non_ascii(text: str) -> frozenset[str]:
    return frozenset(character for character in text if character > "\x7f")


def _common_superset(encoding: str | None) -> str:
    """Return the encoding in which files that look like `encoding` are usually written."""
    name = codecs.lookup(encoding or "ascii").name
    return _SUPERSETS.get(name, name)


def excerpt(text: str, width: int = 60) -> str:
    """Return the part of `text` around its first non-ASCII character, or its beginning."""
    at = next((index for index, character in enumerate(text) if character > "\x7f"), 0)
    start = max(0, at - width // 2)
    part = " ".join(text[start : start + width].split())
    return ("… " if start else "") + part + (" …" if start + width < len(text) else "")
