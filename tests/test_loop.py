"""The whole loop as a new user runs it: a clone, `dvc repro`, the plots, the service, a bento.

Everything is real but for the size: a tiny base and 120 texts of the sample corpus.
"""

import csv
import json
import re
import shlex
import shutil
from pathlib import Path

import httpx
import pytest
from ruamel.yaml import YAML

from pipeline.registry.store import Registry
from tests.conftest import ROOT, STAGES, Clone
from tests.serving.conftest import serving
from tests.test_dvc_yaml import outputs

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory, tiny_gpt2: Path) -> Clone:
    """Return a clone in which `dvc repro` has run, on a corpus of one's own."""
    clone = Clone(tmp_path_factory.mktemp("clone"))
    shutil.copytree(tiny_gpt2, clone.folder / "my_model")
    with (ROOT / "data" / "tales.csv").open(newline="") as tales:
        rows = list(csv.reader(tales))[:121]
    with (clone.folder / "data" / "mine.csv").open("w", newline="") as mine:
        csv.writer(mine).writerows(rows)
    clone.run("dvc", "add", "data/mine.csv")
    clone.set(
        base="my_model",
        data__path="data/mine.csv",
        tokenize__max_length=64,
        finetune__epochs=2,
        evaluate__generations=8,
        evaluate__max_new_tokens=8,
    )
    clone.commit()
    output = clone.run("dvc", "repro")
    assert clone.ran(output) == list(STAGES)
    return clone


def test_a_base_that_names_an_output_is_refused_before_dvc_deletes_it(clone: Clone) -> None:
    settings = (clone.folder / "params.yaml").read_bytes()
    before = {path.name: path.read_bytes() for path in (clone.folder / "models/base").iterdir()}
    clone.set(base="models/base")
    assert "base: models/base belongs to the pipeline" in clone.run("dvc", "repro", "base", code=255)
    (clone.folder / "params.yaml").write_bytes(settings)
    assert before == {path.name: path.read_bytes() for path in (clone.folder / "models/base").iterdir()}


def test_every_artefact_is_there_and_the_counts_agree(clone: Clone) -> None:
    stages = YAML(typ="safe").load(clone.folder / "dvc.yaml")["stages"]
    for stage in stages.values():
        for path in outputs(stage):
            assert (clone.folder / path).exists(), path
    intake = json.loads((clone.folder / "reports/validate/metrics.json").read_text())
    assert intake["rows_in"] == 120 == intake["rows_clean"] + intake["rows_quarantined"]
    budget = json.loads((clone.folder / "reports/tokenize/token_budget.json").read_text())
    assert {split: rows["documents"] for split, rows in budget["splits"].items()} == intake["splits"]
    manifest = json.loads((clone.folder / "models/candidate/manifest.json").read_text())
    assert manifest["git_revision"] == clone.run("git", "rev-parse", "HEAD").strip()
    assert not list(clone.folder.glob("models/**/*.bin"))  # no pickles


def test_nothing_runs_twice_and_git_sees_no_output(clone: Clone) -> None:
    assert clone.ran(clone.run("dvc", "repro")) == []
    changed = {line[3:] for line in clone.run("git", "status", "--porcelain").splitlines()}
    assert changed <= {"dvc.lock"}


def test_a_change_of_evaluates_params_runs_evaluate_alone(clone: Clone) -> None:
    clone.set(evaluate__seed=7)
    assert clone.ran(clone.run("dvc", "repro")) == ["evaluate"]
    clone.set(evaluate__seed=42)
    assert clone.ran(clone.run("dvc", "repro")) == []  # taken from DVC's run cache


def test_a_forced_run_gives_the_same_bytes_in_every_output(clone: Clone) -> None:
    before = (clone.folder / "dvc.lock").read_bytes()
    assert clone.ran(clone.run("dvc", "repro", "--force")) == list(STAGES)
    assert (clone.folder / "dvc.lock").read_bytes() == before


def test_the_metrics_and_plots_show_without_a_network(clone: Clone) -> None:
    shown = json.loads(clone.run("dvc", "metrics", "show", "--json"))
    assert "perplexity" in shown[""]["data"]["reports/evaluate/metrics.json"]["data"]["candidate"]
    clone.run("dvc", "plots", "show")
    page = (clone.folder / "dvc_plots" / "index.html").read_text()
    assert 'src="http' not in page
    assert "vegaEmbed" in page
    assert page.count("vegaEmbed('#") == 3


@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
def test_the_plots_are_drawn_in_a_browser_without_a_network(clone: Clone, tmp_path: Path) -> None:
    clone.run("dvc", "plots", "show")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
    page = clone.run(
        "chromium", *flags, f"--user-data-dir={tmp_path}", "--virtual-time-budget=5000", "--dump-dom",
        (clone.folder / "dvc_plots" / "index.html").as_uri(),
    )  # fmt: skip
    assert page.count('class="marks"') == 3


