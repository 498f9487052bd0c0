"""A change of the registry that is killed, or meets another one, leaves the old state or the new one, whole."""

import json
import os
import re
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier, Event
from pathlib import Path
from typing import Any

import pytest
from bentoml._internal.models import ModelStore

from pipeline.command import UserError
from pipeline.registry import store
from pipeline.registry.model_version import REQUIRED_FILES
from pipeline.registry.store import Registry

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[3]  # not from conftest, whose libraries would make each process slow to start
NAME = "text-generator"
# Audit events of what changes files; what a kill before a mere look leaves, one before the next change leaves too.
CHANGES = ("fcntl.flock", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.truncate", "shutil.copyfile")
# Every process is forked from one that has imported everything, and so starts at once.
PROCESSES = get_context("forkserver")
PROCESSES.set_forkserver_preload(["tests.pipeline.registry.test_kill", "bentoml._internal.models.model"])


@pytest.fixture(scope="module", autouse=True)
def found_from_anywhere() -> Iterator[None]:
    """Let every process that starts here find this tree's packages."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        yield


class Project:
    """A project with its registry and the store, in one folder that is put back before each kill."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = folder / "project"
        self.home = folder / "home"
        self.root.mkdir()
        shutil.copy(ROOT / "params.yaml", self.root)
        settings = (self.root / "params.yaml").read_text(encoding="utf-8")
        (self.root / "params.yaml").write_text(settings.replace("keep: 5", "keep: 1"), encoding="utf-8")

    def model(self, content: str) -> Path:
        """Return a folder with what stands for a model."""
        folder = self.folder / f"candidate-{content}"
        folder.mkdir(exist_ok=True)
        for name in (*REQUIRED_FILES, "manifest.json"):
            (folder / name).write_text(json.dumps({"content": content}), encoding="utf-8")
        return folder

    def registry(self) -> Registry:
        return Registry(self.root, NAME)

    def promote(self, content: str) -> None:
        """Do what `pipeline.promote` does: nothing, when that version is the champion."""
        ours = self.registry()
        champion = ours.champion()
        new = ours.add(self.model(content), {"data": content}, {"candidate": {"perplexity": 9.4}})
        if champion is None or champion.tag != new.tag:
            ours.move(new, expected=champion.tag if champion else None, action="promote", why=f"better: {content}")

    def keep(self) -> None:
        """Remember the present state."""
        for name in ("project", "home"):
            if (self.folder / name).exists():
                shutil.copytree(self.folder / name, self.folder / "kept" / name)

    def put_back(self) -> None:
        """Return to the state that was kept."""
        for name in ("project", "home"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
            if (self.folder / "kept" / name).exists():
                shutil.copytree(self.folder / "kept" / name, self.folder / name)

    def contents(self) -> list[str]:
        """Return which models the store holds, as BentoML lists them; each is whole."""
        if not (self.home / "models").exists():
            return []
        models = ModelStore(self.home / "models").list()
        for model in models:
            self.registry().verify(str(model.tag))
        return sorted(model.info.labels["data"] for model in models)

    def champion(self) -> str | None:
        """Return which model the pointer names; it is whole."""
        champion = self.registry().champion()
        if champion is None:
            return None
        self.registry().verify(champion.tag)
        return champion.labels["data"]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    made = Project(tmp_path)
    monkeypatch.setenv("BENTOML_HOME", str(made.home))
    monkeypatch.setattr(os, "fsync", no_wait)
    return made


def no_wait(_: int) -> None:
    """Stand in for fsync: what a kill leaves behind is the same, and a power cut is not what is tried here."""


def killed_at(number: int, change: Callable[[Project], object], project: Project) -> None:
    """Do `change`, and end without a word right before its change of this number to a file.

    Writing a file anew is two changes: it is emptied, then filled.
    """
    os.environ["BENTOML_HOME"] = str(project.home)
    os.fsync = no_wait
    left = number

    def count(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        flags = arguments[2] if event == "open" else 0
        if event in CHANGES or flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        if flags & os.O_TRUNC:
            left -= 1
            if left == 0:
                Path(arguments[0]).write_bytes(b"")
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    change(project)


def at_every_kill(project: Project, change: Callable[[Project], object]) -> Iterator[int]:
    """Do `change` again and again, killed one change to a file later each time, until it ends."""
    project.keep()
    for number in range(1, 1000):
        project.put_back()
        process = PROCESSES.Process(target=killed_at, args=(number, change, project))
        process.start()
        process.join()
        if process.exitcode == 0:
            return
        assert process.exitcode == -signal.SIGKILL
        yield number
    raise AssertionError("it never ended")


def promote_new(project: Project) -> None:
    project.promote("new")


def roll_back(project: Project) -> None:
    project.registry().rollback(None, "complaints")


def prune(project: Project) -> None:
    project.registry().prune()


def refuse(project: Project) -> None:
    project.registry().refuse("0" * 12, "worse", {})


def told(project: Project) -> list[tuple[str, str | None]]:
    """Return the history as actions and what they were about."""
    labels = {version.tag: version.labels["data"] for version in project.registry().versions()}
    entries = project.registry().history()
    assert [entry.serial for entry in entries] == list(range(1, len(entries) + 1))
    return [(entry.action, labels.get(str(entry.to))) for entry in entries]


def nothing_is_left_over(project: Project) -> None:
    hidden = project.home / ".registry"
    assert sorted(path.name for path in hidden.iterdir() if path.name != "deleted") == ["lock", "users"]
    assert not list(hidden.glob("deleted/*/*/*"))


@pytest.mark.parametrize("first", [True, False], ids=["the first champion", "a new champion"])
def test_a_killed_promotion(project: Project, first: bool) -> None:
    before = [] if first else ["old"]
    for content in before:
        project.promote(content)
    seen = set()
    for _ in at_every_kill(project, promote_new):
        champion, contents = project.champion(), project.contents()
        seen.add((champion, tuple(contents)))
        assert champion in (*(before or [None]), "new")
        assert contents in (before, sorted([*before, "new"]))
        project.promote("new")
        assert project.champion() == "new"
        assert project.contents() == sorted([*before, "new"])
        project.registry().refuse("0" * 12, "a next command", {})
        assert told(project) == [*(("promote", content) for content in before), ("promote", "new"), ("refuse", None)]
        nothing_is_left_over(project)
    old = before[0] if before else None
    both = tuple(sorted([*before, "new"]))
    assert seen == {(old, tuple(before)), (old, both), ("new", both)}  # the kills did reach every state


def test_a_killed_rollback(project: Project) -> None:
    project.promote("old")
    project.promote("new")
    seen = set()
    for _ in at_every_kill(project, roll_back):
        champion = project.champion()
        seen.add(champion)
        assert project.contents() == ["new", "old"]
        if champion == "new":
            project.registry().rollback(None, "complaints")
        assert project.champion() == "old"
        assert told(project) == [("promote", "old"), ("promote", "new"), ("rollback", "old")]
        nothing_is_left_over(project) if champion == "new" else project.registry().refuse("0" * 12, "next", {})
    assert seen == {"old", "new"}


def test_a_killed_deletion(project: Project) -> None:
    for content in ("older", "old", "new"):
        project.promote(content)
    seen = set()
    for _ in at_every_kill(project, prune):
        contents = project.contents()
        seen.add(tuple(contents))
        assert project.champion() == "new"
        project.registry().prune()
        assert project.contents() == ["new"]
        assert [entry.action for entry in project.registry().history()] == ["promote"] * 3 + ["delete"] * 2
        assert ModelStore(project.home / "models").get(NAME).info.labels == {"data": "new"}
        nothing_is_left_over(project)
    assert seen == {("new", "old", "older"), ("new", "old"), ("new",)}


def test_a_killed_refusal(project: Project) -> None:
    project.promote("old")
    for _ in at_every_kill(project, refuse):
        assert project.champion() == "old"
        project.registry().refuse("0" * 12, "worse", {})
        assert [entry.action for entry in project.registry().history()] in (
            ["promote", "refuse"],
            ["promote", "refuse", "refuse"],
        )


def promote_at_once(project: Project, content: str, both_have_seen: Barrier) -> None:
    """Judge a candidate against the champion, wait until another one was judged too, then promote."""
    os.environ["BENTOML_HOME"] = str(project.home)
    ours = project.registry()
    champion = ours.champion()
    assert champion is not None
    new = ours.add(project.model(content), {"data": content}, {})
    both_have_seen.wait(300)
    try:
        ours.move(new, expected=champion.tag, action="promote", why=content)
        (project.folder / f"{content}.told").write_text("won")
    except UserError as error:
        (project.folder / f"{content}.told").write_text(str(error))


def test_of_two_promotions_at_once_one_wins_and_the_other_is_told(project: Project) -> None:
    project.promote("old")
    barrier = PROCESSES.Barrier(2)
    both = [PROCESSES.Process(target=promote_at_once, args=(project, content, barrier)) for content in ("a", "b")]
    for process in both:
        process.start()
    for process in both:
        process.join()
    told = {content: (project.folder / f"{content}.told").read_text() for content in ("a", "b")}
    won, lost = sorted(told, key=lambda content: told[content] != "won")
    assert told[won] == "won"
    assert re.fullmatch(
        f"the champion changed from {NAME}:.{{40}} to {NAME}:.{{40}} while {NAME}:.{{40}} was being judged; "
        "run it again",
        told[lost],
    )
    assert project.champion() == won
    assert [entry.why for entry in project.registry().history()] == ["better: old", won]
    assert project.contents() == ["a", "b", "old"]  # the loser's is there already when it is run again


def hold(lock: Path, held: Event, enough: Event) -> None:
    with store._locked(lock):
        held.set()
        enough.wait(300)


def test_who_waits_too_long_is_told_who_holds_the_lock(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    held, enough = PROCESSES.Event(), PROCESSES.Event()
    other = PROCESSES.Process(target=hold, args=(project.root / "registry" / "lock", held, enough))
    other.start()
    held.wait(300)
    with monkeypatch.context() as patch:
        patch.setattr(store, "LOCK_SECONDS", 0.1)
        with pytest.raises(UserError, match=rf"/lock: held for more than 0\.1 s by process {other.pid} of .* since"):
            refuse(project)
    enough.set()
    refuse(project)
    other.join()
