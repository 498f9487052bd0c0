"""Which engine runs a model: `auto` or one by name; an engine that rounds is checked against the reference first.

The result of a check is kept as JSON in registry/engines, under the model's version and all that the result hangs on
(the processor, the libraries, the code), so that a version is checked once a machine. Nothing of it is in the model's
folder, which never changes. ENGINES_DIR names another place; in a bento it is a folder of caches. Where nothing can be
written, the check is made at every start.
"""

import gc
import hashlib
import json
import logging
import math
import os
import platform
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Protocol

import torch

from pipeline import paths
from serving import model_folder
from serving.engines.protocol import Engine, EngineError, Sampling
from serving.engines.sampling import Sampler, sample
from serving.engines.scheduler import ModelRunner, Scheduler
from serving.settings import LIMITS, ROOT

logger = logging.getLogger("bentoml.serving")

NAMES = ("auto", "int8", "ctranslate2", "transformers", "vllm")

# The bounds of a check. Rounding to 8 bits moves logits by some hundredths to tenths of a nat, which changes a greedy
# token only where the reference itself is nearly undecided, and perplexity by less than a percent; a wrong layer, scale
# or position changes both by far more.
LARGEST_GAP = 0.5  # nats: how much likelier the reference's own choice may be than the engine's, at any greedy token
LARGEST_DRIFT = 0.02  # nats a token, 2 % of perplexity: less than the interval that `evaluate` gives of a model

_SAMPLED = 8  # texts that the engine writes at fixed seeds: they are of the kind that the model was trained on
_TOKENS = 32  # how long they are, and how much is written greedily
_OPENINGS = ("Once upon a time", "The first thing that", "In the end,", "Dear Sir, I")
_ENGLISH = (
    "The ferry left the harbour a little after six, when the fog had lifted from the water.",
    "Two of the passengers had missed it, and stood on the pier with their bags, arguing about the clock.",
    "Nobody could say which of them was right, and in the afternoon it rained, so they went back to the inn.",
    "They ordered soup, played cards and told each other stories until the next boat came in.",
)


class Comparable(Protocol):
    """An engine while it is checked, before it serves."""

    def write(self, prompts: Sequence[Sequence[int]], count: int, temperature: float) -> list[list[int]]:
        """Return up to `count` tokens after each prompt, the end token last where it comes, from fixed seeds."""

    def score(self, texts: Sequence[Sequence[int]]) -> list[list[float]]:
        """Return, of each text, the log-probability of each token but the first."""


@dataclass(frozen=True)
class Agreement:
    """How far an engine is from the reference on a version of a model."""

    engine: str
    version: str
    reason: str  # why it may not serve, as a clause; empty when it may
    greedy_tokens: int
    differences: int  # of them, tokens that the reference would not have chosen
    gap: float  # nats, the largest by which the reference's choice was likelier
    tokens: int  # scored, of texts that the engine wrote at fixed seeds and of plain English
    perplexity: float
    reference: float  # perplexity of the reference on the same texts


def make(folder: Path, wanted: str) -> Engine:
    """Return the engine `wanted` (see `NAMES`) with the model in `folder`.

    `auto` takes the fastest that is right: int8 on a CPU where it fits and passes its check, else transformers. Raises
    EngineError, in one sentence, where an engine called by its name cannot run the model or drifts from the reference.
    """
    if wanted == "auto":
        if torch.cuda.is_available():
            return _transformers(folder)
        try:
            return _int8(folder)
        except EngineError as error:
            logger.info("%s; transformers runs it", error)
        except Exception as error:
            logger.warning("int8 failed to load this model (%s: %s); transformers runs it", type(error).__name__, error)
        return _transformers(folder)
    makers = {"int8": _int8, "ctranslate2": _ctranslate2, "transformers": _transformers, "vllm": _vllm}
    if wanted not in makers:
        raise EngineError(f"service.engine is {wanted}, expected one of {', '.join(NAMES)}")
    return makers[wanted](folder)


def _transformers(folder: Path) -> Engine:
    from serving.engines.transformers import TransformersRunner  # the import takes seconds; int8 can do without

    return Scheduler(lambda: TransformersRunner(folder), LIMITS.max_concurrency)


