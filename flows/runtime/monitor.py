"""What is looked at again and again while Prefect's server runs: crashed runs, new data, how runs ended."""

import time
from collections.abc import Callable

import httpx
from prefect.client.orchestration import SyncPrefectClient

from flows.runtime.outcomes import RunOutcomes
from flows.runtime.watcher import Watcher
from flows.runtime.zombie_runs import Reaper

_EVERY = 20.0  # seconds between two looks after runs


class Monitor:
    """Makes the rounds when `go` is called often; `make up` and `deploy.pool_setup` do."""

    def __init__(self, client: SyncPrefectClient, say: Callable[[str], None]) -> None:
        """Take the server's client, and what a sentence for the user is given to."""
        self._say = say
        self._coroner, self._watcher, self._outcomes = Reaper(client, say), Watcher(client, say), RunOutcomes(client)
        self._next = time.monotonic() + _EVERY
        self._is_away = False

    def declare_crashed(self, why: str) -> None:
        """Declare the runs of this machine crashed whose process is gone, at first sight."""
        self._ask(lambda: self._coroner.look(at_once=True, why=why))

    def go(self) -> None:
        """Look at what is due; where the server does not answer, that is said once, and a later round looks again."""
        self._ask(self._watcher.look)
        if time.monotonic() > self._next:
            self._next = time.monotonic() + _EVERY
            self._ask(self._coroner.look)
            self._ask(self._tell)

    def _tell(self) -> None:
        for line in self._outcomes.news():
            self._say(line)

    def _ask(self, look: Callable[[], None]) -> None:
        try:
            look()
            self._is_away = False
        except httpx.HTTPError as error:  # Prefect's own errors on answers are among them
            if not self._is_away:
                self._say(f"Prefect's server did not answer: {error!r}")
            self._is_away = True
