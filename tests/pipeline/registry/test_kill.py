"""A change that is killed, or meets another one, leaves the registry in its old or its new state, whole."""

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

from pipeline import storage
from pipeline.command import UserError
from pipeline.registry import change as change_module
from pipeline.registry.store import Registry
from tests.pipeline.registry.models import NAME, make_model

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[3]  # not from conftest, whose libraries would make each process slow to start
# Audit events of what changes files: a kill before anything else leaves the same as one before the next change.
CHANGES = ("fcntl.flock", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.truncate", "shutil.copyfile")
# Every process is forked from one that has imported everything, so that it starts quickly.
PROCESSES = get_context("forkserver")
PROCESSES.set_forkserver_preload(["tests.pipeline.registry.test_kill", "bentoml._internal.models.model"])


@pytest.fixture(scope="module", autouse=True)
def importable_from_anywhere() -> Iterator[None]:
    """Let every process that starts here find this tree's packages."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        yield


class Project:
    """A project with its registry and the store, in one folder that is restored before each kill."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = folder / "project"
        self.home = folder / "home"
        self.root.mkdir()
        shutil.copy(ROOT / "params.yaml", self.root)
        settings = (self.root / "params.yaml").read_text(encoding="utf-8")
        (self.root / "params.yaml").write_text(settings.replace("keep: 5", "keep: 1"), encoding="utf-8")

    def model(self, content: str) -> Path:
        return make_model(content, self.folder / f"candidate-{content}")

    def registry(self) -> Registry:
        return Registry(self.root, NAME)

    def promote(self, content: str) -> None:
        """Do what `pipeline.promote` does: nothing, when that version is the champion."""
        registry = self.registry()
        champion = registry.champion()
        new = registry.add(self.model(content), {"data": content}, {"candidate": {"perplexity": 9.4}})
        if champion is None or champion.tag != new.tag:
            registry.move(new, expected=champion.tag if champion else None, action="promote", why=f"better: {content}")

    def save(self) -> None:
        """Save the present state."""
        for name in ("project", "home"):
            if (self.folder / name).exists():
                shutil.copytree(self.folder / name, self.folder / "saved" / name)

    def restore(self) -> None:
        """Return to the saved state."""
        for name in ("project", "home"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
            if (self.folder / "saved" / name).exists():
                shutil.copytree(self.folder / "saved" / name, self.folder / name)

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
    monkeypatch.setattr(os, "fsync", no_fsync)
    return made


def no_fsync(_: int) -> None:
    """Replace fsync: it changes nothing after a kill, only after a power cut."""


def killed_at(number: int, change: Callable[[Project], object], project: Project) -> None:
    """Run `change` and kill this process right before the change of this number to a file.

    Rewriting a file is two changes: it is truncated, then filled.
    """
    os.environ["BENTOML_HOME"] = str(project.home)
    os.fsync = no_fsync
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
    """Run `change` again and again, killed one change to a file later each time, until it completes."""
    project.save()
    for number in range(1, 1000):
        project.restore()
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


def recorded_actions(project: Project) -> list[tuple[str, str | None]]:
    """Return the history as actions and the models they reached."""
    labels = {version.tag: version.labels["data"] for version in project.registry().versions()}
    entries = project.registry().history()
    assert [entry.serial for entry in entries] == list(range(1, len(entries) + 1))
    return [(entry.action, labels.get(str(entry.to))) for entry in entries]


def assert_nothing_left_over(project: Project) -> None:
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
        assert recorded_actions(project) == [
            *(("promote", content) for content in before),
            ("promote", "new"),
            ("refuse", None),
        ]
        assert_nothing_left_over(project)
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
        assert recorded_actions(project) == [("promote", "old"), ("promote", "new"), ("rollback", "old")]
        assert_nothing_left_over(project) if champion == "new" else project.registry().refuse("0" * 12, "next", {})
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
        assert_nothing_left_over(project)
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


def promote_concurrently(project: Project, content: str, both_have_read: Barrier) -> None:
    """Judge a candidate against the champion, wait until another one was judged too, then promote."""
    os.environ["BENTOML_HOME"] = str(project.home)
    registry = project.registry()
    champion = registry.champion()
    assert champion is not None
    new = registry.add(project.model(content), {"data": content}, {})
    both_have_read.wait(300)
    try:
        registry.move(new, expected=champion.tag, action="promote", why=content)
        (project.folder / f"{content}.outcome").write_text("won")
    except UserError as error:
        (project.folder / f"{content}.outcome").write_text(str(error))


def test_of_two_concurrent_promotions_one_wins_and_the_other_is_refused(project: Project) -> None:
    project.promote("old")
    barrier = PROCESSES.Barrier(2)
    both = [PROCESSES.Process(target=promote_concurrently, args=(project, content, barrier)) for content in ("a", "b")]
    for process in both:
        process.start()
    for process in both:
        process.join()
    outcomes = {content: (project.folder / f"{content}.outcome").read_text() for content in ("a", "b")}
    won, lost = sorted(outcomes, key=lambda content: outcomes[content] != "won")
    assert outcomes[won] == "won"
    assert re.fullmatch(
        f"the champion changed from {NAME}:.{{40}} to {NAME}:.{{40}} while {NAME}:.{{40}} was being judged; "
        "run it again",
        outcomes[lost],
    )
    assert project.champion() == won
    assert [entry.why for entry in project.registry().history()] == ["better: old", won]
    assert project.contents() == ["a", "b", "old"]  # the loser's version is already there for its next try


def hold(lock: Path, held: Event, release: Event) -> None:
    with storage.exclusive_lock(lock, 0, f"process {os.getpid()}"):
        held.set()
        release.wait(300)


def test_a_change_that_waits_too_long_says_who_holds_the_lock(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, release = PROCESSES.Event(), PROCESSES.Event()
    other = PROCESSES.Process(target=hold, args=(project.root / "registry" / "lock", held, release))
    other.start()
    held.wait(300)
    with monkeypatch.context() as patch:
        patch.setattr(change_module, "LOCK_TIMEOUT", 0.1)
        with pytest.raises(UserError, match=rf"/lock: held for more than 0\.1 s by process {other.pid}; run it again"):
            refuse(project)
    release.set()
    refuse(project)
    other.join()
