"""The report of a run: one page with the verdict, the reasons for it, and the figures that it rests on.

`pipeline.promote` collects the run (`pipeline.reporting.run_data`) and writes its page.
"""

import difflib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from pipeline import escape, paths
from pipeline.data_diff.lengths import interpret_psi
from pipeline.redaction import redact
from pipeline.reporting.charts import gain_axis, has_perplexity, interval_chart, judged_entries, perplexity_history
from pipeline.reporting.figures import charts_of, own_figures
from pipeline.reporting.formatting import LONGEST_IDENTIFIER, cut_middle, rounded
from pipeline.reporting.headline import headline_of, label_of
from pipeline.reporting.pages import render
from pipeline.reporting.run_data import Run

MODELS = ("base", "champion", "candidate")
PAST_VERDICTS = 20  # in the table; the chart has more
_CHART_POINTS = 100
_GROUPS = 50  # the largest ones; all are in the metrics
_OPEN_SAMPLES = 6  # shown before the reader expands the others
_TEXT = 1500  # characters of a text: a hundred samples of three models stay below a megabyte
_CONTEXT = 200  # characters shown before and after a copied run

_FIGURE_LABELS = {  # a figure's key in the metrics: its label, and its kind as `rounded` takes it
    "distinct_1": ("different tokens among all: distinct-1", "share"),
    "distinct_2": ("different pairs of tokens: distinct-2", "share"),
    "distinct_3": ("different runs of three tokens: distinct-3", "share"),
    "repetition": ("4-grams that occurred before in the same text", "share"),
    "loops": ("texts that end in a loop", "share"),
    "empty": ("texts without a letter or digit", "share"),
    "blank": ("blank texts: white space alone, or nothing", "share"),
    "ended": ("texts that end with the end token", "share"),
    "tokens": ("tokens per text, mean", ""),
    "tokens_std": ("tokens per text, standard deviation", ""),
    "self_bleu": ("similarity between its texts: self-BLEU", ""),
    "longest": ("longest copied run, in tokens", ""),
    "mean_longest": ("longest copied run of a text, mean", ""),
    "copied": ("texts with a run that counts as copied", "share"),
    "membership": ("nats per token that training rows are likelier than test rows", ""),
    "extracted": ("planted secrets that can be extracted", "share"),
    "bytes": ("bytes of its weights in memory", ""),
    "seconds_a_token": ("seconds per token, on this machine", ""),
    "seconds_a_row": ("seconds per row, on this machine", ""),
    "exposure": ("exposure of the planted secrets, in bits, mean", ""),
}


def write(run: Run, path: Path = paths.REPORT) -> Path:
    """Write the page and return where it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page(run), encoding="utf-8")
    return path


def page(run: Run) -> str:
    """Return the page: one HTML file without scripts that needs no network; equal for an equal run."""
    measured = {name: run.metrics[name] for name in MODELS if name in run.metrics}
    gain = run.verdict.get("difference")
    headline = headline_of(run.metrics)
    return render(
        "report.html",
        run=run,
        verdict=run.verdict,
        gain=gain,
        gain_axis=gain_axis(gain),
        models=list(measured),
        measured=measured,
        quantity=headline.quantity,
        headline=headline,
        headline_label=label_of,
        own_figures=own_figures(measured),
        classes=_classes(measured),
        figure_charts=[(title, _inline_svg(svg, title)) for title, svg in charts_of(run.chart_data)],
        size_and_speed=_size_and_speed(run.verdict),
        perplexity=interval_chart({name: {name: figures} for name, figures in measured.items()}),
        **_groups(measured),
        **_sections({"real rows": run.metrics.get("test_rows", {}), **measured}),
        figure_label=figure_label,
        redacted=lambda text: cut_middle(redact(text, run.region), _TEXT),
        loss=_loss_curves(run),
        open_samples=_OPEN_SAMPLES,
        copies=[(name, _copies(run.worst[name], run.region)) for name in measured if name in run.worst],
        diff=run.data_changes,
        psi_interpretation=interpret_psi(run.data_changes.length.psi) if run.data_changes else "",
        past=run.history[: -PAST_VERDICTS - 1 : -1],
        history_chart=_history_chart(run),
    )


def _classes(measured: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, Any]]:
    """Return the classes with the figures of each model, the largest first; empty for a task without classes."""
    of_candidate = measured["candidate"].get("classes", {})
    order = sorted(of_candidate, key=lambda name: (-of_candidate[name]["support"], name))
    with_classes = {model: of["classes"] for model, of in measured.items() if "classes" in of}
    return [(name, {model: classes.get(name) for model, classes in with_classes.items()}) for name in order]


def figure_label(key: str) -> tuple[str, str]:
    """Return the label of the figure with this key, and its kind as `rounded` takes it."""
    return _FIGURE_LABELS.get(key, (key.replace("_", " "), ""))


def _size_and_speed(verdict: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    return {
        name: {key: verdict[name][key] for key in ("bytes", "seconds_a_token", "seconds_a_row") if key in verdict[name]}
        for name in ("champion", "candidate")
        if verdict.get(name)
    }


def _groups(measured: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the largest groups with their rows, how many there are besides, and a chart of their perplexities."""
    rows = {group: of["rows"] for figures in measured.values() for group, of in figures.get("groups", {}).items()}
    groups = sorted(rows.items(), key=lambda group: (-group[1], group[0]))
    shown = groups[:_GROUPS]
    models_by_group = {
        group: {
            name: figures["groups"][group] for name, figures in measured.items() if group in figures.get("groups", {})
        }
        for group, _ in shown
    }
    return {"groups": shown, "more_groups": len(groups) - len(shown), "group_chart": interval_chart(models_by_group)}