def _int8(folder: Path) -> Engine:
    from serving.engines import int8

    if reason := int8.unsupported_reason(folder):
        raise EngineError(f"the engine int8 cannot run this model: {reason}")

    def made() -> ModelRunner:
        runner = int8.Int8Runner(folder)
        require_agreement(folder, runner.name, int8.__file__, lambda: ComparedRunner(runner))
        return runner

    return Scheduler(made, LIMITS.max_concurrency)


def _ctranslate2(folder: Path) -> Engine:
    from serving.engines import ctranslate2

    if reason := ctranslate2.unsupported_reason(folder):
        raise EngineError(f"the engine ctranslate2 cannot run this model: {reason}")
    engine = ctranslate2.Ctranslate2Engine(folder, cache_folder(), LIMITS.max_concurrency)
    try:
        require_agreement(folder, engine.name, ctranslate2.__file__, lambda: engine)
    except BaseException:
        engine.close()
        raise
    return engine


def _vllm(folder: Path) -> Engine:
    from serving.engines.vllm import VllmEngine

    return VllmEngine(folder, LIMITS.max_concurrency)


def cache_folder() -> Path:
    """Return the folder in which checks, and models that were converted, are kept; it need not exist."""
    if named := os.environ.get("ENGINES_DIR"):
        return Path(named)
    if ROOT.name == "src" and (ROOT.parent / "bento.yaml").is_file():
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fresh-gpt2" / "engines"
    return ROOT / paths.REGISTRY / "engines"


def require_agreement(folder: Path, engine: str, source: str, made: Callable[[], Comparable]) -> Agreement:
    """Return the check of `engine` on the model in `folder`, kept or made now; raises EngineError where it drifts.

    `source` is the engine's own code, on which the result hangs.
    """
    version = model_folder.version(folder)
    record = cache_folder() / f"{version}-{engine}-{_fingerprint(source)}.json"
    found = _read(record)
    if not found:
        found = compare(folder, version, engine, made())
        _write(record, found)
        logger.info("checked: %s", found)
    if found.reason:
        raise EngineError(f"the engine {engine} drifts from the reference on version {version}: {found.reason}")
    return found


