"""Draws the next token of each text in a batch, by its own settings and from its own random numbers."""

import random
from collections import Counter
from collections.abc import Iterable, Sequence

import torch

from serving.engines.protocol import Sampling, Token

# Logits divided by less than this leave float32's range; what is drawn no longer changes long before.
_SMALLEST_DIVISOR = 1e-6
_BLOCK = 64  # tokens of whose logits only the greatest is looked at first


class Sampler:
    """What drawing the next token of a text takes: its settings, its random numbers, the tokens so far."""

    def __init__(self, prompt: Iterable[int], sampling: Sampling) -> None:
        """Begin after `prompt`."""
        self.sampling = sampling
        # Its numbers are the same in every version of Python; it would take a negative seed's absolute value.
        self._random = random.Random(sampling.seed % 2**64)
        self.number = self._random.random()  # for the next token; asked again, a draw that failed gives the same
        self.seen = set(prompt) if sampling.repetition_penalty != 1 else set()
        self.written: Counter[int] = Counter()

    def add(self, token: int) -> None:
        """Take note of a token that was written."""
        self.number = self._random.random()
        if self.sampling.repetition_penalty != 1:
            self.seen.add(token)
        if self.sampling.presence_penalty or self.sampling.frequency_penalty:
            self.written[token] += 1


def sample(logits: torch.Tensor, draws: Sequence[Sampler]) -> list[Token | None]:
    """Return the next token of each text, None where a row of `logits`, (texts, vocabulary), is not finite.

    A row's token hangs on that row and its Draw alone. Order of the steps as in transformers: penalties, temperature,
    top_k, top_p.
    """
    finite = torch.isfinite(logits.amax(dim=-1)).tolist()
    ids = [0] * len(draws)
    tokens: list[Token | None] = [None] * len(draws)
    raw = logits
    changed = [at for at, one in enumerate(draws) if one.seen or one.written]
    if changed:
        logits = logits.clone()
        for at in changed:
            _apply_penalties(logits[at], draws[at])
    for at, one in enumerate(draws):
        if one.sampling.temperature == 0:
            ids[at] = int(logits[at].max(dim=-1).indices)  # in a third of argmax's time
    sampled = [at for at, one in enumerate(draws) if one.sampling.temperature > 0 and finite[at]]
    # A group a top_k, so that equal logits are ordered as they are when the text is alone.
    for top_k in {draws[at].sampling.top_k for at in sampled}:
        rows = [at for at in sampled if draws[at].sampling.top_k == top_k]
        theirs = logits if len(rows) == len(draws) else logits[rows]
        for at, token in zip(rows, _sample_rows(theirs, [draws[at] for at in rows], top_k), strict=True):
            ids[at] = token
    wanted = [at for at, one in enumerate(draws) if one.sampling.logprobs is not None and finite[at]]
    reported = dict(zip(wanted, _logprobs(raw[wanted], [ids[at] for at in wanted]), strict=True)) if wanted else {}
    for at, one in enumerate(draws):
        if finite[at]:
            one.add(ids[at])
            tokens[at] = (
                _with_logprobs(ids[at], reported[at], one.sampling.logprobs) if at in reported else Token(ids[at])
            )
    return tokens


def _apply_penalties(logits: torch.Tensor, one: Sampler) -> None:
    """Change a row of logits in place: CTRL's repetition penalty (arXiv:1909.05858), OpenAI's two others."""
    sampling = one.sampling
    if one.seen:
        seen = torch.tensor(sorted(one.seen))
        penalty = max(sampling.repetition_penalty, _SMALLEST_DIVISOR)
        found = logits[seen]
        logits[seen] = torch.where(found < 0, found * penalty, found / penalty)
    if one.written:
        counts = torch.tensor(list(one.written.values()), dtype=logits.dtype)
        logits[torch.tensor(list(one.written))] -= sampling.presence_penalty + sampling.frequency_penalty * counts


