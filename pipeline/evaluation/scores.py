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


class Probes(NamedTuple):
    """A model's scores of texts besides the test rows, for the gates."""

    general: Scores  # plain English that comes with the project
    train: Scores  # a sample of training rows
    validation: Scores  # a sample of validation rows


def from_table(table: "pd.DataFrame", name: str, part: str = "test") -> Scores:
    """Return the scores of the model called `name` from the table in `paths.SCORES`; `part` is test or a probe."""
    rows = table[table["part"] == part]
    return Scores(*(rows[column].to_numpy() for column in (f"{name}_loss", f"{name}_tokens", "bytes")))


def probes_from_table(table: "pd.DataFrame", name: str) -> Probes:
    """Return the probes of the model called `name` from the table in `paths.SCORES`."""
    return Probes(*(from_table(table, name, part) for part in Probes._fields))


def row_figures_from_table(table: "pd.DataFrame", name: str) -> dict[str, npt.NDArray[np.float64]]:
    """Return the further figures of the test rows of the model called `name` from the table in `paths.SCORES`."""
    rows = table[table["part"] == "test"]
    known = {f"{name}_loss", f"{name}_tokens"}
    columns = [column for column in table.columns if column.startswith(f"{name}_") and column not in known]
    return {column.removeprefix(f"{name}_"): rows[column].to_numpy(np.float64) for column in columns}


def concatenated(*parts: Scores) -> Scores:
    """Return the scores of several sets of texts as one."""
    return Scores(*(np.concatenate(field) for field in zip(*parts, strict=True)))
