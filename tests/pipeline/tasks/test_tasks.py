"""Every task of params.yaml has a module for the stages and one for its evaluation."""

from typing import get_args

import pytest

from pipeline.evaluation.suite import EvaluationSuite, get_suite
from pipeline.params import Params
from pipeline.tasks import Task, get_task

TASKS = get_args(Params.model_fields["task"].annotation)


def methods(protocol: type) -> set[str]:
    return {name for name in vars(protocol) if not name.startswith("_")}


@pytest.mark.parametrize("name", TASKS)
def test_a_task_and_its_suite_have_every_method(name: str) -> None:
    assert methods(Task) <= set(dir(get_task(name)))
    assert methods(EvaluationSuite) <= set(dir(get_suite(name)))
