"""Simulate the verdict over quarters of nights: `python -m bench.verdict [--quick] [--json]`.

Scores are made up, with the noise that was measured between real fine-tunes; what judges them is what judges real ones.
The gate on texts is measured on real texts of several scripts, see `bench.verdict_likeness`.
Peers: each night by itself at 2.5 %, as before there was a budget; LORD++; e-values; Student's bound.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from bench import harness
from bench import verdict_simulations as simulations
from bench.harness import FRESH, Row
from bench.simulated_scores import BANKING77, TALES
from bench.verdict_likeness import likeness_table
from bench.verdict_simulations import STUDENT, Judge, Nightly, Rule, Share
from pipeline import params
from pipeline.command import arg_parser, run, warn
from pipeline.verdict.challenges import DAYS, daily

ALONE, LORD, E_VALUE = "2.5 % every night", "LORD++", "e-values"
LIBRARIES = ("numpy", "scipy")
GAIN = 0.02
GAINS = (0.26, 0.15, 0.10, 0.08, 0.06, 0.05, 0.04, 0.03)  # of eight retrains of a corpus that grows by its first rows
NIGHTLY, ONE = "every night", "one at 2.5 %"


Rules = Mapping[str, Rule]
Part = tuple[str, list[Row]]  # a table, and its rows


@dataclass(frozen=True)
class Sizes:
    """How much is simulated."""

    quarters: int = 600
    times: int = 300
    lucky: int = 40
    draws: Sequence[int] = (8_000, 30_000)  # at 2.5 %, and at a day of a budget of 5 %
    rows: Sequence[int] = (120, 178, 230, 300, 500)
    calibrated_rows: Sequence[int] = (12, 30, 100, 300)


QUICK = Sizes(quarters=10, times=10, lucky=3, draws=(300, 300), rows=(230,), calibrated_rows=(30,))


def main() -> None:
    """Simulate and publish."""
    parser = arg_parser()
    parser.add_argument("--quick", action="store_true", help="few simulations; the figures mean nothing")
    parser.add_argument("--json", action="store_true", help="print the JSON line only")
    arguments = parser.parse_args()
    sizes = QUICK if arguments.quick else Sizes()
    config = params.load().promote
    judge = Judge(config.model_copy(update={"resamples": 100}))  # of the interval that is shown, which decides nothing
    rules: Rules = {
        FRESH: Nightly(config.false_promotions),
        ALONE: simulations.alone(),
        LORD: simulations.lord(config.false_promotions),
        E_VALUE: simulations.e_value(config.false_promotions),
    }
    simulate: Mapping[str, Callable[[], Part]] = {
        "quarters without a true gain": partial(_null_quarters, judge, rules, sizes),
        "a true gain": partial(_found, judge, rules, sizes),
        "a growing corpus": partial(_growing, judge, sizes),
        "few test rows": partial(_tiny, judge, rules[FRESH], sizes),
        "a lucky champion": partial(_lucky, judge, sizes),
        "pairs of equal models": partial(_calibration, sizes),
        "real texts and nonsense": partial(likeness_table, quick=arguments.quick),
    }
    parts = []
    for name, part in simulate.items():
        warn(f"simulating {name}")
        parts.append(part())
    text = "\n\n".join(text for text, _ in parts)
    harness.publish("verdict", text, [row for _, rows in parts for row in rows], LIBRARIES, arguments.json)


def _null_quarters(judge: Judge, rules: Rules, sizes: Sizes) -> Part:
    """Simulate quarters in which no candidate is better."""
    nights = f"{DAYS} nights, 230 test rows"
    rows = []
    for number, (kind, new_rows) in enumerate(
        ((nights, 0), (f"{nights} and 5 more every night", 5), (f"{nights}, other ones every night", None))
    ):
        shares = {
            name: simulations.false_promotions(
                judge, rule, 230, sizes.quarters // (1 if name == FRESH else 4), new_rows
            )
            for name, rule in rules.items()
            if name == FRESH or not number
        }
        rows += _rows(shares, f"quarters with a false promotion, {kind}", ALONE)
    lines = [[f"{row.variant}: {row.metric}", _interval(row)] for row in rows]
    return harness.table(["no candidate is better", "% (95 % interval)"], lines), rows


def _found(judge: Judge, rules: Rules, sizes: Sizes) -> Part:
    """Simulate a true gain, after 60 nights without one."""
    rows, lines = [], []
    for count in sizes.rows:
        shares = {name: simulations.found(judge, rule, count, GAIN, sizes.times) for name, rule in rules.items()}
        rows += _rows(shares, f"true gain of 2 % found within three nights, {count} rows", ALONE)
        lines.append([f"{count} test rows", *(_percent(share.value) for share in shares.values())])
    return harness.table(["a true gain of 2 % found within three nights, %", *rules], lines), rows


def _growing(judge: Judge, sizes: Sizes) -> Part:
    """Simulate eight weekly retrains of a growing corpus, each truly better."""
    shares = simulations.growing(judge, GAINS, 80, sizes.times // 2)
    rows, lines = [], []
    for number, (gain, share) in enumerate(zip(GAINS, shares, strict=True), 1):
        rows += _rows({FRESH: share}, f"retrain {number} of a growing corpus promoted", FRESH)
        lines.append([f"{number}: {gain:.0%} better, {80 * (number + 1)} test rows", _percent(share.value)])
    return harness.table(["retrain of a growing corpus", "promoted, %"], lines), rows


def _tiny(judge: Judge, nightly: Rule, sizes: Sizes) -> Part:
    """Simulate single comparisons on few test rows."""
    rows, lines = [], []
    for count in (8, 12, 20, 30):
        cells = []
        for often, night in ((ONE, None), (NIGHTLY, 30)):
            challenge = nightly(night) if night is not None else None
            for gain in (0.0, 0.05, 0.15):
                times = 4 * sizes.times if gain == 0 else sizes.times
                share = simulations.single(judge, challenge, count, gain, times)
                rows += _rows({FRESH: share}, f"{count} rows, {gain:.0%} better, {often}: promoted", FRESH)
                cells.append(_percent(share.value, 2 if gain == 0 else 0))
        lines.append([f"{count} test rows", *cells])
    heads = [f"{gain} better, {often}" for often in (ONE, NIGHTLY) for gain in ("not", "5 %", "15 %")]
    return harness.table(["promoted, %", *heads], lines), rows


def _lucky(judge: Judge, sizes: Sizes) -> Part:
    """Simulate a champion that was chosen for its luck, and nights of better candidates."""
    rows, lines = [], []
    for luck in (0.0, 2.0, 3.5):
        medians = {}
        for name, with_new_rows in ((FRESH, True), ("all rows alone", False)):
            nights = simulations.nights_until_replaced(judge, 150, luck, GAIN, sizes.lucky, with_new_rows=with_new_rows)
            medians[name] = nights
        rows += harness.compare(
            {name: [median] for name, (median, _) in medians.items()},
            f"nights until a champion lucky by {luck:g} standard errors is replaced",
            "nights",
            "all rows alone",
        )
        lines.append([f"{luck:g}", *(f"{median:.0f} (90 %: {high:.0f})" for median, high in medians.values())])
    heads = ["luck, standard errors", "nights, new rows by themselves too", "all rows alone"]
    return harness.table(heads, lines), rows


def _calibration(sizes: Sizes) -> Part:
    """Simulate pairs of equal models whose gains are more and more skewed against the candidate."""
    rows, lines = [], []
    for alpha, often, draws in zip((0.025, daily(0.05)), (ONE, NIGHTLY), sizes.draws, strict=True):
        for skewness, tokens, noise in (
            (0.0, TALES, "as measured"),
            (0.0, BANKING77, "as measured, short rows"),
            (-1.0, TALES, "skewness -1"),
            (-2.0, TALES, "skewness -2"),
        ):
            cells = []
            for count in sizes.calibrated_rows:
                rates = simulations.error_rates(count, skewness, alpha, draws, tokens)
                figures = {FRESH: [rates[FRESH]], STUDENT: [rates[STUDENT]]}
                rows += harness.compare(
                    figures, f"{often}, {noise}, {count} rows: errors as a multiple of alpha", "x", STUDENT
                )
                cells.append(f"{rates[FRESH]:.1f} ({rates[STUDENT]:.1f})")
            lines.append([f"{often}: {noise}", *cells])
    heads = [f"{count} rows" for count in sizes.calibrated_rows]
    title = "errors as a multiple of what is allowed (Student's bound alone)"
    return harness.table([title, *heads], lines), rows


def _rows(shares: Mapping[str, Share], metric: str, peer: str) -> list[Row]:
    """Return a row for each share, in percent, with its interval and its ratio to the peer's."""
    base = shares[peer].value if peer in shares else 0.0
    rows = []
    for name, share in shares.items():
        low, high = share.interval
        ratio = round(share.value / base, 3) if base else None
        figure, low, high = (round(100 * value, 3) for value in (share.value, low, high))
        rows.append(Row(name, metric, figure, "%", low, high, peer, ratio))
    return rows


def _interval(row: Row) -> str:
    return f"{row.figure:.1f} ({row.low:.1f} to {row.high:.1f})"


def _percent(share: float, decimals: int = 0) -> str:
    return f"{100 * share:.{decimals}f}"


if __name__ == "__main__":
    run(main)
