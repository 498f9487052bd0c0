"""The gate on membership: does training show in the losses of training rows, beyond what chance and the base explain?

A difference in differences: how much likelier training rows are than rows held out, less the same of the base, which
saw neither; row by row, so that what makes a row hard for both drops out. The rows held out are those of the test and
validation splits: training used neither, except that validation rows chose the epoch, which may lower their loss by far
less than the bound. A candidate above the bound still passes where the champion is no better beyond chance.
"""

from collections.abc import Sequence

import numpy as np

from pipeline import params
from pipeline.evaluation.scores import Scores, concatenated
from pipeline.verdict.records import Comparison, GateResult, ModelFigures, NotMeasuredError, not_measured
from pipeline.verdict.statistics import Estimate, Sums, ratio_difference
from pipeline.verdict.wording import PLAIN, interval, plain

_NAME = "membership"
_RESAMPLES = 2000  # at most: 50 of them lie beyond each end of the interval
_LEVER = (
    "Lower finetune.epochs or finetune.learning_rate, raise finetune.dropout or finetune.weight_decay, set or"
    " lower finetune.lora_rank, or add rows"
)


def membership_gate(comparison: Comparison, config: params.Promote) -> GateResult:
    """Return whether training rows are likelier to the candidate than held-out ones by more than the bound."""
    bound = config.gates.membership
    try:
        samples = [_sample(model) for model in (comparison.candidate, comparison.base)]
        rows = [int((split.tokens > 0).sum()) for split in samples[0]]
        excess = _excess(comparison, comparison.base, config)
    except NotMeasuredError as error:
        return not_measured(_NAME, bound, str(error))
    over = excess.low > bound
    is_champions = (
        over and comparison.against == "champion" and _excess(comparison, comparison.baseline, config).low <= 0
    )
    limit = plain(bound + excess.value - excess.low, PLAIN.decimals)
    finding = _finding((_gap(samples[0]), _gap(samples[1])), rows, excess, config, comparison.quantity.unit)
    return GateResult(
        name=_NAME,
        value=excess.value,
        low=excess.low,
        bound=bound,
        reference=_gap(samples[1]),
        passed=not over or is_champions,
        sentence=f"{_beginning(over=over, is_champions=is_champions)}: {finding}",
        counterfactual=f"{_NAME}: at most about {limit} nats above the base's would have passed. {_LEVER}."
        if over and not is_champions
        else f"{_NAME}: more than about {limit} nats above the base's would not have passed.",
        high=excess.high,
        is_warning=is_champions,
    )


def _excess(comparison: Comparison, reference: ModelFigures, config: params.Promote) -> Estimate:
    """Return by how much more training rows gained over the reference than rows held out, in nats per token."""
    train, held_out = (
        Sums((other.loss - one.loss)[one.tokens > 0], one.tokens[one.tokens > 0].astype(np.float64))
        for one, other in zip(_sample(comparison.candidate), _sample(reference), strict=True)
    )
    rows = len(train.numerator), len(held_out.numerator)
    if min(rows) < 2:
        raise NotMeasuredError(f"{rows[0]} training rows and {rows[1]} held out; at least 2 of each are needed")
    if not np.isfinite(train.ratio - held_out.ratio):
        raise NotMeasuredError
    resamples = min(config.resamples, _RESAMPLES)
    return ratio_difference(train, held_out, config.confidence, resamples, comparison.seed)


def _sample(model: ModelFigures) -> tuple[Scores, Scores]:
    """Return the scores of training rows and of rows held out."""
    probes = model.measured_probes()
    return probes.train, concatenated(model.scores, probes.validation)


def _gap(sample: Sequence[Scores]) -> float:
    """Return by how many nats per token training rows are likelier than rows held out."""
    train, held_out = sample
    return float(held_out.loss.sum() / held_out.tokens.sum() - train.loss.sum() / train.tokens.sum())


def _beginning(*, over: bool, is_champions: bool) -> str:
    if is_champions:
        return "Training shows in its losses, but no more than in the champion's beyond chance"
    return "Training shows in its losses" if over else "Memorising is within its bound"


def _finding(
    gaps: tuple[float, float], rows: Sequence[int], excess: Estimate, config: params.Promote, unit: str
) -> str:
    bound = config.gates.membership
    decimals = PLAIN.decimals_apart((excess.low, bound), (excess.value, bound))
    candidate, base = (plain(gap, decimals) for gap in gaps)
    return (
        f"{rows[0]:,} training rows are {candidate} nats per {unit} likelier to it than {rows[1]:,} rows"
        f" held out, to the base {base}. That is {plain(excess.value, decimals)} more"
        f" {interval(config.confidence, excess.low, excess.high, PLAIN, decimals)}; promote.gates.membership allows"
        f" {plain(bound, decimals)}."
    )
