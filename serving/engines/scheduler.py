"""Continuous batching: texts join and leave the batch at every token, in one thread beside the event loop."""

import logging
import threading
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Protocol

import torch
from tokenizers import Tokenizer

from serving.engines.protocol import EngineError, FinishReason, Sampling, Stream, Token, UnavailableError
from serving.engines.sampling import Sampler, sample

logger = logging.getLogger("bentoml.serving")

# A text's turns, in tokens: where more texts run than fit into a step, those with the fewest turns go first, so that a
# request of 16 tokens does not wait behind ones of 512.
QUANTUM = 32


class ModelRunner(Protocol):
    """A model that reads a few tokens of many texts at a time; called from one thread.

    What it returns for a text must not depend on which others are in the batch. A step that raised may be asked again.
    """

    name: str
    context: int
    start: int
    end: int
    tokenizer: Tokenizer
    prefill_tokens: int  # how much of the prompts is read in a step; what a text reads at once is never more

    def open(self, length: int) -> Any:
        """Return the place, a row, of a text that will have at most `length` tokens; raises MemoryError."""

    def step(self, rows: Sequence[Any], tokens: Sequence[Sequence[int]]) -> torch.Tensor:
        """Read `tokens` of each row after what was read of it; return the logits after the last: (rows, vocabulary)."""

    def close(self, row: Any) -> None:
        """Let go of a text's place."""


@dataclass(frozen=True)
class _Event:
    """A token for a stream, or its end."""

    stream: Stream
    token: Token | None = None
    reason: FinishReason | None = None
    error: EngineError | None = None


class _Sequence:
    """A request on its way through the batch."""

    def __init__(self, prompt: Sequence[int], sampling: Sampling) -> None:
        self.stream = Stream()
        self.sampling = sampling
        self.unread = list(prompt)
        self.length = len(prompt) + sampling.max_new_tokens
        self.prompted = False  # whether all of the prompt was read
        self.written = 0
        self.draw = Sampler(prompt, sampling)
        self.row: Any = None

    @property
    def turns(self) -> int:
        return self.written // QUANTUM


