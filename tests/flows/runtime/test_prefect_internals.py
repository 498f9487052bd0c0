"""Prefect's undocumented names that the project uses, and why SQLite needs BEGIN IMMEDIATE; without a server."""

import asyncio
import inspect
from pathlib import Path

import prefect
import pytest
import sqlalchemy as sa
from prefect.server.database.configurations import AioSqliteConfiguration
from sqlalchemy.ext.asyncio import AsyncSession

from flows.runtime import prefect_internals

HINT = "adapt flows/runtime/prefect_internals.py"


def test_prefect_still_proposes_states_and_raises_the_error_of_a_failed_run() -> None:
    from prefect.exceptions import FailedRun
    from prefect.utilities.engine import propose_state_sync

    assert {"client", "state", "flow_run_id"} <= set(inspect.signature(propose_state_sync).parameters), HINT
    assert issubclass(FailedRun, Exception), HINT


def test_prefect_still_names_the_run_of_a_process_in_its_environment() -> None:
    import prefect.runner.runner

    assert "PREFECT__FLOW_RUN_ID" in inspect.getsource(prefect.runner.runner), HINT


def test_prefect_still_logs_the_end_of_a_run_to_the_loggers_that_are_filtered() -> None:
    from prefect.logging.loggers import flow_run_logger
    from prefect.utilities.engine import engine_logger

    engine, flow_runs = prefect_internals.ENGINE_LOGGERS
    assert engine_logger.name == f"prefect.{engine}", HINT
    assert f'"prefect.{flow_runs}"' in inspect.getsource(flow_run_logger), HINT


def test_prefect_still_finds_its_second_ui_by_a_path_and_chooses_a_ui_by_a_cookie() -> None:
    from prefect.server.api import server

    assert isinstance(prefect.__ui_v2_static_path__, Path), HINT
    assert "__ui_v2_static_path__" in inspect.getsource(server), HINT
    assert "final" in inspect.signature(server.create_app).parameters, HINT
    assert isinstance(server.UI_VERSION_COOKIE_NAME, str), HINT


def test_prefect_still_takes_the_database_from_its_dependencies() -> None:
    from prefect.server.database import dependencies
    from prefect.server.utilities.database import get_dialect

    assert "database_config" in dependencies.MODELS_DEPENDENCIES, HINT
    assert get_dialect("sqlite+aiosqlite:///x.db").name == "sqlite", HINT
    parameters = inspect.signature(AioSqliteConfiguration.begin_transaction).parameters
    assert list(parameters) == ["self", "session", "with_for_update"], HINT


def test_prefect_still_has_the_lease_storage_that_the_settings_name() -> None:
    from prefect.server.concurrency.lease_storage import filesystem

    assert filesystem.__name__ in settings_of_the_lease_storage()
    assert hasattr(filesystem, "ConcurrencyLeaseStorage")


def settings_of_the_lease_storage() -> str:
    from flows.runtime.settings import environment

    return environment(Path())["PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE"]


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
    config = prefect_internals.immediate_sqlite(f"sqlite+aiosqlite:///{tmp_path}/prefect.db")
    assert asyncio.run(pause_while_a_run_is_written(config, 0.5)) == ["pause", "run"]  # the run waits for the pause


def test_prefects_own_transactions_are_refused_there(tmp_path: Path) -> None:
    """When this fails, Prefect takes the lock itself and `ImmediateSqlite` can go."""
    config = AioSqliteConfiguration(f"sqlite+aiosqlite:///{tmp_path}/prefect.db")
    with pytest.raises(sa.exc.OperationalError, match="database is locked"):
        asyncio.run(pause_while_a_run_is_written(config, 300))
