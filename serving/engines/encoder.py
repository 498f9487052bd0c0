"""The engine of models that read a text, or a pair, as a whole; what computes is an `EncoderRunner`.

Texts wait in one queue for one thread, which reads texts of any length together. Requests share the model fairly: of a
request with many texts, a quantum is read, then others have their turn.
"""

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase

from serving import task_json
from serving.engines.protocol import EngineError, UnavailableError

logger = logging.getLogger("bentoml.serving")

QUANTUM = 16  # texts of a request that are read before those of others

Logits = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Encoded:
    """A text, or a pair, as the model reads it."""

    ids: list[int]
    type_ids: list[int]
    masks: tuple[int, ...] = ()  # the positions whose logits are the result, where the model has some for each token
    cut: int = 0  # tokens left out because the text is longer than the context


class EncoderRunner(Protocol):
    """A loaded model; only the engine's thread makes and uses it."""

    name: str
    config: PreTrainedConfig
    positions: int  # tokens that the model reads at most
    batch_tokens: int  # of the texts of a batch together

    def logits(self, texts: Sequence[Encoded]) -> list[Logits]:
        """Return the logits of each text: (labels,), or (masks, vocabulary) of a masked model.

        On a CPU the probabilities of a text differ by less than 1e-6, whatever else is in the batch.
        """


@dataclass(eq=False)
class _Job:
    """The texts of a request, and where their logits go."""

    texts: Sequence[Encoded]
    loop: asyncio.AbstractEventLoop
    future: "asyncio.Future[list[Logits]]"
    results: dict[int, Logits] = field(default_factory=dict)
    is_over: bool = False  # cancelled, failed or done

    def finish(self, error: Exception | None = None) -> None:
        """Resolve the future on its loop; called from the engine's thread."""
        self.is_over = True

        def apply() -> None:
            if self.future.done():
                return
            if error:
                self.future.set_exception(error)
            else:
                self.future.set_result([self.results[at] for at in range(len(self.texts))])

        with contextlib.suppress(RuntimeError):  # the loop was closed, and nobody waits
            self.loop.call_soon_threadsafe(apply)


_Item = tuple[int, int, _Job, int]  # turn, order of arrival, request, which of its texts


