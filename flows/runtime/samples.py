"""What candidate and champion wrote after the same prompts, as Markdown for the person who approves a promotion."""

import json
from dataclasses import dataclass

from pipeline import escape, params, paths
from pipeline.redaction import redact

NO_SAMPLES = "There are no samples; `dvc repro` writes them.\n"


@dataclass(frozen=True)
class SamplePair:
    """A prompt and what two models wrote after it.

    Args:
        prompt: The prompt.
        reference: "champion", or "base" if there is no champion.
        reference_text: What that model wrote.
        candidate_text: What the candidate wrote.
    """

    prompt: str
    reference: str
    reference_text: str
    candidate_text: str


def pairs() -> list[SamplePair]:
    """Return the pairs of the last evaluation; an empty list if it wrote none."""
    try:
        samples: list[dict[str, str]] = json.loads(paths.SAMPLES.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return []
    reference = "champion" if any("champion" in sample for sample in samples) else "base"
    return [
        SamplePair(sample["prompt"], reference, sample.get(reference, ""), sample["candidate"]) for sample in samples
    ]


def markdown(pairs: list[SamplePair], max_characters: int | None = None) -> str:
    """Return a table, candidate first; texts longer than `max_characters` are cut."""
    if not pairs:
        return NO_SAMPLES
    region = params.load().validate_.rules.phone.region
    head = f"| prompt | candidate | {pairs[0].reference} |\n|---|---|---|\n"
    rows = []
    for pair in pairs:
        texts = (pair.prompt, pair.candidate_text, pair.reference_text)
        rows.append(f"| {' | '.join(_cell(redact(text, region), max_characters) for text in texts)} |")
    return head + "\n".join(rows) + "\n"


def _cell(text: str, max_characters: int | None) -> str:
    """Return a text as a table cell that shows it literally, line by line."""
    if not text.strip():
        return "(blank)"
    is_short = max_characters is None or len(text) <= max_characters
    cut = text if is_short else f"{text[:max_characters]} \N{HORIZONTAL ELLIPSIS}"
    return "<br/>".join(escape.markdown(line) for line in cut.splitlines())
