"""Schemathesis, over the specification that a server publishes: no 5xx, and no answer that is not documented.

The server is a real one for `causal_lm`; the others, whose routes alone are their own, run in a thread.
"""

import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from transformers import GPT2Config, GPT2LMHeadModel

from pipeline.tasks import registry
from tests.serving.conftest import REPOSITORY, Server, environment, serving
from tests.serving.tasks.encoders import asgi_of, make_encoder
from tests.serving.test_playground import listening

# Left out: that all that fits the specification is accepted (a prompt may be longer than a model's context), and checks
# for services that store things.
CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,"
    "response_schema_conformance,negative_data_rejection,unsupported_method"
)


# The operations of each task that the stages know too.
OPERATIONS = {
    "causal_lm": ("POST /generate", "POST /v1/completions"),
    "classify": ("POST /classify",),
    "rank": ("POST /rerank", "POST /v2/rerank"),
    "masked_lm": ("POST /fill-mask",),
}
HEADS = {"classify": 3, "rank": 1, "masked_lm": None}  # labels
TASKS = [task for task in OPERATIONS if task in registry.NAMES]


@pytest.fixture(scope="module", params=TASKS)
def server(
    request: pytest.FixtureRequest, model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Server, str]]:
    """A server that answers most requests that fit the specification, and soon: a long context, short texts."""
    task, folder = request.param, tmp_path_factory.mktemp("server")
    with serving_task(task, folder) if task in HEADS else serving_texts(model, folder) as server:
        yield server, task


@contextmanager
def serving_texts(model: Path, folder: Path) -> Iterator[Server]:
    """Serve `causal_lm` by BentoML."""
    roomy = shutil.copytree(model, folder / "model")
    GPT2LMHeadModel(GPT2Config.from_pretrained(model, n_positions=1024)).save_pretrained(roomy)
    for name in ("serving", "pipeline"):
        shutil.copytree(REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPOSITORY / "service.py", folder)
    params = (REPOSITORY / "params.yaml").read_text(encoding="utf-8")
    params = re.sub(r"(max|default)_new_tokens: \d+", r"\1_new_tokens: 8", params)
    (folder / "params.yaml").write_text(params, encoding="utf-8")
    with serving(".", cwd=folder, MODEL_DIR=str(roomy), ENGINES_DIR=str(folder)) as server:
        yield server


@contextmanager
def serving_task(task: str, folder: Path) -> Iterator[Server]:
    """Serve a task of an encoder in a thread."""
    labels = HEADS[task]
    head = "AutoModelForMaskedLM" if labels is None else "AutoModelForSequenceClassification"
    config = {"num_labels": labels} if labels else {}
    with pytest.MonkeyPatch.context() as here:
        here.setenv("MODEL_DIR", str(make_encoder(folder / "model", "roberta", head, {"task": task}, **config)))
        with listening(asgi_of(task, folder), lifespan="on") as url:
            yield Server(url, folder / "server.log", 0)


def run(server: Server, folder: Path, *arguments: str) -> Counter[tuple[str, int]]:
    """Run it, and fail with what it found; return how often each operation gave each status."""
    report = folder / "report.ndjson"
    settings = (
        "checks.negative_data_rejection.expected-statuses = [400, 404, 405, 413]\n"  # 413: it sends megabytes too
    )
    (folder / "schemathesis.toml").write_text(settings, encoding="utf-8")
    command = [
        sys.executable, "-m", "schemathesis.cli", "run", f"{server.url}/docs.json", "--checks", CHECKS,
        "--suppress-health-check", "all", "--request-timeout", "120",
        "--report", "ndjson", "--report-ndjson-path", str(report), *arguments,
    ]  # fmt: skip
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert httpx.get(f"{server.url}/health").status_code == 200
    seen: Counter[tuple[str, int]] = Counter()
    for line in report.read_text(encoding="utf-8").splitlines():
        recorder = json.loads(line).get("ScenarioFinished", {}).get("recorder", {})
        for interaction in recorder.get("interactions", {}).values():
            seen[recorder["label"], interaction["response"]["status_code"]] += 1
    return seen


@pytest.mark.integration
def test_every_documented_operation_answers_as_documented(server: tuple[Server, str], tmp_path: Path) -> None:
    seconds = "5" if server[1] in HEADS else "15"
    phases = ("--phases", "examples,coverage,fuzzing", "--max-examples", "15", "--max-time", seconds)
    seen = run(server[0], tmp_path, *phases, "--seed", "1")
    assert all(seen[route, 200] for route in OPERATIONS[server[1]])


@pytest.mark.slow
def test_for_minutes_every_documented_operation_answers_as_documented(
    server: tuple[Server, str], tmp_path: Path
) -> None:
    seen = run(server[0], tmp_path, "--max-examples", "1000", "--max-time", "180", "--seed", "2")
    assert all(seen[route, status] > 10 for route in OPERATIONS[server[1]] for status in (200, 400))
