"""`params.yaml` as one frozen, checked object: the whole file is checked, and every problem is reported at once.

`python -m pipeline.params` checks the file and does nothing else.
"""

import codecs
import difflib
import ipaddress
import os
import re
import reprlib
import sys
import unicodedata
from pathlib import Path
from typing import Annotated, Any, Literal, get_args
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.constructor import ConstructorError, SafeConstructor
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import CollectionEndEvent, CollectionStartEvent
from ruamel.yaml.reader import ReaderError

from pipeline import paths
from pipeline.command import UserError, arg_parser, run

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Name = Annotated[str, Field(min_length=1)]


_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = 120


def _clipped(value: object) -> str:
    """Return `value` as Python writes it, but short, however long or deep it is."""
    return _REPR.repr(value)


def _count_or_auto(found: object) -> object:
    if found == "auto" or (type(found) is int and found >= 1):
        return found
    raise ValueError(f"found {_clipped(found)}, but it should be auto or a whole number from 1 on")


_LONGEST_NAME = 200  # bytes; file systems allow 255, and files beside it have longer names


def _checked_path(path: str) -> str:
    """Return the path in its shortest form, so that one file has one name; an address (://) stays as it is."""
    if not _is_text(path):
        raise ValueError(f"found {_clipped(path)}, with a control character or half a character; no path holds these")
    if any(len(part.encode()) > _LONGEST_NAME for part in Path(path).parts):
        raise ValueError(f"found a name longer than {_LONGEST_NAME} bytes: {path[:40]!r}...; use a shorter one")
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        raise ValueError(
            f"found {_clipped(path)}, which cannot be written in this machine's encoding of file names "
            f"({sys.getfilesystemencoding()}); set PYTHONUTF8=1, or rename it"
        ) from None
    return path if "://" in path else os.path.normpath(path)


def _is_text(value: str) -> bool:
    """Tell whether a value has no control characters and no lone surrogates, so that it can be a name anywhere."""
    return not any(unicodedata.category(character) in ("Cc", "Cs") for character in value)


PathName = Annotated[Name, AfterValidator(_checked_path)]

# What `git check-ref-format` refuses in a branch's name, besides HEAD and a dash in front.
_NO_REF = re.compile(r"(^|/)\.|\.lock(/|$)|\.\.|[\x00-\x20~^:?*\[\\\x7f]|^/|/$|//|\.$|@\{|^@$|^-|^HEAD$")


def _checked_branch(branch: str) -> str:
    if _NO_REF.search(branch) or not _is_text(branch) or len(branch.encode()) > _LONGEST_NAME:
        raise ValueError(
            f"found {_clipped(branch)}, which git takes for no branch; expected a name such as retrain or nightly/main"
        )
    return branch


BranchName = Annotated[Name, AfterValidator(_checked_branch)]
CountOrAuto = Annotated[int | Literal["auto"], PlainValidator(_count_or_auto)]


