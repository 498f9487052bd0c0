"""Two processes train like one: the same rows once an epoch, the same losses, and they end and resume together."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from itertools import chain
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from pipeline import finetune, paths, tokenize
from pipeline.training.devices import ResumableBatchSampler
from tests.conftest import LINES, ROOT, Workspace

pytestmark = pytest.mark.integration

COMMAND = [sys.executable, "-m", "pipeline.finetune"]
STORES: list[TCPStore] = []  # where processes meet; kept until the end


@pytest.fixture
def stage(workspace: Workspace, tiny_gpt2: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """Return a workspace with 21 rows to train on: in steps of 4, the last leaves one of two devices without a row."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    workspace.start_from(tiny_gpt2)
    texts = [f"{line} {number}" for number in range(7) for line in LINES]
    splits = ["train", "train", "train", "validation"] * 6 + ["train"] * 3 + ["test"]
    pd.DataFrame({"row": range(2, 30), "text": texts, "split": splits}).to_parquet(paths.CLEAN)
    workspace.set(
        tokenize__max_length=32,
        finetune__batch_size=4,
        finetune__epochs=3,
        finetune__learning_rate=1e-2,
        finetune__dropout=0.0,
        finetune__precision="fp32",
    )
    tokenize.main()
    return workspace


def losses() -> tuple[list[float], list[float]]:
    return tuple(pd.read_csv(path)["loss"].tolist() for path in (paths.TRAINING_LOSS, paths.VALIDATION_LOSS))


def hashes() -> dict[str, bytes]:
    files = {*paths.CANDIDATE.iterdir(), *paths.FINETUNE_METRICS.parent.iterdir()} - {paths.TRAINING_PROGRESS}
    return {str(file): file.read_bytes() for file in files}


@pytest.mark.parametrize("at_once", [1, 3, 6])
@pytest.mark.parametrize("rows", [24, 25, 26, 29, 35])
def test_devices_see_each_row_once_an_epoch_in_the_steps_of_a_single_one(rows: int, at_once: int) -> None:
    alone = ResumableBatchSampler(rows, 12, 12, seed=1)
    shares = [ResumableBatchSampler(rows, 12, at_once, 1, (rank, 2)) for rank in (0, 1)]
    for epoch in range(2):
        for batches in (alone, *shares):
            batches.set_epoch(epoch)
        parts = [[row for share in part for row in share] for part in zip(*shares, strict=True)]
        assert len(parts) == len(shares[0])
        per_step = 6 // at_once
        steps = [list(chain(*parts[at : at + per_step])) for at in range(0, len(parts), per_step)]
        assert [sorted(row for row in step if row >= 0) for step in steps] == [sorted(step) for step in alone]


def test_an_epoch_has_an_order_of_its_own() -> None:
    batches = ResumableBatchSampler(20, 4, 4, seed=1)
    first = list(batches)
    assert list(batches) == first
    batches.set_epoch(1)
    assert list(batches) != first


def test_two_devices_reach_the_losses_of_one_and_resume_to_the_same_bytes(stage: Workspace) -> None:
    finetune.main()
    training, validation = losses()

    stage.set(finetune__devices=2)
    subprocess.run(COMMAND, check=True)
    assert losses()[0] == pytest.approx(training, abs=1e-4)
    assert losses()[1] == pytest.approx(validation, abs=1e-4)

    stage.set(finetune__rows_at_once=1)
    subprocess.run(COMMAND, check=True)
    assert losses()[0] == pytest.approx(training, abs=1e-4)
    assert losses()[1] == pytest.approx(validation, abs=1e-4)
    uninterrupted = hashes()

    stage.set(finetune__checkpoint_seconds=1e-3)
    for number, code in ((signal.SIGTERM, 143), (signal.SIGKILL, -9)):
        with subprocess.Popen(COMMAND) as process:
            before = set(paths.CHECKPOINTS.glob("*/checkpoint-*"))
            while not set(paths.CHECKPOINTS.glob("*/checkpoint-*")) - before:
                assert process.poll() is None
                time.sleep(0.005)
            process.send_signal(number)
        assert process.returncode == code
    stage.set(finetune__checkpoint_seconds=300)
    subprocess.run(COMMAND, check=True)
    assert hashes() == uninterrupted


def test_a_model_split_among_devices_reaches_the_losses_of_one_and_resumes_to_the_same_bytes(
    stage: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    stage.set(finetune__epochs=2)
    finetune.main()
    training, validation = losses()

    stage.set(finetune__devices=2, finetune__sharding="fsdp")
    assert exit_codes(start_two()) == [0, 0]
    assert losses()[0] == pytest.approx(training, abs=1e-4)
    assert losses()[1] == pytest.approx(validation, abs=1e-4)
    uninterrupted = hashes()

    stage.set(finetune__checkpoint_seconds=1e-3)
    for number in (signal.SIGTERM, signal.SIGKILL):
        before = set(paths.CHECKPOINTS.glob("*/checkpoint-*"))
        processes = start_two()
        while not set(paths.CHECKPOINTS.glob("*/checkpoint-*")) - before:
            assert all(process.is_alive() for process in processes)
            time.sleep(0.005)
        for process in processes if number == signal.SIGKILL else processes[:1]:  # the first decides when to stop
            os.kill(process.pid or 0, number)
        assert exit_codes(processes) == ([143, 143] if number == signal.SIGTERM else [-9, -9])
    stage.set(finetune__checkpoint_seconds=300)
    assert exit_codes(start_two()) == [0, 0]
    assert hashes() == uninterrupted


def test_what_else_saves_memory_goes_with_splitting(stage: Workspace) -> None:
    stage.set(finetune__epochs=1, finetune__lora_rank=4)
    finetune.main()
    training, validation = losses()
    stage.set(finetune__devices=2, finetune__sharding="fsdp")
    stage.set(finetune__activation_checkpointing=True, finetune__rows_at_once=1)
    assert exit_codes(start_two()) == [0, 0]
    assert losses()[0] == pytest.approx(training, abs=1e-4)
    assert losses()[1] == pytest.approx(validation, abs=1e-4)
    assert paths.ADAPTER.is_dir()


def start_two() -> list[ForkServerProcess]:
    """Start the stage in two processes, forked where everything is imported already: imports take most of a run."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    shared = {
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }
    processes = [
        context.Process(target=train, args=(Path.cwd(), {**shared, "RANK": rank, "LOCAL_RANK": rank})) for rank in "01"
    ]
    STORES.append(store)
    for process in processes:
        process.start()
    return processes


def train(folder: Path, environment: dict[str, str]) -> None:
    os.chdir(folder)
    os.environ.update(environment)
    torch.set_num_threads(1)
    finetune.main()


def exit_codes(processes: list[ForkServerProcess]) -> list[int | None]:
    for process in processes:
        process.join()
    return [process.exitcode for process in processes]
