"""Whether an engine that rounds agrees with the reference on a model, checked once for each version and machine.

The result is kept as JSON under the model's version and everything that it depends on (processor, libraries, code),
never in the model's folder. Where nothing can be written, each start checks again.
"""

import contextlib
import gc
import hashlib
import json
import logging
import math
import platform
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

import torch

from serving import model_folder
from serving.engines.lora import Adapter
from serving.engines.protocol import EngineError, Sampling
from serving.engines.runner import ModelRunner
from serving.engines.sampling import Sampler, sample

logger = logging.getLogger("bentoml.serving")

# Rounding to 8 bits moves logits by hundredths to tenths of a nat, which changes a greedy token only where the
# reference is nearly undecided, and perplexity by less than a percent. A wrong layer, scale or position changes both
# by far more.
MAX_GAP = 0.5  # nats, by which the reference's own choice may be likelier than the engine's at any greedy token
MAX_DRIFT = 0.02  # nats a token, 2 % of perplexity: less than the interval that `evaluate` reports

_ENGINES = Path(__file__).parent  # whose code a result depends on

SAMPLES = 8  # texts that the engine samples at fixed seeds: they resemble the training data
SAMPLE_TOKENS = 32  # of each of them, and of each greedy completion
COMPARED_AT_ONCE = 2  # texts, where requests run meanwhile
PROMPTS = ("Once upon a time", "The first thing that", "In the end,", "Dear Sir, I")
ENGLISH = (
    "The ferry left the harbour a little after six, when the fog had lifted from the water.",
    "Two of the passengers had missed it, and stood on the pier with their bags, arguing about the clock.",
    "Nobody could say which of them was right, and in the afternoon it rained, so they went back to the inn.",
    "They ordered soup, played cards and told each other stories until the next boat came in.",
)


class Comparable(Protocol):
    """An engine while it is compared with the reference, before it serves."""

    def write(self, prompts: Sequence[Sequence[int]], count: int, temperature: float) -> list[list[int]]:
        """Return up to `count` tokens after each prompt, sampled at fixed seeds; includes the end token."""

    def score(self, texts: Sequence[Sequence[int]]) -> list[list[float]]:
        """Return the log-probability of each token but the first, for each text."""


@dataclass(frozen=True)
class Agreement:
    """How far an engine is from the reference on a version of a model."""

    engine: str
    version: str
    reason: str  # why it may not serve, as a clause; empty when it may
    greedy_tokens: int
    differences: int  # greedy tokens that the reference would not have chosen
    gap: float  # nats, the largest by which the reference's choice was likelier
    tokens: int  # scored, of texts that the engine sampled and of plain English
    perplexity: float
    reference: float  # the reference's perplexity on the same texts


@dataclass(frozen=True)
class EngineUnderTest:
    """An engine to compare with the reference."""

    name: str
    make: Callable[[], Any]  # what `compare` takes, here a `Comparable`; called only where no result is kept
    compare: Callable[[Path, str, str, Any], Agreement] | None = None  # for other kinds of model than `compare` below


def require_agreement(folder: Path, engine: EngineUnderTest, cache: Path, adapter: Adapter | None = None) -> Agreement:
    """Return how `engine` agrees with the reference on the model in `folder`, from `cache` or compared now.

    Args:
        folder: With the model.
        engine: That is to serve it.
        cache: Where results are kept.
        adapter: On top of the model.

    Raises:
        EngineError: It drifts.
    """
    model_version = model_folder.version(folder)
    if adapter:
        model_version = f"{model_version}-{adapter.version}"
    record = cache / f"{model_version}-{engine.name}-{_fingerprint()}.json"
    result = _read(record)
    if not result:
        compare_with_reference = engine.compare or partial(compare, adapter=adapter)
        result = compare_with_reference(folder, model_version, engine.name, engine.make())
        _write(record, result)
        logger.info("compared with the reference: %s", result)
    if result.reason:
        message = f"the engine {engine.name} drifts from the reference on version {model_version}: {result.reason}"
        raise EngineError(message)
    return result


