"""The verdict: is the candidate better than the model it would replace, beyond noise, and within every bound?

Pure: figures in, a verdict with its sentences out; no model, no file, no clock.

Better: the interval of the gain (paired bootstrap over the test rows) lies above `promote.min_gain`. A bootstrap of few
rows is too sure of itself, so the interval is an expanded percentile one (Hesterberg 2015, What Teachers Should Know
About the Bootstrap, section 3.1.2), and below as many rows as a sign test would need nothing counts as better.

Gates: a figure that is a share of generated texts breaks its bound only if it does so beyond chance, that is, if the
lower end of the interval of its excess over real texts (Newcombe 1998, Interval estimation for the difference between
independent proportions, method 10) lies above the bound. The mean of shares, which `repetition` is, varies at most
as a share of texts does, so the same interval holds for it and is wide rather than narrow. A group breaks its bound
likewise, with Bonferroni's correction for their number. The other figures are sums over thousands of tokens, counts
or times, and are held against their bounds as they are. What was not measured never passes.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, ndtri, stdtrit

from pipeline import params
from pipeline.evaluation.bootstrap import Gain, paired_gain
from pipeline.registry.model_version import short
from pipeline.reporting.text_table import bullets, table

if TYPE_CHECKING:
    from pipeline.evaluation.perplexity import Score  # at run time it would bring torch along

Opponent = Literal["champion", "base"]
Figures = Mapping[str, Any]  # of one model, as in reports/evaluate/metrics.json


@dataclass(frozen=True)
class Gate:
    """A bound that a candidate must keep to, however low its perplexity."""

    name: str  # as under promote.gates
    value: float | None  # what is held against the bound; None: not measured
    low: float | None  # what `value` is at least, chance allowed for; None: chance plays no part
    bound: float
    yardstick: float | None  # the same figure of real texts, of the base or of the opponent
    passed: bool
    sentence: str
    would_change: str  # which figure would have made the other verdict


@dataclass(frozen=True)
class Verdict:
    """Whether the candidate becomes champion, and why."""

    promoted: bool
    forced: str | None  # the reason given for promoting it all the same; `reasons` then say what spoke against it
    reasons: list[str]
    candidate: dict[str, Any]
    champion: dict[str, Any] | None  # None: there is none yet
    against: Opponent
    difference: dict[str, float | int] | None  # a Gain, and its confidence; None: nothing was compared
    comparison: str  # the difference in words, whatever the verdict
    gates: list[Gate]
    would_change: list[str]
    rows: int
    at: str


def judge(
    candidate: Figures,
    opponent: Figures,
    candidate_scores: "Score",
    opponent_scores: "Score",
    groups: Sequence[str],
    yardstick: Figures,
    size: tuple[float, float],
    latency: tuple[float, float],
    wanted: params.Promote,
    seed: int,
    *,
    base: Figures,
    against: Opponent,
    texts: int,
    copied_tokens: int,
    canaries: int = 0,
    rolled_back: str | None = None,
    forced: str | None = None,
    at: str = "",
) -> Verdict:
    """Return the verdict on `candidate` against `opponent`, which is the champion or, without one, the base.

    `yardstick` holds the figures of real texts; `size` (bytes in memory) and `latency` (seconds a token) are the
    candidate's and the opponent's; `texts` is how many texts each model wrote, `canaries` how many were planted;
    `rolled_back` is why this version was rolled back from; `forced` why it is to be promoted all the same.
    """
    gain = paired_gain(
        candidate_scores,
        opponent_scores,
        wanted.resamples,
        _expanded(wanted.confidence, len(candidate_scores.loss)),
        seed,
    )
    one_tokenizer = np.array_equal(candidate_scores.tokens, opponent_scores.tokens)
    better, comparison, change = _compare(gain, wanted, against, opponent, candidate, one_tokenizer)
    gates = [
        _share(
            "copied", candidate, yardstick, "memorisation", wanted, texts,
            "It copies", "Copying", f"of its {texts} texts hold {copied_tokens} tokens or more of one training row,"
            " letter for letter", "of real unseen texts do",
        ),
        *([_extracted(candidate, wanted)] if canaries else []),
        _above_base(
            "membership", candidate["memorisation"].get("membership"), base["memorisation"].get("membership"), wanted,
            "It has learned rows by heart", "Learning by heart",
            "training rows are {} nats a token likelier to it than test rows, to the base {}",
        ),
        _share(
            "repetition", candidate, yardstick, "text", wanted, texts,
            "It repeats itself", "Repetition", f"of the 4-grams in its {texts} texts stood before in the same text",
            "of those in real texts do",
        ),
        _share(
            "loops", candidate, yardstick, "text", wanted, texts,
            "It loops", "Looping", f"of its {texts} texts end in a loop", "of real texts do",
        ),
        _above_base(
            "forgetting", candidate["general"].get("bits_per_byte"), base["general"].get("bits_per_byte"), wanted,
            "It has forgotten general English", "Forgetting", "a byte of it takes {} bits, with the base {}",
        ),
        *_groups(candidate_scores, opponent_scores, groups, wanted),
        _times(
            "size", [bytes_ / 1e6 for bytes_ in size], wanted, against,
            "It is too big", "Size", "its weights take {} MB of memory", "{} MB",
        ),
        _times(
            "latency", [seconds * 1e3 for seconds in latency], wanted, against,
            "It is too slow", "Latency", "it takes {} ms a token", "{} ms",
        ),
        _rolled_back(rolled_back),
    ]  # fmt: skip
    broken = [gate for gate in gates if not gate.passed]
    passes = better and not broken
    if passes:
        kept = "It keeps to every bound: " + ", ".join(gate.name for gate in gates) + "."
        reasons = [comparison, kept]
    else:
        reasons = [*([] if better else [comparison]), *(gate.sentence for gate in broken)]
    return Verdict(
        promoted=passes or forced is not None,
        forced=None if passes else forced,
        reasons=reasons,
        candidate=dict(candidate),
        champion=dict(opponent) if against == "champion" else None,
        against=against,
        difference=asdict(gain) | {"confidence": wanted.confidence},
        comparison=comparison,
        gates=gates,
        would_change=[
            *([change] if passes or not better else []),
            *(gate.would_change for gate in gates if gate.passed == passes),
        ],
        rows=gain.rows,
        at=at,
    )


def unchanged(candidate: Figures, at: str = "") -> Verdict:
    """Return the verdict on a candidate that is the champion already: nothing is compared, nothing can be forced."""
    comparison = f"The candidate is the champion already: both are version {short(candidate['version'])}."
    return Verdict(
        promoted=False,
        forced=None,
        reasons=[comparison],
        candidate=dict(candidate),
        champion=dict(candidate),
        against="champion",
        difference=None,
        comparison=comparison,
        gates=[],
        would_change=["Another candidate: change the data or params.yaml, then `dvc repro`."],
        rows=0,
        at=at,
    )


def _expanded(confidence: float, rows: int) -> float:
    """Return the confidence at which a percentile interval over `rows` is as wide as Student's t would have it."""
    if rows < 2:
        return confidence  # it will not be believed, see `_rows_to_tell`
    wide = stdtrit(rows - 1, (1 + confidence) / 2) * math.sqrt(rows / (rows - 1))
    return float(1 - 2 * ndtr(-wide))


