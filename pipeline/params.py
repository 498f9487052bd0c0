"""`params.yaml` as one frozen, checked object: the whole file is checked, and every problem is reported at once.

`fresh check` checks the file and does nothing else.
"""

import codecs
import difflib
import ipaddress
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    Field,
    PrivateAttr,
    ValidationError,
    ValidationInfo,
    create_model,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails

from pipeline import paths
from pipeline.command import UserError
from pipeline.param_rules import Rules
from pipeline.param_types import (
    BranchName,
    Count,
    CountOrAll,
    CountOrAuto,
    Name,
    PathName,
    Positive,
    Section,
    Seed,
    Share,
    clipped,
    is_origin,
)
from pipeline.tasks import registry
from pipeline.tasks.columns import Columns
from pipeline.yaml_file import read_yaml


class Data(Section):
    """Which corpus, and how its bytes are to be read."""

    path: PathName
    format: Literal["auto", "csv", "tsv", "text", "jsonl", "parquet"]
    encoding: Name
    delimiter: str
    quote: str
    escape: str
    header: Literal["first", "none"]
    broken_rows: Literal["stop", "quarantine"]

    @field_validator("encoding")
    @classmethod
    def _is_known(cls, encoding: str) -> str:
        if encoding != "auto":
            try:
                codecs.lookup(encoding)
            except LookupError:
                raise ValueError(
                    f"found {clipped(encoding)}, which names no encoding; expected auto or one of Python's names, "
                    "such as utf-8, utf-16, cp1252, latin-1, big5, shift_jis"
                ) from None
        return encoding

    @field_validator("delimiter", "quote", "escape")
    @classmethod
    def _is_a_character(cls, value: str, info: ValidationInfo) -> str:
        words = {"delimiter": ("auto",), "quote": ("auto", "none"), "escape": ("none",)}[str(info.field_name)]
        if value not in words and len(value) != 1:
            raise ValueError(
                f"found {clipped(value)}; expected {', '.join(('one character', *words[:-1]))} or {words[-1]}"
            )
        return value


class Validate(Section):
    """Which rows of the corpus are clean, and how they are split."""

    column: Name
    template: Name
    category: Name
    max_refused: Share
    validation_share: Annotated[float, Field(gt=0, lt=1)]
    test_share: Annotated[float, Field(gt=0, lt=1)]
    rules: Rules
    _columns: Columns = PrivateAttr(default=Columns())

    @property
    def columns(self) -> Columns:
        """What the task needs of the corpus's columns; `Params` fills it in."""
        return self._columns

    @model_validator(mode="after")
    def _leaves_something(self) -> "Validate":
        if self.validation_share + self.test_share >= 1:
            raise ValueError("validation_share and test_share together must leave texts for training (below 1)")
        return self


