"""DVC's internals that the project uses, what the wrapper makes of them, and DVC without git."""

import inspect
import shutil
from importlib import import_module
from pathlib import Path

import dvc
import pytest
from dvc import rwlock
from dvc.stage.exceptions import StageCmdFailedError

from flows import triggers
from pipeline.command import UserError
from pipeline.dvc_repo import Reproduction, allow_no_git, pipeline_nodes, reproduce, stage_statuses
from tests.flows.conftest import Project, fresh_project, project

__all__ = ["fresh_project", "project"]  # fixtures
pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore:_NoneStep.value will soon:DeprecationWarning"),  # DVC calls it
]
LOCAL = Path(".dvc/config.local")


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("dvc.repo.Repo", ["root_dir", "_wait_for_lock"]),
        ("dvc.repo.Repo.reproduce", ["targets", "single_item", "kwargs"]),
        ("dvc.repo.Repo.find_outs_by_path", ["path", "strict"]),
        ("dvc.data_cloud.DataCloud.get_remote_odb", []),
        ("dvc_objects.db.ObjectDB.exists", ["oid"]),
        ("dvc_objects.db.ObjectDB.oid_to_path", ["oid"]),
        ("dvc.repo.reproduce.plan_repro", ["graph", "stages"]),
        ("dvc.repo.reproduce.get_active_graph", ["graph"]),
        ("dvc.repo.reproduce.collect_stages", ["repo", "targets"]),
        ("dvc.stage.Stage.changed_stage", []),
        ("dvc.stage.cache.StageCache.restore", ["stage"]),
        ("dvc.dependency.param.ParamsDependency.read_params", []),
        ("dvc.dependency.param.ParamsDependency.status", []),
        ("dvc.output.Output.status", []),
        ("dvc.config.Config.edit", ["level"]),
        ("dvc.ui.Console.enable", []),
    ],
)
def test_dvc_still_has_what_the_wrapper_uses(name: str, parameters: list[str]) -> None:
    result = resolve(name)
    assert result is not None, f"DVC {dvc.__version__} has no {name}: adapt pipeline/dvc_repo.py"
    missing = set(parameters) - set(inspect.signature(result).parameters)
    assert not missing, f"DVC {dvc.__version__}: {name} does not take {missing}: adapt pipeline/dvc_repo.py"


def resolve(name: str) -> object:
    """Return what a dotted name stands for; None if there is nothing of that name."""
    parts = name.split(".")
    for length in range(len(parts) - 1, 0, -1):
        try:
            result: object = import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for part in parts[length:]:
            result = getattr(result, part, None)
        return result
    return None


def test_dvc_still_keeps_the_exit_code_of_a_stage_at_the_end_of_a_message() -> None:
    assert str(StageCmdFailedError("python validate.py", -9)).endswith("exited with -9")


def test_dvc_still_writes_the_list_of_files_in_use_in_the_form_that_is_read() -> None:
    user = {"pid": 1, "cmd": "dvc repro"}
    assert rwlock.RWLOCK_FILE == "rwlock"
    assert rwlock.SCHEMA({"write": {"/a": user}, "read": {"/b": [user]}})


def test_a_node_runs_is_skipped_is_restored_from_the_run_cache_and_runs_by_force(project: Project) -> None:
    assert reproduce("validate", force=False) == Reproduction("Ran")
    assert reproduce("validate", force=False) == Reproduction("Skipped")
    project.set(validate__column="other")
    assert reproduce("validate", force=False) == Reproduction("Ran")
    project.set(validate__column="text")
    assert reproduce("validate", force=False) == Reproduction("Cached")
    assert reproduce("validate", force=True) == Reproduction("Ran")


def test_a_failing_command_gives_its_exit_code_and_a_missing_input_gives_dvcs_message(project: Project) -> None:
    project.script("validate.py", "import sys; sys.exit(7)")
    failed = reproduce("validate", force=False)
    assert (failed.outcome, failed.exit_code) == (None, 7)
    refused = reproduce("tokenize", force=False)
    assert (refused.outcome, refused.exit_code) == (None, None)
    assert "made/clean.txt" in refused.error


def test_a_status_names_what_changed_since_the_stage_ran(project: Project) -> None:
    assert [status.has_run for status in stage_statuses(Path())] == [False] * 3
    project.run("dvc", "repro", "-q")
    assert not any(
        status.command_changed or status.params or status.dependencies or status.outputs
        for status in stage_statuses(Path())
    )
    project.set(finetune__epochs=4)
    project.script("tokenize_.py", "pass")
    Path("made/model.txt").unlink()
    validate, tokenize, finetune = stage_statuses(Path())
    assert (validate.params, validate.dependencies) == ({}, [])
    assert [dependency.name for dependency in tokenize.dependencies] == ["tokenize_.py"]
    assert finetune.params == {"finetune.epochs": (3, 4)}
    assert finetune.outputs == {"made/model.txt": "deleted"}


def test_a_pipeline_that_dvc_cannot_load_is_the_users_mistake_in_dvcs_words(project: Project) -> None:
    Path("dvc.yaml").write_text("stages: {validate: {cmds: x}}")
    with pytest.raises(UserError, match=r"DVC cannot load the pipeline: .*dvc\.yaml"):
        pipeline_nodes(Path())
    assert "dvc.yaml" in reproduce("validate", force=False).error


# Without git, as after the download of a ZIP file


@pytest.fixture
def without_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """Return a project whose git repository is gone, as the current folder."""
    project = Project(tmp_path)
    shutil.rmtree(tmp_path / ".git")
    monkeypatch.chdir(tmp_path)
    return project


def test_without_git_dvc_works_and_one_warning_is_printed(
    without_git: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    assert [node.name for node in pipeline_nodes(Path())][-1] == "finetune"
    warning = capsys.readouterr().err
    assert warning.startswith("this folder is in no git repository")
    assert "`dvc config --local --unset core.no_scm`" in warning
    assert triggers.find_reason().run
    without_git.run("dvc", "repro")  # by hand too, from now on
    assert capsys.readouterr().err == ""


def test_nothing_is_configured_in_a_git_repository_or_twice(without_git: Project) -> None:
    without_git.run("dvc", "config", "core.no_scm", "true")
    allow_no_git()
    assert not LOCAL.exists()
    without_git.run("dvc", "config", "--unset", "core.no_scm")
    (without_git.folder / ".git").mkdir()
    allow_no_git()
    assert not LOCAL.exists()
