"""How every command of the project starts and ends: `--help`, one sentence for its user, and an exit code.

0: done. 1: done, and the answer is no. 2: the user can fix it, as one sentence says. 3: a crash, with its traceback.
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
    """A mistake that the user can mend; its text names what was found, what was expected and the mend."""


def arg_parser(no: str = "") -> argparse.ArgumentParser:
    """Return a parser with `--help` for the command that this process runs; `no` says what exit code 1 means.

    It describes the command by the first paragraph of its module's docstring.
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
    """Print a sentence for the user beside the command's output, on a line of its own above a progress bar."""
    tqdm.write(escape.visible(sentence), file=sys.stderr)


def echo(text: str) -> None:
    """Print `text`, the command's output; no character in it drives the terminal."""
    _print(escape.visible(text))


def echo_json(content: Any, indent: int | None = 2) -> None:
    """Print `content` as JSON, the command's output."""
    is_unicode = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    _print(escape.as_json(content, ascii_only=not is_unicode, indent=indent))


class OutputLost(Exception):  # noqa: N818 - it reads as what happened
    """Stdout takes no more: it is closed, or the disk that it goes to is full."""

    def __init__(self, reason: OSError) -> None:
        """Keep what the system said."""
        super().__init__(reason)
        self.reason = reason


def _print(*lines: str) -> None:
    """Print lines at once; raises OutputLost where they cannot be written."""
    if sys.stdout is None:  # closed by whoever started the command
        if lines:
            raise OutputLost(OSError(EBADF, "is closed, so nothing can be printed"))
        return
    try:
        for line in lines:
            print(line)  # noqa: T201 - the one place
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python fails on the rest at its very end
        raise OutputLost(error) from None


def utf8_text(value: str) -> str:
    """Return an argument that is to be kept as text; the `type` of such arguments for argparse."""
    try:
        value.encode()
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError(f"found bytes that are no UTF-8 text: {value!r}; write it in UTF-8") from None
    return value


def run(main: Callable[[], None]) -> NoReturn:
    """Call `main`, then exit with the code that says how it went; an exit code that `main` chose stays."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a character that the terminal's encoding lacks is no crash
            stream.reconfigure(errors="backslashreplace")
    code = _code_of(main)
    # What is still buffered may have no room: Python would say so at its very end, with a code of its own.
    sys.exit(_code_of(_print) or code)


def _code_of(call: Callable[[], None]) -> int:
    """Return the exit code that says how a call went, having said the rest on stderr."""
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


# No file is what is wrong then: a fault of ours.
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
    """Return what the system refused, in a sentence; `unnamed` is what it says where the error names no file."""
    named = " -> ".join(
        os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)
    )
    fix = _FIXES.get(error.errno or 0, "check that it exists and who may read and write it, then run it again")
    return f"{named or unnamed}: {error.strerror}; {fix}"
