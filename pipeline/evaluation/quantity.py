"""What the loss of a task is called, and what it is counted by; light to import."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Quantity:
    """What the verdict compares, e to the loss per unit of weight, and how it is called."""

    name: str = "perplexity"
    unit: str = "token"  # of the weight
    row: str = "row"  # what chance draws
    rows: str = "rows"
    any_tokenizer: bool = True  # whether the losses of models with different tokenizers compare

    def count(self, rows: int) -> str:
        """Return "1 test row" or "1,200 test rows"."""
        return f"{rows:,} test {self.row if rows == 1 else self.rows}"


PERPLEXITY = Quantity()
ROW_PERPLEXITY = Quantity("perplexity", "row")
LABEL_PERPLEXITY = Quantity("label perplexity", "row")
LABEL_PERPLEXITY_BY_QUERY = Quantity("label perplexity", "row", "query", "queries")
TARGET_PERPLEXITY = Quantity("target perplexity", "target token")
MASKED_PERPLEXITY = Quantity("masked perplexity", "masked token", any_tokenizer=False)
