"""The engine of models that read a text, or a pair, as a whole: transformers, float32 on a CPU, bfloat16 on a GPU.

Texts wait in one queue for one thread, which reads those of one length together. A text is padded to a multiple of 8
tokens, whatever is beside it, so its company changes only how many rows a product has: on a CPU its probabilities then
differ by less than 1e-6 (test_encoder.py). Requests share the model fairly: of a request with many texts, a quantum is
read, then others have their turn.
"""

import asyncio
import contextlib
import logging
import sys
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import transformers
from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.logging import disable_progress_bar

from serving import task_json
from serving.engines.protocol import EngineError, UnavailableError

logger = logging.getLogger("bentoml.serving")

QUANTUM = 16  # texts of a request that are read before those of others
_MULTIPLE = 8  # of tokens, to which texts are padded
_BATCH_TOKENS = {"cpu": 1024, "cuda": 16384}  # more are hardly faster, and others wait longer
_LOGITS_AT_ONCE = 2**24  # numbers, 64 MB in float32; a masked model has one for each token and word of its vocabulary

Logits = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Encoded:
    """A text, or a pair, as the model reads it."""

    ids: list[int]
    type_ids: list[int]
    masks: tuple[int, ...] = ()  # the positions whose logits are the result, where the model has some for each token
    cut: int = 0  # tokens left out because the text is longer than the context


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

    name = "transformers"

    def __init__(self, folder: Path, auto_class: str, *, names_special_tokens: bool = False) -> None:
        """Load the model in `folder`; raises what transformers raises, and EngineError.

        Args:
            folder: A model's folder; its task.json may bound the tokens of a text by `max_length`.
            auto_class: The class of transformers that loads it.
            names_special_tokens: Whether the name of a special token in a text stands for that token.
        """
        self.settings = task_json.read(folder)
        self.pretrained_tokenizer = _load_tokenizer(folder)
        self._tokenizers = [_backend(self.pretrained_tokenizer, names_special_tokens) for _ in range(2)]
        self._waiting: dict[int, list[_Item]] = defaultdict(list)  # heaps, by padded length
        self._order = count()
        self._turn = 0  # of the last text that was read
        self._running = 0
        self._wake = threading.Condition()
        self._closing = False
        ready: Future[PreTrainedModel] = Future()
        # One thread makes and runs the model: see `serving.engines.scheduler.Scheduler`.
        self._thread = threading.Thread(
            target=self._run, args=(lambda: _load(folder, auto_class), ready), name="engine", daemon=True
        )
        self._thread.start()
        model = ready.result()
        config = model.config
        self.labels = [str(config.id2label[at]) for at in sorted(config.id2label)]
        self.is_multi_label = config.problem_type == "multi_label_classification"
        self._positions = min(_positions(model), self.pretrained_tokenizer.model_max_length)
        self.context = min(self._positions, int(self.settings.get("max_length", self._positions)))
        self._tokenizers[1].enable_truncation(self.context, strategy="longest_first")
        self._padding = config.pad_token_id or 0
        self._has_types = "token_type_ids" in self.pretrained_tokenizer.model_input_names
        device = model.device.type
        logits_per_token = config.vocab_size if auto_class == "AutoModelForMaskedLM" else 1
        self._batch_tokens = min(_BATCH_TOKENS[device], max(1, _LOGITS_AT_ONCE // logits_per_token))

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer, which neither pads nor truncates."""
        return self._tokenizers[0]

    @property
    def waiting(self) -> int:
        """Texts that are not being read yet."""
        with self._wake:
            return sum(map(len, self._waiting.values()))

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
            for at, text in enumerate(texts):
                length = min(-(-len(text.ids) // _MULTIPLE) * _MULTIPLE, self._positions)
                heappush(self._waiting[length], (self._turn + at // QUANTUM, next(self._order), job, at))
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

    def _run(self, load: Callable[[], PreTrainedModel], ready: "Future[PreTrainedModel]") -> None:
        """Load the model, then read batches until closed."""
        try:
            self._model = load()
        except BaseException as error:
            ready.set_exception(error)
            return
        ready.set_result(self._model)
        del ready
        while batch := self._next_batch():
            self._read(*batch)
            self._running = 0
        for job in {item[2] for heap in self._waiting.values() for item in heap}:
            job.finish(UnavailableError("the model was taken out of service"))
        self._waiting.clear()
        del self._model  # frees its memory

    def _next_batch(self) -> tuple[int, list[_Item]] | None:
        """Wait for texts; return those of the length that is due, as many as are read at once. None once closed."""
        with self._wake:
            while True:
                for length, heap in list(self._waiting.items()):
                    while heap and heap[0][2].is_over:
                        heappop(heap)
                    if not heap:
                        del self._waiting[length]
                if self._closing:
                    return None
                if self._waiting:
                    break
                self._wake.wait()
            length = min(self._waiting, key=lambda length: self._waiting[length][0][:2])
            heap = self._waiting[length]
            batch: list[_Item] = []
            self._turn = heap[0][0]
            while heap and len(batch) < max(1, self._batch_tokens // length):
                if not (item := heappop(heap))[2].is_over:
                    batch.append(item)
            self._running = len(batch)
            return length, batch

    def _read(self, length: int, batch: list[_Item]) -> None:
        """Read a batch and hand out its logits; where that fails, one by one, so that one request alone fails."""
        try:
            results = self._logits(length, [job.texts[at] for _, _, job, at in batch])
        except Exception as error:
            if len(batch) > 1:
                for item in batch:
                    self._read(length, [item])
                return
            logger.error("reading a text failed: %s", type(error).__name__)  # its message may hold some of the text
            batch[0][2].finish(EngineError(f"the model failed: {type(error).__name__}"))
            return
        for (_, _, job, at), logits in zip(batch, results, strict=True):
            job.results[at] = logits
            if len(job.results) == len(job.texts):
                job.finish()

    @torch.inference_mode()
    def _logits(self, length: int, texts: Sequence[Encoded]) -> list[Logits]:
        rows = range(len(texts))
        inputs: dict[str, Any] = {
            "input_ids": torch.full((len(texts), length), self._padding),  # (texts, tokens)
            "attention_mask": torch.zeros((len(texts), length), dtype=torch.long),
        }
        if self._has_types:
            inputs["token_type_ids"] = torch.zeros((len(texts), length), dtype=torch.long)
        for row, text in zip(rows, texts, strict=True):
            size = len(text.ids)
            inputs["input_ids"][row, :size] = torch.tensor(text.ids)
            inputs["attention_mask"][row, :size] = 1
            if self._has_types:
                inputs["token_type_ids"][row, :size] = torch.tensor(text.type_ids)
        logits = self._model(**{name: value.to(self._model.device) for name, value in inputs.items()}).logits
        if logits.ndim == 3:  # (texts, tokens, vocabulary)
            return [logits[row, list(text.masks)].float().cpu().numpy() for row, text in zip(rows, texts, strict=True)]
        return list(logits.float().cpu().numpy())


def _load(folder: Path, auto_class: str) -> PreTrainedModel:
    disable_progress_bar()  # it would be drawn into the log
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model: PreTrainedModel = getattr(transformers, auto_class).from_pretrained(
        folder,
        dtype=torch.bfloat16 if device == "cuda" else torch.float32,
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
    )
    if model.config.pad_token_id is None:  # GPT-2's head reads the last token that is not padding
        tokenizer = _load_tokenizer(folder)
        padding = tokenizer.pad_token_id
        model.config.pad_token_id = tokenizer.eos_token_id if padding is None else padding
    return model.to(device).eval()


def _load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
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


def _positions(model: PreTrainedModel) -> int:
    """Return how many tokens `model` reads; RoBERTa's first position is the one after its padding token's."""
    positions: int | None = getattr(model.config, "max_position_embeddings", None)
    if positions is None:
        return sys.maxsize
    padding = [
        module.padding_idx
        for name, module in model.named_modules()
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None
    ]
    return positions - (int(padding[0]) + 1 if padding else 0)
