"""Attention inside each document of a packed batch, one by one or in groups."""

import pytest
import torch

from pipeline.modeling import packed_attention
from pipeline.modeling.packed_attention import varlen_attention

HEADS, DIM = 4, 8
LENGTHS, SOURCE_LENGTHS = (torch.randint(1, 30, (2, 19), generator=torch.Generator().manual_seed(0))).tolist()
NO_ZEROS = 1e-9  # a dropout that keeps every value


def states(tokens: int, heads: int = HEADS) -> torch.Tensor:
    return torch.randn(1, tokens, heads, DIM, requires_grad=True)


@pytest.mark.parametrize("kind", ["bidirectional", "causal", "biased", "causal and biased", "crossed", "shared keys"])
def test_short_documents_in_groups_get_the_states_and_gradients_of_each_alone(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
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

    def attended() -> list[torch.Tensor]:
        query, key, value = (part.transpose(1, 2) for part in inputs[:3])
        bias = inputs[3] if len(inputs) > 3 else None
        output, _ = varlen_attention(layer, query, key, value, None, NO_ZEROS, position_bias=bias, **arguments)  # type: ignore[arg-type]
        return [output, *torch.autograd.grad(output.square().sum(), inputs)]

    grouped = attended()
    monkeypatch.setattr(packed_attention, "_MANY", len(LENGTHS) + 1)
    for ours, expected in zip(grouped, attended(), strict=True):
        torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)
