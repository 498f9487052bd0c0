"""The report of a run: one page that says whether the candidate was promoted, why, and what that rests on.

`collect` reads what the stages wrote, `page` puts it on one HTML page that needs neither a network nor a script, and
`write` saves it. `pipeline.promote` calls them, and hands in what it knows and no file holds: verdict and champion.
"""

import difflib
import json
import math
import platform
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ruamel.yaml import YAML

from pipeline import escape, params, paths
from pipeline.command import UserError
from pipeline.data_diff.compare import diff
from pipeline.data_diff.lengths import interpret_psi
from pipeline.data_diff.resolve import clean_data_file
from pipeline.data_diff.result import DataDiff
from pipeline.redaction import redact
from pipeline.reporting.formatting import percent

if TYPE_CHECKING:
    from jinja2 import Template
    from markupsafe import Markup

    from pipeline.evaluate import Evaluated

MODELS = ("base", "champion", "candidate")
PAST_VERDICTS = 20  # in the table; the picture has more
_POINTS = 100  # of that picture
_GROUPS = 50  # the largest ones; all are in the metrics
_OPEN = 6  # samples shown before one asks for more
_TEXT = 1500  # characters of a text: a hundred samples of three models stay below a megabyte
_CONTEXT = 200  # characters shown before and after a copied run
_LONGEST_DATUM = 5000  # read on both sides of these, so that no half of a number stays; a long key has 3,300 characters
_LOCK = Path("dvc.lock")
_FAR_APART = 10  # the largest value by the smallest, from which on an axis is logarithmic


@dataclass(frozen=True)
class Run:
    """What the page shows."""

    verdict: dict[str, Any]  # as verdict.json
    metrics: dict[str, Any]  # as the stage `evaluate` wrote them, with "champion" where there is one
    samples: list[dict[str, str]]  # the prompt, and what each model wrote after it
    worst: dict[str, list[dict[str, Any]]]  # of each model, the fields of a Copy, with `prompt` and `written`
    history: list[dict[str, Any]]  # the registry's entries before this verdict, oldest first
    manifest: dict[str, Any]  # the candidate's
    champion: dict[str, Any] | None  # version, tag, since and labels
    loss_svg: str  # "" where there is no picture
    data_changes: DataDiff | None  # since the champion's data
    data_changes_reason: str  # why there are none, in one sentence
    reproduce: dict[str, Any]  # git_revision, files (path and md5 each), libraries, commands
    region: str = "none"  # that of the rule `phone`, by which texts are redacted


def collect(
    verdict: dict[str, Any],
    metrics: dict[str, Any],
    *,
    champion: dict[str, Any] | None = None,
    champion_folder: Path | None = None,
    champion_model: "Evaluated | None" = None,
    history: Sequence[dict[str, Any]] = (),
) -> Run:
    """Return the run whose files are in the current folder; raises UserError where a stage has not written its own.

    `metrics` has the champion's figures too; `champion_model` is what `evaluate_model` made of it, `champion_folder`
    where its files are. `history` are the registry's entries before this verdict, oldest first.
    """
    region = params.load().validate_.rules.phone.region
    samples = _read(paths.SAMPLES, "evaluate")
    generations = _read(paths.GENERATIONS, "evaluate")
    openings, found = generations["openings"], generations["worst"]
    written = {name: [text["text"] for text in generations[name]] for name in found}
    if champion_model is not None:
        for sample, text in zip(samples, champion_model.samples, strict=True):
            sample["champion"] = text
        found["champion"] = [asdict(copy) for copy in champion_model.worst]
        written["champion"] = [text.text for text in champion_model.generations]
    manifest = _read(paths.MANIFEST, "finetune")
    changes, reason = _data_changes(champion_folder, region)
    return Run(
        verdict=verdict,
        metrics=metrics,
        samples=samples,
        worst={
            name: [
                copy | {"prompt": openings[copy["generation"]], "written": written[name][copy["generation"]]}
                for copy in copies
            ]
            for name, copies in found.items()
        },
        history=list(history),
        manifest=manifest,
        champion=champion,
        loss_svg=paths.LOSS_CURVE.read_text(encoding="utf-8") if paths.LOSS_CURVE.is_file() else "",
        data_changes=changes,
        data_changes_reason=reason,
        reproduce=_reproduce(manifest),
        region=region,
    )


def _read(path: Path, stage: str) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is not here; make it with `dvc repro {stage}`") from None
    except ValueError as error:
        raise UserError(f"{path}: is not JSON ({error}); make it again with `dvc repro --force {stage}`") from None


