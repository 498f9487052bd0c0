"""Length drift: population stability index and Kolmogorov-Smirnov statistic of the texts' lengths."""

import math

import numpy as np
from scipy.special import kolmogorov

from pipeline.data_diff.result import Array, Length, LengthDrift, rounded


def length_drift(old: Array, new: Array) -> LengthDrift:
    """Compare the lengths of two data sets' texts, in characters."""
    if not (len(old) and len(new)):
        return LengthDrift(_length(old), _length(new), psi=None, ks=None, p_value=None)
    statistic, p_value = kolmogorov_smirnov(old, new)
    return LengthDrift(
        _length(old),
        _length(new),
        psi=rounded(population_stability_index(old, new)),
        ks=rounded(statistic),
        p_value=rounded(p_value),
    )


def _length(lengths: Array) -> Length:
    if not len(lengths):
        return Length(None, None, None)
    mean = int(lengths.sum(dtype=np.int64)) / len(lengths)
    return Length(*(rounded(value) for value in (mean, np.median(lengths), np.percentile(lengths, 95))))


def kolmogorov_smirnov(old: Array, new: Array) -> tuple[float, float]:
    """Return the two-sample statistic and its p-value in the limit of large samples; see LengthDrift.

    Not scipy's `ks_2samp`: for some small samples its exact p-value fails with a warning.
    """
    values = np.union1d(old, new)
    shares = [np.searchsorted(np.sort(lengths), values, side="right") / len(lengths) for lengths in (old, new)]
    statistic = float(np.abs(shares[0] - shares[1]).max())
    return statistic, float(kolmogorov(statistic * math.sqrt(len(old) * len(new) / (len(old) + len(new)))))


def population_stability_index(old: Array, new: Array) -> float:
    """Return the population stability index of two samples; see LengthDrift."""
    edges = np.unique(np.percentile(old, np.arange(10, 100, 10), method="inverted_cdf"))
    # Half a row more in each bin keeps the index finite where a bin is empty.
    counts = [np.bincount(np.searchsorted(edges, lengths), minlength=len(edges) + 1) + 0.5 for lengths in (old, new)]
    p, q = (count / count.sum() for count in counts)
    return math.fsum((q - p) * np.log(q / p))


def interpret_psi(psi: float | None) -> str:
    """Return the usual reading of a population stability index (Siddiqi, Credit Risk Scorecards, 2006)."""
    if psi is None:
        return "not comparable"
    if psi < 0.1:
        return "no shift"
    return "some shift" if psi <= 0.25 else "large shift"
