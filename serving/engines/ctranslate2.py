"""CTranslate2 in int8, requested by name: many architectures on a CPU, without seeds, penalties or logprobs.

Its `generate_batch` takes one set of sampling settings, uses its own random numbers, and a batch stays closed until it
ends. So requests are collected briefly and grouped by their settings, and two batches run at a time. A batch of long
requests takes only the first of the two places, so that short ones find the other. This module alone uses the private
name `ctranslate2.converters.transformers._MODEL_LOADERS`; a test in test_ctranslate2.py checks it.
"""

import importlib.util
import logging
import shutil
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import psutil
from tokenizers import Tokenizer

from serving import model_folder
from serving.engines.protocol import EngineError, FinishReason, Sampling, Stream, Token
from serving.engines.transformers import load_tokenizer
from serving.errors import ApiError

logger = logging.getLogger("bentoml.serving")

PACKAGE = "ctranslate2==4.8.5"

_WINDOW = 0.005  # seconds in which requests are collected: a fraction of a step
LONG = 64  # tokens: a batch in which a request may write more leaves the second place to others
_BATCHES = 2  # at a time
_KEPT_CONVERSIONS = 3  # the newest ones
_MIN_DIVISOR = 1e-6

SamplingKey = tuple[float, float, int]  # temperature, top_p and top_k as CTranslate2 takes them


def unsupported_reason(folder: Path) -> str:
    """Return why this engine cannot run the model in `folder`, as a clause; empty when it can."""
    if importlib.util.find_spec("ctranslate2") is None:
        return f"the package ctranslate2 is not installed; install it with `pip install {PACKAGE} --no-deps`"
    from ctranslate2.converters.transformers import _MODEL_LOADERS
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    if type(config).__name__ not in _MODEL_LOADERS:
        return f"it has no converter for models of type {config.model_type}"
    return ""


class _Sequence:
    """A request in the engine."""

    def __init__(self, prompt: list[str], sampling: Sampling) -> None:
        self.stream = Stream()
        self.prompt = prompt
        self.max_new_tokens = sampling.max_new_tokens
        self.sampling_key = _sampling_key(sampling)
        self.written = 0
        self.finish_reason: FinishReason | None = None  # once it has ended

    @property
    def is_long(self) -> bool:
        return self.max_new_tokens > LONG