@torch.inference_mode()
def compare(
    folder: Path, model_version: str, name: str, engine: Comparable, adapter: Adapter | None = None
) -> Agreement:
    """Compare an engine with the reference on the model in `folder`, with an adapter; frees the reference's memory."""
    from serving.engines.scoring import Scorer
    from serving.engines.transformers import load_tokenizer

    reference = Scorer(folder, adapter)
    tokenizer, start, _ = load_tokenizer(folder)
    count = min(SAMPLE_TOKENS, reference.context // 2)

    def encode(text: str, limit: int) -> list[int]:
        return [start, *tokenizer.encode(text, add_special_tokens=False).ids[: limit - 1]]

    sampled = [[start, *text] for text in engine.write([[start]] * SAMPLES, count, 1.0)]
    prompts = [encode(prompt, count) for prompt in PROMPTS] + [text[: count // 4] for text in sampled]
    gaps: list[float] = []
    for prompt, written in zip(prompts, engine.write(prompts, count, 0.0), strict=True):
        for token in reference.score([*prompt, *written], 1)[len(prompt) :]:
            assert token.logprob is not None
            gaps.append(token.top[0][1] - token.logprob)
    texts = [*sampled, *(encode(sentence, reference.context) for sentence in ENGLISH)]
    logprobs = [logprob for text in engine.score(texts) for logprob in text]
    expected = [token.logprob for text in texts for token in reference.score(text)[1:] if token.logprob is not None]
    del reference
    gc.collect()
    return summary(name, model_version, gaps, logprobs, expected)


def summary(
    name: str,
    model_version: str,
    gaps: Sequence[float],
    logprobs: Sequence[float],
    expected: Sequence[float],
    max_drift: float | None = None,
) -> Agreement:
    """Return how far an engine is from the reference.

    Args:
        name: The engine's.
        model_version: The version of the model.
        gaps: By how many nats the reference's own choice was likelier, at each greedy token of the engine.
        logprobs: Of scored tokens, by the engine.
        expected: Of the same tokens, by the reference.
        max_drift: Nats a token that may lie between them; MAX_DRIFT by default.
    """
    loss, reference_loss = -sum(logprobs) / len(logprobs), -sum(expected) / len(expected)
    return Agreement(
        engine=name,
        version=model_version,
        reason=_disagreement(max(gaps), abs(loss - reference_loss), MAX_DRIFT if max_drift is None else max_drift),
        greedy_tokens=len(gaps),
        differences=sum(gap > 0 for gap in gaps),
        gap=round(max(gaps), 4),
        tokens=len(expected),
        perplexity=round(_exp(loss), 3),
        reference=round(_exp(reference_loss), 3),
    )


def _disagreement(gap: float, drift: float, max_drift: float) -> str:
    """Return which bound is exceeded, as a clause; empty for none. NaN exceeds both."""
    if not gap <= MAX_GAP:
        return f"a greedy token is {gap:.2f} nats less likely than the reference's, at most {MAX_GAP} is allowed"
    if not drift <= max_drift:
        return f"its loss is {drift:.3f} nats a token from the reference's, at most {max_drift} is allowed"
    return ""


def _exp(loss: float) -> float:
    return math.exp(loss) if loss < 700 else math.inf


class ComparableRunner:
    """A model runner as a `Comparable`."""

    def __init__(self, runner: ModelRunner, at_once: int = SAMPLES + len(PROMPTS)) -> None:
        """Wrap `runner`, of which so many slots are open at once."""
        self._runner = runner
        self._at_once = at_once

    def write(self, prompts: Sequence[Sequence[int]], count: int, temperature: float) -> list[list[int]]:
        """Write after `prompts`; see `Comparable.write`."""
        samplers = [
            Sampler(prompt, Sampling(count, temperature, top_p=1.0, top_k=0, repetition_penalty=1.0, seed=seed))
            for seed, prompt in enumerate(prompts)
        ]
        written = []
        for at in range(0, len(prompts), self._at_once):
            some = slice(at, at + self._at_once)
            with self._slots([len(prompt) + count for prompt in prompts[some]]) as slots:
                written += self._write(slots, prompts[some], samplers[some], count)
        return written

    def _write(
        self, slots: list[object], prompts: Sequence[Sequence[int]], samplers: Sequence[Sampler], count: int
    ) -> list[list[int]]:
        written: list[list[int]] = [[] for _ in prompts]
        unread = [list(prompt) for prompt in prompts]
        left = list(range(len(prompts)))
        while left:
            logits = self._read([slots[n] for n in left], [unread[n] for n in left])
            for n, token in zip(left, sample(logits, [samplers[n] for n in left]), strict=True):
                if token is None:
                    raise EngineError("the model's logits are not finite")
                written[n].append(token.id)
                unread[n] = [token.id]
            left = [n for n in left if len(written[n]) < count and written[n][-1] != self._runner.end]
        return written

    def score(self, texts: Sequence[Sequence[int]]) -> list[list[float]]:
        """Score `texts`, one token a step as when they are written; see `Comparable.score`."""
        scores = []
        for at in range(0, len(texts), self._at_once):
            some = texts[at : at + self._at_once]
            with self._slots(list(map(len, some))) as slots:
                scores += self._score(slots, some)
        return scores

    def _score(self, slots: list[object], texts: Sequence[Sequence[int]]) -> list[list[float]]:
        scores: list[list[float]] = [[] for _ in texts]
        for at in range(max(map(len, texts)) - 1):
            left = [n for n, text in enumerate(texts) if at + 1 < len(text)]
            logits = self._runner.step([slots[n] for n in left], [[texts[n][at]] for n in left])
            logprobs = torch.log_softmax(logits.float(), dim=-1)
            for n, row in zip(left, logprobs, strict=True):
                scores[n].append(float(row[texts[n][at + 1]]))
        return scores

    @contextlib.contextmanager
    def _slots(self, lengths: Sequence[int]) -> Iterator[list[object]]:
        """Open slots for so many tokens until the end of the block."""
        slots: list[object] = []
        try:
            for length in lengths:
                slots.append(self._runner.open(length))
            yield slots
        finally:
            for slot in slots:
                self._runner.close(slot)

    def _read(self, slots: list[object], tokens: list[list[int]]) -> torch.Tensor:
        """Return the logits after `tokens`, read in chunks where they are longer than a step takes."""
        limit = self._runner.prefill_tokens
        if all(len(chunk) == 1 for chunk in tokens):
            return self._runner.step(slots, tokens)
        last = []
        for slot, unread in zip(slots, tokens, strict=True):
            for at in range(0, len(unread), limit):
                logits = self._runner.step([slot], [unread[at : at + limit]])
            last.append(logits)
        return torch.cat(last)


def _fingerprint() -> str:
    """Return 12 hex digits of everything but the model that a comparison depends on."""
    parts = [platform.machine(), _processor(), torch.backends.cpu.get_cpu_capability()]
    for library in ("torch", "transformers", "ctranslate2", "numba", "openvino"):
        try:
            parts.append(version(library))
        except PackageNotFoundError:
            parts.append("none")
    parts += [hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(_ENGINES.glob("*.py"))]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def _processor() -> str:
    """Return the processor's model, as Linux names it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")


def _read(record: Path) -> Agreement | None:
    """Return a kept result; None where there is none, or it is damaged."""
    try:
        return Agreement(**json.loads(record.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _write(record: Path, result: Agreement) -> None:
    """Keep a result with one rename, since several workers may write it at once."""
    try:
        record.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=record.parent, encoding="utf-8", delete=False) as file:
            json.dump(asdict(result), file, indent=2)
        Path(file.name).replace(record)
    except OSError as error:
        logger.warning("cannot keep the comparison of %s, so each start repeats it: %s", result.engine, error)
