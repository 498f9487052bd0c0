"""What the routes of encoders share: the queue's bound, tokens, the time limit, and how an answer names its model."""

import asyncio
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from fastapi import Request, Response
from pydantic import BaseModel

from pipeline.params import Service
from serving.engines.protocol import EngineError, UnavailableError
from serving.errors import ApiError
from serving.metrics import EncodingSpan, Outcome
from serving.model_loader import LoadedModel
from serving.schema import ENCODER_HEADERS, TokensRead
from serving.settings import EngineSettings
from serving.streaming import unless_disconnected

if TYPE_CHECKING:
    from serving.engines.encoder import Encoded, EncoderEngine, Logits  # torch, which BentoML's master does not need

_T = TypeVar("_T")

_SHORT = 2_000  # characters, tokenized within a millisecond
DIGITS = 6  # of a probability in an answer; more would differ by what is read at the same time


class EncoderRequests:
    """Runs requests through an engine, and bounds how many run and wait."""

    def __init__(self, settings: Service) -> None:
        """Take the bounds from `settings`."""
        self._settings = settings
        self._open = 0
        self._tokenizing = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tokenizing")

    async def encode(
        self, engine: "EncoderEngine", texts: Sequence[str] | Sequence[tuple[str, str]], param: str, *, truncate: bool
    ) -> "list[Encoded]":
        """Return texts, or pairs, as the model reads them; many are tokenized beside the event loop.

        Raises ApiError: 429 when the queue is full, before the work; 400 for a text above the context.
        """
        if self._open >= self._settings.max_concurrency + self._settings.max_queue:
            message = "the service has as many requests as it can queue; try again later"
            raise ApiError(429, message, code="queue_full", headers={"Retry-After": "1"})
        is_short = sum(len(part) for text in texts for part in ([text] if isinstance(text, str) else text)) <= _SHORT
        encoded = engine.encode(texts) if is_short else await self.beside_loop(engine.encode, texts)
        for at, text in enumerate(encoded):
            if text.cut and not truncate:
                name = f"{param}.{at}" if len(texts) > 1 else param
                message = (
                    f"{name} has {len(text.ids) + text.cut} tokens, with the special ones, and the model reads"
                    f' {engine.context}; shorten it, or send "truncate": true to have its end left out'
                )
                raise ApiError(400, message, code="context_length_exceeded", param=param)
        return encoded

    async def beside_loop(self, work: Callable[..., _T], *arguments: object) -> _T:
        """Return what `work` returns in the thread that tokenizes."""
        return await asyncio.get_running_loop().run_in_executor(self._tokenizing, work, *arguments)

    async def logits(
        self, request: Request, loaded: "LoadedModel[EncoderEngine]", encoded: "Sequence[Encoded]"
    ) -> "list[Logits]":
        """Return the logits of each text; raises ApiError, also when the client disconnects."""
        span = EncodingSpan(loaded.version, len(encoded), sum(len(text.ids) for text in encoded))
        self._open += 1
        outcome: Outcome = "cancelled"
        try:
            async with asyncio.timeout(self._settings.timeout):
                results = await unless_disconnected(request, loaded.engine.run(encoded))
            outcome = "stop"
            return results
        except TimeoutError:
            outcome = "error"
            message = f"the texts were not read within {self._settings.timeout:g} s; send fewer, or try again later"
            raise ApiError(504, message, code="timeout") from None
        except UnavailableError as error:
            outcome = "error"
            raise ApiError(503, str(error), code="unavailable", headers={"Retry-After": "5"}) from None
        except EngineError as error:
            outcome = "error"
            raise ApiError(500, str(error), code="engine_error") from None
        finally:
            self._open -= 1
            span.end(outcome)


def make_engine(
    folder: Path, auto_class: str, settings: EngineSettings, *, names_special_tokens: bool = False
) -> "EncoderEngine":
    """Return the engine of the encoder in `folder`; see `serving.engines.encoder_selection.make`."""
    from serving.engines import encoder_selection  # torch, which BentoML's master does not need

    return encoder_selection.make(folder, auto_class, settings, names_special_tokens=names_special_tokens)


def usage(encoded: "Sequence[Encoded]") -> TokensRead:
    """Return how many tokens were read."""
    tokens = sum(len(text.ids) for text in encoded)
    return TokensRead(prompt_tokens=tokens, total_tokens=tokens)


def answer(
    body: BaseModel, loaded: "LoadedModel[Any]", encoded: "Sequence[Encoded]", *, without_null: bool = False
) -> Response:
    """Return an answer, whose headers say what read the texts."""
    values = (loaded.version, loaded.data, loaded.engine.name, usage(encoded).prompt_tokens)
    pairs = zip(ENCODER_HEADERS, values, strict=True)
    headers = {name: str(value) for name, value in pairs if value is not None}
    content = body.model_dump_json(exclude_none=without_null)
    return Response(content, media_type="application/json", headers=headers)


def architecture_reason(folder: Path, ending: str, kind: str) -> str:
    """Return why the model in `folder` has no head that ends with `ending`, as the end of a sentence; else nothing."""
    architectures = config_of(folder).get("architectures") or ["no architecture"]
    if any(str(name).endswith(ending) for name in architectures):
        return ""
    return f"holds {', '.join(map(str, architectures))}, expected a model for {kind} ({ending.removeprefix('For')})"


def config_of(folder: Path) -> dict[str, Any]:
    """Return the config.json in `folder`; empty where it cannot be read, which loading the model says better."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}


def outputs_of(folder: Path) -> int:
    """Return how many logits a classification head has, by the config.json in `folder` (2 is transformers' default)."""
    config = config_of(folder)
    return len(config["id2label"]) if isinstance(config.get("id2label"), dict) else int(config.get("num_labels", 2))
