"""What a run shows in Prefect's UI: its verdict, pictures, samples, tables, and how far the training is.

Each function writes one artifact of the current run, under a key that stays, so that the UI lists it run after run.
What stems from the corpus is redacted as on the pages of the pipeline, and no character of it means anything to
Markdown. Pictures are part of the Markdown: the UI fetches no file of this machine.
"""

import base64
import contextvars
import json
import re
import textwrap
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate
from prefect.utilities.context import get_task_and_flow_run_ids
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
from pipeline.verdict import rendering
from pipeline.verdict.records import Verdict

VERSIONS = 20  # in the table
_CHART_POINTS = 100
_SAMPLES = 12  # prompts shown; all are on the report's page
_TEXT = 500  # characters of a sample
_COLUMN = 36  # characters of a line of it: base, champion and candidate fit beside each other
_LOCK = Path("dvc.lock")
_SERVICE_SECONDS = 2.0  # for the service to answer
_DASH = "\N{EN DASH}"


def write_all(
    decision: Decision | None,
    log: Callable[[str], None],
    *,
    registry: Registry | None = None,
    service: str | None = None,
) -> None:
    """Write every artifact for which there are files; `log` gets a sentence for one that could not be written.

    Without a decision the one of the verdict is left out. `service` is the address at which the service may run.
    """
    registry = registry or Registry()
    wanted: dict[str, Callable[[], None]] = {
        "training": training,
        "samples": samples,
        "intake": intake,
        "lineage": lineage,
        "versions": lambda: versions(registry),
        "perplexity over time": lambda: perplexity_over_time(registry.history()),
        "links": lambda: links(service),
    }
    if decision is not None:
        wanted = {"verdict": lambda: verdict(decision), **wanted}
    for name, write in wanted.items():
        try:
            write()
        except (UserError, httpx.HTTPError) as error:  # a picture is no reason for a run to fail
            log(f"no artifact shows the {name}: {type(error).__name__} {error}".rstrip())


def verdict(decision: Decision) -> None:
    """Write the verdict, below the figures of base, champion and candidate."""
    judged = decision.verdict
    base = _read(paths.EVALUATE_METRICS).get("base") if paths.EVALUATE_METRICS.is_file() else None
    rows = [
        f"| {name} | {short(of.get('version', _DASH))} | {rounded(of.get('perplexity'))}"
        f" | {rounded(of.get('perplexity_low'))} to {rounded(of.get('perplexity_high'))}"
        f" | {rounded(of.get('bits_per_byte'))} |"
        for name, of in (("base", base), ("champion", judged.champion), ("candidate", judged.candidate))
        if of
    ]
    table = ["| model | version | perplexity | its interval | bits a byte |", "|---|---|---|---|---|", *rows]
    title, rest = safe_verdict(judged).split("\n", 1)
    gain = judged.difference
    interval = (
        f"**Gain: {rounded(gain['gain'], 'change')}** ({rounded(gain['low'], 'change')} to"
        f" {rounded(gain['high'], 'change')} at {rounded(gain['confidence'], 'share')} confidence)\n\n"
        if gain
        else ""
    )
    table_text = "\n".join(table)
    markdown = f"{title}\n\n{interval}{table_text}\n{rest}"
    create_markdown_artifact(markdown, "verdict", rendering.summary(judged).split(":", 1)[0])


def safe_verdict(judged: Verdict) -> str:
    """Return the verdict as Markdown without personal data (groups have names from the corpus), HTML and links."""
    text = redact(rendering.markdown(judged), _region())
    return re.sub(r"\\*\[", r"\\[", escape.visible(text).replace("<", "&lt;"))  # a backslash before it would undo ours


def training() -> None:
    """Write the loss curves of the last training, with its figures."""
    figures = _read(paths.FINETUNE_METRICS)
    rows = "\n".join(f"| {plain(key.replace('_', ' '))} | {plain(rounded(value))} |" for key, value in figures.items())
    svg = paths.LOSS_CURVE.read_text(encoding="utf-8") if paths.LOSS_CURVE.is_file() else ""
    picture = _picture(svg, "Training and validation loss") if svg.startswith("<svg ") else "There is no picture."
    create_markdown_artifact(f"{picture}\n\n| | |\n|---|---|\n{rows}\n", "training", "Loss during training")


