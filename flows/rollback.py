"""The flow `rollback`: an earlier version becomes the champion again, from Prefect's UI."""

from pathlib import Path
from typing import Annotated

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed
from pydantic import Field

from flows.runtime.prefect_internals import hide_failed_run_tracebacks
from pipeline import escape
from pipeline.command import UserError
from pipeline.registry.model_version import short
from pipeline.registry.store import Registry

ROOT = Path()  # the deployment's working folder


@flow(name="rollback", validate_parameters=True)
def rollback(
    why: Annotated[str, Field(min_length=1, max_length=500)],
    version: str = "",
) -> State[None]:
    """Make an earlier version the champion again; a running service loads it within seconds.

    Args:
        why: The reason, in a sentence of at most 500 characters; it is kept in the registry's history.
        version: A tag, its digits, or an unambiguous prefix of them. Empty: the champion before the current one; two
            such rollbacks in a row go back by two.
    """
    hide_failed_run_tracebacks()
    try:
        registry = Registry(ROOT)
        entry = registry.rollback(version or None, why)
        champion = registry.get(str(entry.to))
    except UserError as error:
        return Failed(message=escape.visible(str(error)))
    now, before = short(str(entry.to)), short(entry.from_) if entry.from_ else "a damaged pointer"
    figures = champion.metadata.get("figures", {})
    rows = {"champion now": now, "before": before, "why": entry.why, "who": entry.who, "when (UTC)": entry.at}
    rows |= {f"its {name}": f"{figures[name]:.4g}" for name in ("perplexity", "bits_per_byte") if name in figures}
    table = "\n".join(f"| {name} | {escape.markdown(str(value))} |" for name, value in rows.items())
    create_markdown_artifact(
        f"# Rolled back to {escape.markdown(now)}\n\n| | |\n|---|---|\n{table}\n",
        key="rollback",
        description=escape.markdown(f"{before} -> {now}: {entry.why}"),
    )
    return Completed(message=escape.terminal(f"the champion is {now}, after {before}: {entry.why}"))
