"""Why Prefect's server answers 503 over SQLite, and that it does not under ours; no server is needed for it."""

import asyncio
from pathlib import Path

import pytest
import sqlalchemy as sa
from prefect.server.database.configurations import AioSqliteConfiguration
from sqlalchemy.ext.asyncio import AsyncSession

from flows.runtime.prefect_internals import ImmediateSqlite


async def pause_while_a_run_is_written(config: AioSqliteConfiguration, seconds: float) -> list[str]:
    """Read, let another transaction write and commit for at most `seconds`, then write.

    That is what a click on Pause does on the server while a run changes its state.
    """
    engine = await config.engine()
    async with engine.begin() as connection:
        await connection.execute(sa.text("create table writes (who text)"))

    async def write_a_run() -> None:
        async with AsyncSession(engine) as session, config.begin_transaction(session):
            await session.execute(sa.text("insert into writes values ('run')"))

    try:
        async with AsyncSession(engine) as session, config.begin_transaction(session):
            await session.execute(sa.text("select * from writes"))
            run = asyncio.create_task(write_a_run())
            await asyncio.wait([run], timeout=seconds)
            await session.execute(sa.text("insert into writes values ('pause')"))
        await run
        async with AsyncSession(engine) as session:
            return list((await session.execute(sa.text("select who from writes"))).scalars())
    finally:
        await engine.dispose()


def test_a_write_between_a_transactions_read_and_its_write_waits(tmp_path: Path) -> None:
    config = ImmediateSqlite(f"sqlite+aiosqlite:///{tmp_path}/prefect.db")
    assert asyncio.run(pause_while_a_run_is_written(config, 0.5)) == ["pause", "run"]  # the run waits for the pause


def test_prefects_own_transactions_are_refused_there(tmp_path: Path) -> None:
    """When this fails, Prefect takes the lock itself and `ImmediateSqlite` can go."""
    config = AioSqliteConfiguration(f"sqlite+aiosqlite:///{tmp_path}/prefect.db")
    with pytest.raises(sa.exc.OperationalError, match="database is locked"):
        asyncio.run(pause_while_a_run_is_written(config, 300))