class Tokenize(Section):
    """How texts become rows of tokens."""

    strategy: Literal["pad", "pack"]
    max_length: Annotated[int, Field(ge=4)]
    canaries: Annotated[int, Field(ge=0)]
    canary_repeats: Count


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
    rows_at_once: CountOrAll = "all"  # a default, for the files of before it
    sharding: Literal["none", "fsdp"] = "none"  # a default, for the files of before it
    frozen_weights: Literal["fp32", "nf4"] = "fp32"  # a default, for the files of before it
    checkpoint_seconds: Positive

    @model_validator(mode="after")
    def _fit_together(self) -> "Finetune":
        problems = [*self._problems_of_parts(), *self._problems_of_memory()]
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _problems_of_parts(self) -> Iterator[str]:
        if self.batch_size == "auto":
            return
        share, rest = divmod(self.batch_size, self.devices)
        if rest:
            yield (
                f"batch_size: found {self.batch_size}, the rows of a step on all devices, which is no multiple of"
                f" devices ({self.devices}); set it to one, for example {self.batch_size - rest + self.devices}"
            )
        elif self.rows_at_once != "all" and share % self.rows_at_once:
            divisor = max(number for number in range(1, min(share, self.rows_at_once) + 1) if share % number == 0)
            yield (
                f"rows_at_once: found {self.rows_at_once}, but a device has {share} rows of each step (batch_size over"
                f" devices), no multiple of it; set it to {divisor}, or to all"
            )

    def _problems_of_memory(self) -> Iterator[str]:
        if self.frozen_weights != "fp32" and not self.lora_rank:
            yield (
                f"frozen_weights: found {self.frozen_weights}, but lora_rank is 0, so no weights are frozen; set"
                " lora_rank to 8, or frozen_weights to fp32"
            )
        if self.sharding == "none":
            return
        if self.devices < 2:
            yield (
                f"sharding: found {self.sharding}, which splits a model among devices, but devices is {self.devices};"
                " set devices to 2 or more, or sharding to none"
            )
        if self.batch_size == "auto":
            yield (
                f"batch_size: found auto, but with sharding: {self.sharding} no process holds the model that would be"
                " measured; set a number of rows (`fresh estimate` plans what they take)"
            )
        if self.frozen_weights != "fp32":
            yield (
                f"frozen_weights: found {self.frozen_weights}, but sharding: {self.sharding} splits weights of 32 bits"
                " alone; set frozen_weights to fp32, or sharding to none"
            )

    def at_once(self, rows: int) -> int:
        """Return how many of a device's `rows` per step it reads at once."""
        return rows if self.rows_at_once == "all" else self.rows_at_once


class Evaluate(Section):
    """How models are scored and sampled, and what counts as a copy."""

    batch_tokens: Count
    stride: Annotated[float, Field(gt=0, le=1)]
    resamples: Annotated[int, Field(ge=100)]
    confidence: Annotated[float, Field(gt=0, lt=1)]
    prompts: Annotated[tuple[Name, ...], Field(strict=False)]
    test_prompts: Annotated[int, Field(ge=0)]
    test_prompt_words: Count
    generations: Annotated[int, Field(ge=2)]
    prompt_tokens: Count
    copied_tokens: Annotated[int, Field(ge=2)]
    common_rows: Count
    membership_rows: Count
    max_new_tokens: Count
    temperature: Positive
    top_p: Annotated[float, Field(gt=0, le=1)]
    top_k: Count
    seed: Seed


class Gates(Section):
    """What a candidate must keep to, however low its perplexity."""

    likeness: Positive
    likeness_rise: Positive
    copied: Share
    extracted: Share
    membership: Positive
    repetition: Share
    loops: Share
    forgetting: Positive
    forgetting_cap: Positive | None
    group_loss: Share
    size: Positive
    latency: Positive
    # Of tasks besides causal_lm: defaults, for the files of before them.
    recall: Share = 0.0
    calibration: Share = 0.02
    cost: Annotated[float, Field(ge=0)] = 0.0
    ndcg: Share = 0.0
    source_copied: Share = 0.25
    empty: Share = 0.02
    forgetting_masked: Positive = 1.5


class Promote(Section):
    """When a candidate takes the champion's place."""

    resamples: Annotated[int, Field(ge=100)]
    confidence: Annotated[float, Field(gt=0.5, lt=1)]
    false_promotions: Annotated[float, Field(gt=0, lt=0.5)] = 0.05  # a default, for the files of before it
    min_gain: Annotated[float, Field(ge=0, lt=1)]
    gates: Gates


