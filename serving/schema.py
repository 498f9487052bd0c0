"""The bodies of requests and answers; every bound that a request is held to stands here, and so in `/docs.json`."""

import secrets
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from serving.engines.protocol import FinishReason, Sampling
from serving.settings import LIMITS

StopString = Annotated[str, Field(min_length=1, max_length=200)]
Stop = Annotated[list[StopString], Field(max_length=4, fail_fast=True)]
Seed = Annotated[int, Field(ge=-(2**63), lt=2**63)]  # OpenAI's: any signed integer of 64 bits
_MAX_UNKNOWN = 10  # fields that are reported one by one


def _as_list(value: object) -> object:
    """Return a lone stop string as a list of one."""
    return [value] if isinstance(value, str) else value


class RequestModel(BaseModel):
    """An object in a request: exact types and no unknown fields. Every list in it must be `fail_fast`."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _bound_errors(cls, value: object) -> object:
        """Stop at a lot of unknown fields: pydantic would make an error of each."""
        if isinstance(value, dict) and len(value) > len(cls.model_fields) + _MAX_UNKNOWN:
            known = {"known": len(cls.model_fields)}
            raise PydanticCustomError("too_many_fields", "it should have at most {known} fields", known)
        return value


class GenerateRequest(RequestModel):
    """What to write on from, and how."""

    prompt: Annotated[
        str,
        Field(
            min_length=1,
            max_length=LIMITS.max_prompt_characters,
            description="The text to write on from",
            examples=["Once upon a time in a distant land"],
        ),
    ]
    max_new_tokens: Annotated[
        int, Field(ge=1, le=LIMITS.max_new_tokens, description="How many tokens to write at most")
    ] = LIMITS.default_new_tokens
    temperature: Annotated[
        float, Field(ge=0, le=5, description="Below 1 keeps to likelier tokens; 0 always takes the likeliest")
    ] = LIMITS.temperature
    top_p: Annotated[float, Field(gt=0, le=1, description="Draw from the likeliest tokens that make up this share")] = (
        LIMITS.top_p
    )
    top_k: Annotated[
        int, Field(ge=0, le=2**31 - 1, description="Draw from this many tokens at most; 0 is no limit")
    ] = LIMITS.top_k
    repetition_penalty: Annotated[
        float, Field(gt=0, le=5, description="Above 1 makes tokens that were there before less likely; 1 is none")
    ] = LIMITS.repetition_penalty
    seed: Annotated[
        Seed | None,
        Field(description="Same seed and same model, same text; without one, the answer says its own"),
    ] = None
    stop: Annotated[
        Stop | None,
        BeforeValidator(_as_list, json_schema_input_type=StopString | Stop | None),
        Field(description="Up to 4 strings; the text ends before the first of them"),
    ] = None
    presence_penalty: Annotated[
        float, Field(ge=-2, le=2, description="Above 0 makes tokens that were written before less likely")
    ] = 0.0
    frequency_penalty: Annotated[
        float, Field(ge=-2, le=2, description="Likewise, for each time that they were written")
    ] = 0.0
    stream: Annotated[bool, Field(description="Send the text as server-sent events while it is being written")] = False
    model: Annotated[
        str | None,
        Field(max_length=200, description="champion, base, previous or a version, as GET / names them; null: champion"),
    ] = None

    def sampling(self) -> Sampling:
        """Return how to draw; without a seed, one is drawn."""
        return Sampling(
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            repetition_penalty=self.repetition_penalty,
            seed=secrets.randbits(32) if self.seed is None else self.seed,
            seeded=self.seed is not None,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
        )


class Usage(BaseModel):
    """Tokens read and written."""

    prompt_tokens: int
    completion_tokens: int


class GenerateAnswer(BaseModel):
    """What the model wrote, and all that is needed to have it write the same again."""

    text: Annotated[str, Field(description="What follows the prompt, without it")]
    finish_reason: Annotated[
        FinishReason, Field(description="stop: the text is finished or reached a stop string; length: max_new_tokens")
    ]
    usage: Usage
    model: Annotated[str, Field(description="The model's version")]
    data: Annotated[str | None, Field(description="The hash of the data it was trained on, where known")]
    seed: Annotated[int | None, Field(description="null where the engine has no seeds")]
    engine: str


class Links(BaseModel):
    """Where to go from here."""

    generate: str = "/generate"
    playground: str = "/playground"
    health: str = "/health"
    docs: str = "/docs"
    schema_: Annotated[str, Field(alias="schema")] = "/docs.json"
    metrics: str = "/metrics"


class RefusedVersion(BaseModel):
    """A version that was not taken over; the one before is served on."""

    version: str | None
    reason: str
    at: Annotated[str, Field(description="UTC")]


class About(BaseModel):
    """The service, and the model behind it."""

    name: str
    status: Annotated[str, Field(description="up, loading or failed")]
    model: Annotated[str | None, Field(description="The model's version; null until it is loaded")]
    data: Annotated[str | None, Field(description="The hash of the data it was trained on, where known")]
    folder: str | None
    why: Annotated[str | None, Field(description="Why this folder's model is served")]
    engine: str | None
    context: Annotated[int | None, Field(description="How many tokens prompt and answer may have together")]
    models: Annotated[list[str], Field(description="What a request's `model` may name")]
    refused: RefusedVersion | None
    swaps: Annotated[int, Field(description="How many versions this worker has taken over since it started")]
    links: Links = Links()


class Health(BaseModel):
    """The service can generate."""

    status: str
    model: str
    data: str | None
    refused: RefusedVersion | None


class Error(BaseModel):
    """What went wrong, for people (`message`) and for programs."""

    message: str
    type: Annotated[str, Field(description="invalid_request_error, rate_limit_error or server_error")]
    param: Annotated[str | None, Field(description="The field that is to blame")]
    code: str | None


class ErrorAnswer(BaseModel):
    """The one shape of every error."""

    error: Error


_RETRY_AFTER = {"Retry-After": {"description": "Seconds", "schema": {"type": "integer"}}}
_ERRORS: dict[int, dict[str, Any]] = {
    400: {"description": "The body, or a field of it, is not as it should be"},
    401: {"description": "There is no API key, or it is not known"},
    403: {"description": "Without API keys the service answers to localhost only"},
    404: {"description": "There is no such model"},
    405: {"description": "The path does not know this method"},
    408: {"description": "The body did not arrive in time"},
    413: {"description": "The body is too large"},
    429: {"description": "The queue is full, or this key asks too often", "headers": _RETRY_AFTER},
    500: {"description": "Something went wrong inside the service"},
    503: {"description": "There is no model yet, or the service stops", "headers": _RETRY_AFTER},
    504: {"description": "Nothing was written in time, or not all of it"},
}


def errors_of(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the documentation of a route's errors: those that any route has, and `statuses`."""
    known = sorted({400, 401, 403, 405, 408, 413, 429, 500, 503, *statuses})
    # The last one keeps FastAPI from documenting its own 422, which is never answered.
    return {
        **{status: {"model": ErrorAnswer, **_ERRORS[status]} for status in known},
        "4XX": {"model": ErrorAnswer, "description": "Any other fault of the request"},
    }


_HEADERS = {
    "X-Model-Version": "The model's version",
    "X-Data-Hash": "The hash of the data it was trained on, where known",
    "X-Seed": "With it the same model writes the same text again",
    "X-Engine": "What ran the model",
    "X-Prompt-Tokens": "Tokens read",
    "X-Completion-Tokens": "Tokens written; not with a stream, whose last event says it",
}


def generated(example: str) -> dict[int | str, dict[str, Any]]:
    """Return the documentation of a generation's answer beside its model: headers, and how it is streamed."""
    headers = {name: {"description": text, "schema": {"type": "string"}} for name, text in _HEADERS.items()}
    events = {"example": example}
    return {200: {"headers": headers, "content": {"text/event-stream": events}}}