def test_the_service_serves_the_candidate_of_dvc_repro_if_asked_for(clone: Clone) -> None:
    clone.set(service__serve_candidate=True)
    with serving(".", cwd=clone.folder) as server:
        about = httpx.get(server.url).json()
        budget = json.loads((clone.folder / "reports/tokenize/token_budget.json").read_text())
        assert about["data"] == budget["data"]
        answer = server.post(prompt="Once upon a time", max_new_tokens=8, seed=1).json()
    assert answer["model"] == about["model"]
    assert answer["usage"]["completion_tokens"] <= 8
    assert answer["seed"] == 1
    clone.run("git", "checkout", "-q", "params.yaml")


def error(clone: Clone) -> str:
    """Return the one sentence with which `dvc repro` fails."""
    output = clone.run("dvc", "repro", code=255)
    assert "Traceback" not in output
    [sentence] = [line for line in output.splitlines() if line.startswith(("error: ", "ERROR: "))][:1]
    return sentence


def test_a_users_mistake_is_one_sentence_and_no_traceback(clone: Clone) -> None:
    clone.set(finetune__lerning_rate=1)
    assert error(clone) == "error: params.yaml: finetune.lerning_rate: unknown key; did you mean learning_rate?"
    clone.run("git", "checkout", "-q", "params.yaml")

    clone.set(base="no/such/model")
    assert "there is no folder 'no/such/model' here" in error(clone)
    clone.run("git", "checkout", "-q", "params.yaml")

    clone.set(validate__column="txt")
    assert "no column 'txt' (validate.column); the header has 'id' (numbers), 'text' (text, " in error(clone)
    clone.run("git", "checkout", "-q", "params.yaml")

    clone.set(data__path="data/none.csv")
    assert "data/none.csv" in error(clone)
    clone.run("git", "checkout", "-q", "params.yaml")

    (clone.folder / "data" / "empty.csv").touch()
    clone.set(data__path="data/empty.csv")
    assert "data/empty.csv: the file is empty" in error(clone)
    clone.run("git", "checkout", "-q", "params.yaml")
    assert clone.ran(clone.run("dvc", "repro")) == []  # nothing was lost


def become_champions(clone: Clone, count: int) -> None:
    """Make versions that differ in their manifest alone the champion, one after the other."""
    with pytest.MonkeyPatch.context() as here:
        here.setenv("BENTOML_HOME", str(clone.folder / ".bentoml"))
        registry, before = Registry(clone.folder), None
        for number in range(count):
            model = clone.folder / "models" / f"champion_{number}"
            shutil.copytree(clone.folder / "models" / "candidate", model)
            manifest = json.loads((model / "manifest.json").read_text())
            (model / "manifest.json").write_text(json.dumps({**manifest, "number": number}))
            version = registry.add(model, {}, {})
            registry.move(version, expected=before, action="force", why="the test needs some champions")
            before = version.tag


def documented_commands() -> list[str]:
    """Return the lines of the shell blocks of the README and of docs/."""
    documents = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    text = "\n".join(document.read_text(encoding="utf-8") for document in documents)
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


def test_every_command_of_the_readme_and_the_docs_runs(clone: Clone) -> None:
    clone.commit()  # with dvc.lock, so that there is a version to compare with
    become_champions(clone, 3)  # for the documents go back twice
    by_ci = {"make model", "make test", "make check", 'pytest -m "not integration and not slow"'}
    set_up = {"git clone <this repository> fresh-gpt2", "cd fresh-gpt2", "source .venv/bin/activate"}
    needs_a_container_engine = {"bentoml containerize gpt2:latest"}
    shown = set(documented_commands())
    assert shown >= by_ci | set_up | needs_a_container_engine
    left = [line for line in documented_commands() if line not in by_ci | set_up | needs_a_container_engine]

    for command in left:
        if command.startswith("python -m bench."):  # takes minutes; tests/bench runs it with --quick
            assert (ROOT / "tests" / "bench" / f"test_{command.split('.')[1].split()[0]}.py").is_file()
            continue
        if not command.startswith(("bentoml serve", "curl")):
            verdicts = (0, 1) if command == "fresh promote" else 0
            clone.run(*shlex.split(command), code=verdicts)
    targets = [shlex.split(command)[2:] or ["."] for command in left if command.startswith("bentoml serve")]
    assert targets == [["."], ["gpt2:latest"]]
    for [target] in targets:
        with serving(target, cwd=clone.folder, BENTOML_HOME=str(clone.folder / ".bentoml")) as server:
            for command in left:
                if command.startswith("curl"):
                    answer = json.loads(clone.run(*shlex.split(command.replace("http://localhost:3000", server.url))))
                    assert answer["model"]
                    assert "error" not in answer
