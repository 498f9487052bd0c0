"""Dropped files: their rows are appended to the corpus once, in its dialect, and none is ever lost."""

import csv
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path

import pytest

from flows.runtime import drop_folder
from flows.runtime.drop_folder import ImportedFile
from pipeline import params
from pipeline.command import UserError
from pipeline.intake.reader import read_chunks
from pipeline.intake.sniff import sniff_format

ROOT = Path(__file__).parents[3]  # not from conftest, whose libraries would make each process slow to start
PROCESSES = get_context("forkserver")
PROCESSES.set_forkserver_preload(["tests.flows.runtime.test_drop_folder"])


class Place:
    """A folder with settings, a corpus and a drop folder."""

    def __init__(self, folder: Path, corpus: bytes = b"id,text\n1,one\n2,two\n", **data: str) -> None:
        self.folder = folder
        settings = params.load(ROOT / "params.yaml")
        self.config = settings.model_copy(update={"data": settings.data.model_copy(update={"path": "c.csv", **data})})
        self.corpus = folder / self.config.data.path
        self.inbox = folder / self.config.watch.inbox
        self.inbox.mkdir(parents=True)
        (folder / "registry").mkdir()
        self.corpus.write_bytes(corpus)

    def put(self, content: bytes | str, name: str = "new.csv") -> None:
        (self.inbox / name).write_bytes(content.encode() if isinstance(content, str) else content)

    def take(self) -> list[ImportedFile]:
        return drop_folder.import_files(self.folder, self.config, list(drop_folder.pending_files(self.inbox)))

    def rows(self) -> list[list[str]]:
        return [
            fields
            for chunk in read_chunks(sniff_format(self.corpus, self.config.data), self.config.data)
            for fields in chunk.fields
        ]

    def files(self) -> list[str]:
        """Return every file in and below the drop folder."""
        return sorted(str(path.relative_to(self.inbox)) for path in self.inbox.rglob("*") if path.is_file())


TEXTS = ["plain", 'a "quoted" word, and a comma', "two\nlines", "café", "back\\slash", "  ", "", "a;b|c"]


@pytest.mark.parametrize(
    ("corpus", "data"),
    [
        (b"id,text\n1,one\n", {}),
        (b"id,text\r\n1,one\r\n", {}),
        (b"id,text\n1,one", {}),
        (b"\xef\xbb\xbfid,text\n1,one\n", {}),
        ("\N{BYTE ORDER MARK}id,text\r\n1,one".encode("utf-16-le"), {"encoding": "utf-16"}),
        ("id;text\n1;d\xe9j\xe0\n".encode("cp1252"), {"encoding": "cp1252", "delimiter": ";"}),
        (b"id\ttext\n1\tone\n", {"path": "c.tsv"}),
        (b"id,text\n1,'one'\n", {"quote": "'"}),
        (b'id,text\n1,"one \\" two"\n', {"escape": "\\"}),
        (b"1,one\n", {"header": "none"}),
    ],
    ids=["lf", "crlf", "no end", "bom", "utf-16", "cp1252", "tsv", "quote", "escape", "no header"],
)
def test_rows_are_appended_in_the_dialect_of_the_corpus(tmp_path: Path, corpus: bytes, data: dict[str, str]) -> None:
    place = Place(tmp_path, corpus, **data)
    new = Place(tmp_path / "other", b"", path=place.config.data.path)
    encoding = {"utf-16": "utf-16", "cp1252": "cp1252"}.get(place.config.data.encoding, "utf-8")
    with new.corpus.open("w", encoding=encoding, newline="") as file:
        write = csv.writer(
            file,
            delimiter="\t" if "path" in data else place.config.data.delimiter,
            quotechar=place.config.data.quote,
            quoting=csv.QUOTE_ALL,
        ).writerow
        if place.config.data.header == "first":
            write(["text", "id"])
        for number, text in enumerate(TEXTS):
            fields = [text.replace("\\", "\\\\") if "escape" in data else text, str(number)]
            write(fields if place.config.data.header == "first" else fields[::-1])
    before = place.rows()
    shutil.copy(new.corpus, place.inbox / new.corpus.name)
    [imported] = place.take()
    assert imported.refused == ""
    assert (imported.rows, place.files()) == (len(TEXTS), [f"done/{new.corpus.name}"])
    assert place.corpus.read_bytes().startswith(corpus)
    assert place.rows() == [*before, *([str(number), text] for number, text in enumerate(TEXTS))]
    assert place.corpus.read_bytes().count(b"\r\n") == 0 or b"\r" in corpus


