"""dvc.yaml, the stages' modules, the sections of params.yaml and the tests have one name for one thing."""

from importlib import import_module
from pathlib import Path

from ruamel.yaml import YAML

from pipeline import params, paths
from tests.conftest import ROOT

DVC = YAML(typ="safe").load(ROOT / "dvc.yaml")
STAGES = DVC["stages"]


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
    declared = {path for stage in STAGES.values() for kind in ("outs", "metrics") for path in stage.get(kind, [])}
    inside_an_output = {str(paths.MANIFEST), str(paths.BASE_TOKENIZER)}
    of_no_stage = {paths.PARAMS, paths.CHECKPOINTS, paths.VERDICT, paths.REPORT, paths.REGISTRY}
    written = {str(path) for path in vars(paths).values() if isinstance(path, Path)}
    assert written - inside_an_output - set(map(str, of_no_stage)) == declared


def test_git_ignores_what_the_stages_make() -> None:
    ignored = (ROOT / ".gitignore").read_text().split()
    for stage in STAGES.values():
        for kind in ("outs", "metrics"):
            for path in stage.get(kind, []):
                assert any(f"/{path}/".startswith(rule.rstrip("/") + "/") for rule in ignored), path


def test_every_plot_and_artifact_is_made_by_a_stage() -> None:
    made = {path for stage in STAGES.values() for path in stage["outs"]}
    for plot in DVC["plots"]:
        [definition] = plot.values()
        assert set(definition["y"]) <= made
    assert {artifact["path"] for artifact in DVC["artifacts"].values()} <= made
