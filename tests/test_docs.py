"""The pages of docs/: their links resolve, and the task that one of them writes works as it stands there."""

import re
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT, Clone

OWN_TASK = ROOT / "docs" / "tasks" / "your_own.md"


def pages() -> list[str]:
    listed = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [name for name in listed.stdout.split() if not name.startswith("tests/")]


def anchors(page: Path) -> set[str]:
    """Return what links to a page's headings end in, as GitHub makes them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", pages())
def test_every_link_to_a_file_or_a_heading_resolves(name: str) -> None:
    page = ROOT / name
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        path, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", link):
            continue
        target = page.parent / path if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


def test_each_task_has_a_page() -> None:
    from pipeline.tasks.registry import NAMES

    assert set(NAMES) <= {page.stem for page in OWN_TASK.parent.glob("*.md")}


def write_own_task(clone: Clone) -> list[str]:
    """Do what the page says, and return the files that it names."""
    block = r"^`([^`\n]+)`(?:, behind `([^`\n]+)`)?:\n\n```\w+\n(.*?)^```$"
    names = []
    for name, before, code in re.findall(block, OWN_TASK.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
        file = clone.folder / name
        names.append(name)
        if not before:
            assert not file.exists()
            file.write_text(code, encoding="utf-8")
            continue
        lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
        [at] = [at for at, line in enumerate(lines) if before in line]
        file.write_text("".join([*lines[: at + 1], code, *lines[at + 1 :]]), encoding="utf-8")
    return names


@pytest.mark.integration
def test_the_task_of_ones_own_is_written_trained_judged_and_served(tmp_path: Path) -> None:
    clone = Clone(tmp_path)
    names = write_own_task(clone)
    clone.run("git", "add", "-A")
    assert clone.run("git", "diff", "--cached", "--stat") in OWN_TASK.read_text(encoding="utf-8")
    sources = [name for name in names if name.endswith(".py")]
    clone.run("ruff", "check", *sources)
    clone.run("ruff", "format", "--check", *sources)
    clone.run("python", "-m", "pipeline.stage_deps")  # dvc.yaml needs no change
    tests = ["tests/pipeline/tasks/test_regress.py", "tests/pipeline/tasks/test_tasks.py", "tests/test_imports.py"]
    output = clone.run("python", "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests)
    assert " passed" in output
    assert not re.search(r"\d+ (skipped|deselected)", output)