def perplexity_over_time(history: Sequence[Entry]) -> None:
    """Write a chart of the candidates' perplexity, verdict after verdict."""
    judged = judged_entries([entry.as_json() for entry in history])[-_CHART_POINTS:]
    text = "No candidate was judged yet."
    if judged:
        text = _picture(perplexity_history(judged), "Perplexity of each candidate, verdict after verdict")
    create_markdown_artifact(f"{text}\n", "perplexity", "Perplexity over time: filled promoted, hollow refused")


def samples() -> None:
    """Write what each model wrote after the same prompts, side by side."""
    found: list[dict[str, str]] = _read(paths.SAMPLES)
    region = _region()
    names = [name for name in ("prompt", "base", "champion", "candidate") if any(name in one for one in found)]
    head = f"| {' | '.join(names)} |\n|{'---|' * len(names)}"
    rows = [
        f"| {' | '.join(_wrapped(plain(one.get(name, ''), region)) for name in names)} |" for one in found[:_SAMPLES]
    ]
    more = f"\n\nThe first {_SAMPLES} of {len(found)}.\n" if len(found) > _SAMPLES else "\n"
    create_markdown_artifact("\n".join([head, *rows]) + more, "samples", "Samples of the same prompts, side by side")


def plain(text: str, region: str = "none", most: int = _TEXT) -> str:
    """Return `text`, redacted and cut to `most` characters, as a cell of a Markdown table that shows it literally."""
    said = " ".join(redact(text, region).split())
    return escape.markdown(said if len(said) <= most else f"{said[:most]} \N{HORIZONTAL ELLIPSIS}")


def _wrapped(cell: str) -> str:
    """Return a cell in lines: the UI does not break them, so that the columns would not be side by side in sight."""
    return " <br/>".join(textwrap.wrap(cell, _COLUMN, break_long_words=False, break_on_hyphens=False))


def intake() -> None:
    """Write what became of the corpus's rows, as a table."""
    found = _read(paths.VALIDATE_METRICS)
    rows: list[dict[str, Any]] = []
    for name, value in found.items():
        if isinstance(value, Mapping):
            rows += [{"what": f"{name.replace('_', ' ')}: {part}", "found": count} for part, count in value.items()]
        else:
            rows.append({"what": name.replace("_", " "), "found": value})
    said = (
        f"{found['rows_clean']:,} of {found['rows_in']:,} rows are clean; why others are not: {paths.VALIDATE_REPORT}"
    )
    _write_table(rows, "intake", said)


def versions(registry: Registry) -> None:
    """Write the last versions as a table, the latest first, with what the history says of each."""
    champion, damage = None, ""
    try:
        champion = registry.champion()
    except UserError as error:
        damage = f"The champion is damaged: {error}. "
    made = {str(one.to): one for one in registry.history() if one.action in MOVES}
    rows = []
    for version in registry.versions()[: -VERSIONS - 1 : -1]:
        entry = made.get(version.tag)
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
                "why": redact(entry.why, _region())[:_TEXT] if entry else _DASH,
            }
        )
    serving = f"Champion: {short(champion.version)}" if champion else "No champion"
    said = f"{damage}{serving}; the last {len(rows)} versions, the latest first"
    _write_table(rows or [{"version": "none yet"}], "versions", said)


