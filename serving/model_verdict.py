"""What the verdict said of a model that may be served: promoted, forced, refused, or not judged."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ValidationError

from pipeline import paths, storage
from pipeline.registry.model_version import is_same_version
from pipeline.registry.store import Registry
from pipeline.registry.versions import Version

Outcome = Literal["promoted", "forced", "refused", "not judged"]


@dataclass(frozen=True)
class ModelVerdict:
    """A verdict, as far as the service reports it."""

    outcome: Outcome
    reasons: tuple[str, ...] = ()  # whole sentences; of a forced one, why it was forced and what spoke against it
    at: str | None = None  # UTC, ISO 8601

    @property
    def lets_serve(self) -> bool:
        """Whether a candidate with this verdict may be served without being asked for."""
        return self.outcome in ("promoted", "forced")


NOT_JUDGED = ModelVerdict("not judged")


class _Candidate(BaseModel):
    version: str


class _VerdictFile(BaseModel):
    """What is read of reports/promote/verdict.json."""

    promoted: bool
    forced: str | None
    reasons: list[str]
    candidate: _Candidate
    difference: dict[str, Any] | None  # null where nothing was compared
    at: str


class _Recorded(BaseModel):
    """What `promote` writes into the metadata of a version."""

    summary: str
    forced: str | None
    at: str


def of_champion(registry: Registry, champion: Version) -> ModelVerdict:
    """Return how a version became champion, by the history; a rollback to it does not change that."""
    for entry in reversed(registry.history()):
        if entry.action in ("promote", "force") and entry.to and is_same_version(entry.to, champion.tag):
            return _from_summary(entry.why, entry.at, is_forced=entry.action == "force")
    return _from_metadata(champion.metadata)


def of_candidate(root: Path, version: Callable[[], str]) -> ModelVerdict:
    """Return what reports/promote/verdict.json of `root` says of a model.

    Args:
        root: The project, or the sources of a bento.
        version: Returns the model's version; called only where there is a verdict, because it reads the whole model.
    """
    try:
        content = _VerdictFile.model_validate(storage.read_json(root / paths.VERDICT))
    except (OSError, ValueError):  # none yet, or none that can be read
        return NOT_JUDGED
    if content.difference is None or content.candidate.version != version():
        return NOT_JUDGED
    if content.forced is not None:
        return ModelVerdict("forced", (content.forced, *content.reasons), content.at)
    return ModelVerdict("promoted" if content.promoted else "refused", tuple(content.reasons), content.at)


def of_packed(root: Path, metadata: Mapping[str, Any], version: Callable[[], str]) -> ModelVerdict:
    """Return the verdict that a bento holds: of its candidate, or in the metadata of a packed version."""
    verdict = of_candidate(root, version)
    return _from_metadata(metadata) if verdict == NOT_JUDGED else verdict


def _from_metadata(metadata: Mapping[str, Any]) -> ModelVerdict:
    try:
        recorded = _Recorded.model_validate(metadata.get("verdict"))
    except ValidationError:
        return NOT_JUDGED
    return _from_summary(recorded.summary, recorded.at, is_forced=recorded.forced is not None)


def _from_summary(summary: str, at: str, *, is_forced: bool) -> ModelVerdict:
    """Return the verdict whose one line is `summary`, see `pipeline.verdict.rendering.summary`."""
    reason = summary.removeprefix("Promoted by force: ").removeprefix("Promoted: ")
    return ModelVerdict("forced" if is_forced else "promoted", (reason,), at)
