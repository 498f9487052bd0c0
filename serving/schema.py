"""The bodies of requests and answers: every bound on a request is in them, and so in /docs.json.

Bounds and defaults that params.yaml configures come in with `generate_request(settings)`.
"""

import secrets
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, create_model, model_validator
from pydantic_core import PydanticCustomError

from pipeline.params import Service
from serving.engines.protocol import FinishReason, Sampling

StopString = Annotated[str, Field(min_length=1, max_length=200)]
Stop = Annotated[list[StopString], Field(max_length=4, fail_fast=True)]
Seed = Annotated[int, Field(ge=-(2**63), lt=2**63)]  # OpenAI's: any signed integer of 64 bits
_MAX_UNKNOWN = 10  # unknown fields that are reported one by one


def as_list(value: object) -> object:
    """Return a single stop string as a list of one."""
    return [value] if isinstance(value, str) else value


class RequestModel(BaseModel):
    """An object in a request: exact types and no unknown fields. Every list in it must be `fail_fast`."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _bound_errors(cls, value: object) -> object:
        """Stop at many unknown fields: pydantic would make an error for each."""
        if isinstance(value, dict) and len(value) > len(cls.model_fields) + _MAX_UNKNOWN:
            known = {"known": len(cls.model_fields)}
            raise PydanticCustomError("too_many_fields", "it should have at most {known} fields", known)
        return value


ModelName = Annotated[
    str | None,
    Field(max_length=200, description="A name or version of those that GET / lists as `models`; null: champion"),
]


class GenerateRequest(RequestModel):
    """A prompt, and how to continue it."""

    prompt: str
    max_new_tokens: int
    temperature: float
    top_p: float
    top_k: int
    repetition_penalty: float
    seed: Annotated[
        Seed | None,
        Field(description="The same seed and model give the same text; without one, the answer names the seed used"),
    ] = None
    stop: Annotated[
        Stop | None,
        BeforeValidator(as_list, json_schema_input_type=StopString | Stop | None),
        Field(description="Up to 4 strings; the text ends before the first of them"),
    ] = None
    presence_penalty: Annotated[
        float, Field(ge=-2, le=2, description="Above 0 makes tokens of the completion less likely to recur")
    ] = 0.0
    frequency_penalty: Annotated[
        float, Field(ge=-2, le=2, description="Likewise, for each time that they occur in the completion")
    ] = 0.0
    stream: Annotated[bool, Field(description="Send the text as server-sent events while it is generated")] = False
    model: ModelName = None

    def sampling(self) -> Sampling:
        """Return how to sample; without a seed, a random one."""
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


def generate_request(settings: Service) -> type[GenerateRequest]:
    """Return GenerateRequest with the bounds and defaults of `settings`."""
    prompt = Field(
        min_length=1,
        max_length=settings.max_prompt_characters,
        description="The text to continue",
        examples=["Once upon a time in a distant land"],
    )
    max_new_tokens = Field(ge=1, le=settings.max_new_tokens, description="How many tokens to generate at most")
    temperature = Field(ge=0, le=5, description="Below 1 prefers likelier tokens; 0 always takes the likeliest")
    top_p = Field(gt=0, le=1, description="Sample from the likeliest tokens that make up this share")
    top_k = Field(ge=0, le=2**31 - 1, description="Sample from at most this many tokens; 0 is no limit")
    penalty = Field(gt=0, le=5, description="Above 1 makes tokens that occurred before less likely; 1 is none")
    return create_model(
        "GenerateRequest",
        __base__=GenerateRequest,
        __doc__=GenerateRequest.__doc__,
        prompt=(Annotated[str, prompt], ...),
        max_new_tokens=(Annotated[int, max_new_tokens], settings.default_new_tokens),
        temperature=(Annotated[float, temperature], settings.temperature),
        top_p=(Annotated[float, top_p], settings.top_p),
        top_k=(Annotated[int, top_k], settings.top_k),
        repetition_penalty=(Annotated[float, penalty], settings.repetition_penalty),
    )


class TokensRead(BaseModel):
    """Tokens read, with the special ones of the model."""

    prompt_tokens: int
    total_tokens: int


class Usage(BaseModel):
    """Tokens read and generated."""

    prompt_tokens: int
    completion_tokens: int


class GenerateAnswer(BaseModel):
    """The generated text, and everything needed to generate it again."""

    text: Annotated[str, Field(description="The continuation, without the prompt")]
    finish_reason: Annotated[
        FinishReason, Field(description="stop: the text is finished or reached a stop string; length: max_new_tokens")
    ]
    usage: Usage
    model: Annotated[str, Field(description="The model's version")]
    data: Annotated[str | None, Field(description="The hash of the data it was trained on, where known")]
    seed: Annotated[int | None, Field(description="null where the engine has no seeds")]
    engine: str


class RefusedVersion(BaseModel):
    """A version that was refused; the one before stays in service."""

    version: str | None
    reason: str
    at: Annotated[str, Field(description="UTC")]


class Verdict(BaseModel):
    """What the verdict said of the served model."""

    outcome: Annotated[str, Field(description="promoted, forced, refused or not judged")]
    reasons: list[str]
    at: Annotated[str | None, Field(description="UTC")]


class ServedAdapter(BaseModel):
    """A LoRA adapter that requests may name."""

    model: Annotated[str | None, Field(description="Its version; null until it is loaded")]
    data: Annotated[str | None, Field(description="The hash of the data it was trained on, where known")]
    why: str | None
    verdict: Verdict | None
    refused: Annotated[str | None, Field(description="Why what is there now is not served")]


class About(BaseModel):
    """The service, and the model behind it."""

    name: str
    status: Annotated[str, Field(description="up, loading, waiting (for a champion) or failed")]
    model: Annotated[str | None, Field(description="The model's version; null until it is loaded")]
    data: Annotated[str | None, Field(description="The hash of the data it was trained on, where known")]
    folder: str | None
    why: Annotated[str | None, Field(description="Why this model is served; while waiting, what to do")]
    verdict: Annotated[Verdict | None, Field(description="On the served model")]
    engine: str | None
    context: Annotated[int | None, Field(description="The most tokens that prompt and completion may have together")]
    models: Annotated[list[str], Field(description="The values that a request's `model` may have")]
    adapters: Annotated[dict[str, ServedAdapter], Field(description="Served on top of this model, by name")]
    prompts: Annotated[list[str], Field(description="Beginnings of texts like those it was trained on, to try")]
    refused: RefusedVersion | None
    swaps: Annotated[int, Field(description="How many versions this worker has swapped in since it started")]


def about_model(routes: Sequence[str]) -> type[About]:
    """Return About with links to the first of the task's `routes`, and to those of every task."""
    pages = {"playground": "/playground", "health": "/health", "docs": "/docs"}
    links: dict[str, Any] = {path.strip("/").replace("-", "_"): (str, path) for path in routes[:1]}
    links |= {name: (str, path) for name, path in pages.items()}
    links["schema_"] = (Annotated[str, Field(alias="schema")], "/docs.json")
    links["metrics"] = (str, "/metrics")
    links_type = create_model("Links", __doc__="The service's other routes.", **links)
    return create_model("About", __base__=About, __doc__=About.__doc__, links=(links_type, links_type()))