def _sample_rows(logits: torch.Tensor, draws: Sequence[Sampler], top_k: int) -> list[int]:
    """Return a token a row, drawn by the inverse of the cumulative distribution of the candidates that are left."""
    share = torch.tensor([one.sampling.top_p for one in draws])[:, None]
    divisor = torch.tensor([max(one.sampling.temperature, _SMALLEST_DIVISOR) for one in draws])[:, None]
    numbers = torch.tensor([one.number for one in draws], dtype=torch.float64)[:, None]
    if 0 < top_k < logits.shape[-1]:
        values, ids = _top_k(logits, top_k)
        return _pick_from_sorted(torch.softmax((values - values[:, :1]) / divisor, dim=-1), ids, share, numbers)
    probabilities = torch.softmax((logits - logits.amax(dim=-1, keepdim=True)) / divisor, dim=-1)
    return [
        _pick_from_vocabulary(row, one.sampling.top_p, one.number)
        for row, one in zip(probabilities, draws, strict=True)
    ]


def _top_k(logits: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what `torch.topk` does, in half the time: they are in the blocks with the greatest maxima."""
    vocabulary = logits.shape[-1]
    whole = vocabulary - vocabulary % _BLOCK
    if whole // _BLOCK <= count:
        top = torch.topk(logits, count)
        return top.values, top.indices
    maxima = logits[:, :whole].view(len(logits), -1, _BLOCK).amax(dim=-1)
    blocks = torch.topk(maxima, count, sorted=False).indices
    ids = (blocks[:, :, None] * _BLOCK + torch.arange(_BLOCK)).flatten(1)
    ids = torch.cat([ids, torch.arange(whole, vocabulary).expand(len(ids), -1)], dim=-1)
    top = torch.topk(logits.gather(-1, ids), count)
    return top.values, ids.gather(-1, top.indices)


def _pick_from_vocabulary(probabilities: torch.Tensor, share: float, number: float) -> int:
    """Return a token, from the likeliest that together reach `share`; `probabilities` are of the vocabulary."""
    if share < 1:
        probabilities = probabilities.masked_fill(probabilities < _nucleus_threshold(probabilities, share), 0)
    reached = probabilities.double().cumsum(dim=-1)
    total = reached[-1].item()
    at = int(torch.searchsorted(reached, number * total, right=True))
    return min(at, int(torch.searchsorted(reached, total)))


def _nucleus_threshold(probabilities: torch.Tensor, share: float) -> torch.Tensor:
    """Return the least of the greatest probabilities that together reach `share`.

    By a histogram, for it takes milliseconds to sort a vocabulary: positive floats are ordered as their bits are, and
    of those whose first 16 bits are the same only a few are left to sort.
    """
    halves = probabilities.view(torch.int32) >> 16
    sums = torch.bincount(halves, probabilities.double())
    reached = sums.flip(0).cumsum(dim=0)  # from the greatest down
    wanted = max(share * reached[-1].item(), torch.finfo(torch.float64).tiny)
    at = int(torch.searchsorted(reached, wanted))
    missing = wanted - (reached[at - 1].item() if at else 0)
    near = probabilities[halves == len(sums) - 1 - at].sort(descending=True).values
    last = torch.searchsorted(near.double().cumsum(dim=0), missing)
    return near[last.clamp_(max=len(near) - 1)]


def _pick_from_sorted(
    probabilities: torch.Tensor, ids: torch.Tensor, share: torch.Tensor, numbers: torch.Tensor
) -> list[int]:
    """Return a token a row, from the first candidates that together reach `share`; `probabilities` best first."""
    reached = probabilities.double().cumsum(dim=-1)
    kept = torch.where(share < 1, (reached - probabilities < share).sum(dim=-1, keepdim=True), reached.shape[-1])
    kept = kept.clamp(min=1)
    at = torch.searchsorted(reached, numbers * reached.gather(-1, kept - 1), right=True)
    chosen: list[int] = ids.gather(-1, torch.minimum(at, kept - 1))[:, 0].tolist()
    return chosen


def _logprobs(logits: torch.Tensor, ids: list[int]) -> list[tuple[float, torch.Tensor]]:
    """Return the log-probability of each row's token, and all of the row's."""
    rows = torch.log_softmax(logits.float(), dim=-1)
    own: list[float] = rows.gather(-1, torch.tensor(ids)[:, None])[:, 0].tolist()
    return list(zip(own, rows, strict=True))


def _with_logprobs(number: int, reported: tuple[float, torch.Tensor], count: int | None) -> Token:
    own, row = reported
    if not count:
        return Token(number, own)
    values, ids = torch.topk(row, count)
    return Token(number, own, tuple(zip(ids.tolist(), values.tolist(), strict=True)))
