"""The gates of masked language models: bases of other tasks, which must keep what they knew of general English."""

import math

import numpy as np

from pipeline import params
from pipeline.evaluation.quantity import MASKED_PERPLEXITY
from pipeline.verdict.gate import FunctionGate, Gate, GateTable
from pipeline.verdict.records import Comparison, GateResult, NotMeasuredError, not_measured
from pipeline.verdict.shared_gates import MEMBERSHIP, SERVING
from pipeline.verdict.statistics import Estimate, ratio_estimate
from pipeline.verdict.wording import PLAIN, interval, plain

_NAME = "forgetting"
_LEVER = "Mix general text into the corpus, or lower finetune.learning_rate or finetune.epochs."


def masked_forgetting_gate(comparison: Comparison, config: params.Promote) -> GateResult | None:
    """Return whether masked tokens of plain English have become harder than the bound allows, beyond chance.

    A first model is only warned: the base of a domain may forget others. None where no general texts were scored.
    """
    bound = config.gates.forgetting_masked
    probes = comparison.candidate.probes
    if probes is not None and not len(probes.general.loss):
        return None
    try:
        levels, loss = _measure(comparison, config)
    except NotMeasuredError:
        return not_measured(_NAME, bound)
    over = loss.low > bound
    passed = not over or comparison.against == "base"
    decimals = PLAIN.decimals_apart((loss.low, bound), (loss.value, bound))
    beginning = "It has forgotten general English" if over else "Forgetting is within its bound"
    first = " A first model is not refused for that." if over and passed else ""
    limit = plain(bound + loss.value - loss.low, decimals)
    return GateResult(
        name=_NAME,
        value=loss.value,
        low=loss.low,
        bound=bound,
        reference=levels[1],
        passed=passed,
        sentence=(
            f"{beginning}: a masked token of plain English takes {plain(levels[0], decimals)} bits, with the"
            f" {comparison.against} {plain(levels[1], decimals)}, which is {plain(loss.value, decimals)} more"
            f" {interval(config.confidence, loss.low, loss.high, PLAIN, decimals)}; promote.gates.forgetting_masked"
            f" allows {plain(bound, decimals)}.{first}"
        ),
        counterfactual=f"{_NAME}: more than about {limit} bits more would not have passed."
        if not over
        else f"{_NAME}: at most about {limit} bits more would have passed. {_LEVER}",
        high=loss.high,
        is_warning=over and passed,
    )


def _measure(comparison: Comparison, config: params.Promote) -> tuple[tuple[float, float], Estimate]:
    """Return the bits per masked token of both models, and by how many the candidate's lie above the other's."""
    one, other = (model.measured_probes().general for model in (comparison.candidate, comparison.baseline))
    if len(one.loss) < 2 or not np.array_equal(one.tokens, other.tokens):
        raise NotMeasuredError
    loss = ratio_estimate((one.loss - other.loss) / math.log(2), one.tokens, config.confidence)
    if not all(map(math.isfinite, loss)):
        raise NotMeasuredError
    levels = [float(scores.loss.sum() / math.log(2) / scores.tokens.sum()) for scores in (one, other)]
    return (levels[0], levels[1]), loss


GATES: tuple[Gate, ...] = (FunctionGate(masked_forgetting_gate), MEMBERSHIP, *SERVING)
TABLE = GateTable(MASKED_PERPLEXITY, GATES)
