"""The servers that `bench.serve` holds ours against: `python -m bench.servers NAME FOLDER PORT` is one of them.

`python -m bench.servers model NAME` makes the model of that name, once, and prints its folder.
"""

import getpass
import hashlib
import itertools
import json
import os
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
from bench.designs import CONVERTED, START, TEMPERATURE, TOP_K, TOP_P, CTranslate2, Request, Window
from pipeline.command import arg_parser, echo, run

STARTER = harness.ROOT / "starter"
MODELS: dict[str, dict[str, int]] = {
    "gpt2": {},  # 124 million parameters, as GPT2Config has them
    "tiny": {"n_layer": 2, "n_embd": 64, "n_head": 2, "n_positions": 256, "vocab_size": 5120},
}


class Wanted(BaseModel):
    """A request, as ours takes it; the seed is ours alone."""

    prompt: str
    max_new_tokens: int
    temperature: float
    top_p: float
    top_k: int
    seed: int


def make_model(name: str) -> Path:
    """Return the folder of a GPT-2 with random weights (seed 0) and the starter's tokenizer; it is made once.

    CTranslate2's form of it lies in the folder CONVERTED.
    """
    made_by = "-".join(metadata.version(library) for library in ("torch", "transformers", "ctranslate2"))
    # Of this user alone: others may write into the folder of temporary files, too.
    cache = Path(tempfile.gettempdir()) / f"fresh-gpt2-bench-{getpass.getuser()}"
    cache.mkdir(mode=0o700, exist_ok=True)
    if cache.stat().st_uid != os.getuid():
        raise PermissionError(f"{cache}: belongs to another user; set TMPDIR to a folder of your own")
    folder = cache / f"{name}-{made_by}"
    if folder.is_dir():
        return folder

    import torch
    from ctranslate2.converters import TransformersConverter
    from transformers import GPT2Config, GPT2LMHeadModel

    with tempfile.TemporaryDirectory(dir=cache) as beside:
        new = Path(beside) / "model"
        torch.manual_seed(0)
        model = GPT2LMHeadModel(GPT2Config(**MODELS[name], bos_token_id=START, eos_token_id=START))
        # Too near to 0 to be among the likeliest: no text ends before it has the length that was asked for.
        model.transformer.wte.weight.data[START] *= 0.01
        model.save_pretrained(new)
        tokenizer = json.loads((STARTER / "tokenizer.json").read_text(encoding="utf-8"))
        _fill_up(tokenizer["model"]["vocab"], model.config.vocab_size)
        (new / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")
        (new / "tokenizer_config.json").write_bytes((STARTER / "tokenizer_config.json").read_bytes())
        data = hashlib.sha256(b"random weights").hexdigest()
        (new / "manifest.json").write_text(json.dumps({"data": data}), encoding="utf-8")
        TransformersConverter(str(new)).convert(str(new / CONVERTED), quantization="int8")
        new.rename(folder)
    return folder


def _fill_up(vocabulary: dict[str, int], size: int) -> None:
    """Add words that no merge makes, so that each of the model's tokens has a text."""
    words = [word for word in vocabulary if word.isascii() and word.isalpha()]
    for first, second in itertools.product(words, words):
        if len(vocabulary) == size:
            return
        vocabulary.setdefault(f"{first}{second}", len(vocabulary))


def recipe(folder: Path) -> FastAPI:
    """Return the recipe's app: transformers' generate, in float32, in the handler itself: one request at a time."""
    import torch
    from transformers import GPT2LMHeadModel, GPT2TokenizerFast

    tokenizer = GPT2TokenizerFast.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    model = GPT2LMHeadModel.from_pretrained(
        folder, local_files_only=True, trust_remote_code=False, use_safetensors=True
    ).eval()
    app = FastAPI()

    @app.post("/generate")
    async def generate(wanted: Wanted) -> dict[str, Any]:
        ids = tokenizer(wanted.prompt, return_tensors="pt").input_ids
        with torch.no_grad():
            output = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                pad_token_id=tokenizer.eos_token_id,
                max_new_tokens=wanted.max_new_tokens,
                do_sample=True,
                temperature=wanted.temperature,
                top_p=wanted.top_p,
                top_k=wanted.top_k,
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
    def write(requests: Sequence[Request]) -> None:
        longest = max(len(request.prompt) for request in requests)
        ids = torch.tensor([[START] * (longest - len(one.prompt)) + one.prompt for one in requests])
        mask = torch.tensor([[0] * (longest - len(one.prompt)) + [1] * len(one.prompt) for one in requests])
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
        for request, tokens in zip(requests, output[:, longest:].tolist(), strict=True):
            for token in tokens[: request.length]:
                if token == START:
                    break
                request.push(token)
            request.finish()

    return _batched(folder, write)


def ctranslate2_batched(folder: Path) -> FastAPI:
    """Return an app that passes micro-batches to CTranslate2 in 8-bit integers, and does nothing else."""
    return _batched(folder, CTranslate2(folder).write)


def _batched(folder: Path, write: Callable[[list[Request]], None]) -> FastAPI:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.window = Window(write)
        yield
        await app.state.window.close()

    app = FastAPI(lifespan=lifespan)

    @app.post("/generate")
    async def generate(wanted: Wanted) -> dict[str, Any]:
        request = Request([START, *tokenizer.encode(wanted.prompt).ids], wanted.max_new_tokens)
        await app.state.window.write(request)
        return _answer(tokenizer.decode(request.tokens), len(request.tokens))

    return app


SERVERS: dict[str, Callable[[Path], FastAPI]] = {
    "recipe": recipe,
    "transformers, micro-batches": transformers_batched,
    "CTranslate2, micro-batches": ctranslate2_batched,
}


def main() -> None:
    """Make a model, or serve until told to stop."""
    parser = arg_parser()
    parser.add_argument("name", choices=["model", *SERVERS])
    parser.add_argument("folder", help="of the model; its name, after `model`")
    parser.add_argument("port", type=int, nargs="?")
    given = parser.parse_args()
    if given.name == "model":
        echo(f"\n{make_model(given.folder)}")
        return
    app = SERVERS[given.name](Path(given.folder))

    @app.get("/readyz")
    async def ready() -> None:
        """Answer 200."""

    uvicorn.run(app, host="127.0.0.1", port=given.port, log_level="warning")


if __name__ == "__main__":
    run(main)