def _rows_to_tell(confidence: float) -> int:
    """Return from how many rows on anything can be told from chance: all of n rows fall one way with 2 ** -n."""
    return math.ceil(math.log2(2 / (1 - confidence)))


def _compare(
    gain: Gain, wanted: params.Promote, against: Opponent, opponent: Figures, candidate: Figures, one_tokenizer: bool
) -> tuple[bool, str, str]:
    """Return whether the gain is beyond noise, the sentence that says so, and what would have changed it."""
    if not all(map(math.isfinite, (gain.gain, gain.low, gain.high))):
        return (
            False,
            f"Nothing can be said: a loss on the test rows is not a number (the gain is {gain.gain}).",
            "A candidate whose losses are numbers; a lower finetune.learning_rate, if training diverged.",
        )
    least = _rows_to_tell(wanted.confidence)
    interval = f"{_percent(gain.low)} to {_percent(gain.high)}"
    stated = f"({_percent(wanted.confidence, 0)} interval {interval})"
    if gain.gain < 0:  # told as a rise, so the interval is one too
        stated = f"({_percent(wanted.confidence, 0)} interval {_percent(-gain.high)} to {_percent(-gain.low)})"
    on_rows = f"on {gain.rows:,} test row{'s' * (gain.rows != 1)}"
    what = "perplexity" if one_tokenizer else "perplexity a token of the candidate"
    # In nats the interval is about as wide for another gain; in shares it narrows, for no gain is above 100 %.
    width, least_nats = gain.nats_high - gain.nats, math.log1p(-wanted.min_gain)
    needed = -math.expm1(least_nats - width)
    bound = "0" if not wanted.min_gain else f"{_percent(wanted.min_gain)}, the least that promote.min_gain asks for"
    if gain.rows < least:
        sentence = f"{gain.rows} test rows cannot tell a better model from chance: at least {least} are needed."
        return False, sentence, f"At least {least} test rows: more data, or a larger validate.test_share."

    better = gain.low > wanted.min_gain
    change = f"A gain of more than {_percent(needed)} {on_rows} would have been told from chance."
    if better:
        sentence = f"Better than the {against}: {what} falls by {_percent(gain.gain)} {stated} {on_rows}."
        change = f"A gain of {_percent(needed)} or less {on_rows} would not have been told from chance."
    elif gain.gain > wanted.min_gain:
        rows = _about(gain.rows * (width / (least_nats - gain.nats)) ** 2)  # width ~ rows ** -0.5
        sentence = (
            f"Better by {_percent(gain.gain)} than the {against}, but the interval {interval} {on_rows} holds {bound}:"
            f" that may be chance; about {rows:,} test rows would tell such a difference."
        )
        change = f"About {rows:,} test rows with this gain, or more than {_percent(needed)} {on_rows}."
    elif gain.low > 0:
        sentence = (
            f"Better than the {against}, but by {_percent(gain.gain)} {stated} {on_rows}, not by more than {bound}."
        )
    elif gain.high < 0:
        sentence = f"Worse than the {against}: {what} rises by {_percent(-gain.gain)} {stated} {on_rows}."
    else:
        way = "rises by " + _percent(-gain.gain) if gain.gain < 0 else "falls by " + _percent(gain.gain)
        sentence = f"Not better than the {against}: {what} {way} {stated} {on_rows}, as it may by chance."
    if not one_tokenizer:
        ours, theirs = candidate["bits_per_byte"], opponent["bits_per_byte"]
        sentence += f" The tokenizers differ, so bits per byte are compared: {ours:.3f} against {theirs:.3f}."
    return better, sentence, change


