"""Test rows of each task made up, and models on them: for simulations of the verdict, and tests.

Two models of one task differ by noise of their own, row by row, as two fine-tunes that differ only in their seed do; a
model that is truly better has more signal. Noise of texts is as measured (`bench.simulated_scores`); that of logits,
and of a ranker's signal, is a guess on the high side.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from bench.simulated_scores import NOISE
from pipeline.evaluation.scores import Scores

Floats = npt.NDArray[np.float64]
LOGIT_NOISE = 0.5
QUERY_NOISE = 0.15  # of a ranker's signal, from query to query


@dataclass(frozen=True)
class Outcome:
    """What a model makes of the test rows."""

    scores: Scores
    row_figures: Mapping[str, Floats] = field(default_factory=dict)


class TaskRows(Protocol):
    """Test rows of a task."""

    @property
    def clusters(self) -> Sequence[str] | None:
        """What each row belongs to, where rows depend on each other."""

    @property
    def classes(self) -> Sequence[str] | None:
        """The label of each row."""

    @property
    def reference(self) -> Mapping[str, float]:
        """The figures of real targets."""

    def outcome(self, better: float = 0.0) -> Outcome:
        """Return what a model makes of them whose signal is larger by this share than an ordinary one's."""


def _scores(loss: Floats, weight: npt.NDArray[np.int64] | None = None) -> Scores:
    weight = np.ones(len(loss), dtype=np.int64) if weight is None else weight
    return Scores(loss, weight, 40 * np.ones(len(loss), dtype=np.int64))


class ClassifyRows:
    """Rows of classes with these shares."""

    clusters = None
    reference: Mapping[str, float] = {}

    def __init__(self, rows: int, shares: Mapping[str, float], random: np.random.Generator, signal: float = 4) -> None:
        """Draw the label of each row, and how hard it is for any model."""
        self.names, self._random, self._signal = list(shares), random, signal
        prior = np.array(list(shares.values()))
        self.label = random.choice(len(prior), rows, p=prior / prior.sum())  # (rows,)
        self.classes = [self.names[label] for label in self.label]
        self._prior = np.log(prior / prior.sum())
        self._hardness = random.normal(0, 1, (rows, len(prior)))  # (rows, classes)

    def logits(self, better: float = 0.0) -> Floats:
        """Return the logits of a model, those of a calibrated one apart from its own noise: (rows, classes)."""
        signal = self._signal * (1 + better)
        logits = self._prior + math.sqrt(signal) * self._hardness
        logits[np.arange(len(self.label)), self.label] += signal
        noisy: Floats = logits + LOGIT_NOISE * self._random.normal(0, 1, logits.shape)
        return noisy

    def outcome(self, better: float = 0.0) -> Outcome:
        """Return what a model makes of the rows."""
        return self.decided(self.logits(better))

    def decided(self, logits: Floats, threshold: float | None = None) -> Outcome:
        """Return the scores and figures of these logits; of two classes, `threshold` is the second one's."""
        shifted = logits - logits.max(axis=1, keepdims=True)
        shares = np.exp(shifted) / np.exp(shifted).sum(axis=1, keepdims=True)
        rows = np.arange(len(self.label))
        decided = shares.argmax(axis=1) if threshold is None else (shares[:, 1] >= threshold).astype(np.int64)
        correct = (decided == self.label).astype(np.float64)
        figures = {"correct": correct, "confidence": shares[rows, decided], "cost": 1 - correct}
        for number, name in enumerate(self.names):
            figures[f"recall/{name}"] = np.where(self.label == number, correct, np.nan)
        return Outcome(_scores(-np.log(np.maximum(shares[rows, self.label], 1e-300))), figures)


class RankRows:
    """Queries with ten passages each, of which one is relevant."""

    classes = None
    reference: Mapping[str, float] = {}
    passages = 10

    def __init__(self, queries: int, random: np.random.Generator, signal: float = 2) -> None:
        """Draw how hard each query and each passage is for any model."""
        self._random, self._signal, self.queries = random, signal, queries
        self.relevance = np.tile(np.arange(self.passages) == 0, queries).astype(np.float64)
        self.clusters = [f"query {number}" for number in range(queries) for _ in range(self.passages)]
        self._hardness = random.normal(0, 1, queries * self.passages) + np.repeat(random.normal(0, 1, queries), 10)

    def logits(self, better: float = 0.0) -> Floats:
        """Return the logits of a model, which knows more of some queries than of others: their rows err together."""
        own = LOGIT_NOISE * self._random.normal(0, 1, len(self.relevance))
        known = np.repeat(self._random.normal(0, QUERY_NOISE, self.queries), self.passages)
        signal = self._signal * (1 + better + known)
        return -2.2 + self._hardness + signal * (2 * self.relevance - 1) + own

    def outcome(self, better: float = 0.0) -> Outcome:
        """Return what a model makes of the rows."""
        return self.ordered(self.logits(better))

    def ordered(self, logits: Floats, order: Floats | None = None) -> Outcome:
        """Return the scores of these logits, and nDCG@10 of the passages ordered by them or by `order`."""
        by = (logits if order is None else order).reshape(self.queries, self.passages)
        place = (by > by[:, :1]).sum(axis=1)  # of the relevant passage, from 0 on
        ndcg = np.full(len(logits), np.nan)
        ndcg[:: self.passages] = 1 / np.log2(place + 2)
        return Outcome(_scores(np.logaddexp(0, -logits * (2 * self.relevance - 1))), {"ndcg@10": ndcg})


class TextRows:
    """Rows of which tokens are predicted: targets of sources, or masked tokens of texts."""

    clusters = None
    classes = None

    def __init__(self, tokens: npt.NDArray[np.int64], random: np.random.Generator) -> None:
        """Draw how hard each row is for any model."""
        self._random, self._tokens = random, tokens
        self._loss = random.normal(2.5, 0.5, len(tokens))
        self._copied = random.beta(2, 4, len(tokens))
        self.reference: Mapping[str, float] = {"copied": 1 / 3, "empty": 0.0, "repetition": 0.02}

    def outcome(self, better: float = 0.0) -> Outcome:
        """Return what a model makes of the rows, whose perplexity is lower by the share `better`."""
        rows = len(self._tokens)
        noise = NOISE / math.sqrt(2) * self._random.standard_t(5, rows) * math.sqrt(0.6) / np.sqrt(self._tokens)
        loss = (self._loss + math.log1p(-better) + noise) * self._tokens
        figures = {
            "copied": np.clip(self._copied + self._random.normal(0, 0.15, rows), 0, 1),
            "empty": (self._random.random(rows) < 0.005).astype(np.float64),
            "repetition": self._random.beta(0.2, 6, rows),
        }
        return Outcome(_scores(loss, self._tokens), figures)


def seq2seq_rows(rows: int, random: np.random.Generator) -> TextRows:
    """Return sources whose targets are short, but for a long tail: a median of 25 tokens, one in a hundred has 200."""
    return TextRows(random.lognormal(math.log(25), 0.9, rows).round().clip(2).astype(np.int64), random)


def masked_rows(rows: int, random: np.random.Generator) -> TextRows:
    """Return texts of some 80 tokens of which 15 % are masked."""
    tokens = random.lognormal(math.log(80), 0.4, rows).round().astype(np.int64)
    return TextRows(random.binomial(tokens, 0.15).clip(1).astype(np.int64), random)


FRAUD = {"ok": 0.98, "fraud": 0.02}
INTENTS = {f"intent_{number}": 1 / 77 for number in range(77)}
