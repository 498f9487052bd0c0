"""`bentoml serve` and `bentoml build` as a user runs them."""

import json
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from pipeline.registry.store import Registry
from serving import model_folder
from tests.serving.conftest import PROMPT, Server, bentoml, serving, set_serve_candidate
from tests.serving.test_swap import slower
from tests.sockets import ports

pytestmark = pytest.mark.integration


def sentence(finished: "subprocess.CompletedProcess[str]") -> str:
    """Return what a command that failed told its user, which must be no traceback."""
    assert finished.returncode == 1
    message = finished.stdout + finished.stderr
    assert "Traceback" not in message
    return " ".join(message.split())


def limit(checkout: Path, **limits: float) -> None:
    """Change limits of the service in params.yaml."""
    params = checkout / "params.yaml"
    content = params.read_text(encoding="utf-8")
    for name, value in limits.items():
        content, count = re.subn(rf"(?m)^  {name}: \S+", f"  {name}: {value}", content)
        assert count == 1
    params.write_text(content, encoding="utf-8")


def test_serves_the_candidate_and_says_so(checkout: Path) -> None:
    with serving(".", cwd=checkout) as server:
        about = httpx.get(server.url).json()
        assert about["folder"] == str(checkout / "models" / "candidate")
        assert about["why"] == "the candidate of the last `dvc repro`"
        assert about["verdict"] == {"outcome": "not judged", "reasons": [], "at": None}
        assert about["model"] == model_folder.version(checkout / "models" / "candidate")
        first = server.post(prompt=PROMPT, seed=1, max_new_tokens=8)
        assert first.status_code == 200
        assert server.post(prompt=PROMPT, seed=1, max_new_tokens=8).json() == first.json()
        assert server.post(prompt="private", temperature=9).status_code == 400
        # BentoML's worker runs our uvicorn, see serving/http_server.py.
        assert httpx.get(server.url, headers={"X-Long": "a" * 70_000}).json()["error"]["code"] == "head_too_large"
        offer = {"Connection": "Upgrade", "Upgrade": "h2c"}
        upgraded = httpx.post(f"{server.url}/generate", json={"prompt": PROMPT, "max_new_tokens": 1}, headers=offer)
        assert upgraded.status_code == 200
        log = server.log.read_text(encoding="utf-8")
    assert "the candidate of the last `dvc repro`" in log
    assert "private" not in log
    assert PROMPT not in log
    assert "Traceback" not in log


def test_without_a_champion_it_stays_up_says_what_to_do_and_serves_the_first_one(checkout: Path, model: Path) -> None:
    set_serve_candidate(checkout, False)
    home = str(checkout / "home")
    with serving(".", cwd=checkout, ready="/livez", BENTOML_HOME=home) as server:
        about = wait_for(server, "waiting")
        assert "there is no champion, and the candidate" in about["why"]
        assert "`fresh promote`, or set `service.serve_candidate: true`" in about["why"]
        assert (about["model"], about["verdict"]) == (None, None)
        for answer in (httpx.get(server.url + "/health"), server.post(prompt=PROMPT)):
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "no_champion")
            assert answer.json()["error"]["message"] == about["why"]
        assert httpx.get(server.url + "/readyz").status_code == 503
        with pytest.MonkeyPatch.context() as here:
            here.setenv("BENTOML_HOME", home)
            champion = Registry(checkout).add(model, {}, {})
            Registry(checkout).move(champion, expected=None, action="force", why="Promoted by force: we need it")
        about = wait_for(server, "up")
        assert (about["model"], about["verdict"]["outcome"]) == (champion.version, "forced")
        assert about["verdict"]["reasons"] == ["we need it"]
        assert httpx.get(server.url + "/health").json()["verdict"] == about["verdict"]
        assert server.post(prompt=PROMPT, max_new_tokens=4).status_code == 200
        log = server.log.read_text(encoding="utf-8")
    assert "serve_candidate: true` in params.yaml" in log
    assert "Traceback" not in log


def wait_for(server: Server, status: str) -> dict[str, Any]:
    for _ in range(600):
        about: dict[str, Any] = httpx.get(server.url).json()
        if about["status"] == status:
            return about
        time.sleep(0.1)
    raise AssertionError(about)


