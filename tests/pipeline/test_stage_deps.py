"""What a stage's code is, and that dvc.yaml lists it."""

import shutil
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pipeline import stage_deps
from pipeline.stage_deps import code_of, deps_of
from tests.conftest import ROOT

STAGES = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]


@pytest.mark.parametrize("stage", STAGES)
def test_dvc_yaml_lists_all_the_code_of_a_stage_and_no_other(stage: str) -> None:
    declared = STAGES[stage]["deps"]
    assert sorted(declared) == deps_of(stage, declared, ROOT), "run `python -m pipeline.stage_deps --write`"


def test_code_is_what_is_imported_also_through_others_and_inside_functions_and_the_files_named_in_it(
    tmp_path: Path,
) -> None:
    files = {
        "pipeline/__init__.py": "",
        "pipeline/stage.py": "from pipeline import direct, command\nimport numpy\n",
        "pipeline/direct.py": "def f():\n    from pipeline.package.inner import name\n    open('template.html')\n",
        "pipeline/package/__init__.py": "import pipeline.of_the_package\n",
        "pipeline/package/inner.py": (
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from pipeline import typed\n"
            "else:\n    import pipeline.otherwise\n"
        ),
        "pipeline/of_the_package.py": "",
        "pipeline/otherwise.py": "'template_of_the_docstring.html'\n",
        "pipeline/templates/template.html": "",
        "pipeline/templates/template_of_the_docstring.html": "",
        "pipeline/typed.py": "",
        "pipeline/unused.py": "",
        "pipeline/command.py": "from pipeline import unused\n",  # neutral, with all that it imports
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    assert code_of("pipeline.stage", tmp_path) == {
        "pipeline/__init__.py",
        "pipeline/direct.py",
        "pipeline/of_the_package.py",
        "pipeline/otherwise.py",
        "pipeline/package/__init__.py",
        "pipeline/package/inner.py",
        "pipeline/stage.py",
        "pipeline/templates/template.html",
    }
    declared = ["data/rows.csv", "pipeline/gone.py"]
    assert deps_of("stage", declared, tmp_path)[:2] == ["data/rows.csv", "pipeline/__init__.py"]
    assert "pipeline/package" in deps_of("stage", declared, tmp_path)  # all of its files are


def test_the_command_says_what_differs_and_corrects_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "pipeline", "pipeline", ignore=shutil.ignore_patterns("__pycache__"))
    right = (ROOT / "dvc.yaml").read_text(encoding="utf-8")
    Path("dvc.yaml").write_text(right.replace("      - pipeline/tokenize.py\n", "      - pipeline/gone.py\n"))

    monkeypatch.setattr(sys, "argv", ["stage_deps"])
    with pytest.raises(SystemExit, match="1"):
        stage_deps.main()
    assert capsys.readouterr().out == "tokenize: - pipeline/gone.py\ntokenize: + pipeline/tokenize.py\n"

    monkeypatch.setattr(sys, "argv", ["stage_deps", "--write"])
    stage_deps.main()
    stage_deps.main()
    assert Path("dvc.yaml").read_text(encoding="utf-8") == right