def lineage(version: str | None = None) -> None:
    """Write by which hashes the candidate, or the version that it became, hangs on the corpus, as a table."""
    manifest = _read(paths.MANIFEST)
    hashes: dict[str, str] = {}
    if _LOCK.is_file():
        for stage in YAML(typ="safe").load(_LOCK.read_text(encoding="utf-8")).get("stages", {}).values():
            hashes |= {file["path"]: file["md5"] for kind in ("deps", "outs") for file in stage.get(kind, ())}

    def md5(path: str | Path) -> str:
        return f"md5 {hashes[str(path)]}" if str(path) in hashes else _DASH

    corpus = manifest.get("corpus", "")
    steps = [
        ("corpus", corpus, md5(corpus), "the rows as they came"),
        ("clean rows", str(paths.CLEAN), md5(paths.CLEAN), "validate, from the corpus"),
        ("dataset", str(paths.TOKENS), md5(paths.TOKENS), "tokenize, from the clean rows"),
        ("base", manifest.get("base", ""), md5(paths.BASE), "the model to start from"),
        ("model", str(paths.CANDIDATE), md5(paths.CANDIDATE), "finetune, from the dataset and the base"),
        (
            "version",
            short(version or content_version(paths.CANDIDATE)),
            manifest.get("data", _DASH),
            "the model, by its files",
        ),
        ("code", "git", manifest.get("git_revision") or _DASH, "what the stages are"),
    ]
    rows = [{"what": what, "where": where, "hash": hash_, "comes from": of} for what, where, hash_, of in steps]
    _write_table(rows, "lineage", "From the corpus to the version: dvc.lock and the model's manifest")


def _write_table(rows: Sequence[Mapping[str, Any]], key: str, description: str) -> None:
    """Write a table, whose cells the UI shows as they are, below a description, which it reads as Markdown."""
    cells = [
        {name: escape.terminal(str(value)) if isinstance(value, str) else value for name, value in row.items()}
        for row in rows
    ]
    create_table_artifact(
        [{escape.terminal(name): value for name, value in row.items()} for row in cells],
        key,
        escape.markdown(description),
    )


def links(service: str | None = None) -> None:
    """Write where the report lies and, when the service answers at `service` (http://...), its addresses."""
    create_markdown_artifact(link_lines(service) + "\n", "links", "The report and the service")


def link_lines(service: str | None = None) -> str:
    """Return those lines, as a list in Markdown."""
    lines = [f"- The report, to be opened on the machine of the run: {escape.markdown(str(paths.REPORT.resolve()))}"]
    if not paths.REPORT.is_file():
        lines = ["- There is no report yet: it comes with the first verdict."]
    for path, what in (("/", "what is served"), ("/playground", "the playground"), ("/docs", "the service's API")):
        if service and _answers(f"{service}{path}"):
            lines.append(f"- [{what}]({service}{path})")
    if len(lines) == 1:
        lines.append("- The service did not answer; `make up` starts it.")
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
        raise UserError(f"{path} is not here; make it with `dvc repro`") from None
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}; make it again with `dvc repro`") from None


def _region() -> str:
    region: str = params.load().validate_.rules.phone.region
    return region


def _picture(svg: str, words: str) -> str:
    """Return an SVG as a picture within Markdown; as a picture it runs no script, whatever is in it."""
    return f"![{words}](data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()})"


# Live, during training

_EVERY = 5.0  # seconds between two updates
_LAST_WORDS = 2.0  # seconds for the last one: a cancelled run must not wait for a server that is away
# As tqdm draws the bar of `pipeline.finetune`; that of a validation in between has no loss beside it.
_BAR = re.compile(
    r"(?P<step>\d+)/(?P<steps>\d+) \[(?:\d+:)?\d+:\d+<(?P<left>\?|(?:\d+:)?\d+:\d+),"
    r"\s*(?P<rate>[\d.]+)(?P<unit>it/s|s/it), loss=(?P<loss>[^,\]\s]+)\]"
)
_EPOCH = re.compile(r"epoch \d+: validation loss \S+ perplexity \S+")


@dataclass(frozen=True)
class Training:
    """How far a training is, by its bar."""

    step: int
    steps: int
    seconds_left: float | None  # at most: early stopping may end it before; None: not known yet
    steps_a_second: float
    loss: float  # nats a token


def parse(line: str) -> Training | None:
    """Return what the training's bar says; None for every other line."""
    found = None
    for match in _BAR.finditer(line):  # a line may hold two states of the bar, where something was written above it
        found = match
    if found is None:
        return None
    try:
        rate, loss = float(found["rate"]), float(found["loss"])
    except ValueError:
        return None
    left = None
    if found["left"] != "?":
        left = 0.0
        for part in found["left"].split(":"):
            left = 60 * left + int(part)
    per_second = rate if found["unit"] == "it/s" else 1 / rate if rate else 0.0
    return Training(int(found["step"]), int(found["steps"]), left, per_second, loss)


