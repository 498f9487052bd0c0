"""The gain that is shown: its bootstrap interval, over rows or clusters, within strata where there are some."""

import numpy as np
from scipy.special import ndtr, stdtrit

from pipeline import params
from pipeline.evaluation.bootstrap import Gain, interval, paired_gain
from pipeline.modeling.nats import expm1
from pipeline.verdict import stratified
from pipeline.verdict.sampling import Ints, Sample
from pipeline.verdict.statistics import expanded_confidence


def shown_gain(sample: Sample, config: params.Promote, seed: int) -> Gain:
    """Return the gain of the candidate with its interval at promote.confidence."""
    if sample.strata is None:
        expanded = expanded_confidence(config.confidence, len(sample.candidate.loss))
        return paired_gain(sample.candidate, sample.baseline, config.resamples, expanded, seed)
    return _stratified_gain(sample, sample.strata, config, seed)


def _stratified_gain(sample: Sample, strata: Ints, config: params.Promote, seed: int) -> Gain:
    """Return the gain with a percentile interval as wide as Student's t asks for (see `expanded_confidence`)."""
    tokens = sample.candidate.tokens
    if not np.array_equal(sample.candidate.bytes, sample.baseline.bytes):
        raise ValueError(
            f"scores of different texts: {len(tokens)} and {len(sample.baseline.tokens)} rows, or other bytes"
        )
    difference = sample.candidate.loss - sample.baseline.loss
    nats = float(difference.sum() / tokens.sum())
    freedom = stratified.moments(difference - nats * tokens, strata).freedom
    expanded = float(1 - 2 * ndtr(-stdtrit(freedom, (1 + config.confidence) / 2)))
    ratios = stratified.bootstrap_ratios(difference, tokens, strata, config.resamples, seed)
    low, high = interval(ratios, expanded)
    return Gain(
        gain=-expm1(nats),
        low=-expm1(high),
        high=-expm1(low),
        nats=nats,
        nats_low=low,
        nats_high=high,
        rows=len(difference),
        tokens=int(tokens.sum()),
    )
