"""Periodic checks while Prefect's server runs: crashed runs, new data, and how runs ended."""

import time
from collections.abc import Callable

import httpx
from prefect.client.orchestration import SyncPrefectClient

from flows.runtime.outcomes import RunOutcomes
from flows.runtime.watcher import Watcher
from flows.runtime.zombie_runs import Reaper

_RUNS_SECONDS = 20.0  # between two checks of the runs


class Monitor:
    """Makes the checks that are due at each `poll`; `fresh up` and `deploy.pool_setup` call it every second or so."""

    def __init__(self, client: SyncPrefectClient, log: Callable[[str], None]) -> None:
        """Take the server's client, and a function that prints a sentence for the user."""
        self._log = log
        self._reaper, self._watcher, self._outcomes = Reaper(client, log), Watcher(client, log), RunOutcomes(client)
        self._next_check = time.monotonic() + _RUNS_SECONDS
        self._is_away = False

    def end_runs_without_process(self, reason: str) -> None:
        """Set the runs of this machine without a process to Crashed, without waiting for a second check."""
        self._call(lambda: self._reaper.poll(immediately=True, reason=reason))

    def poll(self) -> None:
        """Make the checks that are due; a server that does not answer is reported once and asked again later."""
        self._call(self._watcher.poll)
        if time.monotonic() > self._next_check:
            self._next_check = time.monotonic() + _RUNS_SECONDS
            self._call(self._reaper.poll)
            self._call(self._log_outcomes)

    def _log_outcomes(self) -> None:
        for line in self._outcomes.poll():
            self._log(line)

    def _call(self, check: Callable[[], None]) -> None:
        try:
            check()
            self._is_away = False
        except httpx.HTTPError as error:  # Prefect's own errors are subclasses
            if not self._is_away:
                self._log(f"Prefect's server did not answer: {error!r}")
            self._is_away = True
