"""Why a retraining would run now, or not, from a real DVC project and a real registry."""

import json
import re
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from flows.triggers import Origin, Reason, find_reason, run_origin
from pipeline import paths
from pipeline.command import UserError
from pipeline.registry.store import Registry
from tests.conftest import ROOT
from tests.flows.conftest import Project

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore:_NoneStep.value will soon:DeprecationWarning"),  # DVC calls it
]
VERSION = "0123456789ab"


def write_json(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


@pytest.fixture(scope="module")
def judged(fresh_project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a project whose stages have run and whose candidate was refused, to be copied."""
    folder = tmp_path_factory.mktemp("judged")
    project = object.__new__(Project)
    project.folder = folder / "project"
    shutil.copytree(fresh_project, project.folder)
    project.run("dvc", "repro", "-q")
    write_json(project.folder / paths.MANIFEST, {})
    write_json(project.folder / paths.EVALUATE_METRICS, {"candidate": {"version": VERSION}})
    write_json(project.folder / paths.VALIDATE_METRICS, {"corpus": "data/corpus.csv", "rows_in": 1})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENTOML_HOME", str(folder / "bentoml"))
        Registry(project.folder).refuse(VERSION, "Not promoted: Worse than the champion.", {})
    return project.folder


@pytest.fixture
def ready(judged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """Return such a project of the test's own; it is the current folder."""
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "bentoml"))
    project = object.__new__(Project)
    project.folder = tmp_path / "project"
    shutil.copytree(judged, project.folder)
    monkeypatch.chdir(project.folder)
    return project


def test_nothing_new_gives_the_last_verdict(ready: Project) -> None:
    reason = find_reason(Path())
    now = datetime.now().astimezone()
    assert re.fullmatch(
        rf"nothing new since the verdict of {now:%Y}-\d\d-\d\d \d\d:\d\d \(not promoted: Worse than the champion\)",
        reason.sentence,
    )
    assert reason == Reason(False, reason.sentence, (), {"candidate": VERSION})


