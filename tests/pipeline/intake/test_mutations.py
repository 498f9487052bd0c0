"""A valid CSV broken in 500 ways: each gives rows or an error message, and no row is lost."""

import csv
import io
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline import params
from pipeline.command import UserError
from pipeline.intake import reader, sniff
from pipeline.intake.file_format import FileFormat
from tests.conftest import Workspace

pytestmark = pytest.mark.integration

WORDS = ["tide", "rope", "a, b", 'say "so"', "two\nlines", "café", "漢字", "", " x ", "12", "🙂", "=1+1", "end."]
BYTES = [
    b'"',
    b'""',
    b",",
    b"\n",
    b"\r",
    b"\r\n",
    b"\0",
    b"\xff",
    b"\xc3",
    b"\xef\xbb\xbf",
    b"\\",
    b";",
    b"\t",
    b"\x1a",
]


def valid(source: random.Random) -> bytes:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator=source.choice(["\n", "\r\n"]))
    writer.writerow(["id", "text", "more"])
    for number in range(40):
        writer.writerow([number, " ".join(source.choices(WORDS, k=6)), source.choice(WORDS)])
    return file.getvalue().encode()


def broken(content: bytes, source: random.Random) -> bytes:
    """Return `content` with one to three changes."""
    for _ in range(source.randint(1, 3)):
        at, to = sorted(source.randrange(len(content) + 1) for _ in range(2))
        lines = content.splitlines(keepends=True)
        match source.randrange(9):
            case 0:
                content = content[:at] + bytes([source.randrange(256)]) + content[at + 1 :]
            case 1:
                content = content[:at] + source.choice(BYTES) + content[at:]
            case 2:
                content = content[:at] + content[at + source.randint(1, 20) :]
            case 3:
                content = content[:to] + content[at:]
            case 4:
                content = content[:at]
            case 5:
                source.shuffle(lines)
                content = b"".join(lines)
            case 6:
                content = content.replace(source.choice(BYTES), source.choice(BYTES), source.randint(1, 30))
            case 7:
                content = content[at:]
            case 8:
                content = content.decode("utf-8", "replace").encode(
                    source.choice(["utf-16", "utf-8-sig", "big5"]), "replace"
                )
        content = content or b"\n"
    return content


@pytest.fixture
def bounded() -> Iterator[None]:
    """Raise TimeoutError after a minute, so that a hang shows as a failure."""

    def stop(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


SETTINGS = [
    {},
    {"data__broken_rows": "quarantine"},
    {"data__broken_rows": "quarantine", "data__encoding": "auto", "data__delimiter": "auto"},
    {"data__broken_rows": "quarantine", "data__quote": "none", "data__header": "none"},
    {"data__broken_rows": "quarantine", "data__escape": "\\"},
]


def rewritten(file_format: FileFormat, path: Path, config: params.Data) -> str:
    """Return the records that were read as the lines of the file they came from, told by their line numbers."""
    content = path.read_bytes().decode(file_format.encoding).removeprefix("\ufeff")
    lines = list(io.StringIO(content, newline=""))
    starts = [row for chunk in reader.read_chunks(file_format, config) for row in chunk.rows]
    assert starts == sorted(set(starts))
    first = sorted({1, *starts})
    ends = [*first[1:], len(lines) + 1]
    return "".join("".join(lines[start - 1 : end - 1]) for start, end in zip(first, ends, strict=True))


def characters_of(file_format: FileFormat, config: params.Data) -> int:
    """Return how many characters but quotes, delimiters, escapes and line breaks the fields hold."""
    dropped = {file_format.quote, file_format.delimiter, file_format.escape, "\r", "\n"}
    count = sum(character not in dropped for name in file_format.columns * file_format.header for character in name)
    for chunk in reader.read_chunks(file_format, config):
        for position, fields in enumerate(chunk.fields):
            values = chunk.broken.get(position, fields)
            count += sum(character not in dropped for value in values for character in value)
    return count


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_a_broken_csv_gives_rows_with_every_character_or_an_error_message(
    workspace: Workspace, bounded: None, settings: dict[str, str]
) -> None:
    workspace.set(**settings)
    config = params.load().data
    path = workspace.folder / "corpus.csv"
    refused = read = 0
    for seed in range(100):
        source = random.Random(seed * len(SETTINGS) + SETTINGS.index(settings))
        path.write_bytes(broken(valid(source), source))
        try:
            file_format = sniff.sniff_format(path, config)
            count = characters_of(file_format, config)
        except UserError:
            refused += 1
            continue
        read += 1
        content = path.read_bytes().decode(file_format.encoding).removeprefix("\ufeff")
        dropped = {file_format.quote, file_format.delimiter, file_format.escape, "\r", "\n"}
        assert count == sum(character not in dropped for character in content)
        assert rewritten(file_format, path, config) == content
    assert refused
    assert read
