"""What the recipe chooses by itself."""

import pytest

from pipeline.training import recipe


@pytest.mark.parametrize(
    ("steps", "on_gpu", "expected"),
    [(60, True, 1), (500, True, 5), (5_000, True, 10), (200_000, True, 20), (5_000, False, 1), (200_000, False, 20)],
)
def test_the_loss_of_many_steps_on_a_gpu_is_read_now_and_then(steps: int, on_gpu: bool, expected: int) -> None:
    assert recipe._logging_steps(steps, on_gpu) == expected
