"""Every task of params.yaml has a module for the stages and one for its evaluation."""

import pytest

from pipeline.evaluation.suite import EvaluationSuite, get_suite
from pipeline.tasks.protocol import Task
from pipeline.tasks.registry import NAMES, get_task


def methods(protocol: type) -> set[str]:
    return {name for name in vars(protocol) if not name.startswith("_")}


@pytest.mark.parametrize("name", NAMES)
def test_a_task_and_its_suite_have_every_method(name: str) -> None:
    assert methods(Task) <= set(dir(get_task(name)))
    assert methods(EvaluationSuite) <= set(dir(get_suite(name)))