def test_the_time_of_the_verdict_is_local(ready: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    at = datetime.fromisoformat(Registry().history()[-1].at)
    assert at.tzinfo == UTC
    monkeypatch.setenv("TZ", "Etc/GMT-5")  # five hours ahead
    time.tzset()
    try:
        hour = f"{(at.hour + 5) % 24:02}:{at.minute:02}"
        assert hour in find_reason(Path()).sentence
    finally:
        monkeypatch.undo()
        time.tzset()


def test_new_rows_are_counted_by_the_intake(ready: Project) -> None:
    ready.write_corpus('text\nOnce upon a time.\n"Two\nlines."\nThree.\n')
    reason = find_reason(Path())
    assert (reason.run, reason.sentence, reason.kinds) == (True, "new rows: 2 (data/corpus.csv)", ("rows",))
    assert reason.details["rows"] == {"path": "data/corpus.csv", "before": 1, "now": 3, "new": 2}


def test_edited_and_deleted_rows_differ_from_new_ones(ready: Project) -> None:
    ready.write_corpus("text\nTwice upon a time.\n")
    assert find_reason(Path()).sentence == "rows changed: 1 as before (data/corpus.csv)"
    write_json(paths.VALIDATE_METRICS, {"corpus": "data/corpus.csv", "rows_in": 1200})
    assert find_reason(Path()).sentence == "fewer rows: 1,200 -> 1 (data/corpus.csv)"


def test_an_unreadable_corpus_is_a_reason_with_the_error(ready: Project) -> None:
    ready.write_corpus("text\nOnce, upon a time.\n")
    reason = find_reason(Path())
    assert reason.run
    assert reason.sentence.startswith(
        "the corpus changed and cannot be read, so a run will fail: data/corpus.csv, line 2: 2 fields"
    )
    assert "\n" not in reason.sentence


def test_all_rows_are_new_after_a_refused_corpus(ready: Project) -> None:
    paths.VALIDATE_METRICS.unlink()  # as the stage does when it begins
    ready.write_corpus("text\nA.\nB.\n")
    assert find_reason(Path()).sentence == "the corpus changed: 2 rows (data/corpus.csv)"


def test_another_corpus_is_a_reason(ready: Project) -> None:
    ready.write_corpus("text\nA.\nB.\n", "data/mine.csv")
    reason = find_reason(Path())
    assert reason.sentence == "another corpus: 2 rows (data/mine.csv)"
    assert reason.kinds == ("rows",)


def test_changed_settings_and_code_are_reasons(ready: Project) -> None:
    ready.set(finetune__epochs=4)
    reason = find_reason(Path())
    assert (reason.sentence, reason.kinds) == ("params.yaml: finetune.epochs 3 -> 4", ("params",))
    ready.script("finetune.py", "pass")
    reason = find_reason(Path())
    assert reason.sentence == "params.yaml: finetune.epochs 3 -> 4; code changed: finetune.py"
    assert reason.details == {"candidate": VERSION, "params": {"finetune.epochs": [3, 4]}, "code": ["finetune.py"]}


def test_a_setting_that_no_stage_reads_is_no_reason(ready: Project) -> None:
    ready.set(service__timeout=61)
    assert not find_reason(Path()).run


def test_a_changed_command_is_a_reason(ready: Project) -> None:
    text = Path("dvc.yaml").read_text()
    Path("dvc.yaml").write_text(text.replace("cmd: python finetune.py", "cmd: python -u finetune.py"))
    assert find_reason(Path()).sentence == "code changed: the command of finetune"


def test_missing_and_edited_outputs_are_reasons(ready: Project) -> None:
    Path("made/model.txt").unlink()
    assert find_reason(Path()).sentence == "outputs missing: made/model.txt"
    Path("made/model.txt").write_text("mine")
    assert find_reason(Path()).sentence == "outputs changed by hand: made/model.txt"


def test_an_interrupted_run_is_a_reason(ready: Project) -> None:
    ready.write_corpus("text\nOnce upon another time.\n")
    ready.run("dvc", "repro", "-q", "--single-item", "data/corpus.csv.dvc")
    ready.run("dvc", "repro", "-q", "--single-item", "validate")
    reason = find_reason(Path())
    assert (reason.sentence, reason.kinds) == ("an earlier run ended before tokenize", ("unfinished",))


def test_no_candidate_is_a_reason(project: Project) -> None:
    reason = find_reason(Path())
    assert (reason.run, reason.sentence, reason.kinds) == (True, "no candidate yet", ("candidate",))


def test_a_candidate_without_a_verdict_is_a_reason(ready: Project) -> None:
    write_json(paths.EVALUATE_METRICS, {"candidate": {"version": "ba9876543210"}})
    assert find_reason(Path()).sentence == "the candidate ba9876543210 has no verdict yet"


def test_an_unexecuted_verdict_is_a_reason_only_if_it_was_yes(
    ready: Project,
) -> None:
    version = "ba9876543210"
    write_json(paths.EVALUATE_METRICS, {"candidate": {"version": version}})
    verdict = {"candidate": {"version": version}, "promoted": False, "reasons": ["It loops."]}
    write_json(paths.VERDICT, {**verdict, "at": "2026-11-22T02:30:00+00:00"})
    reason = find_reason(Path())
    assert not reason.run
    assert reason.sentence.endswith("(not promoted: It loops)")
    write_json(paths.VERDICT, {**verdict, "promoted": True, "at": "2026-11-22T02:30:00+00:00"})
    reason = find_reason(Path())
    assert (reason.run, reason.kinds) == (True, ("verdict",))
    assert re.fullmatch(
        rf"the candidate {version} passed on 2026-11-2\d \d\d:\d\d and was not promoted", reason.sentence
    )


def test_a_rolled_back_candidate_is_not_judged_again(ready: Project, tiny_gpt2: Path, tmp_path: Path) -> None:
    registry = Registry()
    champion = None
    for content in ("old", "new"):
        folder = tmp_path / content
        shutil.copytree(tiny_gpt2, folder)
        write_json(folder / "manifest.json", {"content": content})
        version = registry.add(folder, {}, {})
        registry.move(version, expected=champion, action="promote", why="Promoted: Better than the champion.")
        champion = version.tag
    write_json(paths.EVALUATE_METRICS, {"candidate": {"version": str(champion).partition(":")[2]}})
    assert find_reason(Path()).sentence.endswith("(promoted: Better than the champion)")
    registry.rollback(None, "complaints")
    reason = find_reason(Path())
    assert not reason.run
    assert reason.sentence.endswith("(promoted, then rolled back: complaints)")


def test_a_persons_reason_is_enough(ready: Project) -> None:
    reason = find_reason(Path(), Origin(person="the boss\nwants it"))
    assert (reason.run, reason.kinds) == (True, ("person",))
    assert reason.sentence.startswith('a person: "the boss wants it"; nothing new since the verdict of ')
    ready.set(finetune__epochs=4)
    reason = find_reason(Path(), Origin(person="more epochs"))
    assert reason.sentence == 'a person: "more epochs"; params.yaml: finetune.epochs 3 -> 4'


def test_the_trigger_comes_before_the_news(ready: Project) -> None:
    reason = find_reason(Path(), Origin(trigger="schedule"))
    assert not reason.run
    assert reason.sentence.startswith("schedule: nothing new since the verdict of ")
    ready.write_corpus("text\nOnce upon a time.\nTwice.\n")
    assert find_reason(Path(), Origin(trigger="schedule")).sentence == "schedule and new rows: 1 (data/corpus.csv)"
    assert (
        find_reason(Path(), Origin(trigger="drift 1.31 > 1.20")).sentence
        == "drift 1.31 > 1.20 and new rows: 1 (data/corpus.csv)"
    )
    told_by_the_watch = "new rows: 1 (data/corpus.csv)"
    assert find_reason(Path(), Origin(trigger=told_by_the_watch)).sentence == told_by_the_watch


def test_the_origin_of_a_run_follows_from_tags_and_reason() -> None:
    assert run_origin(["auto-scheduled", "text-generator"], None) == Origin(trigger="schedule")
    assert run_origin(["watch"], "drift 1.31 > 1.20") == Origin(trigger="drift 1.31 > 1.20")
    assert run_origin([], "an event corpus.changed was posted") == Origin(trigger="an event corpus.changed was posted")
    assert run_origin([], "because") == Origin(person="because")


def test_finding_a_reason_changes_no_file(ready: Project) -> None:
    ready.write_corpus("text\nOnce upon another time.\n")

    def state() -> dict[str, bytes]:
        files = (path for path in Path().rglob("*") if path.is_file())
        return {str(path): path.read_bytes() for path in files if not str(path).startswith((".dvc/tmp", ".dvc/cache"))}

    before = state()
    find_reason(Path())
    assert state() == before


def test_finding_a_reason_does_not_wait_for_a_running_stage(ready: Project) -> None:
    with (Path() / ".dvc" / "tmp" / "rwlock").open("w") as lock:
        json.dump({"write": {str(Path("made/model.txt").absolute()): {"pid": 1, "cmd": "x"}}, "read": {}}, lock)
    assert not find_reason(Path()).run


def test_the_command_prints_one_line_or_json_and_sets_the_exit_code(ready: Project) -> None:
    def ask(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "cli", "why", *arguments]
        return subprocess.run(command, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False)

    done = ask()
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.startswith("nothing new since the verdict of ")
    assert done.stdout.count("\n") == 1
    ready.set(finetune__epochs=4)
    done = ask("--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["sentence"] == "params.yaml: finetune.epochs 3 -> 4"
    Path("dvc.yaml").write_text("stages: {validate: {cmds: x}}")
    done = ask()
    assert done.returncode == 2
    assert done.stderr.startswith("error: DVC cannot load the pipeline: ")


def test_invalid_params_are_a_user_error(ready: Project) -> None:
    ready.set(finetune__epochs=0)
    with pytest.raises(UserError, match=r"finetune\.epochs"):
        find_reason(Path())


def test_another_spelling_of_the_path_is_the_same_corpus(ready: Project) -> None:
    ready.write_corpus("text\nA.\nB.\n")
    ready.set(data__path="./data/corpus.csv")
    assert find_reason(Path()).sentence.startswith("new rows: 1 (data/corpus.csv)")
    write_json(paths.VALIDATE_METRICS, {"corpus": "./data//corpus.csv", "rows_in": 1})  # of an earlier version
    assert find_reason(Path()).sentence.startswith("new rows: 1 (data/corpus.csv)")