def _data_changes(champion: Path | None, region: str) -> tuple[DataDiff | None, str]:
    """Return what changed since the data of the model in this folder, or why that cannot be said."""
    if champion is None:
        return None, "There is no champion yet, so there is no data of an earlier model to compare with."
    names = ("the champion's data", "the candidate's data")
    try:
        with clean_data_file(str(champion)) as old, clean_data_file(str(paths.CLEAN)) as new:
            return diff(old, new, names=names, region=region), ""
    except UserError as error:
        said = str(error).replace(f"{champion}/", "the champion's ").replace(str(champion), "the champion")
        return None, f"What changed cannot be said: {said}."


def _reproduce(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the candidate was made from and with, and the commands that make it again."""
    corpus = [manifest["corpus"]] if "corpus" in manifest else []
    wanted = [*corpus, *map(str, (paths.CLEAN, paths.TOKENS, paths.BASE, paths.CANDIDATE, paths.EVALUATE_METRICS))]
    hashes: dict[str, str] = {}
    if _LOCK.is_file():
        for stage in YAML(typ="safe").load(_LOCK.read_text(encoding="utf-8"))["stages"].values():
            hashes |= {file["path"]: file["md5"] for kind in ("deps", "outs") for file in stage.get(kind, ())}
    revision = manifest.get("git_revision")
    checkout = [f"git checkout {revision.removesuffix('+changes')}"] if revision else []
    return {
        "git_revision": revision,
        "files": [{"path": path, "md5": hashes[path]} for path in wanted if path in hashes],
        "libraries": {"python": platform.python_version(), **manifest.get("libraries", {})},
        "commands": [*checkout, "make model", "source .venv/bin/activate", "python -m pipeline.promote --dry-run"],
    }


def write(run: Run, path: Path = paths.REPORT) -> Path:
    """Write the page and return where it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page(run), encoding="utf-8")
    return path


def page(run: Run) -> str:
    """Return the page: one HTML file without scripts that needs no network; equal for an equal run."""
    models = [name for name in MODELS if name in run.metrics]
    measured = {name: run.metrics[name] for name in models}
    groups = sorted(
        {group: figures["rows"] for of in measured.values() for group, figures in of.get("groups", {}).items()}.items(),
        key=lambda group: (-group[1], group[0]),
    )
    real = {"real rows": run.metrics["test_rows"]} if "test_rows" in run.metrics else {}
    return _template().render(
        run=run,
        shown=lambda text: _cut(redact(text, run.region)),
        verdict=run.verdict,
        gain=run.verdict.get("difference"),
        gain_axis=_gain_axis(run.verdict.get("difference")),
        models=models,
        machine={
            name: {key: run.verdict[name][key] for key in ("bytes", "seconds_a_token") if key in run.verdict[name]}
            for name in ("champion", "candidate")
            if run.verdict.get(name)
        },
        measured=measured,
        perplexity=_chart({name: {name: figures} for name, figures in measured.items()}),
        groups=groups[:_GROUPS],
        more_groups=len(groups[_GROUPS:]),
        group_chart=_chart(
            {
                group: {name: of["groups"][group] for name, of in measured.items() if group in of.get("groups", {})}
                for group, _ in groups[:_GROUPS]
            }
        ),
        general={name: of["general"] for name, of in measured.items() if "general" in of},
        text={name: of["text"] for name, of in {**real, **measured}.items() if "text" in of},
        memorisation={name: of["memorisation"] for name, of in {**real, **measured}.items() if "memorisation" in of},
        loss=_picture(run.loss_svg, _words_of_loss(run.manifest)),
        open_samples=_OPEN,
        copies=[(name, _copies(run.worst.get(name, []), run.region)) for name in models if name in run.worst],
        diff=run.data_changes,
        reading=interpret_psi(run.data_changes.length.psi) if run.data_changes else "",
        past=run.history[: -PAST_VERDICTS - 1 : -1],
        past_chart=_past_chart(run),
    )


@cache
def _template() -> "Template":
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("pipeline.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=escape.finalize,
    )
    environment.filters |= {"figure": _figure, "rounded": rounded, "words": _words}
    return environment.get_template("report.html")


