"""Sample the next token of each sequence in a batch, each with its own settings and random numbers."""

import random
from collections import Counter
from collections.abc import Iterable, Sequence

import torch

from serving.engines.protocol import Sampling, Token
from serving.engines.sampling_kernel import RowSettings, sample_rows

# Dividing logits by less than this overflows float32; the sampled token stops changing long before.
MIN_DIVISOR = 1e-6


class Sampler:
    """The sampling state of a sequence: its settings, random numbers and tokens so far."""

    def __init__(self, prompt: Iterable[int], sampling: Sampling) -> None:
        """Start after `prompt`."""
        self.sampling = sampling
        # Python's generator is the same in every version. It takes the absolute value of a negative seed.
        self._random = random.Random(sampling.seed % 2**64)
        self.number = self._random.random()  # for the next token; a failed attempt to sample reuses it
        self.seen = set(prompt) if sampling.repetition_penalty != 1 else set()
        self.counts: Counter[int] = Counter()  # of tokens in the completion

    @property
    def has_penalties(self) -> bool:
        """Whether tokens so far change the next one's logits."""
        sampling = self.sampling
        return bool(sampling.repetition_penalty != 1 or sampling.presence_penalty or sampling.frequency_penalty)

    def add(self, token: int) -> None:
        """Record a generated token."""
        self.number = self._random.random()
        if self.sampling.repetition_penalty != 1:
            self.seen.add(token)
        if self.sampling.presence_penalty or self.sampling.frequency_penalty:
            self.counts[token] += 1


def sample(logits: torch.Tensor, samplers: Sequence[Sampler]) -> list[Token | None]:
    """Return the next token of each sequence, None where its row of logits is not finite.

    A row's token depends only on that row and its sampler. Steps are in the order of transformers: penalties,
    temperature, top_k, top_p.

    Args:
        logits: (sequences, vocabulary).
        samplers: One for each row, in the same order; each records its token.
    """
    finite = torch.isfinite(logits.amax(dim=-1)).tolist()
    ids = _token_ids(_with_penalties(logits, samplers), samplers, finite)
    with_logprobs = [at for at, one in enumerate(samplers) if one.sampling.logprobs is not None and finite[at]]
    logprobs = _logprobs(logits[with_logprobs], [ids[at] for at in with_logprobs]) if with_logprobs else []
    reported = dict(zip(with_logprobs, logprobs, strict=True))
    tokens: list[Token | None] = [None] * len(samplers)
    for at, sampler in enumerate(samplers):
        if not finite[at]:
            continue
        sampler.add(ids[at])
        tokens[at] = Token(ids[at])
        if at in reported:
            tokens[at] = _token_with_logprobs(ids[at], *reported[at], sampler.sampling.logprobs)
    return tokens


def _token_ids(logits: torch.Tensor, samplers: Sequence[Sampler], finite: Sequence[bool]) -> list[int]:
    """Return the id of the next token of each row; 0 where the row is not finite."""
    rows = [at for at, is_finite in enumerate(finite) if is_finite]
    settings = [
        RowSettings(
            max(one.sampling.temperature, MIN_DIVISOR) if one.sampling.temperature else 0.0,
            one.sampling.top_k,
            one.sampling.top_p,
            one.number,
        )
        for one in (samplers[at] for at in rows)
    ]
    ids = [0] * len(samplers)
    if rows:
        tokens = sample_rows(logits if len(rows) == len(samplers) else logits[rows], settings)
        for at, token in zip(rows, tokens, strict=True):
            ids[at] = token
    return ids


def _with_penalties(logits: torch.Tensor, samplers: Sequence[Sampler]) -> torch.Tensor:
    """Return logits with CTRL's repetition penalty (arXiv:1909.05858) and OpenAI's two others."""
    penalised = [at for at, sampler in enumerate(samplers) if sampler.seen or sampler.counts]
    if not penalised:
        return logits
    logits = logits.clone()
    for at in penalised:
        row, sampling = logits[at], samplers[at].sampling
        if samplers[at].seen:
            seen = torch.tensor(sorted(samplers[at].seen))
            penalty = max(sampling.repetition_penalty, MIN_DIVISOR)
            values = row[seen]
            row[seen] = torch.where(values < 0, values * penalty, values / penalty)
        if counts := samplers[at].counts:
            occurrences = torch.tensor(list(counts.values()), dtype=row.dtype)
            penalties = sampling.presence_penalty + sampling.frequency_penalty * occurrences
            row[torch.tensor(list(counts))] -= penalties
    return logits


def _logprobs(logits: torch.Tensor, ids: list[int]) -> list[tuple[float, torch.Tensor]]:
    """Return the log-probability of each row's token, and those of the row's whole vocabulary."""
    rows = torch.log_softmax(logits.float(), dim=-1)
    own: list[float] = rows.gather(-1, torch.tensor(ids)[:, None])[:, 0].tolist()
    return list(zip(own, rows, strict=True))


def _token_with_logprobs(token: int, logprob: float, row: torch.Tensor, count: int | None) -> Token:
    if not count:
        return Token(token, logprob)
    values, ids = torch.topk(row, count)
    return Token(token, logprob, tuple(zip(ids.tolist(), values.tolist(), strict=True)))
