"""Files in the inbox become rows of the corpus: each once, whole or not at all, whatever is killed when.

A file is taken away from whoever put it there by one rename, into `.taking/`. Its rows are read as the corpus's are,
written behind a copy of the corpus, in the corpus's own dialect, and the copy takes the corpus's place by one rename;
then the file is moved to `done/`, or to `refused/` with the reason beside it. From before the corpus is replaced until
the file has been moved, `registry/inbox.json` tells of it: whether the copy still lies beside the corpus says which of
the two renames are left to do.

Whatever is wrong with one file is its own matter: it is refused, or stays where it is, and the next one is taken.
"""

import csv
import errno
import json
import os
import re
import shutil
import stat
import traceback
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import IO, Literal

from pipeline import escape, params, paths, storage
from pipeline.command import UserError
from pipeline.intake.file_format import FileFormat, preview
from pipeline.intake.reader import read_chunks
from pipeline.intake.sniff import has_known_suffix, sniff_format
from pipeline.revision import followed

JOURNAL = paths.REGISTRY / "inbox.json"
ADDITION = paths.REGISTRY / "inbox.rows"
ATTEMPTS = paths.REGISTRY / "inbox.attempts"  # how often a file was begun by a process that did not end it
_MOST_ATTEMPTS = 3
# The machine's fault, not the file's: it is taken again later.
_OF_THE_MACHINE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EMFILE, errno.ENFILE)
_LONGEST_NAME = 255  # bytes, on every file system in use
_UNFINISHED = (".part", ".tmp", ".crdownload", ".filepart", "~")  # how programs call a file that is still coming
_FOLDERS = (".taking", "done", "refused")  # in the inbox: where its files are moved to
_LINE_ENDS = {"CRLF": "\r\n", "CR": "\r"}  # else LF


@dataclass(frozen=True)
class ImportedFile:
    """What became of a file: its rows are in the corpus, or `refused` says why they are not; `place` is where it is.

    `name` and `place` are the file system's, which may hold anything: `printable` makes text of them.
    """

    name: str
    rows: int
    refused: str
    place: str


def pending_files(inbox: Path) -> dict[str, list[int]]:
    """Return the files in the inbox with size and time of change (ns), by which a look tells whether they are whole.

    Only those whose names say that they hold rows: not those that begin with a dot, or end as unfinished downloads do.
    Raises UserError where the folder may not be read.
    """
    found = {}
    for name in _names(inbox):
        if has_known_suffix(Path(name)):
            status = (inbox / name).lstat()
            found[name] = [status.st_size, status.st_mtime_ns]
    return found


def skipped_files(inbox: Path) -> dict[str, str]:
    """Return what stays in the inbox, with a sentence that says why."""
    theirs = followed(inbox) if inbox.is_dir() else set()
    found = {}
    for name in _names(inbox, folders=True):
        found[name] = (
            f"{printable(inbox / name)} stays in the inbox: it is a folder; put its files into the inbox itself"
        )
    for name in _names(inbox):
        if not has_known_suffix(Path(name)):
            found[name] = (
                f"{printable(inbox / name)} stays in the inbox: its name does not end in .csv, .tsv, .jsonl or "
                ".parquet, with or without .gz or .zst; rename it if it holds rows, or put it elsewhere"
            )
        elif name in theirs:
            found[name] = (
                f"{printable(inbox / name)} stays in the inbox: git or DVC follows it, and would see it deleted; put a "
                "copy under another name there"
            )
    return found


def _names(inbox: Path, *, folders: bool = False) -> list[str]:
    """Return the names of the files, or of the folders, that somebody may have put there to be taken."""
    try:  # links are no folders: whether one leads to a folder, a link to itself cannot tell
        found = sorted(entry.name for entry in os.scandir(inbox) if entry.is_dir(follow_symlinks=False) == folders)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"watch.inbox: {inbox} may not be read ({error.strerror}); allow it") from None
    entries = [name for name in found if not (folders and name in _FOLDERS)]
    return [name for name in entries if not name.startswith(".") and not name.endswith(_UNFINISHED)]


