"""Scores made up with the noise measured between real fine-tunes: for simulations of the verdict, and tests."""

import math

import numpy as np
import numpy.typing as npt

from pipeline.evaluation.scores import Scores

# Noise as measured: models that the stage `finetune` made with the default params.yaml but `epochs: 1`, from the
# starter, with seeds 1, 2 (and 3), scored on the test split. The difference of two of them in nats per token varies
# from row to row with a standard deviation of NOISE / sqrt(tokens of the row): 0.63, 0.65 and 0.69 for the three pairs
# on data/tales.csv (230 rows), 0.64 for the pair on banking77 (977 rows, `max_length: 48`); its excess kurtosis is 0.1
# to 0.9, as that of Student's t with 10 degrees of freedom is 1.
NOISE = 0.69
TALES = (84, 0.11)  # tokens of a row: median, and standard deviation of the logarithm
BANKING77 = (15, 0.56)

Floats = npt.NDArray[np.float64]


class SimulatedRows:
    """Test rows, and the scores of models on them."""

    def __init__(self, rows: int, random: np.random.Generator, tokens: tuple[float, float] = TALES) -> None:
        """Draw how long the rows are, and how hard for any model."""
        median, spread = tokens
        self.tokens = random.lognormal(math.log(median), spread, rows).round().clip(4).astype(np.int64)  # (rows,)
        self.loss = random.normal(3.6, 0.3, rows)  # (rows,), nats per token
        self._random = random

    def scores(self, gain: float, chance: Floats | None = None) -> Scores:
        """Return the scores of a model.

        Args:
            gain: By how much it is truly better than a model with 0, in nats per token.
            chance: How much worse than that it does at each row, in standard deviations; (rows,). The chance of two
                models differs as that of two real ones does. None: drawn.
        """
        chance = self.draw() if chance is None else chance
        loss = self.loss - gain + NOISE / math.sqrt(2) * chance / np.sqrt(self.tokens)
        return Scores(loss * self.tokens, self.tokens, 4 * self.tokens)

    def draw(self) -> Floats:
        """Return a model's chance at each row: (rows,)."""
        return self._random.standard_t(10, len(self.tokens)) * math.sqrt(0.8)


def nats(gain: float) -> float:
    """Return by how many nats per token the loss falls where perplexity falls by the share `gain`."""
    return -math.log1p(-gain)