class Registry(Section):
    """Where versions are kept, and how many."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9_.-]{0,61}[a-z0-9])?$")]  # BentoML's rule for names
    keep: Count


class Minutes(Section):
    """The time limit of each stage."""

    base: Positive
    validate_: Annotated[Positive, Field(alias="validate")]
    tokenize: Positive
    finetune: Positive
    evaluate: Positive


class Retrain(Section):
    """How a scheduled retraining runs."""

    minutes: Minutes
    retries: Annotated[int, Field(ge=0)]
    retry_seconds: Annotated[float, Field(ge=0)]
    record: Literal["branch", "experiment", "none"]
    branch: BranchName
    needs_approval: bool
    approval_hours: Positive
    approval_default: Literal["approve", "reject"]
    bento: bool
    notify: Annotated[str, Field(pattern=r"^(none|[a-z0-9-]+/[a-z0-9-]+)$")]  # Prefect's rule for blocks: type/name


class Watch(Section):
    """What starts a retraining besides the clock."""

    every_seconds: Annotated[int, Field(ge=0)]
    inbox: PathName
    new_rows: Count
    drift: Annotated[float, Field(gt=1)]
    drift_rows: Count


_ADAPTER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
_NAMES_OF_MODELS = ("champion", "base", "previous")  # that requests may use


class Service(Section):
    """Defaults and bounds of the HTTP service."""

    engine: Literal["auto", "int8", "batched", "ctranslate2", "openvino", "transformers", "vllm"]
    serve_candidate: bool
    max_prompt_characters: Count
    max_body_bytes: Count
    max_new_tokens: Count
    default_new_tokens: Count
    temperature: Annotated[float, Field(ge=0, le=5)]
    top_p: Annotated[float, Field(gt=0, le=1)]
    top_k: Annotated[int, Field(ge=0)]
    repetition_penalty: Annotated[float, Field(gt=0, le=5)]
    max_concurrency: Count
    max_queue: Annotated[int, Field(ge=0)]
    max_head_bytes: Count
    head_seconds: Positive
    max_connections: Count
    upload_seconds: Positive
    first_token_seconds: Positive
    timeout: Positive
    drain_seconds: Positive
    follow_seconds: Positive
    beside: Annotated[tuple[Literal["base", "previous"], ...], Field(strict=False)]
    beside_minutes: Positive
    adapters: dict[str, PathName] = Field(default={})  # for the files of before it
    requests_per_minute: Annotated[int, Field(ge=0)]
    allow_origins: Annotated[tuple[Name, ...], Field(strict=False)]
    trusted_proxies: Annotated[tuple[Name, ...], Field(strict=False)]
    allow_anonymous: bool

    @model_validator(mode="after")
    def _fit_together(self) -> "Service":
        problems = []
        if self.default_new_tokens > self.max_new_tokens:
            problems.append("default_new_tokens must not be above max_new_tokens")
        if self.max_prompt_characters > self.max_body_bytes:
            problems.append("max_prompt_characters must not be above max_body_bytes")
        for name in self.adapters:
            if not _ADAPTER_NAME.fullmatch(name) or name in _NAMES_OF_MODELS:
                problems.append(
                    f"adapters: {clipped(name)} cannot be a name; expected letters, digits, '.', '_' and '-', and"
                    f" none of {', '.join(_NAMES_OF_MODELS)}"
                )
        problems += [
            f"adapters.{name}: {clipped(place)} is no folder on this machine; copy the adapter to one"
            for name, place in self.adapters.items()
            if "://" in place
        ]
        for origin in self.allow_origins:
            if origin != "*" and not is_origin(origin):
                problems.append(
                    f"allow_origins: {clipped(origin)} is no origin, such as https://app.example.com, nor *"
                )
        for proxy in self.trusted_proxies:
            try:
                ipaddress.ip_network(proxy)
            except ValueError as error:
                problems.append(f"trusted_proxies: {error}; expected an address or a network, such as 10.0.0.0/8")
        if problems:
            raise ValueError("; ".join(problems))
        return self


def _checked_task(name: str) -> str:
    if name not in registry.NAMES:
        close = difflib.get_close_matches(name, registry.NAMES, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise ValueError(f"found {clipped(name)}; expected one of {', '.join(registry.NAMES)}{hint}")
    return name


# The section `tasks`: what each task has to set. Defaults, so that a file needs to hold those of its own task alone.
_CONFIGS: dict[str, Any] = {name: registry.task_class(name).Config for name in registry.NAMES}
_FIELDS: dict[str, Any] = {name: (config, config()) for name, config in _CONFIGS.items()}
Tasks: Any = create_model("Tasks", __base__=Section, __doc__="The settings of each task.", **_FIELDS)


class Params(Section):
    """All of `params.yaml`."""

    task: Annotated[str, AfterValidator(_checked_task)]
    tasks: Tasks = Tasks()
    base: PathName
    data: Data
    validate_: Annotated[Validate, Field(alias="validate")]  # pydantic's BaseModel has a `validate` of its own
    tokenize: Tokenize
    finetune: Finetune
    evaluate: Evaluate
    promote: Promote
    registry: Registry
    retrain: Retrain
    watch: Watch
    service: Service

    @property
    def task_config(self) -> Section:
        """The settings of the task."""
        config: Section = getattr(self.tasks, self.task)
        return config

    @model_validator(mode="after")
    def _give_columns(self) -> "Params":
        """Tell `validate` which columns the task needs."""
        columns = registry.get_task(self.task, self.task_config).columns()
        if columns.texts and self.validate_.template != "none":
            raise ValueError(
                f"validate.template: found {clipped(self.validate_.template)}, but the texts of {self.task} come from"
                f" {' and '.join(filter(None, map(columns.key_of, columns.texts)))}; set it to none"
            )
        if not columns.compares_near_copies:
            rules = self.validate_.rules
            ignored = rules.near_duplicate.model_copy(update={"severity": "ignore"})
            rules = rules.model_copy(update={"near_duplicate": ignored})
            object.__setattr__(self, "validate_", self.validate_.model_copy(update={"rules": rules}))
        self.validate_._columns = columns
        return self

    @model_validator(mode="before")
    @classmethod
    def _select_prompts(cls, content: Any) -> Any:
        """Take the prompts of this corpus where evaluate.prompts names some per corpus, none where it is null."""
        if not isinstance(content, dict) or not isinstance(evaluate := content.get("evaluate"), dict):
            return content
        prompts = evaluate.get("prompts", ())
        if not isinstance(prompts, Mapping | None):
            return content
        data = content.get("data")
        path = os.path.normpath(str(data.get("path"))) if isinstance(data, dict) else ""
        by_path = {os.path.normpath(str(corpus)): of_corpus for corpus, of_corpus in (prompts or {}).items()}
        selected = by_path.get(path, ())
        return {**content, "evaluate": {**evaluate, "prompts": selected}}


def load(path: Path = paths.PARAMS, root: Path | None = None) -> Params:
    """Return the checked content of `path`.

    Args:
        path: The file.
        root: The project's folder, which paths in the file start from; the folder of `path` by default.

    Raises:
        UserError: One line for each problem.
    """
    content = read_yaml(path)
    try:
        params = Params.model_validate(content)
    except ValidationError as error:
        problems = [_sentence(problem) for problem in error.errors()]
        raise UserError("\n".join(f"{path}: {problem}" for problem in problems)) from None
    root = path.parent if root is None else root
    if clashes := list(paths.conflicts(root, params.data.path, params.base, params.watch.inbox)):
        raise UserError("\n".join(f"{path}: {clash}" for clash in clashes))
    return params


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
    return f"{key}: found {clipped(problem['input'])}, but {allowed}"


def _keys_beside(location: tuple[int | str, ...]) -> list[str]:
    """Return the known keys of the section in which the last part of `location` stands."""
    section: Any = Params
    for part in location[:-1]:
        fields = {field.alias or name: field.annotation for name, field in section.model_fields.items()}
        section = fields[str(part)]
        section = next(iter(get_args(section)), section)
    return [field.alias or name for name, field in section.model_fields.items()]
