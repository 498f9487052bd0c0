"""What candidate and champion wrote after the same prompts, as Markdown for the person who approves a promotion."""

import json
from dataclasses import dataclass

from pipeline import escape, params, paths
from pipeline.redaction import redact

NONE = "There are no samples: `dvc repro` writes them.\n"


@dataclass(frozen=True)
class SamplePair:
    """A prompt with what both models wrote after it; `against` says which model the candidate is held against."""

    prompt: str
    against: str  # "champion", or "base" where there is no champion
    theirs: str
    candidate: str


def pairs() -> list[SamplePair]:
    """Return the pairs of the last evaluation; none where it left none."""
    try:
        found: list[dict[str, str]] = json.loads(paths.SAMPLES.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return []
    against = "champion" if any("champion" in one for one in found) else "base"
    return [SamplePair(one["prompt"], against, one.get(against, ""), one["candidate"]) for one in found]


def markdown(pairs: list[SamplePair], most: int | None = None) -> str:
    """Return a table, candidate first; texts longer than `most` characters are cut, all others are whole."""
    if not pairs:
        return NONE
    region = params.load().validate_.rules.phone.region
    head = f"| prompt | candidate | {pairs[0].against} |\n|---|---|---|\n"
    rows = [
        f"| {' | '.join(_cell(redact(text, region), most) for text in (pair.prompt, pair.candidate, pair.theirs))} |"
        for pair in pairs
    ]
    return head + "\n".join(rows) + "\n"


def _cell(text: str, most: int | None) -> str:
    """Return a text with its lines as lines, which shows what is in it literally."""
    cut = text if most is None or len(text) <= most else f"{text[:most]} \N{HORIZONTAL ELLIPSIS}"
    return "<br/>".join(escape.markdown(line) for line in cut.splitlines())
