"""`fresh`: one command line over the functions that stages, flows and the service use."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import cli
from tests.conftest import LINES, ROOT, Workspace


def leaves() -> list[list[str]]:
    """Return every command as the words that one types."""
    top = [command.name or command.callback.__name__ for command in cli.app.registered_commands if command.callback]
    return [[name] for name in top] + [
        [group.name, command.name or command.callback.__name__]
        for group in cli.app.registered_groups
        for command in group.typer_instance.registered_commands
        if group.name and command.callback
    ]


def fresh(*arguments: str, code: int = 0) -> str:
    """Return what `fresh ARGUMENTS` prints in the current folder; fail unless it exits with `code`."""
    command = [sys.executable, str(ROOT / "cli.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("words", leaves(), ids=" ".join)
def test_help_runs_nothing_and_an_unknown_option_is_refused(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shown = CliRunner().invoke(cli.app, [*words, "--help"])
    assert (shown.exit_code, shown.output.splitlines()[0].startswith("Usage:")) == (0, True)
    assert CliRunner().invoke(cli.app, [*words, "--no-such-option"]).exit_code == 2
    assert list(tmp_path.iterdir()) == []


def test_help_lists_every_command_and_loads_no_heavy_library() -> None:
    code = (
        "import sys, cli; sys.argv = ['fresh', '--help']\ntry: cli.app()\nexcept SystemExit: print(sorted(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    help_text, _, modules = done.stdout.rpartition("\n[")
    for words in leaves():
        assert f"\n  {words[0]} " in help_text
    assert not {"bentoml", "dvc", "pandas", "prefect", "torch", "transformers"} & set(
        modules.replace("'", "").split(", ")
    )


def test_check_names_adapters_that_are_not_there(workspace: Workspace) -> None:
    workspace.write_corpus("text\n" + "".join(f'"{line}"\n' for line in LINES * 5))
    assert json.loads(fresh("check", "--json"))["adapters"] == []
    workspace.set(service__adapters={"legal": "../nowhere"})
    [problem] = json.loads(fresh("check", "--json"))["adapters"]
    assert problem.startswith("legal: ")
    assert "nowhere is neither a checkout nor a folder with adapter_config.json" in problem


def test_check_reports_the_format_of_the_corpus_or_what_is_wrong_with_it(workspace: Workspace) -> None:
    workspace.write_corpus("text,mood\n" + "".join(f'"{line}",{number}\n' for number, line in enumerate(LINES * 5)))
    described = json.loads(fresh("check", "--json"))
    assert (described["format"], described["delimiter"], described["columns"]) == ("csv", ",", ["text", "mood"])
    workspace.set(validate__column="txt")
    assert fresh("check", code=2).startswith("error: ")
    workspace.set(finetune__epochs=0)
    assert "params.yaml: finetune.epochs: found 0" in fresh("check", code=2)


def test_params_prints_every_setting_or_one_section(workspace: Workspace) -> None:
    assert json.loads(fresh("params", "finetune.epochs", "--json")) == {"finetune.epochs": 3}
    assert "validate.rules.too_long.max_characters" in fresh("params")
    assert "no section or key 'nothing'" in fresh("params", "nothing", code=2)


def test_outside_a_project_a_command_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for words in (["train"], ["check"], ["promote"], ["registry", "list"], ["pack"]):
        assert fresh(*words, code=2) == "error: params.yaml is not here; run the command from the repository's root\n"


def test_a_missing_package_names_the_environment(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = typer.Typer()

    @broken.command()
    def imports() -> None:
        import no_such_package  # type: ignore[import-not-found] # noqa: F401

    monkeypatch.setattr(cli, "app", broken)
    monkeypatch.setattr(sys, "argv", ["fresh"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert f"the package no_such_package is not installed in {sys.prefix}, the environment" in capsys.readouterr().err