def test_requests_above_the_bound_get_429_in_the_one_shape_with_retry_after(checkout: Path, model: Path) -> None:
    shutil.rmtree(checkout / "models" / "candidate")
    slower(model, checkout / "models" / "candidate")
    limit(checkout, max_concurrency=1, max_queue=0)
    body = {"prompt": PROMPT, "max_new_tokens": 500, "stream": True, "temperature": 1, "seed": 1}
    with serving(".", cwd=checkout) as server:
        with httpx.stream("POST", f"{server.url}/generate", json=body, timeout=300) as running:
            lines = running.iter_lines()  # kept: the connection ends with it
            assert next(lines)
            answer = server.post(prompt=PROMPT)
        assert answer.status_code == 429
        assert int(answer.headers["retry-after"]) >= 1
        assert answer.json()["error"]["type"] == "rate_limit_error"
        for _ in range(600):  # until it is seen that who had the place has gone away
            if (answer := server.post(prompt=PROMPT, max_new_tokens=8)).status_code != 429:
                break
            time.sleep(0.1)
        assert answer.status_code == 200


def test_a_request_above_the_time_gets_504_in_the_one_shape(checkout: Path) -> None:
    limit(checkout, timeout=0.001)
    with serving(".", cwd=checkout, ready="/livez") as server:
        for _ in range(600):  # first 503, while the model is loading
            answer = server.post(prompt=PROMPT, max_new_tokens=50)
            if answer.status_code == 504:
                break
            time.sleep(0.1)
    assert answer.json()["error"]["code"] == "timeout"


def test_a_model_that_cannot_be_loaded_is_503_and_no_crash_loop(checkout: Path) -> None:
    (checkout / "models" / "candidate" / "model.safetensors").write_bytes(b"broken")
    with serving(".", cwd=checkout, ready="/livez") as server:
        while (answer := httpx.get(server.url + "/health")).json()["error"]["code"] == "model_loading":
            time.sleep(0.1)
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "model_failed"
        assert "the model could not be loaded" in server.log.read_text(encoding="utf-8")


@pytest.mark.parametrize("command", ["serve", "build"])
def test_without_a_model_it_ends_with_one_sentence(checkout: Path, command: str) -> None:
    shutil.rmtree(checkout / "models")
    message = sentence(bentoml(command, cwd=checkout, BENTOML_HOME=str(checkout / "home")))
    assert "no model to serve: " in message
    assert "make one with `dvc repro`" in message


def test_a_mistake_in_params_ends_with_one_sentence(checkout: Path) -> None:
    (checkout / "params.yaml").write_text("base: starter\n", encoding="utf-8")
    assert "params.yaml: service: missing" in sentence(bentoml("serve", cwd=checkout))


def test_a_build_refuses_links_and_a_model_that_only_model_dir_names(checkout: Path, model: Path) -> None:
    home = checkout.parent / "home"
    weights = checkout / "models" / "candidate" / "model.safetensors"
    weights.unlink()
    message = sentence(bentoml("build", cwd=checkout, BENTOML_HOME=str(home), MODEL_DIR=str(model)))
    assert "no model to pack: models/candidate lacks model.safetensors" in message
    weights.symlink_to(model / "model.safetensors")
    assert "links would dangle in the bento" in sentence(bentoml("build", cwd=checkout, BENTOML_HOME=str(home)))
    assert not list(home.rglob("config.json"))


def test_a_bento_serves_from_elsewhere_when_the_checkout_is_gone(checkout: Path, tmp_path: Path) -> None:
    home, elsewhere = str(tmp_path / "home"), tmp_path / "elsewhere"
    elsewhere.mkdir()
    version = model_folder.version(checkout / "models" / "candidate")
    built = bentoml("build", "--version", version, "-o", "tag", cwd=checkout, BENTOML_HOME=home, PIP_NO_INDEX="1")
    assert built.returncode == 0, built.stdout + built.stderr
    shutil.rmtree(checkout)

    with serving(f"gpt2:{version}", cwd=elsewhere, BENTOML_HOME=home) as server:
        about = httpx.get(server.url).json()
        assert about["why"] == "packed in this bento"
        assert about["model"] == version
        assert server.post(prompt=PROMPT, seed=1, max_new_tokens=8).status_code == 200
        assert ports(server.pid) == {server.port}

    packed = tmp_path / "home" / "bentos" / "gpt2" / version
    requirements = (packed / "env" / "python" / "requirements.txt").read_text(encoding="utf-8")
    assert "torch" in requirements
    assert requirements.endswith("-c constraints.txt\n-c requirements.lock\n")
    for name in ("constraints.txt", "requirements.lock"):
        assert (packed / "env" / "python" / name).is_file()
    assert json.loads((packed / "src" / "models" / "candidate" / "manifest.json").read_text(encoding="utf-8"))
    assert not [file for file in (packed / "src").rglob("*.py") if file.name in ("finetune.py", "evaluate.py")]
