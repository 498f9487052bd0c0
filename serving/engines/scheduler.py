"""Continuous batching: sequences join and leave the batch at every token, in one thread beside the event loop."""

import contextlib
import logging
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from itertools import groupby
from typing import Any, NamedTuple, TypeVar

import torch

from serving.engines.guessing import Guesser
from serving.engines.lora import Adapter
from serving.engines.prompt_format import prompt_format
from serving.engines.protocol import EngineError, FinishReason, Sampling, Stream, Token, UnavailableError
from serving.engines.runner import ModelRunner
from serving.engines.sampling import Sampler, sample

logger = logging.getLogger("bentoml.serving")

_Result = TypeVar("_Result")

# Tokens that a sequence writes before others go first: where more sequences run than fit into a step, those with the
# fewest quanta are chosen, so that a request for 16 tokens does not wait behind requests for 512.
QUANTUM = 32

# Seconds until a thread that wants Python's lock takes it: by default 5 ms, in which the event loop, busy with streams,
# keeps the engine from its next step.
_SWITCH_SECONDS = 0.0005

_NO_MEMORY = "there is not enough memory for a text of this length"
_OUT_OF_SERVICE = "the model was taken out of service"


class _Event(NamedTuple):
    """A stream with tokens that somebody waits for, or one that ends."""

    stream: Stream
    ends: bool = True
    reason: FinishReason | None = None
    error: EngineError | None = None


class _Sequence:
    """A request in the engine."""

    def __init__(self, prompt: Sequence[int], preceding: Sequence[int], sampling: Sampling, adapter: Any) -> None:
        self.stream = Stream()
        self.adapter = adapter
        self.sampling = sampling
        self.unread = list(prompt)
        self.tokens = list(prompt)
        self.guesser = Guesser(self.tokens)
        self.length = len(prompt) + sampling.max_new_tokens
        self.is_prefilled = False
        self.written = 0
        self.sampler = Sampler(preceding, sampling)
        self.slot: Any = None

    @property
    def quanta(self) -> int:
        return self.written // QUANTUM


