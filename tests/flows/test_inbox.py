"""Files put into the inbox: their rows are in the corpus once, in its own dialect, and nothing of them is ever lost."""

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

from flows import inbox
from flows.inbox import Taken
from pipeline import params
from pipeline.command import UserError
from pipeline.intake.look import look
from pipeline.intake.records import read

ROOT = Path(__file__).parents[2]  # not from conftest, whose libraries would make each process slow to start
PROCESSES = get_context("forkserver")
PROCESSES.set_forkserver_preload(["tests.flows.test_inbox"])


class Place:
    """A folder with params.yaml, a corpus and an inbox."""

    def __init__(self, folder: Path, corpus: bytes = b"id,text\n1,one\n2,two\n", **data: str) -> None:
        self.folder = folder
        settings = params.load(ROOT / "params.yaml")
        self.wanted = settings.model_copy(update={"data": settings.data.model_copy(update={"path": "c.csv", **data})})
        self.corpus = folder / self.wanted.data.path
        self.inbox = folder / self.wanted.watch.inbox
        self.inbox.mkdir(parents=True)
        (folder / "registry").mkdir()
        self.corpus.write_bytes(corpus)

    def put(self, content: bytes | str, name: str = "new.csv") -> None:
        (self.inbox / name).write_bytes(content.encode() if isinstance(content, str) else content)

    def take(self) -> list[Taken]:
        return inbox.take(self.folder, self.wanted, list(inbox.waiting(self.inbox)))

    def rows(self) -> list[list[str]]:
        return [
            fields for chunk in read(look(self.corpus, self.wanted.data), self.wanted.data) for fields in chunk.fields
        ]

    def files(self) -> list[str]:
        """Return every file in the inbox and below it."""
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
def test_rows_come_behind_the_corpus_in_its_own_dialect_and_read_back_the_same(
    tmp_path: Path, corpus: bytes, data: dict[str, str]
) -> None:
    place = Place(tmp_path, corpus, **data)
    new = Place(tmp_path / "other", b"", path=place.wanted.data.path)
    encoding = {"utf-16": "utf-16", "cp1252": "cp1252"}.get(place.wanted.data.encoding, "utf-8")
    with new.corpus.open("w", encoding=encoding, newline="") as file:
        write = csv.writer(
            file,
            delimiter="\t" if "path" in data else place.wanted.data.delimiter,
            quotechar=place.wanted.data.quote,
            quoting=csv.QUOTE_ALL,
        ).writerow
        if place.wanted.data.header == "first":
            write(["text", "id"])
        for number, text in enumerate(TEXTS):
            fields = [text.replace("\\", "\\\\") if "escape" in data else text, str(number)]
            write(fields if place.wanted.data.header == "first" else fields[::-1])
    before = place.rows()
    shutil.copy(new.corpus, place.inbox / new.corpus.name)
    [taken] = place.take()
    assert taken.refused == ""
    assert (taken.rows, place.files()) == (len(TEXTS), [f"done/{new.corpus.name}"])
    assert place.corpus.read_bytes().startswith(corpus)
    assert place.rows() == [*before, *([str(number), text] for number, text in enumerate(TEXTS))]
    assert place.corpus.read_bytes().count(b"\r\n") == 0 or b"\r" in corpus


def test_rows_of_white_space_alone_stay_rows(tmp_path: Path) -> None:
    place = Place(tmp_path, b"text\none\n")
    place.put('text\n" "\nthree\n""\n')
    [taken] = place.take()
    assert (taken.rows, taken.refused) == (3, "")
    assert place.rows() == [["one"], [" "], ["three"], [""]]


def test_what_the_corpus_cannot_hold_is_refused_with_its_line(tmp_path: Path) -> None:
    place = Place(tmp_path, b"id,text\n1,one\n", quote="none")
    place.put("text,id\nfine,2\n", "a.csv")
    place.put(json.dumps({"id": "3", "text": "a, b"}) + "\n", "b.jsonl")
    taken = place.take()
    assert [(file.rows, bool(file.refused)) for file in taken] == [(1, False), (0, True)]
    assert "data/inbox/b.jsonl, line 1: cannot be written as the corpus is" in taken[1].refused
    assert place.corpus.read_bytes() == b"id,text\n1,one\n2,fine\n"


