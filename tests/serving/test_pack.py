"""`fresh pack`: one whole bento for each version of the model, or none and a sentence."""

import ast
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import httpx
import pytest
from packaging.requirements import Requirement
from ruamel.yaml import YAML

from bench.adapted_models import save_adapted
from pipeline.registry.model_version import content_version
from pipeline.registry.store import Registry
from pipeline.registry.versions import Version
from pipeline.stage_deps import files_of
from tests.serving.conftest import DATA, PROMPT, REPOSITORY, environment, serving, write_verdict
from tests.serving.tasks.encoders import make_encoder
from tests.sockets import ports

pytestmark = pytest.mark.integration

SERVING = REPOSITORY / "serving"
OPTIONAL = {"ctranslate2", "openvino", "vllm"}  # engines that are taken where somebody installed them
PAUSE = """
import os, pathlib, time
pathlib.Path(os.environ["STARTED"]).write_text(str(os.getpid()))
time.sleep(60)
"""


def test_a_bento_packs_exactly_the_modules_of_the_pipeline_that_the_service_imports() -> None:
    modules = {".".join(path.relative_to(REPOSITORY).with_suffix("").parts) for path in SERVING.rglob("*.py")}
    # Imports inside functions of `pipeline` are for commands that a bento does not offer.
    files = set().union(*(files_of(one, REPOSITORY, at_import_only=True) for one in {"service", *modules}))
    include = YAML(typ="safe").load(REPOSITORY / "bentofile.yaml")["include"]
    patterns = [name.lstrip("/") for name in include if name.startswith("/pipeline/")]
    packed = {path.relative_to(REPOSITORY).as_posix() for one in patterns for path in REPOSITORY.glob(one)}
    needed = {name for name in files if name.startswith("pipeline/")}
    assert needed <= packed
    assert {name for name in packed - needed if not name.startswith("pipeline/tasks/")} == set()  # any task's module


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let BentoML's store, the registry's too, be a folder of the test's own."""
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def start(*arguments: str, cwd: Path, **more: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "cli", "pack", *arguments]
    out = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=cwd, env=environment(**more), **out)


def pack(*arguments: str, cwd: Path) -> str:
    """Return the sentence that a command ends with."""
    process = start(*arguments, cwd=cwd)
    out, error = process.communicate(timeout=600)
    assert (process.returncode, error) == (0, "")
    return out.strip()


def refusal(*arguments: str, cwd: Path, home: Path) -> str:
    """Return the one sentence of a command that fails, and see that it left nothing."""
    process = start(*arguments, cwd=cwd)
    out, error = process.communicate(timeout=600)
    assert (process.returncode, out, error.count("\n")) == (2, "", 1), error
    assert bentos(home) == []
    assert not list((home / "packing").glob("new-*"))
    return error


def bentos(home: Path) -> list[str]:
    return sorted(path.name for path in home.glob("bentos/gpt2/*/"))


def promote(checkout: Path, model: Path) -> Version:
    new = Registry(checkout).add(model, {}, {})
    champion = Registry(checkout).champion()
    Registry(checkout).move(new, expected=champion.tag if champion else None, action="promote", why="it is better")
    return new


def another(model: Path, folder: Path) -> Path:
    """Return a model that differs from `model` in what it was trained on."""
    shutil.copytree(model, folder)
    (folder / "manifest.json").write_text('{"data": "1"}', encoding="utf-8")
    return folder


def imported(file: Path) -> Iterator[str]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    # Imports inside functions of `pipeline` are for stages and commands, which a bento does not offer.
    for node in tree.body if "pipeline" in file.parts else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{name.name}" for name in node.names)


def required(requirements: Path) -> set[str]:
    """Return the packages that come with the requirements, at the versions that are installed here."""
    names: set[str] = set()
    lines = requirements.read_text(encoding="utf-8").splitlines()
    todo = [Requirement(line) for line in lines if line and line[0] not in "#-"]
    while todo:
        one = todo.pop()
        name = re.sub(r"[-_.]+", "-", one.name).lower()
        if name not in names and (one.marker is None or one.marker.evaluate({"extra": ""})):
            names.add(name)
            todo += [Requirement(line) for line in requires(one.name) or []]
    return names


