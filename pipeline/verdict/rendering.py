"""A verdict as one line, Markdown, terminal text and JSON."""

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from pipeline.registry.model_version import short
from pipeline.reporting.text_table import bullets, table
from pipeline.verdict.records import GateResult, Verdict


def summary(verdict: Verdict) -> str:
    """Return the verdict in one line, for the history and the end of the command."""
    reasons = " ".join(verdict.reasons)
    warnings = "".join(f" Warning: {warning}" for warning in verdict.warnings)
    if verdict.forced is not None:
        return f"Promoted by force: {verdict.forced} (What spoke against it: {reasons}){warnings}"
    return f"{_outcome(verdict)}: {reasons}{warnings}"


def _outcome(verdict: Verdict) -> str:
    if verdict.forced is not None:
        return "Promoted by force"
    return "Promoted" if verdict.promoted else "Not promoted"


def _title(verdict: Verdict) -> str:
    champion = verdict.champion
    against = f"the champion {short(champion['version'])}" if champion else "the base, as there is no champion"
    return f"{_outcome(verdict)}: candidate {short(verdict.candidate['version'])} against {against}"


def markdown(verdict: Verdict) -> str:
    """Return the verdict as Markdown."""
    parts = [f"# {_title(verdict)}"]
    if verdict.forced is not None:
        parts.append(f"Forced, for this reason: {_one_line(verdict.forced)}")
    parts.append(_markdown_list(_statements(verdict)))
    if verdict.warnings:
        parts += ["## Warnings", _markdown_list(verdict.warnings)]
    if verdict.gates:
        rows = [
            f"| {gate.name} | {_status(gate, '**broken**', '**warning**')} | {_figure(gate.value)}"
            f" | {_figure(gate.low)} | {_figure(gate.bound)} | {_one_line(gate.sentence)} |"
            for gate in verdict.gates
        ]
        head = "| gate | | figure | at least | bound | |\n|---|---|---|---|---|---|"
        parts += ["## Bounds", "\n".join([head, *rows])]
    parts += ["## What would have changed it", _markdown_list(verdict.counterfactuals)]
    return "\n\n".join(parts) + "\n"


def text(verdict: Verdict) -> str:
    """Return the verdict as text for a terminal."""
    parts = [_title(verdict)]
    if verdict.forced is not None:
        parts.append(bullets([f"Forced, for this reason: {verdict.forced}"]))
    parts.append(bullets(_statements(verdict)))
    if verdict.warnings:
        parts.append("Warnings:\n" + bullets(verdict.warnings))
    if verdict.gates:
        rows = [
            [gate.name, _status(gate, "BROKEN", "WARNING"), *map(_figure, (gate.value, gate.low, gate.bound))]
            for gate in verdict.gates
        ]
        parts.append(table([["gate", "", "figure", "at least", "bound"], *rows]))
    parts.append("What would have changed it:\n" + bullets(verdict.counterfactuals))
    return "\n\n".join(parts) + "\n"


def _statements(verdict: Verdict) -> list[str]:
    return list(dict.fromkeys([verdict.comparison, *verdict.reasons]))


def _status(gate: GateResult, broken: str, warning: str) -> str:
    if not gate.passed:
        return broken
    return warning if gate.is_warning else "kept"


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _markdown_list(sentences: list[str]) -> str:
    return "\n".join(f"- {_one_line(sentence)}" for sentence in sentences)


def _one_line(text: str) -> str:
    """Return `text` as one line that cannot end a cell of a Markdown table."""
    return " ".join(text.split()).replace("|", "\\|")


def as_json(verdict: Verdict) -> dict[str, Any]:
    """Return the verdict as in reports/promote/verdict.json; a figure that is not finite is null."""
    content: dict[str, Any] = _plain(asdict(verdict))
    content["gates"] = [_renamed(gate) for gate in content["gates"]]
    return _renamed(content)


def _renamed(content: Mapping[str, Any]) -> dict[str, Any]:
    return {"warning" if key == "is_warning" else key: value for key, value in content.items()}


def _plain(value: Any) -> Any:
    """Return `value` as types that JSON has."""
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