def test_rows_of_only_white_space_are_kept(tmp_path: Path) -> None:
    place = Place(tmp_path, b"text\none\n")
    place.put('text\n" "\nthree\n""\n')
    [imported] = place.take()
    assert (imported.rows, imported.refused) == (3, "")
    assert place.rows() == [["one"], [" "], ["three"], [""]]


def test_a_row_that_the_dialect_cannot_hold_is_refused_with_its_line(tmp_path: Path) -> None:
    place = Place(tmp_path, b"id,text\n1,one\n", quote="none")
    place.put("text,id\nfine,2\n", "a.csv")
    place.put(json.dumps({"id": "3", "text": "a, b"}) + "\n", "b.jsonl")
    imported = place.take()
    assert [(file.rows, bool(file.refused)) for file in imported] == [(1, False), (0, True)]
    assert "data/inbox/b.jsonl, line 1: cannot be written in the format of the corpus" in imported[1].refused
    assert place.corpus.read_bytes() == b"id,text\n1,one\n2,fine\n"


def test_a_character_outside_the_corpus_encoding_is_refused_with_its_line(tmp_path: Path) -> None:
    place = Place(tmp_path, b"id,text\n1,caf\xe9\n", encoding="cp1252")
    place.put(json.dumps({"id": "3", "text": "\N{SNOWMAN}"}) + "\n", "b.jsonl")
    [imported] = place.take()
    assert "b.jsonl, line 1: cannot be written in the format of the corpus" in imported.refused
    assert place.corpus.read_bytes() == b"id,text\n1,caf\xe9\n"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("id,words\n3,three\n", "its columns are 'id', 'words', but those of the corpus"),
        ("id,text\n3,three\n4\n", "data/inbox/new.csv, line 3: 1 fields where the header has 2"),
        (b"id,text\n3,\xff\n", "data/inbox/new.csv"),
        ("id,text\n", "there is no row below the header"),
        ("", "the file is empty"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_with_its_reason(
    tmp_path: Path, content: bytes | str, expected: str
) -> None:
    place = Place(tmp_path, broken_rows="quarantine")
    before = place.corpus.read_bytes()
    place.put(content)
    [imported] = place.take()
    assert expected in imported.refused
    assert ".taking" not in imported.refused
    assert place.files() == ["refused/new.csv", "refused/new.csv.txt"]
    assert (place.inbox / "refused" / "new.csv.txt").read_text(encoding="utf-8") == imported.refused + "\n"
    assert (place.inbox / "refused" / "new.csv").read_bytes() == (
        content.encode() if isinstance(content, str) else content
    )
    assert place.corpus.read_bytes() == before


def test_a_second_file_of_the_same_name_is_kept_under_a_new_name(tmp_path: Path) -> None:
    place = Place(tmp_path)
    for number in (3, 4, 5):
        place.put(f"id,text\n{number},x\n")
        place.take()
    assert place.files() == ["done/new.2.csv", "done/new.3.csv", "done/new.csv"]
    assert place.rows()[-3:] == [["3", "x"], ["4", "x"], ["5", "x"]]


def test_links_are_refused_and_unfinished_downloads_ignored(tmp_path: Path) -> None:
    place = Place(tmp_path)
    (tmp_path / "elsewhere.csv").write_text("id,text\n3,three\n")
    (place.inbox / "link.csv").symlink_to(tmp_path / "elsewhere.csv")
    place.put("id,te", "coming.csv.part")
    place.put("id,te", ".hidden.csv")
    assert list(drop_folder.pending_files(place.inbox)) == ["link.csv"]
    [imported] = place.take()
    assert "is a link" in imported.refused


def test_a_corpus_linked_into_the_dvc_cache_becomes_a_file_of_its_own(tmp_path: Path) -> None:
    place = Place(tmp_path)
    cached = tmp_path / "cached"
    place.corpus.rename(cached)
    cached.chmod(0o444)
    place.corpus.symlink_to(cached)
    place.put("id,text\n3,three\n")
    place.take()
    assert cached.read_bytes() == b"id,text\n1,one\n2,two\n"
    assert not place.corpus.is_symlink()
    assert place.corpus.read_bytes() == b"id,text\n1,one\n2,two\n3,three\n"
    assert place.corpus.stat().st_mode & 0o200


def test_a_corpus_of_another_format_leaves_the_file_in_place(tmp_path: Path) -> None:
    place = Place(tmp_path, b'{"id": "1", "text": "one"}\n', path="c.jsonl")
    place.put("id,text\n3,three\n")
    with pytest.raises(UserError, match="dropped files are appended to CSV and TSV files, and the corpus is jsonl"):
        place.take()
    assert place.files() == ["new.csv"]


def test_an_edit_of_the_corpus_during_the_import_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = Place(tmp_path)
    place.put("id,text\n3,three\n")
    append = drop_folder.append_rows

    def append_while_somebody_saves(*arguments: object) -> None:
        append(*arguments)  # type: ignore[arg-type]
        place.corpus.write_bytes(b"id,text\n9,saved by hand\n")

    monkeypatch.setattr(drop_folder, "append_rows", append_while_somebody_saves)
    with pytest.raises(UserError, match="changed while rows were being appended"):
        place.take()
    assert place.rows() == [["9", "saved by hand"]]
    monkeypatch.undo()
    place.take()
    assert place.rows() == [["9", "saved by hand"], ["3", "three"]]


NESTED = b'{"id": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (b"caf\xe9.csv", b"a,b\n1,2\n"),
        ("caf\N{LATIN SMALL LETTER E WITH ACUTE} (1).csv".encode(), b"a,b\n1,2\n"),
        (("\N{CJK UNIFIED IDEOGRAPH-9577}" * 83 + ".csv").encode(), b"a,b\n1,2\n"),
        (b"x" * 250 + b".csv"[:4], b"a,b\n1,2\n"),
        (b"line\nbreak.csv", b"a,b\n1,2\n"),
        (b"-rf.csv", b"a,b\n1,2\n"),
        (b"nested.jsonl", NESTED),
        (b"short.csv.gz", b"\x1f\x8b\x08"),
        (b"broken.parquet", b"PAR1" + b"\0" * 20 + b"PAR1"),
    ],
    ids=["not utf-8", "accent", "253 bytes", "254 bytes", "line break", "dash", "nested", "cut gzip", "broken parquet"],
)
def test_a_broken_file_is_refused_under_a_portable_name_and_the_next_is_imported(
    tmp_path: Path, name: bytes, content: bytes
) -> None:
    place = Place(tmp_path)
    (place.inbox / os.fsdecode(name)).write_bytes(content)
    place.put("id,text\n3,three\n", "~last.csv")
    refused, imported = sorted(place.take(), key=lambda file: file.rows)
    assert (refused.name, refused.rows, imported.rows) == (os.fsdecode(name), 0, 1)
    assert refused.refused.isprintable()
    assert place.rows() == [["1", "one"], ["2", "two"], ["3", "three"]]
    [aside] = [file for file in place.files() if file.startswith("refused/") and not file.endswith(".txt")]
    assert aside.isascii()
    assert len(aside) < 100
    assert (place.inbox / aside).read_bytes() == content
    assert (place.inbox / f"{aside}.txt").read_text(encoding="utf-8").startswith(f"{refused.refused}\n")


