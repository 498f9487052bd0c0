"""The page that says what came in, what was refused and why: filled while the corpus streams by, in bounded memory.

`Summary` is what the page shows. Its `Histogram`, `Parts`, `Examples` and `Pairs` take one chunk after the other, keep
a fixed amount each, and come to the same whichever way the corpus was cut into chunks.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from pipeline import escape, params, paths
from pipeline.intake import identifiers
from pipeline.intake.explain import Lowest
from pipeline.intake.row_metrics import PERSONAL, redact
from pipeline.intake.source import Look

Mask = Callable[[str], str]
SPLITS = ("train", "validation", "test")
COPIES = {"duplicate", "near_duplicate"}  # the reasons of which nothing is to be mended: the earlier row stays
REPEATED_HEADER = "repeated_header"  # the rule for a row that names the columns again
BROKEN_ROW = "broken_row"  # the reason of a row that does not fit the header, where data.broken_rows is quarantine

# ISO 3's preferred numbers, series R40: 40 steps a decade, each about 6 % above the one before. Every second, fourth
# and eighth of them is R20, R10 and R5, so a histogram can be shown coarser without cutting a bin.
_R40 = (
    *(1.0, 1.06, 1.12, 1.18, 1.25, 1.32, 1.4, 1.5, 1.6, 1.7, 1.8, 1.9, 2.0, 2.12, 2.24, 2.36, 2.5, 2.65, 2.8, 3.0),
    *(3.15, 3.35, 3.55, 3.75, 4.0, 4.25, 4.5, 4.75, 5.0, 5.3, 5.6, 6.0, 6.3, 6.7, 7.1, 7.5, 8.0, 8.5, 9.0, 9.5),
)
_DECADES = 12
MOST_BARS = 40


def _edges(step: int) -> np.ndarray:
    """Return 0 and the distinct whole numbers of the series R40, R20, R10 or R5 (step 1, 2, 4 or 8), rising."""
    numbers = (int(number * 10**decade + 0.5) for decade in range(_DECADES) for number in _R40[::step])
    return np.array(sorted({0, *numbers}), dtype=np.int64)


_EDGES = {step: _edges(step) for step in (1, 2, 4, 8)}


@dataclass(frozen=True)
class Bar:
    """One bar of a picture: it stands for the whole numbers from `low` to `high`, both included."""

    low: int
    high: int
    value: float


class Histogram:
    """Counts of whole numbers from 0 up in fixed bins that grow by 6 %; what is small is exact."""

    def __init__(self) -> None:
        """Start empty."""
        self.counts = np.zeros(len(_EDGES[1]), dtype=np.int64)
        self.sum = 0
        self.smallest: int | None = None
        self.largest: int | None = None

    def add(self, values: np.ndarray) -> None:
        """Count `values`, whole numbers of at least 0."""
        if len(values) == 0:
            return
        self.counts += np.bincount(np.searchsorted(_EDGES[1], values, side="right") - 1, minlength=len(self.counts))
        self.sum += int(values.sum(dtype=np.int64))
        low, high = int(values.min()), int(values.max())
        self.smallest = low if self.smallest is None else min(self.smallest, low)
        self.largest = high if self.largest is None else max(self.largest, high)

    @property
    def total(self) -> int:
        """Return how many values were added."""
        return int(self.counts.sum())

    @property
    def mean(self) -> float:
        """Return the exact mean; 0 when nothing was added."""
        return self.sum / self.total if self.total else 0.0

    def quantile(self, share: float) -> int:
        """Return a number that about `share` of the values do not exceed: exact below 20, within 6 % above."""
        if self.largest is None or self.smallest is None:
            return 0
        position = int(np.searchsorted(np.cumsum(self.counts), max(1, share * self.total)))
        above = int(_EDGES[1][position + 1]) - 1 if position + 1 < len(_EDGES[1]) else self.largest
        return max(self.smallest, min(above, self.largest))


def shares(histograms: Mapping[str, Histogram], up_to: int = 0) -> dict[str, list[Bar]]:
    """Return each histogram as bars on one axis: of one series, at most 40, their values shares of its own total.

    The axis covers every value of all the histograms, and `up_to`.
    """
    known = [histogram for histogram in histograms.values() if histogram.largest is not None]
    if not known:
        return {name: [] for name in histograms}
    low = min(histogram.smallest or 0 for histogram in known)
    high = max(up_to, *(histogram.largest or 0 for histogram in known))
    for step in (1, 2, 4, 8):
        edges = _EDGES[step]
        first = int(np.searchsorted(edges, low, side="right")) - 1
        last = int(np.searchsorted(edges, high, side="right")) - 1
        if last - first < MOST_BARS:
            break
    starts = np.searchsorted(_EDGES[1], edges)
    bars = {}
    for name, histogram in histograms.items():
        counts = np.add.reduceat(histogram.counts, starts)
        bars[name] = [
            Bar(
                int(edges[at]),
                int(edges[at + 1]) - 1 if at + 1 < len(edges) else high,
                float(counts[at] / max(1, histogram.total)),
            )
            for at in range(first, last + 1)
        ]
    return bars


class Parts:
    """The corpus as 20 to 40 consecutive parts of equally many rows, however many rows there turn out to be.

    A part holds one row at first; whenever there are more than 40 parts, each two neighbours become one.
    """

    def __init__(self) -> None:
        """Start empty."""
        self.size = 1
        self.seen = 0
        self.first_row, self.rows, self.refused, self.characters = (np.zeros(MOST_BARS, np.int64) for _ in range(4))

    def add(self, rows: np.ndarray, refused: np.ndarray, characters: np.ndarray) -> None:
        """Take the next rows: their numbers, whether each is refused, and its text's length (used where it is not)."""
        end = self.seen + len(rows)
        while end > self.size * MOST_BARS:
            self.first_row = np.concatenate([self.first_row[::2], np.zeros(MOST_BARS // 2, np.int64)])
            self.rows, self.refused, self.characters = map(_halved, (self.rows, self.refused, self.characters))
            self.size *= 2
        position = np.arange(self.seen, end)
        part = position // self.size
        begins = position % self.size == 0
        self.first_row[part[begins]] = rows[begins]
        clean = ~refused.astype(bool)
        np.add.at(self.rows, part, 1)
        np.add.at(self.refused, part[~clean], 1)
        np.add.at(self.characters, part[clean], characters[clean].astype(np.int64))
        self.seen = end

    def __len__(self) -> int:
        """Return how many parts hold a row."""
        return -(-self.seen // self.size)

    def bars(self) -> tuple[list[Bar], list[Bar]]:
        """Return the share refused and the mean length of the clean texts, in characters, of each part."""
        clean = np.maximum(1, self.rows - self.refused)
        starts = [int(row) for row in self.first_row[: len(self)]]
        spans = list(zip(starts, [*(row - 1 for row in starts[1:]), starts[-1]] if starts else [], strict=True))
        return (
            [Bar(*span, float(self.refused[at] / self.rows[at])) for at, span in enumerate(spans)],
            [Bar(*span, float(self.characters[at] / clean[at])) for at, span in enumerate(spans)],
        )


def _halved(counts: np.ndarray) -> np.ndarray:
    """Return `counts` with each two neighbours added up, and as many zeros behind."""
    return np.concatenate([counts[::2] + counts[1::2], np.zeros(MOST_BARS // 2, np.int64)])


@dataclass(frozen=True)
class Example:
    """A row as the page shows it: `text` is redacted and cut."""

    row: int
    text: str
    found: str = ""  # the rule's value and bound


class Examples:
    """The first rows of each reason."""

    def __init__(self, mask: Mask = redact, most: int = 5) -> None:
        """Start empty; keep `most` rows a reason; `mask` takes personal data out of their texts."""
        self.mask, self.most = mask, most
        self.of: dict[str, list[Example]] = {}

    def add(self, row: int, reason: str, text: str, found: str = "") -> None:
        """Keep the row if it is among the first of its reason."""
        kept = self.of.setdefault(reason, [])
        if len(kept) < self.most:
            kept.append(Example(row, excerpt(text, reason, self.mask), found))


@dataclass
class Pair:
    """A duplicate and the earlier row it copies; `similarity` is 1 for an exact duplicate."""

    row: int
    text: str
    earlier_row: int
    similarity: float
    earlier_text: str = ""


class Pairs:
    """The first pairs of duplicates."""

    def __init__(self, mask: Mask = redact, most: int = 5) -> None:
        """Start empty; keep `most` pairs; `mask` takes personal data out of their texts."""
        self.mask, self.most = mask, most
        self.kept: list[Pair] = []

    def add(self, row: int, text: str, earlier_row: int, similarity: float = 1.0) -> None:
        """Keep the pair if it is among the first."""
        if len(self.kept) < self.most:
            self.kept.append(Pair(row, excerpt(text, mask=self.mask), earlier_row, similarity))

    def complete(self, texts: Mapping[int, str]) -> None:
        """Give the pairs their earlier texts, by row; `{pair.earlier_row for pair in kept}` are the rows to look up."""
        for pair in self.kept:
            pair.earlier_text = excerpt(texts[pair.earlier_row], mask=self.mask)


@dataclass
class Summary:
    """Everything the page shows."""

    look: Look
    wanted: params.Validate
    size: int  # of the corpus, in bytes
    md5: str  # of the corpus, as DVC names it
    rows_in: int = 0
    rows_refused: int = 0
    refused: Counter[str] = field(default_factory=Counter)  # reason -> rows; a row counts for each of its reasons
    warned: Counter[str] = field(default_factory=Counter)  # likewise; these rows are clean
    fixes: Counter[str] = field(default_factory=Counter)  # what was changed in texts -> rows
    splits: Counter[str] = field(default_factory=Counter)  # split -> clean rows
    groups: Counter[str] = field(default_factory=Counter)  # value of validate.category -> clean rows
    mask: Mask = field(init=False)
    examples: Examples = field(init=False)  # of refused rows
    warning_examples: Examples = field(init=False)
    exact_pairs: Pairs = field(init=False)
    near_pairs: Pairs = field(init=False)
    close_pairs: Pairs = field(init=False)  # the most similar ones that are no near-duplicates
    low_letters: Lowest = field(init=False)  # the shares nearest to the bound of few_letters that it let in
    lengths: dict[str, Histogram] = field(default_factory=lambda: {split: Histogram() for split in SPLITS})
    parts: Parts = field(default_factory=Parts)
    token_counts: list[int] = field(default_factory=list)  # tokens of each clean text of a sample; empty: not counted
    max_tokens: int = 0  # tokenize.max_length, where tokens were counted
    blank_lines: int = 0  # of the corpus: they are no rows
    crowded: int = 0  # rows compared with only some of their possible near-copies; see `Duplicates.crowded`
    stopped: str = ""  # the sentence with which the stage stopped, if it did

    def __post_init__(self) -> None:
        """Make what masks personal data as the rules look for it."""
        rules = self.wanted.rules
        self.mask = partial(redact, region=rules.phone.region, further=identifiers.finders(rules))
        self.examples, self.warning_examples = Examples(self.mask), Examples(self.mask)
        self.exact_pairs, self.near_pairs, self.close_pairs = Pairs(self.mask), Pairs(self.mask), Pairs(self.mask)
        self.low_letters = Lowest(rules.few_letters.min_letters)

    def few_letters_let_in(self) -> list[tuple[float, Example]]:
        """Return the rows with the lowest shares that few_letters let in; those of mostly letters are no news."""
        return [
            (share, Example(row, excerpt(text, mask=self.mask)))
            for share, row, text in self.low_letters.kept
            if share < 0.5
        ]

    @property
    def rows_clean(self) -> int:
        """Return how many rows went on."""
        return self.rows_in - self.rows_refused


EXCERPT = 200  # characters
# What is redacted is more than what is shown, so that no half of a number stays because the other half was cut off.
_REDACTED = 20_000
_LONGEST_DATUM = 5_000  # a private key of 4096 bits has 3,300 characters

_FOUND = {
    "encoding_damage": re.compile("[\ufffd\x80-\x9f\ud800-\udfff]"),
    "control_characters": re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\u202a-\u202e\u2066-\u2069]"),
    **{reason: re.compile(rf"\[{reason}\]") for reason in (*PERSONAL, *identifiers.RULES)},
}


def excerpt(text: str, reason: str = "", mask: Mask = redact) -> str:
    """Return `text` redacted by `mask` and cut to 200 characters around what `reason` is about.

    An ellipsis stands where it goes on.
    """
    redacted = mask(text[:_REDACTED])
    if len(text) > _REDACTED:
        redacted = redacted[:-_LONGEST_DATUM]
    found = _FOUND[reason].search(redacted) if reason in _FOUND else None
    start = 0 if found is None or found.end() <= EXCERPT else found.start() - EXCERPT // 2
    end = start + EXCERPT
    goes_on = end < len(redacted) or len(text) > _REDACTED
    return ("…" if start else "") + redacted[start:end] + ("…" if goes_on else "")


@dataclass(frozen=True)
class RuleInWords:
    """A rule for a person: what it says, where it is set, and what helps."""

    severity: str
    says: str
    settings: tuple[str, ...]
    helps: str


_IN_WORDS = {
    REPEATED_HEADER: (
        "the columns' names again, as where files were joined",
        "Nothing to do; where it is a text, set the rule to ignore.",
    ),
    "empty": ("no character that is not white space", "Give the row a text or delete it."),
    "too_short": ("fewer than {min_characters} characters after trimming", "Lower the bound if short texts matter."),
    "too_long": (
        "more than {max_characters} characters after trimming",
        "Split such texts into rows of their own, or raise the bound.",
    ),
    "encoding_damage": (
        "more than {max_damaged} lost or garbled characters (\ufffd, or é for é)",
        "Export the corpus again as UTF-8 from where it came; the characters cannot be won back from this file.",
    ),
    "control_characters": (
        "more than {max_controls} control characters other than tabs and line breaks",
        "Remove them where the text comes from.",
    ),
    "few_letters": (
        "less than {min_letters} of the characters that are not white space are letters, or of the kinds: {also}",
        "Lower the bound if lines of punctuation are what you want to learn.",
    ),
    "script": (
        "less than {min_share} of the letters are of the scripts {scripts}",
        "Add the script to the list if such texts are wanted.",
    ),
    "language": (
        "in none of the languages {languages} (texts of {min_characters} characters or more)",
        "Add the language to the list if such texts are wanted.",
    ),
    "email": ("an e-mail address", "Replace it by a placeholder, so that no model can repeat it."),
    "phone": (
        "a phone number (with a country code; national ones of region: {region})",
        "Replace it by a placeholder, so that no model can repeat it.",
    ),
    "card": (
        "a payment card's number, its checksum right",
        "Replace it by a placeholder, so that no model can repeat it.",
    ),
    "iban": (
        "a bank account's number (IBAN), its checksum right",
        "Replace it by a placeholder, so that no model can repeat it.",
    ),
    "secret": (
        "a key or token of a known service, or a private key",
        "Revoke the secret, then replace it by a placeholder.",
    ),
    "social_security": (
        "a social security number of the USA, in the form that is issued",
        "Replace it by a placeholder, so that no model can repeat it.",
    ),
    "record_number": (
        "a number of a patient's record or insurance, behind a word that says so",
        "Replace it by a placeholder, so that no model can repeat it.",
    ),
    "birth_date": ("a date behind a word such as born", "Replace it by the year, or by a placeholder."),
    "person_name": (
        "a person's name, as the spaCy pipeline {model} tells it",
        "Replace it by a placeholder, so that no model can repeat it.",
    ),
    "duplicate": (
        "an earlier row has the same text, but for case, white space and Unicode form",
        "The earlier row stays; with severity: warning all copies stay, and count as often as they come.",
    ),
    "near_duplicate": (
        "at least {similarity} similar to an earlier row's text (Jaccard of their 5-character pieces)",
        "The earlier row stays. Raise the bound if texts count as copies that are none.",
    ),
}


def in_words(reason: str, rules: params.Rules) -> RuleInWords:
    """Return the rule behind `reason`, with the bounds of `params.yaml`."""
    if reason == BROKEN_ROW:
        return RuleInWords(
            "critical",
            "more or fewer fields than the header has columns",
            ("data.broken_rows",),
            "Put texts that hold a delimiter or a line break in quotes.",
        )
    rule = getattr(rules, reason)
    bounds = {name: value for name, value in rule if name != "severity"}
    says, helps = _IN_WORDS[reason]
    shown = {name: ", ".join(value) or "none" if isinstance(value, tuple) else value for name, value in bounds.items()}
    where = f"validate.rules.{reason}"
    return RuleInWords(
        rule.severity, says.format(**shown), tuple(f"{where}.{name}" for name in (*bounds, "severity")), helps
    )


def page(summary: Summary) -> str:
    """Return the page: one HTML file without scripts that needs no network; equal for an equal summary."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("pipeline", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=escape.finalize,
    )
    environment.filters |= {"count": "{:,}".format, "percent": percent, "bytes": byte_size, "figure": figure}
    tokens = Histogram()
    tokens.add(np.array(summary.token_counts, dtype=np.int64))
    refused_bars, length_bars = summary.parts.bars()
    return environment.get_template("validate.html").render(
        summary=summary,
        look=summary.look,
        wanted=summary.wanted,
        splits=SPLITS,
        in_words={
            reason: in_words(reason, summary.wanted.rules) for reason in sorted({*summary.refused, *summary.warned})
        },
        not_looked_at=[name for name, rule in summary.wanted.rules if rule.severity == "ignore"],
        length_bars=shares(summary.lengths),
        tokens=tokens,
        token_bars=shares({"tokens": tokens}, up_to=summary.max_tokens)["tokens"],
        refused_bars=refused_bars,
        part_length_bars=length_bars,
        part_rows=[int(rows) for rows in summary.parts.rows[: len(summary.parts)]],
        advice=advice(summary),
        let_in=summary.few_letters_let_in(),
        zip=zip,
        percent=percent,
        figure=figure,
        quarantine=paths.QUARANTINE,
        clean=paths.CLEAN,
    )


def advice(summary: Summary) -> list[str]:
    """Return what to do next, a sentence each: the setting or the edit that mends most comes first."""
    rows, wanted = summary.rows_in, summary.wanted
    found = []
    for reason, count in sorted(summary.refused.items(), key=lambda item: (-item[1], item[0])):
        rule = in_words(reason, wanted.rules)
        if count / rows >= 0.01 and reason not in COPIES:
            found.append(f"{reason} ({percent(count / rows)} of the rows): {rule.helps} Setting: {rule.settings[0]}.")
    if summary.refused["duplicate"] / max(1, rows) >= 0.05:
        found.append(f"{copies_sentence(summary)}.")
    cut = sum(count > summary.max_tokens for count in summary.token_counts)
    if cut > 0.05 * len(summary.token_counts):
        length = int(np.quantile(summary.token_counts, 0.95, method="higher"))
        found.append(
            f"{percent(cut / len(summary.token_counts))} of the texts are longer than tokenize.max_length "
            f"({summary.max_tokens} tokens) and lose their ends: {length} would keep 95 % whole, "
            "and tokenize.strategy: pack continues them in another row."
        )
    least = min((summary.splits[split] for split in SPLITS), default=0)
    if 0 < least < 100:
        found.append(
            f"The smallest split has {least} texts, so figures measured on it are uncertain: add rows, or raise "
            "validate.validation_share or validate.test_share."
        )
    if set(summary.refused) - COPIES:
        found.append(
            f"To get refused rows back, mend them in {summary.look.path}: {paths.QUARANTINE} has each with its row "
            "number and reasons. Then run dvc repro."
        )
    return found


def copies_sentence(summary: Summary) -> str:
    """Return how many rows are refused as exact copies, and which setting keeps them."""
    return (
        f"{percent(summary.refused['duplicate'] / summary.rows_in)} of the rows have the text of an earlier one: to "
        "keep them all, as a weight by frequency, set validate.rules.duplicate.severity: warning in params.yaml (all "
        "copies of a text stay in one split)"
    )


def percent(share: float) -> str:
    """Return a share from 0 to 1 as a percentage; what is little but not nothing never reads as nothing."""
    if 0 < share < 0.001:
        return "under 0.1 %"
    if 0.999 < share < 1:
        return "over 99.9 %"
    return f"{100 * share:.1f} %".replace(".0 %", " %")


def byte_size(size: float) -> str:
    """Return a number of bytes with a decimal unit."""
    if size < 1000:
        return f"{size} bytes"
    for unit in ("kB", "MB"):
        size /= 1000
        if size < 999.95:
            return f"{size:.1f} {unit}"
    return f"{size / 1000:,.1f} GB"


def figure(value: Any) -> str:
    """Return a number with its thousands apart: whole from 10 up, else with one digit behind the point."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"
