"""Is the candidate better than the baseline, beyond chance? The gain on the test rows, what decides, and why."""

import math
from dataclasses import dataclass

import numpy as np

from pipeline import params
from pipeline.evaluation.bootstrap import Gain
from pipeline.modeling.nats import exp
from pipeline.verdict.challenges import Challenge
from pipeline.verdict.class_rows import rows_to_judge, too_few
from pipeline.verdict.evidence import Evidence, sample_evidence
from pipeline.verdict.gains import shown_gain
from pipeline.verdict.records import Comparison
from pipeline.verdict.sampling import sample_of
from pipeline.verdict.statistics import rows_needed
from pipeline.verdict.wording import (
    FACTOR,
    PERCENT,
    PLAIN,
    confidence,
    factor,
    interval,
    percent,
    percent_beside,
    plain,
)

# From here on a change of perplexity reads as a factor: 99.8 % and 99.9 % look alike, 500 and 1,000 times do not.
_FACTOR = 10.0
_LEVERS = (
    "More gain comes from more or cleaner training rows, a longer tokenize.max_length where texts are cut, another base"
    " or another finetune.learning_rate."
)
_NO_GAIN = Gain(math.nan, math.nan, math.nan, math.nan, math.nan, math.nan, rows=0, tokens=0)
_SMALL_GAIN = 0.02  # that a person would want to see: the sentence says how many rows show it


@dataclass(frozen=True)
class Improvement:
    """The gain, what is sure of it, whether that is above promote.min_gain, and all in words."""

    gain: Gain
    evidence: Evidence | None  # what decides; None where nothing could be tested
    is_better: bool
    sentence: str
    counterfactual: str


def improvement(comparison: Comparison, config: params.Promote, challenge: Challenge | None = None) -> Improvement:
    """Compare the losses of candidate and baseline row by row.

    Args:
        comparison: The candidate beside the model it would replace.
        config: The section `promote` of params.yaml.
        challenge: What this comparison may spend; None: one tail of `promote.confidence`.
    """
    alpha = challenge.alpha if challenge else (1 - config.confidence) / 2
    if not comparison.quantity.any_tokenizer and _tokenizers_differ(comparison):
        return Improvement(_NO_GAIN, None, False, *_incomparable(comparison))
    sample = sample_of(comparison)
    gain = shown_gain(sample, config, comparison.seed)
    if not all(map(math.isfinite, (gain.gain, gain.low, gain.high))):
        return Improvement(
            gain,
            None,
            False,
            f"No verdict is possible: a loss on the test rows is not a number (the gain is {gain.gain}).",
            "A candidate whose losses are numbers; a lower finetune.learning_rate, if training diverged.",
        )
    if refusal := _too_few_rows(comparison, config, challenge, gain.rows):
        return Improvement(gain, None, False, *refusal)
    sure = sample_evidence(sample, alpha)
    words = _Words(comparison, config, challenge, gain, sure)
    return Improvement(gain, sure, words.is_better, words.sentence(), words.counterfactual())


def _too_few_rows(
    comparison: Comparison, config: params.Promote, challenge: Challenge | None, rows: int
) -> tuple[str, str] | None:
    """Return why these rows, or those of the rarer classes, are too few for any verdict, and what would do."""
    alpha = challenge.alpha if challenge else (1 - config.confidence) / 2
    needed = rows_needed(1 - 2 * alpha)
    if rows < needed:
        return (
            f"{comparison.quantity.count(rows)} cannot tell a better model from chance: at least {needed} are needed"
            f" for {confidence(alpha)} confidence{_in_brackets(challenge)}.",
            f"At least {needed} test {comparison.quantity.rows}: more data, or a larger validate.test_share.",
        )
    level = f"{confidence(alpha)} confidence{_in_brackets(challenge)}"
    return too_few(comparison, rows_to_judge(alpha, config.confidence), level)


def _incomparable(comparison: Comparison) -> tuple[str, str]:
    """Return why losses under different tokenizers cannot be compared, and what would do."""
    return (
        f"No verdict is possible: the candidate and the {comparison.against} have different tokenizers, and"
        f" {comparison.quantity.name} is of each tokenizer's own {comparison.quantity.unit}s.",
        f"A candidate with the {comparison.against}'s tokenizer; or --force with the reason why it may replace it.",
    )


