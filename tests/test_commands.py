"""Every module that runs as a command: what `--help` does, what is refused, and what the exit codes mean."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import command
from tests.conftest import ROOT

_PACKAGES = ("bench", "data", "deploy", "docs", "flows", "pipeline", "serving", "starter", "tests")


def commands() -> list[str]:
    """Return every module of the project that does something when it is run."""
    modules = [path for name in _PACKAGES for path in (ROOT / name).rglob("*.py")]
    mains = [path for path in modules if re.search(r"^if __name__ == .__main__.:", path.read_text("utf-8"), re.M)]
    return sorted(".".join(path.relative_to(ROOT).with_suffix("").parts) for path in mains)


@pytest.fixture
def idle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail the test if a command starts a process or runs on; it has a folder of its own."""

    def started(*arguments: object, **_: object) -> None:
        raise AssertionError(f"it starts a process: {arguments}")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(subprocess.Popen, "__init__", started)
    monkeypatch.setattr(os, "execve", started)


@pytest.mark.filterwarnings("ignore:.*found in sys.modules after import of package")
@pytest.mark.filterwarnings("ignore:A flow named .* and defined at")
@pytest.mark.usefixtures("idle")
@pytest.mark.parametrize("module", commands())
def test_help_runs_nothing_and_an_unknown_option_is_refused(
    module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = [path for path in (ROOT / "data").iterdir() if path.is_file()]  # Python may write bytecode beside them
    before = {path: path.stat().st_mtime_ns for path in data}
    for option, code in (("--help", 0), ("--no-such-option", 2)):
        monkeypatch.setattr(sys, "argv", [module, option])
        with pytest.raises(SystemExit) as ended:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        printed = capsys.readouterr()
        assert ended.value.code == code, printed.err
        assert "usage: " in (printed.err if code else printed.out)
    assert list(tmp_path.iterdir()) == []
    assert {path: path.stat().st_mtime_ns for path in data} == before


def test_the_search_for_commands_finds_those_of_every_package() -> None:
    packages = {module.split(".")[0] for module in commands()}
    assert packages == set(_PACKAGES)


def test_every_command_that_the_project_names_runs_something() -> None:
    names = re.compile(rf"-m(?: |\", *\")((?:{'|'.join(_PACKAGES)})(?:\.[a-z_0-9]+)+|cli)\b")
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    texts = {name: (ROOT / name).read_text("utf-8", errors="ignore") for name in files if (ROOT / name).is_file()}
    named = {(module, name) for name, text in texts.items() for module in names.findall(text)}
    assert len(named) > 30
    assert {(module, name) for module, name in named if module not in [*commands(), "cli"]} == set()


def test_commands_end_by_the_one_function_that_gives_exit_codes() -> None:
    ends = re.compile(r"^if __name__ == .__main__.:\n    (?:command\.)?run(?:_stage)?\(main", re.M)
    others = [module for module in commands() if not ends.search((ROOT / f"{module.replace('.', '/')}.py").read_text())]
    assert others == ["flows.runtime.dvc_child", "flows.runtime.supervisor"]  # they pass on the exit code of a child


def run(code: str, *, stdout: object = subprocess.PIPE, cwd: Path = ROOT, **environment: str) -> tuple[int, str, str]:
    """Return exit code, output and complaints of a command whose main is `code`."""
    main = f"import sys\nfrom pipeline.command import *\nfrom pipeline import command\ndef main():\n    {code}\n"
    done = subprocess.run(
        [sys.executable, "-c", f"{main}command.run(main)"],
        cwd=cwd,
        stdout=stdout,  # type: ignore[call-overload]
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "", **environment},
        check=False,
    )
    return done.returncode, (done.stdout or b"").decode(), done.stderr.decode()


@pytest.mark.parametrize(
    ("code", "expected", "said"),
    [
        ("pass", 0, ""),
        ("sys.exit(command.NO)", 1, ""),
        ("raise UserError('the file is odd')", 2, "error: the file is odd\n"),
        ("sys.exit('no browser here')", 2, "error: no browser here\n"),
        ("open('/no/such/file')", 2, "error: /no/such/file: No such file or directory; check that"),
        ("raise KeyboardInterrupt", 130, ""),
    ],
)
def test_an_exit_code_means_one_thing_and_what_a_user_can_fix_is_a_sentence(
    code: str, expected: int, said: str
) -> None:
    ended, _, err = run(code)
    assert (ended, "Traceback" in err) == (expected, False)
    assert err.startswith(said)


def test_a_crash_shows_its_traceback_and_is_no_no() -> None:
    code, _, err = run("{}['key']")
    assert (code, err.splitlines()[-1]) == (3, "KeyError: 'key'")
    assert err.startswith("Traceback (most recent call last):")


@pytest.mark.parametrize("code", ["echo('yes')", "echo('no'); sys.exit(command.NO)"])
def test_output_that_has_no_room_is_a_sentence_and_no_answer(code: str) -> None:
    with Path("/dev/full").open("wb") as full:
        ended, _, err = run(code, stdout=full)
    assert (ended, err) == (2, "error: the output: No space left on device; free some space, then run it again\n")


def test_a_closed_output_is_a_sentence_where_something_is_to_be_printed() -> None:
    said = "error: the output: is closed, so nothing can be printed; leave it open, or send it to /dev/null\n"
    assert run("sys.__dict__.update(stdout=None) or echo('yes')") == (2, "", said)
    assert run("sys.__dict__.update(stdout=None)") == (0, "", "")


def test_a_reader_who_has_read_enough_is_no_fault() -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as closed:
        assert run("echo('more')", stdout=closed)[::2] == (141, "")


def test_a_terminal_without_unicode_gets_escapes_and_json_that_reads_back() -> None:
    posix = {"PYTHONIOENCODING": "ascii"}
    assert run("echo('caf\\u00e9 \\u2013')", **posix)[:2] == (0, "caf\\xe9 \\u2013\n")
    assert run("echo_json({'name': 'caf\\u00e9'}, indent=None)", **posix)[:2] == (0, '{"name": "caf\\u00e9"}\n')


def test_what_is_printed_never_drives_the_terminal() -> None:
    odd = "\\x1b[31m\\u202e\\x9b\\udcff"
    shown = "\\u001b[31m\\u202e\\u009b\\udcff"
    assert run(f"echo('a\\n{odd}')")[1] == f"a\n{shown}\n"
    assert run(f"warn('{odd}')")[2] == f"{shown}\n"
    assert run(f"raise UserError('{odd}')")[2] == f"error: {shown}\n"
    assert run(f"raise ValueError('{odd}')")[2].endswith(f"ValueError: {shown}\n")
    assert run(f"echo_json(['{odd}'], indent=None)")[1] == f'["{shown}"]\n'


@pytest.mark.parametrize("stage", ["base", "validate", "tokenize"])
def test_a_stage_in_a_folder_that_is_no_project_leaves_nothing_there(
    stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = __import__(f"pipeline.{stage}", fromlist=["main"])
    from pipeline.workspace import run_stage

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [stage])
    with pytest.raises(SystemExit) as ended:
        run_stage(module.main)
    assert (ended.value.code, list(tmp_path.iterdir())) == (command.MISTAKE_OF_THE_CALLER, [])
