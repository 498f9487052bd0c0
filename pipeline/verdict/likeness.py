"""The gate on texts: are they like real ones, or nearer to nonsense than a bound allows?

Two figures have their scales from real unseen texts (0) to nonsense (1), see `pipeline.evaluation.likeness`; the one
that speaks most against the candidate is compared with the bound, beyond chance. A champion whose texts are better by
more than a margin keeps its place too (non-inferiority).
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pipeline import params
from pipeline.verdict.records import Comparison, GateResult
from pipeline.verdict.statistics import rows_to_detect
from pipeline.verdict.wording import PERCENT, POINTS, percent, points

_LEVER = (
    "Start from a base that knows the language and kind of these texts (base: smollm2, or a model of the hub), train on"
    " more rows or for longer (finetune.epochs, finetune.learning_rate), or lower evaluate.temperature together with"
    " service.temperature."
)


class Finding(NamedTuple):
    """How far the texts are from real ones or from the champion's, by one figure, and what is allowed."""

    value: float
    low: float
    high: float
    bound: float
    setting: str
    sentence: str  # of the value, with fields for what is allowed

    @property
    def excess(self) -> float:
        """Return by how much the finding lies above the bound beyond chance."""
        return self.low - self.bound


def likeness_gate(comparison: Comparison, config: params.Promote) -> GateResult:
    """Return whether the candidate's texts are like real ones, and not much less so than the champion's."""
    gates, texts = config.gates, comparison.candidate.metrics.get("likeness")
    if not texts or not comparison.generations or texts["bits"]["figure"] is None:
        return _not_measured(comparison, gates.likeness)
    findings = [*_against_real(texts, gates.likeness), *_against_champion(comparison, gates.likeness_rise)]
    if not findings:
        return _untold(comparison, gates.likeness)
    worst = max(findings, key=lambda finding: finding.excess)
    figures, too_few = _figures(texts, comparison), ""
    if worst.excess > 0:
        sentence = f"Its texts are not like real ones: {figures} {worst.sentence}"
        change = f"at most {percent(worst.bound + worst.value - worst.low)} would have passed. {_LEVER}"
    else:
        too_few = _too_few(findings, comparison.generations)
        subject = "Its texts may be unlike real ones" if too_few else "Its texts are like real ones"
        sentence = f"{subject}: {figures} {worst.sentence}{too_few}"
        change = f"more than {percent(worst.bound + worst.value - worst.low)} would not have passed."
    return GateResult(
        "likeness",
        worst.value,
        worst.low,
        worst.bound,
        0.0,
        worst.excess <= 0,
        sentence,
        f"likeness: {change}",
        high=worst.high,
        is_warning=bool(too_few),
    )


def _against_real(texts: Mapping[str, Any], bound: float) -> list[Finding]:
    """Return the place of each figure between real texts and nonsense."""
    entries = [texts[name] for name in ("bits", "words") if texts[name]["low"] is not None]
    return [
        Finding(
            entry["distance"],
            entry["low"],
            entry["high"],
            bound,
            "promote.gates.likeness",
            f"That is {percent(entry['distance'], decimals)} of the way from real texts to nonsense, at least"
            f" {percent(entry['low'], decimals)} allowing for chance; promote.gates.likeness allows"
            f" {percent(bound, decimals)}.",
        )
        for entry, decimals in ((entry, PERCENT.decimals_apart((entry["low"], bound))) for entry in entries)
    ]


def _against_champion(comparison: Comparison, bound: float) -> list[Finding]:
    """Return by how much each figure lies above the champion's.

    The interval of a difference from those of its terms: MOVER (Zou and Donner 2008, Construction of confidence limits
    about effect measures, Statistics in Medicine 27).
    """
    if comparison.against != "champion" or "likeness" not in comparison.baseline.metrics:
        return []
    findings = []
    for name in ("bits", "words"):
        one, other = (model.metrics["likeness"][name] for model in (comparison.candidate, comparison.baseline))
        if one["low"] is None or other["low"] is None:
            continue
        rise = one["distance"] - other["distance"]
        low = rise - math.hypot(one["distance"] - one["low"], other["high"] - other["distance"])
        high = rise + math.hypot(one["high"] - one["distance"], other["distance"] - other["low"])
        decimals = POINTS.decimals_apart((low, bound))
        sentence = (
            f"They are {percent(one['distance'])} of the way from real texts to nonsense, the champion's"
            f" {percent(other['distance'])}: {points(rise, decimals)} points more, at least"
            f" {points(low, decimals)} allowing for chance; promote.gates.likeness_rise allows"
            f" {points(bound, decimals)}."
        )
        findings.append(Finding(rise, low, high, bound, "promote.gates.likeness_rise", sentence))
    return findings


def _figures(texts: Mapping[str, Any], comparison: Comparison) -> str:
    real = comparison.reference_metrics["likeness"]
    sentence = (
        f"by the letter sequences of the training rows a byte of its {comparison.generations} texts takes"
        f" {texts['bits']['figure']:.2f} bits, one of real unseen texts {real['bits']['figure']:.2f}, one of nonsense"
        f" {real['bits']['nonsense']:.2f}"
    )
    if texts["words"]["figure"] is None or real["words"]["figure"] is None:
        return f"{sentence}."
    unseen = [texts["words"]["figure"], real["words"]["figure"], real["words"]["nonsense"]]
    shares = ", ".join(percent(share) for share in unseen[:2])
    return f"{sentence}; of their words, {shares} and {percent(unseen[2])} occur in no training row."


def _too_few(findings: Sequence[Finding], texts: int) -> str:
    """Return a warning where the interval of a finding reaches beyond its bound, else nothing."""
    needed = [
        rows_to_detect(texts, finding.high - finding.value, max(abs(finding.bound - finding.value), 0.01))
        for finding in findings
        if finding.high > finding.bound
    ]
    if not needed:
        return ""
    return (
        f" {texts} texts are too few to be sure: about {max(needed):,} would do (evaluate.generations, and as many test"
        " rows). Read the samples."
    )


def _not_measured(comparison: Comparison, bound: float) -> GateResult:
    why = "no text was written" if not comparison.generations else "there is no figure, or all its texts are empty"
    sentence = f"Not measured: likeness ({why}), so its texts may be nonsense."
    return GateResult("likeness", None, None, bound, None, False, sentence, "likeness: a figure for it.")


def _untold(comparison: Comparison, bound: float) -> GateResult:
    if comparison.generations < 2:
        why = "a single text tells nothing; more test rows, or a larger evaluate.generations, would"
    else:
        why = "real texts of this corpus follow the training rows no better than letters drawn at random"
    sentence = f"Whether its texts are like real ones cannot be told: {why}. Read the samples."
    change = "likeness: texts that can be compared."
    return GateResult("likeness", None, None, bound, None, True, sentence, change, is_warning=True)
