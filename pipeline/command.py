"""What every command shares: output, `--help`, one-sentence errors and exit codes.

0: done. 1: done, and the answer is no. 2: a mistake the user can fix; one sentence says how. 3: a crash, with its
traceback.
"""

import argparse
import io
import os
import sys
import traceback
from collections.abc import Callable
from errno import EBADF, EDQUOT, EFBIG, EMFILE, ENOSPC, EROFS
from typing import Any, NoReturn

from tqdm import tqdm

from pipeline import escape

NO = 1
MISTAKE_OF_THE_CALLER = 2  # argparse exits with it too
CRASH = 3
_INTERRUPTED = 130  # what a shell reports for a command ended by Ctrl-C
_OUTPUT_CLOSED = 141  # likewise by SIGPIPE: whoever read the output has read enough
EXIT_CODES = "Exit codes: 0 done, {no}2 a mistake that you can fix, as one sentence says, 3 a crash."

_FIXES = {
    EBADF: "leave it open, or send it to /dev/null",
    ENOSPC: "free some space, then run it again",
    EDQUOT: "free some space of your quota, then run it again",
    EFBIG: "raise the limit on the size of files (`ulimit -f`), then run it again",
    EMFILE: "raise the limit on open files (`ulimit -n`), then run it again",
    EROFS: "make the file system writable, then run it again",
}


class UserError(Exception):
    """A mistake the user can fix; its text says what was found, what was expected and how to fix it."""


def arg_parser(no: str = "") -> argparse.ArgumentParser:
    """Return an argument parser for the command that this process runs.

    The first paragraph of the command's module docstring is its description; `no` says what exit code 1 means.
    """
    module = sys.modules["__main__"]
    spec = getattr(module, "__spec__", None)
    return argparse.ArgumentParser(
        prog=f"python -m {spec.name}" if spec else None,
        description=(module.__doc__ or "").split("\n\n")[0],
        epilog=EXIT_CODES.format(no=f"1 {no}, " if no else ""),
        allow_abbrev=False,
    )


def warn(sentence: str) -> None:
    """Print a sentence to stderr, on a line of its own above a progress bar."""
    tqdm.write(escape.visible(sentence), file=sys.stderr)


def echo(text: str) -> None:
    """Print `text` to stdout; control characters in it are escaped."""
    _print(escape.visible(text))


def echo_json(content: Any, indent: int | None = 2) -> None:
    """Print `content` as JSON to stdout."""
    is_unicode = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    _print(escape.as_json(content, ascii_only=not is_unicode, indent=indent))


class OutputLost(Exception):  # noqa: N818 - an event, not a defect
    """Stdout cannot be written: it is closed, or its disk is full."""

    def __init__(self, reason: OSError) -> None:
        """Keep the system's error."""
        super().__init__(reason)
        self.reason = reason


def _print(*lines: str) -> None:
    """Print lines and flush; raises OutputLost if that fails."""
    if sys.stdout is None:  # the parent process closed it
        if lines:
            raise OutputLost(OSError(EBADF, "is closed, so nothing can be printed"))
        return
    try:
        for line in lines:
            print(line)  # noqa: T201 - the one place
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python fails on the buffered rest at exit
        raise OutputLost(error) from None


def utf8_text(value: str) -> str:
    """Return a command-line argument that is valid UTF-8; the `type` for arguments that are stored as text."""
    try:
        value.encode()
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError(f"found bytes that are no UTF-8 text: {value!r}; write it in UTF-8") from None
    return value


def run(main: Callable[[], None]) -> NoReturn:
    """Call `main` and exit with its exit code, or the one for the exception it raised."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a character that the encoding lacks must not crash
            stream.reconfigure(errors="backslashreplace")
    code = _code_of(main)
    # Flush what is still buffered: if that failed at exit, Python would use an exit code of its own.
    sys.exit(_code_of(_print) or code)


def _code_of(call: Callable[[], None]) -> int:
    """Return the exit code for the outcome of a call, with its error printed to stderr."""
    try:
        call()
    except UserError as error:
        return _refuse(str(error))
    except KeyboardInterrupt:
        return _INTERRUPTED
    except SystemExit as ended:
        return _chosen(ended)
    except OutputLost as lost:
        if isinstance(lost.reason, BrokenPipeError):
            return _OUTPUT_CLOSED
        return _refuse(_in_words(lost.reason, "the output"))
    except OSError as error:
        if error.strerror is None or isinstance(error, _BETWEEN_PROCESSES):
            return _crash()
        return _refuse(_in_words(error, "a file"))
    except Exception:
        return _crash()
    return 0


# These OSErrors are bugs, not mistakes about files.
_BETWEEN_PROCESSES = (ConnectionError, BlockingIOError, ChildProcessError, ProcessLookupError, TimeoutError)


def _chosen(ended: SystemExit) -> int:
    if isinstance(ended.code, str):
        return _refuse(ended.code)
    return ended.code or 0


def _refuse(sentence: str) -> int:
    warn(f"error: {sentence}")
    return MISTAKE_OF_THE_CALLER


def _crash() -> int:
    warn(traceback.format_exc().rstrip())
    return CRASH


def _in_words(error: OSError, unnamed: str) -> str:
    """Return a system error as a sentence; `unnamed` stands for the file where the error names none."""
    named = " -> ".join(
        os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)
    )
    fix = _FIXES.get(error.errno or 0, "check that it exists and who may read and write it, then run it again")
    return f"{named or unnamed}: {error.strerror}; {fix}"
