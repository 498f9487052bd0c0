"""The only module that uses names which Prefect does not document; each has a contract test.

The server's modules are imported inside the functions: a flow run, which uses this module too, does without them.
"""

import logging
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import State
from prefect.exceptions import FailedRun
from prefect.logging.loggers import get_logger
from prefect.utilities.engine import propose_state_sync

if TYPE_CHECKING:
    from prefect.server.database.configurations import AioSqliteConfiguration
    from sqlalchemy.ext.asyncio import AsyncSession, AsyncSessionTransaction
    from starlette.types import ASGIApp

ENGINE_LOGGERS = ("engine", "flow_runs")  # which log the traceback of a run that ends as Failed


def is_worker_process() -> bool:
    """Whether a worker, or `flow.serve`, started this process for one flow run."""
    return "PREFECT__FLOW_RUN_ID" in os.environ


def propose_state(client: SyncPrefectClient, state: State[Any], run_id: UUID) -> State[Any]:
    """Ask the server to set the state of a run; return the state that it set.

    Unlike `SyncPrefectClient.set_flow_run_state`, this waits as long as the server tells it to.
    """
    return propose_state_sync(client, state, flow_run_id=run_id)


def hide_failed_run_tracebacks() -> None:
    """Log no traceback for a flow that returns a Failed state; unexpected exceptions are logged as before.

    Prefect raises such a state within its engine and logs that place, which says nothing. It logs the state's message
    as well.
    """
    for name in ENGINE_LOGGERS:
        get_logger(name).addFilter(_is_unexpected)


def _is_unexpected(record: logging.LogRecord) -> bool:
    return record.exc_info is None or not isinstance(record.exc_info[1], FailedRun)


def create_server(without_ui_v2_in: Path) -> tuple["ASGIApp", str]:
    """Return Prefect's server without its second UI, and the name of the cookie that chooses between the UIs.

    Prefect mounts the second UI, which calls an analytics host, even if it is switched off, and offers it in a banner.
    It does neither if the UI's files are missing, so their folder is set to `without_ui_v2_in`, which must not exist.
    """
    import prefect
    from prefect.server.api.server import UI_VERSION_COOKIE_NAME, create_app

    prefect.__ui_v2_static_path__ = without_ui_v2_in
    return create_app(final=True), UI_VERSION_COOKIE_NAME


def use_immediate_transactions() -> None:
    """Make this process's Prefect server take SQLite's write lock at the start of each transaction.

    Prefect begins most transactions as DEFERRED: they read first and ask for the lock at their first write. If another
    transaction commits in between, SQLite refuses that write at once (SQLITE_BUSY_SNAPSHOT) whatever the busy timeout,
    and the server answers 503: a click on Pause fails whenever a run changes its state. With BEGIN IMMEDIATE, which
    Prefect itself uses for a few transactions, they wait for each other, for up to Prefect's 60 seconds.

    Does nothing if the database is not SQLite.
    """
    from prefect.server.database import dependencies
    from prefect.server.utilities.database import get_dialect
    from prefect.settings import get_current_settings

    url = get_current_settings().server.database.connection_url
    assert url is not None  # Prefect's default is a file in PREFECT_HOME
    if get_dialect(url.get_secret_value()).name == "sqlite":
        dependencies.MODELS_DEPENDENCIES["database_config"] = immediate_sqlite(url.get_secret_value())


def immediate_sqlite(url: str) -> "AioSqliteConfiguration":
    """Return Prefect's configuration of the SQLite database `url`, with BEGIN IMMEDIATE for every transaction."""
    from prefect.server.database.configurations import AioSqliteConfiguration

    class ImmediateSqlite(AioSqliteConfiguration):
        @asynccontextmanager
        async def begin_transaction(
            self,
            session: "AsyncSession",
            with_for_update: bool = True,
        ) -> AsyncGenerator["AsyncSessionTransaction", None]:
            async with super().begin_transaction(session, with_for_update=True) as transaction:
                yield transaction

    return ImmediateSqlite(url)
