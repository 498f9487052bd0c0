"""The peers of `bench.serve`: `python -m bench.servers NAME FOLDER PORT` runs one of them.

`python -m bench.servers model NAME` makes the model of that name, once, and prints its folder.
"""

import hashlib
import itertools
import json
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from tokenizers import Tokenizer

from bench import harness
from bench.micro_batches import (
    CONVERTED,
    START,
    TEMPERATURE,
    TOP_K,
    TOP_P,
    CTranslate2Model,
    MicroBatches,
    Request,
    WriteBatch,
)
from pipeline.base import import_base
from pipeline.command import arg_parser, echo, run

STARTER = harness.ROOT / "starter"
MODEL_LIBRARIES = ("torch", "transformers", "ctranslate2")  # whose versions decide the files of a model
MODELS: dict[str, dict[str, int]] = {
    "gpt2": {},  # 124 million parameters, as GPT2Config has them
    "tiny": {"n_layer": 2, "n_embd": 64, "n_head": 2, "n_positions": 256, "vocab_size": 5120},
}


class Body(BaseModel):
    """The body of a request, as the service takes it; peers ignore the seed."""

    prompt: str
    max_new_tokens: int
    temperature: float
    top_p: float
    top_k: int
    seed: int


def make_model(name: str) -> Path:
    """Return the folder of a model, which is made once.

    Those of MODELS are GPT-2s with random weights (seed 0) and the starter's tokenizer, and CTranslate2's form of them
    in the folder CONVERTED; any other name is a base as in params.yaml, or a folder.
    """
    if Path(name).is_dir():
        return Path(name)
    folder = harness.cache_folder() / f"{name}-{'-'.join(metadata.version(library) for library in MODEL_LIBRARIES)}"
    if not folder.is_dir():
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            unfinished = Path(scratch) / "model"
            if name in MODELS:
                _write_model(unfinished, MODELS[name])
            else:
                import_base(name, unfinished, "causal_lm")
            data = hashlib.sha256(b"no data").hexdigest()
            (unfinished / "manifest.json").write_text(json.dumps({"data": data}), encoding="utf-8")
            unfinished.rename(folder)
    return folder


def _write_model(folder: Path, sizes: dict[str, int]) -> None:
    import torch
    from ctranslate2.converters import TransformersConverter
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=START, eos_token_id=START))
    # Too near to 0 to be among the likeliest: no text ends before it has the requested length.
    model.transformer.wte.weight.data[START] *= 0.01
    model.save_pretrained(folder)
    tokenizer = json.loads((STARTER / "tokenizer.json").read_text(encoding="utf-8"))
    fill_vocabulary(tokenizer["model"]["vocab"], model.config.vocab_size)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")
    (folder / "tokenizer_config.json").write_bytes((STARTER / "tokenizer_config.json").read_bytes())
    TransformersConverter(str(folder)).convert(str(folder / CONVERTED), quantization="int8")


def fill_vocabulary(vocabulary: dict[str, int], size: int) -> None:
    """Add words that no merge makes, so that each of the model's tokens has a text."""
    words = [word for word in vocabulary if word.isascii() and word.isalpha()]
    for first, second in itertools.product(words, words):
        if len(vocabulary) == size:
            return
        vocabulary.setdefault(f"{first}{second}", len(vocabulary))


def recipe(folder: Path) -> FastAPI:
    """Return the recipe's app: transformers' generate in float32, in the handler itself, one request at a time."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, local_files_only=True, trust_remote_code=False, use_safetensors=True
    ).eval()
    app = FastAPI()

    @app.post("/generate")
    async def generate(body: Body) -> dict[str, Any]:
        ids = tokenizer(body.prompt, return_tensors="pt").input_ids
        with torch.no_grad():
            output = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                pad_token_id=tokenizer.eos_token_id,
                max_new_tokens=body.max_new_tokens,
                do_sample=True,
                temperature=body.temperature,
                top_p=body.top_p,
                top_k=body.top_k,
            )[0, ids.shape[1] :]
        return _answer(tokenizer.decode(output, skip_special_tokens=True), len(output))

    return app


def _answer(text: str, tokens: int) -> dict[str, Any]:
    return {"text": text, "usage": {"completion_tokens": tokens}}


def transformers_batched(folder: Path) -> FastAPI:
    """Return an app that passes micro-batches to transformers' generate, in float32, padded on the left."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, local_files_only=True, trust_remote_code=False, use_safetensors=True
    ).eval()

    @torch.inference_mode()
    def write(requests: Sequence[Request]) -> list[list[int]]:
        longest = max(len(request.prompt) for request in requests)
        paddings = [longest - len(request.prompt) for request in requests]
        ids = torch.tensor([[START] * n + one.prompt for n, one in zip(paddings, requests, strict=True)])
        mask = torch.tensor([[0] * n + [1] * (longest - n) for n in paddings])  # (requests, longest)
        output = model.generate(
            ids,
            attention_mask=mask,
            pad_token_id=START,
            max_new_tokens=max(request.length for request in requests),
            do_sample=True,
            temperature=TEMPERATURE,
            top_p=TOP_P,
            top_k=TOP_K,
        )
        texts = zip(requests, output[:, longest:].tolist(), strict=True)
        return [list(itertools.takewhile(lambda t: t != START, tokens[: one.length])) for one, tokens in texts]

    return _batched(folder, write)


def ctranslate2_batched(folder: Path) -> FastAPI:
    """Return an app that passes micro-batches to CTranslate2 in 8-bit integers, and does nothing else."""
    return _batched(folder, CTranslate2Model(folder).write)


def _batched(folder: Path, write: WriteBatch) -> FastAPI:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.batches = MicroBatches(write)
        yield
        await app.state.batches.close()

    app = FastAPI(lifespan=lifespan)

    @app.post("/generate")
    async def generate(body: Body) -> dict[str, Any]:
        request = Request([START, *tokenizer.encode(body.prompt).ids], body.max_new_tokens)
        tokens = await app.state.batches.write(request)
        return _answer(tokenizer.decode(tokens), len(tokens))

    return app


SERVERS: dict[str, Callable[[Path], FastAPI]] = {
    "recipe": recipe,
    "transformers, micro-batches": transformers_batched,
    "CTranslate2, micro-batches": ctranslate2_batched,
}


def main() -> None:
    """Make a model, or serve until stopped."""
    parser = arg_parser()
    parser.add_argument("name", choices=["model", *SERVERS])
    parser.add_argument("folder", help="of the model; for `model` its name")
    parser.add_argument("port", type=int, nargs="?")
    arguments = parser.parse_args()
    if arguments.name == "model":
        echo(f"\n{make_model(arguments.folder)}")
        return
    app = SERVERS[arguments.name](Path(arguments.folder))

    @app.get("/readyz")
    async def ready() -> None:
        """Answer 200."""

    uvicorn.run(app, host="127.0.0.1", port=arguments.port, log_level="warning")


if __name__ == "__main__":
    run(main)