def test_a_pipe_is_refused_without_opening_it(tmp_path: Path) -> None:
    place = Place(tmp_path)
    os.mkfifo(place.inbox / "pipe.csv")
    [refused] = place.take()
    assert "is no regular file" in refused.refused


def test_links_and_folders_do_not_block_other_files(tmp_path: Path) -> None:
    place = Place(tmp_path)
    (place.inbox / "itself.csv").symlink_to("itself.csv")
    (place.inbox / "itself").symlink_to("itself")
    (place.inbox / "folder.csv").symlink_to(tmp_path)
    (place.inbox / "more").mkdir()
    place.put("id,text\n3,three\n", "next.csv")
    assert [(file.name, file.rows, "is a link" in file.refused) for file in place.take()] == [
        ("folder.csv", 0, True),
        ("itself.csv", 0, True),
        ("next.csv", 1, False),
    ]
    skipped = drop_folder.skipped_files(place.inbox)
    assert sorted(skipped) == ["itself", "more"]
    assert "it is a folder" in skipped["more"]


@pytest.mark.parametrize("name", [".taking", "done", "refused"])
@pytest.mark.parametrize("kind", ["file", "link"])
def test_a_file_or_link_in_place_of_a_target_folder_is_reported_and_untouched(
    tmp_path: Path, name: str, kind: str
) -> None:
    place = Place(tmp_path)
    place.put("id,text\n3,three\n")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "mine.csv").write_text("id,text\n4,four\n")
    if kind == "link":
        (place.inbox / name).symlink_to(elsewhere)
    else:
        (place.inbox / name).touch()
    with pytest.raises(UserError, match=f"{name} is no folder"):
        place.take()
    assert (place.inbox / "new.csv").exists()
    assert [path.name for path in elsewhere.iterdir()] == ["mine.csv"]


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"beside": 1, "source": 2}', '{"beside": "a", "source": "b"}'])
def test_a_damaged_journal_stops_the_import(tmp_path: Path, content: str) -> None:
    place = Place(tmp_path)
    place.put("id,text\n3,three\n")
    (tmp_path / drop_folder.JOURNAL).write_text(content)
    with pytest.raises(UserError, match=r"inbox.json is damaged"):
        place.take()
    (tmp_path / drop_folder.JOURNAL).unlink()
    (tmp_path / drop_folder.ATTEMPTS).write_text(content)
    assert [file.rows for file in place.take()] == [1]


