"""What runs beyond one machine: the files of deploy/ hold together, two workers, and Postgres behind the server.

No container is run: docs/cluster.md says what was checked, and by which tools.
"""

import json
import os
import pwd
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from prefect.workers.process import ProcessWorker
from ruamel.yaml import YAML

from flows import settings
from tests.conftest import ROOT
from tests.flows.conftest import TRAINS_ON, Prefect, Project, _answers, background, deploy, within, working

DEPLOY = ROOT / "deploy"
MANIFESTS = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
TEMPLATES = {"docker": DEPLOY / "docker-pool.json", "kubernetes": DEPLOY / "kubernetes" / "pool.json"}
TRIVIAL = """
import os
import time
from prefect import flow

@flow(name="trivial")
def trivial():
    time.sleep(3)
    return None
"""


def read(path: Path) -> list[Any]:
    return [one for one in YAML(typ="safe").load_all(path.read_text(encoding="utf-8")) if one]


def pods() -> Iterator[dict[str, Any]]:
    """Yield each pod's specification, of the manifests and of a run."""
    for path in MANIFESTS:
        yield from (one["spec"]["template"]["spec"] for one in read(path) if one["kind"] == "Deployment")
    template = json.loads(TEMPLATES["kubernetes"].read_text())
    yield template["job_configuration"]["job_manifest"]["spec"]["template"]["spec"]


def compose() -> dict[str, Any]:
    services: dict[str, Any] = read(DEPLOY / "compose.yaml")[0]["services"]
    return services


def commands() -> list[list[str]]:
    boxes = [box for pod in pods() for box in pod["containers"]]
    more = read(DEPLOY / "compose.docker.yaml")[0]["services"].values()
    named = [box["args"] for box in boxes] + [one.get("command") for one in (*compose().values(), *more)]
    return [one for one in named if isinstance(one, list)]


def test_every_command_names_what_the_project_has() -> None:
    assert len(commands()) >= 9
    for command in commands():
        if command[:2] == ["sh", "deploy/with_settings.sh"]:
            command = command[2:]
        for word in command:
            if word.startswith("deploy/"):
                assert (ROOT / word).is_file(), word
        if command[0] == "python":
            assert find_spec(command[2]), command
        else:
            assert (Path(sys.executable).parent / command[0]).exists(), command
        if "--pool" in command:
            assert command[command.index("--pool") + 1] == settings.POOL