class Scheduler:
    """An engine made of a runner: see `serving.engines.protocol.Engine`."""

    def __init__(self, make: Callable[[], ModelRunner], max_concurrency: int) -> None:
        """Start the thread, which makes the runner; raises what `make` raises.

        `max_concurrency` texts are in a step at most, and as many more may be in between. One thread makes and runs
        the model: OpenMP keeps a pool a thread that ever called it, and with more of them than cores they stop to spin
        while they wait, which doubles the time of a step (libgomp's throttled spin count).
        """
        self._max_concurrency = max_concurrency
        self._arrived: deque[_Sequence] = deque()
        self._open: list[_Sequence] = []  # with a row, in the order of arrival; the thread's own
        self._news = threading.Condition()
        self._closing = False
        made: Future[ModelRunner] = Future()
        self._thread = threading.Thread(target=self._live, args=(make, made), name="engine", daemon=True)
        self._thread.start()
        runner = made.result()
        self.name = runner.name
        self.context = runner.context
        self.start = runner.start
        self.end = runner.end
        self.tokenizer = runner.tokenizer

    @property
    def waiting(self) -> int:
        """Requests that have no place yet."""
        return len(self._arrived)

    @property
    def running(self) -> int:
        """Requests that have one."""
        return len(self._open)

    def submit(self, prompt: Sequence[int], sampling: Sampling) -> Stream:
        """Return the stream of what the model writes; see `Engine.submit`."""
        text = _Sequence(prompt, sampling)
        if sampling.max_new_tokens == 0:
            text.stream.end("length")
            return text.stream
        with self._news:
            if self._closing:
                text.stream.end(None, UnavailableError("the model is being taken out of service"))
            else:
                self._arrived.append(text)
                self._news.notify()
        return text.stream

    def close(self) -> None:
        """End what runs, and free the model; see `Engine.close`."""
        with self._news:
            self._closing = True
            self._news.notify()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def _live(self, make: Callable[[], ModelRunner], made: "Future[ModelRunner]") -> None:
        """Make the model, and step until closed."""
        try:
            self._runner = make()
        except BaseException as error:
            made.set_exception(error)
            return
        made.set_result(self._runner)
        del made
        while True:
            with self._news:
                while not (self._arrived or self._open or self._closing):
                    self._news.wait()
                if self._closing:
                    break
            news: list[_Event] = []
            self._leave(news)
            self._admit(news)
            if texts := self._chosen():
                self._step(texts, news)
            self._tell(news)
        news = []
        for text in (*self._open, *self._arrived):
            news.append(_Event(text.stream, error=UnavailableError("the model was taken out of service")))
        self._open.clear()
        self._arrived.clear()
        del self._runner  # its memory
        self._tell(news)

    def _leave(self, news: list[_Event]) -> None:
        """Free the places of those that nobody waits for any more."""
        for text in [text for text in self._open if text.stream.cancelled]:
            self._end(text, None, news)

    def _admit(self, news: list[_Event]) -> None:
        """Give places to those who wait; twice as many as fit into a step, so that short ones need not wait."""
        while self._arrived and len(self._open) < 2 * self._max_concurrency:
            text = self._arrived[0]
            if not text.stream.cancelled:
                try:
                    text.row = self._runner.open(text.length)
                except MemoryError:
                    if self._open:
                        return  # the places of others become free
                    error: EngineError = UnavailableError("the memory is short for a text of this length")
                    news.append(_Event(text.stream, error=error))
                except Exception as found:
                    news.append(_Event(text.stream, error=_failure(found)))
                else:
                    self._open.append(text)
            self._arrived.popleft()

    def _chosen(self) -> list[_Sequence]:
        """Return the texts of the next step; of prompts only as much as `prefill_tokens`, lest others wait for long."""
        chosen: list[_Sequence] = []
        reading = 0
        for text in sorted(self._open, key=lambda text: text.turns):
            if len(chosen) == self._max_concurrency:
                break
            if not text.prompted:
                part = min(len(text.unread), self._runner.prefill_tokens)
                if reading and reading + part > self._runner.prefill_tokens:
                    continue
                reading += part
            chosen.append(text)
        return chosen

    def _step(self, texts: list[_Sequence], news: list[_Event]) -> None:
        """Read the next tokens of `texts`, and write one where the prompt has been read."""
        parts = [text.unread[: self._runner.prefill_tokens] for text in texts]
        try:
            logits = self._runner.step([text.row for text in texts], parts)
        except Exception as error:
            if len(texts) == 1:
                self._end(texts[0], None, news, _failure(error))
                return
            for text in texts:  # what one of them cannot have does no harm to the others
                self._step([text], news)
            return
        ready = []
        for at, (text, part) in enumerate(zip(texts, parts, strict=True)):
            del text.unread[: len(part)]
            if not text.unread:
                text.prompted = True
                ready.append(at)
        if len(ready) < len(texts):
            logits = logits[ready]
        for at, token in zip(ready, _sample_all(logits, [texts[at].draw for at in ready]), strict=True):
            text = texts[at]
            if isinstance(token, EngineError):
                self._end(text, None, news, token)
                continue
            text.written += 1
            if token.id == self.end:
                self._end(text, "stop", news)
                continue
            text.unread.append(token.id)
            news.append(_Event(text.stream, token))
            if text.written == text.sampling.max_new_tokens:
                self._end(text, "length", news)

    def _end(
        self, text: _Sequence, reason: FinishReason | None, news: list[_Event], error: EngineError | None = None
    ) -> None:
        self._open.remove(text)
        self._runner.close(text.row)
        news.append(_Event(text.stream, None, reason, error))

    def _tell(self, news: list[_Event]) -> None:
        """Hand the news to the loop at one go: a call a token would cost more than some models' tokens."""
        for loop, of_loop in groupby(news, lambda one: one.stream.loop):
            try:
                loop.call_soon_threadsafe(_deliver, list(of_loop))
            except RuntimeError:  # the loop is closed, and with it whoever waited
                if not loop.is_closed():
                    raise


def _deliver(news: list[_Event]) -> None:
    for one in news:
        if one.token:
            one.stream.push(one.token)
        else:
            one.stream.end(one.reason, one.error)


def _sample_all(logits: torch.Tensor, draws: Sequence[Sampler]) -> list[Token | EngineError]:
    """Return the next token of each text; what one of them cannot have does no harm to the others."""
    try:
        tokens = sample(logits, draws) if draws else []
    except Exception as error:
        if len(draws) == 1:
            return [_failure(error)]
        return [found for at, one in enumerate(draws) for found in _sample_all(logits[at : at + 1], [one])]
    return [EngineError("the model's figures were not finite") if token is None else token for token in tokens]


def _failure(error: Exception) -> EngineError:
    """Return what to tell of a failure; it is logged without its message, which may quote a prompt."""
    where = "".join(traceback.format_tb(error.__traceback__))
    logger.error("the engine failed on a request: %s at\n%s", type(error).__name__, where)
    return EngineError("the model failed on this request; the log says how")