class Scheduler:
    """An engine that batches a model runner continuously: see `serving.engines.protocol.Engine`."""

    def __init__(self, make_runner: Callable[[], ModelRunner], max_concurrency: int) -> None:
        """Start the thread, which makes the runner; raises what `make_runner` raises.

        A step holds at most `max_concurrency` sequences, and as many more may be open between steps. One thread makes
        and runs the model: OpenMP keeps a pool for each thread that ever called it, and with more pool threads than
        cores they stop spinning while they wait, which doubles the time of a step (libgomp's throttled spin count).
        """
        sys.setswitchinterval(_SWITCH_SECONDS)
        self._max_concurrency = max_concurrency
        self._arrived: deque[_Sequence] = deque()
        self._calls: deque[Callable[[], None]] = deque()  # to be made between two steps
        self._open: list[_Sequence] = []  # with a slot, in order of arrival; used by the thread alone
        self._wake = threading.Condition()
        self._closing = False
        ready: Future[ModelRunner] = Future()
        self._thread = threading.Thread(target=self._run, args=(make_runner, ready), name="engine", daemon=True)
        self._thread.start()
        runner = ready.result()
        self.name = runner.name
        self.context = runner.context
        self.start = runner.start
        self.end = runner.end
        self.tokenizer = runner.tokenizer
        self.prompt_format = prompt_format(runner)
        self._takes_adapters = hasattr(runner, "load_adapter")

    @property
    def waiting(self) -> int:
        """Requests without a slot."""
        return len(self._arrived)

    @property
    def running(self) -> int:
        """Requests with a slot."""
        return len(self._open)

    def submit(self, prompt: Sequence[int], sampling: Sampling, adapter: Any = None) -> Stream:
        """Return the stream of generated tokens; see `Engine.submit`. `adapter` is from `load_adapter`."""
        sequence = _Sequence(prompt, self.prompt_format.preceding(prompt), sampling, adapter)
        if sampling.max_new_tokens == 0:
            sequence.stream.end("length")
            return sequence.stream
        with self._wake:
            if self._closing:
                sequence.stream.end(None, UnavailableError("the model is being taken out of service"))
            else:
                self._arrived.append(sequence)
                self._wake.notify()
        return sequence.stream

    def load_adapter(self, adapter: Adapter) -> Any:
        """Return what `submit` takes; raises EngineError where the runner takes no adapters, or not this one."""
        if not self._takes_adapters:
            raise EngineError(f"the engine {self.name} takes no adapters for this model")
        return self.call(lambda runner: runner.load_adapter(adapter))

    def unload_adapter(self, adapter: Any) -> None:
        """End the requests with an adapter, and free it; does nothing once the scheduler is closed."""

        def unload(runner: Any) -> None:
            events: list[_Event] = []
            for sequence in [one for one in (*self._open, *self._arrived) if one.adapter is adapter]:
                event = _Event(sequence.stream, error=UnavailableError(_OUT_OF_SERVICE))
                if sequence in self._open:
                    self._end(sequence, event, events)
                else:
                    self._arrived.remove(sequence)
                    events.append(event)
            runner.unload_adapter(adapter)
            _deliver(events)

        with contextlib.suppress(UnavailableError):
            self.call(unload)

    def call(self, work: Callable[[Any], _Result]) -> _Result:
        """Return what `work` returns for the runner, in the runner's thread between two steps.

        Raises what it raises, and UnavailableError where the scheduler is closed.
        """
        done: Future[_Result] = Future()

        def answer() -> None:
            try:
                done.set_result(work(self._runner))
            except BaseException as error:
                done.set_exception(error)

        with self._wake:
            if self._closing:
                raise UnavailableError(_OUT_OF_SERVICE)
            self._calls.append(answer)
            self._wake.notify()
        return done.result()

    def close(self) -> None:
        """End running requests and free the model; see `Engine.close`."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self, make_runner: Callable[[], ModelRunner], ready: "Future[ModelRunner]") -> None:
        """Make the runner, then step until closed."""
        try:
            self._runner = make_runner()
        except BaseException as error:
            ready.set_exception(error)
            return
        ready.set_result(self._runner)
        del ready
        while self._wait_for_work():
            while self._calls:
                self._calls.popleft()()
            events: list[_Event] = []
            self._drop_cancelled(events)
            self._admit(events)
            if batch := self._next_batch():
                self._step(batch, events)
            _deliver(events)
        while self._calls:
            self._calls.popleft()()
        events = []
        for sequence in (*self._open, *self._arrived):
            events.append(_Event(sequence.stream, error=UnavailableError(_OUT_OF_SERVICE)))
        self._open.clear()
        self._arrived.clear()
        del self._runner  # frees its memory
        _deliver(events)

    def _wait_for_work(self) -> bool:
        """Wait for a sequence; return False once closed."""
        with self._wake:
            while not (self._arrived or self._open or self._calls or self._closing):
                self._wake.wait()
            return not self._closing

    def _drop_cancelled(self, events: list[_Event]) -> None:
        """Free the slots of cancelled sequences."""
        for sequence in [sequence for sequence in self._open if sequence.stream.cancelled]:
            self._end(sequence, _Event(sequence.stream), events)

    def _admit(self, events: list[_Event]) -> None:
        """Give slots to waiting sequences: to twice as many as fit into a step, so that short ones need not wait."""
        while self._arrived and len(self._open) < 2 * self._max_concurrency:
            sequence = self._arrived[0]
            if not sequence.stream.cancelled:
                try:
                    with_adapter = [sequence.adapter] if sequence.adapter else []
                    sequence.slot = self._runner.open(sequence.length, *with_adapter)
                    if recall := getattr(self._runner, "recall", None):
                        del sequence.unread[: recall(sequence.slot, sequence.unread)]
                except MemoryError:
                    if self._open:
                        return  # until other sequences have freed their slots
                    events.append(_Event(sequence.stream, error=UnavailableError(_NO_MEMORY)))
                except Exception as error:
                    events.append(_Event(sequence.stream, error=_failure(error)))
                else:
                    self._open.append(sequence)
            self._arrived.popleft()

    def _next_batch(self) -> list[_Sequence]:
        """Return the sequences of the next step; they read at most `prefill_tokens` of prompts, to keep it short."""
        batch: list[_Sequence] = []
        prefill = 0
        for sequence in sorted(self._open, key=lambda sequence: sequence.quanta):
            if len(batch) == self._max_concurrency:
                break
            if not sequence.is_prefilled:
                chunk = min(len(sequence.unread), self._runner.prefill_tokens)
                if prefill and prefill + chunk > self._runner.prefill_tokens:
                    continue
                prefill += chunk
            batch.append(sequence)
        return batch

    def _guesses(self, batch: list[_Sequence]) -> list[list[int]]:
        """Return what each sequence may write next, where a step has room to check it."""
        rows = getattr(self._runner, "guess_rows", 0) // len(batch)
        if rows < 2 or not all(sequence.is_prefilled for sequence in batch):
            return [[] for _ in batch]
        return [
            sequence.guesser.guess(min(rows, sequence.sampling.max_new_tokens - sequence.written) - 1)
            for sequence in batch
        ]

    def _step(self, batch: list[_Sequence], events: list[_Event]) -> None:
        """Read the next tokens of `batch`, and write those that follow for each sequence whose prompt has been read."""
        guesses = self._guesses(batch)
        chunks = [
            sequence.unread[: self._runner.prefill_tokens] + guess
            for sequence, guess in zip(batch, guesses, strict=True)
        ]
        guessed = [[len(guess) for guess in guesses]] if any(guesses) else []
        try:
            logits = self._runner.step([sequence.slot for sequence in batch], chunks, *guessed)
        except Exception as error:
            if len(batch) == 1:
                self._end(batch[0], _Event(batch[0].stream, error=_failure(error)), events)
                return
            for sequence in batch:  # one by one, so that a failure affects one sequence only
                self._step([sequence], events)
            return
        writing: list[tuple[_Sequence, list[int], int]] = []  # with its guesses, and the row of its first logits
        row = 0
        for sequence, chunk, guess in zip(batch, chunks, guesses, strict=True):
            del sequence.unread[: len(chunk) - len(guess)]
            if not sequence.unread:
                sequence.is_prefilled = True
                writing.append((sequence, guess, row))
            row += 1 + len(guess)
        depth = 0
        while writing:
            writing = self._write_tokens(logits, writing, depth, events)
            depth += 1

    def _write_tokens(
        self,
        logits: torch.Tensor,
        writing: list[tuple[_Sequence, list[int], int]],
        depth: int,
        events: list[_Event],
    ) -> list[tuple[_Sequence, list[int], int]]:
        """Write the token after `depth` right guesses; return the sequences that go on, and had guessed it too."""
        rows = [row + depth for _, _, row in writing]
        of_rows = logits if len(rows) == len(logits) else logits[rows]
        samplers = [sequence.sampler for sequence, _, _ in writing]
        tokens = _sample_all(getattr(self._runner, "sample", sample), of_rows, samplers)
        going_on = []
        for (sequence, guess, row), token in zip(writing, tokens, strict=True):
            goes_on = self._write(sequence, token, events)
            if not guess or not goes_on:
                continue
            if depth < len(guess) and sequence.tokens[-1] == guess[depth]:
                going_on.append((sequence, guess, row))
            else:
                self._runner.forget(sequence.slot, len(guess) - depth)  # type: ignore[attr-defined]
                sequence.guesser.note(depth)
        return going_on

    def _write(self, sequence: _Sequence, token: Token | EngineError, events: list[_Event]) -> bool:
        """Add a token to a sequence, and end it with its last one; return whether it goes on."""
        if isinstance(token, EngineError):
            self._end(sequence, _Event(sequence.stream, error=token), events)
            return False
        sequence.written += 1
        if token.id == self.end:
            self._end(sequence, _Event(sequence.stream, reason="stop"), events)
            return False
        sequence.unread = [token.id]
        sequence.tokens.append(token.id)
        if sequence.stream.append(token):
            events.append(_Event(sequence.stream, ends=False))
        if sequence.written == sequence.sampling.max_new_tokens:
            self._end(sequence, _Event(sequence.stream, reason="length"), events)
            return False
        return True

    def _end(self, sequence: _Sequence, event: _Event, events: list[_Event]) -> None:
        self._open.remove(sequence)
        self._runner.close(sequence.slot)
        events.append(event)


def _deliver(events: list[_Event]) -> None:
    """Deliver events to each event loop in one batch: a call for each token would cost more than some tokens do."""
    for loop, of_loop in groupby(events, lambda event: event.stream.loop):
        try:
            loop.call_soon_threadsafe(_apply, list(of_loop))
        except RuntimeError:  # the loop is closed, and nobody reads the streams
            if not loop.is_closed():
                raise


def _apply(events: list[_Event]) -> None:
    for stream, ends, reason, error in events:
        if ends:
            stream.end(reason, error)
        else:
            stream.notify()


def _sample_all(
    of_runner: Callable[[torch.Tensor, Sequence[Sampler]], list[Token | None]],
    logits: torch.Tensor,
    samplers: Sequence[Sampler],
) -> list[Token | EngineError]:
    """Return the next token of each sequence; a failure affects one sequence only."""
    try:
        tokens = of_runner(logits, samplers) if samplers else []
    except Exception as error:
        if len(samplers) == 1:
            return [_failure(error)]
        rows = [(logits[at : at + 1], [one]) for at, one in enumerate(samplers)]
        return [token for row, alone in rows for token in _sample_all(of_runner, row, alone)]
    return [EngineError("the model's logits are not finite") if token is None else token for token in tokens]


def _failure(error: Exception) -> EngineError:
    """Log a failure without its message, which may quote a prompt; return the error to report."""
    where = "".join(traceback.format_tb(error.__traceback__))
    logger.error("the engine failed on a request: %s at\n%s", type(error).__name__, where)
    return EngineError("the model failed on this request; see the service's log")
