"""What a run shows in Prefect's UI when it ends: the verdict, pictures, samples and tables.

Each function writes one artifact of the current run, under a constant key, so that the UI lists its versions by run.
Text of the corpus is redacted as on the pipeline's pages and escaped for Markdown. Pictures are embedded in the
Markdown, for the UI loads no files of this machine.
"""

import base64
import json
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from ruamel.yaml import YAML

from pipeline import escape, params, paths
from pipeline.command import UserError
from pipeline.promote import Decision
from pipeline.redaction import redact
from pipeline.registry.history import MOVES, Entry
from pipeline.registry.model_version import content_version, short
from pipeline.registry.store import Registry
from pipeline.reporting.charts import judged_entries, perplexity_history
from pipeline.reporting.formatting import rounded
from pipeline.reporting.headline import headline_of, label_of
from pipeline.verdict import rendering
from pipeline.verdict.records import Verdict

MAX_VERSIONS = 20  # in the table
_MAX_SAMPLES = 12  # prompts; the report has all
_MAX_JUDGED = 100  # candidates in the chart
_MAX_TEXT = 500  # characters of a sample
_LINE = 36  # characters: the columns of base, champion and candidate fit side by side
_DVC_LOCK = Path("dvc.lock")
_SERVICE_SECONDS = 2.0  # for the service to answer
_DASH = "\N{EN DASH}"


def write_all(
    decision: Decision | None, log: Callable[[str], None], *, registry: Registry, service: str | None = None
) -> None:
    """Write every artifact for which there are files.

    Args:
        decision: The verdict; None writes no artifact for it.
        log: Called with a sentence for each artifact that could not be written.
        registry: The registry.
        service: The address at which the service may run.
    """
    writers: dict[str, Callable[[], None]] = {
        "training": training,
        "samples": samples,
        "intake": intake,
        "lineage": lineage,
        "versions": lambda: versions(registry),
        "perplexity over time": lambda: perplexity_over_time(registry.history()),
        "links": lambda: links(service),
    }
    if decision is not None:
        writers = {"verdict": lambda: verdict(decision), **writers}
    for name, write in writers.items():
        try:
            write()
        except (UserError, httpx.HTTPError) as error:  # a run must not fail for an artifact
            log(f"the artifact {name!r} was not written: {type(error).__name__} {error}".rstrip())


def verdict(decision: Decision) -> None:
    """Write the verdict with the figures of base, champion and candidate."""
    judged = decision.verdict
    metrics = _read(paths.EVALUATE_METRICS) if paths.EVALUATE_METRICS.is_file() else {}
    base = metrics.get("base")
    headline = headline_of(metrics)
    rows = [
        f"| {name} | {short(figures.get('version', _DASH))} | {rounded(figures.get('perplexity'))}"
        f" | {rounded(figures.get('perplexity_low'))} to {rounded(figures.get('perplexity_high'))}"
        f" | {' | '.join(map(rounded, headline.values(figures).values()))} |"
        for name, figures in (("base", base), ("champion", judged.champion), ("candidate", judged.candidate))
        if figures
    ]
    names = " | ".join(map(label_of, headline.figures))
    head = [
        f"| model | version | {headline.quantity} | its interval | {names} |",
        f"|{'---|' * (4 + len(headline.figures))}",
    ]
    table = "\n".join([*head, *rows])
    title, rest = safe_verdict(judged).split("\n", 1)
    gain = judged.difference
    interval = (
        f"**Gain: {rounded(gain['gain'], 'change')}** ({rounded(gain['low'], 'change')} to"
        f" {rounded(gain['high'], 'change')} at {rounded(gain['confidence'], 'share')} confidence)\n\n"
        if gain
        else ""
    )
    description = rendering.summary(judged).split(":", 1)[0]
    create_markdown_artifact(f"{title}\n\n{interval}{table}\n{rest}", "verdict", description)


