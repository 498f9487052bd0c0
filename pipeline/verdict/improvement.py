"""Is the candidate better than the baseline, beyond noise? The paired bootstrap over test rows, and its sentence."""

import math
from dataclasses import dataclass

import numpy as np

from pipeline import params
from pipeline.evaluation.bootstrap import Gain, paired_gain
from pipeline.verdict.records import Comparison
from pipeline.verdict.statistics import expanded_confidence, rows_needed, rows_to_detect
from pipeline.verdict.wording import percent


@dataclass(frozen=True)
class Improvement:
    """The gain, whether all of its interval lies above promote.min_gain, and both in words."""

    gain: Gain
    is_better: bool
    sentence: str
    counterfactual: str


def improvement(comparison: Comparison, config: params.Promote) -> Improvement:
    """Compare the losses of candidate and baseline row by row."""
    candidate, baseline = comparison.candidate.scores, comparison.baseline.scores
    confidence = expanded_confidence(config.confidence, len(candidate.loss))
    gain = paired_gain(candidate, baseline, config.resamples, confidence, comparison.seed)
    needed = rows_needed(config.confidence)
    if not all(map(math.isfinite, (gain.gain, gain.low, gain.high))):
        return Improvement(
            gain,
            False,
            f"No verdict is possible: a loss on the test rows is not a number (the gain is {gain.gain}).",
            "A candidate whose losses are numbers; a lower finetune.learning_rate, if training diverged.",
        )
    if gain.rows < needed:
        return Improvement(
            gain,
            False,
            f"{gain.rows} test rows cannot tell a better model from chance: at least {needed} are needed.",
            f"At least {needed} test rows: more data, or a larger validate.test_share.",
        )
    is_better = gain.low > config.min_gain
    sentence = _sentence(gain, comparison, config) + _about_tokenizers(comparison)
    return Improvement(gain, is_better, sentence, _counterfactual(gain, config))


def _sentence(gain: Gain, comparison: Comparison, config: params.Promote) -> str:
    against, rows = comparison.against, _on_rows(gain)
    figure = "perplexity per token of the candidate" if _tokenizers_differ(comparison) else "perplexity"
    falls = f"{figure} falls by {percent(gain.gain)} {_interval(gain.low, gain.high, config)} {rows}"
    rises = f"{figure} rises by {percent(-gain.gain)} {_interval(-gain.high, -gain.low, config)} {rows}"
    min_gain = "0" if not config.min_gain else f"{percent(config.min_gain)}, the least that promote.min_gain asks for"
    if gain.low > config.min_gain:
        return f"Better than the {against}: {falls}."
    if gain.gain > config.min_gain:
        return (
            f"Better by {percent(gain.gain)} than the {against}, but the interval {percent(gain.low)} to"
            f" {percent(gain.high)} {rows} includes {min_gain}: this may be chance; about"
            f" {_rows_to_detect(gain, config):,} test rows would show such a difference."
        )
    if gain.low > 0:
        return (
            f"Better than the {against}, but by {percent(gain.gain)} {_interval(gain.low, gain.high, config)} {rows},"
            f" not by more than {min_gain}."
        )
    if gain.high < 0:
        return f"Worse than the {against}: {rises}."
    return f"Not better than the {against}: {rises if gain.gain < 0 else falls}, which may be chance."


def _counterfactual(gain: Gain, config: params.Promote) -> str:
    least_gain, rows = percent(_detectable_gain(gain, config)), _on_rows(gain)
    if gain.low > config.min_gain:
        return f"A gain of {least_gain} or less {rows} would not have been distinguishable from chance."
    if gain.gain > config.min_gain:
        return f"About {_rows_to_detect(gain, config):,} test rows with this gain, or more than {least_gain} {rows}."
    return f"A gain of more than {least_gain} {rows} would have been distinguishable from chance."


def _detectable_gain(gain: Gain, config: params.Promote) -> float:
    """Return the gain above which these rows would show an improvement.

    In nats the interval is about as wide for any gain; as a share it narrows, for no gain is above 100 %.
    """
    return -math.expm1(math.log1p(-config.min_gain) - _half_width(gain))


def _rows_to_detect(gain: Gain, config: params.Promote) -> int:
    return rows_to_detect(gain.rows, _half_width(gain), math.log1p(-config.min_gain) - gain.nats)


def _half_width(gain: Gain) -> float:
    """Return how far the interval reaches towards no gain, in nats per token."""
    return gain.nats_high - gain.nats


def _interval(low: float, high: float, config: params.Promote) -> str:
    return f"({percent(config.confidence, 0)} interval {percent(low)} to {percent(high)})"


def _on_rows(gain: Gain) -> str:
    return f"on {gain.rows:,} test row{'s' * (gain.rows != 1)}"


def _tokenizers_differ(comparison: Comparison) -> bool:
    return not np.array_equal(comparison.candidate.scores.tokens, comparison.baseline.scores.tokens)


def _about_tokenizers(comparison: Comparison) -> str:
    if not _tokenizers_differ(comparison):
        return ""
    candidate, baseline = (model.metrics["bits_per_byte"] for model in (comparison.candidate, comparison.baseline))
    return f" The tokenizers differ, so bits per byte are compared: {candidate:.3f} against {baseline:.3f}."
