"""The bodies of OpenAI's routes, after its published specification; unsupported fields are refused by name.

Bounds that params.yaml configures come in with `completion_request(settings)`.
https://platform.openai.com/docs/api-reference/completions
"""

from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    Discriminator,
    Field,
    GetJsonSchemaHandler,
    Tag,
    ValidationInfo,
    WithJsonSchema,
    create_model,
    field_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, PydanticUseDefault

from pipeline.params import Service
from serving.engines.protocol import FinishReason
from serving.schema import RequestModel, Seed, Stop, StopString, Usage, as_list

MAX_LOGPROBS = 5

_T = TypeVar("_T")


class _OrNull:
    """Shows in the specification that null is allowed."""

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Return the JSON schema."""
        return {"anyOf": [handler(schema), {"type": "null"}]}


def _null_is_the_default(value: object) -> object:
    if value is None:
        raise PydanticUseDefault
    return value


Nullable = Annotated[_T, BeforeValidator(_null_is_the_default), _OrNull()]  # OpenAI's fields may all be null


def _refuse_unless(empty: object) -> BeforeValidator:
    def check(value: object) -> None:
        if value is not None and (type(value) is not type(empty) or value):
            raise PydanticCustomError("unsupported", "not supported by this service")

    return BeforeValidator(check)


def _only(empty: dict[str, Any]) -> WithJsonSchema:
    """Return the schema of a field that is not supported: null, or what clients send where it is not set."""
    description = "Not supported: empty, null, or left out"
    return WithJsonSchema({"anyOf": [empty, {"type": "null"}], "default": None, "description": description})


NoObject = Annotated[None, _refuse_unless({}), _only({"type": "object", "maxProperties": 0})]
NoText = Annotated[None, _refuse_unless(""), _only({"type": "string", "maxLength": 0})]


def _prompt_form(value: object) -> str:
    """Return which of the forms a prompt has, so that an error is about that form alone.

    The names are not identifiers, so that an error's path does not take them for fields.
    """
    if not isinstance(value, list):
        return "a text"
    first = value[0] if value else ""
    if isinstance(first, int):
        return "token ids"
    return "lists of token ids" if isinstance(first, list) else "some texts"


TokenId = Annotated[int, Field(ge=0, lt=2**31)]


class StreamOptions(RequestModel):
    """What a stream holds besides the text."""

    include_usage: Annotated[
        Nullable[bool],
        Field(description="Whether one more event, before the last, holds the usage of the whole request"),
    ] = False
    include_obfuscation: Annotated[
        Nullable[bool], Field(description="Accepted and ignored: no padding is added to the events")
    ] = False


class CompletionRequest(RequestModel):
    """Prompts, and how to continue them, with OpenAI's fields and defaults."""

    max_choices: ClassVar[int]  # texts that one request may ask for, prompts times n

    model: Annotated[
        str | None,
        Field(
            max_length=200,
            description="A name or version that /v1/models lists; the champion without one",
            examples=["champion"],
        ),
    ] = None
    prompt: str | list[str] | list[int] | list[list[int]]
    echo: Annotated[Nullable[bool], Field(description="Whether the answer begins with the prompt")] = False
    max_tokens: int
    n: int
    best_of: int | None
    logprobs: Annotated[
        int | None,
        Field(
            ge=0, le=MAX_LOGPROBS, description="Report log-probabilities of each token and of this many likeliest ones"
        ),
    ] = None
    stop: Annotated[
        Nullable[Annotated[Stop, BeforeValidator(as_list, json_schema_input_type=StopString | Stop)]],
        Field(description="Up to 4 strings; the text ends before the first of them"),
    ] = []  # noqa: RUF012 - pydantic copies it
    stream: Annotated[Nullable[bool], Field(description="Whether to send the text while it is generated")] = False
    stream_options: Annotated[StreamOptions | None, Field(description="Only with stream")] = None
    seed: Annotated[
        Seed | None,
        Field(description="The same seed, prompt and model give the same text; choice i of a prompt has seed + i"),
    ] = None
    temperature: Annotated[
        Nullable[Annotated[float, Field(ge=0, le=5)]],
        Field(description="Below 1 prefers likelier tokens; 0 always takes the likeliest"),
    ] = 1.0
    top_p: Annotated[
        Nullable[Annotated[float, Field(ge=0, le=1)]],
        Field(description="Sample from the likeliest tokens that make up this share"),
    ] = 1.0
    presence_penalty: Annotated[
        Nullable[Annotated[float, Field(ge=-2, le=2)]],
        Field(description="Above 0 makes tokens of the completion less likely to recur"),
    ] = 0.0
    frequency_penalty: Annotated[
        Nullable[Annotated[float, Field(ge=-2, le=2)]],
        Field(description="Likewise, for each time that they occur in the completion"),
    ] = 0.0
    top_k: Annotated[
        Nullable[Annotated[int, Field(ge=0, le=2**31 - 1)]],
        Field(description="Not OpenAI's: sample from at most this many tokens; 0 is no limit"),
    ] = 0
    repetition_penalty: Annotated[
        Nullable[Annotated[float, Field(gt=0, le=5)]],
        Field(description="Not OpenAI's: above 1 makes tokens that occurred before less likely; 1 is none"),
    ] = 1.0
    user: Annotated[str | None, Field(max_length=1000, description="Accepted, and neither used nor kept")] = None
    logit_bias: NoObject = None
    suffix: NoText = None

    @field_validator("max_tokens")
    @classmethod
    def _zero_only_with_echo(cls, value: int, info: ValidationInfo) -> int:
        if value == 0 and not info.data.get("echo"):
            raise PydanticCustomError("nothing_to_do", "0 is allowed only with echo")
        return value

    @field_validator("n")
    @classmethod
    def _bounded_in_all(cls, value: int, info: ValidationInfo) -> int:
        prompts = prompts_of(info.data.get("prompt", ""))
        if len(prompts) * value > cls.max_choices:
            raise PydanticCustomError(
                "too_many_choices",
                "{prompts} prompts times n = {n} exceed the {most} texts that one request may ask for",
                {"prompts": len(prompts), "n": value, "most": cls.max_choices},
            )
        return value

    @field_validator("best_of")
    @classmethod
    def _only_n(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value not in (None, info.data.get("n")):
            raise PydanticCustomError("unsupported", "supported only where it equals n; ask for n texts and choose")
        return value

    @field_validator("stream_options")
    @classmethod
    def _only_with_stream(cls, value: StreamOptions | None, info: ValidationInfo) -> StreamOptions | None:
        if value is not None and not info.data.get("stream"):
            raise PydanticCustomError("stream_only", "allowed only with stream")
        return value


def completion_request(settings: Service) -> type[CompletionRequest]:
    """Return CompletionRequest with the bounds of `settings`."""
    most = settings.max_concurrency
    max_tokens = Annotated[Nullable[Annotated[int, Field(ge=0, le=settings.max_new_tokens)]], _MAX_TOKENS]
    n_field = Field(description=f"How many texts to generate for each prompt; {most} in all")
    prompt: Any = Annotated[prompt_type(settings.max_prompt_characters, most), _PROMPT]
    model = create_model(
        "CompletionRequest",
        __base__=CompletionRequest,
        __doc__=CompletionRequest.__doc__,
        prompt=(prompt, ...),
        max_tokens=(max_tokens, 16),
        n=(Annotated[Nullable[Annotated[int, Field(ge=1, le=most)]], n_field], 1),
        best_of=(Annotated[int | None, Field(ge=1, le=most, description=_BEST_OF)], None),
    )
    model.max_choices = most
    return model


_BEST_OF = "The same as n, or left out: no text is discarded"
_MAX_TOKENS = Field(description="How many tokens to generate at most; 0 only with echo")
_PROMPT = Field(
    description="A text, some texts, the ids of a text's tokens, or such ids of some texts. A start token is added in "
    "front where it is missing",
    examples=["Once upon a time in a distant land"],
)


def prompt_type(max_characters: int, most: int) -> Any:
    """Return the type of a prompt: texts, or token ids, which are at most as many as characters."""
    some = Field(min_length=1, max_length=most, fail_fast=True)
    text = Annotated[str, Field(min_length=1, max_length=max_characters)]
    ids = Annotated[list[TokenId], Field(min_length=1, max_length=max_characters, fail_fast=True)]
    return Annotated[
        Annotated[text, Tag("a text")]
        | Annotated[list[text], some, Tag("some texts")]
        | Annotated[ids, Tag("token ids")]
        | Annotated[list[ids], some, Tag("lists of token ids")],
        Discriminator(_prompt_form),
    ]


def prompts_of(prompt: str | list[str] | list[int] | list[list[int]]) -> list[str] | list[list[int]]:
    """Return one or some prompts as a list."""
    if isinstance(prompt, str):
        return [prompt]
    if isinstance(prompt[0], int):
        return [prompt]
    return prompt


class OpenAIUsage(Usage):
    """Tokens read and generated, of all choices; each prompt counts once."""

    total_tokens: int


class Logprobs(BaseModel):
    """Natural logarithms of the tokens' probabilities, by the model itself before temperature and penalties."""

    tokens: Annotated[
        list[str], Field(description=r"Each token's text; bytes:\xe2\x80 where it is not whole characters")
    ]
    token_logprobs: Annotated[
        list[float | None],
        Field(description="null for a start token of the prompt, which nothing precedes, and for the end token"),
    ]
    top_logprobs: Annotated[
        list[dict[str, float] | None], Field(description="The likeliest tokens, best first, and the token itself")
    ]
    text_offset: Annotated[list[int], Field(description="Where in the text each token begins, in characters")]


class Choice(BaseModel):
    """A text, or in a stream a part of one."""

    index: Annotated[int, Field(description="Counts the texts of the first prompt, then of the second ...")]
    text: str
    logprobs: Logprobs | None
    finish_reason: Annotated[
        FinishReason | None,
        Field(description="stop: the text is finished or reached a stop string; length: max_tokens; null: not ended"),
    ]


class Completion(BaseModel):
    """The generated texts, as OpenAI's answer; `data`, `seed` and `engine` say what else produced them."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: Annotated[int, Field(description="Seconds since 1970, UTC")]
    model: Annotated[str, Field(description="The model's version")]
    system_fingerprint: Annotated[str, Field(description="Changes where the same seed may give another text")]
    choices: list[Choice]
    usage: Annotated[OpenAIUsage | None, Field(description="null in the parts of a stream")]
    data: Annotated[str | None, Field(description="The hash of the data the model was trained on, where known")]
    seed: Annotated[
        int | None,
        Field(description="Of choice 0; choice i has seed + i; null where the engine has none"),
    ]
    engine: str


class Model(BaseModel):
    """An available model."""

    id: Annotated[str, Field(description="A version, or a name that may stand for another version later")]
    object: Literal["model"] = "model"
    created: Annotated[int, Field(description="0: not known")]
    owned_by: str


class Models(BaseModel):
    """The available models."""

    object: Literal["list"] = "list"
    data: list[Model]
