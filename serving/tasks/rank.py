"""Cross-encoders for the service: how relevant passages are to a query, in the shapes that clients of rerankers send.

Taken from Cohere's API (v1 and v2, https://docs.cohere.com/reference/rerank): `query`, `documents` (texts, or objects
with a `text`), `top_n`, `return_documents`, `max_tokens_per_doc`; `id`, `results` and `meta` of the answer. From
Jina's (https://api.jina.ai/redoc): the same request; `model` and `usage`. From text-embeddings-inference's
(https://huggingface.github.io/text-embeddings-inference): `texts`, `raw_scores`, `return_text`, `truncate`,
`truncation_direction`; a bare list as the answer. `texts` chooses the last shape, `documents` the others.
"""

import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse
from pydantic import BaseModel, ConfigDict, Field, RootModel, create_model, model_validator
from pydantic_core import PydanticCustomError

from pipeline.params import Service
from serving import encoding, playground
from serving.body import BoundedRoute, parsed
from serving.encoding import DIGITS, EncoderRequests
from serving.model_loader import LoadedModel, RefusedError
from serving.schema import ModelName, RequestModel, TokensRead, errors_of, read_texts
from serving.served_model import ServedModel
from serving.settings import EngineSettings
from serving.streaming import RequestResources

if TYPE_CHECKING:
    from serving.engines.encoder import Encoded, EncoderEngine, Logits  # torch, which the master does not need

MAX_DOCUMENTS = 1_000  # of a request
_SMOKE_TEST_PAIRS = (("what is it", "The"), ("a query", "1, 2, 3 and a few words more."))


class Document(RequestModel):
    """A passage as an object; further fields stay unread."""

    model_config = ConfigDict(extra="allow")

    text: str


class RerankRequest(RequestModel):
    """A query, and passages to rank by how relevant they are to it: as `documents` or as `texts`."""

    query: str
    documents: list[Any] | None = None
    texts: list[str] | None = None
    top_n: Annotated[int | None, Field(ge=1, description="How many of the best to return; null: all")] = None
    return_documents: Annotated[bool | None, Field(description="Repeat each document in its result")] = None
    max_tokens_per_doc: Annotated[
        int | None, Field(ge=1, description="Leave out what a document has beyond; null: what the model reads")
    ] = None
    raw_scores: Annotated[bool, Field(description="With texts: the model's number in place of a score from 0 to 1")] = (
        False
    )
    return_text: Annotated[bool, Field(description="With texts: repeat each text in its result")] = False
    truncate: Annotated[
        bool, Field(description="With texts: leave out the end of one that is too long; documents always are")
    ] = False
    truncation_direction: Annotated[
        Literal["right", "Right"], Field(description="With texts: which end is left out, the right one")
    ] = "right"
    model: ModelName = None

    @model_validator(mode="after")
    def _has_one_shape(self) -> "RerankRequest":
        if (self.documents is None) == (self.texts is None):
            raise PydanticCustomError("one_of", "it should have either documents or texts")
        return self

    @property
    def passages(self) -> list[str]:
        """The passages, whatever their shape."""
        given = self.documents if self.texts is None else self.texts
        return [one if isinstance(one, str) else one.text for one in given or ()]


def rerank_request(settings: Service) -> type[RerankRequest]:
    """Return RerankRequest with the bounds of `settings`."""
    one: Any = Annotated[str, Field(max_length=settings.max_prompt_characters)]
    document: Any = create_model("Document", __base__=Document, __doc__=Document.__doc__, text=(one, ...))
    count = Field(min_length=1, max_length=MAX_DOCUMENTS, fail_fast=True)
    bounds = Field(min_length=1, max_length=settings.max_prompt_characters)
    query: Any = Annotated[str, bounds, Field(description="What is looked for", examples=["When does my card arrive?"])]
    documents: Any = Annotated[
        Annotated[list[one | document], count] | None,
        Field(
            description=f"Up to {MAX_DOCUMENTS} passages, as Cohere's and Jina's clients send them",
            examples=[["Cards arrive within five days", "Our office is closed on Sunday"]],
        ),
    ]
    texts: Any = Annotated[
        Annotated[list[one], count] | None,
        Field(description=f"Up to {MAX_DOCUMENTS} passages, as text-embeddings-inference's clients send them"),
    ]
    return create_model(
        "RerankRequest",
        __base__=RerankRequest,
        __doc__=RerankRequest.__doc__,
        query=(query, ...),
        documents=(documents, None),
        texts=(texts, None),
    )


class RankedDocument(BaseModel):
    """A passage's place in the request, and its score."""

    index: int
    relevance_score: Annotated[float, Field(description="From 0 to 1")]
    document: Annotated[dict[str, Any] | None, Field(description="With return_documents")] = None


class RerankMeta(BaseModel):
    """Cohere's; nothing is billed."""

    api_version: dict[str, str]
    billed_units: dict[str, int]
    tokens: dict[str, int]


class RerankAnswer(BaseModel):
    """The passages, most relevant first: the fields of Cohere's answer, and of Jina's."""

    id: str
    object: Literal["list"] = "list"
    results: list[RankedDocument]
    meta: RerankMeta
    usage: TokensRead
    model: Annotated[str, Field(description="The model's version")]
    engine: str
    data: Annotated[str | None, Field(description="The hash of the data it was trained on, where known")] = None


