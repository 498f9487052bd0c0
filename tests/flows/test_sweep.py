"""The commands of the sweep in docs/cluster.md, run on a small project."""

import json
import re
import shlex
import subprocess

import pytest

from pipeline.workspace import claim
from tests.conftest import ROOT
from tests.flows.conftest import Project


@pytest.mark.slow
def test_the_documented_sweep_works_while_the_workspace_is_in_use(project: Project) -> None:
    text = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
    [block] = re.findall(r"^## A sweep\n.*?^```\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = [shlex.split(line) for line in block.splitlines()]
    assert [line[:2] for line in lines] == [["dvc", "exp"]] * 3
    before = (project.folder / "params.yaml").read_bytes()
    with claim(project.folder, "the test"):
        for line in lines:
            project.run(*line)
    output = json.loads(project.run("dvc", "exp", "show", "--json"))
    runs = [run["revs"][0]["data"] for revision in output for run in revision["experiments"] or []]
    assert sorted(one["params"]["params.yaml"]["data"]["finetune"]["epochs"] for one in runs) == [1, 2]
    assert all(one["outs"]["made/model.txt"]["hash"] for one in runs)  # each has trained
    assert (project.folder / "params.yaml").read_bytes() == before
    assert not (project.folder / "made" / "model.txt").exists()
    assert subprocess.run(["git", "status", "--porcelain"], capture_output=True, check=True).stdout == b""
