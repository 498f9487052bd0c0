"""A child process of `fresh up`, with a log file, that ends with this process however this process ends."""

import subprocess
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from flows.runtime import supervisor
from pipeline import paths, storage

LOGS = paths.REGISTRY / "logs"
_MAX_LOG = 10_000_000  # bytes; a larger log becomes NAME.log.1 at the next start
_TAIL, _TAIL_LINES = 20_000, 10  # bytes and lines that `last_lines` returns


class ManagedProcess:
    """One process: its name, its log, and the pipe that ends it and everything it started when it closes."""

    def __init__(self, root: Path, name: str, command: Sequence[str], grace: float) -> None:
        """Start the process.

        Args:
            root: The project's folder, in which it works.
            name: The name of the log.
            command: Python's arguments.
            grace: Seconds from the signal to end to the kill.
        """
        self.command, self.grace = command, grace
        self.name, self.log = name, root / LOGS / f"{name}.log"
        if self.log.exists() and self.log.stat().st_size > _MAX_LOG:
            self.log.rename(self.log.with_suffix(".log.1"))
        # It writes to the file directly, not through this process: a busy or killed reader must not block it.
        with open(self.log, "ab", buffering=0, opener=storage.no_follow) as log:
            log.write(f"--- {datetime.now():%Y-%m-%d %H:%M:%S}\n".encode())
            self._process = subprocess.Popen(  # noqa: S603 - our own commands
                [sys.executable, "-P", supervisor.__file__, str(grace), "0", sys.executable, *command],
                cwd=root,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C in the terminal reaches only this process, which ends the others
            )
            self._log_start = log.tell()

    def code(self) -> int | None:
        """Return the exit code, None while it runs."""
        return self._process.poll()

    def end(self) -> None:
        """Signal it and everything it started to end; returns at once."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    def wait(self) -> int:
        """Return the exit code once it has ended."""
        return self._process.wait()

    def last_lines(self) -> str:
        """Return the last lines that it has printed since it was started, indented."""
        with self.log.open("rb") as log:
            log.seek(max(self._log_start, self.log.stat().st_size - _TAIL))
            lines = log.read().decode(errors="replace").splitlines()
        return "\n".join(f"    {line}" for line in lines[-_TAIL_LINES:])