class Progress:
    """A progress artifact and a Markdown one that follow the lines of a training; used in a task, `with` it.

    What it tells the server is told by a thread of its own, so that a server that is slow or away holds up nothing:
    `log` gets one sentence then, and the next update is tried all the same.
    """

    def __init__(self, log: Callable[[str], None], every: float = _EVERY) -> None:
        """Touch nothing before the first line of a training; at least `every` seconds pass between two updates."""
        self._log, self._every = log, every
        self._context = contextvars.copy_context()  # of the task: which run the artifacts belong to
        self._latest: Training | None = None
        self._epochs: list[str] = []
        self._news, self._ended = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        self._told = False

    def __enter__(self) -> "Progress":
        """Return itself."""
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        """Tell the last state, within some seconds."""
        self._ended.set()
        self._news.set()
        if self._thread is not None:
            self._thread.join(_LAST_WORDS)

    def line(self, text: str) -> None:
        """Take a line of the training's output; others than the bar's and an epoch's are nothing to it."""
        if epoch := _EPOCH.search(text):
            self._epochs.append(epoch[0])
        if (found := parse(text)) is None:
            return
        self._latest = found
        self._news.set()
        if self._thread is None:
            self._thread = threading.Thread(target=self._context.run, args=(self._tell,), daemon=True)
            self._thread.start()

    def _tell(self) -> None:
        """Tell the server of what is new, again and again, to the end."""
        ids: list[Any] = []
        while True:
            self._news.wait()
            self._news.clear()
            is_last = self._ended.is_set()
            try:
                with get_client(sync_client=True) as client:
                    self._write(client, ids)
            except Exception as error:  # whatever it is, the training goes on without being watched
                if not self._told:
                    self._log(f"Prefect's server did not take how far the training is: {type(error).__name__}")
                self._told = True
            if is_last:
                return
            self._ended.wait(self._every)

    def _write(self, client: SyncPrefectClient, ids: list[Any]) -> None:
        now = self._latest
        assert now is not None
        task, flow = get_task_and_flow_run_ids()
        wanted: list[tuple[str, str, str, Any]] = [
            ("progress", "training-progress", "How far the training is", 100 * now.step / now.steps),
            ("markdown", "training-live", "Loss, speed and time left", self._words(now)),
        ]
        for at, (kind, key, description, data) in enumerate(wanted):
            if at < len(ids):
                client.update_artifact(ids[at], ArtifactUpdate(data=data))
            else:
                new = ArtifactCreate(
                    type=kind, key=key, description=description, data=data, task_run_id=task, flow_run_id=flow
                )
                ids.append(client.create_artifact(new).id)

    def _words(self, now: Training) -> str:
        speed = f"{now.steps_a_second:.2f} steps a second"
        if tokens := _tokens_a_step(now.steps):
            speed = f"{tokens * now.steps_a_second:,.0f} tokens a second ({speed})"
        left = _DASH if now.seconds_left is None else f"at most {_duration(now.seconds_left)}"
        rows = [
            ("step", f"{now.step:,} of {now.steps:,}"),
            ("loss, nats a token", f"{now.loss:.3f}"),
            ("speed", speed),
            ("time left", left),
        ]
        table = "\n".join(["| | |", "|---|---|", *(f"| {what} | {value} |" for what, value in rows)])
        return "\n\n".join([table, "\n".join(f"- {epoch}" for epoch in self._epochs)]).strip() + "\n"


def _tokens_a_step(steps: int) -> float | None:
    """Return how many tokens, without padding, a step has on average; None where it cannot be known."""
    try:
        kept: int = _read(paths.TOKEN_BUDGET)["splits"]["train"]["kept"]
        return params.load().finetune.epochs * kept / steps
    except (UserError, KeyError, ZeroDivisionError):
        return None


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
