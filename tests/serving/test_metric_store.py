"""Metrics on a disk that is full: the worker goes on, and says which metrics are missing."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from serving import metric_store
from tests.serving.conftest import REPOSITORY

COUNTS = """
import os, sys
from serving import metrics
from serving.bentoml_internals import BentoMLContainer
for number in range(90):
    for _ in range(2):
        metrics.count_error(400, f"{'x' * 3000}{number}")
print(BentoMLContainer.metrics_client.get().generate_latest().decode().count("_refusals_total{"))
"""


def counted(folder: Path, prefix: tuple[str, ...] = ()) -> "subprocess.CompletedProcess[str]":
    """Count 90 refusals with long labels, 300 kB of metrics, in a process of its own."""
    environment = {**os.environ, metric_store.FOLDER: str(folder)}
    command = [*prefix, sys.executable, "-W", "ignore", "-c", COUNTS]
    return subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)


def test_files_grow_with_their_blocks_and_hold_every_value(tmp_path: Path) -> None:
    done = counted(tmp_path)
    assert (done.returncode, done.stdout) == (0, "90\n"), done.stderr
    [counters] = tmp_path.glob("counter_*.db")
    assert counters.stat().st_size == 1 << 19
    assert counters.stat().st_blocks * 512 >= 1 << 19  # nothing is sparse


def test_values_without_space_stay_in_memory_and_the_rest_is_shown(tmp_path: Path) -> None:
    name = str(tmp_path / "counter_1.db")
    file = metric_store.ReservedFile(name)
    file.write_value("first", 1, 0)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, hard))  # Python ignores the signal: it is an OSError
    try:
        for number in range(2000):
            file.write_value(f"{number:0100}", number, 0)
            assert file.read_value(f"{number:0100}") == (number, 0)
        file.write_value("first", 2, 0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    file.close()
    assert Path(name).stat().st_size == 1 << 16
    shown = {key: value for key, value, *_ in metric_store.ReservedFile.read_all_values_from_file(name)}
    assert shown["first"] == 2
    assert 300 < len(shown) < 2000


def test_without_any_space_all_is_kept_in_memory(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        file = metric_store.ReservedFile(str(tmp_path / "counter_1.db"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    file.write_value("first", 2, 1)
    assert file.read_value("first") == (2, 1)
    file.close()


FULL = """
mount -t tmpfs -o size=200k tmpfs "$0"
"$@"
"""


@pytest.mark.skipif(
    sys.platform != "linux" or subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False).returncode,
    reason="needs a mount of its own",
)
def test_a_full_disk_does_not_kill_the_process(tmp_path: Path) -> None:
    done = counted(tmp_path, ("unshare", "-rm", "sh", "-ec", FULL, str(tmp_path)))
    assert done.returncode == 0, done.stderr
    assert 10 < int(done.stdout) < 90
    assert "No space left on device" in done.stderr
