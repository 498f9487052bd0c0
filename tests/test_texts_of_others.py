"""One marker in every text that a user, a corpus or a colleague can set, and a look at everything that is shown.

The marker drives a terminal, turns the reading direction, loads a picture as Markdown and as HTML, and ends a table's
cell. Outputs are read as their readers read them: a terminal, a reader of Markdown, a browser's parser.
"""

import json
import random
import shutil
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from markdown_it import MarkdownIt

import cli
from flows import drift, rollback
from flows.runtime import artifacts, notify, output_lines, provenance
from pipeline import command, evaluate, paths, validate
from pipeline.promote import Decision
from pipeline.registry.store import Registry
from pipeline.verdict.records import GateResult, Verdict
from tests.conftest import LINES, Workspace

LOADED = "evil.png"
MARK = f"\x1b]0;owned\x07\x9b31m\u202e\u200b![p]({LOADED}) <img src={LOADED}> [l]({LOADED}) `|"


def check_terminal(shown: str) -> None:
    """Fail for a character that a terminal acts on, or that hides or turns text."""
    drives = [c for c in shown if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") and c not in "\n\t"]
    assert drives == [], [ascii(line) for line in shown.splitlines() if set(drives) & set(line)]


class _Loads(HTMLParser):
    """What a page would load or lead to."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loaded += [
            f"{tag} {value}" for name, value in attrs if name in ("src", "href") and LOADED in (value or "")
        ]


def check_html(page: str) -> None:
    """Fail for a page that loads something of a text's choice, or shows what cannot be seen."""
    loads = _Loads()
    loads.feed(page)
    assert loads.loaded == []
    check_terminal(page)


def check_markdown(text: str) -> None:
    """Fail for Markdown of which a reader that lets HTML through, as Prefect's UI is, makes such a page."""
    check_html(MarkdownIt("commonmark", {"html": True}).enable("table").render(text))


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Return what runs a command's main with arguments and returns all that it shows, checked as a terminal's."""

    def call(main: Callable[[], None], *arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["command", *arguments])
        with pytest.raises(SystemExit):
            command.run(main)
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        check_terminal(captured.out + captured.err)
        return captured.out + captured.err

    return call


def test_a_corpus_with_odd_names_and_cells(workspace: Workspace, ended: Callable[..., str]) -> None:
    column = MARK.replace("\x1b", "").replace("\x07", "").replace("\x9b", "")
    words = random.Random(0).choices(" ".join(LINES).split(), k=1200)
    rows = [{"text": " ".join(words[at : at + 20]), "group": MARK} for at in range(0, 1200, 20)]
    rows += [{"text": f"{MARK}\n# {MARK}", "group": MARK}, {"text": "", "group": MARK}]
    pd.DataFrame(rows).to_csv(workspace.folder / "rows.csv", index=False)
    workspace.write_corpus((workspace.folder / "rows.csv").read_bytes(), f"data/{column}.csv")
    workspace.set(validate__category="group")
    assert "are clean" in ended(validate.main)
    check_html(paths.VALIDATE_REPORT.read_text(encoding="utf-8"))

    old = shutil.copy(paths.CLEAN, workspace.folder / f"{column}.parquet")
    pd.DataFrame({"row": [2], "text": [f"{MARK} new"], "split": ["train"]}).to_parquet(paths.CLEAN)
    ended(cli.main, "diff", str(old), str(paths.CLEAN), "--page", "diff.html")
    ended(cli.main, "diff", str(old), str(paths.CLEAN), "--json")
    check_html(Path("diff.html").read_text(encoding="utf-8"))

    workspace.set(validate__column=MARK)
    assert "error: " in ended(validate.main)
    workspace.set(validate__column="text", data__path=f"data/no-{MARK}.csv")
    assert "error: " in ended(validate.main)


def test_params_with_odd_values(workspace: Workspace, ended: Callable[..., str]) -> None:
    workspace.set(**{"finetune__epochs": MARK, f"validate__{MARK}": 1, "retrain__branch": MARK, "data__encoding": MARK})
    assert "error: params.yaml" in ended(cli.main, "params")


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Collect the artifacts that are written, instead of sending them to a server."""
    created: list[tuple[Any, ...]] = []

    def take(content: Any, key: str, description: str) -> None:
        created.append((content, key, description))

    for module in (artifacts, rollback):
        monkeypatch.setattr(module, "create_markdown_artifact", take)
    monkeypatch.setattr(artifacts, "create_table_artifact", take)
    return created


def check_artifacts(created: list[tuple[Any, ...]]) -> None:
    """Fail for an artifact that the UI, which shows a table's cells as they are, does not show as text."""
    for content, key, description in created:
        check_markdown(description)
        if isinstance(content, str):
            check_markdown(content)
        else:
            check_terminal("\n".join(f"{name} {value}" for row in content for name, value in row.items()))
        assert key == key.lower()


def test_a_registry_with_odd_reasons_names_and_labels(
    workspace: Workspace,
    tiny_gpt2: Path,
    ended: Callable[..., str],
    written: list[tuple[Any, ...]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("BENTOML_HOME", str(workspace.folder / "bentoml"))
    monkeypatch.setenv("LOGNAME", MARK)
    store = Registry()
    tag = None
    for number in range(4):
        folder = Path(shutil.copytree(tiny_gpt2, workspace.folder / f"model-{number}"))
        (folder / "manifest.json").write_text(json.dumps({"number": number, "corpus": MARK}))
        version = store.add(folder, {"data": MARK}, {"figures": {"perplexity": 9.5}, "why": MARK})
        store.move(version, expected=tag, action="promote", why=f"{MARK}\n{MARK}")
        tag = version.tag
    for arguments in (
        ["list"],
        ["show"],
        ["show", "--json"],
        ["history"],
        ["history", "--json"],
        ["diff", "previous", "champion"],
    ):
        ended(cli.main, "registry", *arguments)
    assert "\\u001b]0;owned" in ended(cli.main, "registry", "rollback", "--why", MARK)
    ended(cli.main, "registry", "show", MARK)

    state = rollback.rollback.fn(why=MARK)
    check_terminal(state.message or "")
    artifacts.versions(store)
    check_artifacts(written)
    assert {key for _, key, _ in written} == {"rollback", "versions"}


def test_models_and_manifests_with_odd_texts(
    workspace: Workspace, tiny_gpt2: Path, written: list[tuple[Any, ...]], ended: Callable[..., str]
) -> None:
    shutil.copytree(tiny_gpt2, paths.CANDIDATE)
    shown = {paths.MANIFEST: {"corpus": MARK, "base": MARK, "data": MARK, "git_revision": MARK}}
    shown |= {paths.SAMPLES: [dict.fromkeys(("prompt", "base", "candidate"), MARK)]}
    shown |= {paths.FINETUNE_METRICS: {MARK: MARK}}
    shown |= {paths.VALIDATE_METRICS: {"rows_in": 2, "rows_clean": 1, "groups": {MARK: 1}, "corpus": MARK}}
    for path, content in shown.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content), encoding="utf-8")
    for write in (artifacts.lineage, artifacts.samples, artifacts.training, artifacts.intake, artifacts.links):
        write()
    model = {
        "perplexity": 10.0,
        "perplexity_low": 9.5,
        "perplexity_high": 10.5,
        "bits_per_byte": 1.2,
        "version": "c" * 12,
    }
    gate = GateResult("group_loss", 0.01, None, 0.05, None, True, f"In {MARK} it rises.", "none")
    judged = Verdict(
        True, MARK, [MARK], [MARK], model, None, "base", None, MARK, [gate], [MARK], 230, "2026-11-22T02:40:00"
    )
    artifacts.verdict(Decision(judged, Registry(), None, None))
    check_artifacts(written)
    check_markdown(evaluate._page([dict.fromkeys(("prompt", *evaluate.MODELS), MARK)]))
    measured = drift.Drift(1.2, 1.1, 1.3, 200, 1.05, True, MARK, 12.0, 10.0)
    check_markdown(measured.markdown(MARK))


def test_commit_messages_notices_and_logs() -> None:
    message = provenance.commit_message(MARK, f"{MARK}\n{MARK}", {"Prefect-Run": MARK})
    check_terminal(message)
    assert message.count("\n") == 5  # no text makes a line, such as a trailer, of its own
    check_terminal(notify.redact_line(MARK))
    speaks = subprocess.Popen(
        [sys.executable, "-c", f"print({MARK!r})"], stdout=subprocess.PIPE, env={"PYTHONUTF8": "1"}
    )
    with speaks:
        [line] = output_lines.read_lines(speaks, None)
    check_terminal(line)