def healthy(dockerfile: list[str], port: int) -> bool:
    """Run the image's health check, with a proxy in the environment that answers nothing."""
    [line] = [line for line in dockerfile if line.startswith("HEALTHCHECK ")]
    _, *rest = json.loads(line.partition(" CMD ")[2].replace(":3000/", f":{port}/"))
    unset = environment(HTTP_PROXY="http://127.0.0.1:9", http_proxy="http://127.0.0.1:9")
    given = {name: value for name, value in unset.items() if name.upper() != "NO_PROXY"}
    return subprocess.run([sys.executable, *rest], env=given, check=False).returncode == 0


def test_a_bento_is_complete_and_serves_from_elsewhere_without_the_checkout(
    checkout: Path, home: Path, tmp_path: Path
) -> None:
    version = content_version(checkout / "models" / "candidate")
    write_verdict(checkout, version, promoted=False)
    output = pack(cwd=checkout)
    assert output == f"packed the candidate of the last `dvc repro` (verdict: refused) as the bento gpt2:{version}"
    bento = home / "bentos" / "gpt2" / version
    before = (bento / "bento.yaml").read_bytes()
    assert "exists already" in pack(cwd=checkout)
    assert (bento / "bento.yaml").read_bytes() == before
    assert (bentos(home), (bento.parent / "latest").read_text()) == ([version], version)
    assert [path.name for path in (home / "packing").iterdir()] == ["lock"]

    files = [path.relative_to(checkout) for path in (checkout / "serving").rglob("*") if path.is_file()]
    serving_files = {path for path in files if path.parent.name != "__pycache__"}  # which packing makes
    packed = {path.relative_to(bento / "src") for path in (bento / "src").rglob("*") if path.is_file()}
    assert {path for path in packed if path.parts[0] == "serving"} == serving_files
    assert Path("serving/playground.html") in serving_files
    here = {".".join(path.with_suffix("").parts).removesuffix(".__init__") for path in packed if path.suffix == ".py"}
    there = {".".join(p.relative_to(checkout).with_suffix("").parts) for p in checkout.rglob("*.py")}
    imported_names = {name for path in packed if path.suffix == ".py" for name in imported(bento / "src" / path)}
    assert (imported_names & there) - here == set()
    own = {"pipeline", "serving", "service", *sys.stdlib_module_names, *OPTIONAL}
    distributions = packages_distributions()
    packages = required(bento / "env" / "python" / "requirements.txt")
    for top in sorted({name.partition(".")[0] for name in imported_names} - own):
        assert packages & {re.sub(r"[-_.]+", "-", one).lower() for one in distributions[top]}, top
    constraints = (bento / "env" / "python" / "constraints.txt").read_text(encoding="utf-8")
    pinned = {re.sub(r"[-_.]+", "-", line.partition("==")[0]).lower() for line in constraints.splitlines()}
    assert packages - pinned <= {"setuptools"}  # which `pip freeze` leaves out

    dockerfile = (bento / "env" / "docker" / "Dockerfile").read_text(encoding="utf-8").splitlines()
    assert [line for line in dockerfile if line.startswith("ENV BENTOML_HOME=")][-1] == "ENV BENTOML_HOME=/tmp/bentoml"
    assert [line.split(" ")[0] for line in dockerfile if "/readyz" in line] == ["HEALTHCHECK"]
    assert [line for line in dockerfile if line.startswith("USER ")] == ["USER bentoml"]
    assert not [line for line in dockerfile if "apt-get" in line or ":latest" in line]

    shutil.rmtree(checkout)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with serving(str(bento), cwd=elsewhere, BENTOML_CONTAINERIZED="true") as server:  # as the image does
        assert ports(server.pid) == {server.port}
        assert healthy(dockerfile, server.port)
        about = httpx.get(server.url).json()
        assert (about["why"], about["model"]) == ("packed in this bento", version)
        assert about["verdict"]["outcome"] == "refused"
        assert server.post(prompt=PROMPT, seed=1, max_new_tokens=8).status_code == 200


