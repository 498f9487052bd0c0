"""Training that is stopped at any moment, and run again, ends in the files of a run that was never stopped."""

import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event
from pathlib import Path

import pandas as pd
import pytest
import torch

from pipeline import finetune, paths, tokenize
from pipeline.command import UserError, run
from pipeline.training.checkpoints import KEPT
from tests.conftest import LINES, ROOT, Workspace

pytestmark = pytest.mark.integration

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
CODES = {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130}
# Every process is forked from one that has imported everything, and so starts at once.
PROCESSES = get_context("forkserver")
PROCESSES.set_forkserver_preload(["tests.pipeline.training.test_kill"])


@pytest.fixture(scope="module", autouse=True)
def found_from_anywhere() -> Iterator[None]:
    """Let every process that starts here find this tree's packages."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


def command(has_begun: Event) -> None:
    """Do what `python -m pipeline.finetune` does."""
    torch.set_num_threads(1)
    has_begun.set()
    run(finetune.main)


def start() -> BaseProcess:
    has_begun = PROCESSES.Event()
    process = PROCESSES.Process(target=command, args=(has_begun,))
    process.start()
    has_begun.wait()
    return process


@pytest.fixture
def stage(workspace: Workspace, tiny_gpt2: Path) -> Workspace:
    """Return a workspace in which training takes some seconds and saves its state many times a second."""
    workspace.start_from(tiny_gpt2)
    texts = [f"{line} {number}" for number in range(40) for line in LINES]
    splits = (["train"] * 6 + ["validation", "test"]) * 20
    pd.DataFrame({"row": range(2, 162), "text": texts, "split": splits}).to_parquet(paths.CLEAN)
    workspace.set(
        tokenize__max_length=24,
        finetune__epochs=6,
        finetune__learning_rate=0.05,  # so high that the validation loss turns
        finetune__early_stopping_patience=2,
        finetune__checkpoint_seconds=0.1,
    )
    tokenize.main()
    return workspace


def outputs() -> dict[str, str]:
    """Return the hash of every file that the stage makes."""
    files = {*paths.CANDIDATE.iterdir(), *paths.FINETUNE_METRICS.parent.iterdir()} - {paths.TRAINING_PROGRESS}
    return {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(files)}


def take_outputs() -> dict[str, str]:
    """Return the outputs and take them away, as `dvc repro` does before a stage."""
    made = outputs()
    shutil.rmtree(paths.CANDIDATE)
    shutil.rmtree(paths.FINETUNE_METRICS.parent)
    return made


def stop_again_and_again(kills: list[signal.Signals], seed: int) -> None:
    """Stop training at random moments, once for each of `kills`, and compare what it makes in the end."""
    process = start()
    began = time.monotonic()
    process.join()
    assert process.exitcode == 0
    duration = time.monotonic() - began
    uninterrupted = take_outputs()

    moments = random.Random(seed)
    left = list(kills)
    while left:
        process = start()
        process.join(moments.uniform(0, duration))
        if process.is_alive():
            os.kill(process.pid, left[-1])
            process.join()
        assert len(list(paths.CHECKPOINTS.glob("*/checkpoint-*"))) <= KEPT + 1  # killed before it deleted the oldest
        if process.exitcode == 0:  # it came to its end before
            assert take_outputs() == uninterrupted
        elif process.exitcode in (CODES[left[-1]], -left[-1]):  # the latter before training begins or after it ends
            left.pop()
        else:
            pytest.fail(f"exit code {process.exitcode} after {left[-1].name}")
    process = start()
    process.join()
    assert process.exitcode == 0
    assert take_outputs() == uninterrupted
    assert not paths.CHECKPOINTS.exists()


def test_training_stopped_once_by_each_signal_ends_in_the_same_bytes(stage: Workspace) -> None:
    stop_again_and_again(list(SIGNALS), seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("kind", SIGNALS)
def test_training_stopped_at_20_random_moments_ends_in_the_same_bytes(stage: Workspace, kind: signal.Signals) -> None:
    stop_again_and_again([kind] * 20, seed=kind)


def test_a_trainer_at_work_keeps_a_second_out_and_ends_at_a_signal_with_a_checkpoint_and_one_sentence(
    stage: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [sys.executable, "-m", "pipeline.finetune"]  # as a user runs it
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        while not list(paths.CHECKPOINTS.glob("*/checkpoint-*")):
            assert process.poll() is None
            time.sleep(0.01)

        process.send_signal(signal.SIGSTOP)  # at work for as long as this test wants
        monkeypatch.setattr(finetune, "_PATIENCE", 0.1)
        with pytest.raises(UserError, match=rf"another training run \(process {process.pid}\) is at work here"):
            finetune.main()

        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGCONT)
        _, said = process.communicate()
    assert process.returncode == 143
    last = max(int(path.name.removeprefix("checkpoint-")) for path in paths.CHECKPOINTS.glob("*/checkpoint-*"))
    assert f"stopped by SIGTERM at step {last} of" in said
    assert f"`dvc repro` continues from step {last}" in said
    assert "Traceback" not in said