def safe_verdict(judged: Verdict) -> str:
    """Return the verdict as Markdown without personal data, HTML and links; group names come from the corpus."""
    text = redact(rendering.markdown(judged), _region())
    # Backslashes before the bracket go, or they would escape our own backslash.
    return re.sub(r"\\*\[", r"\\[", escape.visible(text).replace("<", "&lt;"))


def training() -> None:
    """Write the loss curves of the last training, with its figures."""
    figures = _read(paths.FINETUNE_METRICS)
    rows = "\n".join(f"| {plain(key.replace('_', ' '))} | {plain(rounded(value))} |" for key, value in figures.items())
    svg = paths.LOSS_CURVE.read_text(encoding="utf-8") if paths.LOSS_CURVE.is_file() else ""
    picture = _picture(svg, "Training and validation loss") if svg.startswith("<svg ") else "There is no picture."
    create_markdown_artifact(f"{picture}\n\n| | |\n|---|---|\n{rows}\n", "training", "Loss during training")


def perplexity_over_time(history: Sequence[Entry]) -> None:
    """Write a chart of the perplexity of the candidates that were judged."""
    judged = judged_entries([entry.as_json() for entry in history])[-_MAX_JUDGED:]
    markdown = "No candidate was judged yet."
    if judged:
        markdown = _picture(perplexity_history(judged), "Perplexity of each candidate that was judged")
    create_markdown_artifact(f"{markdown}\n", "perplexity", "Perplexity over time: filled promoted, hollow refused")


def samples() -> None:
    """Write what each model wrote after the same prompts, side by side."""
    records: list[dict[str, str]] = _read(paths.SAMPLES)
    region = _region()
    known = ("prompt", "expected", "base", "champion", "candidate")
    columns = [name for name in known if any(name in record for record in records)]
    lines = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    for record in records[:_MAX_SAMPLES]:
        lines.append(f"| {' | '.join(_wrapped(plain(record.get(name, ''), region)) for name in columns)} |")
    more = f"\n\nThe first {_MAX_SAMPLES} of {len(records)}.\n" if len(records) > _MAX_SAMPLES else "\n"
    create_markdown_artifact("\n".join(lines) + more, "samples", "Samples of the same prompts, side by side")


def plain(text: str, region: str = "none", max_characters: int = _MAX_TEXT) -> str:
    """Return `text`, redacted and cut, as the cell of a Markdown table that shows it literally."""
    line = " ".join(redact(text, region).split())
    return escape.markdown(line if len(line) <= max_characters else f"{line[:max_characters]} \N{HORIZONTAL ELLIPSIS}")


def _wrapped(cell: str) -> str:
    """Return a cell in short lines: the UI does not wrap cells."""
    return " <br/>".join(textwrap.wrap(cell, _LINE, break_long_words=False, break_on_hyphens=False))


def intake() -> None:
    """Write what happened to the corpus's rows, as a table."""
    metrics = _read(paths.VALIDATE_METRICS)
    rows: list[dict[str, Any]] = []
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            rows += [{"what": f"{name.replace('_', ' ')}: {part}", "found": count} for part, count in value.items()]
        else:
            rows.append({"what": name.replace("_", " "), "found": value})
    description = (
        f"{metrics['rows_clean']:,} of {metrics['rows_in']:,} rows are clean; for the reasons why others are not, see "
        f"{paths.VALIDATE_REPORT}"
    )
    _write_table(rows, "intake", description)


def versions(registry: Registry) -> None:
    """Write the last versions, the latest first, with what the history says of each."""
    champion, damage = None, ""
    try:
        champion = registry.champion()
    except UserError as error:
        damage = f"The champion is damaged: {error}. "
    entries = {str(entry.to): entry for entry in registry.history() if entry.action in MOVES}
    rows = []
    for version in registry.versions()[: -MAX_VERSIONS - 1 : -1]:
        entry = entries.get(version.tag)
        figures = entry.figures if entry else {}
        is_champion = champion is not None and champion.tag == version.tag
        rows.append(
            {
                "version": short(version.version),
                "state": "champion" if is_champion else registry.check(version.tag) or "whole",
                "added": version.created,
                "last made champion": entry.at if entry else _DASH,
                "by": entry.who if entry else _DASH,
                "perplexity": rounded(figures.get("perplexity")),
                "gain": rounded(figures.get("gain"), "change"),
                "data": version.labels.get("data", "")[:12] or _DASH,
                "why": redact(entry.why, _region())[:_MAX_TEXT] if entry else _DASH,
            }
        )
    current = f"Champion: {short(champion.version)}" if champion else "No champion"
    description = f"{damage}{current}; the last {len(rows)} versions, the latest first"
    _write_table(rows or [{"version": "none yet"}], "versions", description)


