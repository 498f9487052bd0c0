"""The image of a bento, and the files of deploy/serve/ that run it.

The image is built and run for real where CONTAINER_TOOL names docker, podman or buildah: as root, with network, in some
ten minutes and 8 GB. CONTAINER_BASE names an image with Python 3.11 and pip to start from; without it one is made with
debootstrap. buildah runs no services, so there the image's files are run in a chroot, mounted read-only.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from ruamel.yaml import YAML

from pipeline import params
from serving import keys
from tests.serving.conftest import PROMPT, REPOSITORY, environment

SERVE = REPOSITORY / "deploy" / "serve"
TOOL = os.environ.get("CONTAINER_TOOL", "")
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
BASE = f"""FROM scratch
ADD base.tar /
COPY torch /srv/torch/torch
ENV SSL_CERT_FILE={CERTIFICATES} PIP_CERT={CERTIFICATES} PIP_BREAK_SYSTEM_PACKAGES=1
"""
READ_ONLY = """set -e
mount --bind "$1" "$1"
mount -o remount,bind,ro "$1"
mount -t tmpfs -o mode=1777 tmpfs "$1/tmp"
mount -t proc proc "$1/proc"
mount --bind /dev "$1/dev"
root="$1"; shift
exec chroot --userspec=1034:1034 "$root" "$@"
"""


def read(name: str) -> list[dict[str, Any]]:
    return list(YAML(typ="safe").load_all((SERVE / name).read_text(encoding="utf-8")))


def deployment() -> dict[str, Any]:
    [result] = [one for one in read("kubernetes.yaml") if one["kind"] == "Deployment"]
    template: dict[str, Any] = result["spec"]["template"]
    return template


def test_the_manifests_objects_belong_together() -> None:
    objects = {one["kind"]: one for one in read("kubernetes.yaml")}
    labels = deployment()["metadata"]["labels"]
    for kind, one in objects.items():
        selector = one["spec"].get("selector", {})
        if kind == "HorizontalPodAutoscaler":
            assert one["spec"]["scaleTargetRef"]["name"] == objects["Deployment"]["metadata"]["name"]
        else:
            selector = one["spec"].get("podSelector", selector)
            assert selector.get("matchLabels", selector) == labels, kind
    [box] = deployment()["spec"]["containers"]
    ports = {port["name"] for port in box["ports"]}
    assert {port["targetPort"] for port in objects["Service"]["spec"]["ports"]} <= ports
    assert {box[probe]["httpGet"]["port"] for probe in ("startupProbe", "readinessProbe", "livenessProbe")} <= ports
    [image] = read("kustomization.yaml")[0]["images"]
    assert image["name"] == box["image"]


def test_pods_and_containers_are_not_root_cannot_write_but_to_tmp_and_ask_for_keys() -> None:
    pod = deployment()["spec"]
    [box] = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert not pod["automountServiceAccountToken"]
    assert box["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    mounts = {mount["mountPath"]: mount for mount in box["volumeMounts"]}
    assert {path for path, mount in mounts.items() if not mount.get("readOnly")} == {"/tmp"}  # noqa: S108
    given = {one["name"]: one.get("value", "") for one in box["env"]}
    assert any(given["API_KEYS_FILE"].startswith(f"{path}/") for path in mounts)
    assert "ALLOW_ANONYMOUS" not in given
    [service] = read("compose.yaml")[0]["services"].values()
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["environment"]["API_KEYS_FILE"] == f"/run/secrets/{service['secrets'][0]}"
    assert service["ports"] == ["${ADDRESS:-127.0.0.1}:${PORT:-3000}:3000"]


def test_whoever_ends_a_container_waits_longer_than_requests_may_run() -> None:
    drain = params.load(REPOSITORY / "params.yaml").service.drain_seconds
    pod = deployment()["spec"]
    stopping = float(pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod["terminationGracePeriodSeconds"] >= stopping + drain + 10
    [service] = read("compose.yaml")[0]["services"].values()
    assert float(service["stop_grace_period"].removesuffix("s")) >= drain + 10


@pytest.mark.skipif(not shutil.which("kubectl"), reason="there is no kubectl")
@pytest.mark.integration
def test_kubectl_renders_the_manifest_with_the_image_that_is_named() -> None:
    done = run("kubectl", "kustomize", str(SERVE))
    [result] = [one for one in YAML(typ="safe").load_all(done) if one["kind"] == "Deployment"]
    [image] = read("kustomization.yaml")[0]["images"]
    assert result["spec"]["template"]["spec"]["containers"][0]["image"] == f"{image['newName']}:{image['newTag']}"


@pytest.mark.integration
def test_compose_accepts_its_file_and_requires_its_variables(tmp_path: Path) -> None:
    has = shutil.which("docker") and subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
    if not has or has.returncode:
        pytest.skip("there is no docker compose")
    command = ["docker", "compose", "--file", str(SERVE / "compose.yaml"), "config"]
    (tmp_path / "keys").touch()
    given = {"IMAGE": "gpt2:0123456789ab", "API_KEYS_FILE": str(tmp_path / "keys")}
    whole = subprocess.run(command, env=environment(**given), capture_output=True, text=True, check=False)
    assert whole.returncode == 0, whole.stderr
    assert "image: gpt2:0123456789ab" in whole.stdout
    for lacking in given:
        rest = {name: value for name, value in given.items() if name != lacking}
        done = subprocess.run(command, env=environment(**rest), capture_output=True, text=True, check=False)
        assert done.returncode != 0
        assert lacking in done.stderr


# A real image


def run(*command: str, cwd: Path | None = None, **more: str) -> str:
    """Run a command to its end; return what it prints."""
    done = subprocess.run(
        command,
        cwd=cwd,
        env=environment(**more),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-6000:]}"
    return done.stdout


def options() -> dict[str, str]:
    """Return what the tool needs to build inside of a container or a small machine."""
    return {"DOCKER_BUILDKIT": "0"} if TOOL == "docker" else {"BUILDAH_ISOLATION": "chroot", "BUILDAH_FORMAT": "docker"}


def make_base(folder: Path) -> str:
    """Make an image of Debian with its Python, and this machine's torch in an index of its own; return its name."""
    for needed in ("debootstrap", TOOL):
        if not shutil.which(needed):
            pytest.skip(f"there is no {needed}")
    root, torch = folder / "root", folder / "context" / "torch"
    torch.mkdir(parents=True)
    packages = "--include=python3,python3-venv,python3-pip,ca-certificates"
    run("debootstrap", "--variant=minbase", packages, "bookworm", str(root), "http://deb.debian.org/debian")
    shutil.copy(CERTIFICATES, root / CERTIFICATES.removeprefix("/"))
    run("tar", "--numeric-owner", "-C", str(root), "-cf", str(folder / "context" / "base.tar"), ".")
    [pin] = re.findall(r"^torch==\S+$", (REPOSITORY / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    run(sys.executable, "-m", "pip", "download", "--no-deps", "--dest", str(torch), pin)
    links = "".join(f'<a href="{wheel.name.replace("+", "%2B")}">{wheel.name}</a>' for wheel in torch.glob("*.whl"))
    (torch / "index.html").write_text(links, encoding="utf-8")
    (folder / "context" / "Dockerfile").write_text(BASE, encoding="utf-8")
    name = "localhost/fresh-gpt2-test-base:1"
    run(TOOL, "build", "--network", "host", "--tag", name, str(folder / "context"), **options())
    return name


@contextmanager
def running(image: str, folder: Path, *arguments: str, **variables: str) -> "Iterator[subprocess.Popen[bytes]]":
    """Run the image with its root read-only, not as root, in the host's network; its output goes to `folder`/log."""
    if TOOL == "buildah":
        container = run("buildah", "from", image).strip()
        root = run("buildah", "mount", container).strip()
        config = json.loads(run("buildah", "inspect", "--type", "image", image))["OCIv1"]["config"]
        assert config["User"] == "bentoml"
        assert "bentoml:x:1034:1034:" in (Path(root) / "etc" / "passwd").read_text(encoding="utf-8")
        given = [*config["Env"], *(f"{name}={value}" for name, value in variables.items())]
        command = ["unshare", "--mount", "sh", "-c", READ_ONLY, "sh", root]
        command += ["env", "--ignore-environment", f"--chdir={config['WorkingDir']}", *given, *config["Entrypoint"]]
    else:
        container = "fresh-gpt2-test"
        command = [TOOL, "run", "--rm", "--name", container, "--network", "host", "--read-only", "--tmpfs", "/tmp"]  # noqa: S108
        command += ["--cap-drop", "ALL", "--security-opt", "no-new-privileges"]
        command += [word for name, value in variables.items() for word in ("--env", f"{name}={value}")] + [image]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([*command, *arguments], stdout=log, stderr=subprocess.STDOUT)
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
            run(TOOL, "rm", container) if TOOL == "buildah" else None


@pytest.mark.slow
@pytest.mark.skipif(not TOOL, reason="set CONTAINER_TOOL to docker, podman or buildah to build and run a real image")
def test_the_image_of_a_bento_serves_as_nobody_from_a_read_only_disk(checkout: Path, tmp_path: Path) -> None:
    if os.getuid():
        pytest.skip("only root can make the base image")
    home = str(tmp_path / "home")
    base = os.environ.get("CONTAINER_BASE") or make_base(tmp_path)
    bentofile = checkout / "bentofile.yaml"
    text = bentofile.read_text(encoding="utf-8")
    bentofile.write_text(text.replace("docker:\n", f"docker:\n  base_image: {base}\n"), encoding="utf-8")
    output = run(sys.executable, "-m", "cli", "pack", cwd=checkout, BENTOML_HOME=home)
    tag = output.strip().rpartition(" ")[2]
    image = f"localhost/fresh-gpt2-test:{tag.partition(':')[2]}"
    build = [sys.executable, "-m", "bentoml", "containerize", tag, "--backend", TOOL, "--image-tag", image]
    build += ["--opt", "network=host", "--opt", "build-arg=TORCH_INDEX=file:///srv/torch"]
    run(*build, BENTOML_HOME=home, **options())

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = ["serve", "--port", str(port)]
    with running(image, tmp_path, *arguments) as refused:
        assert refused.wait(600) != 0
    assert "asks for no API key" in (tmp_path / "log").read_text(encoding="utf-8")

    key, line = keys.new("somebody")
    with running(image, tmp_path, *arguments, API_KEYS=line) as process:
        url = f"http://127.0.0.1:{port}"
        for _ in range(600):
            assert process.poll() is None, (tmp_path / "log").read_text(encoding="utf-8")
            try:
                if httpx.get(f"{url}/readyz").status_code == 200:
                    break
            except httpx.TransportError:
                pass  # not listening yet
            time.sleep(0.2)
        else:
            raise AssertionError((tmp_path / "log").read_text(encoding="utf-8"))
        body = {"prompt": PROMPT, "max_new_tokens": 8, "seed": 1}
        assert httpx.post(f"{url}/generate", json=body).status_code == 401
        answer = httpx.post(f"{url}/generate", json=body, headers={"Authorization": f"Bearer {key}"}, timeout=300)
        assert (answer.status_code, answer.json()["model"]) == (200, tag.partition(":")[2])
        if TOOL == "buildah":
            status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
            assert re.search(r"^Uid:\s+1034\s+1034\s", status, re.MULTILINE)
            process.send_signal(signal.SIGTERM)
        else:
            assert run(TOOL, "exec", "fresh-gpt2-test", "id", "-u").strip() == "1034"
            run(TOOL, "stop", "--time", "45", "fresh-gpt2-test")
        assert process.wait(300) == 0
    with running(image, tmp_path, "python", "-c", "import torch; print(torch.version.cuda)") as printer:
        assert printer.wait(600) == 0
    assert (tmp_path / "log").read_text(encoding="utf-8").strip() == "None"
    kind = {"buildah": ["--type", "image"]}.get(TOOL, [])
    assert "/readyz" in run(TOOL, "inspect", *kind, image)  # the image's own health check