class Ctranslate2Engine:
    """An `Engine`, and the `Comparable` that is compared with the reference before it serves."""

    name = "ctranslate2"
    tokenizer: Tokenizer
    start: int
    end: int
    unsupported_fields: ClassVar = frozenset(
        {"seed", "logprobs", "repetition_penalty", "presence_penalty", "frequency_penalty"}
    )
    _model_class = "Generator"  # of the package ctranslate2

    def __init__(self, folder: Path, conversions: Path, max_concurrency: int) -> None:
        """Load the model in `folder`, for which `unsupported_reason` is empty; keep its conversion in `conversions`."""
        import ctranslate2
        from transformers import AutoConfig

        self._read_tokens(folder)
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        self.context: int = getattr(config, "max_position_embeddings", 2**31 - 1)
        self._vocabulary: int = config.vocab_size
        self._set_random_seed: Callable[[int], None] = ctranslate2.set_random_seed
        cores = psutil.cpu_count(logical=False) or 1
        with _converted(folder, conversions, self._convert) as files:
            self._model: Any = getattr(ctranslate2, self._model_class)(
                str(files), inter_threads=_BATCHES, intra_threads=max(1, cores // _BATCHES), compute_type="int8"
            )
        self._batch_size = max(1, max_concurrency // _BATCHES)
        self._arrived: deque[_Sequence] = deque()
        self._batches: list[list[_Sequence]] = []
        self._wake = threading.Condition()
        self._closing = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(takes_long,), name="ctranslate2", daemon=True)
            for takes_long in (True, False)
        ]
        for thread in self._threads:
            thread.start()

    def _read_tokens(self, folder: Path) -> None:
        """Read the tokenizer, and the ids of the start and end tokens."""
        self.tokenizer, self.start, self.end = load_tokenizer(folder)

    def _convert(self, folder: Path, target: Path) -> None:
        """Write the model in `folder` to `target`, in CTranslate2's format."""
        _convert(folder, target)

    @property
    def waiting(self) -> int:
        """Requests that are in no batch yet."""
        return len(self._arrived)

    @property
    def running(self) -> int:
        """Requests in batches that have not ended."""
        return sum(not (one.finish_reason or one.stream.cancelled) for batch in list(self._batches) for one in batch)

    def submit(self, prompt: Sequence[int], sampling: Sampling) -> Stream:
        """Return the stream of generated tokens; see `Engine.submit`. Raises ApiError for unsupported fields."""
        self._check_supported(sampling)
        tokens = self._tokens(prompt)
        if None in tokens:
            raise ApiError(400, "the prompt holds an id that is no token of this model", "bad_token", "prompt")
        sequence = _Sequence(tokens, sampling)
        with self._wake:
            if self._closing.is_set():
                sequence.stream.end(None, EngineError("the model is being taken out of service"))
            elif not sequence.max_new_tokens:
                sequence.stream.end("length")
            else:
                self._arrived.append(sequence)
                self._wake.notify_all()
        return sequence.stream

    def _check_supported(self, sampling: Sampling) -> None:
        """Raise ApiError for a field that this engine does not support."""
        if sampling.seeded:
            message = f"seed is not available with the engine {self.name}, which uses its own random numbers"
            raise ApiError(400, message, "unsupported", "seed")
        defaults = {"repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0, "logprobs": None}
        for name, value in defaults.items():
            if getattr(sampling, name) != value:
                raise ApiError(400, f"{name} is not available with the engine {self.name}", "unsupported", name)

    def close(self) -> None:
        """End running requests and free the model; see `Engine.close`."""
        with self._wake:
            self._closing.set()
            self._wake.notify_all()
        for thread in self._threads:
            thread.join()
        for sequence in self._arrived:
            _end(sequence.stream, None, EngineError("the model was taken out of service"))
        self._arrived.clear()
        del self._model

    def _run(self, takes_long: bool) -> None:
        """Collect batches and run them, until closed."""
        while batch := self._next_batch(takes_long):
            self._write(batch)
            with self._wake:
                self._batches.remove(batch)
                self._wake.notify_all()

    def _next_batch(self, takes_long: bool) -> list[_Sequence]:
        """Wait for requests and return those with the first one's settings, in order of arrival; empty once closed."""
        with self._wake:
            while not self._closing.is_set():
                self._drop_cancelled()
                first = next((one for one in self._arrived if takes_long or not one.is_long), None)
                if first is None:
                    self._wake.wait()
                    continue
                until = time.monotonic() + _WINDOW
                while (left := until - time.monotonic()) > 0 and not self._closing.is_set():
                    self._wake.wait(left)
                suitable = [one for one in self._arrived if takes_long or not one.is_long]
                batch = [one for one in suitable if one.sampling_key == first.sampling_key][: self._batch_size]
                if batch and not self._closing.is_set():  # the other thread may have taken them meanwhile
                    taken = set(map(id, batch))
                    self._arrived = deque(one for one in self._arrived if id(one) not in taken)
                    self._batches.append(batch)
                    return batch
        return []

    def _drop_cancelled(self) -> None:
        for sequence in self._arrived:
            if sequence.stream.cancelled:
                _end(sequence.stream, None)
        self._arrived = deque(sequence for sequence in self._arrived if not sequence.stream.cancelled)

    def _write(self, batch: list[_Sequence]) -> None:
        """Run a batch to its end."""
        # `on_token` must not hold the engine: CTranslate2 frees the callback in a thread of its own, which cannot wait
        # for its own end when that would also end the engine.
        end, closing = self.end, self._closing

        def on_token(result: Any) -> bool:
            """Take a token; return whether its sequence has ended."""
            sequence = batch[result.batch_id]
            if sequence.finish_reason or sequence.stream.cancelled or closing.is_set():
                return True
            if result.token_id == end:
                sequence.finish_reason = "stop"
            else:
                sequence.written += 1
                _call_on_loop(sequence.stream, sequence.stream.push, Token(result.token_id))
                if sequence.written == sequence.max_new_tokens:
                    sequence.finish_reason = "length"
            if sequence.finish_reason:
                _end(sequence.stream, sequence.finish_reason)
            return sequence.finish_reason is not None

        error = EngineError("the model was taken out of service")
        try:
            self._generate(
                [one.prompt for one in batch], [one.max_new_tokens for one in batch], batch[0].sampling_key, on_token
            )
        except Exception as failure:  # its message may quote the prompt
            logger.error("ctranslate2 failed on a batch of %d: %s", len(batch), type(failure).__name__)
            error = EngineError("the model failed on this batch of requests; see the service's log")
        for sequence in batch:
            if sequence.finish_reason is None:
                sequence.finish_reason = "length"
                _end(sequence.stream, None, error)

    def _generate(
        self,
        prompts: Sequence[list[str]],
        max_new_tokens: Sequence[int],
        sampling_key: SamplingKey,
        on_token: Callable[[Any], bool],
    ) -> None:
        """Write after `prompts`; `on_token` gets each token, and returns whether its sequence has ended."""
        temperature, top_p, top_k = sampling_key
        shortest = min(map(len, prompts))
        self._model.generate_batch(
            prompts,
            # Counts steps, including those in which the rest of longer prompts is read.
            max_length=max(len(one) - shortest + count for one, count in zip(prompts, max_new_tokens, strict=True)),
            include_prompt_in_result=False,
            sampling_temperature=temperature,
            sampling_topp=top_p,
            sampling_topk=min(top_k, self._vocabulary),
            callback=on_token,
        )

    # The comparison with the reference

    def write(self, prompts: Sequence[Sequence[int]], count: int, temperature: float) -> list[list[int]]:
        """Write after `prompts`; see `Comparable.write`."""
        written: list[list[int]] = [[] for _ in prompts]
        end = self.end

        def on_token(result: Any) -> bool:
            tokens = written[result.batch_id]
            tokens.append(result.token_id)
            return len(tokens) == count or bool(result.token_id == end)

        self._set_random_seed(0)
        key = _sampling_key(Sampling(count, temperature, top_p=1.0, top_k=0, repetition_penalty=1.0, seed=0))
        self._generate([self._tokens(prompt) for prompt in prompts], [count] * len(prompts), key, on_token)
        return written

    def score(self, texts: Sequence[Sequence[int]]) -> list[list[float]]:
        """Score `texts`; see `Comparable.score`."""
        results = self._model.score_batch([self._tokens(text) for text in texts])
        return [list(result.log_probs) for result in results]

    def _tokens(self, ids: Sequence[int]) -> list[str]:
        id_to_token: Any = self.tokenizer.id_to_token
        return [id_to_token(token) for token in ids]


def _sampling_key(sampling: Sampling) -> SamplingKey:
    if sampling.temperature == 0:
        return 1.0, 1.0, 1
    return max(sampling.temperature, _MIN_DIVISOR), sampling.top_p, sampling.top_k


def _end(stream: Stream, reason: FinishReason | None, error: EngineError | None = None) -> None:
    _call_on_loop(stream, stream.end, reason, error)


def _call_on_loop(stream: Stream, method: Callable[..., None], *arguments: object) -> None:
    """Call a method of a stream on its loop."""
    try:
        stream.loop.call_soon_threadsafe(method, *arguments)
    except RuntimeError:  # the loop is closed, and nobody reads the stream
        if not stream.loop.is_closed():
            raise


@contextmanager
def _converted(folder: Path, conversions: Path, convert: Callable[[Path, Path], None]) -> Iterator[Path]:
    """Yield a folder with the model in CTranslate2's format: converted once and kept, else temporary."""
    import ctranslate2

    target = conversions / f"{model_folder.version(folder)}-ctranslate2-{ctranslate2.__version__}"
    if target.is_dir():
        yield target
        return
    try:
        conversions.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=".converting-", dir=conversions))
    except OSError as error:
        logger.warning("cannot keep the converted model, so each start converts it again: %s", error)
        with tempfile.TemporaryDirectory() as temporary:
            convert(folder, Path(temporary) / "model")
            yield Path(temporary) / "model"
        return
    try:
        convert(folder, staging / "model")
        try:
            (staging / "model").rename(target)
        except OSError:
            if not target.is_dir():  # another worker was faster
                raise
    finally:
        shutil.rmtree(staging)
    newest_last = sorted(conversions.glob("*-ctranslate2-*/"), key=lambda one: one.stat().st_mtime)
    for old in newest_last[:-_KEPT_CONVERSIONS]:
        shutil.rmtree(old, ignore_errors=True)
    yield target


def _convert(folder: Path, target: Path) -> None:
    from ctranslate2.converters import TransformersConverter

    TransformersConverter(str(folder), trust_remote_code=False).convert(str(target), quantization="int8")
