"""The bodies of OpenAI's routes, after its published specification; what we have not is refused by name.

https://platform.openai.com/docs/api-reference/completions
"""

from typing import Annotated, Literal, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    Discriminator,
    Field,
    GetJsonSchemaHandler,
    Tag,
    ValidationInfo,
    field_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, PydanticUseDefault

from serving.engines.protocol import FinishReason
from serving.schema import RequestModel, Seed, Stop, StopString, Usage
from serving.settings import LIMITS

MOST_CHOICES = LIMITS.max_concurrency  # texts that one request may ask for, prompts times n
MOST_LOGPROBS = 5
_MOST_IDS = LIMITS.max_prompt_characters  # a token has at least a character

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


def _not_supported(value: object) -> None:
    if value not in (None, {}, ""):  # which clients send for fields that are not set
        raise PydanticCustomError("unsupported", "not supported by this service")


NotSupported = Annotated[None, BeforeValidator(_not_supported), Field(description="Not supported: null, or left out")]


def _form_of_prompt(value: object) -> str:
    """Return which of the forms a prompt has, so that an error is about that form alone.

    The names are no identifiers, so that an error's path does not take them for fields.
    """
    if not isinstance(value, list):
        return "a text"
    first = value[0] if value else ""
    if isinstance(first, int):
        return "token ids"
    return "lists of token ids" if isinstance(first, list) else "some texts"


Text = Annotated[str, Field(min_length=1, max_length=LIMITS.max_prompt_characters)]
TokenId = Annotated[int, Field(ge=0, lt=2**31)]
TokenIds = Annotated[list[TokenId], Field(min_length=1, max_length=_MOST_IDS, fail_fast=True)]
Prompt = Annotated[
    Annotated[Text, Tag("a text")]
    | Annotated[list[Text], Field(min_length=1, max_length=MOST_CHOICES, fail_fast=True), Tag("some texts")]
    | Annotated[TokenIds, Tag("token ids")]
    | Annotated[
        list[TokenIds], Field(min_length=1, max_length=MOST_CHOICES, fail_fast=True), Tag("lists of token ids")
    ],
    Discriminator(_form_of_prompt),
]


class StreamOptions(RequestModel):
    """What a stream holds besides the text."""

    include_usage: Annotated[
        Nullable[bool], Field(description="Whether one more event, before the last, holds the whole request's usage")
    ] = False
    include_obfuscation: Annotated[
        Nullable[bool], Field(description="Accepted and ignored: no padding is added to the events")
    ] = False