class Section(BaseModel):
    """A part of `params.yaml`: nothing unknown, nothing converted, nothing changed later."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


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
                    f"found {_clipped(encoding)}, which names no encoding; expected auto or one of Python's names, "
                    "such as utf-8, utf-16, cp1252, latin-1, big5, shift_jis"
                ) from None
        return encoding

    @field_validator("delimiter", "quote", "escape")
    @classmethod
    def _is_a_character(cls, value: str, info: ValidationInfo) -> str:
        words = {"delimiter": ("auto",), "quote": ("auto", "none"), "escape": ("none",)}[str(info.field_name)]
        if value not in words and len(value) != 1:
            raise ValueError(
                f"found {_clipped(value)}; expected {', '.join(('one character', *words[:-1]))} or {words[-1]}"
            )
        return value


class Rule(Section):
    """What a row must keep to."""

    severity: Literal["critical", "warning", "ignore"]


class TooShort(Rule):
    """Length after trimming, at least."""

    min_characters: Count


class TooLong(Rule):
    """Length after trimming, at most."""

    max_characters: Count


class EncodingDamage(Rule):
    """Lost or garbled characters, at most."""

    max_damaged: Annotated[int, Field(ge=0)]


class ControlCharacters(Rule):
    """Control characters but tab and line breaks, at most."""

    max_controls: Annotated[int, Field(ge=0)]


class FewLetters(Rule):
    """Share of letters, and of what counts `also`, among the characters that are not white space, at least."""

    min_letters: Share
    also: Annotated[tuple[Literal["digits", "symbols"], ...], Field(strict=False)]


class Script(Rule):
    """Share of the letters that are of these scripts, at least."""

    scripts: Annotated[tuple[Name, ...], Field(strict=False, min_length=1)]
    min_share: Share


class Language(Rule):
    """The languages a text may be in, where it is long enough to tell."""

    languages: Annotated[tuple[Name, ...], Field(strict=False, min_length=1)]
    min_characters: Count


class Phone(Rule):
    """Phone numbers, also the national ones of a region."""

    region: Name


class PersonName(Rule):
    """Names of persons, as a spaCy pipeline tells them."""

    model: Name


class NearDuplicate(Rule):
    """Similarity (Jaccard) to an earlier text from which on a text counts as its copy."""

    similarity: Annotated[float, Field(ge=0.5, le=1)]


class Rules(Section):
    """The rules for rows; a rule's name is the reason that `quarantine.csv` and the metrics give."""

    repeated_header: Rule
    empty: Rule
    too_short: TooShort
    too_long: TooLong
    encoding_damage: EncodingDamage
    control_characters: ControlCharacters
    few_letters: FewLetters
    script: Script
    language: Language
    email: Rule
    phone: Phone
    card: Rule
    iban: Rule
    secret: Rule
    social_security: Rule
    record_number: Rule
    birth_date: Rule
    person_name: PersonName
    duplicate: Rule
    near_duplicate: NearDuplicate

    @model_validator(mode="after")
    def _leaves_something(self) -> "Rules":
        if self.too_short.min_characters > self.too_long.max_characters:
            raise ValueError("too_short.min_characters must not be above too_long.max_characters")
        return self


class Validate(Section):
    """Which rows of the corpus are clean, and how they are split."""

    column: Name
    template: Name
    category: Name
    max_refused: Share
    validation_share: Annotated[float, Field(gt=0, lt=1)]
    test_share: Annotated[float, Field(gt=0, lt=1)]
    rules: Rules

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
    checkpoint_seconds: Positive


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
    membership_rows: Count
    max_new_tokens: Count
    temperature: Positive
    top_p: Annotated[float, Field(gt=0, le=1)]
    top_k: Count
    seed: Seed


class Gates(Section):
    """What a candidate must keep to, however low its perplexity."""

    copied: Share
    extracted: Share
    membership: Positive
    repetition: Share
    loops: Share
    forgetting: Positive
    group_loss: Share
    size: Positive
    latency: Positive


class Promote(Section):
    """When a candidate takes the champion's place."""

    resamples: Annotated[int, Field(ge=100)]
    confidence: Annotated[float, Field(gt=0.5, lt=1)]
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


_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#@\s]+")  # as browsers send it: no path, no slash at the end


def _is_origin(value: str) -> bool:
    try:
        parts = urlsplit(value)
        parts.port  # noqa: B018 - raises where it is no number
    except ValueError:  # such as http://[
        return False
    return bool(_ORIGIN.fullmatch(value) and parts.hostname and _is_text(value))


class Service(Section):
    """Defaults and bounds of the HTTP service."""

    engine: Literal["auto", "int8", "ctranslate2", "transformers", "vllm"]
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
        for origin in self.allow_origins:
            if origin != "*" and not _is_origin(origin):
                problems.append(
                    f"allow_origins: {_clipped(origin)} is no origin, such as https://app.example.com, nor *"
                )
        for proxy in self.trusted_proxies:
            try:
                ipaddress.ip_network(proxy)
            except ValueError as error:
                problems.append(f"trusted_proxies: {error}; expected an address or a network, such as 10.0.0.0/8")
        if problems:
            raise ValueError("; ".join(problems))
        return self


