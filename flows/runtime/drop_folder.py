"""The drop folder, `watch.inbox`: each file put there is appended to the corpus once, as a whole or not at all.

One rename moves a file into `.taking/`. Its rows are written behind a copy of the corpus, and one rename puts the copy
into the corpus's place; then the file moves to `done/`, or to `refused/` with the reason in a `.txt` file. From before
the corpus is replaced until the file has moved, `registry/inbox.json` describes the import: if the copy still exists,
the corpus was not replaced yet. So a process that is killed at any moment neither loses nor doubles a row.

A problem with one file never stops the others: the file is refused, or skipped where it is.
"""

import errno
import json
import os
import re
import traceback
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from flows.runtime.corpus_append import append_rows, corpus_format, write_rows
from pipeline import escape, params, paths, storage
from pipeline.command import UserError
from pipeline.intake.file_format import FileFormat, preview
from pipeline.intake.sniff import has_known_suffix
from pipeline.revision import followed

JOURNAL = paths.REGISTRY / "inbox.json"
ROWS = paths.REGISTRY / "inbox.rows"  # of the file that is being imported, in the format of the corpus
ATTEMPTS = paths.REGISTRY / "inbox.attempts"  # how many processes were killed while they read a file
_MAX_ATTEMPTS = 3
# Faults of the machine, after which a file stays: it is imported later.
_MACHINE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EMFILE, errno.ENFILE)
_MAX_NAME = 255  # bytes, on every file system in use
_UNFINISHED = (".part", ".tmp", ".crdownload", ".filepart", "~")  # suffixes of files that are still being written
_TAKING, _DONE, _REFUSED = _FOLDERS = (".taking", "done", "refused")


@dataclass(frozen=True)
class ImportedFile:
    """What happened to a dropped file.

    Args:
        name: Its name, which may hold any characters; print it with `printable`.
        rows: How many rows were appended.
        refused: Why the file was refused; empty if it was not.
        place: Where the file is now; print it with `printable`.
    """

    name: str
    rows: int
    refused: str
    place: str


def pending_files(folder: Path) -> dict[str, list[int]]:
    """Return size and time of change (ns) of each file that could be imported, by name.

    Files whose names begin with a dot, or have no known suffix or that of an unfinished download, are not included.
    Raises UserError if the folder cannot be read.
    """
    files = {}
    for name in _names(folder):
        if has_known_suffix(Path(name)):
            status = (folder / name).lstat()
            files[name] = [status.st_size, status.st_mtime_ns]
    return files


def skipped_files(folder: Path) -> dict[str, str]:
    """Return the files and folders that are never imported, each with a sentence that says why."""
    tracked = followed(folder) if folder.is_dir() else set()
    skipped = {
        name: f"{printable(folder / name)} is skipped: it is a folder; put its files into {folder} itself"
        for name in _names(folder, folders=True)
    }
    for name in _names(folder):
        if not has_known_suffix(Path(name)):
            skipped[name] = (
                f"{printable(folder / name)} is skipped: its name does not end in .csv, .tsv, .jsonl or .parquet, "
                "with or without .gz or .zst; rename it if it holds rows, or move it away"
            )
        elif name in tracked:
            skipped[name] = (
                f"{printable(folder / name)} is skipped: git or DVC tracks it and would see it deleted; put a copy "
                "under another name there"
            )
    return skipped


def _names(folder: Path, *, folders: bool = False) -> list[str]:
    """Return the names of the files, or of the folders, that somebody put there."""
    try:  # links are never followed: a link to itself cannot be
        names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=False) == folders)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"watch.inbox: {folder} cannot be read ({error.strerror}); allow it") from None
    names = [name for name in names if not (folders and name in _FOLDERS)]
    return [name for name in names if not name.startswith(".") and not name.endswith(_UNFINISHED)]