def printable(text: str | Path) -> str:
    """Return text, such as a path, on one line and without what drives a terminal; a long name is cut in its middle."""
    return re.sub(r"[^/\s]{120,}", lambda name: f"{name[0][:80]}...{name[0][-20:]}", escape.terminal(str(text)))


def has_unfinished_import(root: Path, wanted: params.Params) -> bool:
    """Tell whether a killed `take` left work that needs no further look at the inbox."""
    taking = root / wanted.watch.inbox / ".taking"
    return (root / JOURNAL).exists() or (taking.is_dir() and any(taking.iterdir()))


def import_files(root: Path, wanted: params.Params, names: Collection[str]) -> list[ImportedFile]:
    """Append the rows of the inbox's files of these names to the corpus; first finish what a killed one began.

    Needs the claim on the workspace. Raises UserError where the corpus cannot take rows in; the files stay then.
    """
    inbox, corpus = root / wanted.watch.inbox, root / wanted.data.path
    taken = _finish(root, corpus)
    _check_folders(inbox)
    taking = inbox / ".taking"
    taking.mkdir(parents=True, exist_ok=True)
    into = _corpus(corpus, wanted)
    for left in sorted(taking.iterdir()):
        taken.append(_take(root, left, into, wanted))
    stays = skipped_files(inbox)
    for name in names:
        if name in stays:
            continue  # said by whoever asks `staying`
        try:
            (inbox / name).rename(taking / name)
        except FileNotFoundError:
            continue  # taken back by whoever put it there
        except OSError as error:
            why = f"{printable(inbox / name)}: may not be moved ({error.strerror}); give the project's user that right"
            taken.append(ImportedFile(name, 0, why, _below(root, inbox / name)))
            continue
        _sync(inbox)
        taken.append(_take(root, taking / name, into, wanted))
    return taken


def _check_folders(inbox: Path) -> None:
    """Raise UserError where something else has the name of a folder that files are moved to, such as a link."""
    for name in _FOLDERS:
        if os.path.lexists(inbox / name) and ((inbox / name).is_symlink() or not (inbox / name).is_dir()):
            raise UserError(
                f"{inbox / name} is no folder, and the inbox moves files to a folder of that name; rename it, and the "
                "inbox's files are taken"
            )


def _finish(root: Path, corpus: Path) -> list[ImportedFile]:
    """Do what is left of the append that the journal tells of; return the file where its rows are in the corpus."""
    try:
        entry = storage.read_json(root / JOURNAL)
        beside, source = Path(entry.pop("beside")), Path(entry.pop("source"))
        file = ImportedFile(**entry)
    except FileNotFoundError:
        storage.temporary_path(corpus).unlink(missing_ok=True)  # written before its journal
        return []
    except (ValueError, LookupError, TypeError, AttributeError):
        raise UserError(
            f"{root / JOURNAL} is damaged, so it cannot be told whether the rows of the file in .taking are at the end "
            f"of {corpus}: see, take that file away if they are, and delete {root / JOURNAL}"
        ) from None
    taken = []
    if beside.exists():
        beside.unlink()  # the corpus is the old one, and the file is taken again
    else:
        if source.exists():
            _move(source, root / file.place)
        taken.append(file)
    (root / JOURNAL).unlink()
    return taken


def _take(root: Path, source: Path, into: FileFormat, wanted: params.Params) -> ImportedFile:
    """Append the rows of a file in `.taking/`, or refuse it."""
    inbox, corpus = source.parents[1], into.path
    try:
        with _attempt(root, source):
            rows, header = _addition(root / ADDITION, source, into, wanted)
    except UserError as error:
        return _refuse(root, source, str(error))
    except OSError as error:
        if error.errno in _OF_THE_MACHINE or error.filename == str(root / ADDITION):
            where = "the disk" if error.filename is None else error.filename
            raise UserError(f"{where}: {error.strerror}; the inbox's files are taken once that is mended") from None
        return _refuse(root, source, f"{source}: cannot be read ({error})")
    except Exception as error:  # whatever a reader stumbles over in this file must not keep the next one
        why = f"{source}: reading it failed ({type(error).__name__}: {preview([str(error)])}); check what it holds"
        return _refuse(root, source, why, traceback.format_exc())
    place = _free(inbox / "done" / source.name)
    place.parent.mkdir(exist_ok=True)
    taken = ImportedFile(source.name, rows, "", _below(root, place))
    before = _stamp(corpus)
    beside = storage.temporary_path(corpus)
    _append(beside, corpus, into, root / ADDITION, header)
    storage.write_atomic(root / JOURNAL, json.dumps({**asdict(taken), "source": str(source), "beside": str(beside)}))
    if _stamp(corpus) != before:
        beside.unlink()
        (root / JOURNAL).unlink()
        raise UserError(f"{corpus} changed while rows were being appended to it; they are appended at the next look")
    beside.replace(corpus)
    _sync(corpus.parent)
    _move(source, place)
    (root / JOURNAL).unlink()
    (root / ADDITION).unlink()
    return taken


