"""The gates on forgetting: how much worse a candidate has become at plain English.

Against the champion a candidate may lose a margin per retrain (non-inferiority), so that a growing corpus, whose models
move on from retrain to retrain, keeps promoting. A first model has only the base to compare with, and a model for one
domain may forget others: that is a warning, unless the candidate knows less than a guess. A bound on the loss since the
base, over all retrains, holds where a person sets one.
"""

import math

import numpy as np
import numpy.typing as npt

from pipeline import params
from pipeline.evaluation.scores import Scores
from pipeline.verdict.records import Comparison, GateResult, ModelFigures, NotMeasuredError, not_measured
from pipeline.verdict.statistics import Estimate, ratio_estimate
from pipeline.verdict.wording import PLAIN, interval, plain

GUESS = 8.0  # bits: all 256 bytes are equally likely to a model that knows nothing
_LEVER = (
    "Mix general text into the corpus, lower finetune.learning_rate or finetune.epochs, or set or lower"
    " finetune.lora_rank"
)


def forgetting_gate(comparison: Comparison, config: params.Promote) -> GateResult | None:
    """Return whether the candidate has lost more plain English than the margin against the champion or the base.

    None where no general texts were scored, as models of this task do not read plain text.
    """
    name, margin = "forgetting", config.gates.forgetting
    if not _applies(comparison):
        return None
    try:
        candidate, baseline = (_bits(model, config) for model in (comparison.candidate, comparison.baseline))
        loss = _loss(comparison.candidate, comparison.baseline, config)
    except NotMeasuredError:
        return not_measured(name, margin)
    if comparison.against == "base" and candidate.low > GUESS:
        return _knows_nothing(candidate, config)
    finding, limit = _finding(comparison, (candidate, baseline), loss, margin, config)
    limits = f"forgetting: {{}} about {plain(limit)} bits per byte would {{}} passed"
    if loss.low <= margin:
        sentence = f"Forgetting is within its bound: {finding}; promote.gates.forgetting allows {plain(margin)} more."
        change = limits.format("more than", "not have") + "."
    elif comparison.against == "champion":
        sentence = f"It has forgotten general English: {finding}; promote.gates.forgetting allows {plain(margin)} more."
        change = f"{limits.format('at most', 'have')}. {_LEVER}."
    else:
        sentence = (
            f"It has forgotten general English, as a model for one domain may: {finding}. A first model is not refused"
            " for that; promote.gates.forgetting_cap sets a limit."
        )
        change = f"{limits.format('at most', 'have')} without a warning. {_LEVER}."
    passed = loss.low <= margin or comparison.against == "base"
    return GateResult(
        name=name,
        value=loss.value,
        low=loss.low,
        bound=margin,
        reference=baseline.value,
        passed=passed,
        sentence=sentence,
        counterfactual=change,
        high=loss.high,
        is_warning=passed and loss.low > margin,
    )


def forgetting_cap_gate(comparison: Comparison, config: params.Promote) -> GateResult | None:
    """Return whether the candidate has lost more plain English since the base than a person allows."""
    name, cap = "forgetting_cap", config.gates.forgetting_cap
    if cap is None or not _applies(comparison):
        return None
    try:
        loss = _loss(comparison.candidate, comparison.base, config)
    except NotMeasuredError:
        return not_measured(name, cap)
    passed = loss.low <= cap
    decimals = PLAIN.decimals_apart((loss.low, cap), (loss.value, cap))
    finding = f"a byte of plain text takes {plain(loss.value, decimals)} bits more than with the base"
    limit = plain(cap + loss.value - loss.low, decimals)
    return GateResult(
        name=name,
        value=loss.value,
        low=loss.low,
        bound=cap,
        reference=None,
        passed=passed,
        sentence=(
            f"{'It is' if passed else 'It is not'} within the limit on forgetting: {finding}"
            f" {interval(config.confidence, loss.low, loss.high, PLAIN, decimals)}; promote.gates.forgetting_cap allows"
            f" {plain(cap, decimals)}."
        ),
        counterfactual=f"{name}: more than {limit} would not have passed."
        if passed
        else f"{name}: at most {limit} would have passed. {_LEVER}, or raise the cap.",
        high=loss.high,
    )


def _applies(comparison: Comparison) -> bool:
    """Return whether general texts were scored, or should have been."""
    probes = comparison.candidate.probes
    return probes is None or len(probes.general.loss) > 0


def _finding(
    comparison: Comparison, bits: tuple[Estimate, Estimate], loss: Estimate, margin: float, config: params.Promote
) -> tuple[str, float]:
    """Return the figures in words, and the bits per byte at which the gate turns."""
    candidate, baseline = bits
    limit = baseline.value + margin + loss.value - loss.low
    decimals = PLAIN.decimals_apart((loss.low, margin), (loss.value, margin), (candidate.value, limit))
    ends = interval(config.confidence, loss.low, loss.high, PLAIN, decimals)
    texts = len(comparison.candidate.measured_probes().general.loss)
    finding = (
        f"a byte of {texts} plain texts takes {plain(candidate.value, decimals)} bits, with the {comparison.against}"
        f" {plain(baseline.value, decimals)}, which is {plain(loss.value, decimals)} more {ends}"
    )
    return finding, limit


def _knows_nothing(candidate: Estimate, config: params.Promote) -> GateResult:
    ends = interval(config.confidence, candidate.low, candidate.high, PLAIN, PLAIN.decimals)
    return GateResult(
        name="forgetting",
        value=candidate.value,
        low=candidate.low,
        bound=GUESS,
        reference=None,
        passed=False,
        sentence=(
            f"It knows less of plain English than a guess: a byte takes {plain(candidate.value)} bits {ends}, a uniform"
            f" guess over all bytes {plain(GUESS, 0)}. Its weights are damaged, or training diverged."
        ),
        counterfactual=f"forgetting: fewer than {plain(GUESS, 0)} bits per byte would have passed. {_LEVER}.",
        high=candidate.high,
    )


def _bits(model: ModelFigures, config: params.Promote) -> Estimate:
    """Return a model's bits per byte of the general texts."""
    general = model.measured_probes().general
    return _per_byte(general.loss, general, config)


def _loss(candidate: ModelFigures, reference: ModelFigures, config: params.Promote) -> Estimate:
    """Return by how many bits per byte the candidate is above the reference, on the same texts."""
    general = candidate.measured_probes().general
    return _per_byte(general.loss - reference.measured_probes().general.loss, general, config)


def _per_byte(nats: npt.NDArray[np.float64], texts: Scores, config: params.Promote) -> Estimate:
    if len(nats) < 2:
        raise NotMeasuredError
    bits = ratio_estimate(nats / math.log(2), texts.bytes, config.confidence)
    if not all(map(math.isfinite, bits)):
        raise NotMeasuredError
    return bits