def lineage() -> None:
    """Write the hashes that lead from the corpus to the candidate, as a table."""
    manifest = _read(paths.MANIFEST)
    hashes = dict(_locked_hashes())

    def md5(path: str | Path) -> str:
        return f"md5 {hashes[str(path)]}" if str(path) in hashes else _DASH

    corpus, base = manifest.get("corpus", ""), manifest.get("base", "")
    version, data = short(content_version(paths.CANDIDATE)), manifest.get("data", _DASH)
    steps = [
        ("corpus", corpus, md5(corpus), "the rows as they came"),
        ("clean rows", paths.CLEAN, md5(paths.CLEAN), "validate, from the corpus"),
        ("dataset", paths.TOKENS, md5(paths.TOKENS), "tokenize, from the clean rows"),
        ("base", base, md5(paths.BASE), "the model that training starts from"),
        ("model", paths.CANDIDATE, md5(paths.CANDIDATE), "finetune, from the dataset and the base"),
        ("version", version, data, "the model, by its files"),
        ("code", "git", manifest.get("git_revision") or _DASH, "the stages"),
    ]
    rows = [{"what": what, "where": str(where), "hash": hash_, "comes from": of} for what, where, hash_, of in steps]
    _write_table(rows, "lineage", "From the corpus to the version: dvc.lock and the model's manifest")


def _locked_hashes() -> Iterator[tuple[str, str]]:
    """Yield path and MD5 of each file and folder in dvc.lock."""
    if not _DVC_LOCK.is_file():
        return
    for stage in YAML(typ="safe").load(_DVC_LOCK.read_text(encoding="utf-8")).get("stages", {}).values():
        for kind in ("deps", "outs"):
            for file in stage.get(kind, ()):
                yield file["path"], file["md5"]


def _write_table(rows: Sequence[Mapping[str, Any]], key: str, description: str) -> None:
    """Write a table; the UI shows its cells literally and renders the description as Markdown."""
    cells = [
        {
            escape.terminal(name): escape.terminal(value) if isinstance(value, str) else value
            for name, value in row.items()
        }
        for row in rows
    ]
    create_table_artifact(cells, key, escape.markdown(description))


def links(service: str | None = None) -> None:
    """Write where the report is and, if the service answers at `service` (http://...), its addresses."""
    create_markdown_artifact(link_lines(service) + "\n", "links", "The report and the service")


def link_lines(service: str | None = None) -> str:
    """Return the links as a Markdown list."""
    lines = ["- There is no report yet; the first verdict writes it."]
    if paths.REPORT.is_file():
        lines = [f"- The report, to open on the machine of the run: {escape.markdown(str(paths.REPORT.resolve()))}"]
    for path, name in (("/", "the service"), ("/playground", "the playground"), ("/docs", "the service's API")):
        if service and _answers(f"{service}{path}"):
            lines.append(f"- [{name}]({service}{path})")
    if len(lines) == 1:
        lines.append("- The service did not answer; `fresh up` starts it.")
    return "\n".join(lines)


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=_SERVICE_SECONDS).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is not here; `dvc repro` writes it") from None
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}; write it again with `dvc repro`") from None


def _region() -> str:
    region: str = params.load().validate_.rules.phone.region
    return region


def _picture(svg: str, description: str) -> str:
    """Return an SVG as an image in Markdown; browsers run no scripts in images."""
    return f"![{description}](data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()})"
