"""DVC's stages as a flow runs them: outcomes, failures, output, time limits, and that every process ends."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from flows.runtime import output_lines, stages
from flows.runtime.stages import StageFailed, reproduce
from pipeline.dvc_repo import pipeline_nodes, remove_stale_rwlock
from pipeline.workspace import Busy, claim
from tests.conftest import ROOT
from tests.flows.conftest import TRAINS_ON, Project, gone, within

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore:_NoneStep.value will soon:DeprecationWarning"),  # DVC calls it
]


AUTOGROUP = "/proc/self/autogroup"  # Linux's niceness of a session


def run(node: str, log: list[str] | None = None, minutes: float | None = None, force: bool = False) -> str:
    return reproduce(Path(), node, force=force, minutes=minutes, log=(log if log is not None else []).append)


def test_nodes_are_in_the_order_of_dvc_repro(project: Project) -> None:
    assert [(node.name, node.after) for node in pipeline_nodes(Path())] == [
        ("data/corpus.csv.dvc", ()),
        ("validate", ("data/corpus.csv.dvc",)),
        ("tokenize", ("validate",)),
        ("finetune", ("tokenize",)),
    ]


def test_the_outcomes_are_ran_skipped_and_cached(project: Project) -> None:
    assert run("validate") == "Ran"
    assert run("validate") == "Skipped"
    assert run("data/corpus.csv.dvc") == "Skipped"
    project.set(validate__column="other")
    assert run("validate") == "Ran"
    project.set(validate__column="text")
    assert run("validate") == "Cached"
    assert run("validate", force=True) == "Ran"


def test_changed_data_reruns_its_node_and_the_next_stage(project: Project) -> None:
    run("validate")
    project.write_corpus("text\nOnce upon another time.\n")
    assert run("data/corpus.csv.dvc") == "Ran"
    assert run("validate") == "Ran"


def failure(project: Project, script: str) -> StageFailed:
    project.script("validate.py", script)
    with pytest.raises(StageFailed) as failed:
        run("validate")
    return failed.value


def test_a_failed_stage_gives_its_error_message_and_exit_code(project: Project) -> None:
    failed = failure(
        project, "import sys; print('reading'); sys.stderr.write('error: line 3: one\\nline 4: two\\n'); sys.exit(2)"
    )
    assert (failed.stage, failed.code, failed.line) == ("validate", 2, "line 3: one\nline 4: two")
    assert "reading" in failed.tail


def test_a_traceback_gives_its_last_line(project: Project) -> None:
    failed = failure(project, "raise ValueError('row 7 is odd')")
    assert (failed.code, failed.line) == (1, "ValueError: row 7 is odd")


def test_a_killed_stage_is_reported_as_killed(project: Project) -> None:
    failed = failure(project, "import os; os.kill(os.getpid(), 9)")
    assert "killed by SIGKILL; the usual cause is that the machine ran out of memory" in failed.line


def test_an_error_of_dvc_itself_is_passed_on(project: Project) -> None:
    with pytest.raises(StageFailed, match=r"tokenize: .*made/clean\.txt"):
        run("tokenize")


def test_lines_arrive_while_the_stage_runs_with_invalid_bytes_replaced(project: Project) -> None:
    project.script(
        "validate.py",
        "import os, sys, time; sys.stdout.buffer.write(b'caf\\xe9\\n'); sys.stdout.flush()\n"
        "while not os.path.exists('seen'): time.sleep(0.02)\n"
        "open('made/clean.txt', 'w')",
    )

    def log(line: str) -> None:
        if line == "caf\N{REPLACEMENT CHARACTER}":
            Path("seen").touch()  # the stage waits for it, so it would never end if lines came at its end

    assert reproduce(Path(), "validate", force=False, minutes=10, log=log) == "Ran"


@pytest.mark.parametrize(("every", "fewest", "most"), [(0.0, 50, 101), (3600.0, 1, 1)])
def test_a_progress_bar_is_thinned_to_some_lines_and_its_last_state(
    project: Project, monkeypatch: pytest.MonkeyPatch, every: float, fewest: int, most: int
) -> None:
    monkeypatch.setattr(output_lines, "BAR_SECONDS", every)
    project.script(
        "validate.py",
        "import sys, time\n"
        "for done in range(100): sys.stderr.write(f'\\r{done:3d}%'); sys.stderr.flush(); time.sleep(0.005)\n"
        "sys.stderr.write('\\r100%\\n')\n"
        "sys.stderr.write('\\r    \\rover\\r\\n')\n"
        "open('made/clean.txt', 'w')",
    )
    log: list[str] = []
    run("validate", log)
    bars = [line for line in log if line.endswith("%")]
    assert bars[-1] == "100%"
    assert fewest <= len(bars) <= most
    assert "over" in log
    assert all(line.strip() for line in log)


def test_nested_progress_bars_are_thinned_and_lose_terminal_codes(project: Project) -> None:
    project.script(
        "validate.py",
        "import time\n"
        "from tqdm import tqdm\n"
        "for _ in tqdm(range(2), desc='outer', mininterval=0):\n"
        "    for _ in tqdm(range(50), desc='inner', mininterval=0, leave=False): time.sleep(0.01)\n"
        "open('made/clean.txt', 'w')",
    )
    log: list[str] = []
    run("validate", log)
    bars = [line for line in log if line.startswith(("outer", "inner"))]
    assert bars[-1].startswith("outer: 100%")
    assert len(bars) < 10
    assert not any("\x1b" in line for line in log)


@pytest.fixture
def time_is_up_once_it_trains(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the clock of `output_lines` jump by an hour once the script TRAINS_ON runs."""

    def monotonic() -> float:
        return time.monotonic() + 3600 * (project.folder / "pids").exists()

    monkeypatch.setattr(output_lines, "time", SimpleNamespace(monotonic=monotonic))