class EncoderEngine:
    """A loaded model with a head, such as AutoModelForSequenceClassification; see the module."""

    def __init__(
        self, folder: Path, make_runner: Callable[[], EncoderRunner], *, names_special_tokens: bool = False
    ) -> None:
        """Load the model in `folder`; raises what `make_runner` raises.

        Args:
            folder: A model's folder; its task.json may bound the tokens of a text by `max_length`.
            make_runner: Loads the model; called in the engine's thread.
            names_special_tokens: Whether the name of a special token in a text stands for that token.
        """
        self.settings = task_json.read(folder)
        self.pretrained_tokenizer = load_tokenizer(folder)
        self._tokenizers = [_backend(self.pretrained_tokenizer, names_special_tokens) for _ in range(2)]
        self._waiting: list[_Item] = []  # a heap
        self._order = count()
        self._turn = 0  # of the first text that was read last
        self._running = 0
        self._wake = threading.Condition()
        self._closing = False
        ready: Future[EncoderRunner] = Future()
        # One thread makes and runs the model: see `serving.engines.scheduler.Scheduler`.
        self._thread = threading.Thread(target=self._run, args=(make_runner, ready), name="engine", daemon=True)
        self._thread.start()
        runner = ready.result()
        self.name = runner.name
        config = runner.config
        self.labels = [str(config.id2label[at]) for at in sorted(config.id2label)]
        self.is_multi_label = config.problem_type == "multi_label_classification"
        positions = min(runner.positions, self.pretrained_tokenizer.model_max_length)
        self.context = min(positions, int(self.settings.get("max_length", positions)))
        self._tokenizers[1].enable_truncation(self.context, strategy="longest_first")

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer, which neither pads nor truncates."""
        return self._tokenizers[0]

    @property
    def waiting(self) -> int:
        """Texts that are not being read yet."""
        with self._wake:
            return len(self._waiting)

    @property
    def running(self) -> int:
        """Texts that are being read."""
        return self._running

    def encode(self, texts: Sequence[str] | Sequence[tuple[str, str]]) -> list[Encoded]:
        """Return texts, or pairs, as the model reads them; what does not fit is cut as in training, and counted."""
        mask = self.pretrained_tokenizer.mask_token_id
        encoded = []
        for text, whole in zip(texts, self.tokenizer.encode_batch(list(texts)), strict=True):
            read = whole if len(whole.ids) <= self.context else self._tokenizers[1].encode_batch([text])[0]
            masks = tuple(at for at, token in enumerate(read.ids) if token == mask)
            encoded.append(Encoded(read.ids, read.type_ids, masks, len(whole.ids) - len(read.ids)))
        return encoded

    def shortened(self, texts: Sequence[str], tokens: int) -> list[str]:
        """Return the beginning of each text that has at most so many tokens, special ones not counted."""
        encodings = self.tokenizer.encode_batch(list(texts), add_special_tokens=False)
        ends = [one.offsets[tokens - 1][1] if len(one.ids) > tokens else None for one in encodings]
        return [text[:end] for text, end in zip(texts, ends, strict=True)]

    async def run(self, texts: Sequence[Encoded]) -> list[Logits]:
        """Return the logits of each text: (labels,), or (masks, vocabulary) of a masked model.

        Cancelled, it reads no further text of these. Raises EngineError.
        """
        loop = asyncio.get_running_loop()
        job = _Job(texts, loop, loop.create_future())
        if not texts:
            return []
        with self._wake:
            if self._closing:
                raise UnavailableError("the model is being taken out of service")
            for at in range(len(texts)):
                heappush(self._waiting, (self._turn + at // QUANTUM, next(self._order), job, at))
            self._wake.notify()
        try:
            return await job.future
        finally:
            job.is_over = True

    def close(self) -> None:
        """End running requests and free the model."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self, make_runner: Callable[[], EncoderRunner], ready: "Future[EncoderRunner]") -> None:
        """Load the model, then read batches until closed."""
        try:
            self._runner = make_runner()
        except BaseException as error:
            ready.set_exception(error)
            return
        ready.set_result(self._runner)
        del ready
        while batch := self._next_batch():
            self._read(batch)
            self._running = 0
        for job in {item[2] for item in self._waiting}:
            job.finish(UnavailableError("the model was taken out of service"))
        self._waiting.clear()
        del self._runner  # frees its memory

    def _next_batch(self) -> list[_Item]:
        """Wait for texts; return those that are due, as many as are read at once. Empty once closed."""
        with self._wake:
            batch: list[_Item] = []
            tokens = 0
            while not self._closing:
                while self._waiting:
                    turn, _, job, at = self._waiting[0]
                    if not job.is_over:
                        tokens += len(job.texts[at].ids)
                        if batch and tokens > self._runner.batch_tokens:
                            break
                        self._turn = batch[0][0] if batch else turn
                        batch.append(self._waiting[0])
                    heappop(self._waiting)
                if batch:
                    break
                self._wake.wait()
            self._running = len(batch)
            return batch

    def _read(self, batch: list[_Item]) -> None:
        """Read a batch and hand out its logits; where that fails, one by one, so that one request alone fails."""
        try:
            results = self._runner.logits([job.texts[at] for _, _, job, at in batch])
        except Exception as error:
            if len(batch) > 1:
                for item in batch:
                    self._read([item])
                return
            logger.error("reading a text failed: %s", type(error).__name__)  # its message may hold some of the text
            batch[0][2].finish(EngineError(f"the model failed: {type(error).__name__}"))
            return
        for (_, _, job, at), logits in zip(batch, results, strict=True):
            job.results[at] = logits
            if len(job.results) == len(job.texts):
                job.finish()


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Return the tokenizer in `folder`; raises what transformers raises."""
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
        folder, local_files_only=True, trust_remote_code=False
    )
    return tokenizer


def _backend(pretrained: Any, names_special_tokens: bool) -> Tokenizer:
    """Return a copy of the tokenizer that neither pads nor truncates."""
    tokenizer = Tokenizer.from_str(pretrained.backend_tokenizer.to_str())
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = not names_special_tokens
    return tokenizer