def test_a_classifier_is_packed_under_the_name_of_its_task_and_another_tasks_model_is_refused(
    checkout: Path, home: Path, tmp_path: Path
) -> None:
    params = checkout / "params.yaml"
    content = params.read_text(encoding="utf-8")
    params.write_text(content.replace("task: causal_lm", "task: classify"), encoding="utf-8")
    assert "holds a model of the task causal_lm, while this project's task is classify" in refusal(
        cwd=checkout, home=home
    )
    candidate = checkout / "models" / "candidate"
    shutil.rmtree(candidate)
    task = {"task": "classify", "temperature": 2.0, "thresholds": {}, "by": "argmax", "multi_label": False}
    make_encoder(candidate, "bert", "AutoModelForSequenceClassification", task, num_labels=3)
    version = content_version(candidate)
    assert f"as the bento classifier:{version}" in pack(cwd=checkout)
    shutil.rmtree(checkout)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    bento = home / "bentos" / "classifier" / version
    with serving(str(bento), cwd=elsewhere, BENTOML_CONTAINERIZED="true") as server:
        assert httpx.get(server.url).json()["name"] == "classifier"
        answer = httpx.post(f"{server.url}/classify", json={"text": "a cat"}, timeout=300).json()
        assert (answer["model"], answer["decision"]["temperature"]) == (version, 2.0)
        refused = httpx.post(f"{server.url}/generate", json={"prompt": "a"}, timeout=300)
        assert (refused.status_code, refused.json()["error"]["code"]) == (404, "other_task")
        assert "/classify" in httpx.get(f"{server.url}/docs.json").json()["paths"]
        metrics = httpx.get(f"{server.url}/metrics").text
        assert 'gpt2_texts_total{end="stop"} 1.0' in metrics
        log = server.log.read_text(encoding="utf-8")
    assert "Traceback" not in log


def test_adapters_are_packed_as_they_are_and_one_of_another_model_is_refused(
    checkout: Path, home: Path, model: Path, tmp_path: Path
) -> None:
    legal = tmp_path / "legal"
    legal.mkdir()
    shutil.copy(checkout / "params.yaml", legal)
    version = promote(legal, save_adapted(model, tmp_path / "trained", seed=1)).version
    params = checkout / "params.yaml"
    content = params.read_text(encoding="utf-8")
    params.write_text(content.replace("  adapters: {} ", "  adapters: {legal: ../legal} "), encoding="utf-8")
    shutil.move(checkout / "models" / "candidate", checkout / "models" / "base")
    (checkout / "models" / "base" / "manifest.json").unlink()  # a base has none
    base = content_version(checkout / "models" / "base")
    packed = f"packed the base with the adapters legal ({version[:12]}) as the bento gpt2:{base}"
    assert pack("base", cwd=checkout) == packed
    assert "exists already" in pack("base", cwd=checkout)
    bento = home / "bentos" / "gpt2" / base
    shutil.rmtree(checkout)
    with serving(str(bento), cwd=tmp_path, BENTOML_CONTAINERIZED="true") as server:  # without its checkout
        for _ in range(1200):
            if (answer := server.post(prompt=PROMPT, model="legal", max_new_tokens=8)).status_code == 200:
                break
            time.sleep(0.25)
        assert (answer.json()["model"], answer.json()["data"]) == (version, DATA)


def test_a_bento_is_refused_where_an_adapter_is_of_another_model(
    checkout: Path, home: Path, model: Path, tmp_path: Path
) -> None:
    tuned = save_adapted(model, tmp_path / "tuned", seed=1)
    save_adapted(tuned, tmp_path / "on-tuned", seed=2)
    for name, reason in (("on-tuned", "it was trained from another model than the one in "), ("none", "is neither a ")):
        params = checkout / "params.yaml"
        content = (REPOSITORY / "params.yaml").read_text(encoding="utf-8")
        params.write_text(content.replace("  adapters: {} ", f"  adapters: {{legal: ../{name}}} "), encoding="utf-8")
        message = refusal(cwd=checkout, home=home)
        assert message.startswith("error: no bento was made: service.adapters.legal: ")
        assert reason in message


def test_the_champion_is_packed_before_the_candidate_or_the_named_version(
    checkout: Path, home: Path, model: Path, tmp_path: Path
) -> None:
    old = promote(checkout, another(model, tmp_path / "old"))
    assert pack(cwd=checkout) == f"packed the champion as the bento gpt2:{old.version}"
    newest = promote(checkout, model)
    assert pack("previous", cwd=checkout).startswith(f"the bento gpt2:{old.version} exists already: ")
    assert pack(newest.version[:6], cwd=checkout) == (
        f"packed the version {newest.version} as the bento gpt2:{newest.version}"
    )
    assert bentos(home) == sorted([old.version, newest.version])
    for version in (old, newest):
        assert content_version(home / "bentos" / "gpt2" / version.version / "src/models/candidate") == version.version


