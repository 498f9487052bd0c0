"""Layers that are compiled compute what they do without, whatever the batch, and are compiled once."""

import copy

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from transformers import AutoModelForCausalLM

from pipeline.modeling import compiled
from pipeline.modeling.compiled import Execution
from pipeline.modeling.loss_model import LossModel
from tests.pipeline.modeling.test_packed_architectures import assert_same, make
from tests.pipeline.modeling.test_varlen import ROWS
from tests.pipeline.modeling.varlen_stand_in import prepared


@pytest.fixture(scope="module")
def plain() -> LossModel:
    return prepared(make(AutoModelForCausalLM, "gpt2"))


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated")  # an import of torch's own
@pytest.mark.parametrize(
    ("way", "backend"), [("graphs", "eager"), pytest.param("compiled", "aot_eager", marks=pytest.mark.slow)]
)
def test_all_batches_run_in_one_compiled_graph_with_the_losses_and_gradients_of_eager_ones(
    plain: LossModel, way: Execution, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.compiler.reset()
    fast, counter = copy.deepcopy(plain), CompileCounterWithBackend(backend)
    monkeypatch.setattr(torch, "compile", lambda forward, **_: compile_with(forward, backend=counter, fullgraph=True))
    compiled.use(fast, way, ROWS)
    for rows in (ROWS, ROWS[:3], ROWS[1:2]):
        plain.zero_grad()
        fast.zero_grad()
        assert_same(plain(**plain.collate(rows))["loss"], fast(**fast.collate(rows))["loss"], plain.model, fast.model)
    assert counter.frame_count == 1
    with torch.inference_mode():
        scores = [model.eval()(**model.collate(ROWS))["scores"] for model in (plain, fast)]
    torch.testing.assert_close(*scores)
    plain.train()
    assert counter.frame_count == 1


compile_with = torch.compile