def rounded(value: Any, kind: str = "") -> str:
    """Return a figure for the eye; `kind` is "share" (of 1), "change" (a share with its sign) or "" for any other."""
    if value is None:
        return "\N{EN DASH}"
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not math.isfinite(value):
        return "not a number" if math.isnan(value) else "infinite"
    if kind == "change":
        return f"{100 * value:+.2f} %"
    if kind == "share" and 0 <= value <= 1:
        return str(percent(value))
    if abs(value) >= 1e9 or 0 < abs(value) < 0.01:
        return f"{value:.2g}"
    digits = (
        0
        if isinstance(value, int) or not value or abs(value) >= 1000
        else 3
        if abs(value) < 1
        else 2
        if abs(value) < 100
        else 1
    )
    return f"{value:,.{digits}f}"


def _figure(value: Any, kind: str = "") -> "Markup":
    """Return a figure, rounded, with the whole of it, as the JSON has it, for programs."""
    from markupsafe import Markup

    if value is None:
        return escape.html(rounded(value))
    exact = value if isinstance(value, str) else json.dumps(value)
    return Markup('<data value="{}">{}</data>').format(escape.html(exact), escape.html(rounded(value, kind)))


_IN_WORDS = {  # a figure's key in the metrics: what it is, and how it reads
    "distinct_1": ("different tokens among all: distinct-1", "share"),
    "distinct_2": ("different pairs of tokens: distinct-2", "share"),
    "distinct_3": ("different runs of three tokens: distinct-3", "share"),
    "repetition": ("4-grams that the same text had before", "share"),
    "loops": ("texts that end in a loop", "share"),
    "empty": ("texts without a letter or digit", "share"),
    "ended": ("texts that end by themselves", "share"),
    "tokens": ("tokens of a text, mean", ""),
    "tokens_std": ("their standard deviation", ""),
    "self_bleu": ("likeness among its texts: self-BLEU", ""),
    "longest": ("longest copied run, in tokens", ""),
    "mean_longest": ("longest copied run of a text, mean", ""),
    "copied": ("texts with a run that counts as copied", "share"),
    "membership": ("nats a token that training rows are likelier than test rows", ""),
    "extracted": ("planted secrets that it gives away", "share"),
    "bytes": ("bytes of its weights in memory", ""),
    "seconds_a_token": ("seconds a token, on this machine", ""),
    "exposure": ("exposure of the planted secrets, in bits, mean", ""),
}


def _words(key: str) -> tuple[str, str]:
    """Return what the figure of this key is, and the kind that `rounded` takes."""
    return _IN_WORDS.get(key, (key.replace("_", " "), ""))


class Axis:
    """Where a value stands on an axis, in percent of its length; logarithmic where the values are far apart."""

    def __init__(self, values: Iterable[float]) -> None:
        """Span finite `values`, at least one of them, with a margin; all above 0 where they are far apart."""
        numbers = [*values]
        self.logarithmic = min(numbers) > 0 and max(numbers) / min(numbers) >= _FAR_APART
        low, high = self._along(min(numbers)), self._along(max(numbers))
        margin = max(0.06 * (high - low), 0.005 * abs(high)) or 1.0
        self.low, self.high = low - margin, high + margin

    def _along(self, value: float) -> float:
        return math.log10(value) if self.logarithmic else value

    def at(self, value: float) -> float:
        """Return the place of `value`."""
        return round(100 * (self._along(value) - self.low) / (self.high - self.low), 2)

    @property
    def ticks(self) -> list[float]:
        """Return some round numbers of the axis: powers of ten, or multiples of 1, 2 or 5 times one."""
        if self.logarithmic:
            numbers = [
                factor * 10.0**power
                for power in range(math.floor(self.low), min(math.ceil(self.high), 309))
                for factor in ((1, 2, 5) if self.high - self.low < 2 else (1,))
            ]
            shown = [number for number in numbers if self.low <= math.log10(number) <= self.high]
            return shown[:: len(shown) // 6 + 1]
        rough = (self.high - self.low) / 4
        power = 10 ** math.floor(math.log10(rough))
        step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
        return [round(at * step, 12) for at in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)]


@dataclass(frozen=True)
class Mark:
    """A model's value and its interval, in percent of the axis."""

    name: str
    low: float
    at: float
    high: float


@dataclass(frozen=True)
class Chart:
    """Rows of marks on one axis."""

    axis: Axis
    rows: list[tuple[str, list[Mark]]]