def _tokenizers_differ(comparison: Comparison) -> bool:
    return not np.array_equal(comparison.candidate.scores.tokens, comparison.baseline.scores.tokens)


@dataclass(frozen=True)
class _Words:
    """The outcome of a comparison, and how it reads."""

    comparison: Comparison
    config: params.Promote
    challenge: Challenge | None
    gain: Gain
    evidence: Evidence

    @property
    def is_better(self) -> bool:
        """Whether all rows show it, or the new ones do and all of them agree."""
        return self._all_rows_show_it or (self._new_rows_show_it and self.gain.gain > self.config.min_gain)

    @property
    def _all_rows_show_it(self) -> bool:
        return self.evidence.all_rows.gain > self.config.min_gain

    @property
    def _new_rows_show_it(self) -> bool:
        new = self.evidence.new_rows
        return new is not None and new.gain > self.config.min_gain

    def sentence(self) -> str:
        """Return whether the candidate is better, by how much, and how sure that is."""
        return self._finding() + self._about_tokenizers() + self._about_new_rows()

    def _finding(self) -> str:
        gain, least, against = self.gain, self.evidence.all_rows, self.comparison.against
        level = confidence(least.alpha)
        least_gain = self._least_gain()
        sure = f"by at least {least_gain} with {level} confidence{_in_brackets(self.challenge)}"
        if self._all_rows_show_it:
            return f"Better than the {against}: {self._change()}, {sure}."
        if self.is_better:
            return f"Better than the {against} on rows that did not choose it: {self._change()}."
        if gain.gain > self.config.min_gain and least.gain <= 0:
            return (
                f"Better by {self._figures()[0]} than the {against} {self._interval()}, but this may be chance:"
                f" {_challenger(self.challenge, against)} must show a gain above {self._min_gain()} with {level}"
                f" confidence, and shows one above {least_gain}. {self._rows_sentence()}"
            )
        if least.gain > 0:
            return f"Better than the {against}, but {self._change()}, {sure}, not by more than {self._min_gain()}."
        if gain.high < 0:
            return f"Worse than the {against}: {self._change()}."
        return f"Not better than the {against}: {self._change()}, which may be chance."

    def counterfactual(self) -> str:
        """Return which figure would have changed the outcome."""
        least_gain, rows = percent(self._detectable_gain()), f"on {self._rows()}"
        if self._all_rows_show_it:
            return f"A gain of {least_gain} or less {rows} would not have been distinguishable from chance."
        if self.is_better:
            return f"New test {self.comparison.quantity.rows} that show less of a gain."
        if self.gain.gain > self.config.min_gain:
            return (
                f"About {self._rows_to_detect():,} test {self.comparison.quantity.rows} with this gain (more data, or a"
                f" larger validate.test_share), or more than {least_gain} {rows}. {_LEVERS}"
            )
        return f"A gain of more than {least_gain} {rows} would have been distinguishable from chance. {_LEVERS}"

    def _change(self) -> str:
        gain = self.gain
        quantity = self.comparison.quantity
        figure = quantity.name
        if _tokenizers_differ(self.comparison):
            figure += f" per {quantity.unit} of the candidate"
        if exp(abs(gain.nats)) >= _FACTOR:
            return f"{figure} {self._factor()}"
        verb, sign = ("falls", 1) if gain.gain >= 0 else ("rises", -1)
        return f"{figure} {verb} by {self._figures(sign)[0]} {self._interval(sign)}"

    def _factor(self) -> str:
        """Return how many times lower or higher perplexity is, and the bits per byte."""
        sign, change = (-1, "lower") if self.gain.nats < 0 else (1, "higher")
        low, high = sorted(exp(sign * end) for end in (self.gain.nats_low, self.gain.nats_high))
        times = exp(sign * self.gain.nats)
        decimals = FACTOR.decimals_apart((low, times), (times, high))
        ends = interval(self.config.confidence, low, high, FACTOR, decimals, f" on {self._rows()}")
        return f"is {factor(times, decimals)} {change} {ends}{self._bits_per_byte()}"

    def _bits_per_byte(self) -> str:
        models = (self.comparison.candidate, self.comparison.baseline)
        candidate, baseline = (model.metrics.get("bits_per_byte") for model in models)
        if candidate is None or baseline is None or _tokenizers_differ(self.comparison):  # `_about_tokenizers` tells
            return ""
        decimals = PLAIN.decimals_apart((candidate, baseline))
        return f", bits per byte go from {plain(baseline, decimals)} to {plain(candidate, decimals)}"

    def _figures(self, sign: int = 1) -> tuple[str, str, str]:
        """Return the gain and the ends of its interval as percentages that tell them apart."""
        gain = self.gain
        decimals = PERCENT.decimals_apart((gain.gain, gain.low), (gain.gain, gain.high))
        low, high = sorted((sign * gain.low, sign * gain.high))
        return percent(sign * gain.gain, decimals), percent(low, decimals), percent(high, decimals)

    def _interval(self, sign: int = 1) -> str:
        _, low, high = self._figures(sign)
        return f"({percent(self.config.confidence, 0)} interval {low} to {high} on {self._rows()})"

    def _least_gain(self) -> str:
        """Return the gain that is sure."""
        least = self.evidence.all_rows
        if -least.nats >= math.log(_FACTOR):
            return factor(exp(-least.nats))
        return percent_beside(least.gain, self.config.min_gain)

    def _min_gain(self) -> str:
        least = self.config.min_gain
        return f"{percent(least)}, the least that promote.min_gain asks for" if least else "0"

    def _rows_sentence(self) -> str:
        """Return how many rows would show this gain, and a small one."""
        text = f"About {self._rows_to_detect():,} test {self.comparison.quantity.rows} would show such a gain"
        distance = self._asked_nats() - math.log1p(-_SMALL_GAIN)
        if distance <= 0:
            return f"{text}."
        rows = self.evidence.all_rows.rows_for_true(distance)
        return f"{text}; about {rows:,} would show a true gain of {percent(_SMALL_GAIN, 0)} four times in five."

    def _detectable_gain(self) -> float:
        """Return the gain above which these rows would show an improvement.

        In nats the bound is about as far away for any gain; as a share it is nearer, for no gain is above 100 %.
        """
        return -math.expm1(self._asked_nats() - self.evidence.all_rows.reach)

    def _rows_to_detect(self) -> int:
        return self.evidence.all_rows.rows_for(self._asked_nats() - self.gain.nats)

    def _rows(self) -> str:
        return self.comparison.quantity.count(self.gain.rows)

    def _asked_nats(self) -> float:
        return math.log1p(-self.config.min_gain)

    def _about_tokenizers(self) -> str:
        if not _tokenizers_differ(self.comparison):
            return ""
        models = (self.comparison.candidate, self.comparison.baseline)
        candidate, baseline = (model.metrics.get("bits_per_byte") for model in models)
        if candidate is None or baseline is None:
            return f" The tokenizers differ, so the losses of whole {self.comparison.quantity.rows} are compared."
        return f" The tokenizers differ, so bits per byte are compared: {candidate:.3f} against {baseline:.3f}."

    def _about_new_rows(self) -> str:
        """Return what the rows say on which the champion cannot have been lucky."""
        new = self.evidence.new_rows
        if new is None:
            return ""
        return (
            f" On the {self.comparison.quantity.count(new.rows)} that are new since the champion was chosen, where luck"
            f" has not helped it, the gain is {percent(new.estimate)}, and"
            f" above {percent_beside(new.gain, self.config.min_gain)} with"
            f" {confidence(new.alpha)} confidence."
        )


def _challenger(challenge: Challenge | None, against: str) -> str:
    """Return who must show a gain."""
    if challenge:
        return f"challenge {challenge.number} in {challenge.days} days"
    return "a first model" if against == "base" else "it"


def _in_brackets(challenge: Challenge | None) -> str:
    return f" (challenge {challenge.number} in {challenge.days} days)" if challenge else ""
