"""Drawing tokens, held against transformers' own processors."""

import math
from typing import Any

import pytest
import torch
from transformers import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from serving.engines.protocol import Sampling
from serving.engines.sampling import Sampler, sample
from serving.engines.sampling_kernel import RowSettings, nucleus_threshold, sample_rows

VOCABULARY = 3000  # more than a few blocks of tokens, and no whole number of them
DRAWS = 4000


def sampling(**changes: Any) -> Sampling:
    settings = {"max_new_tokens": 1, "temperature": 1.0, "top_p": 1.0, "top_k": 0, "repetition_penalty": 1.0, "seed": 0}
    return Sampling(**{**settings, **changes})


def logits(seed: int = 0, spread: float = 3.0) -> torch.Tensor:
    return torch.randn(VOCABULARY, generator=torch.Generator().manual_seed(seed)) * spread


def by_transformers(row: torch.Tensor, reference: Sampling) -> torch.Tensor:
    """Return the probabilities from which transformers would draw."""
    processors = LogitsProcessorList([TemperatureLogitsWarper(reference.temperature)])
    if reference.top_k:
        processors.append(TopKLogitsWarper(reference.top_k))
    if reference.top_p < 1:
        processors.append(TopPLogitsWarper(reference.top_p))
    ids = torch.zeros(1, 1, dtype=torch.long)
    return torch.softmax(processors(ids, row[None].clone()), dim=-1)[0]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"temperature": 0.5},
        {"top_k": 50},
        {"top_p": 0.9},
        {"top_p": 0.3},
        {"top_p": 0.999, "temperature": 3.0},
        {"top_k": 20},
        {"top_k": 50, "top_p": 0.8, "temperature": 0.7},
        {"top_k": VOCABULARY + 1},
    ],
)
def test_tokens_are_sampled_from_the_distribution_of_transformers(changes: dict[str, Any]) -> None:
    row = logits()
    expected = by_transformers(row, sampling(**changes)).double()
    samplers = [Sampler([], sampling(seed=seed, **changes)) for seed in range(DRAWS)]
    counts = torch.zeros(VOCABULARY)
    for token in sample(row.expand(DRAWS, -1), samplers):
        assert token is not None
        counts[token.id] += 1
    assert counts[expected == 0].sum() == 0
    likely = expected > 20 / DRAWS  # Pearson's test wants enough of each kind; the rest is one kind
    result = torch.cat([counts[likely], counts[~likely].sum()[None]])
    reference = torch.cat([expected[likely], expected[~likely].sum()[None]]) * DRAWS
    statistic = float(((result - reference) ** 2 / reference.clamp(min=1e-9))[reference > 0].sum())
    freedom = max(int((reference > 0).sum()) - 1, 1)
    assert statistic < freedom + 4 * math.sqrt(2 * freedom) + 4


@pytest.mark.parametrize("top_k", [1, 20, 46, 47, 200])
def test_top_k_finds_the_likeliest_wherever_they_stand(top_k: int) -> None:
    row = logits()
    row[-VOCABULARY % 64 :] += 2  # some of them in the rest that fills no block
    likeliest = set(row.topk(top_k).indices.tolist())
    samplers = [Sampler([], sampling(seed=seed, top_k=top_k, temperature=5.0)) for seed in range(DRAWS)]
    result = {token.id for token in sample(row.expand(DRAWS, -1), samplers) if token}
    assert result <= likeliest
    assert len(result) > 0.8 * top_k


@pytest.mark.parametrize("share", [1e-9, 0.2, 0.5, 0.9, 0.9999, 1 - 1e-9])
@pytest.mark.parametrize("spread", [0.0, 0.01, 1.0, 30.0])
def test_top_p_finds_where_the_likeliest_that_reach_it_end(share: float, spread: float) -> None:
    probabilities = torch.softmax(logits(spread=spread), dim=-1)
    ordered = probabilities.sort(descending=True).values.double()
    last = int((ordered.cumsum(dim=-1) < share * ordered.sum()).sum())
    result = float(nucleus_threshold(probabilities.numpy(), share))
    assert result == pytest.approx(float(ordered[min(last, VOCABULARY - 1)]), rel=1e-6)


def test_temperature_zero_takes_the_likeliest_whatever_the_seed() -> None:
    rows = torch.stack([logits(seed) for seed in range(5)])
    result = sample(rows, [Sampler([], sampling(temperature=0, seed=seed)) for seed in range(5)])
    assert [token.id for token in result if token] == rows.argmax(dim=-1).tolist()