def _refuse(root: Path, source: Path, why: str, details: str = "") -> ImportedFile:
    """Put a file in `.taking/` aside, under a name that any program can open, and the reason beside it."""
    inbox = source.parents[1]
    (root / ADDITION).unlink(missing_ok=True)
    place = _free(inbox / "refused" / _plain(source.name))
    place.parent.mkdir(exist_ok=True)
    why = printable(why.replace(str(source), str(inbox / source.name)))
    storage.write_atomic(
        place.with_name(f"{place.name}.txt"), f"{why}\n{details}"
    )  # first: a refusal always has its reason
    _move(source, place)
    return ImportedFile(source.name, 0, why, _below(root, place))


def _plain(name: str) -> str:
    """Return a short name of ASCII letters, digits, dots, dashes and underscores that ends as `name` does."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "_", name)
    return plain if len(plain) <= 80 else f"{plain[:60]}_{plain[-19:]}"


@contextmanager
def _attempt(root: Path, source: Path) -> Iterator[None]:
    """Count what is done in this block as an attempt at the file; raises UserError where too many ended in a kill.

    A file whose reading takes the whole process along, such as for want of memory, would otherwise do so for ever.
    """
    path = root / ATTEMPTS
    name = str(source)
    try:
        attempts = int(storage.read_json(path)[name]) + 1
    except (FileNotFoundError, ValueError, LookupError, TypeError):  # of no file, of another one, or damaged
        attempts = 1
    if attempts <= _MOST_ATTEMPTS:
        storage.write_atomic(path, json.dumps({name: attempts}))
    try:
        if attempts > _MOST_ATTEMPTS:
            raise UserError(
                f"{source}: {_MOST_ATTEMPTS} times, the process that read it was killed, perhaps for want of memory; "
                "split it into smaller files, or give the machine more memory"
            )
        yield
    finally:
        path.unlink(missing_ok=True)


def _below(root: Path, path: Path) -> str:
    """Return the path as seen from the root, where it is in it."""
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)


def _corpus(corpus: Path, wanted: params.Params) -> FileFormat:
    """Return the look of the corpus; raises UserError where nothing can be appended to a file of its kind."""
    found = sniff_format(corpus, wanted.data)
    if found.format not in ("csv", "tsv") or found.compression != "none":
        packed = "" if found.compression == "none" else f", packed with {found.compression}"
        raise UserError(
            f"{corpus}: the inbox appends to CSV and TSV files, and the corpus is {found.format}{packed}; append to "
            "it yourself, or save it as CSV and name that under data.path in params.yaml"
        )
    return found


def _addition(path: Path, source: Path, corpus: FileFormat, wanted: params.Params) -> tuple[int, int]:
    """Write the rows of `source` as the corpus has them, and read them back; return the rows, the header's bytes.

    Raises UserError for a file that the intake cannot read, with other columns, or with what that dialect cannot hold.
    """
    strictly = wanted.data.model_copy(update={"broken_rows": "stop"})
    if source.is_symlink():
        raise UserError(f"{source}: is a link, which may lead to another file tomorrow; put the file itself there")
    if not stat.S_ISREG(source.lstat().st_mode):
        raise UserError(f"{source}: is no regular file, such as a pipe or a folder; put a file there")
    try:
        seen = sniff_format(source, strictly)
        if set(seen.columns) != set(corpus.columns):
            raise UserError(
                f"{source}: its columns are {preview(seen.columns)}, but those of the corpus, {corpus.path}, are "
                f"{preview(corpus.columns)}; give it the same, in any order"
            )
        order = [seen.columns.index(name) for name in corpus.columns]
        path.unlink(missing_ok=True)
        with path.open("x", encoding=corpus.encoding, newline="") as file:
            add = _writer(file, corpus, csv.QUOTE_MINIMAL if corpus.quote else csv.QUOTE_NONE)
            # A row of white space alone would read as no row.
            add_blank = _writer(file, corpus, csv.QUOTE_ALL) if corpus.quote else add
            if corpus.header:
                add(corpus.columns)
            file.flush()
            header = file.tell()
            rows = 0
            for row, fields in _records(seen, strictly):
                ordered = [fields[at] for at in order]
                try:
                    (add if any(map(str.strip, ordered)) else add_blank)(ordered)
                except (csv.Error, UnicodeEncodeError) as error:
                    raise UserError(
                        f"{source}, line {row}: cannot be written as the corpus is, {corpus.path} ({error}); change "
                        "that text, or save the corpus as UTF-8 with quotes"
                    ) from None
                rows += 1
            file.flush()
            os.fsync(file.fileno())
    except PermissionError as error:
        raise UserError(f"{error.filename}: may not be read ({error.strerror}); allow it, and put it back") from None
    there = _records(replace(corpus, path=path, bom=False), strictly)
    for ours, back in zip_longest(_records(seen, strictly), there):
        if ours is None or back is None or [ours[1][at] for at in order] != back[1]:
            raise UserError(
                f"{source}, line {(ours or back or (0,))[0]}: in the corpus's way of writing, {corpus.path}, this row "
                "would read as another one; change its text, or save the corpus with quotes"
            )
    return rows, header


def _writer(file: IO[str], seen: FileFormat, quoting: Literal[0, 1, 3]) -> Callable[[Sequence[str]], object]:
    """Return what writes a row as the corpus has them; `quoting` is csv's."""
    return csv.writer(
        file,
        delimiter=seen.delimiter,
        quotechar=seen.quote or None,
        escapechar=seen.escape or None,
        quoting=quoting,
        lineterminator=_LINE_ENDS.get(seen.line_ends, "\n"),
    ).writerow