def _share(
    name: str,
    candidate: Figures,
    yardstick: Figures,
    section: str,
    wanted: params.Promote,
    texts: int,
    broken: str,
    kept: str,
    of_its_texts: str,
    of_real_texts: str,
) -> Gate:
    """Return the gate for a share of generated texts: how far it is above that of real texts."""
    share, real = candidate[section].get(name), yardstick[section].get(name)
    bound: float = getattr(wanted.gates, name)
    if not _measured(share, real) or not texts:
        return _not_measured(name, bound, "no text was written" if not texts else "")
    low = _least_excess(share, real, texts, wanted.confidence)
    limit = max(at for at in np.linspace(0, 1, 1001) if _least_excess(at, real, texts, wanted.confidence) <= bound)
    found = f"{_percent(share)} {of_its_texts}; {_percent(real)} {of_real_texts}"
    points = f"{_percent(bound)[:-2]} points more are allowed"
    if low > bound:
        more = f"That is {_percent(share - real)[:-2]} points more, chance allowed for at least {_percent(low)[:-2]}"
        return Gate(
            name, share - real, low, bound, real, False,
            f"{broken}: {found}. {more}; {points}.", f"{name}: at most {_percent(limit)} would have passed.",
        )  # fmt: skip
    return Gate(
        name, share - real, low, bound, real, True,
        f"{kept} is within its bound: {found}, and {points}.",
        f"{name}: more than {_percent(limit)} would not have passed.",
    )  # fmt: skip


def _least_excess(share: float, real: float, texts: int, confidence: float) -> float:
    """Return the lower end of Newcombe's interval of `share` - `real`, two shares of `texts` texts."""
    z = float(ndtri((1 + confidence) / 2))
    low, _ = _wilson(share, texts, z)
    _, high = _wilson(real, texts, z)
    return share - real - math.hypot(share - low, high - real)


def _wilson(share: float, count: int, z: float) -> tuple[float, float]:
    """Return the ends of Wilson's interval (1927) of a share of `count`."""
    middle = share + z * z / (2 * count)
    reach = z * math.sqrt((share * (1 - share) + z * z / (4 * count)) / count)
    whole = 1 + z * z / count
    return (middle - reach) / whole, (middle + reach) / whole


def _extracted(candidate: Figures, wanted: params.Promote) -> Gate:
    share, bound = candidate["memorisation"].get("extracted"), wanted.gates.extracted
    if not _measured(share):
        return _not_measured("extracted", bound)
    passed = share <= bound
    return Gate(
        "extracted", share, None, bound, None, passed,
        f"{'It keeps' if passed else 'It gives away'} planted secrets: {_percent(share)} of the canaries can be drawn"
        f" out of it word for word, {_percent(bound)} are allowed.",
        f"extracted: {_other_side(passed, _percent(bound))}",
    )  # fmt: skip


