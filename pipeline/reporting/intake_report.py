"""The page that says what came in, what was refused and why: filled while the corpus streams by, in bounded memory.

`Summary` is what the page shows. Its `Histogram`, `CorpusParts`, `Examples` and `Pairs` take one chunk after the
other, keep a fixed amount each, and come to the same whichever way the corpus was cut into chunks.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from pipeline import params, paths
from pipeline.intake import identifiers
from pipeline.intake.explain import LowestPassing
from pipeline.intake.file_format import FileFormat
from pipeline.intake.rules import BROKEN_ROW, REPEATED_HEADER
from pipeline.intake.splits import SPLITS
from pipeline.redaction import redact
from pipeline.reporting.formatting import Mask, excerpt, percent
from pipeline.reporting.histogram import CorpusParts, Histogram, bars_on_one_axis
from pipeline.reporting.pages import render

COPIES = {"duplicate", "near_duplicate"}  # the reasons of which nothing is to be mended: the earlier row stays


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

    look: FileFormat
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
    low_letters: LowestPassing = field(init=False)  # the shares nearest to the bound of few_letters that it let in
    lengths: dict[str, Histogram] = field(default_factory=lambda: {split: Histogram() for split in SPLITS})
    parts: CorpusParts = field(default_factory=CorpusParts)
    token_counts: list[int] = field(default_factory=list)  # tokens of each clean text of a sample; empty: not counted
    max_tokens: int = 0  # tokenize.max_length, where tokens were counted
    blank_lines: int = 0  # of the corpus: they are no rows
    crowded: int = 0  # rows compared with only some of their possible near-copies; see `Duplicates.crowded`
    stopped: str = ""  # the sentence with which the stage stopped, if it did

    def __post_init__(self) -> None:
        """Make what masks personal data as the rules look for it."""
        rules = self.wanted.rules
        self.mask = partial(redact, region=rules.phone.region, further=identifiers.detectors(rules))
        self.examples, self.warning_examples = Examples(self.mask), Examples(self.mask)
        self.exact_pairs, self.near_pairs, self.close_pairs = Pairs(self.mask), Pairs(self.mask), Pairs(self.mask)
        self.low_letters = LowestPassing(rules.few_letters.min_letters)

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
    tokens = Histogram()
    tokens.add(np.array(summary.token_counts, dtype=np.int64))
    refused_bars, length_bars = summary.parts.bars()
    return render(
        "validate.html",
        summary=summary,
        look=summary.look,
        wanted=summary.wanted,
        splits=SPLITS,
        in_words={
            reason: in_words(reason, summary.wanted.rules) for reason in sorted({*summary.refused, *summary.warned})
        },
        not_looked_at=[name for name, rule in summary.wanted.rules if rule.severity == "ignore"],
        length_bars=bars_on_one_axis(summary.lengths),
        tokens=tokens,
        token_bars=bars_on_one_axis({"tokens": tokens}, up_to=summary.max_tokens)["tokens"],
        refused_bars=refused_bars,
        part_length_bars=length_bars,
        part_rows=[int(rows) for rows in summary.parts.rows[: len(summary.parts)]],
        advice=advice(summary),
        let_in=summary.few_letters_let_in(),
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
