"""The simulations of `bench.verdict`: made-up scores, judged by the functions that judge real ones."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import numpy as np
from scipy.special import ndtr

from bench.harness import FRESH
from bench.simulated_scores import NOISE, Floats, SimulatedRows, nats
from pipeline import params
from pipeline.evaluation.scores import Scores
from pipeline.registry.history import Entry
from pipeline.verdict.challenges import DAYS, Challenge, daily, next_challenge
from pipeline.verdict.evidence import least_gain
from pipeline.verdict.improvement import improvement
from pipeline.verdict.records import Comparison, ModelFigures
from pipeline.verdict.statistics import perplexity_rise, wilson_interval

STUDENT = "Student's bound"
Rule = Callable[[int], Challenge | None]  # of a night, the first one being 0; None: by itself, at 2.5 %


@dataclass(frozen=True)
class Share:
    """How many of several simulations ended in a certain way."""

    hits: int
    of: int

    @property
    def value(self) -> float:
        """As a share."""
        return self.hits / self.of

    @property
    def interval(self) -> tuple[float, float]:
        """Its 95 % interval."""
        return wilson_interval(self.value, self.of, 0.95)


@dataclass(frozen=True)
class Judge:
    """Judges pairs of scores by `improvement`; gates play no part."""

    config: params.Promote

    def is_better(
        self, candidate: Scores, champion: Scores, challenge: Challenge | None, old_rows: int | None = None
    ) -> bool:
        """Return whether the candidate would replace the champion."""
        figures = {"bits_per_byte": 1.0}
        comparison = Comparison(
            candidate=ModelFigures(figures, candidate),
            baseline=ModelFigures(figures, champion),
            against="champion",
            base=ModelFigures(figures, champion),
            reference_metrics={},
            groups=[],
            generations=0,
            copied_tokens=1,
            seed=1,
            old_rows=old_rows,
        )
        return improvement(comparison, self.config, challenge).is_better


@dataclass
class Nightly:
    """The challenges of a champion that is challenged every night, by the registry's rule."""

    budget: float
    _challenges: list[Challenge] = field(default_factory=list)

    def __call__(self, night: int) -> Challenge:
        """Return the challenge of a night, the first one being 0: it depends on nothing else."""
        start = datetime(2026, 1, 1, tzinfo=UTC)
        history = [_entry(start - timedelta(days=1), champion=None, alpha=None)]
        history += [_entry(start + timedelta(days=day), "a", one.alpha) for day, one in enumerate(self._challenges)]
        for day in range(len(self._challenges), night + 1):
            at = start + timedelta(days=day)
            self._challenges.append(next_challenge(history, self.budget, at.isoformat()))
            history.append(_entry(at, "a", self._challenges[-1].alpha))
        return self._challenges[night]


def _entry(at: datetime, champion: str | None, alpha: float | None) -> Entry:
    return Entry(1, at.isoformat(), "bench", "promote", champion, "b", "simulated", {"alpha": alpha})


def alone() -> Rule:
    """Return the rule of before: each night may err as if there were no other."""
    return lambda _: None


def lord(budget: float) -> Rule:
    """Return LORD++ while nothing is found (Ramdas et al. 2017, section 4), with half of the budget to start from."""
    terms = [math.log(max(j, 2)) / (j * math.exp(math.sqrt(math.log(j)))) for j in range(1, 10_000)]
    return lambda night: _challenge(night, budget / 2 * terms[night] / sum(terms), budget)


def e_value(budget: float) -> Rule:
    """Return what is left of a nightly share of the budget by Markov's inequality, for the best e-value of one night.

    Of a normal z, none is above exp(z ** 2 / 2).
    """
    alpha = float(ndtr(-math.sqrt(2 * math.log(1 / daily(budget)))))
    return lambda night: _challenge(night, alpha, budget)


def _challenge(night: int, alpha: float, budget: float) -> Challenge:
    return Challenge(night + 1, alpha, 0.0, budget)


def false_promotions(judge: Judge, rule: Rule, rows: int, quarters: int, new_rows: int | None = 0) -> Share:
    """Return in how many quarters of 90 nights, with candidates all equal in truth, a champion was replaced.

    Args:
        judge: Judges.
        rule: What a night may spend.
        rows: Test rows at first.
        quarters: Simulations.
        new_rows: How many more arrive every night; None: all are other ones every night.
    """
    random = np.random.default_rng(1)
    hits = 0
    for _ in range(quarters):
        test = SimulatedRows(rows + DAYS * (new_rows or 0), random)
        champion = test.scores(0)
        for night in range(DAYS):
            if new_rows is None:
                test = SimulatedRows(rows, random)
                champion = test.scores(0)
            seen = rows + night * (new_rows or 0)
            if judge.is_better(_first(test.scores(0), seen), _first(champion, seen), rule(night), rows):
                hits += 1
                break
    return Share(hits, quarters)