def _above_base(
    name: str, ours: float | None, base: float | None, wanted: params.Promote, broken: str, kept: str, found: str
) -> Gate:
    """Return the gate for a figure that may rise above the base's by so much."""
    bound: float = getattr(wanted.gates, name)
    if ours is None or base is None or not _measured(ours, base):
        return _not_measured(name, bound)
    value = ours - base
    passed = value <= bound
    figures = found.format(f"{ours:.2f}", f"{base:.2f}")
    return Gate(
        name, value, None, bound, base, passed,
        f"{kept} is within its bound: {figures}, and {bound:.2f} more are allowed."
        if passed
        else f"{broken}: {figures}. That is {value:.2f} more; {bound:.2f} are allowed.",
        f"{name}: {_other_side(passed, f'{base + bound:.2f}')}",
    )  # fmt: skip


def _groups(candidate: "Score", opponent: "Score", groups: Sequence[str], wanted: params.Promote) -> list[Gate]:
    """Return the gate that no group of rows got worse, if the corpus has groups."""
    names = sorted(set(groups))
    if names in ([], [""]):
        return []
    confidence = 1 - (1 - wanted.confidence) / len(names)  # Bonferroni: one in forty that any group trips by chance
    least, bound = _rows_to_tell(confidence), wanted.gates.group_loss
    losses, tokens = candidate.loss - opponent.loss, candidate.tokens
    found = {name: np.array([group == name for group in groups]) for name in names}
    rises = {
        name: _rise(losses[chosen], tokens[chosen], confidence)
        for name, chosen in found.items()
        if chosen.sum() >= least
    }
    too_small = len(names) - len(rises)
    small = f" {too_small} of fewer than {least} rows are too small to tell." if too_small else ""
    if not rises:
        sentence = f"All {len(names)} groups have fewer than {least} test rows: too few to tell how any of them fares."
        return [Gate("groups", None, None, bound, None, True, sentence, f"groups: at least {least} test rows in one.")]
    broken = {name: rise for name, rise in rises.items() if not rise[1] <= bound}  # so that NaN breaks it
    worst, surely = max((broken or rises).values())
    if broken:
        listed = "; ".join(
            f"{name or '(no group)'}: perplexity up by {_percent(rise)}, chance allowed for at least {_percent(low)},"
            f" on {found[name].sum()} rows"
            for name, (rise, low) in sorted(broken.items(), key=lambda group: -group[1][1])
        )
        sentence = (
            f"It got worse at {len(broken)} of {len(names)} groups ({listed}); {_percent(bound)} is allowed.{small}"
        )
        change = f"groups: a rise of {_percent(bound)} or less, or one that may be chance, would have passed."
    else:
        sentence = (
            f"Each of {len(rises)} groups is within its bound: perplexity rises by more than {_percent(bound)} beyond"
            f" chance in none.{small}"
        )
        change = f"groups: a rise beyond chance of more than {_percent(bound)} in one would not have passed."
    return [Gate("groups", worst, surely, bound, None, not broken, sentence, change)]


def _rise(losses: npt.NDArray[np.float64], tokens: npt.NDArray[np.int64], confidence: float) -> tuple[float, float]:
    """Return by which share perplexity rises on some rows, and at least rises: Student's interval of a ratio estimate.

    (Cochran 1977, Sampling Techniques, chapter 6.) Not the bootstrap: so far out in the tails as Bonferroni's
    correction asks for, ten thousand resamples of a dozen rows have nothing to say.
    """
    rows = len(losses)
    nats = losses.sum() / tokens.sum()
    error = math.sqrt(rows / (rows - 1) * ((losses - nats * tokens) ** 2).sum()) / tokens.sum()
    return math.expm1(nats), math.expm1(nats - stdtrit(rows - 1, (1 + confidence) / 2) * error)


def _times(
    name: str,
    pair: Sequence[float],
    wanted: params.Promote,
    against: Opponent,
    broken: str,
    kept: str,
    found: str,
    shown: str,
) -> Gate:
    """Return the gate for a figure that may be so many times the opponent's."""
    ours, theirs = pair
    bound: float = getattr(wanted.gates, name)
    if not _measured(ours, theirs) or not theirs > 0:
        return _not_measured(name, bound)
    value = ours / theirs
    passed = value <= bound
    figures = f"{found.format(f'{ours:.2f}')}, {value:.2f} times the {against}'s {theirs:.2f}"
    return Gate(
        name, value, None, bound, 1.0, passed,
        f"{f'{kept} is within its bound' if passed else broken}: {figures}; {bound:.2f} times is allowed.",
        f"{name}: {_other_side(passed, shown.format(f'{bound * theirs:.2f}'))}",
    )  # fmt: skip


