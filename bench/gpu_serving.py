"""Text generation of `bench.gpu`: the service's engine and transformers' `generate`, and the service over HTTP."""

import asyncio
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import AutoTokenizer, PreTrainedModel

from bench.gpu_figures import DEVICE, Emit, Figure, Plan, synchronized_time

PROMPT = 12  # tokens
TOKENS = 64  # of each generated text
COUNTS = (1, 8, 32, 64, 256)  # texts at a time
CLIENTS = 64
SECONDS = 4.0  # after which the engine's texts are cut, for each number of texts; a text takes half a second
HTTP_SECONDS = 5.0

Sizes = tuple[int, tuple[int, ...]]  # tokens of a text, and numbers of texts


def load_model(quick: bool) -> PreTrainedModel:
    """Return GPT-2, or for a quick run the starter, on the device."""
    from bench import train_models

    with torch.device(DEVICE):
        return train_models.load_model("starter" if quick else "gpt2").eval()


def generation(plan: Plan, emit: Emit) -> None:
    """Write texts with the engine behind its scheduler, and with transformers' `generate` in one batch, in turns."""
    from bench.bare_engines import drive
    from bench.micro_batches import tokenized_prompts
    from serving.engines.batched import BatchedRunner
    from serving.engines.scheduler import Scheduler

    tokens, counts = _sizes(plan.quick)
    model = load_model(plan.quick).to(torch.bfloat16 if DEVICE == "cuda" else torch.float32)
    with tempfile.TemporaryDirectory() as name:
        _save(model, Path(name))
        prompts = tokenized_prompts(Path(name))
        runner = None

        def make() -> BatchedRunner:
            nonlocal runner
            runner = BatchedRunner(Path(name), 2 * max(counts), DEVICE)
            runner.require_agreement()
            return runner

        engine = Scheduler(make, max(counts))
        for count in counts:
            if time.monotonic() > plan.deadline:
                emit(Figure(_texts(count), "", reason="no time was left"))
                continue
            generate = _generate(model, count)
            generate(2)
            for _ in range(plan.rounds):
                began = synchronized_time()
                generate(tokens)
                plain = count * tokens / (synchronized_time() - began)
                emit(Figure(f"generate, {_texts(count)}", f"generate, {_texts(count)}", plain, "tokens/s"))
                [result] = asyncio.run(drive(engine, prompts, tokens, 1, [count], SECONDS))
                speed = result.tokens / result.seconds
                emit(Figure(f"engine, {_texts(count)}", f"generate, {_texts(count)}", speed, "tokens/s"))
        engine.close()
        if DEVICE == "cuda" and runner and not runner.graphs.enabled:
            emit(Figure("CUDA graphs", "", reason="a step could not be captured, or differed from its replay"))


def serving(plan: Plan, emit: Emit) -> None:
    """Put load on the service over HTTP, whose engine `generation` measures without it; texts are streamed."""
    from bench.harness import FRESH
    from bench.server_processes import ServerProcess, Size, servers

    tokens, _ = _sizes(plan.quick)
    clients = 2 if plan.quick else CLIENTS
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "model")
        _save(load_model(plan.quick), folder)
        process = ServerProcess(FRESH, servers()[FRESH], folder)
        try:
            process.wait_until_ready()
            for _ in range(plan.rounds):
                size = Size("", tokens, waves=1 if plan.quick else 8, min_requests=1, seconds=HTTP_SECONDS)
                [result] = process.measure(folder, size, closed=[clients])
                variant = f"{process.engine()} over HTTP, {clients} clients"
                emit(Figure(variant, "", result.tokens / result.seconds, "tokens/s"))
                if result.errors:
                    emit(Figure(variant, "", reason=f"errors: {result.errors}"))
        finally:
            process.stop()


def _sizes(quick: bool) -> Sizes:
    return (2, (1, 2)) if quick else (TOKENS, COUNTS)


def _save(model: PreTrainedModel, folder: Path) -> None:
    """Save the model, with a tokenizer."""
    from bench.train_models import STARTER

    model.config.use_cache = True
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(STARTER, local_files_only=True, trust_remote_code=False).save_pretrained(folder)


def _generate(model: PreTrainedModel, count: int) -> Callable[[int], object]:
    """Return what writes so many tokens after `count` prompts."""
    from bench.train_models import tokenized

    ids = torch.tensor([prompt[:PROMPT] for prompt in tokenized(count)], device=DEVICE)
    mask = torch.ones_like(ids)
    model.generation_config.pad_token_id = 0
    settings = {"do_sample": True, "temperature": 0.6, "top_p": 0.95, "top_k": 50, "use_cache": True}

    @torch.inference_mode()
    def write(tokens: int) -> object:
        return model.generate(ids, attention_mask=mask, max_new_tokens=tokens, min_new_tokens=tokens, **settings)

    return write


def _texts(count: int) -> str:
    return "1 text" if count == 1 else f"{count} texts"