class Health(BaseModel):
    """The service can generate."""

    status: str
    model: str
    data: str | None
    engine: str
    verdict: Verdict | None
    refused: RefusedVersion | None


class Error(BaseModel):
    """What went wrong, for people (`message`) and for programs."""

    message: str
    type: Annotated[str, Field(description="invalid_request_error, rate_limit_error or server_error")]
    param: Annotated[str | None, Field(description="The field that caused it")]
    code: str | None


class ErrorAnswer(BaseModel):
    """The format of every error."""

    error: Error


_RETRY_AFTER = {"Retry-After": {"description": "Seconds", "schema": {"type": "integer"}}}
_ERRORS: dict[int, dict[str, Any]] = {
    400: {"description": "The body, or a field of it, is invalid"},
    401: {"description": "The API key is missing or unknown"},
    403: {"description": "Without API keys the service answers requests to localhost only"},
    404: {"description": "There is no such model"},
    405: {"description": "The path does not support this method"},
    408: {"description": "The body did not arrive in time"},
    413: {"description": "The body is too large"},
    429: {"description": "The queue is full, or this key exceeded its rate limit", "headers": _RETRY_AFTER},
    500: {"description": "The service failed"},
    503: {"description": "No model is loaded yet, or the service is shutting down", "headers": _RETRY_AFTER},
    504: {"description": "Nothing was generated in time, or the text was not finished"},
}


def errors_of(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the documentation of a route's errors: those that any route has, and `statuses`."""
    documented = sorted({400, 401, 403, 405, 408, 413, 429, 500, 503, *statuses})
    # The last one keeps FastAPI from documenting its own 422, which is never sent.
    return {
        **{status: {"model": ErrorAnswer, **_ERRORS[status]} for status in documented},
        "4XX": {"model": ErrorAnswer, "description": "Any other problem with the request"},
    }


_HEADERS = {
    "X-Model-Version": "The model's version",
    "X-Data-Hash": "The hash of the data it was trained on, where known",
    "X-Seed": "With this seed the same model generates the same text again",
    "X-Engine": "The engine that ran the model",
    "X-Prompt-Tokens": "Tokens read",
    "X-Completion-Tokens": "Tokens generated; a stream reports them in its last event",
}


ENCODER_HEADERS = ("X-Model-Version", "X-Data-Hash", "X-Engine", "X-Prompt-Tokens")


def read_texts() -> dict[int | str, dict[str, Any]]:
    """Return the documentation of the headers of an answer about texts that were read."""
    headers = {name: {"description": _HEADERS[name], "schema": {"type": "string"}} for name in ENCODER_HEADERS}
    return {200: {"headers": headers}}


def generated(example: str) -> dict[int | str, dict[str, Any]]:
    """Return the documentation of a generation's answer besides its model: headers, and an example of a stream."""
    headers = {name: {"description": text, "schema": {"type": "string"}} for name, text in _HEADERS.items()}
    events = {"example": example}
    return {200: {"headers": headers, "content": {"text/event-stream": events}}}