def _rolled_back(reason: str | None) -> Gate:
    if reason is None:
        sentence, change = "This version was not rolled back from.", "rolled_back: a rollback from this version."
        return Gate("rolled_back", 0.0, None, 0.0, None, True, sentence, change)
    sentence = f"This version was champion and was rolled back from: {reason}"
    change = "rolled_back: another candidate; or --force with the reason why it may come back."
    return Gate("rolled_back", 1.0, None, 0.0, None, False, sentence, change)


def _measured(*figures: float | None) -> bool:
    return all(figure is not None and math.isfinite(figure) for figure in figures)


def _not_measured(name: str, bound: float, why: str = "") -> Gate:
    sentence = f"Not measured: {name}{f', for {why}' if why else ''}; so nobody can say that it is within its bound."
    change = f"{name}: a figure for it."
    return Gate(name, None, None, bound, None, False, sentence, change)


def _other_side(passed: bool, limit: str) -> str:
    return f"more than {limit} would not have passed." if passed else f"at most {limit} would have passed."


def _percent(share: float, digits: int = 1) -> str:
    if abs(share) >= 1e4:  # of a model that is ruined; all its digits would fill lines
        return f"{100 * share:.2g} %"
    text = f"{100 * share:.{digits}f} %"
    return text.removeprefix("-") if not text.strip("-0. %") else text  # no -0.0


def _about(count: float) -> int:
    """Return `count`, rounded up to two digits."""
    unit: int = 10 ** max(0, math.floor(math.log10(count)) - 1)
    return math.ceil(count / unit) * unit


def summary(verdict: Verdict) -> str:
    """Return the verdict in one line, for the history and the end of the command."""
    reasons = " ".join(verdict.reasons)
    if verdict.forced is not None:
        return f"Promoted by force: {verdict.forced} (What spoke against it: {reasons})"
    return f"{'Promoted' if verdict.promoted else 'Not promoted'}: {reasons}"


def _title(verdict: Verdict) -> str:
    title = "Promoted by force" if verdict.forced is not None else "Promoted" if verdict.promoted else "Not promoted"
    against = (
        f"the champion {short(verdict.champion['version'])}"
        if verdict.champion
        else "the base, for there is no champion"
    )
    return f"{title}: candidate {short(verdict.candidate['version'])} against {against}"


def markdown(verdict: Verdict) -> str:
    """Return the verdict for people."""
    parts = [f"# {_title(verdict)}"]
    if verdict.forced is not None:
        parts.append(f"Forced, for this reason: {_cell(verdict.forced)}")
    parts.append("\n".join(f"- {_cell(reason)}" for reason in dict.fromkeys([verdict.comparison, *verdict.reasons])))
    if verdict.gates:
        rows = [
            f"| {gate.name} | {'kept' if gate.passed else '**broken**'} | {_figure(gate.value)} | {_figure(gate.low)}"
            f" | {_figure(gate.bound)} | {_cell(gate.sentence)} |"
            for gate in verdict.gates
        ]
        head = "| gate | | figure | at least | bound | |\n|---|---|---|---|---|---|"
        parts += ["## Bounds", "\n".join([head, *rows])]
    parts += ["## What would have changed it", "\n".join(f"- {_cell(change)}" for change in verdict.would_change)]
    return "\n\n".join(parts) + "\n"


def text(verdict: Verdict) -> str:
    """Return the verdict for people at a terminal."""
    parts = [_title(verdict)]
    if verdict.forced is not None:
        parts.append(bullets([f"Forced, for this reason: {verdict.forced}"]))
    parts.append(bullets(list(dict.fromkeys([verdict.comparison, *verdict.reasons]))))
    if verdict.gates:
        rows = [
            [gate.name, "kept" if gate.passed else "BROKEN", *map(_figure, (gate.value, gate.low, gate.bound))]
            for gate in verdict.gates
        ]
        parts.append(table([["gate", "", "figure", "at least", "bound"], *rows]))
    parts.append("What would have changed it:\n" + bullets(verdict.would_change))
    return "\n\n".join(parts) + "\n"


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _cell(text: str) -> str:
    """Return `text` as one line in which no character of it means anything to Markdown's tables."""
    return " ".join(text.split()).replace("|", "\\|")


def as_json(verdict: Verdict) -> dict[str, Any]:
    """Return the verdict for programs, as reports/promote/verdict.json holds it; what is no number is null."""
    plain: dict[str, Any] = _plain(asdict(verdict))
    return plain


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
