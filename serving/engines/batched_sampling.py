"""Sample the next tokens of a batch on the device of its logits; only the chosen ids come back, once a step.

The same steps and the same random numbers as `serving.engines.sampling`, so the same token from the same logits, but
for the order of equal logits.
"""

from collections.abc import Sequence
from weakref import WeakKeyDictionary

import torch

from serving.engines.protocol import Token
from serving.engines.sampling import MIN_DIVISOR, Sampler

_NOT_FINITE = -1


class BatchSampler:
    """Samples for sequences whose counts of tokens it keeps on the device, where they have penalties."""

    def __init__(self) -> None:
        """Keep nothing yet."""
        self._counts = _TokenCounts()

    @torch.inference_mode()
    def sample(self, logits: torch.Tensor, samplers: Sequence[Sampler]) -> list[Token | None]:
        """Return the next token of each sequence, None where its row of logits is not finite.

        Args:
            logits: (sequences, vocabulary).
            samplers: One for each row, in the same order; each records its token.
        """
        logits = logits.float()
        penalised = [at for at, one in enumerate(samplers) if one.has_penalties]
        adjusted = self._penalised(logits, samplers, penalised) if penalised else logits
        finite = torch.isfinite(logits.amax(dim=-1))
        chosen = _choose(adjusted, samplers).masked_fill(~finite, _NOT_FINITE)  # (sequences,)
        ids: list[int] = chosen.tolist()
        if penalised:
            self._counts.add([samplers[at] for at in penalised], [ids[at] for at in penalised])
        tokens: list[Token | None] = [None] * len(samplers)
        for at, (sampler, number) in enumerate(zip(samplers, ids, strict=True)):
            if number != _NOT_FINITE:
                sampler.add(number)
                tokens[at] = Token(number)
        reported = [at for at, one in enumerate(samplers) if one.sampling.logprobs is not None and tokens[at]]
        if reported:
            counts = [samplers[at].sampling.logprobs or 0 for at in reported]
            for at, token in zip(reported, _with_logprobs(logits[reported], chosen[reported], counts), strict=True):
                tokens[at] = token
        return tokens

    def _penalised(self, logits: torch.Tensor, samplers: Sequence[Sampler], rows: list[int]) -> torch.Tensor:
        """Return logits with CTRL's repetition penalty (arXiv:1909.05858) and OpenAI's two others, in `rows`."""
        chosen = [samplers[at] for at in rows]
        in_prompt, counts = self._counts.of(chosen, logits)
        settings = [
            (max(one.repetition_penalty, MIN_DIVISOR), one.presence_penalty, one.frequency_penalty)
            for one in (sampler.sampling for sampler in chosen)
        ]
        repetition, presence, frequency = _columns(settings, logits)
        values = logits[rows]
        written = counts > 0
        divided = torch.where(values < 0, values * repetition, values / repetition)
        values = torch.where((in_prompt | written) & (repetition != 1), divided, values)
        values = values - (presence + frequency * counts).masked_fill(~written, 0)
        return logits.index_copy(0, torch.tensor(rows, device=logits.device), values)


