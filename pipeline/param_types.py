"""Types of the values in params.yaml, each with the check and the sentence that a wrong value gets."""

import os
import re
import reprlib
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
)

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Name = Annotated[str, Field(min_length=1)]


_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = 120


def clipped(value: object) -> str:
    """Return the repr of `value`, shortened."""
    return _REPR.repr(value)


def _count_or(word: str) -> Callable[[object], object]:
    def check(value: object) -> object:
        if value == word or (type(value) is int and value >= 1):
            return value
        raise ValueError(f"found {clipped(value)}, but it should be {word} or a whole number from 1 on")

    return check


_MAX_NAME_BYTES = 200  # file systems allow 255; temporary files next to it have longer names


def _checked_path(path: str) -> str:
    """Return the normalized path, so that one file has one name; URLs stay as they are."""
    if not is_text(path):
        raise ValueError(f"found {clipped(path)}, with a control character or half a character; no path holds these")
    if any(len(part.encode()) > _MAX_NAME_BYTES for part in Path(path).parts):
        raise ValueError(f"found a name longer than {_MAX_NAME_BYTES} bytes: {path[:40]!r}...; use a shorter one")
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        raise ValueError(
            f"found {clipped(path)}, which cannot be written in this machine's encoding of file names "
            f"({sys.getfilesystemencoding()}); set PYTHONUTF8=1, or rename it"
        ) from None
    return path if "://" in path else os.path.normpath(path)


def is_text(value: str) -> bool:
    """Return whether a value holds neither control characters nor lone surrogates."""
    return not any(unicodedata.category(character) in ("Cc", "Cs") for character in value)


PathName = Annotated[Name, AfterValidator(_checked_path)]


# What `git check-ref-format` refuses in a branch name, plus HEAD and a leading dash.
_NO_REF = re.compile(r"(^|/)\.|\.lock(/|$)|\.\.|[\x00-\x20~^:?*\[\\\x7f]|^/|/$|//|\.$|@\{|^@$|^-|^HEAD$")


def _checked_branch(branch: str) -> str:
    if _NO_REF.search(branch) or not is_text(branch) or len(branch.encode()) > _MAX_NAME_BYTES:
        raise ValueError(
            f"found {clipped(branch)}, which git takes for no branch; expected a name such as retrain or nightly/main"
        )
    return branch


BranchName = Annotated[Name, AfterValidator(_checked_branch)]


CountOrAuto = Annotated[int | Literal["auto"], PlainValidator(_count_or("auto"))]
CountOrAll = Annotated[int | Literal["all"], PlainValidator(_count_or("all"))]
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#@\s]+")  # as browsers send it: no path, no slash at the end


def is_origin(value: str) -> bool:
    """Return whether a value is a web origin as browsers send it: scheme, host and port, no path."""
    try:
        parts = urlsplit(value)
        parts.port  # noqa: B018 - raises where it is no number
    except ValueError:  # such as http://[
        return False
    return bool(_ORIGIN.fullmatch(value) and parts.hostname and is_text(value))


class Section(BaseModel):
    """A part of `params.yaml`: nothing unknown, nothing converted, nothing changed later."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)
