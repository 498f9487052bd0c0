"""The command `fresh registry`."""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import cli
from pipeline import paths
from pipeline.registry.model_version import short
from pipeline.registry.store import Registry
from tests.pipeline.registry.models import make_model, promote

Command = Callable[..., str]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Return a function that runs the command in this process and returns its output, or its error."""

    def call(*arguments: str, code: int = 0) -> str:
        monkeypatch.setattr(sys, "argv", ["fresh", "registry", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        printed = capsys.readouterr()
        assert ended.value.code == code, printed
        return printed.err if code else printed.out

    return call


def test_the_command_prints_tables_and_json(registry: Registry, command: Command) -> None:
    assert "no versions yet" in command("list")
    old, new = promote(registry, "old"), promote(registry, "new")
    listed = command("list").splitlines()
    minute = r"\d{4}-\d\d-\d\d \d\d:\d\d"
    assert re.fullmatch(rf"{short(new.tag)}  champion  {minute}  {minute}  perplexity 9", listed[1])
    assert re.fullmatch(rf"{short(old.tag)}  whole     {minute}  {minute}  perplexity 9", listed[2])
    result = json.loads(command("list", "--json"))
    assert result["champion"] == new.tag
    assert [version["state"] for version in result["versions"]] == ["champion", "whole"]
    assert json.loads(command("show", "--json"))["labels"] == {"data": "new"}
    assert re.search(r"labels\.data +old\n", command("show", "previous"))
    assert json.loads(command("rollback", "--why", "complaints", "--json"))["to"] == old.tag
    history = command("history").splitlines()
    assert re.fullmatch(rf"3   {minute} UTC  rollback  {short(new.tag)} -> {short(old.tag)}", history[-2])
    assert re.fullmatch(r"    \S+: complaints", history[-1])
    assert max(map(len, history)) <= 100
    assert json.loads(command("history", "--json"))[2]["why"] == "complaints"
    assert json.loads(command("prune", "--json")) == []


def test_diff_shows_only_what_differs(registry: Registry, command: Command) -> None:
    for content, epochs, steps in (("old", 3, 10), ("new", 5, 10)):
        manifest = {"params": {"finetune": {"epochs": epochs}}, "metrics": {"steps": steps}}
        (make_model("same") / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
        seen = registry.champion()
        version = registry.add(paths.CANDIDATE, {"data": content}, {})
        registry.move(version, expected=seen.tag if seen else None, action="promote", why=content)
    text = command("diff", "previous", "champion")
    assert re.search(r"labels\.data +old +new\n", text)
    assert re.search(r"manifest\.params\.finetune\.epochs +3 +5\n", text)
    assert "steps" not in text
    assert "model.safetensors" not in text
    assert "\ndata: " in text
    result = json.loads(command("diff", "previous", "champion", "--json"))
    assert result["differences"]["manifest.params.finetune.epochs"] == [3, 5]
    assert result["data"] is None
    assert "has no clean_md5" in result["data_why_not"]


def test_after_a_rollback_the_listed_figures_are_those_of_the_last_verdict(
    registry: Registry, command: Command
) -> None:
    old, new = promote(registry, "old"), promote(registry, "new")
    registry.rollback(None, "complaints")
    registry.rollback(new.version, "they were wrong")
    listed = json.loads(command("list", "--json"))
    assert {one["tag"]: one["figures"] for one in listed["versions"]} == {
        new.tag: {"perplexity": 9.0},
        old.tag: {"perplexity": 9.0},
    }
    assert "figures" not in command("diff", old.version, new.version)


def test_list_shows_damage_and_the_error_names_the_command_that_fixes_it(registry: Registry, command: Command) -> None:
    old, new = promote(registry, "old"), promote(registry, "new")
    (new.folder / "config.json").unlink()
    listed = json.loads(command("list", "--json"))
    assert listed["champion"] is None
    assert "config.json is missing" in listed["versions"][0]["state"]
    error = command("show", "champion", code=2)
    suggested = re.search(r"`fresh registry (.+)`", error)
    assert suggested
    command(*suggested[1].replace('"..."', "damaged").split())
    assert registry.champion() == old


@pytest.mark.parametrize(
    "arguments",
    [
        ["show"],
        ["show", "zebra"],
        ["rollback"],
        ["rollback", "--why", ""],
        ["rollback", "--why", "caf\udce9"],
        ["delete", "zebra"],
        ["diff", "a", "b"],
    ],
)
def test_user_errors_have_no_traceback(registry: Registry, command: Command, arguments: list[str]) -> None:
    error = command(*arguments, code=2)
    assert "Traceback" not in error
    assert "error: " in error.lower()


def test_outside_the_project_root_the_command_says_where_to_run_it(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    error = command("rollback", "--why", "complaints", code=2)
    assert error == "error: params.yaml is not here; run the command from the repository's root\n"
    assert list(tmp_path.iterdir()) == []
