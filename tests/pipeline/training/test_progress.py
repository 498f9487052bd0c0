"""Progress of a training through a file: what the trainer writes, another process reads."""

import json
import math
import time
from pathlib import Path

import pytest

from pipeline.training.progress import EpochResult, ProgressWriter, read_progress


def test_the_last_step_and_all_epochs_are_read(tmp_path: Path) -> None:
    path = tmp_path / "reports" / "progress.jsonl"
    assert read_progress(path) is None
    writer = ProgressWriter(path, step=0, interval=0.0)
    assert read_progress(path) is None
    writer.epoch(0, 5.5)
    writer.step(1, 4, 5.0)
    writer.step(2, 4, 4.5)
    writer.epoch(1, 4.75)
    progress = read_progress(path)
    assert progress is not None
    assert (progress.step, progress.steps, progress.loss) == (2, 4, 4.5)
    assert progress.epochs == (EpochResult(0, 5.5), EpochResult(1, 4.75))
    assert progress.seconds_left * progress.steps_per_second == pytest.approx(2)


def test_steps_are_written_at_intervals_and_the_last_one_always(tmp_path: Path) -> None:
    path = tmp_path / "progress.jsonl"
    writer = ProgressWriter(path, step=0, interval=60.0)
    for step in range(1, 101):
        writer.step(step, 100, 1.0)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 100]


def test_an_earlier_training_and_a_half_written_line_are_ignored(tmp_path: Path) -> None:
    path = tmp_path / "progress.jsonl"
    ProgressWriter(path, step=0).step(3, 4, 1.0)
    assert read_progress(path, since=time.time() + 60) is None
    with path.open("a") as file:
        file.write('{"time": 1')
    progress = read_progress(path)
    assert progress is not None
    assert progress.step == 3


def test_a_loss_that_is_not_finite_is_null(tmp_path: Path) -> None:
    path = tmp_path / "progress.jsonl"
    writer = ProgressWriter(path, step=0)
    writer.step(1, 4, math.nan)
    writer.epoch(1, math.inf)
    progress = read_progress(path)
    assert progress is not None
    assert progress.loss is None
    assert progress.epochs == (EpochResult(1, None),)


def test_the_rate_of_a_resumed_run_counts_its_own_steps(tmp_path: Path) -> None:
    path = tmp_path / "progress.jsonl"
    writer = ProgressWriter(path, step=1000)
    time.sleep(0.05)
    writer.step(1001, 1002, 1.0)
    progress = read_progress(path)
    assert progress is not None
    assert progress.steps_per_second < 21