class CompletionRequest(RequestModel):
    """What to write on from, and how, in OpenAI's words and with OpenAI's defaults."""

    model: Annotated[
        str | None,
        Field(
            max_length=200,
            description="A name or version that /v1/models lists; the champion without one",
            examples=["champion"],
        ),
    ] = None
    prompt: Annotated[
        Prompt,
        Field(
            description="A text, some texts, the ids of a text's tokens, or such ids of some texts. The start token is "
            "put in front of what does not begin with it",
            examples=["Once upon a time in a distant land"],
        ),
    ]
    echo: Annotated[Nullable[bool], Field(description="Whether the answer begins with the prompt")] = False
    max_tokens: Annotated[
        Nullable[Annotated[int, Field(ge=0, le=LIMITS.max_new_tokens)]],
        Field(description="How many tokens to write at most; 0 only with echo"),
    ] = 16
    n: Annotated[
        Nullable[Annotated[int, Field(ge=1, le=MOST_CHOICES)]],
        Field(description=f"How many texts to write for each prompt; {MOST_CHOICES} in all"),
    ] = 1
    best_of: Annotated[
        int | None, Field(ge=1, le=MOST_CHOICES, description="The same as n, or left out: none is thrown away")
    ] = None
    logprobs: Annotated[
        int | None,
        Field(ge=0, le=MOST_LOGPROBS, description="Tell each token's log-probability, and those of so many likeliest"),
    ] = None
    stop: Annotated[
        Nullable[
            Annotated[
                Stop,
                BeforeValidator(
                    lambda value: [value] if isinstance(value, str) else value, json_schema_input_type=StopString | Stop
                ),
            ]
        ],
        Field(description="Up to 4 strings; the text ends before the first of them"),
    ] = []  # noqa: RUF012 - pydantic copies it
    stream: Annotated[Nullable[bool], Field(description="Whether to send the text while it is written")] = False
    stream_options: Annotated[StreamOptions | None, Field(description="Only with stream")] = None
    seed: Annotated[
        Seed | None,
        Field(description="Same seed, prompt and model, same text; choice i of a prompt is written with seed + i"),
    ] = None
    temperature: Annotated[
        Nullable[Annotated[float, Field(ge=0, le=5)]],
        Field(description="Below 1 keeps to likelier tokens; 0 always takes the likeliest"),
    ] = 1.0
    top_p: Annotated[
        Nullable[Annotated[float, Field(ge=0, le=1)]],
        Field(description="Draw from the likeliest tokens that make up this share"),
    ] = 1.0
    presence_penalty: Annotated[
        Nullable[Annotated[float, Field(ge=-2, le=2)]],
        Field(description="Above 0 makes tokens that were written less likely"),
    ] = 0.0
    frequency_penalty: Annotated[
        Nullable[Annotated[float, Field(ge=-2, le=2)]], Field(description="Likewise, for each time they were written")
    ] = 0.0
    top_k: Annotated[
        Nullable[Annotated[int, Field(ge=0, le=2**31 - 1)]],
        Field(description="Not OpenAI's: draw from this many tokens at most; 0 is no limit"),
    ] = 0
    repetition_penalty: Annotated[
        Nullable[Annotated[float, Field(gt=0, le=5)]],
        Field(description="Not OpenAI's: above 1 makes tokens that were there before less likely; 1 is none"),
    ] = 1.0
    user: Annotated[str | None, Field(max_length=1000, description="Accepted, and neither used nor kept")] = None
    logit_bias: NotSupported = None
    suffix: NotSupported = None

    @field_validator("max_tokens")
    @classmethod
    def _nothing_only_with_echo(cls, value: int, info: ValidationInfo) -> int:
        if value == 0 and not info.data.get("echo"):
            raise PydanticCustomError("nothing_to_do", "0 is allowed only with echo")
        return value

    @field_validator("n")
    @classmethod
    def _bounded_in_all(cls, value: int, info: ValidationInfo) -> int:
        prompts = prompts_of(info.data.get("prompt", ""))
        if len(prompts) * value > MOST_CHOICES:
            raise PydanticCustomError(
                "too_many_choices",
                "{prompts} prompts times n = {n} are more than the {most} texts that one request may ask for",
                {"prompts": len(prompts), "n": value, "most": MOST_CHOICES},
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
    def _only_of_a_stream(cls, value: StreamOptions | None, info: ValidationInfo) -> StreamOptions | None:
        if value is not None and not info.data.get("stream"):
            raise PydanticCustomError("stream_only", "allowed only with stream")
        return value


def prompts_of(prompt: str | list[str] | list[int] | list[list[int]]) -> list[str] | list[list[int]]:
    """Return the prompts, one or some, as a list."""
    if isinstance(prompt, str):
        return [prompt]
    if isinstance(prompt[0], int):
        return [prompt]
    return prompt


class OpenAIUsage(Usage):
    """Tokens read and written, of all choices; each prompt counts once."""

    total_tokens: int


class Logprobs(BaseModel):
    """Natural logarithms of the tokens' probabilities, by the model itself before temperature and penalties."""

    tokens: Annotated[
        list[str], Field(description=r"Each token's text; bytes:\xe2\x80 where it holds no whole characters")
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
        Field(description="stop: the text is finished or reached a stop string; length: max_tokens; null: it goes on"),
    ]


class Completion(BaseModel):
    """What the model wrote, as OpenAI's answer; `data`, `seed` and `engine` say what else made it."""

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
        Field(description="Of choice 0; choice i is written with seed + i; null where the engine has none"),
    ]
    engine: str


class Model(BaseModel):
    """A model that can be asked for."""

    id: Annotated[str, Field(description="What to ask for: a version, or a name that may stand for another one later")]
    object: Literal["model"] = "model"
    created: Annotated[int, Field(description="0: not known")]
    owned_by: str


class Models(BaseModel):
    """The models that can be asked for."""

    object: Literal["list"] = "list"
    data: list[Model]
