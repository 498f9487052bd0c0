"""What the loss of a task is called, and what it is counted by; light to import."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Quantity:
    """What the verdict compares, e to the loss per unit of weight, and how it is called."""

    name: str = "perplexity"
    unit: str = "token"  # of the weight
    row: str = "test row"  # what chance draws
    rows: str = "test rows"
    any_tokenizer: bool = True  # whether the losses of models with different tokenizers compare

    def count(self, rows: int) -> str:
        """Return "1 test row" or "1,200 test rows"."""
        return f"{rows:,} {self.row if rows == 1 else self.rows}"