def _records(seen: FileFormat, wanted: params.Data) -> Iterator[tuple[int, list[str]]]:
    for chunk in read_chunks(seen, wanted):
        yield from zip(chunk.rows, chunk.fields, strict=True)


def _append(beside: Path, corpus: Path, seen: FileFormat, addition: Path, header: int) -> None:
    """Write the corpus as it is, byte for byte, and the rows behind it, to a file beside it."""
    with storage.create_new(beside) as file:
        with corpus.open("rb") as old:
            shutil.copyfileobj(old, file, 1 << 20)
            ends = [mark.encode(seen.encoding) for mark in ("\n", "\r")]
            old.seek(-len(ends[0]), os.SEEK_END)
            if old.read() not in ends:
                file.write(_LINE_ENDS.get(seen.line_ends, "\n").encode(seen.encoding))
        with addition.open("rb") as rows:
            rows.seek(header)
            shutil.copyfileobj(rows, file, 1 << 20)
        file.flush()
        os.fsync(file.fileno())
    beside.chmod(corpus.stat().st_mode | 0o200)  # where it was a link into DVC's cache, it was read-only
    _sync(beside.parent)


def _stamp(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


def _free(path: Path) -> Path:
    """Return `path`, or the first like it under which there is no file yet; short enough for any file system."""
    number, found = 1, path
    while found.exists() or found.is_symlink():
        number += 1
        ending = os.fsencode(f".{number}{path.suffix}")
        stem = os.fsencode(path.stem)[: _LONGEST_NAME - len(ending)]
        found = path.with_name(os.fsdecode(stem + ending))
    return found


def _move(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)  # there already, unless somebody deleted it meanwhile
    source.rename(target)
    _sync(target.parent)
    _sync(source.parent)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