def test_tracked_files_and_unknown_suffixes_are_skipped(tmp_path: Path) -> None:
    place = Place(tmp_path)
    for name in ("README.md", "make.py", "none", "x.csv.dvc", "x.csv", "of-git.csv", "MINE.CSV"):
        place.put("id,text\n3,three\n", name)
    for command in (["init", "-q"], ["add", "-f", "of-git.csv"]):
        subprocess.run(["git", *command], cwd=place.inbox, check=True)
    assert place.inbox.joinpath("of-git.csv").exists()
    [imported] = place.take()
    assert imported.name == "MINE.CSV"
    assert sorted(drop_folder.skipped_files(place.inbox)) == [
        "README.md",
        "make.py",
        "none",
        "of-git.csv",
        "x.csv",
        "x.csv.dvc",
    ]
    assert "git or DVC tracks it" in drop_folder.skipped_files(place.inbox)["x.csv"]


def test_the_drop_folder_may_be_outside_the_project(tmp_path: Path) -> None:
    place = Place(tmp_path / "project")
    place.config = place.config.model_copy(
        update={"watch": place.config.watch.model_copy(update={"inbox": str(tmp_path / "incoming")})}
    )
    place.inbox = tmp_path / "incoming"
    place.inbox.mkdir()
    place.put("id,text\n3,three\n", "a.csv")
    place.put("words\n3\n", "b.csv")
    imported = place.take()
    assert [file.place for file in imported] == [f"{place.inbox}/done/a.csv", f"{place.inbox}/refused/b.csv"]
    assert place.files() == ["done/a.csv", "refused/b.csv", "refused/b.csv.txt"]