def test_a_sequence_samples_the_same_tokens_in_any_batch() -> None:
    settings = [
        sampling(top_k=k, top_p=p, temperature=t, repetition_penalty=r, seed=7)
        for k in (0, 5, 50)
        for p in (0.5, 1.0)
        for t in (0.0, 0.8)
        for r in (1.0, 1.3)
    ]
    rows = torch.stack([logits(seed) for seed in range(len(settings))])
    together = [Sampler([1, 2], one) for one in settings]
    alone = [Sampler([1, 2], one) for one in settings]
    for _ in range(3):
        assert sample(rows, together) == [sample(row[None], [one])[0] for row, one in zip(rows, alone, strict=True)]


@pytest.mark.parametrize("penalty", [0.5, 1.5])
def test_the_repetition_penalty_is_that_of_transformers(penalty: float) -> None:
    row, prompt = logits(), [1, 5, 9, 5]
    processed = RepetitionPenaltyLogitsProcessor(penalty)(torch.tensor([prompt]), row[None].clone())
    one = Sampler(prompt, sampling(temperature=0, repetition_penalty=penalty))
    first = sample(row[None], [one])[0]
    assert first is not None
    assert first.id == int(processed.argmax())
    processed = RepetitionPenaltyLogitsProcessor(penalty)(torch.tensor([[*prompt, first.id]]), row[None].clone())
    second = sample(row[None], [one])[0]
    assert second is not None
    assert second.id == int(processed.argmax())


def test_presence_and_frequency_penalties_are_openais() -> None:
    row = torch.tensor([[5.0, 4.0, 0.0]])
    one = Sampler([0], sampling(temperature=0, presence_penalty=0.4, frequency_penalty=0.5))
    result = [token.id for _ in range(5) if (token := sample(row, [one])[0])]
    # 5.0; then 5 - 0.4 - 0.5 = 4.1; then 5 - 0.4 - 1.0 = 3.6 < 4.0; then 4 - 0.9 = 3.1 < 3.6; then 5 - 0.4 - 1.5 = 3.1
    assert result == [0, 0, 1, 0, 0]


def test_logprobs_are_those_of_the_model_before_any_setting() -> None:
    row = logits()
    expected = torch.log_softmax(row, dim=-1)
    token = sample(row[None], [Sampler([1], sampling(top_k=3, temperature=0.1, repetition_penalty=2.0, logprobs=4))])[0]
    assert token is not None
    assert token.logprob == pytest.approx(float(expected[token.id]))
    best = expected.topk(4)
    assert [number for number, _ in token.top] == best.indices.tolist()
    assert [value for _, value in token.top] == pytest.approx(best.values.tolist())


def test_rows_that_are_not_finite_give_none_and_affect_no_other_row() -> None:
    rows = torch.stack([logits(), torch.full((VOCABULARY,), math.nan), torch.full((VOCABULARY,), math.inf)])
    result = sample(rows, [Sampler([], sampling(seed=1)) for _ in rows])
    assert result[1:] == [None, None]
    assert result[0] == sample(rows[:1], [Sampler([], sampling(seed=1))])[0]


@pytest.mark.parametrize("temperature", [1e-320, 5e-324, 5.0])
def test_extreme_settings_still_sample(temperature: float) -> None:
    reference = sampling(temperature=temperature, top_p=1e-9, repetition_penalty=5e-324)
    token = sample(logits()[None], [Sampler([3], reference)])[0]
    assert token is not None


@pytest.mark.parametrize("top_k", [0, 40, 2000])
def test_the_largest_number_draws_a_token_of_the_nucleus(top_k: int) -> None:
    ordered = [logits(seed).sort(descending=True).values for seed in range(200)]
    rows = torch.stack([row.roll(64) for row in ordered])  # the first block and the last ones are out of the nucleus
    tokens = sample_rows(rows, [RowSettings(0.5, top_k, 0.9, math.nextafter(1, 0))] * len(rows))
    for row, token in zip(rows, tokens, strict=True):
        assert by_transformers(row, sampling(temperature=0.5, top_k=top_k, top_p=0.9))[token] > 0


def test_a_nucleus_of_nearly_all_is_all_where_rounding_leaves_a_rest() -> None:
    assert float(nucleus_threshold(torch.tensor([1.0, 0.5]).numpy(), 1.0 + 1e-9)) == 0