def printable(text: str | Path) -> str:
    """Return text, such as a path, on one line and without terminal codes; long names are cut in the middle."""
    return re.sub(r"[^/\s]{120,}", lambda name: f"{name[0][:80]}...{name[0][-20:]}", escape.terminal(str(text)))


def has_unfinished_import(root: Path, config: params.Params) -> bool:
    """Whether a killed `import_files` left files whose import must be finished."""
    taking = root / config.watch.inbox / _TAKING
    return (root / JOURNAL).exists() or (taking.is_dir() and any(taking.iterdir()))


def import_files(root: Path, config: params.Params, names: Collection[str]) -> list[ImportedFile]:
    """Append the rows of the named files to the corpus, after finishing what a killed process began.

    Needs the claim on the workspace. Raises UserError if nothing can be appended to the corpus; the files stay then.
    """
    folder, corpus = root / config.watch.inbox, root / config.data.path
    imported = _finish(root, corpus)
    _check_folders(folder)
    taking = folder / _TAKING
    taking.mkdir(parents=True, exist_ok=True)
    target = corpus_format(corpus, config)
    for interrupted in sorted(taking.iterdir()):
        imported.append(_import(root, interrupted, target, config))
    skipped = skipped_files(folder)
    for name in names:
        if name in skipped:
            continue
        try:
            (folder / name).rename(taking / name)
        except FileNotFoundError:
            continue  # taken back by whoever put it there
        except OSError as error:
            path = folder / name
            why = f"{printable(path)}: cannot be moved ({error.strerror}); give the project's user permission to do so"
            imported.append(ImportedFile(name, 0, why, _relative(root, path)))
            continue
        storage.fsync(folder)
        imported.append(_import(root, taking / name, target, config))
    return imported


def _check_folders(folder: Path) -> None:
    """Raise UserError if something else, such as a link, has the name of a folder that files are moved to."""
    for name in _FOLDERS:
        path = folder / name
        if os.path.lexists(path) and (path.is_symlink() or not path.is_dir()):
            raise UserError(f"{path} is no folder, but dropped files are moved to a folder of that name; rename it")


def _finish(root: Path, corpus: Path) -> list[ImportedFile]:
    """Finish the import that the journal describes; return its file if the corpus has its rows."""
    try:
        entry = storage.read_json(root / JOURNAL)
        copy, source = Path(entry.pop("beside")), Path(entry.pop("source"))
        file = ImportedFile(**entry)
    except FileNotFoundError:
        storage.temporary_path(corpus).unlink(missing_ok=True)  # the copy is written before the journal
        return []
    except (ValueError, LookupError, TypeError, AttributeError):
        raise UserError(
            f"{root / JOURNAL} is damaged, so it is unknown whether the rows of the file in {_TAKING} are already at "
            f"the end of {corpus}: look, delete that file if they are, and then delete {root / JOURNAL}"
        ) from None
    imported = []
    if copy.exists():
        copy.unlink()  # the corpus was not replaced; the file is imported again
    else:
        if source.exists():
            _move(source, root / file.place)
        imported.append(file)
    (root / JOURNAL).unlink()
    return imported


def _import(root: Path, source: Path, corpus: FileFormat, config: params.Params) -> ImportedFile:
    """Append the rows of a file in `.taking/` to the corpus, or refuse the file."""
    try:
        with _attempt(root, source):
            rows, header = write_rows(root / ROWS, source, corpus, config)
    except UserError as error:
        return _refuse(root, source, str(error))
    except OSError as error:
        if error.errno in _MACHINE_ERRORS or error.filename == str(root / ROWS):
            where = "the disk" if error.filename is None else error.filename
            raise UserError(f"{where}: {error.strerror}; the dropped files are imported once this is fixed") from None
        return _refuse(root, source, f"{source}: cannot be read ({error})")
    except Exception as error:  # whatever a reader raises for this file, the next one is imported
        why = f"{source}: reading it failed ({type(error).__name__}: {preview([str(error)])}); check its content"
        return _refuse(root, source, why, traceback.format_exc())
    place = _unused(source.parents[1] / _DONE / source.name)
    place.parent.mkdir(exist_ok=True)
    imported = ImportedFile(source.name, rows, "", _relative(root, place))
    _replace_corpus(root, source, corpus, imported, header)
    _move(source, place)
    (root / JOURNAL).unlink()
    (root / ROWS).unlink()
    return imported


