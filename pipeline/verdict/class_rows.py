"""Are there rows enough of every class to judge a classifier by? Five frauds tell nothing, whatever the others."""

from collections import Counter

import numpy as np
import numpy.typing as npt
from scipy.special import bdtrc

from pipeline.verdict.records import Comparison
from pipeline.verdict.statistics import bonferroni, rows_needed, rows_to_detect

POWER = 0.8  # of seeing it where half of a class is lost: four times in five
RECALL = "recall/"  # before the label in the names of row figures
_LISTED = 5  # classes named in a sentence


def rows_to_tell(alpha: float) -> int:
    """Return the fewest rows of a class on which losing half of them is seen four times in five.

    A sign test on the rows that only one of two models gets right (McNemar 1947, Psychometrika 12) needs so many that
    all speak against the candidate; of n rows that a champion gets right, Binomial(n, 1/2) do.
    """
    against = rows_needed(1 - 2 * alpha)
    rows = np.arange(against, 6 * against)
    return int(rows[np.argmax(bdtrc(against - 1, rows, 0.5) >= POWER)])


def rows_to_judge(alpha: float, confidence: float) -> int:
    """Return the fewest rows of the rarer of two classes, at the error rate of the gain and of the gate on recall."""
    return rows_to_tell(min(alpha, (1 - bonferroni(confidence, 2)) / 2))


def rare_rows(strata: npt.NDArray[np.int64]) -> int:
    """Return how many rows are not of the commonest class."""
    return len(strata) - int(np.bincount(strata).max(initial=0))


def count_by_class(comparison: Comparison) -> Counter[str]:
    """Return the test rows of each class, the commonest first; also of those that have none."""
    known = [name.removeprefix(RECALL) for name in comparison.candidate.row_figures if name.startswith(RECALL)]
    # Where rows have several labels, their classes are sets of labels, and a label alone may well be none of these.
    is_label = set(comparison.classes or ()) <= set(known)
    counts = Counter(dict.fromkeys(known, 0) if is_label else {})
    counts.update(comparison.classes or ())
    return Counter(dict(counts.most_common()))


def too_few(comparison: Comparison, needed: int, level: str) -> tuple[str, str] | None:
    """Return why the rarer classes have too few test rows for a verdict, and what would do; None where they do not.

    All rows but those of the commonest class count: of two classes these are the rarer one's. Of more classes, single
    ones may be too small to tell, which the gate on recall says; a model is not refused for these.

    Args:
        comparison: The candidate beside the model it would replace.
        needed: How many rows are enough.
        level: The confidence that is asked for, in words.
    """
    counts = count_by_class(comparison)
    if comparison.classes is None or sum(list(counts.values())[1:]) >= needed:
        return None
    (commonest, common), rare = counts.most_common(1)[0], counts.most_common()[1:]
    rows = sum(count for _, count in rare)
    if len(rare) == 1:
        what, of = f"{_are(rows)} `{rare[0][0]}`", f"of `{rare[0][0]}`"
        whom = "for it"
    else:
        listed = "".join(f", {count} `{name}`" for name, count in rare[:_LISTED]).removeprefix(", ")
        what = f"{_have(rows)} another label than `{commonest}`{f' ({listed})' if listed else ''}"
        of, whom = f"with another label than `{commonest}`", "for them"
    enough = ""
    if rows and comparison.test_share:
        corpus = rows_to_detect(round((common + rows) / comparison.test_share), needed**0.5, rows**0.5)
        enough = f" About {corpus:,} rows of the corpus give that."
    elif rows:
        enough = f" About {rows_to_detect(common + rows, needed**0.5, rows**0.5):,} test rows give that."
    sentence = (
        f"{what}: at least {needed} are needed to tell a better model from a worse one {whom} with {level}.{enough}"
    )
    return sentence, f"At least {needed} test rows {of}: more data, or a larger validate.test_share."


def _are(rows: int) -> str:
    return {0: "No test row is", 1: "1 test row is"}.get(rows, f"{rows} test rows are")


def _have(rows: int) -> str:
    return {0: "No test row has", 1: "1 test row has"}.get(rows, f"{rows} test rows have")