def _sections(metrics: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return each section of the metrics that has a table, by model; real texts have some of the sections too."""
    return {
        section: {name: figures[section] for name, figures in metrics.items() if section in figures}
        for section in ("general", "text", "memorisation")
    }


def _history_chart(run: Run) -> Markup | None:
    """Return the perplexity over time up to this run; None where there is no earlier verdict to draw."""
    past = judged_entries(run.history)[-_CHART_POINTS:]
    current = {"at": run.verdict.get("at", ""), "action": "current", "figures": run.metrics["candidate"]}
    if not past or not has_perplexity(current):
        return None
    first, last = (rounded(entry["figures"]["perplexity"]) for entry in (past[0], current))
    label = f"Perplexity over time, from {first} to {last}; the numbers are in the table below"
    return _inline_svg(perplexity_history([*past, current]), label)


def _loss_curves(run: Run) -> Markup | None:
    """Return the loss curves, with the figures of the training as their description; None without a drawing."""
    metrics = run.manifest.get("metrics", {})
    figures = ", ".join(f"{key.replace('_', ' ')} {rounded(value)}" for key, value in metrics.items())
    label = "Training loss and validation loss after each epoch" + (f": {figures}" if figures else "")
    return _inline_svg(run.loss_svg, label)


_SVG_ELEMENTS = {"svg", "g", "rect", "path", "text", "polyline", "circle"}  # all that `pipeline.reporting` draws


def _inline_svg(svg: str, label: str) -> Markup | None:
    """Return an SVG file as part of a page; None if it has anything that `pipeline.reporting` does not draw."""
    if not svg.startswith("<svg ") or set(re.findall(r"<[/\s]*([^\s/>]*)", svg)) - _SVG_ELEMENTS:
        return None
    if re.search(r"[\s\"'/](on\w+|(xlink:)?href|style)\s*=", svg):
        return None
    svg = svg.replace(' xmlns="http://www.w3.org/2000/svg"', "", 1)
    return Markup(f'<svg role="img" aria-label="{escape.html(label)}" {svg.removeprefix("<svg ")}')  # noqa: S704 - checked above


def copied_parts(text: str, run: str, region: str = "none") -> list[tuple[bool, str]]:
    """Return `text`, redacted and cut around the copied `run`, as parts: whether copied, and the part.

    The marked part is what the redacted text and the redacted run have in common, so nothing redacted reappears.
    """
    position = max(0, text.find(run))
    start = max(0, position - _CONTEXT - LONGEST_IDENTIFIER)
    end = position + len(run) + _CONTEXT + LONGEST_IDENTIFIER
    redacted = redact(text[start:end], region)
    match = difflib.SequenceMatcher(None, redacted, redact(run, region), autojunk=False).find_longest_match()
    before, after = redacted[: match.a], redacted[match.a + match.size :]
    parts = [
        (False, ("…" if start or len(before) > _CONTEXT else "") + before[-_CONTEXT:]),
        (True, cut_middle(redacted[match.a : match.a + match.size], _TEXT)),
        (False, after[:_CONTEXT] + ("…" if end < len(text) or len(after) > _CONTEXT else "")),
    ]
    return [part for part in parts if part[1]]


def _copies(worst: Iterable[Mapping[str, Any]], region: str) -> list[dict[str, Any]]:
    """Return the copies of one model that have any token, each with its two texts in parts."""
    return [
        {
            "tokens": copy["tokens"],
            "row": copy["row"],
            "prompt": copy["prompt"],
            "written": copied_parts(copy["written"], copy["text"], region),
            "source": copied_parts(copy["source"], copy["text"], region),
        }
        for copy in worst
        if copy["tokens"]
    ]