def found(judge: Judge, rule: Rule, rows: int, gain: float, times: int, first_night: int = 60) -> Share:
    """Return how often candidates that are truly better by `gain` replace the champion within three nights."""
    random = np.random.default_rng(2)
    hits = 0
    for _ in range(times):
        test = SimulatedRows(rows, random)
        champion = test.scores(0)
        hits += any(judge.is_better(test.scores(nats(gain)), champion, rule(first_night + night)) for night in range(3))
    return Share(hits, times)


def single(judge: Judge, challenge: Challenge | None, rows: int, gain: float, times: int) -> Share:
    """Return how often one candidate that is truly better by `gain` replaces the champion."""
    random = np.random.default_rng(6)
    hits = 0
    for _ in range(times):
        test = SimulatedRows(rows, random)
        hits += judge.is_better(test.scores(nats(gain)), test.scores(0), challenge)
    return Share(hits, times)


def growing(judge: Judge, gains: Sequence[float], first_rows: int, times: int) -> list[Share]:
    """Return how often each weekly retrain of a growing corpus, better by one of these gains, replaces the champion."""
    random = np.random.default_rng(3)
    hits = np.zeros(len(gains), dtype=int)
    weekly = Challenge(1, 7 * daily(0.05), 0.0, 0.05)
    for _ in range(times):
        test = SimulatedRows(first_rows * (len(gains) + 1), random)
        champion, quality, old_rows = test.scores(0), 0.0, first_rows
        for number, gain in enumerate(gains):
            rows = first_rows * (number + 2)
            quality += nats(gain)
            candidate = test.scores(quality)
            if judge.is_better(_first(candidate, rows), _first(champion, rows), weekly, old_rows):
                hits[number] += 1
                champion, old_rows = candidate, rows
    return [Share(int(count), times) for count in hits]


def _first(scores: Scores, rows: int) -> Scores:
    return Scores(scores.loss[:rows], scores.tokens[:rows], scores.bytes[:rows])


def nights_until_replaced(
    judge: Judge, rows: int, luck: float, gain: float, times: int, *, with_new_rows: bool
) -> tuple[float, float]:
    """Return the median and the 90th percentile of nights until a lucky champion is replaced, at most 90.

    Args:
        judge: Judges.
        rows: Test rows at first; 2 % of them more arrive every night.
        luck: By how many standard errors of a comparison the champion was lucky on the first ones.
        gain: By how much each candidate is truly better.
        times: Simulations.
        with_new_rows: Whether it is known which rows are new.
    """
    random = np.random.default_rng(4)
    nightly = Nightly(0.05)
    per_night = round(0.02 * rows)
    nights = []
    for _ in range(times):
        test = SimulatedRows(rows + DAYS * per_night, random)
        chance = test.draw()
        share = np.sqrt(test.tokens[:rows])
        chance[:rows] -= (share @ chance[:rows] / (share @ share)) * share  # neither lucky nor unlucky, and then lucky
        chance[:rows] -= luck * math.sqrt(2) / math.sqrt(share @ share) * share
        champion = test.scores(0, chance)
        for night in range(1, DAYS + 1):
            seen = rows + night * per_night
            candidate = test.scores(nats(gain))
            old_rows = rows if with_new_rows else None
            if judge.is_better(_first(candidate, seen), _first(champion, seen), nightly(night - 1), old_rows):
                break
        nights.append(night)
    return float(np.median(nights)), float(np.quantile(nights, 0.9))


def error_rates(
    rows: int, skewness: float, alpha: float, draws: int, tokens: tuple[float, float]
) -> Mapping[str, float]:
    """Return how many times more often than `alpha` equal models differ beyond chance, for our bound and Student's.

    Args:
        rows: Test rows.
        skewness: Of the gains; 0: the measured noise. Negative: far worse at few rows, a little better at others.
        alpha: The error rate that is asked for.
        draws: Simulations.
        tokens: Length of the rows, see `SimulatedRows`.
    """
    random = np.random.default_rng(5)
    wrong = {FRESH: 0, STUDENT: 0}
    for _ in range(draws):
        test = SimulatedRows(rows, random, tokens)
        noise = test.draw() if skewness == 0 else _skewed(skewness, rows, random)
        loss: Floats = test.loss * test.tokens
        gains: Floats = NOISE * noise * np.sqrt(test.tokens)
        candidate = Scores(loss - gains, test.tokens, 4 * test.tokens)
        baseline = Scores(loss, test.tokens, 4 * test.tokens)
        wrong[FRESH] += least_gain(candidate, baseline, alpha).nats < 0
        wrong[STUDENT] += perplexity_rise(baseline.loss - candidate.loss, test.tokens, 1 - 2 * alpha)[1] > 0
    return {name: count / draws / alpha for name, count in wrong.items()}


def _skewed(skewness: float, rows: int, random: np.random.Generator) -> Floats:
    """Return gamma noise of mean 0, standard deviation 1 and this skewness: (rows,)."""
    shape = (2 / skewness) ** 2
    return math.copysign(1, skewness) * (random.gamma(shape, 1, rows) - shape) / math.sqrt(shape)
