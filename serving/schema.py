"""The bodies of requests and answers; every bound that a request is held to stands here, and so in `/docs.json`."""

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from serving.engine import FinishReason
from serving.limits import LIMITS

StopString = Annotated[str, Field(min_length=1, max_length=200)]


def _as_list(value: object) -> object:
    """Return a lone stop string as a list of one."""
    return [value] if isinstance(value, str) else value


class GenerateRequest(BaseModel):
    """What to write on from, and how."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

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
        int | None,
        Field(ge=0, lt=2**32, description="Same seed and same model, same text; without one, the answer says its own"),
    ] = None
    stop: Annotated[
        Annotated[list[StopString], Field(max_length=4)] | None,
        BeforeValidator(
            _as_list,
            json_schema_input_type=StopString | Annotated[list[StopString], Field(max_length=4)] | None,
        ),
        Field(description="Up to 4 strings; the text ends before the first of them"),
    ] = None


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
    seed: int
    engine: str


class Links(BaseModel):
    """Where to go from here."""

    generate: str = "/generate"
    health: str = "/health"
    docs: str = "/docs"
    schema_: Annotated[str, Field(alias="schema")] = "/docs.json"
    metrics: str = "/metrics"


class About(BaseModel):
    """The service, and the model behind it."""

    name: str
    status: Annotated[str, Field(description="up, loading or failed")]
    model: Annotated[str | None, Field(description="The model's version; null until it is loaded")]
    data: Annotated[str | None, Field(description="The hash of the data it was trained on, where known")]
    folder: str | None
    why: Annotated[str | None, Field(description="Why this folder's model is served")]
    engine: str | None
    links: Links = Links()


class Health(BaseModel):
    """The service can generate."""

    status: str
    model: str
    data: str | None


class Error(BaseModel):
    """What went wrong, for people (`message`) and for programs."""

    message: str
    type: Annotated[str, Field(description="invalid_request_error, rate_limit_error or server_error")]
    param: Annotated[str | None, Field(description="The field that is to blame")]
    code: str | None


class ErrorAnswer(BaseModel):
    """The one shape of every error."""

    error: Error
