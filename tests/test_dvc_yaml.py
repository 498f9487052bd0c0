"""dvc.yaml, the stages' modules, the sections of params.yaml and the tests have one name for one thing."""

import runpy
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from pipeline import params, paths
from tests.conftest import ROOT, Workspace

DVC = YAML(typ="safe").load(ROOT / "dvc.yaml")
STAGES = DVC["stages"]


def outputs(stage: dict[str, Any]) -> list[str]:
    """Return the paths of a stage's outputs and metrics; one with options is a mapping of its path to them."""
    listed = [*stage["outs"], *stage.get("metrics", [])]
    return [path if isinstance(path, str) else next(iter(path)) for path in listed]


def test_a_stage_is_a_module_a_section_of_the_params_and_a_file_of_tests() -> None:
    sections = {field.alias or name for name, field in params.Params.model_fields.items()}
    for name, stage in STAGES.items():
        assert stage["cmd"] == f"python -m pipeline.{name}"
        assert f"pipeline/{name}.py" in stage["deps"]
        assert name in stage["params"]
        assert name in sections
        assert (ROOT / "tests" / "pipeline" / f"test_{name}.py").is_file()
        import_module(f"pipeline.{name}")


def test_dvc_yaml_declares_the_paths_that_the_stages_write() -> None:
    declared = {path for stage in STAGES.values() for path in outputs(stage)}
    inside_an_output = {
        str(path)
        for path in (
            paths.MANIFEST,
            paths.ADAPTER,
            paths.TASK_SETTINGS,
            paths.CORPUS_INFO,
            paths.BASE_CONFIG,
            paths.BASE_TOKENIZER,
        )
    }
    of_no_stage = {
        paths.PARAMS,
        paths.CHECKPOINTS,
        paths.TRAINING_PROGRESS,
        paths.VERDICT,
        paths.REPORT,
        paths.REGISTRY,
    }
    written = {str(path) for path in vars(paths).values() if isinstance(path, Path)}
    assert written - inside_an_output - set(map(str, of_no_stage)) == declared


def test_git_ignores_what_the_stages_make() -> None:
    ignored = (ROOT / ".gitignore").read_text().split()
    for stage in STAGES.values():
        for path in outputs(stage):
            assert any(f"/{path}/".startswith(rule.rstrip("/") + "/") for rule in ignored), path


def test_every_output_is_among_those_that_no_setting_may_name() -> None:
    for stage in STAGES.values():
        for path in outputs(stage):
            assert any(Path(path).is_relative_to(place) for place in paths.OUTPUTS), path


def test_every_plot_and_artifact_is_made_by_a_stage() -> None:
    made = {path for stage in STAGES.values() for path in outputs(stage)}
    for plot in DVC["plots"]:
        [definition] = plot.values()
        assert set(definition["y"]) <= made
    assert {artifact["path"] for artifact in DVC["artifacts"].values()} <= made


def _inputs() -> list[tuple[str, str]]:
    """Return each stage with each dependency that another stage makes and that it cannot do without."""
    made = {path for stage in STAGES.values() for path in outputs(stage)}
    return [
        (name, path) for name, stage in STAGES.items() for path in stage["deps"] if path in made
    ]  # validate takes the tokenizer where there is one


@pytest.mark.filterwarnings("ignore:.*found in sys.modules after import of package")
@pytest.mark.parametrize(("stage", "missing"), _inputs())
def test_a_stage_whose_input_is_missing_says_which_command_makes_it(
    stage: str, missing: str, workspace: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, path in _inputs():
        if name == stage and path != missing:
            Path(path).mkdir(parents=True)
    monkeypatch.setattr(sys, "argv", [stage])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(f"pipeline.{stage}", run_name="__main__", alter_sys=True)
    said = f"error: {missing} is not here; `dvc repro {stage}` makes it first, and then runs this stage\n"
    assert (ended.value.code, capsys.readouterr().err) == (2, said)