def _chart(rows: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Chart | None:
    """Return the perplexities of each row's models as a picture; None where no perplexity is a number."""
    keys = ("perplexity_low", "perplexity", "perplexity_high")
    drawn = {
        label: {name: [of[key] for key in keys] for name, of in models.items() if _finite(map(of.get, keys))}
        for label, models in rows.items()
    }
    values = [value for models in drawn.values() for numbers in models.values() for value in numbers]
    if not values:
        return None
    axis = Axis(values)
    return Chart(
        axis,
        [
            (label, [Mark(name, *map(axis.at, numbers)) for name, numbers in models.items()])
            for label, models in drawn.items()
        ],
    )


def _gain_axis(gain: Mapping[str, Any] | None) -> Axis | None:
    """Return the axis of the gain's interval, with 0 on it."""
    if gain is None or not _finite(ends := [gain[key] for key in ("gain", "low", "high")]):
        return None
    return Axis([0.0, *ends])


def _finite(values: Iterable[Any]) -> bool:
    """Return whether all values are numbers; JSON has null for those that are none."""
    return all(isinstance(value, (int, float)) and math.isfinite(value) for value in values)


@dataclass(frozen=True)
class Past:
    """The candidates' perplexities, verdict after verdict; the last is this run's."""

    axis: Axis
    points: list[dict[str, Any]]  # x and y in percent, entry; rising x


def _past_chart(run: Run) -> Past | None:
    """Return the perplexity over time; None where there is no verdict before this one."""
    now = {
        "at": run.verdict.get("at"),
        "action": "this verdict",
        "figures": run.metrics["candidate"],
    }
    entries = [
        entry for entry in [*run.history[-_POINTS:], now] if _finite([(entry.get("figures") or {}).get("perplexity")])
    ]
    if len(entries) < 2 or entries[-1] is not now:
        return None
    axis = Axis(entry["figures"]["perplexity"] for entry in entries)
    return Past(
        axis,
        [
            {
                "x": round(100 * at / (len(entries) - 1), 2),
                "y": round(100 - axis.at(entry["figures"]["perplexity"]), 2),
                "entry": entry,
            }
            for at, entry in enumerate(entries)
        ],
    )


def _cut(text: str, most: int = _TEXT) -> str:
    """Return `text` with its middle left out where it is long."""
    return text if len(text) <= most else f"{text[: most // 2]} … {text[-most // 2 :]}"


def copied_parts(text: str, run: str, region: str = "none") -> list[tuple[bool, str]]:
    """Return `text`, redacted and cut around the copied `run`, as parts: whether copied, and the part.

    What is marked is what the redacted text and the redacted run have in common, so nothing redacted comes back.
    """
    at = max(0, text.find(run))
    start, end = max(0, at - _CONTEXT - _LONGEST_DATUM), at + len(run) + _CONTEXT + _LONGEST_DATUM
    whole, copied = redact(text[start:end], region), redact(run, region)
    found = difflib.SequenceMatcher(None, whole, copied, autojunk=False).find_longest_match()
    before, after = whole[: found.a], whole[found.a + found.size :]
    parts = [
        (False, ("…" if start or len(before) > _CONTEXT else "") + before[-_CONTEXT:]),
        (True, _cut(whole[found.a : found.a + found.size])),
        (False, after[:_CONTEXT] + ("…" if end < len(text) or len(after) > _CONTEXT else "")),
    ]
    return [part for part in parts if part[1]]


def _copies(worst: Iterable[Mapping[str, Any]], region: str) -> list[dict[str, Any]]:
    """Return the copies of one model that are any, each with its two texts in parts."""
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


_DRAWN = {"svg", "rect", "path", "text", "polyline", "circle"}  # the elements of `pipeline.training.curve`


def _picture(svg: str, words: str) -> "Markup | None":
    """Return the loss curves' file as a part of the page; None where it is not as `finetune` writes it."""
    from markupsafe import Markup

    if not svg.startswith("<svg ") or set(re.findall(r"<[/\s]*([^\s/>]*)", svg)) - _DRAWN:
        return None
    if re.search(r"[\s\"'/](on\w+|(xlink:)?href|style)\s*=", svg):
        return None
    svg = svg.replace(' xmlns="http://www.w3.org/2000/svg"', "", 1)
    return Markup(f'<svg role="img" aria-label="{escape.html(words)}" {svg.removeprefix("<svg ")}')  # noqa: S704 - checked above


def _words_of_loss(manifest: Mapping[str, Any]) -> str:
    """Return what the loss curves show, for who cannot see them."""
    figures = manifest.get("metrics", {})
    said = ", ".join(f"{key.replace('_', ' ')} {rounded(value)}" for key, value in figures.items())
    return "Training loss and validation loss after each epoch" + (f": {said}" if said else "")
