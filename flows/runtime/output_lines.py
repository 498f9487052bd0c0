"""Lines of a child process's output while it runs, with a progress bar thinned to a line every few seconds."""

import codecs
import os
import re
import selectors
import subprocess
import time
from collections.abc import Iterator

from pipeline import escape

BAR_SECONDS = 5.0  # between two lines of a progress bar
_MAX_LINE = 10_000  # characters; a longer line is split
_TERMINAL_CODES = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")  # cursor movements and colours
_UNFINISHED_BAR = re.compile(r"(?<!100)%\|")  # a nested bar ends the line of the outer one
_LINE_END = re.compile(r"(?<=\n)|(?<=\r)(?!\n|\Z)")


class DeadlineExceededError(Exception):
    """The process was still running at the deadline."""


def read_lines(process: subprocess.Popen[bytes], deadline: float | None) -> Iterator[str]:
    """Yield the lines that `process` prints, until it ends.

    Args:
        process: The process; its stdout is a pipe.
        deadline: A time of `time.monotonic()`, after which DeadlineExceededError is raised.
    """
    shown = time.monotonic()
    for line in _raw_lines(process, deadline):
        text = _TERMINAL_CODES.sub("", line)
        is_bar = text.endswith("\r") or (text.endswith("\n") and _UNFINISHED_BAR.search(text))
        if text.strip() and not (is_bar and time.monotonic() - shown < BAR_SECONDS):
            yield escape.visible(text.strip())
            shown = time.monotonic() if is_bar else shown


def _raw_lines(process: subprocess.Popen[bytes], deadline: float | None) -> Iterator[str]:
    assert process.stdout is not None
    decode = codecs.getincrementaldecoder("utf-8")("replace").decode
    rest = ""
    with selectors.DefaultSelector() as ready:
        ready.register(process.stdout, selectors.EVENT_READ)
        while True:
            if deadline is not None and time.monotonic() > deadline:
                raise DeadlineExceededError
            if not ready.select(0.5):
                if process.poll() is None:
                    continue
                break  # the process ended; only a stray child still holds the pipe
            chunk = os.read(process.stdout.fileno(), 65536)
            if not chunk:
                break
            *lines, rest = _LINE_END.split(rest + decode(chunk))
            if len(rest) > _MAX_LINE:
                lines, rest = [*lines, f"{rest}\n"], ""
            yield from lines
    yield rest.strip()  # without a line end, so that it is never dropped as a bar