def test_a_character_outside_the_corpus_encoding_is_refused_with_its_line(tmp_path: Path) -> None:
    place = Place(tmp_path, b"id,text\n1,caf\xe9\n", encoding="cp1252")
    place.put(json.dumps({"id": "3", "text": "\N{SNOWMAN}"}) + "\n", "b.jsonl")
    [taken] = place.take()
    assert "b.jsonl, line 1: cannot be written as the corpus is" in taken.refused
    assert place.corpus.read_bytes() == b"id,text\n1,caf\xe9\n"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("id,words\n3,three\n", "its columns are 'id', 'words', but those of the corpus"),
        ("id,text\n3,three\n4\n", "data/inbox/new.csv, line 3: 1 fields where the header has 2"),
        (b"id,text\n3,\xff\n", "data/inbox/new.csv"),
        ("id,text\n", "there is no row below the header"),
        ("", "the file is empty"),
    ],
)
def test_a_file_that_does_not_fit_is_put_aside_with_the_reason_beside_it(
    tmp_path: Path, content: bytes | str, said: str
) -> None:
    place = Place(tmp_path, broken_rows="quarantine")
    before = place.corpus.read_bytes()
    place.put(content)
    [taken] = place.take()
    assert said in taken.refused
    assert ".taking" not in taken.refused
    assert place.files() == ["refused/new.csv", "refused/new.csv.txt"]
    assert (place.inbox / "refused" / "new.csv.txt").read_text(encoding="utf-8") == taken.refused + "\n"
    assert (place.inbox / "refused" / "new.csv").read_bytes() == (
        content.encode() if isinstance(content, str) else content
    )
    assert place.corpus.read_bytes() == before


def test_a_file_of_a_name_that_was_there_before_is_kept_beside_it(tmp_path: Path) -> None:
    place = Place(tmp_path)
    for number in (3, 4, 5):
        place.put(f"id,text\n{number},x\n")
        place.take()
    assert place.files() == ["done/new.2.csv", "done/new.3.csv", "done/new.csv"]
    assert place.rows()[-3:] == [["3", "x"], ["4", "x"], ["5", "x"]]


def test_a_link_is_refused_and_unfinished_downloads_wait(tmp_path: Path) -> None:
    place = Place(tmp_path)
    (tmp_path / "elsewhere.csv").write_text("id,text\n3,three\n")
    (place.inbox / "link.csv").symlink_to(tmp_path / "elsewhere.csv")
    place.put("id,te", "coming.csv.part")
    place.put("id,te", ".hidden.csv")
    assert list(inbox.waiting(place.inbox)) == ["link.csv"]
    [taken] = place.take()
    assert "is a link" in taken.refused


def test_a_corpus_that_is_a_link_into_dvcs_cache_becomes_a_file_and_the_cache_stays(tmp_path: Path) -> None:
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


def test_a_corpus_that_rows_cannot_be_appended_to_leaves_the_file_where_it_is(tmp_path: Path) -> None:
    place = Place(tmp_path, b'{"id": "1", "text": "one"}\n', path="c.jsonl")
    place.put("id,text\n3,three\n")
    with pytest.raises(UserError, match="the inbox appends to CSV and TSV files, and the corpus is jsonl"):
        place.take()
    assert place.files() == ["new.csv"]


def test_a_corpus_that_somebody_saves_meanwhile_keeps_what_they_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place(tmp_path)
    place.put("id,text\n3,three\n")
    append = inbox._append

    def append_while_somebody_saves(*arguments: object) -> None:
        append(*arguments)  # type: ignore[arg-type]
        place.corpus.write_bytes(b"id,text\n9,saved by hand\n")

    monkeypatch.setattr(inbox, "_append", append_while_somebody_saves)
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
def test_whatever_is_wrong_with_a_file_it_is_refused_under_a_plain_name_and_the_next_one_is_taken(
    tmp_path: Path, name: bytes, content: bytes
) -> None:
    place = Place(tmp_path)
    (place.inbox / os.fsdecode(name)).write_bytes(content)
    place.put("id,text\n3,three\n", "~last.csv")
    refused, taken = sorted(place.take(), key=lambda file: file.rows)
    assert (refused.name, refused.rows, taken.rows) == (os.fsdecode(name), 0, 1)
    assert refused.refused.isprintable()
    assert place.rows() == [["1", "one"], ["2", "two"], ["3", "three"]]
    [aside] = [file for file in place.files() if file.startswith("refused/") and not file.endswith(".txt")]
    assert aside.isascii()
    assert len(aside) < 100
    assert (place.inbox / aside).read_bytes() == content
    assert (place.inbox / f"{aside}.txt").read_text(encoding="utf-8").startswith(f"{refused.refused}\n")


def test_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    place = Place(tmp_path)
    os.mkfifo(place.inbox / "pipe.csv")
    [refused] = place.take()
    assert "is no regular file" in refused.refused


def test_links_and_folders_keep_no_file_from_being_taken(tmp_path: Path) -> None:
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
    stays = inbox.staying(place.inbox)
    assert sorted(stays) == ["itself", "more"]
    assert "it is a folder" in stays["more"]


