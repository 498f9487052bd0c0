"""CTranslate2 in int8, asked for by name: many architectures on a CPU, but without seeds, penalties or logprobs.

Its `generate_batch` takes one setting of sampling a call, draws from random numbers of its own, and a batch stays
closed until it ends. So requests are gathered for a moment and grouped by their settings, and two batches run at a
time; one with long texts in it takes only the first of the two places, so that short ones find the other.
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

_WINDOW = 0.005  # seconds in which requests are gathered: a fraction of a step's time
_LONG = 64  # tokens: a batch in which a text may become longer leaves the second place to others
_BATCHES = 2  # at a time
_CONVERSIONS = 3  # kept, the newest ones
_SMALLEST_DIVISOR = 1e-6

_Setting = tuple[float, float, int]


def unsupported_reason(folder: Path) -> str:
    """Return why the model in `folder` cannot be run here, as a clause; empty when it can."""
    if importlib.util.find_spec("ctranslate2") is None:
        return f"the package ctranslate2 is not installed; `pip install {PACKAGE} --no-deps` adds it"
    from ctranslate2.converters.transformers import _MODEL_LOADERS
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    if type(config).__name__ not in _MODEL_LOADERS:
        return f"it has no converter for models of the type {config.model_type}"
    return ""


class _Sequence:
    """A request."""

    def __init__(self, prompt: list[str], sampling: Sampling) -> None:
        self.stream = Stream()
        self.prompt = prompt
        self.most = sampling.max_new_tokens
        self.setting = _setting(sampling)
        self.written = 0
        self.reason: FinishReason | None = None  # once it has ended

    @property
    def long(self) -> bool:
        return self.most > _LONG


class Ctranslate2Engine:
    """See `protocol.Engine` and, for what is checked before it serves, `selection.Checked`.

    The same seed does not give the same text: `unsupported_fields` names the fields of a request that must not be set.
    """

    name = "ctranslate2"
    tokenizer: Tokenizer
    unsupported_fields: ClassVar = frozenset(
        {"seed", "logprobs", "repetition_penalty", "presence_penalty", "frequency_penalty"}
    )

    def __init__(self, folder: Path, kept: Path, max_concurrency: int) -> None:
        """Load the model in `folder`; `unsupported_reason` is empty for it. Its conversion is kept in `kept`."""
        import ctranslate2
        from transformers import AutoConfig

        tokenizer, self.start, self.end = load_tokenizer(folder)
        self.tokenizer = tokenizer
        self._word: Any = tokenizer.id_to_token
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        self.context: int = getattr(config, "max_position_embeddings", 2**31 - 1)
        self._vocabulary: int = config.vocab_size
        self._random_seed: Callable[[int], None] = ctranslate2.set_random_seed
        cores = psutil.cpu_count(logical=False) or 1
        with _converted(folder, kept) as files:
            self._generator: Any = ctranslate2.Generator(
                str(files), inter_threads=_BATCHES, intra_threads=max(1, cores // _BATCHES), compute_type="int8"
            )
        self._rows = max(1, max_concurrency // _BATCHES)  # of a batch
        self._arrived: deque[_Sequence] = deque()
        self._batches: list[list[_Sequence]] = []
        self._news = threading.Condition()
        self._closing = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(takes_long,), name="ctranslate2", daemon=True)
            for takes_long in (True, False)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def waiting(self) -> int:
        """Requests that are in no batch yet."""
        return len(self._arrived)

    @property
    def running(self) -> int:
        """Requests in batches that have not ended."""
        return sum(not (text.reason or text.stream.cancelled) for batch in list(self._batches) for text in batch)

    def submit(self, prompt: Sequence[int], sampling: Sampling) -> Stream:
        """Return the stream of what the model writes; see `Engine.submit`. Raises ApiError for what it cannot do."""
        self._refuse(sampling)
        words = self._words(prompt)
        if None in words:
            raise ApiError(400, "the prompt holds a number that is no token of this model", "bad_token", "prompt")
        text = _Sequence(words, sampling)
        with self._news:
            if self._closing.is_set():
                text.stream.end(None, EngineError("the model is being taken out of service"))
            elif not text.most:
                text.stream.end("length")
            else:
                self._arrived.append(text)
                self._news.notify_all()
        return text.stream

    def _refuse(self, sampling: Sampling) -> None:
        """Raise ApiError for a setting that this engine does not have."""
        usual = {"repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0, "logprobs": None}
        if sampling.seeded:
            message = f"seed is not available with the engine {self.name}, which draws from random numbers of its own"
            raise ApiError(400, message, "unsupported", "seed")
        for name, value in usual.items():
            if getattr(sampling, name) != value:
                raise ApiError(400, f"{name} is not available with the engine {self.name}", "unsupported", name)

    def close(self) -> None:
        """End what runs, and free the model; see `Engine.close`."""
        with self._news:
            self._closing.set()
            self._news.notify_all()
        for thread in self._threads:
            thread.join()
        for text in self._arrived:
            _call_on_loop(
                text.stream, lambda stream: stream.end(None, EngineError("the model was taken out of service"))
            )
        self._arrived.clear()
        del self._generator

    def _run(self, takes_long: bool) -> None:
        """Gather batches and run them, until closed."""
        while batch := self._gather(takes_long):
            self._write(batch)
            with self._news:
                self._batches.remove(batch)
                self._news.notify_all()

    def _gather(self, takes_long: bool) -> list[_Sequence]:
        """Wait for requests and return those of one setting, in the order of arrival; none when closed."""
        with self._news:
            while not self._closing.is_set():
                self._arrived = deque(text for text in self._arrived if not self._gone(text))
                first = next((text for text in self._arrived if takes_long or not text.long), None)
                if first is None:
                    self._news.wait()
                    continue
                until = time.monotonic() + _WINDOW
                while (left := until - time.monotonic()) > 0 and not self._closing.is_set():
                    self._news.wait(left)
                batch = [
                    text for text in self._arrived if text.setting == first.setting and (takes_long or not text.long)
                ][: self._rows]
                if batch and not self._closing.is_set():  # the other thread may have taken them meanwhile
                    taken = set(map(id, batch))
                    self._arrived = deque(text for text in self._arrived if id(text) not in taken)
                    self._batches.append(batch)
                    return batch
        return []

    def _gone(self, text: _Sequence) -> bool:
        """End a request that nobody waits for; return whether it was one."""
        if text.stream.cancelled:
            _call_on_loop(text.stream, lambda stream: stream.end(None))
        return text.stream.cancelled

    def _write(self, batch: list[_Sequence]) -> None:
        """Run a batch to its end."""
        end, closing = self.end, self._closing  # `written` must not hold the engine: CTranslate2 lets go of it in a
        # thread of its own, which cannot wait for its own end when that would be the engine's end too

        def written(result: Any) -> bool:
            text = batch[result.batch_id]
            if text.reason or text.stream.cancelled or closing.is_set():
                return True
            if result.token_id == end:
                text.reason = "stop"
            else:
                text.written += 1
                token = Token(result.token_id)
                _call_on_loop(text.stream, lambda stream: stream.push(token))
                if text.written == text.most:
                    text.reason = "length"
            if text.reason:
                reason = text.reason
                _call_on_loop(text.stream, lambda stream: stream.end(reason))
            return text.reason is not None

        error = EngineError("the model was taken out of service")
        try:
            self._generate([text.prompt for text in batch], [text.most for text in batch], batch[0].setting, written)
        except Exception as found:  # its message may quote the prompt
            logger.error("ctranslate2 failed on a batch of %d: %s", len(batch), type(found).__name__)
            error = EngineError("the model failed on this batch of requests; the log says how")
        for text in batch:
            if text.reason is None:
                text.reason = "length"
                _call_on_loop(text.stream, lambda stream: stream.end(None, error))

    def _generate(
        self, prompts: Sequence[list[str]], most: Sequence[int], setting: _Setting, written: Callable[[Any], bool]
    ) -> None:
        """Write after `prompts`; `written` gets each token, and returns whether the text has ended."""
        temperature, top_p, top_k = setting
        shortest = min(map(len, prompts))
        self._generator.generate_batch(
            prompts,
            # Steps: those in which longer prompts are read to their ends count as well.
            max_length=max(len(prompt) - shortest + count for prompt, count in zip(prompts, most, strict=True)),
            include_prompt_in_result=False,
            sampling_temperature=temperature,
            sampling_topp=top_p,
            sampling_topk=min(top_k, self._vocabulary),
            callback=written,
        )

    # What is checked

    def write(self, prompts: Sequence[Sequence[int]], count: int, temperature: float) -> list[list[int]]:
        """Write after `prompts`; see `Checked.write`."""
        found: list[list[int]] = [[] for _ in prompts]
        end = self.end

        def written(result: Any) -> bool:
            of_text = found[result.batch_id]
            of_text.append(result.token_id)
            return len(of_text) == count or bool(result.token_id == end)

        self._random_seed(0)
        sampling = Sampling(count, temperature, top_p=1.0, top_k=0, repetition_penalty=1.0, seed=0)
        self._generate([self._words(prompt) for prompt in prompts], [count] * len(prompts), _setting(sampling), written)
        return found

    def score(self, texts: Sequence[Sequence[int]]) -> list[list[float]]:
        """Score `texts`; see `Checked.score`."""
        return [list(one.log_probs) for one in self._generator.score_batch([self._words(text) for text in texts])]

    def _words(self, ids: Sequence[int]) -> list[str]:
        return [self._word(token) for token in ids]


def _setting(sampling: Sampling) -> _Setting:
    """Return temperature, top_p and top_k as CTranslate2 has them."""
    if sampling.temperature == 0:
        return 1.0, 1.0, 1
    return max(sampling.temperature, _SMALLEST_DIVISOR), sampling.top_p, sampling.top_k


def _call_on_loop(stream: Stream, what: Callable[[Stream], None]) -> None:
    """Call `what` with a stream on its loop."""
    try:
        stream.loop.call_soon_threadsafe(what, stream)
    except RuntimeError:  # the loop is closed, and with it whoever waited
        if not stream.loop.is_closed():
            raise


@contextmanager
def _converted(folder: Path, kept: Path) -> Iterator[Path]:
    """Yield a folder with the model in CTranslate2's form: converted once and kept, or for now where that cannot be."""
    import ctranslate2

    made = kept / f"{model_folder.version(folder)}-ctranslate2-{ctranslate2.__version__}"
    if made.is_dir():
        yield made
        return
    try:
        kept.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=".converting-", dir=kept))
    except OSError as error:
        logger.warning("the converted model cannot be kept, so each start converts it again: %s", error)
        with tempfile.TemporaryDirectory() as passing:
            yield _convert(folder, Path(passing) / "model")
        return
    try:
        _convert(folder, beside / "model")
        try:
            (beside / "model").rename(made)
        except OSError:
            if not made.is_dir():  # another worker was faster
                raise
    finally:
        shutil.rmtree(beside)
    for old in sorted(kept.glob("*-ctranslate2-*/"), key=lambda one: one.stat().st_mtime)[:-_CONVERSIONS]:
        shutil.rmtree(old, ignore_errors=True)
    yield made


def _convert(folder: Path, target: Path) -> Path:
    from ctranslate2.converters import TransformersConverter

    TransformersConverter(str(folder), trust_remote_code=False).convert(str(target), quantization="int8")
    return target