def test_containers_are_not_root_cannot_write_their_root_and_have_no_capabilities() -> None:
    for pod in pods():
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["automountServiceAccountToken"] is (pod.get("serviceAccountName") == "worker")
        for box in [*pod["containers"], *pod.get("initContainers", [])]:
            assert box["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert {mount["name"] for mount in box["volumeMounts"]} <= {volume["name"] for volume in pod["volumes"]}
    for name, service in compose().items():
        assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"]), name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
        assert "docker.sock" not in str(service)
    assert re.search(r"^USER \$\{UID\}$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)


def test_images_have_a_version_and_no_file_holds_a_password_or_names_a_registry() -> None:
    for path in (path for path in DEPLOY.rglob("*") if path.suffix in (".yaml", ".json") or path.name == "Dockerfile"):
        text = path.read_text(encoding="utf-8")
        assert ":latest" not in text, path
        assert not re.search(r"docker\.io/(?!prefecthq)|ghcr\.io|quay\.io|download\.pytorch", text), path
        for secret in re.findall(r"^ *\w*(?:PASSWORD|AUTH_STRING): *(\S.*)", text, re.MULTILINE):
            assert secret.startswith("${"), (path, secret)
        for given in re.findall(r"name: \w*(?:PASSWORD|AUTH_STRING|CONNECTION_URL), (\w+)", text):
            assert given == "valueFrom", path
        assert not re.search(r"://[^$/\s]+:[^$/\s]+@", text), path
    secrets = {one for path in MANIFESTS for one in re.findall(r"secretKeyRef: \{name: (\w+)", path.read_text())}
    assert secrets == {"prefect"}  # which docs/cluster.md has one make
    claims = {one["metadata"]["name"] for one in read(DEPLOY / "kubernetes" / "storage.yaml")}
    for pod in pods():
        asked = [volume["persistentVolumeClaim"]["claimName"] for volume in pod["volumes"] if "emptyDir" not in volume]
        assert set(asked) <= claims


def test_every_container_has_bounds_and_what_listens_has_probes() -> None:
    for pod in pods():
        for box in pod["containers"]:
            assert box["resources"]["limits"]["memory"]
            if "ports" in box:
                assert {"startupProbe", "livenessProbe"} <= box.keys()
    for name, service in compose().items():
        assert service["mem_limit"], name
        assert service["pids_limit"], name
    run = json.loads(TEMPLATES["docker"].read_text())["variables"]["properties"]
    assert run["container_create_kwargs"]["default"]["pids_limit"]
    assert run["mem_limit"]["default"]


def test_nobody_speaks_to_a_pod_but_by_a_policy() -> None:
    policies = {one["metadata"]["name"]: one["spec"] for one in read(DEPLOY / "kubernetes" / "network.yaml")}
    assert policies["nobody"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    apps = {one["spec"]["selector"]["app"] for path in MANIFESTS for one in read(path) if one["kind"] == "Service"}
    assert apps == {"server", "service"}
    for app in apps:
        assert policies[app]["podSelector"] == {"matchLabels": {"app": app}}
        assert policies[app]["ingress"]
    kustomization = read(DEPLOY / "kubernetes" / "kustomization.yaml")[0]
    assert {path.name for path in MANIFESTS} - {"kustomization.yaml"} == set(kustomization["resources"])


def test_images_of_others_are_asked_for_by_their_digest() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    assert re.search(r"^ARG BASE$", text, re.MULTILINE)
    [check] = re.findall(r'^RUN (case "\$\{BASE\}".*esac)$', text, re.MULTILINE)
    for base, code in (("python:3.11", 1), ("python:3.11@sha256:0123", 0)):
        done = subprocess.run(["sh", "-c", check], env={"BASE": base}, capture_output=True, text=True, check=False)
        assert done.returncode == code
        assert ("name it by its digest" in done.stderr) == bool(code)
    assert compose()["postgres"]["image"].startswith("${POSTGRES_IMAGE:?by its digest")
    assert compose()["server"]["build"]["args"]["BASE"].startswith("${BASE:?by its digest")
    assert "--require-hashes" in text


@pytest.mark.integration
def test_the_settings_are_a_containers_only_where_they_let_nobody_in(tmp_path: Path) -> None:
    def run(**environment: str) -> subprocess.CompletedProcess[str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        command = ["sh", "deploy/with_settings.sh", "env"]
        return subprocess.run(
            command, cwd=ROOT, env={**clean, "PATH": path, **environment}, capture_output=True, text=True, check=False
        )

    opened = run(PREFECT_SERVER_API_HOST="0.0.0.0")  # noqa: S104
    assert (opened.returncode != 0, opened.stdout) == (True, "")
    assert "it has no password" in opened.stderr
    there = run(PREFECT_API_URL="http://server:4200/api").stdout.splitlines()
    assert "PREFECT_API_URL=http://server:4200/api" in there
    assert "PREFECT_SERVER_CSRF_PROTECTION_ENABLED=true" in there


@pytest.mark.integration
@pytest.mark.parametrize("kind", ["docker", pytest.param("kubernetes", marks=pytest.mark.slow)])
def test_the_caretaker_makes_the_pool_of_its_template_and_deploys_all_to_it(
    prefect: Prefect, kind: str, project: Project
) -> None:
    shutil.copy(ROOT / "prefect.yaml", project.folder)
    shutil.copytree(ROOT / "flows", project.folder / "flows", ignore=shutil.ignore_patterns("__pycache__"))
    gone = prefect.api.delete(f"work_pools/{settings.POOL}")
    assert gone.status_code in (204, 404)
    variables = {"docker": {"mem_limit": "8g"}, "kubernetes": {"gpus": "1"}}[kind]
    options = ["--type", kind, "--template", str(TEMPLATES[kind]), "--retrain", json.dumps(variables), "--once"]
    command = [sys.executable, "-m", "deploy.caretaker", *options]
    for _ in range(2):  # a restart keeps what is there
        done = subprocess.run(
            command, cwd=project.folder, env=prefect.environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
    assert prefect.api.get(f"work_pools/{settings.POOL}").json()["type"] == kind
    retrain = prefect.api.get("deployments/name/retrain/retrain").json()
    assert retrain["job_variables"] == variables
    [step] = retrain["pull_steps"]
    assert step["prefect.deployments.steps.set_working_directory"]["directory"] == str(project.folder)
    assert retrain["global_concurrency_limit"]["limit"] == 1
    assert retrain["schedules"]
    for name in ("retrain", "watch", "rollback"):  # the session's server serves other tests too
        found = prefect.api.get(f"deployments/name/{name}/{name}").json()
        assert prefect.api.delete(f"deployments/{found['id']}").is_success
    command[command.index(kind)] = "process"
    other = subprocess.run(
        command, cwd=project.folder, env=prefect.environment, capture_output=True, text=True, check=False
    )
    assert f"found the work pool local of type {kind}, expected process" in other.stderr
    assert prefect.api.delete(f"work_pools/{settings.POOL}").is_success


@pytest.mark.slow
def test_two_workers_share_the_runs_and_two_retrainings_in_a_folder_never_train_at_once(
    prefect: Prefect, project: Project, tmp_path: Path
) -> None:
    (project.folder / "trivial.py").write_text(TRIVIAL)
    template = ProcessWorker.get_default_base_job_template()
    prefect.post("work_pools/", name="two", type="process", base_job_template=template)
    start = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "two", "--limit", "1", "--name"]
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with (
        background([*start, "first"], tmp_path, prefect.environment),
        background([*start, "second"], elsewhere, prefect.environment) as log,
    ):
        assert within(300, lambda: len(prefect.post("work_pools/two/workers/filter")) == 2), log.read_text()
        made = prefect.post(
            "deployments/",
            name="trivial",
            flow_id=prefect.post("flows/", name="trivial")["id"],
            entrypoint=f"{project.folder / 'trivial.py'}:trivial",
            path=str(project.folder),
            work_pool_name="two",
        )["id"]
        runs = [prefect.start(made) for _ in range(4)]
        assert [prefect.ended(run, 120)["type"] for run in runs] == ["COMPLETED"] * 4
        workers = {prefect.api.get(f"flow_runs/{run}").json()["labels"]["prefect.worker.name"] for run in runs}
        assert workers == {"first", "second"}

        project.script("finetune.py", TRAINS_ON)
        retrain = deploy(prefect, "two", project.folder)
        first = prefect.start(retrain, promote="evaluate only")
        trainers = project.trainers()
        other = prefect.start(retrain, promote="evaluate only", force=True)
        state = prefect.ended(other, 120)  # it waits a minute for the folder
        assert (state["type"], state["name"]) == ("CANCELLED", "Busy")
        assert [int(pid) for pid in (project.folder / "pids").read_text().split()] == trainers
        assert prefect.state(first)["type"] == "RUNNING"
        prefect.post(f"flow_runs/{first}/set_state", state={"type": "CANCELLING"})
        assert prefect.ended(first)["type"] == "CANCELLED"


@pytest.fixture
def postgres(tmp_path: Path) -> Iterator[str]:
    """Start a Postgres on loopback; return its address for Prefect."""
    found = [shutil.which("postgres"), *map(str, Path("/usr/lib/postgresql").glob("*/bin/postgres"))]
    if not any(found):
        pytest.skip("there is no postgres: apt install postgresql")
    binaries = Path(next(path for path in found if path)).resolve().parent
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    become: dict[str, Any] = {}
    folder = tmp_path / "postgres"
    if os.getuid() == 0:  # which Postgres refuses to run as
        folder = Path(f"/var/tmp/postgres-{port}")  # noqa: S108 - pytest's folders are root's alone
        user = pwd.getpwnam("postgres")
        become = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    folder.mkdir()
    if become:
        os.chown(folder, become["user"], become["group"])
    data = str(folder / "data")
    try:
        init = [str(binaries / "initdb"), "-D", data, "-U", "prefect", "-A", "trust"]
        subprocess.run(init, check=True, capture_output=True, cwd=folder, **become)
        server = [str(binaries / "postgres"), "-D", data, "-p", str(port), "-h", "127.0.0.1", "-k", str(folder)]
        with (folder / "log").open("w") as log:
            process = subprocess.Popen(server, cwd=folder, stdout=log, stderr=subprocess.STDOUT, **become)
        try:
            assert within(300, lambda: "ready to accept" in (folder / "log").read_text()), (folder / "log").read_text()
            yield f"postgresql+asyncpg://prefect@127.0.0.1:{port}/postgres"
        finally:
            process.terminate()
            process.wait(300)
    finally:
        shutil.rmtree(folder)


@pytest.mark.slow
def test_with_postgres_behind_the_server_a_deployment_retrains(
    postgres: str, prefect: Prefect, project: Project, tmp_path: Path
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environment = {
        **prefect.environment,
        "PREFECT_API_DATABASE_CONNECTION_URL": postgres,
        "PREFECT_HOME": str(tmp_path / "home"),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
    }
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", port, "--no-ui"]
    server = Prefect(environment)
    with background(command, tmp_path, environment) as log:
        assert within(300, lambda: _answers(server)), log.read_text()
        with working(server, "postgres", tmp_path):
            run = server.start(deploy(server, "postgres", project.folder), promote="evaluate only")
            assert server.ended(run, 120)["type"] == "COMPLETED", server.state(run)
            assert server.tasks(run)["finetune"] == "Completed"
        server.api.close()
    assert not list((tmp_path / "home").glob("*.db"))  # it is in Postgres