@torch.inference_mode()
def compare(folder: Path, version: str, engine: str, checked: Comparable) -> Agreement:
    """Compare an engine with the reference on the model in `folder`; the reference's memory is free afterwards."""
    from serving.engines.scoring import Scorer
    from serving.engines.transformers import load_tokenizer

    reference = Scorer(folder)
    tokenizer, start, _ = load_tokenizer(folder)
    count = min(_TOKENS, reference.context // 2)

    def encoded(text: str, most: int) -> list[int]:
        return [start, *tokenizer.encode(text, add_special_tokens=False).ids[: most - 1]]

    sampled = [[start, *text] for text in checked.write([[start]] * _SAMPLED, count, 1.0)]
    prompts = [encoded(opening, count) for opening in _OPENINGS] + [text[: count // 4] for text in sampled]
    gaps: list[float] = []
    for prompt, written in zip(prompts, checked.write(prompts, count, 0.0), strict=True):
        for token in reference.score([*prompt, *written], 1)[len(prompt) :]:
            assert token.logprob is not None
            gaps.append(token.top[0][1] - token.logprob)
    texts = [*sampled, *(encoded(sentence, reference.context) for sentence in _ENGLISH)]
    theirs = [logprob for text in checked.score(texts) for logprob in text]
    ours = [token.logprob for text in texts for token in reference.score(text)[1:] if token.logprob is not None]
    del reference
    gc.collect()
    loss, right = -sum(theirs) / len(theirs), -sum(ours) / len(ours)
    gap = max(gaps)
    drift = abs(loss - right)
    reason = ""
    if not gap <= LARGEST_GAP:  # NaN is no passing
        reason = f"a greedy token is {gap:.2f} nats less likely than the reference's, at most {LARGEST_GAP} is allowed"
    elif not drift <= LARGEST_DRIFT:
        reason = f"its loss is {drift:.3f} nats a token from the reference's, at most {LARGEST_DRIFT} is allowed"
    return Agreement(
        engine=engine,
        version=version,
        reason=reason,
        greedy_tokens=len(gaps),
        differences=sum(one > 0 for one in gaps),
        gap=round(gap, 4),
        tokens=len(ours),
        perplexity=round(_exp(loss), 3),
        reference=round(_exp(right), 3),
    )


def _exp(loss: float) -> float:
    return math.exp(loss) if loss < 700 else math.inf


class ComparedRunner:
    """A runner while it is checked."""

    def __init__(self, runner: ModelRunner) -> None:
        """Take the runner, of which no row may be open."""
        self._runner = runner

    def write(self, prompts: Sequence[Sequence[int]], count: int, temperature: float) -> list[list[int]]:
        """Write after `prompts`; see `Comparable.write`."""
        written: list[list[int]] = [[] for _ in prompts]
        draws = [
            Sampler(prompt, Sampling(count, temperature, top_p=1.0, top_k=0, repetition_penalty=1.0, seed=seed))
            for seed, prompt in enumerate(prompts)
        ]
        rows = [self._runner.open(len(prompt) + count) for prompt in prompts]
        unread = [list(prompt) for prompt in prompts]
        left = list(range(len(prompts)))
        while left:
            logits = self._read([rows[n] for n in left], [unread[n] for n in left])
            for n, token in zip(left, sample(logits, [draws[n] for n in left]), strict=True):
                if token is None:
                    raise EngineError("the model's figures are not finite")
                written[n].append(token.id)
                unread[n] = [token.id]
            left = [n for n in left if len(written[n]) < count and written[n][-1] != self._runner.end]
        for row in rows:
            self._runner.close(row)
        return written

    def score(self, texts: Sequence[Sequence[int]]) -> list[list[float]]:
        """Score `texts`; see `Comparable.score`. A token a step, as texts are written."""
        found: list[list[float]] = [[] for _ in texts]
        rows = [self._runner.open(len(text)) for text in texts]
        for at in range(max(map(len, texts)) - 1):
            left = [n for n, text in enumerate(texts) if at + 1 < len(text)]
            logits = self._runner.step([rows[n] for n in left], [[texts[n][at]] for n in left])
            logprobs = torch.log_softmax(logits.float(), dim=-1)
            for n, row in zip(left, logprobs, strict=True):
                found[n].append(float(row[texts[n][at + 1]]))
        for row in rows:
            self._runner.close(row)
        return found

    def _read(self, rows: list[object], tokens: list[list[int]]) -> torch.Tensor:
        """Return the logits after `tokens`, read in parts where they are longer than a step takes."""
        most = self._runner.prefill_tokens
        if all(len(of_row) == 1 for of_row in tokens):
            return self._runner.step(rows, tokens)
        found = []
        for row, of_row in zip(rows, tokens, strict=True):
            for at in range(0, len(of_row), most):
                logits = self._runner.step([row], [of_row[at : at + most]])
            found.append(logits)
        return torch.cat(found)


def _fingerprint(source: str) -> str:
    """Return 12 hex digits of all but the model that a check's result hangs on."""
    parts = [platform.machine(), _processor(), torch.backends.cpu.get_cpu_capability()]
    for library in ("torch", "transformers", "ctranslate2"):
        try:
            parts.append(version_of(library))
        except PackageNotFoundError:
            parts.append("none")
    parts += [hashlib.sha256(Path(file).read_bytes()).hexdigest() for file in (source, __file__)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def _processor() -> str:
    """Return the processor's model, as Linux has it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")


def _read(record: Path) -> Agreement | None:
    """Return a check that was kept; None where there is none, or what is there was damaged."""
    try:
        return Agreement(**json.loads(record.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _write(record: Path, check: Agreement) -> None:
    """Keep a check, by one rename: several workers may do so at once."""
    try:
        record.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=record.parent, encoding="utf-8", delete=False) as file:
            json.dump(asdict(check), file, indent=2)
        Path(file.name).replace(record)
    except OSError as error:
        logger.warning("the check of %s cannot be kept, so each start makes it again: %s", check.engine, error)
