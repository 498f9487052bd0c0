"""A long run takes the way to run its layers in which it ends first."""

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from pipeline.modeling import compiled
from pipeline.modeling.compiled import Execution
from pipeline.modeling.loss_model import LossModel
from pipeline.training import execution
from pipeline.training.recipe import RunConfig
from tests.pipeline.modeling.test_packed_architectures import make
from tests.pipeline.modeling.test_varlen import ROWS
from tests.pipeline.modeling.varlen_stand_in import prepared


def build(_precision: str) -> LossModel:
    return prepared(make(AutoModelForCausalLM, "gpt2"))


@pytest.mark.parametrize(
    ("steps", "expected"),
    [(10, "eager"), (1_000, "eager"), (2_000, "graphs"), (1_000_000, "compiled")],
)
def test_the_start_of_a_way_counts_against_its_steps(
    steps: int, expected: Execution, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seconds = {"eager": (0.0, 0.2), "compiled": (300.0, 0.05), "graphs": (200.0, 0.06)}
    monkeypatch.setattr(execution, "_trial", lambda _model, way, *_: seconds[way])
    monkeypatch.setattr(torch.compiler, "reset", lambda: None)
    assert execution.choose(build, "fp32", ROWS, 2, steps) == expected
    assert (f"layers run {expected}" in capsys.readouterr().err) == (steps > 10)


def test_a_trial_leaves_no_trace_and_a_way_that_fails_is_reported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def use(model: Any, way: Execution, step: Any) -> None:
        assert len(step) == 2
        if way == "graphs":
            raise RuntimeError("no compiler")

    monkeypatch.setattr(compiled, "use", use)
    monkeypatch.setattr(torch.compiler, "reset", lambda: None)  # nothing is compiled
    monkeypatch.setattr(execution, "_MIN_SECONDS", 0.0)
    random = torch.get_rng_state()
    assert execution.choose(build, "fp32", ROWS, 2, 10) in ("eager", "compiled")
    assert torch.equal(torch.get_rng_state(), random)
    assert "the layers cannot run graphs (RuntimeError)" in capsys.readouterr().err


def test_graphs_are_left_out_where_a_step_takes_several_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {"eager": (0.0, 1.0), "compiled": (300.0, 0.05), "graphs": (0.0, 0.01)}
    monkeypatch.setattr(execution, "_trial", lambda _model, way, *_: seconds[way])
    monkeypatch.setattr(torch.compiler, "reset", lambda: None)
    assert execution.choose(build, "fp32", ROWS, 2, 10_000) == "graphs"
    assert execution.choose(build, "fp32", ROWS, 2, 10_000, is_in_parts=True) == "compiled"


def test_a_manifest_names_the_way_only_where_there_was_a_choice() -> None:
    assert RunConfig("fp32", 2).recorded() == {"precision": "fp32", "batch_size": 2}
    assert RunConfig("bf16", 2, "graphs").recorded()["execution"] == "graphs"
