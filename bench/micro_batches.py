"""Micro-batches over a model that writes whole batches: how the peers in `bench.servers` serve many clients."""

import asyncio
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from tokenizers import Tokenizer

from bench import load

START = 0  # the token that texts begin and end with, as the starter's tokenizer has it
TEMPERATURE, TOP_P, TOP_K = 0.6, 0.95, 50
WINDOW = 0.004  # seconds in which requests become one batch
MAX_BATCH = 64
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
CONVERTED = "ctranslate2"  # folder of CTranslate2's form of a model, inside the model's folder


@dataclass(frozen=True)
class Request:
    """A prompt, and how many tokens to write."""

    prompt: list[int]
    length: int


WriteBatch = Callable[[Sequence[Request]], list[list[int]]]  # returns the tokens of each request

_In = TypeVar("_In")
_Out = TypeVar("_Out")


class CTranslate2Model:
    """A model in 8-bit integers, as CTranslate2 runs it."""

    def __init__(self, folder: Path) -> None:
        """Load it from CONVERTED in `folder`."""
        import ctranslate2

        self._generator = ctranslate2.Generator(str(folder / CONVERTED), compute_type="int8", intra_threads=CORES)
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokens = [tokenizer.id_to_token(number) for number in range(tokenizer.get_vocab_size())]

    def write(self, requests: Sequence[Request]) -> list[list[int]]:
        """Return the tokens of each request; all are written to the longest length."""
        results = self._generator.generate_batch(
            [[self._tokens[token] for token in request.prompt] for request in requests],
            max_length=max(request.length for request in requests),
            sampling_temperature=TEMPERATURE,
            sampling_topp=TOP_P,
            sampling_topk=TOP_K,
            include_prompt_in_result=False,
        )
        return [result.sequences_ids[0][: request.length] for request, result in zip(requests, results, strict=True)]


class MicroBatches(Generic[_In, _Out]):
    """Requests that arrive within WINDOW are read together; later ones wait until the batch is done."""

    def __init__(self, write: Callable[[Sequence[_In]], Sequence[_Out]]) -> None:
        """Pass batches to `write`, in a thread."""
        self._write = write
        self._thread = ThreadPoolExecutor(1)
        self._arrived: asyncio.Queue[tuple[_In, asyncio.Future[_Out]]] = asyncio.Queue()
        self._collector = asyncio.create_task(self._collect())

    async def write(self, request: _In) -> _Out:
        """Return what belongs to `request`, such as its tokens."""
        result: asyncio.Future[_Out] = asyncio.get_running_loop().create_future()
        self._arrived.put_nowait((request, result))
        return await result

    async def close(self) -> None:
        """Stop, after the batch that runs."""
        self._collector.cancel()
        await asyncio.to_thread(self._thread.shutdown)

    async def _collect(self) -> None:
        while True:
            batch = [await self._arrived.get()]
            await asyncio.sleep(WINDOW)
            while len(batch) < MAX_BATCH and not self._arrived.empty():
                batch.append(self._arrived.get_nowait())
            requests, futures = zip(*batch, strict=True)
            running = asyncio.get_running_loop().run_in_executor(self._thread, self._write, requests)
            [outcome] = await asyncio.gather(running, return_exceptions=True)
            for at, future in enumerate(futures):
                if future.done():  # its client is gone
                    continue
                if isinstance(outcome, BaseException):
                    future.set_exception(outcome)
                else:
                    future.set_result(outcome[at])


def tokenized_prompts(folder: Path) -> list[list[int]]:
    """Return the prompts of `bench.load` as tokens, after the start token."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return [[START, *tokenizer.encode(text).ids] for text in load.prompts(folder)]