def test_a_disk_error_does_not_refuse_the_file(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.put("id,text\n3,three\n")
    (tmp_path / drop_folder.ROWS).mkdir()
    with pytest.raises(
        UserError, match=r"inbox.rows: Is a directory; the dropped files are imported once this is fixed"
    ):
        place.take()
    assert place.files() == [".taking/new.csv"]
    (tmp_path / drop_folder.ROWS).rmdir()
    [imported] = place.take()
    assert (imported.rows, imported.refused) == (1, "")


def test_a_limit_on_the_size_of_files_leaves_the_file_for_later(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.put("id,text\n" + "3,three\n" * 20_000)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(UserError, match="File too large; the dropped files are imported once this is fixed"):
            place.take()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert place.files() == [".taking/new.csv"]
    [imported] = place.take()
    assert (imported.rows, imported.refused) == (20_000, "")


def test_a_file_that_kills_three_processes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = Place(tmp_path)
    place.put("id,text\n3,three\n", "bomb.csv")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    for _ in range(3):
        process = PROCESSES.Process(target=killed_while_reading, args=(place,))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert place.files() == [".taking/bomb.csv"]
    place.put("id,text\n4,four\n", "next.csv")
    refused, imported = place.take()
    assert "the process that read it was killed 3 times" in refused.refused
    assert (imported.name, imported.rows) == ("next.csv", 1)
    assert not (tmp_path / drop_folder.ATTEMPTS).exists()


def killed_while_reading(place: Place) -> None:
    """Import the dropped files, and be killed like a process that uses too much memory."""
    drop_folder.write_rows = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment]
    place.take()


# Audit events of what changes files.
CHANGES = ("os.chmod", "os.mkdir", "os.remove", "os.rename")


def killed_at(number: int, place: Place) -> None:
    """Import the dropped files, and be killed right before the file system change with this number."""
    left = number

    def count(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal left
        flags = arguments[2] if event == "open" else 0
        if event in CHANGES or (isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    os.fsync = lambda _: None  # what a kill leaves behind is the same, and a power cut is not what is tried here
    sys.addaudithook(count)
    place.take()


@pytest.fixture(scope="module")
def _found_from_anywhere() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        yield


@pytest.mark.integration
@pytest.mark.usefixtures("_found_from_anywhere")
def test_a_kill_at_any_moment_neither_loses_nor_doubles_a_row(tmp_path: Path) -> None:
    old = b"id,text\n1,one\n2,two\n"
    new = b"3,three\n4,four\n"
    seen = set()
    for number in range(1, 100):
        place = Place(tmp_path / str(number))
        place.put("id,text\n3,three\n4,four\n", "good.csv")
        place.put("id,words\n5,five\n", "odd.csv")
        process = PROCESSES.Process(target=killed_at, args=(number, place))
        process.start()
        process.join()
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
        result = place.corpus.read_bytes()
        assert result in (old, old + new)
        there = [Path(name).name for name in place.files()]
        assert there.count("good.csv") == there.count("odd.csv") == 1
        seen.add((result == old, tuple(name for name in place.files() if name.endswith("good.csv"))))
        more = b""
        if number % 2 and "good.csv" not in place.files():
            place.put("id,text\n3,three\n6,of the same name\n", "good.csv")
            more = b"3,three\n6,of the same name\n"
        place.take()
        assert not drop_folder.has_unfinished_import(place.folder, place.config)
        assert place.corpus.read_bytes() == old + new + more
        done = ["done/good.2.csv", "done/good.csv"] if more else ["done/good.csv"]
        assert place.files() == [*done, "refused/odd.csv", "refused/odd.csv.txt"]
        assert sorted(path.name for path in tmp_path.joinpath(str(number)).iterdir()) == ["c.csv", "data", "registry"]
    else:
        raise AssertionError("it never ended")
    assert number > 12
    assert seen == {  # the kills did reach every state
        (True, ("good.csv",)),
        (True, (".taking/good.csv",)),
        (False, (".taking/good.csv",)),
        (False, ("done/good.csv",)),
    }
