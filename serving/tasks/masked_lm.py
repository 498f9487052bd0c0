"""Masked language models for the service: they fill gaps in a text, as the inference API of Hugging Face does.

Taken from it (https://huggingface.co/docs/inference-providers/tasks/fill-mask): `inputs` and `parameters.top_k`, and
the answer: a list of fillings for a text with one mask, a list for each mask of a text with several.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse
from pydantic import BaseModel, Field, RootModel, create_model, model_validator
from pydantic_core import PydanticCustomError

from pipeline.params import Service
from serving import encoding, playground
from serving.body import BoundedRoute, parsed
from serving.encoding import DIGITS, EncoderRequests
from serving.engines.protocol import EngineError
from serving.errors import ApiError
from serving.model_loader import LoadedModel, RefusedError
from serving.schema import ModelName, RequestModel, errors_of, read_texts
from serving.served_model import ServedModel
from serving.settings import EngineSettings
from serving.streaming import RequestResources

if TYPE_CHECKING:
    from serving.engines.encoder import Encoded, EncoderEngine, Logits  # torch, which BentoML's master does not need

MAX_MASKS = 16  # of a text
MAX_FILLINGS = 100  # of a mask
_SPELLINGS = ("[MASK]", "<mask>")  # BERT's and RoBERTa's; either stands for the model's own


class FillMaskParameters(RequestModel):
    """Parameters of the inference API."""

    top_k: Annotated[int | None, Field(ge=1, le=MAX_FILLINGS)] = None


class FillMaskRequest(RequestModel):
    """A text with gaps, as `inputs` or as `text`."""

    inputs: str | None = None
    text: str | None = None
    top_k: Annotated[int | None, Field(ge=1, le=MAX_FILLINGS, description="How many fillings a gap; null: 5")] = None
    parameters: Annotated[FillMaskParameters | None, Field(description="The inference API's place for top_k")] = None
    truncate: Annotated[bool, Field(description="Leave out the end of a text that the model cannot read whole")] = False
    model: ModelName = None

    @model_validator(mode="after")
    def _has_one_text(self) -> "FillMaskRequest":
        if (self.inputs is None) == (self.text is None):
            raise PydanticCustomError("one_of", "it should have either inputs or text")
        return self

    @property
    def count(self) -> int:
        """How many fillings to return."""
        return self.top_k or (self.parameters and self.parameters.top_k) or 5


def fill_mask_request(settings: Service) -> type[FillMaskRequest]:
    """Return FillMaskRequest with the bounds of `settings`."""
    bounds = Field(min_length=1, max_length=settings.max_prompt_characters)
    text = Annotated[
        Annotated[str, bounds] | None,
        Field(description=f"A text with up to {MAX_MASKS} gaps, written as [MASK] or <mask>"),
    ]
    inputs = Annotated[text, Field(examples=["Paris is the <mask> of France."])]
    return create_model(
        "FillMaskRequest",
        __base__=FillMaskRequest,
        __doc__=FillMaskRequest.__doc__,
        inputs=(inputs, None),
        text=(text, None),
    )


class Filling(BaseModel):
    """A token for a mask."""

    score: Annotated[float, Field(description="Its probability")]
    token: Annotated[int, Field(description="Its id")]
    token_str: str
    sequence: Annotated[str, Field(description="The text with this token; other masks stay")]


class Fillings(RootModel[list[Filling] | list[list[Filling]]]):
    """The likeliest tokens, best first; for a text with several masks a list for each of them, in order."""


class MaskedLM:
    """See `serving.tasks.ServingTask`."""

    service_name = "fill_mask"
    title = "Filling gaps"
    description = "A fine-tuned masked language model behind HTTP: POST a text with gaps to /fill-mask to fill them."
    tag = ("Filling gaps", "Fill gaps in texts with the served models.")
    ability = "fill gaps"
    routes = ("/fill-mask",)
    other_routes = ("/fill-mask/",)

    def unsuitable_reason(self, folder: Path) -> str:
        """Return why the model fills no gaps."""
        return encoding.architecture_reason(folder, "ForMaskedLM", "filling gaps")

    def make_engine(self, folder: Path, settings: EngineSettings) -> "EncoderEngine":
        """Return the engine; raises EngineError for a tokenizer without a mask."""
        engine = encoding.make_engine(folder, "AutoModelForMaskedLM", settings, names_special_tokens=True)
        if engine.pretrained_tokenizer.mask_token is None:
            engine.close()
            raise EngineError("its tokenizer names no mask_token; set it in tokenizer_config.json")
        return engine

    async def smoke_test(self, engine: "EncoderEngine") -> None:
        """Fill a gap; raises RefusedError for broken weights."""
        text = f"The {engine.pretrained_tokenizer.mask_token} of 1, 2, 3."
        [logits] = await engine.run(engine.encode([text]))
        if len(logits) != 1 or not np.isfinite(logits).all():
            raise RefusedError("its smoke test gave no finite number for each token: broken weights")

    def routers(self, served: "ServedModel[EncoderEngine]", settings: Service) -> Sequence[APIRouter]:
        """Return /fill-mask."""
        return (_routes(served, settings),)

    def page(self, settings: Service) -> HTMLResponse:
        """Return the playground."""
        return playground.panel("masked_lm", fill_mask_request(settings))


TASK = MaskedLM()


def _routes(served: "ServedModel[EncoderEngine]", settings: Service) -> APIRouter:
    routes = APIRouter(route_class=BoundedRoute)
    requests = EncoderRequests(settings)
    body_type = fill_mask_request(settings)

    @routes.post(
        "/fill-mask",
        summary="Fill gaps in a text",
        response_model=Fillings,
        responses={**read_texts(), **errors_of(404, 504)},
    )
    @routes.post("/fill-mask/", include_in_schema=False)
    async def fill_mask(
        body: Annotated[FillMaskRequest, parsed(body_type)], request: Request, resources: RequestResources
    ) -> Response:
        """Say which tokens fit best into each gap."""
        loaded: LoadedModel[Any] = await resources.enter_async_context(served.acquire(body.model))
        engine: EncoderEngine = loaded.engine
        param = "inputs" if body.text is None else "text"
        text = _with_own_masks(body.text or body.inputs or "", str(engine.pretrained_tokenizer.mask_token))
        encoded = await requests.encode(engine, [text], param, truncate=body.truncate)
        _check_masks(encoded[0], str(engine.pretrained_tokenizer.mask_token), param)
        [logits] = await requests.logits(request, loaded, encoded)
        by_mask = _fillings(engine, encoded[0], logits, body.count)
        return encoding.answer(Fillings(by_mask[0] if len(by_mask) == 1 else by_mask), loaded, encoded)

    return routes


def _with_own_masks(text: str, mask: str) -> str:
    """Return `text` with the model's own mask in place of another model's."""
    for spelling in _SPELLINGS:
        text = text.replace(spelling, mask)
    return text


def _check_masks(encoded: "Encoded", mask: str, param: str) -> None:
    if not encoded.masks:
        where = " within what the model reads" if encoded.cut else ""
        message = f"{param} has no gap{where}: write {mask} where a word is missing"
        raise ApiError(400, message, code="no_mask", param=param)
    if len(encoded.masks) > MAX_MASKS:
        message = f"{param} has {len(encoded.masks)} gaps, and at most {MAX_MASKS} are filled at once"
        raise ApiError(400, message, code="too_many_masks", param=param)


def _fillings(engine: "EncoderEngine", encoded: "Encoded", logits: "Logits", count: int) -> list[list[Filling]]:
    """Return the likeliest tokens of each mask, with the text as transformers' fill-mask pipeline writes it."""
    tokenizer = engine.pretrained_tokenizer
    is_single = len(encoded.masks) == 1
    scaled = logits.astype(np.float64)  # (masks, vocabulary)
    shares = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    by_mask = []
    for at, of_mask in zip(encoded.masks, shares, strict=True):
        fillings = []
        for token in np.argsort(-of_mask, kind="stable")[:count].tolist():
            ids = [*encoded.ids[:at], token, *encoded.ids[at + 1 :]]
            sequence = tokenizer.decode(ids, skip_special_tokens=is_single)
            score = round(float(of_mask[token]), DIGITS)
            fillings.append(
                Filling(score=score, token=token, token_str=tokenizer.decode([token]), sequence=str(sequence))
            )
        by_mask.append(fillings)
    return by_mask