class Params(Section):
    """All of `params.yaml`."""

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


def load(path: Path = paths.PARAMS, root: Path | None = None) -> Params:
    """Return the checked content of `path`; raises UserError with one line for each problem.

    Its paths start from `root`, the project's folder; without it, from the folder of `path`.
    """
    if path.exists() and not path.is_file():  # a read of a pipe would wait for ever
        raise UserError(f"{path} is no regular file; put the params.yaml that came with the project there")
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path} is not here; run the command from the repository's root") from None
    yaml = YAML(typ="safe")
    yaml.Constructor = _Constructor
    try:
        text = raw.decode("utf-8")
        _check_depth(path, text)
        content = yaml.load(text)
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        shown = raw.splitlines()[line - 1].decode("utf-8", "replace").strip()
        raise UserError(
            f"{path} is not readable as YAML: line {line} is not UTF-8: {_clipped(shown)}; save it as UTF-8"
        ) from None
    except YAMLError as error:
        raise UserError(f"{path} is not readable as YAML: {_yaml_problem(raw.decode('utf-8'), error)}") from None
    try:
        found = Params.model_validate(content)
    except ValidationError as error:
        problems = [_sentence(problem) for problem in error.errors()]
        raise UserError("\n".join(f"{path}: {problem}" for problem in problems)) from None
    root = path.parent if root is None else root
    if clashes := list(paths.conflicts(root, found.data.path, found.base, found.watch.inbox)):
        raise UserError("\n".join(f"{path}: {clash}" for clash in clashes))
    return found


_DEEPEST = 20  # levels; the settings have 4


def _check_depth(path: Path, text: str) -> None:
    """Raise UserError for YAML so deep that making its values ends in a crash of the interpreter."""
    depth = 0
    for event in YAML(typ="safe").parse(text):
        depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        if depth > _DEEPEST:
            line = event.start_mark.line + 1
            raise UserError(f"{path}, line {line}: is nested more than {_DEEPEST} levels deep; the settings have 4")


_LARGEST_NUMBER = 2**63 - 1  # that other programs and libraries hold in an integer


class _Constructor(SafeConstructor):
    """Makes Python's values of YAML's; what cannot be made is an error with its line, of whatever type it is."""

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        """Return the value of `node`; raises YAMLError where it has none, such as `2024-13-45` or `!!int x`."""
        try:
            value = super().construct_object(node, deep)
        except (ValueError, LookupError, ArithmeticError) as error:
            found, problem = _clipped(node.value), str(error)
            raise ConstructorError(problem=f"cannot read {found} ({problem})", problem_mark=node.start_mark) from None
        if type(value) is int and abs(value) > _LARGEST_NUMBER:
            problem = f"the number {_clipped(node.value)} is beyond {_LARGEST_NUMBER}"
            raise ConstructorError(problem=problem, problem_mark=node.start_mark)
        return value


def _yaml_problem(text: str, error: YAMLError) -> str:
    """Return what is wrong with the YAML `text`, with the lines as they stand: where it shows and where it began."""
    if isinstance(error, ReaderError):
        before = text.encode()[: error.position]  # counted in bytes by libyaml
        return f"line {before.count(10) + 1} holds the control character {chr(error.character)!r}; delete it"
    if not isinstance(error, MarkedYAMLError) or error.problem_mark is None:
        return " ".join(str(error).split())
    lines = text.splitlines()
    marks = [mark for mark in (error.problem_mark, error.context_mark) if mark is not None and mark.line < len(lines)]
    quoted = [
        f"line {number}: {_clipped(lines[number - 1])}" for number in dict.fromkeys(mark.line + 1 for mark in marks)
    ]
    problem = " ".join(str(error.problem).split())
    return f"{problem} {error.context or ''}".strip() + (f" ({', from '.join(quoted)})" if quoted else "")


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
    return f"{key}: found {_clipped(problem['input'])}, but {allowed}"


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
    arg_parser().parse_args()
    load()


if __name__ == "__main__":
    run(main)
