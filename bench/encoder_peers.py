"""The peers and bare engines of `bench.encoders`: `python -m bench.encoder_peers NAME FOLDER [PORT]`.

With a port NAME is a server, without one an engine, of which the last line says how many texts it reads a second.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from tokenizers import Tokenizer

from bench import load
from bench.harness import FRESH
from bench.micro_batches import CORES, MicroBatches
from pipeline.command import arg_parser, echo, run

BATCH = 8  # texts that an engine alone reads at a time
SECONDS = float(os.environ.get("BENCH_SECONDS", "8"))
CALIBRATION = 300  # texts by which OpenVINO's scales are chosen


class Body(BaseModel):
    """A request, as the service takes it."""

    text: str


def recipe(folder: Path) -> FastAPI:
    """Return an app over transformers' pipeline in float32, in the handler itself: one request at a time."""
    from transformers import pipeline

    classify = pipeline("text-classification", model=str(folder), tokenizer=str(folder), top_k=None)
    app = FastAPI()

    @app.post("/classify")
    async def answer(body: Body) -> Any:
        return classify(body.text)

    return app


class OpenVino:
    """A classifier as OpenVINO runs it: weights and activations in 8 bits, the scales chosen by nncf on a sample."""

    def __init__(self, folder: Path) -> None:
        """Convert the model in `folder` once, and load it."""
        openvino = import_module("openvino")
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        file = folder.parent / f"{folder.name}-openvino-{openvino.__version__.split('-')[0]}.xml"
        if not file.is_file():
            openvino.save_model(self._convert(folder), file)
        settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": CORES}
        self._model = openvino.Core().compile_model(str(file), "CPU", settings)

    def _convert(self, folder: Path) -> Any:
        import torch
        from transformers import AutoModelForSequenceClassification

        openvino, nncf = import_module("openvino"), import_module("nncf")
        model = AutoModelForSequenceClassification.from_pretrained(
            folder, attn_implementation="eager", local_files_only=True, trust_remote_code=False, use_safetensors=True
        ).eval()

        class Logits(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.model = model

            def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
                types = torch.zeros_like(input_ids)
                logits: torch.Tensor = self.model(input_ids, attention_mask, token_type_ids=types).logits
                return logits

        example = {name: torch.from_numpy(value) for name, value in self._inputs([[1, 2, 3], [1, 2]]).items()}
        texts = [self.tokenizer.encode(text).ids for text in load.prompts(folder)[:CALIBRATION]]
        calibration = nncf.Dataset(texts, lambda ids: self._inputs([ids]))
        whole = openvino.convert_model(Logits(), example_input=example)
        return nncf.quantize(whole, calibration, model_type=nncf.ModelType.TRANSFORMER)

    @staticmethod
    def _inputs(texts: Sequence[Sequence[int]]) -> dict[str, Any]:
        import numpy as np

        longest = max(map(len, texts))
        ids = np.array([[*text, *[0] * (longest - len(text))] for text in texts])
        mask = np.array([[1] * len(text) + [0] * (longest - len(text)) for text in texts])
        return {"input_ids": ids, "attention_mask": mask}  # each (texts, longest)

    def read(self, texts: Sequence[Sequence[int]]) -> list[list[float]]:
        """Return the logits of texts, padded to the longest."""
        logits: list[list[float]] = self._model(self._inputs(texts))[0].tolist()
        return logits


def openvino_batched(folder: Path) -> FastAPI:
    """Return an app that passes micro-batches to OpenVINO, and does nothing else."""
    model = OpenVino(folder)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.batches = MicroBatches(model.read)
        yield
        await app.state.batches.close()

    app = FastAPI(lifespan=lifespan)

    @app.post("/classify")
    async def answer(body: Body) -> Any:
        return await app.state.batches.write(model.tokenizer.encode(body.text).ids)

    return app


def openvino_alone(folder: Path) -> float:
    """Return how many texts a second OpenVINO reads in batches of BATCH."""
    model = OpenVino(folder)
    texts = itertools.cycle([model.tokenizer.encode(text).ids for text in load.prompts(folder)])

    def read() -> None:
        model.read(list(itertools.islice(texts, BATCH)))

    read()
    started, count = time.perf_counter(), 0
    while time.perf_counter() < started + SECONDS:
        read()
        count += BATCH
    return count / (time.perf_counter() - started)


def fresh_alone(folder: Path) -> float:
    """Return how many texts a second the service's engine reads for BATCH requests at a time of one text each."""
    from dataclasses import replace

    from serving import settings
    from serving.engines import encoder_selection

    chosen = replace(settings.engine_settings(settings.load(settings.ROOT), settings.ROOT), name="auto")
    engine = encoder_selection.make(folder, "AutoModelForSequenceClassification", chosen)
    texts = itertools.cycle(engine.encode(load.prompts(folder)))

    async def client(end: float) -> int:
        count = 0
        while time.perf_counter() < end:
            await engine.run([next(texts)])
            count += 1
        return count

    async def measure(seconds: float) -> float:
        started = time.perf_counter()
        counts = await asyncio.gather(*(client(started + seconds) for _ in range(BATCH)))
        return sum(counts) / (time.perf_counter() - started)

    async def both() -> float:
        await measure(min(1.0, SECONDS))
        return await measure(SECONDS)

    speed = asyncio.run(both())
    engine.close()
    return speed


SERVERS: dict[str, Callable[[Path], FastAPI]] = {"recipe": recipe, "OpenVINO, micro-batches": openvino_batched}
ENGINES: dict[str, Callable[[Path], float]] = {
    "OpenVINO, bare engine": openvino_alone,
    f"{FRESH}, bare engine": fresh_alone,
}


def main() -> None:
    """Serve until stopped, or measure an engine."""
    parser = arg_parser()
    parser.add_argument("name", choices=[*SERVERS, *ENGINES])
    parser.add_argument("folder", type=Path, help="of the model")
    parser.add_argument("port", type=int, nargs="?")
    arguments = parser.parse_args()
    if arguments.port is None:
        echo("\n" + json.dumps(ENGINES[arguments.name](arguments.folder)))
        return
    app = SERVERS[arguments.name](arguments.folder)

    @app.get("/readyz")
    async def ready() -> None:
        """Answer 200."""

    uvicorn.run(app, host="127.0.0.1", port=arguments.port, log_level="warning")


if __name__ == "__main__":
    run(main)
