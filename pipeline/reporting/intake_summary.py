"""What the intake report shows, collected while the corpus streams by, in bounded memory."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from pipeline import params
from pipeline.intake import identifiers
from pipeline.intake.contradictions import Contradictions
from pipeline.intake.explain import LowestPassing
from pipeline.intake.file_format import FileFormat
from pipeline.intake.query_counts import QueryCounts
from pipeline.intake.splits import SPLITS
from pipeline.intake.task_columns import LabelCounts
from pipeline.redaction import redact
from pipeline.reporting.formatting import Mask, excerpt
from pipeline.reporting.histogram import CorpusParts, Histogram


@dataclass(frozen=True)
class Example:
    """A row as the page shows it: `text` is redacted and cut."""

    row: int
    text: str
    finding: str = ""  # the rule's value and bound


class Examples:
    """The first rows of each reason."""

    def __init__(self, mask: Mask = redact, most: int = 5) -> None:
        """Start empty; keep `most` rows per reason; `mask` removes personal data from their texts."""
        self.mask, self.most = mask, most
        self.of: dict[str, list[Example]] = {}

    def add(self, row: int, reason: str, text: str, finding: str = "") -> None:
        """Keep the row if it is among the first of its reason."""
        kept = self.of.setdefault(reason, [])
        if len(kept) < self.most:
            kept.append(Example(row, excerpt(text, reason, self.mask), finding))


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
        """Start empty; keep `most` pairs; `mask` removes personal data from their texts."""
        self.mask, self.most = mask, most
        self.kept: list[Pair] = []

    def add(self, row: int, text: str, earlier_row: int, similarity: float = 1.0) -> None:
        """Keep the pair if it is among the first."""
        if len(self.kept) < self.most:
            self.kept.append(Pair(row, excerpt(text, mask=self.mask), earlier_row, similarity))

    def complete(self, texts: Mapping[int, str]) -> None:
        """Fill in the earlier texts, given by row for every `earlier_row` in `kept`."""
        for pair in self.kept:
            pair.earlier_text = excerpt(texts[pair.earlier_row], mask=self.mask)


@dataclass
class Summary:
    """Everything the page shows."""

    file_format: FileFormat
    config: params.Validate
    size: int  # of the corpus, in bytes
    md5: str  # of the corpus, as DVC names it
    rows_in: int = 0
    rows_refused: int = 0
    refused: Counter[str] = field(default_factory=Counter)  # reason -> rows; a row counts for each of its reasons
    warned: Counter[str] = field(default_factory=Counter)  # the same for warnings; these rows are clean
    fixes: Counter[str] = field(default_factory=Counter)  # what was changed in texts -> rows
    splits: Counter[str] = field(default_factory=Counter)  # split -> clean rows
    groups: Counter[str] = field(default_factory=Counter)  # value of validate.category -> clean rows
    labels: LabelCounts = field(init=False)  # where the task has labels
    queries: QueryCounts = field(init=False)  # where the task has queries
    contradictions: Contradictions | None = None  # of the second pass
    mask: Mask = field(init=False)
    examples: Examples = field(init=False)  # of refused rows
    warning_examples: Examples = field(init=False)
    exact_pairs: Pairs = field(init=False)
    near_pairs: Pairs = field(init=False)
    close_pairs: Pairs = field(init=False)  # the most similar pairs below the bound
    low_letters: LowestPassing = field(init=False)  # the lowest shares that few_letters accepted
    lengths: dict[str, Histogram] = field(default_factory=lambda: {split: Histogram() for split in SPLITS})
    parts: CorpusParts = field(default_factory=CorpusParts)
    token_counts: list[int] = field(default_factory=list)  # tokens of each clean text of a sample; empty: not counted
    max_tokens: int = 0  # tokenize.max_length, where tokens were counted
    context: int = 0  # of the base, in tokens; 0: not known
    blank_lines: int = 0  # of the corpus, which are not rows
    crowded: int = 0  # rows compared with only some of their possible near-copies; see `Duplicates.crowded`
    stopped: str = ""  # why the stage stopped, if it did

    def __post_init__(self) -> None:
        """Mask the personal data that the rules detect."""
        rules = self.config.rules
        self.labels = LabelCounts(self.config.columns)
        self.queries = QueryCounts(self.config.columns)
        self.mask = partial(redact, region=rules.phone.region, further=identifiers.detectors(rules))
        self.examples, self.warning_examples = Examples(self.mask), Examples(self.mask)
        self.exact_pairs, self.near_pairs, self.close_pairs = Pairs(self.mask), Pairs(self.mask), Pairs(self.mask)
        self.low_letters = LowestPassing(rules.few_letters.min_letters)

    def lowest_letter_shares(self) -> list[tuple[float, Example]]:
        """Return the accepted rows with the lowest shares of letters, below one half."""
        return [
            (share, Example(row, excerpt(text, mask=self.mask)))
            for share, row, text in self.low_letters.kept
            if share < 0.5
        ]

    def task_metrics(self) -> dict[str, Any]:
        """Return the counts of what the task is to learn, for the stage's metrics."""
        counts = {"labels": labels} if (labels := self.labels.as_json()) else {}
        contradictions = self.contradictions.as_json() if self.contradictions else {}
        return {**counts, **self.queries.as_json(), **contradictions}

    def task_problem(self) -> str:
        """Return why nothing can be learned from these rows, as a clause; "" where something can."""
        return self.labels.problem() or self.queries.problem()

    def task_warnings(self) -> list[str]:
        """Return what a person should know of what the task is to learn, a sentence each."""
        contradictions = self.contradictions.warnings() if self.contradictions else []
        return [*self.labels.warnings(), *self.queries.warnings(), *contradictions]

    @property
    def rows_clean(self) -> int:
        """Return how many rows were not refused."""
        return self.rows_in - self.rows_refused
