"""`params.yaml` as one frozen, checked object: the whole file is checked, and every problem is reported at once.

`python -m pipeline.params` checks the file and does nothing else.
"""

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, ValidationError, model_validator
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pipeline import paths
from pipeline.command import UserError, run

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Name = Annotated[str, Field(min_length=1)]


def _count_or_auto(found: object) -> object:
    if found == "auto" or (type(found) is int and found >= 1):
        return found
    raise ValueError(f"found {found!r}, but it should be auto or a whole number from 1 on")


CountOrAuto = Annotated[int | Literal["auto"], PlainValidator(_count_or_auto)]


class Section(BaseModel):
    """A part of `params.yaml`: nothing unknown, nothing converted, nothing changed later."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Data(Section):
    """Which corpus."""

    path: Name


class Validate(Section):
    """Which rows of the corpus are clean, and how they are split."""

    column: Name
    min_characters: Count
    max_characters: Count
    max_refused: Share
    validation_share: Annotated[float, Field(gt=0, lt=1)]
    test_share: Annotated[float, Field(gt=0, lt=1)]

    @model_validator(mode="after")
    def _leaves_something(self) -> "Validate":
        if self.validation_share + self.test_share >= 1:
            raise ValueError("validation_share and test_share together must leave texts for training (below 1)")
        if self.min_characters > self.max_characters:
            raise ValueError("min_characters must not be above max_characters")
        return self


class Tokenize(Section):
    """How texts become rows of tokens."""

    strategy: Literal["pad", "pack"]
    max_length: Annotated[int, Field(ge=4)]


class Finetune(Section):
    """The training recipe."""

    learning_rate: Annotated[float, Field(gt=0, lt=1)]
    batch_size: CountOrAuto
    epochs: Count
    early_stopping_patience: Count
    weight_decay: Annotated[float, Field(ge=0, lt=1)]
    dropout: Annotated[float, Field(ge=0, lt=1)]
    schedule: Literal["constant", "linear", "cosine"]
    warmup_share: Annotated[float, Field(ge=0, lt=1)]
    seed: Seed
    precision: Literal["auto", "fp32", "bf16"]
    lora_rank: Annotated[int, Field(ge=0)]
    activation_checkpointing: bool
    devices: Count
    checkpoint_seconds: Positive


class Evaluate(Section):
    """How models are scored and sampled."""

    batch_size: Count
    stride: Annotated[float, Field(gt=0, le=1)]
    resamples: Annotated[int, Field(ge=100)]
    confidence: Annotated[float, Field(gt=0, lt=1)]
    prompts: Annotated[tuple[Name, ...], Field(strict=False)]
    test_prompts: Annotated[int, Field(ge=0)]
    test_prompt_words: Count
    max_new_tokens: Count
    temperature: Positive
    top_p: Annotated[float, Field(gt=0, le=1)]
    top_k: Count
    seed: Seed


class Service(Section):
    """Defaults and bounds of the HTTP service."""

    max_prompt_characters: Count
    max_new_tokens: Count
    default_new_tokens: Count
    temperature: Annotated[float, Field(ge=0, le=5)]
    top_p: Annotated[float, Field(gt=0, le=1)]
    top_k: Annotated[int, Field(ge=0)]
    repetition_penalty: Annotated[float, Field(gt=0, le=5)]
    max_concurrency: Count
    timeout: Positive

    @model_validator(mode="after")
    def _default_within_bound(self) -> "Service":
        if self.default_new_tokens > self.max_new_tokens:
            raise ValueError("default_new_tokens must not be above max_new_tokens")
        return self


class Params(Section):
    """All of `params.yaml`."""

    base: Name
    data: Data
    validate_: Annotated[Validate, Field(alias="validate")]  # pydantic's BaseModel has a `validate` of its own
    tokenize: Tokenize
    finetune: Finetune
    evaluate: Evaluate
    service: Service


def load(path: Path = paths.PARAMS) -> Params:
    """Return the checked content of `path`; raises UserError with one line for each problem."""
    try:
        content = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is not here; run the command from the repository's root") from None
    except (YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not readable as YAML: {' '.join(str(error).split())}") from None
    try:
        return Params.model_validate(content)
    except ValidationError as error:
        problems = [_sentence(problem) for problem in error.errors()]
        raise UserError("\n".join(f"{path}: {problem}" for problem in problems)) from None


def _sentence(problem: ErrorDetails) -> str:
    """Return what is wrong at which key, what was found there and what is allowed."""
    key = ".".join(str(part) for part in problem["loc"]) or "the whole file"
    if problem["type"] == "extra_forbidden":
        known = _keys_beside(problem["loc"])
        close = difflib.get_close_matches(str(problem["loc"][-1]), known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"known here: {', '.join(known)}"
        return f"{key}: unknown key; {hint}"
    if problem["type"] == "missing":
        return f"{key}: missing; every key of the params.yaml that came with the project must be there"
    if problem["type"] == "value_error":
        return f"{key}: {problem['ctx']['error']}"
    allowed = problem["msg"].replace("Input should", "it should")
    return f"{key}: found {problem['input']!r}, but {allowed}"


def _keys_beside(location: tuple[int | str, ...]) -> list[str]:
    """Return the known keys of the section in which the last part of `location` stands."""
    section: Any = Params
    for part in location[:-1]:
        fields = {field.alias or name: field.annotation for name, field in section.model_fields.items()}
        section = fields[str(part)]
        section = next(iter(get_args(section)), section)
    return [field.alias or name for name, field in section.model_fields.items()]


def main() -> None:
    """Check `params.yaml`."""
    load()


if __name__ == "__main__":
    run(main)
