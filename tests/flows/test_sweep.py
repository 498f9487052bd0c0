"""The sweep of docs/cluster.md: its lines run, one after the other, on a small project."""

import json
import re
import shlex
import subprocess

import pytest

from pipeline.workspace import claim
from tests.conftest import ROOT
from tests.flows.conftest import Project


@pytest.mark.slow
def test_the_documented_sweep_runs_each_value_in_a_copy_while_somebody_holds_the_folder(project: Project) -> None:
    text = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
    [block] = re.findall(r"^## A sweep\n.*?^```\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = [shlex.split(line) for line in block.splitlines()]
    assert [line[:2] for line in lines] == [["dvc", "exp"]] * 3
    before = (project.folder / "params.yaml").read_bytes()
    with claim(project.folder, "the test"):
        for line in lines:
            project.run(*line)
    told = json.loads(project.run("dvc", "exp", "show", "--json"))
    found = [run["revs"][0]["data"] for revision in told for run in revision["experiments"] or []]
    assert sorted(one["params"]["params.yaml"]["data"]["finetune"]["epochs"] for one in found) == [1, 2]
    assert all(one["outs"]["made/model.txt"]["hash"] for one in found)  # each has trained
    assert (project.folder / "params.yaml").read_bytes() == before
    assert not (project.folder / "made" / "model.txt").exists()
    assert subprocess.run(["git", "status", "--porcelain"], capture_output=True, check=True).stdout == b""