class RankedText(BaseModel):
    """text-embeddings-inference's result."""

    index: int
    score: float
    text: Annotated[str | None, Field(description="With return_text")] = None


class Rerank(RootModel[RerankAnswer | list[RankedText]]):
    """An object for documents, a list for texts."""


class Rank:
    """See `serving.tasks.ServingTask`."""

    service_name = "reranker"
    title = "Reranking"
    description = "A fine-tuned cross-encoder behind HTTP: POST a query and passages to /rerank to rank them."
    tag = ("Reranking", "Rank passages by their relevance with the served models.")
    ability = "rank"
    routes = ("/rerank",)
    other_routes = ("/rerank/", "/v1/rerank", "/v2/rerank")

    def unsuitable_reason(self, folder: Path) -> str:
        """Return why the model scores no pairs."""
        if reason := encoding.architecture_reason(folder, "ForSequenceClassification", "ranking"):
            return reason
        outputs = encoding.outputs_of(folder)
        return "" if outputs == 1 else f"holds a model with {outputs} outputs, expected one, the relevance of a pair"

    def make_engine(self, folder: Path, settings: EngineSettings) -> "EncoderEngine":
        """Return the engine."""
        return encoding.make_engine(folder, "AutoModelForSequenceClassification", settings)

    async def smoke_test(self, engine: "EncoderEngine") -> None:
        """Score a few pairs; raises RefusedError for broken weights."""
        for logits in await engine.run(engine.encode(_SMOKE_TEST_PAIRS)):
            if logits.shape != (1,) or not np.isfinite(logits).all():
                raise RefusedError("its smoke test gave no finite score: broken weights")

    def routers(self, served: "ServedModel[EncoderEngine]", settings: Service) -> Sequence[APIRouter]:
        """Return /rerank under the paths of its clients."""
        return (_routes(served, settings),)

    def page(self, settings: Service) -> HTMLResponse:
        """Return the playground."""
        return playground.panel("rank", rerank_request(settings))


TASK = Rank()


def _routes(served: "ServedModel[EncoderEngine]", settings: Service) -> APIRouter:
    routes = APIRouter(route_class=BoundedRoute)
    requests = EncoderRequests(settings)
    body_type = rerank_request(settings)
    documented: dict[str, Any] = {"response_model": Rerank, "responses": {**read_texts(), **errors_of(404, 504)}}

    @routes.post("/rerank", summary="Rank passages", **documented)
    @routes.post("/v1/rerank", summary="Rank passages, as Cohere's v1 and Jina's API do", **documented)
    @routes.post("/v2/rerank", summary="Rank passages, as Cohere's v2 API does", **documented)
    @routes.post("/rerank/", include_in_schema=False)
    async def rerank(
        body: Annotated[RerankRequest, parsed(body_type)], request: Request, resources: RequestResources
    ) -> Response:
        """Rank passages by how relevant they are to the query."""
        loaded: LoadedModel[Any] = await resources.enter_async_context(served.acquire(body.model))
        engine = loaded.engine
        passages = body.passages
        if body.max_tokens_per_doc is not None:
            passages = await requests.beside_loop(engine.shortened, passages, body.max_tokens_per_doc)
        pairs = [(body.query, passage) for passage in passages]
        is_cut = body.truncate if body.texts is not None else True
        param = "documents" if body.texts is None else "texts"
        encoded = await requests.encode(engine, pairs, param, truncate=is_cut)
        ranked = _rank(body, await requests.logits(request, loaded, encoded))
        answer = _texts(body, ranked) if body.texts is not None else _documents(body, ranked, loaded, encoded)
        return encoding.answer(Rerank(answer), loaded, encoded, without_null=True)

    return routes


def _rank(body: RerankRequest, logits: "Sequence[Logits]") -> list[tuple[int, float]]:
    """Return the index and the score of the best passages, best first."""
    scores = np.concatenate(logits).astype(np.float64)  # (passages,)
    best = sorted(range(len(scores)), key=lambda at: -scores[at])[: body.top_n]
    if not (body.texts is not None and body.raw_scores):
        scores = np.exp(-np.logaddexp(0.0, -scores))  # a sigmoid that does not overflow
    return [(at, round(float(scores[at]), DIGITS)) for at in best]


def _texts(body: RerankRequest, ranked: Sequence[tuple[int, float]]) -> list[RankedText]:
    texts = body.passages if body.return_text else None
    return [RankedText(index=at, score=score, text=texts[at] if texts else None) for at, score in ranked]


def _documents(
    body: RerankRequest,
    ranked: Sequence[tuple[int, float]],
    loaded: LoadedModel[Any],
    encoded: "Sequence[Encoded]",
) -> RerankAnswer:
    usage = encoding.usage(encoded)
    results = []
    for at, score in ranked:
        given = (body.documents or ())[at]
        document = {"text": given} if isinstance(given, str) else given.model_dump()
        shown = document if body.return_documents else None
        results.append(RankedDocument(index=at, relevance_score=score, document=shown))
    return RerankAnswer(
        id=str(uuid.uuid4()),
        results=results,
        meta=RerankMeta(
            api_version={"version": "2"},
            billed_units={"search_units": 0},
            tokens={"input_tokens": usage.prompt_tokens},
        ),
        usage=usage,
        model=loaded.version,
        data=loaded.data,
        engine=loaded.engine.name,
    )