@pytest.mark.usefixtures("time_is_up_once_it_trains")
def test_a_time_limit_ends_the_whole_tree_after_a_checkpoint(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "GRACE", 300.0)
    project.script("validate.py", TRAINS_ON)
    with pytest.raises(TimeoutError, match=r"validate took longer than 30 minutes .* retrain\.minutes\.validate"):
        run("validate", minutes=30)
    assert gone(project.trainers())
    assert (project.folder / "checkpoint").read_text() == "whole"


@pytest.mark.usefixtures("time_is_up_once_it_trains")
def test_a_stage_that_ignores_sigterm_is_killed(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "GRACE", 1.0)
    project.script("validate.py", TRAINS_ON.replace("time.sleep(1)\n", "time.sleep(600)\n"))
    with pytest.raises(TimeoutError):
        run("validate", minutes=30)
    assert gone(project.trainers())
    assert not (project.folder / "checkpoint").exists()


def test_background_processes_of_a_stage_end_with_it(project: Project) -> None:
    project.script(
        "validate.py",
        "import subprocess\n"
        "child = subprocess.Popen(['sleep', '600'], start_new_session=True)\n"
        "open('made/clean.txt', 'w').write(str(child.pid))",
    )
    run("validate")
    assert gone([int((project.folder / "made" / "clean.txt").read_text())])


def test_a_stage_runs_at_low_priority(project: Project) -> None:
    write_niceness = "open('made/clean.txt', 'w').write(str(os.getpriority(os.PRIO_PROCESS, 0)) + '\\n')\n"
    group = f"open('made/clean.txt', 'a').write(open('{AUTOGROUP}').read())"
    project.script("validate.py", f"import os\n{write_niceness}if os.path.exists('{AUTOGROUP}'):\n    {group}\n")
    run("validate")
    own, *of_session = (project.folder / "made" / "clean.txt").read_text().splitlines()
    assert int(own) == min(19, os.getpriority(os.PRIO_PROCESS, 0) + 10)
    if of_session:
        assert of_session[0].endswith(" nice 10")


FLOW = """
import os
from pathlib import Path
from flows.runtime import stages
from flows.runtime.stages import reproduce
from pipeline.workspace import claim
stages.GRACE = 300.0
with claim(Path(), "a test"):
    reproduce(Path(), "validate", force=False, minutes=None, log=print)
"""


def start(project: Project) -> subprocess.Popen[bytes]:
    """Start a process that holds the claim and trains, as a flow does."""
    return subprocess.Popen(
        [sys.executable, "-c", FLOW], cwd=project.folder, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )


def test_a_killed_flow_leaves_no_process_and_holds_its_lock_until_then(project: Project) -> None:
    holds_on = "while not os.path.exists('may_end'): time.sleep(0.05)\n"
    project.script("validate.py", TRAINS_ON.replace("time.sleep(1)\n", holds_on))
    flow = start(project)
    trainers = project.trainers()
    flow.kill()
    flow.wait()
    with pytest.raises(Busy, match=rf"a test is at work .* \(process {flow.pid}\)"), claim(Path(), "another"):
        pass  # the checkpoint is not written yet
    Path("may_end").touch()
    with claim(Path(), "another", patience=300):
        assert gone(trainers)
    assert (project.folder / "checkpoint").read_text() == "whole"
    project.script("validate.py", "open('made/clean.txt', 'w')")
    assert run("validate") == "Ran"


def test_a_killed_supervisor_leaves_no_process(project: Project) -> None:
    project.script("validate.py", TRAINS_ON)
    flow = start(project)
    trainers = project.trainers()
    [supervisor] = psutil.Process(flow.pid).children()
    supervisor.kill()
    assert flow.wait(300) != 0
    assert within(300, lambda: gone(trainers))


@pytest.mark.slow
def test_20_kills_at_random_moments_leave_no_process_and_no_lock(project: Project) -> None:
    project.script("validate.py", TRAINS_ON)
    moments = random.Random(1)
    for _ in range(20):
        (project.folder / "pids").unlink(missing_ok=True)
        flow = start(project)
        time.sleep(moments.uniform(0, 4))
        tree = [process.pid for process in psutil.Process(flow.pid).children(recursive=True)]
        os.kill(flow.pid, signal.SIGKILL)
        flow.wait()
        with claim(Path(), "another", patience=300):
            assert gone(tree)
            remove_stale_rwlock(Path())
    project.script("validate.py", "open('made/clean.txt', 'w')")
    assert run("validate") == "Ran"


def rwlock(pid: int) -> Path:
    path = Path(".dvc/tmp/rwlock")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        json.dumps({"read": {}, "write": {str(Path("made/clean.txt").absolute()): {"pid": pid, "cmd": "x"}}})
    )
    return path


def test_a_stale_rwlock_is_removed(
    project: Project,
) -> None:
    rwlock(1).write_text("{")
    remove_stale_rwlock(Path())
    assert run("validate") == "Ran"

    path = rwlock(os.getpid())
    os.utime(path, (0, 0))  # from before this process, as after a restart of the machine
    remove_stale_rwlock(Path())
    assert run("validate", force=True) == "Ran"


def test_the_rwlock_of_a_running_dvc_is_kept(project: Project) -> None:
    path = rwlock(os.getpid())
    remove_stale_rwlock(Path())
    assert path.exists()
    with pytest.raises(StageFailed, match=r"validate: .*is busy"):
        run("validate")
