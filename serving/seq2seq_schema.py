"""The bodies of requests for a model that rewrites a source: greedy unless they say otherwise, and without an echo."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, create_model
from pydantic_core import PydanticCustomError

from pipeline.params import Service
from serving.openai_schema import CompletionRequest, Nullable, completion_request, prompt_type
from serving.schema import GenerateAnswer, GenerateRequest, generate_request

TEMPERATURE = 0.0  # service.temperature is for texts that should surprise; a summary or an extract should not

_EXAMPLE = (
    "The meeting began at nine, all of the twelve members were there, and they agreed on the plan for the spring."
)
_WHOLE = "How many tokens to generate at most; without it, the default or the model's own maximum"


class TargetAnswer(GenerateAnswer):
    """The target, and everything needed to generate it again."""

    text: Annotated[str, Field(description="The target: what the model makes of the source")]


def source_request(settings: Service) -> type[GenerateRequest]:
    """Return the body of POST /generate."""
    model = generate_request(settings.model_copy(update={"temperature": TEMPERATURE}))
    length = Field(min_length=1, max_length=settings.max_prompt_characters, examples=[_EXAMPLE])
    source = Annotated[str, length, Field(description="The source; the model's own prefix is put before it")]
    most = Annotated[int, Field(ge=1, le=settings.max_new_tokens, description=_WHOLE)]
    return create_model(
        "GenerateRequest",
        __base__=model,
        __doc__="A source, and how to rewrite it.",
        prompt=(source, ...),
        max_new_tokens=(most, settings.default_new_tokens),
    )


def _no_echo(value: object) -> object:
    if value is not None and value is not False:
        raise PydanticCustomError("unsupported", "not supported: the answer is the target, which holds no prompt")
    return value


def source_completion_request(settings: Service) -> type[CompletionRequest]:
    """Return the body of POST /v1/completions."""
    model = completion_request(settings)
    prompt: Any = prompt_type(settings.max_prompt_characters, settings.max_concurrency)
    about_prompt = Field(
        description="A source, some sources, or their token ids. The model's own prefix is put before a text; special "
        "tokens are added to ids where they are missing",
        examples=[_EXAMPLE],
    )
    echo = Annotated[
        Nullable[Literal[False]], BeforeValidator(_no_echo), Field(description="Not supported: false, or left out")
    ]
    most = Annotated[Nullable[Annotated[int, Field(ge=1, le=settings.max_new_tokens)]], Field(description=_WHOLE)]
    temperature = Annotated[
        Nullable[Annotated[float, Field(ge=0, le=5)]],
        Field(description="0 always takes the likeliest token; above, tokens are sampled, below 1 mostly likely ones"),
    ]
    return create_model(
        "CompletionRequest",
        __base__=model,
        __doc__="Sources, and how to rewrite them, with OpenAI's fields.",
        prompt=(Annotated[prompt, about_prompt], ...),
        echo=(echo, False),
        max_tokens=(most, settings.default_new_tokens),
        temperature=(temperature, TEMPERATURE),
    )
