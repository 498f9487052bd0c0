"""Finds the gate table of a task by name, so that how its models are measured need not import the verdict."""

from importlib import import_module

from pipeline.verdict.gate import GateTable


def load_table(name: str) -> GateTable:
    """Return the TABLE of the module of this package called `name`, such as classify_gates.

    Raises:
        TypeError: It is no gate table.
    """
    table = import_module(f"pipeline.verdict.{name}").TABLE
    if not isinstance(table, GateTable):
        raise TypeError(f"{name} is a {type(table).__name__}; expected a GateTable")
    return table
