"""Attention inside each document of a packed batch, one by one or in groups."""

import pytest
import torch

from pipeline.modeling import document_attention, packed_attention
from pipeline.modeling.document_groups import OneByOne
from pipeline.modeling.fast_layers import fast_dropout
from pipeline.modeling.packed_attention import varlen_attention

HEADS, DIM = 4, 8
LENGTHS, SOURCE_LENGTHS = (torch.randint(1, 30, (2, 19), generator=torch.Generator().manual_seed(0))).tolist()
NO_ZEROS = 1e-9  # a dropout that keeps every value


def states(tokens: int, heads: int = HEADS) -> torch.Tensor:
    return torch.randn(1, tokens, heads, DIM, requires_grad=True)


@pytest.mark.parametrize("way", ["in groups", "one by one"])
@pytest.mark.parametrize("kind", ["bidirectional", "causal", "biased", "causal and biased", "crossed", "shared keys"])
def test_with_dropout_documents_get_the_states_and_gradients_of_torchs_attention(
    kind: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if way == "one by one":
        monkeypatch.setattr(packed_attention, "_MANY", len(LENGTHS) + 1)
    torch.manual_seed(0)
    key_lengths = SOURCE_LENGTHS if kind == "crossed" else LENGTHS
    inputs = [
        states(sum(LENGTHS)),
        *(states(sum(key_lengths), HEADS // 2 if kind == "shared keys" else HEADS) for _ in range(2)),
    ]
    layer = torch.nn.Module()
    layer.is_causal = "causal" in kind
    arguments = {"cu_seq_lens_q": torch.tensor([0, *LENGTHS]).cumsum(0)}
    if kind == "crossed":
        arguments["cu_seq_lens_k"] = torch.tensor([0, *key_lengths]).cumsum(0)
    if "biased" in kind:
        inputs.append(torch.randn(1, HEADS, 30, 30, requires_grad=True))

    def attended(dropout: float) -> list[torch.Tensor]:
        query, key, value = (part.transpose(1, 2) for part in inputs[:3])
        bias = inputs[3] if len(inputs) > 3 else None
        output, _ = varlen_attention(layer, query, key, value, None, dropout, position_bias=bias, **arguments)  # type: ignore[arg-type]
        return [output, *torch.autograd.grad(output.square().sum(), inputs)]

    for ours, expected in zip(attended(NO_ZEROS), attended(0.0), strict=True):
        torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("causal", [True, False])
def test_a_document_has_the_gradients_of_the_values_that_were_dropped(causal: bool) -> None:
    torch.manual_seed(0)
    query, key, value = inputs = [states(9).transpose(1, 2) for _ in range(3)]
    gradient = torch.randn(1, 9, HEADS, DIM)

    torch.manual_seed(1)
    scores = query[0] @ key[0].transpose(1, 2) * 0.5
    if causal:
        scores = scores.masked_fill(torch.ones(9, 9, dtype=torch.bool).triu(1), -torch.inf)
    plain = (fast_dropout(scores.softmax(-1), 0.4) @ value[0]).transpose(0, 1)[None]
    torch.manual_seed(1)
    ours = document_attention.attend(query, key, value, None, (OneByOne([9]), OneByOne([9])), 0.4, 0.5, causal, None)

    torch.testing.assert_close(ours, plain)
    for one, other in zip(*(torch.autograd.grad(some, inputs, gradient) for some in (ours, plain)), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