def test_a_missing_linked_or_damaged_model_is_refused_with_a_sentence_and_leaves_nothing(
    checkout: Path, home: Path, model: Path, tmp_path: Path
) -> None:
    candidate = checkout / "models" / "candidate"
    weights = candidate / "model.safetensors"
    assert "there is no version '0123'" in refusal("0123", cwd=checkout, home=home)
    os.truncate(weights, 5000)
    assert "model.safetensors is damaged (" in refusal(cwd=checkout, home=home)
    weights.unlink()
    weights.symlink_to(model / "model.safetensors")
    assert "links would dangle in the bento" in refusal(cwd=checkout, home=home)
    weights.unlink()
    assert "models/candidate lacks model.safetensors; make one with `dvc repro`" in refusal(cwd=checkout, home=home)
    champion = promote(checkout, model)
    with (champion.folder / "model.safetensors").open("r+b") as content:
        content.seek(-1, os.SEEK_END)
        content.write(b"?")
    assert "model.safetensors does not hold what was added" in refusal(cwd=checkout, home=home)
    (checkout / "registry" / "champion.json").write_text("{", encoding="utf-8")
    assert "champion.json: is damaged" in refusal(cwd=checkout, home=home)


def test_code_that_does_not_start_is_refused_with_bentomls_message(checkout: Path, home: Path) -> None:
    (checkout / "service.py").write_text("import nothing_of_this_name\n", encoding="utf-8")
    sentence = refusal("candidate", cwd=checkout, home=home)
    assert sentence.startswith("error: `bentoml build` made no bento: ")
    assert "nothing_of_this_name" in sentence


def test_outside_a_project_it_says_where_to_run(tmp_path: Path, home: Path) -> None:
    sentence = refusal("candidate", cwd=tmp_path, home=home)
    assert sentence == "error: params.yaml is not here; run the command from the repository's root\n"


def test_a_bento_of_other_code_or_a_damaged_one_is_packed_again(checkout: Path, home: Path) -> None:
    assert pack(cwd=checkout).startswith("packed ")
    [version] = bentos(home)
    bento = home / "bentos" / "gpt2" / version
    with (checkout / "serving" / "errors.py").open("a", encoding="utf-8") as code:
        code.write("# changed\n")
    assert pack(cwd=checkout).endswith(" again: the existing one was damaged, or of other code or settings")
    assert (bento / "src" / "serving" / "errors.py").read_text(encoding="utf-8").endswith("# changed\n")
    (bento / "bento.yaml").unlink()  # as in a killed `bentoml build`
    assert pack(cwd=checkout).endswith(" again: the existing one was damaged, or of other code or settings")
    assert (bento / "bento.yaml").is_file()


def test_a_killed_command_leaves_no_bento_and_the_next_waits_for_its_build_and_cleans_up(
    checkout: Path, home: Path, tmp_path: Path
) -> None:
    started = tmp_path / "started"
    service = (checkout / "service.py").read_text(encoding="utf-8")
    (checkout / "service.py").write_text(service + PAUSE, encoding="utf-8")
    killed = start(cwd=checkout, STARTED=str(started))
    while not (started.is_file() and started.read_text()):
        assert killed.poll() is None
        time.sleep(0.02)
    killed.kill()
    killed.communicate()
    (checkout / "service.py").write_text(service, encoding="utf-8")
    left = list((home / "packing").glob("new-*"))
    assert (len(left), bentos(home)) == (1, [])

    following = start(cwd=checkout)
    assert following.stderr is not None
    assert following.stderr.readline() == "another bento is being packed; waiting for it\n"
    assert left[0].is_dir()
    os.kill(int(started.read_text()), signal.SIGKILL)
    out, _ = following.communicate(timeout=600)
    assert out.startswith("packed ")
    assert len(bentos(home)) == 1
    assert not left[0].exists()


def test_of_two_concurrent_commands_one_packs_and_the_other_finds_the_bento(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / ".bentoml"))  # hidden: `bentoml build` works in no such place
    both = [start(cwd=checkout) for _ in range(2)]
    output = sorted(one.communicate(timeout=600)[0].split(" ")[0] for one in both)
    assert output == ["packed", "the"]
    assert len(bentos(tmp_path / ".bentoml")) == 1


def test_a_retraining_packs_its_version_or_reports_why_it_cannot(
    checkout: Path, home: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.retrain import _pack

    monkeypatch.chdir(checkout)
    monkeypatch.delenv("MODEL_DIR", raising=False)
    new = promote(checkout, model)
    state = _pack.fn(new.version)
    assert (state.name, state.message) == (
        "Completed",
        f"packed the version {new.version} as the bento gpt2:{new.version}",
    )
    (new.folder / "config.json").unlink()
    state = _pack.fn(new.version)
    assert state.name == "Failed"
    assert state.message.startswith("the version was promoted, but could not be packed as a bento: text-generator:")
