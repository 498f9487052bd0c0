"""Draws the next token of each text in a batch, by its own settings and from its own random numbers."""

import random
from collections import Counter
from collections.abc import Iterable, Sequence

import torch

from serving.engine import Sampling, Token

# Logits divided by less than this leave float32's range; what is drawn no longer changes long before.
_SMALLEST_DIVISOR = 1e-6
# Of so many tokens the likeliest are found without sorting the vocabulary; they nearly always hold the share top_p.
_LIKELIEST = 1024


class Draw:
    """What drawing the next token of a text takes: its settings, its random numbers, the tokens so far."""

    def __init__(self, prompt: Iterable[int], sampling: Sampling) -> None:
        """Begin after `prompt`."""
        self.sampling = sampling
        self._random = random.Random(sampling.seed)  # its numbers are the same in every version of Python
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


def draw(logits: torch.Tensor, draws: Sequence[Draw]) -> list[Token | None]:
    """Return the next token of each text, None where a row of `logits`, (texts, vocabulary), is not finite.

    A row's token hangs on that row and its Draw alone. Order of the steps as in transformers: penalties, temperature,
    top_k, top_p.
    """
    likeliest, best = logits.max(dim=-1)
    finite = torch.isfinite(likeliest).tolist()
    ids: list[int] = best.tolist()
    tokens: list[Token | None] = [None] * len(draws)
    raw = logits
    changed = [at for at, one in enumerate(draws) if one.seen or one.written]
    if changed:
        logits = logits.clone()
        for at in changed:
            _penalise(logits[at], draws[at])
            ids[at] = int(logits[at].argmax())
    sampled = [at for at, one in enumerate(draws) if one.sampling.temperature > 0 and finite[at]]
    # A group a top_k, so that equal logits are ordered as they are when the text is alone.
    for top_k in {draws[at].sampling.top_k for at in sampled}:
        rows = [at for at in sampled if draws[at].sampling.top_k == top_k]
        theirs = logits if len(rows) == len(draws) else logits[rows]
        for at, token in zip(rows, _sample(theirs, [draws[at] for at in rows], top_k), strict=True):
            ids[at] = token
    wanted = [at for at, one in enumerate(draws) if one.sampling.logprobs is not None and finite[at]]
    reported = dict(zip(wanted, _logprobs(raw[wanted], [ids[at] for at in wanted]), strict=True)) if wanted else {}
    for at, one in enumerate(draws):
        if finite[at]:
            one.add(ids[at])
            tokens[at] = _token(ids[at], reported[at], one.sampling.logprobs) if at in reported else Token(ids[at])
    return tokens


def _penalise(logits: torch.Tensor, one: Draw) -> None:
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


def _sample(logits: torch.Tensor, draws: Sequence[Draw], top_k: int) -> list[int]:
    """Return a token a row, drawn by the inverse of the cumulative distribution of the candidates that are left."""
    share = torch.tensor([one.sampling.top_p for one in draws])[:, None]
    divisor = torch.tensor([max(one.sampling.temperature, _SMALLEST_DIVISOR) for one in draws])[:, None]
    numbers = torch.tensor([one.number for one in draws], dtype=torch.float64)[:, None]
    vocabulary = logits.shape[-1]
    if 0 < top_k < vocabulary:
        values, ids = torch.topk(logits, top_k)
        return _pick(torch.softmax((values - values[:, :1]) / divisor, dim=-1), ids, share, numbers)
    probabilities = torch.softmax((logits - logits.amax(dim=-1, keepdim=True)) / divisor, dim=-1)
    chosen: list[int] = []
    for row, top_p, number in zip(probabilities, share, numbers, strict=True):
        values, ids = row[None], torch.arange(vocabulary)[None]
        if top_p < 1:
            values, ids = torch.topk(row[None], min(_LIKELIEST, vocabulary))
            if values.sum() < top_p:
                values, ids = torch.sort(row[None], descending=True, stable=True)
        chosen += _pick(values, ids, top_p[None], number[None])
    return chosen


def _pick(probabilities: torch.Tensor, ids: torch.Tensor, share: torch.Tensor, numbers: torch.Tensor) -> list[int]:
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


def _token(number: int, reported: tuple[float, torch.Tensor], count: int | None) -> Token:
    own, row = reported
    if not count:
        return Token(number, own)
    values, ids = torch.topk(row, count)
    return Token(number, own, tuple(zip(ids.tolist(), values.tolist(), strict=True)))
