"""The layers for a CPU give the results and gradients of those that they replace."""

import copy

import pytest
import torch
from transformers import (
    GemmaConfig,
    GemmaForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
)

from pipeline.modeling import fast_layers
from pipeline.modeling.tied_embedding import share_gradient

IDS = torch.tensor([[3, 4, 5, 3, 6], [4, 4, 3, 9, 1]])
SMALL = {"vocab_size": 50, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 2, "num_key_value_heads": 1}
T5 = {"vocab_size": 50, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2, "dropout_rate": 0.0}
MODELS = {
    "llama": (lambda: LlamaForCausalLM(LlamaConfig(**SMALL, **HEADS)), ["LlamaMLP"] * 2 + ["LlamaRMSNorm"] * 5),
    # Its norm has another formula, and its activation is GELU.
    "gemma": (lambda: GemmaForCausalLM(GemmaConfig(**SMALL, **HEADS, head_dim=8)), []),
    "t5": (lambda: T5ForConditionalGeneration(T5Config(**T5, decoder_start_token_id=0)), ["T5LayerNorm"] * 7),
}


def gradients(model: PreTrainedModel) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    loss = model.train()(input_ids=IDS, labels=IDS).loss
    loss.backward()
    return loss.detach(), {name: value.grad for name, value in model.named_parameters()}


@pytest.mark.parametrize("name", MODELS)
def test_losses_and_gradients_are_those_of_the_layers_that_were_there(name: str) -> None:
    torch.manual_seed(0)
    make, replaced = MODELS[name]
    plain = make()
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter += 0.1 * torch.randn_like(parameter)  # norms begin as ones
    fast = copy.deepcopy(plain)
    fast_layers.use_fast_layers(fast)
    assert sorted(type(module).__name__ for module in fast.modules() if "forward" in vars(module)) == replaced
    (expected_loss, expected), (loss, found) = gradients(plain), gradients(fast)
    torch.testing.assert_close(loss, expected_loss, rtol=1e-6, atol=1e-6)
    for parameter, gradient in expected.items():
        torch.testing.assert_close(found[parameter], gradient, rtol=1e-4, atol=1e-6, msg=parameter)


def test_a_second_backward_pass_is_refused_rather_than_wrong() -> None:
    gate, up = (torch.ones(2, 3, requires_grad=True) for _ in range(2))
    result = fast_layers._swiglu(gate, up).sum()
    result.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        result.backward()


def test_an_embedding_that_is_the_output_layer_too_has_one_gradient() -> None:
    torch.manual_seed(0)
    plain = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=16, n_head=2, n_layer=1, resid_pdrop=0, attn_pdrop=0))
    plain.transformer.drop.p = 0.0
    shared = copy.deepcopy(plain)
    share_gradient(shared.get_input_embeddings())
    for _ in range(2):  # the second step's is added to the first one's
        (_, expected), (_, found) = gradients(plain), gradients(shared)
        for name, gradient in expected.items():
            torch.testing.assert_close(found[name], gradient, rtol=1e-5, atol=1e-7, msg=name)
    assert not found["transformer.wte.weight"].is_sparse