@pytest.mark.parametrize("name", [".taking", "done", "refused"])
@pytest.mark.parametrize("kind", ["file", "link"])
def test_a_file_or_a_link_in_the_place_of_the_inboxs_own_folders_is_said_and_left_alone(
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
def test_a_damaged_journal_is_said_and_nothing_is_taken_twice(tmp_path: Path, content: str) -> None:
    place = Place(tmp_path)
    place.put("id,text\n3,three\n")
    (tmp_path / inbox.JOURNAL).write_text(content)
    with pytest.raises(UserError, match=r"inbox.json is damaged"):
        place.take()
    (tmp_path / inbox.JOURNAL).unlink()
    (tmp_path / inbox.ATTEMPTS).write_text(content)
    assert [file.rows for file in place.take()] == [1]


def test_files_that_do_not_say_that_they_hold_rows_or_are_followed_stay(tmp_path: Path) -> None:
    place = Place(tmp_path)
    for name in ("README.md", "make.py", "none", "x.csv.dvc", "x.csv", "of-git.csv", "MINE.CSV"):
        place.put("id,text\n3,three\n", name)
    for command in (["init", "-q"], ["add", "-f", "of-git.csv"]):
        subprocess.run(["git", *command], cwd=place.inbox, check=True)
    assert place.inbox.joinpath("of-git.csv").exists()
    [taken] = place.take()
    assert taken.name == "MINE.CSV"
    assert sorted(inbox.staying(place.inbox)) == ["README.md", "make.py", "none", "of-git.csv", "x.csv", "x.csv.dvc"]
    assert "git or DVC follows it" in inbox.staying(place.inbox)["x.csv"]


def test_an_inbox_may_be_outside_of_the_project(tmp_path: Path) -> None:
    place = Place(tmp_path / "project")
    place.wanted = place.wanted.model_copy(
        update={"watch": place.wanted.watch.model_copy(update={"inbox": str(tmp_path / "incoming")})}
    )
    place.inbox = tmp_path / "incoming"
    place.inbox.mkdir()
    place.put("id,text\n3,three\n", "a.csv")
    place.put("words\n3\n", "b.csv")
    taken = place.take()
    assert [file.place for file in taken] == [f"{place.inbox}/done/a.csv", f"{place.inbox}/refused/b.csv"]
    assert place.files() == ["done/a.csv", "refused/b.csv", "refused/b.csv.txt"]


def test_a_fault_of_the_disk_is_not_the_files(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.put("id,text\n3,three\n")
    (tmp_path / inbox.ADDITION).mkdir()
    with pytest.raises(UserError, match=r"inbox.rows: Is a directory; the inbox's files are taken once that is mended"):
        place.take()
    assert place.files() == [".taking/new.csv"]
    (tmp_path / inbox.ADDITION).rmdir()
    [taken] = place.take()
    assert (taken.rows, taken.refused) == (1, "")


def test_a_limit_on_the_size_of_files_leaves_the_file_for_later(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.put("id,text\n" + "3,three\n" * 20_000)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(UserError, match="File too large; the inbox's files are taken once that is mended"):
            place.take()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert place.files() == [".taking/new.csv"]
    [taken] = place.take()
    assert (taken.rows, taken.refused) == (20_000, "")


def test_a_file_whose_reading_kills_the_process_is_refused_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
    refused, taken = place.take()
    assert "3 times, the process that read it was killed" in refused.refused
    assert (taken.name, taken.rows) == ("next.csv", 1)
    assert not (tmp_path / inbox.ATTEMPTS).exists()


def killed_while_reading(place: Place) -> None:
    """Take what is in the inbox, and be killed like a process that has taken too much memory."""
    inbox._records = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment]
    place.take()


# Audit events of what changes files.
CHANGES = ("os.chmod", "os.mkdir", "os.remove", "os.rename")


def killed_at(number: int, place: Place) -> None:
    """Take what is in the inbox, and end without a word right before the change of this number to a file."""
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
        found = place.corpus.read_bytes()
        assert found in (old, old + new)
        there = [Path(name).name for name in place.files()]
        assert there.count("good.csv") == there.count("odd.csv") == 1
        seen.add((found == old, tuple(name for name in place.files() if name.endswith("good.csv"))))
        more = b""
        if number % 2 and "good.csv" not in place.files():
            place.put("id,text\n3,three\n6,of the same name\n", "good.csv")
            more = b"3,three\n6,of the same name\n"
        place.take()
        assert not inbox.is_unfinished(place.folder, place.wanted)
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
