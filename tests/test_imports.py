"""Imports go one way: no circles, and no room imports one above it."""

from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from pipeline.stage_deps import imported_modules
from tests.conftest import ROOT

ROOMS = {
    "pipeline": ("pipeline",),
    "flows": ("flows", "pipeline", "serving"),  # the local stack starts the service
    "serving": ("serving", "pipeline"),
}
# A bento holds the service without training and evaluation.
TRAINING = ("pipeline.training", "pipeline.evaluation", "pipeline.intake", "pipeline.finetune", "pipeline.evaluate")


def modules() -> dict[str, set[str]]:
    """Return the modules of these rooms and what each imports, inside functions too."""
    files = [path.relative_to(ROOT) for room in ROOMS for path in (ROOT / room).rglob("*.py")]
    names = {
        path: ".".join(path.with_suffix("").parts).removesuffix(".__init__") for path in [*files, Path("service.py")]
    }
    return {name: imported_modules(path, ROOT) - {name} for path, name in names.items()}


def within(module: str, rooms: tuple[str, ...]) -> bool:
    return any(f"{module}.".startswith(f"{room}.") for room in rooms)


def test_there_is_no_circle_also_not_one_hidden_in_functions() -> None:
    try:
        TopologicalSorter(modules()).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_what_is_below_it(room: str) -> None:
    imports = {(name, imported) for name, all_ in modules().items() if within(name, (room,)) for imported in all_}
    assert {(name, imported) for name, imported in imports if not within(imported, ROOMS[room])} == set()


def test_the_service_imports_no_training_code() -> None:
    service = {name: imports for name, imports in modules().items() if within(name, ("serving", "service"))}
    assert [name for name, imports in service.items() if any(within(module, TRAINING) for module in imports)] == []
