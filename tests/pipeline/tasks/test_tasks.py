"""Every task of params.yaml has a module for the stages and one for its evaluation."""

import shutil

import pytest

from pipeline import base, paths
from pipeline.command import UserError
from pipeline.evaluation.suite import EvaluationSuite, get_suite
from pipeline.tasks.protocol import Task
from pipeline.tasks.registry import NAMES, get_task
from tests.conftest import ROOT, Workspace


def methods(protocol: type) -> set[str]:
    return {name for name in vars(protocol) if not name.startswith("_")}


@pytest.mark.parametrize("name", NAMES)
def test_a_task_and_its_suite_have_every_method(name: str) -> None:
    assert methods(Task) <= set(dir(get_task(name)))
    assert methods(EvaluationSuite) <= set(dir(get_suite(name)))


@pytest.mark.parametrize("name", NAMES)
def test_each_task_has_an_embedded_base(name: str, workspace: Workspace) -> None:
    shutil.copytree(ROOT / "starter", workspace.folder / "starter")
    base.import_base("starter", paths.BASE, name)
    assert (paths.BASE / "config.json").is_file()


@pytest.mark.usefixtures("workspace")
def test_a_task_of_ones_own_without_an_embedded_base_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(get_task("rank")), "starter", "")
    with pytest.raises(UserError, match="base: starter has no model for this task"):
        base.import_base("starter", paths.BASE, "rank")