class _TokenCounts:
    """Which tokens of the vocabulary a sequence's prompt has, and how often its completion has each."""

    def __init__(self) -> None:
        self._rows: WeakKeyDictionary[Sampler, int] = WeakKeyDictionary()
        self._in_prompt = torch.empty(0, 0, dtype=torch.bool)  # (rows, vocabulary)
        self._counts = torch.empty(0, 0)  # (rows, vocabulary)

    def of(self, samplers: Sequence[Sampler], like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return both, each (samplers, vocabulary); `like` has that vocabulary, and is on their device."""
        for sampler in samplers:
            if sampler not in self._rows:
                self._begin(sampler, like)
        rows = [self._rows[sampler] for sampler in samplers]
        return self._in_prompt[rows], self._counts[rows]

    def add(self, samplers: Sequence[Sampler], ids: Sequence[int]) -> None:
        """Count a token for each sampler that `of` has returned; those that are not finite do not count."""
        counted = [(self._rows[one], token) for one, token in zip(samplers, ids, strict=True) if token != _NOT_FINITE]
        if counted:
            rows, columns = torch.tensor(counted, device=self._counts.device).unbind(1)
            self._counts[rows, columns] += 1

    def _begin(self, sampler: Sampler, like: torch.Tensor) -> None:
        """Give `sampler` a row, of a sequence that has ended or a new one."""
        free = set(range(len(self._counts))) - set(self._rows.values())
        if not free:
            old, vocabulary = len(self._counts), like.shape[1]
            more = max(8, old)
            free = set(range(old, old + more))
            shape = (more, vocabulary)
            in_prompt, counts = like.new_zeros(shape, dtype=torch.bool), like.new_zeros(shape)
            self._in_prompt = torch.cat([self._in_prompt, in_prompt]) if old else in_prompt
            self._counts = torch.cat([self._counts, counts]) if old else counts
        row = self._rows[sampler] = min(free)
        self._in_prompt[row] = False
        self._counts[row] = 0
        if sampler.seen:
            self._in_prompt[row, torch.tensor(sorted(sampler.seen), device=like.device)] = True
        for token, count in sampler.counts.items():
            self._counts[row, token] = count


def _columns(settings: Sequence[tuple[float, ...]], logits: torch.Tensor) -> list[torch.Tensor]:
    """Return each setting as a column, (rows, 1)."""
    table = torch.tensor(settings, dtype=torch.float64).to(logits.device, logits.dtype)
    return list(table[:, :, None].unbind(1))


def _choose(logits: torch.Tensor, samplers: Sequence[Sampler]) -> torch.Tensor:
    """Return the id of the next token of each row, (rows,); any id where the row is not finite."""
    vocabulary = logits.shape[-1]
    greedy, few, whole = [], [], []
    for at, sampler in enumerate(samplers):
        sampling = sampler.sampling
        if sampling.temperature == 0:
            greedy.append(at)
        elif 0 < sampling.top_k < vocabulary:
            few.append(at)
        else:
            whole.append(at)
    parts, order = [], []
    for rows, choose in ((greedy, _likeliest), (few, _from_top_k), (whole, _from_vocabulary)):
        if rows:
            of_rows = logits if len(rows) == len(samplers) else logits[rows]
            parts.append(choose(of_rows, [samplers[at] for at in rows]))
            order += rows
    if len(parts) == 1:
        return parts[0]
    return torch.cat(parts)[torch.tensor(order, device=logits.device).argsort()]


def _likeliest(logits: torch.Tensor, _: Sequence[Sampler]) -> torch.Tensor:
    return logits.argmax(dim=-1)


def _settings(samplers: Sequence[Sampler], device: torch.device) -> tuple[torch.Tensor, ...]:
    """Return temperatures, top_k, top_p and random numbers, each (rows, 1), in one copy to the device."""
    table = torch.tensor(
        [
            (max(one.sampling.temperature, MIN_DIVISOR), one.sampling.top_k, one.sampling.top_p, one.number)
            for one in samplers
        ],
        dtype=torch.float64,
    ).to(device, non_blocking=True)
    divisors, top_k, top_p, numbers = table[:, :, None].unbind(1)
    return divisors.float(), top_k.long(), top_p, numbers


def _from_top_k(logits: torch.Tensor, samplers: Sequence[Sampler]) -> torch.Tensor:
    """Invert the cumulative distribution of each row's likeliest tokens, best first."""
    divisors, top_k, top_p, numbers = _settings(samplers, logits.device)
    values, ids = torch.topk(logits, max(one.sampling.top_k for one in samplers))  # (rows, candidates)
    candidates = torch.arange(values.shape[-1], device=logits.device) < top_k
    scaled = ((values - values[:, :1]) / divisors).masked_fill(~candidates, -torch.inf)
    probabilities = torch.softmax(scaled, dim=-1)
    cumulative = probabilities.double().cumsum(dim=-1)
    nucleus = (cumulative - probabilities < top_p).sum(dim=-1, keepdim=True)
    kept = torch.where(top_p < 1, torch.minimum(nucleus, top_k), top_k).clamp(min=1)
    at = torch.searchsorted(cumulative, numbers * cumulative.gather(-1, kept - 1), right=True)
    return ids.gather(-1, torch.minimum(at, kept - 1))[:, 0]


def _from_vocabulary(logits: torch.Tensor, samplers: Sequence[Sampler]) -> torch.Tensor:
    """Invert the cumulative distribution of each row's nucleus, in the order of the vocabulary."""
    divisors, _, top_p, numbers = _settings(samplers, logits.device)
    probabilities = torch.softmax((logits - logits.amax(dim=-1, keepdim=True)) / divisors, dim=-1)
    if any(one.sampling.top_p < 1 for one in samplers):
        ordered = probabilities.sort(dim=-1, descending=True).values
        cumulative = ordered.double().cumsum(dim=-1)
        last = (cumulative < top_p * cumulative[:, -1:]).sum(dim=-1, keepdim=True)
        threshold = ordered.gather(-1, last.clamp(max=logits.shape[-1] - 1))
        probabilities = probabilities.masked_fill((probabilities < threshold) & (top_p < 1), 0)
    cumulative = probabilities.double().cumsum(dim=-1)
    total = cumulative[:, -1:].contiguous()
    at = torch.searchsorted(cumulative, numbers * total, right=True)
    return torch.minimum(at, torch.searchsorted(cumulative, total)).clamp(max=logits.shape[-1] - 1)[:, 0]


def _with_logprobs(logits: torch.Tensor, ids: torch.Tensor, counts: Sequence[int]) -> list[Token]:
    """Return each row's token with its log-probability by the model, and those of its row's likeliest."""
    logprobs = torch.log_softmax(logits, dim=-1)
    own: list[float] = logprobs.gather(-1, ids[:, None])[:, 0].tolist()
    top = torch.topk(logprobs, min(max(counts), logits.shape[-1]))
    rows = zip(ids.tolist(), own, top.indices.tolist(), top.values.tolist(), counts, strict=True)
    return [
        Token(token, logprob, tuple(zip(likeliest[:count], values[:count], strict=True)))
        for token, logprob, likeliest, values, count in rows
    ]
