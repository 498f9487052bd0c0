"""SQLite under Prefect's server: every transaction takes the write lock when it begins.

Prefect begins most transactions as DEFERRED: they read first and ask for the lock at their first write. If another
transaction commits in between, SQLite refuses that write at once (SQLITE_BUSY_SNAPSHOT), whatever its busy timeout, and
the server answers 503. A click on Pause is such a transaction, and any run that changes its state is such a commit.
Prefect itself begins a few transactions as IMMEDIATE for this reason (`mark_deployments_ready`); here all do, so that
they wait for each other, up to the 60 seconds of Prefect's busy timeout. Reads outside a transaction take no lock.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from prefect.server.database import dependencies
from prefect.server.database.configurations import AioSqliteConfiguration
from prefect.server.utilities.database import get_dialect
from prefect.settings import get_current_settings
from sqlalchemy.ext.asyncio import AsyncSession, AsyncSessionTransaction


class ImmediateSqlite(AioSqliteConfiguration):
    """Prefect's configuration of SQLite, but with BEGIN IMMEDIATE for every transaction."""

    @asynccontextmanager
    async def begin_transaction(
        self, session: AsyncSession, with_for_update: bool = True
    ) -> AsyncGenerator[AsyncSessionTransaction, None]:
        """Begin a transaction with the write lock, also where `with_for_update` is False."""
        async with super().begin_transaction(session, with_for_update=True) as transaction:
            yield transaction


def lock_before_reading() -> None:
    """Have this process's Prefect server use ImmediateSqlite; do nothing where its database is not SQLite."""
    url = get_current_settings().server.database.connection_url
    assert url is not None  # Prefect fills in the file in PREFECT_HOME
    if get_dialect(url.get_secret_value()).name == "sqlite":
        dependencies.MODELS_DEPENDENCIES["database_config"] = ImmediateSqlite(url.get_secret_value())
