"""Finds the gate table of a task by its dotted name, so that a task's own module need not import the verdict."""

from importlib import import_module

from pipeline.verdict.gate import GateTable


def load_table(name: str) -> GateTable:
    """Return the table called `module:NAME`, such as `pipeline.verdict.classify_gates:TABLE`.

    Raises:
        TypeError: What has this name is no gate table.
    """
    module, _, attribute = name.partition(":")
    table = getattr(import_module(module), attribute)
    if not isinstance(table, GateTable):
        raise TypeError(f"{name} is a {type(table).__name__}; expected a GateTable")
    return table
