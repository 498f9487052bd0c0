"""What a model makes of texts, row by row: the input of every figure and of the paired comparison."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import pandas as pd


class Scores(NamedTuple):
    """The losses of a model on some texts, one entry per text."""

    loss: npt.NDArray[np.float64]  # sum over the text's tokens of -ln p(token | tokens before it), in nats
    tokens: npt.NDArray[np.int64]
    bytes: npt.NDArray[np.int64]  # of the text in UTF-8


def from_table(table: "pd.DataFrame", name: str) -> Scores:
    """Return the scores of the model called `name` from the table in `paths.SCORES`."""
    return Scores(*(table[column].to_numpy() for column in (f"{name}_loss", f"{name}_tokens", "bytes")))
