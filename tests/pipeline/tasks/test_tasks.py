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
def test_a_task_has_an_embedded_base_that_is_there_or_says_that_it_has_none(name: str, workspace: Workspace) -> None:
    shutil.copytree(ROOT / "starter", workspace.folder / "starter")
    if get_task(name).starter:
        base.import_base("starter", paths.BASE, name)
        assert (paths.BASE / "config.json").is_file()
    else:
        with pytest.raises(UserError, match="base: starter has no model for this task"):
            base.import_base("starter", paths.BASE, name)
