"""The project that `bench.soak` serves: models with different weights in a registry of their own."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import torch
from safetensors.torch import load_file, save_file

from bench import harness
from bench.soak_traffic import ChampionHistory
from pipeline.command import UserError
from pipeline.registry.store import Registry
from pipeline.registry.versions import Version

COPIED = ("serving", "pipeline", "service.py", "bentofile.yaml", "params.yaml", "constraints.txt", "requirements.lock")
NOISE = 0.03  # of each weight: enough that each model writes different texts, little enough that it still writes


class Project:
    """A copy of the project in a folder of its own, whose registry holds the models."""

    def __init__(self, folder: Path) -> None:
        """Copy what serving needs; make three intact models and a truncated one, which does not load."""
        self.root = folder / "project"
        self.root.mkdir()
        for name in COPIED:
            copy = shutil.copytree if (harness.ROOT / name).is_dir() else shutil.copy
            copy(harness.ROOT / name, self.root / name)
        os.environ["BENTOML_HOME"] = str(folder / "home")
        self.registry = Registry(self.root)
        self.models = [self._add(folder / f"model{seed}", seed) for seed in range(3)]
        self.truncated = self._add(folder / "truncated", 3, truncated=True)
        self.log = folder / "server.log"

    def _add(self, folder: Path, seed: int, truncated: bool = False) -> Version:
        folder.mkdir()
        for file in (harness.ROOT / "starter").glob("*.json"):
            shutil.copy(file, folder)
        torch.manual_seed(seed)
        weights = {
            name: (weight * (1 + NOISE * torch.randn(weight.shape))).to(weight.dtype)
            for name, weight in load_file(harness.ROOT / "starter" / "model.safetensors").items()
        }
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        if truncated:
            os.truncate(folder / "model.safetensors", 1_000_000)
        (folder / "manifest.json").write_text(json.dumps({"data": f"{seed:064}"}), encoding="utf-8")
        return self.registry.add(folder, {}, {})

    def move(self, to: Version, history: ChampionHistory | None = None) -> None:
        """Make `to` the champion: by a rollback if it was the previous one, else by a promotion."""
        since = time.monotonic()
        champion = self.registry.champion()
        if champion and _previous(self.registry) == to.tag:
            self.registry.rollback(None, "soak")
        else:
            self.registry.move(to, expected=champion.tag if champion else None, action="promote", why="soak")
        if history:
            history.record(to.version, since, time.monotonic())

    @contextmanager
    def served(self, workers: int) -> Iterator[tuple[str, psutil.Process]]:
        """Run the service during the block; yield its address and its master process."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        unset = ("MODEL_DIR", "PROMETHEUS_MULTIPROC_DIR")
        environment = {
            **{name: value for name, value in os.environ.items() if name not in unset},
            "BENTOML_CONFIG_OPTIONS": f"services.gpt2.workers={workers}",
            "BENTOML_DO_NOT_TRACK": "True",
            "OMP_NUM_THREADS": "1",
        }
        command = [sys.executable, "-m", "bentoml", "serve", ".", "--host", "127.0.0.1", "--port", str(port)]
        with (
            self.log.open("ab") as log,
            subprocess.Popen(command, cwd=self.root, env=environment, stdout=log, stderr=subprocess.STDOUT) as process,  # noqa: S603 - our own command
        ):
            try:
                yield f"http://127.0.0.1:{port}", psutil.Process(process.pid)
            finally:
                process.terminate()
                code = process.wait(90)
        if code:
            raise RuntimeError(f"the server ended with {code}; its log is {self.log}")


def _previous(registry: Registry) -> str | None:
    try:
        return registry.get("previous").tag
    except UserError:
        return None