def _replace_corpus(root: Path, source: Path, corpus: FileFormat, file: ImportedFile, header: int) -> None:
    """Put a copy of the corpus with the new rows into its place; raises UserError if the corpus changed meanwhile."""
    before = _stamp(corpus.path)
    copy = storage.temporary_path(corpus.path)
    append_rows(copy, corpus, root / ROWS, header)
    entry = {**asdict(file), "source": str(source), "beside": str(copy)}
    storage.write_atomic(root / JOURNAL, json.dumps(entry))
    if _stamp(corpus.path) != before:
        copy.unlink()
        (root / JOURNAL).unlink()
        raise UserError(f"{corpus.path} changed while rows were being appended; the next check appends them")
    copy.replace(corpus.path)
    storage.fsync(corpus.path.parent)


def _refuse(root: Path, source: Path, why: str, details: str = "") -> ImportedFile:
    """Move a file from `.taking/` to `refused/` under a portable name, with the reason in a `.txt` file."""
    folder = source.parents[1]
    (root / ROWS).unlink(missing_ok=True)
    place = _unused(folder / _REFUSED / _portable(source.name))
    place.parent.mkdir(exist_ok=True)
    why = printable(why.replace(str(source), str(folder / source.name)))
    # The reason comes first: no file is in refused/ without one.
    storage.write_atomic(place.with_name(f"{place.name}.txt"), f"{why}\n{details}")
    _move(source, place)
    return ImportedFile(source.name, 0, why, _relative(root, place))


def _portable(name: str) -> str:
    """Return a short name of ASCII letters, digits, dots, dashes and underscores with the end of `name`."""
    ascii_name = re.sub(r"[^A-Za-z0-9._-]+", "_", name)
    return ascii_name if len(ascii_name) <= 80 else f"{ascii_name[:60]}_{ascii_name[-19:]}"


@contextmanager
def _attempt(root: Path, source: Path) -> Iterator[None]:
    """Count an attempt to read the file; raises UserError if earlier attempts ended with the process being killed.

    Otherwise a file that takes more memory than there is would kill each run anew.
    """
    path = root / ATTEMPTS
    name = str(source)
    try:
        attempts = int(storage.read_json(path)[name]) + 1
    except (FileNotFoundError, ValueError, LookupError, TypeError):  # no file, that of another source, or damaged
        attempts = 1
    if attempts <= _MAX_ATTEMPTS:
        storage.write_atomic(path, json.dumps({name: attempts}))
    try:
        if attempts > _MAX_ATTEMPTS:
            raise UserError(
                f"{source}: the process that read it was killed {_MAX_ATTEMPTS} times, perhaps for lack of memory; "
                "split it into smaller files, or give the machine more memory"
            )
        yield
    finally:
        path.unlink(missing_ok=True)


def _relative(root: Path, path: Path) -> str:
    """Return the path relative to the root, if it is below it."""
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)


def _stamp(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


def _unused(path: Path) -> Path:
    """Return `path`, or the first numbered variant that does not exist, short enough for any file system."""
    number, unused = 1, path
    while unused.exists() or unused.is_symlink():
        number += 1
        ending = os.fsencode(f".{number}{path.suffix}")
        stem = os.fsencode(path.stem)[: _MAX_NAME - len(ending)]
        unused = path.with_name(os.fsdecode(stem + ending))
    return unused


def _move(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)  # it exists unless somebody deleted it
    source.rename(target)
    storage.fsync(target.parent)
    storage.fsync(source.parent)
