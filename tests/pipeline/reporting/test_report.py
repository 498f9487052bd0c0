"""The report of a run shows everything, redacts personal data, and is one safe, stable page for any screen."""

import json
import math
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipeline import paths
from pipeline.command import UserError
from pipeline.data_diff.compare import diff
from pipeline.data_diff.result import DataDiff
from pipeline.evaluation.generation import Generation
from pipeline.evaluation.memorisation import Copy
from pipeline.evaluation.records import Evaluation
from pipeline.evaluation.scores import Probes, Scores
from pipeline.reporting import report
from pipeline.reporting.formatting import rounded
from pipeline.reporting.report import copied_parts, page, write
from pipeline.reporting.run_data import Champion, Run, collect
from pipeline.training.curve import draw
from tests.conftest import Workspace
from tests.pipeline.reporting.html_page import Page, measured_in_browser

ATTACK = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"
LONG = "interminable" * 200
RIGHT_TO_LEFT = "\u05e9\u05dc\u05d5\u05dd \u202eabc"
SECTIONS = ["verdict", "perplexity", "training", "samples", "text", "memorisation", "data", "past", "reproduce"]


def scored(perplexity: float, rows: int | None = None) -> dict[str, Any]:
    metrics = {
        "perplexity": perplexity,
        "perplexity_low": perplexity * 0.9371,
        "perplexity_high": perplexity * 1.0713,
        "bits_per_byte": math.log2(perplexity) / 4.1,
        "tokens": 19275,
    }
    return metrics if rows is None else {"rows": rows, **metrics}


def measured(seed: int, perplexity: float, groups: bool = True) -> dict[str, Any]:
    """Return figures like those of one model in reports/evaluate/metrics.json; no two of them are alike."""
    at = iter(seed / 1000 + number * 0.031 for number in range(1, 99))
    metrics: dict[str, Any] = {"version": f"{seed:012x}", **scored(perplexity), "general": scored(perplexity + 101.7)}
    if groups:
        metrics["groups"] = {"harbour": scored(perplexity * 1.13, 151), "storms": scored(perplexity * 0.83, 72)}
    shares = ("distinct_1", "distinct_2", "distinct_3", "repetition", "loops", "empty", "blank", "ended", "self_bleu")
    metrics["text"] = {name: next(at) for name in shares} | {"tokens": 61.4 + seed, "tokens_std": 12.7 + seed}
    memorised = {name: next(at) for name in ("mean_longest", "copied", "membership", "extracted", "exposure")}
    metrics["memorisation"] = {"longest": 40 + seed, **memorised}
    return metrics


def curve() -> str:
    training = pd.DataFrame(
        {"epoch": [step / 10 for step in range(1, 31)], "loss": [3 / step for step in range(1, 31)]}
    )
    validation = pd.DataFrame({"epoch": [0, 1, 2, 3], "loss": [3.0, 2.5, 2.2, 2.3]})
    return draw(training, validation, best_epoch=2)


def clean(path: Path, texts: list[str]) -> Path:
    splits = ["train", "train", "test"] * len(texts)
    rows = range(2, len(texts) + 2)
    pd.DataFrame({"row": rows, "text": texts, "split": splits[: len(texts)]}).to_parquet(path)
    return path


TALES = [
    f"Tale {number}: the pilot took the {ship} out on the tide." for number, ship in enumerate(["barge", "brig"] * 5)
]


@pytest.fixture(scope="module")
def changes(tmp_path_factory: pytest.TempPathFactory) -> DataDiff:
    folder = tmp_path_factory.mktemp("data")
    new = [*TALES[2:], "A comet fell into the bay, and the lighthouse keeper kept it."]
    names = ("the champion's data", "the candidate's data")
    return diff(clean(folder / "old.parquet", TALES), clean(folder / "new.parquet", new), names=names)


@pytest.fixture
def full(changes: DataDiff) -> Run:
    """Return a run with everything: a champion, groups, canaries, copies, a history."""
    source = "Then the lighthouse keeper lit the lamp and waited for the brig to come home before the storm."
    run = "lit the lamp and waited for the brig"
    copy = {"tokens": 9, "text": run, "row": 1234, "source": source, "generation": 3, "prompt": "The old keeper"}
    metrics = {
        "base": measured(1, 5190.87),
        "champion": measured(2, 9.7219),
        "candidate": measured(3, 9.4294),
        "test_rows": {
            "text": measured(4, 5.0)["text"],
            "memorisation": {"longest": 17, "mean_longest": 4.71, "copied": 0},
        },
    }
    gate = {"low": None, "reference": 0.1234, "sentence": "It does.", "counterfactual": "More than 0.55 would not."}
    return Run(
        verdict={
            "promoted": True,
            "forced": None,
            "reasons": ["Better than the champion: perplexity falls by 3.0 %.", "It keeps to every bound."],
            "candidate": metrics["candidate"] | {"bytes": 14987264, "seconds_a_token": 0.004321},
            "champion": metrics["champion"] | {"bytes": 14987264, "seconds_a_token": 0.004567},
            "against": "champion",
            "difference": {
                "gain": 0.0301, "low": 0.0212, "high": 0.0397, "nats": -0.0306, "nats_low": -0.0405,
                "nats_high": -0.0214, "rows": 223, "tokens": 19275, "confidence": 0.95,
            },
            "comparison": "Better than the champion: perplexity falls by 3.0 %.",
            "gates": [
                {"name": "copied", "value": 0.0417, "bound": 0.1, "passed": True, **gate},
                {"name": "rolled_back", "value": 1.5678, "bound": 0.7, "passed": False, **gate, "low": 0.0123},
            ],
            "counterfactuals": ["A gain of 0.9 % or less would not have been distinguishable from chance."],
            "rows": 223,
            "at": "2026-11-22T21:22:23+00:00",
        },
        metrics=metrics,
        samples=[
            {"prompt": "Once upon a time", "base": "it rained.", "champion": "a brig, Sir.", "candidate": "a barge."},
            {"prompt": "In the harbour", "base": "", "champion": "  ", "candidate": "it rang."},
        ],
        worst={
            "base": [copy | {"tokens": 0, "text": "", "source": "", "written": "Nothing of it."}],
            "candidate": [copy | {"written": f"went up, {run}, shipmate."}],
            "champion": [copy | {"tokens": 8, "written": f"came and {run}."}],
        },
        history=[
            {
                "serial": serial, "at": f"2026-11-{serial:02}T08:00:00+00:00", "who": "ada@quay",
                "action": "refuse" if serial % 3 else "promote", "from": None if serial == 1 else "text-generator:0123",
                "to": f"text-generator:{serial:012x}", "why": f"Reason {serial}.",
                "figures": {"perplexity": 10.0 + serial / 8, "against": "base"} if serial != 7 else {},
            }
            for serial in range(1, 26)
        ],
        manifest={"data": "4d2d" * 16, "corpus": "data/tales.csv", "metrics": {"steps": 2607, "loss": 2.2849}},
        champion={
            "version": f"{2:012x}", "tag": f"text-generator:{2:012x}", "since": "2026-11-21T03:04:05+00:00",
            "labels": {"corpus": "data/tales.csv"},
        },
        loss_svg=curve(),
        data_changes=changes,
        data_changes_reason="",
        reproduce={
            "git_revision": "4db4da40cc685d7edea5f2a1d6bce552d1aea5c8",
            "files": [{"path": "data/tales.csv", "md5": "d816" * 8}, {"path": "models/base", "md5": "34859d05.dir"}],
            "libraries": {"python": "3.12.1", "torch": "2.13.0+cpu"},
            "commands": ["git checkout 4db4da40cc685d7edea5f2a1d6bce552d1aea5c8", "make model"],
        },
        fit_warnings={"length": "warning: tokenize.max_length (128) cuts off 43.1 % of the tokens"},
    )  # fmt: skip


@pytest.fixture
def first(full: Run) -> Run:
    """Return the least a run can be: the first model ever, without groups, copies, history, lock file or pictures."""
    metrics = {name: measured(at, 30.0 - at, groups=False) for at, name in enumerate(("base", "candidate"), 1)}
    metrics["test_rows"] = full.metrics["test_rows"]
    for name in ("base", "candidate"):
        del metrics[name]["memorisation"]["extracted"], metrics[name]["memorisation"]["exposure"]
    return Run(
        verdict={
            "promoted": False, "forced": None, "reasons": ["Not better than the base."],
            "candidate": metrics["candidate"], "champion": None, "against": "base", "difference": None,
            "comparison": "Not better than the base.", "gates": [], "counterfactuals": [], "rows": 0, "at": "",
        },
        metrics=metrics,
        samples=[],
        worst={"base": [], "candidate": []},
        history=[],
        manifest={},
        champion=None,
        loss_svg="",
        data_changes=None,
        data_changes_reason="There is no champion yet, so there is no earlier data to compare with.",
        reproduce={"git_revision": None, "files": [], "libraries": {"python": "3.12.1"}, "commands": ["make model"]},
    )  # fmt: skip


def leaves(value: Any) -> Iterator[Any]:
    """Yield the numbers and texts in what came from JSON."""
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from leaves(inner)
    elif not isinstance(value, bool | None):
        yield value


def hostile(value: Any, text: str) -> Any:
    """Return `value` with every text in it, the keys aside, made `text`."""
    if isinstance(value, dict):
        return {key: hostile(inner, text) for key, inner in value.items()}
    if isinstance(value, list):
        return [hostile(inner, text) for inner in value]
    return text if isinstance(value, str) else value


def attacked(run: Run, text: str) -> Run:
    """Return the run with `text` wherever a text can come from a corpus, a model, a person or a file."""
    metrics = {name: dict(of) for name, of in run.metrics.items()}
    for of in metrics.values():
        of |= {"groups": {text: of["groups"]["harbour"]}} if "groups" in of else {}
        of |= {"version": text} if "version" in of else {}
    changed = replace(
        run.data_changes,
        examples=replace(run.data_changes.examples, added=[{"row": 1, "text": text}], edited=[
            {"old": 1, "new": 2, "parts": [("removed", text), ("added", text), ("same", text)]}]),
    )  # fmt: skip
    return replace(
        run,
        verdict={**hostile(run.verdict, text), "against": "champion"},
        metrics=metrics,
        samples=hostile(run.samples, text),
        worst=hostile(run.worst, text),
        history=[{**hostile(entry, text), "figures": {"perplexity": 9.0}} for entry in run.history],
        manifest=hostile(run.manifest, text),
        champion=hostile(run.champion, text),
        data_changes=changed,
        reproduce=hostile(run.reproduce, text),
        fit_warnings=hostile(run.fit_warnings, text),
    )


def test_what_was_warned_of_before_training_is_on_the_page(full: Run, first: Run) -> None:
    warned = "Said before training: tokenize.max_length (128) cuts off 43.1 % of the tokens."
    assert warned in Page(page(full)).text
    assert "Said before training" not in Page(page(first)).text


def test_every_figure_of_metrics_verdict_and_history_is_on_the_page_exact_and_rounded(full: Run) -> None:
    html = page(full)
    whole = {attributes["value"] for attributes in Page(html).of("data")}
    past = [entry["figures"] for entry in full.history[-report.PAST_VERDICTS :]]
    sources = [full.metrics, full.verdict["difference"], full.verdict["gates"], [of.get("perplexity") for of in past]]
    sources += [{name: full.verdict[name]["seconds_a_token"] for name in ("candidate", "champion")}]
    figures = {value for value in leaves(sources) if not isinstance(value, str)}
    assert len(figures) > 100
    assert {json.dumps(figure) for figure in figures} <= whole
    shown = Page(html).text
    assert "9.43 (8.84\u201310.10)" in shown
    assert "5,191 (4,864\u20135,561)" in shown
    assert "+3.01 % (95 % interval +2.12 % to +3.97 %)" in shown


def test_sections_are_in_order_and_linked_from_the_top(full: Run, first: Run) -> None:
    for run in (full, first):
        parsed = Page(page(run))
        assert [section["id"] for section in parsed.of("section")] == SECTIONS
        assert [link["href"] for link in parsed.of("a")] == [f"#{name}" for name in SECTIONS]


def test_the_verdict_shows_reasons_gates_and_counterfactuals(full: Run) -> None:
    text = Page(page(full)).text
    assert "The verdict: promoted Better than the champion: perplexity falls by 3.0 %. It keeps to every bound." in text
    assert "copied kept 0.042 \u2013 0.100 0.123 It does. More than 0.55 would not." in text
    assert "rolled back broken 1.57 0.012 0.700 0.123 It does." in text
    assert "What would have changed it A gain of 0.9 % or less would not have been distinguishable from chance." in text


def test_the_title_names_a_refusal_or_a_promotion_by_force(full: Run) -> None:
    refused = Page(page(replace(full, verdict=full.verdict | {"promoted": False}))).text
    assert refused.startswith("Not promoted: candidate 000000000003")
    assert "The verdict: not promoted" in refused
    forced = Page(page(replace(full, verdict=full.verdict | {"forced": "The old one leaks names."}))).text
    assert forced.startswith("Promoted by force")
    assert "By force, for this reason: The old one leaks names." in forced


def test_the_comparison_is_shown_even_if_a_gate_decided(full: Run) -> None:
    verdict = full.verdict | {"reasons": ["It loops."], "comparison": "Better by 3 %.", "promoted": False}
    assert "Better by 3 %. It loops." in Page(page(replace(full, verdict=verdict))).text


def test_the_page_of_the_first_model_says_what_is_missing(first: Run) -> None:
    text = Page(page(first)).text
    assert "measured against the base, since there is no champion yet" in text
    assert "There is no champion yet, so there is no earlier data to compare with." in text
    assert "There are none: this is the first." in text
    assert "Nothing was copied." in text
    assert "There are no loss curves" in text
    assert "not trained in a git repository" in text
    assert "champion" not in {attributes.get("class") for attributes in Page(page(first)).of("div")}


def test_samples_are_side_by_side_and_empty_ones_are_marked(full: Run) -> None:
    text = Page(page(full)).text
    assert "Once upon a time … base it rained. champion a brig, Sir. candidate a barge." in text
    assert "In the harbour … base (blank) champion (blank: only white space) candidate it rang." in text


def test_a_copy_is_beside_its_training_row_with_the_run_marked_in_both(full: Run) -> None:
    html = page(full)
    assert "9 tokens, after “The old keeper”" in Page(html).text
    assert "training row 1234" in Page(html).text
    run = "<mark>lit the lamp and waited for the brig</mark>"
    assert f"went up, {run}, shipmate." in html
    assert f"Then the lighthouse keeper {run} to come home before the storm." in html
    assert html.count(run) == 4


def test_a_model_that_copied_nothing_is_shown_as_such(full: Run) -> None:
    assert Page(page(full)).text.count("Nothing was copied.") == 1


def test_personal_data_is_redacted_even_where_a_copied_run_ends_in_it() -> None:
    source = "Call Ada at +1 415 555 2671 or write to ada@example.com before noon."
    run = "Call Ada at +1 415 555 2671 or write to ada"  # half an address, which alone is none
    parts = copied_parts(source, run)
    assert parts == [(True, "Call Ada at [phone] or write to "), (False, "[email] before noon.")]


def test_no_personal_data_is_on_the_page(full: Run) -> None:
    private = "write to ada.byron@example.com or call +1 415 555 2671"
    copy = full.worst["candidate"][0] | {"text": private, "source": f"Row: {private}!", "written": f"Then {private}."}
    samples = [{name: f"{name}, {private}" for name in ("prompt", *report.MODELS)}]
    html = page(replace(full, samples=samples, worst={"candidate": [copy | {"prompt": private}]}))
    assert "ada.byron" not in html
    assert "2671" not in html
    assert Page(html).text.count("write to [email] or call [phone]") == 4 + 3


def test_a_copy_in_a_long_text_is_cut_to_its_context() -> None:
    run = "the brig came home"
    text = "before " * 5000 + run + " after" * 5000
    before, marked, after = copied_parts(text, run)
    assert marked == (True, " the brig came home "[1:-1])
    assert before[1].startswith("…")
    assert after[1].endswith("…")
    assert len(before[1]) == len(after[1]) == 201


def test_the_page_shows_what_changed_in_the_data_or_why_it_cannot(full: Run) -> None:
    text = Page(page(full)).text
    assert "rows 10 9 of these, train" in text
    assert "A comet fell into the bay" in text
    gone = replace(full, data_changes=None, data_changes_reason="Its clean data is not in DVC's cache.")
    assert "Its clean data is not in DVC's cache." in Page(page(gone)).text


def test_the_last_20_verdicts_are_listed_latest_first_and_charted(full: Run) -> None:
    html = page(full)
    reasons = re.findall(r"Reason (\d+)\.", html)
    assert reasons == [str(number) for number in range(25, 5, -1)]
    assert "all 25: fresh registry history" in Page(html).text
    chart = html[html.index("Perplexity over time, from") :]
    assert chart[: chart.index("</svg>")].count("<circle") == 24 + 1  # one entry has no figures; and this verdict


def test_reproduction_lists_revision_hashes_versions_and_commands(full: Run) -> None:
    text = Page(page(full)).text
    for said in (*leaves(full.reproduce), full.manifest["data"]):
        assert said in text
    assert "not committed" not in text
    edited = full.reproduce | {"git_revision": "4db4da40+changes"}
    assert "files were edited after it and not committed" in Page(page(replace(full, reproduce=edited))).text


@pytest.mark.parametrize("text", [ATTACK, LONG, RIGHT_TO_LEFT])
def test_no_untrusted_text_becomes_markup(full: Run, text: str) -> None:
    html = page(attacked(full, text))
    tags = Page(html).tags
    assert not {tag for tag, _ in tags} & {"script", "img", "iframe", "link", "object", "style-x"}
    assert not [name for _, attributes in tags for name in attributes if name.startswith("on")]
    assert "\u202e" not in html
    html.encode()
    assert len(html) < 1_000_000


@pytest.mark.parametrize(
    "svg",
    [
        "<script>alert(1)</script>",
        '<svg onload="alert(1)"></svg>',
        "<svg ><script>alert(1)</script></svg>",
        '<svg ><image href="https://example.com/x.png"/></svg>',
        '<svg ><rect\nonclick="alert(1)"/></svg>',
        "<svg ><!-- --></svg>",
    ],
)
def test_an_svg_that_the_project_did_not_draw_is_left_out(full: Run, svg: str) -> None:
    html = page(replace(full, loss_svg=svg))
    assert svg not in html
    assert "There are no loss curves" in Page(html).text


def test_the_loss_curves_are_inlined_with_a_description(full: Run) -> None:
    picture, history = [attributes for attributes in Page(page(full)).of("svg") if "viewbox" in attributes]
    assert (history["aria-label"] or "").startswith("Perplexity over time, from ")
    assert picture["aria-label"] == "Training loss and validation loss after each epoch: steps 2,607, loss 2.28"


def test_the_page_loads_nothing_and_has_no_script(full: Run, first: Run) -> None:
    for run in (full, first):
        html = page(run)
        links = [
            value for _, attributes in Page(html).tags for name, value in attributes.items() if name in ("src", "href")
        ]
        assert all(link.startswith("#") for link in links)
        assert not re.search(r"https?:|url\(|@import|<script|<link", html)


def test_the_page_is_accessible_by_screen_reader_and_keyboard(full: Run) -> None:
    parsed = Page(page(full))
    assert parsed.of("html") == [{"lang": "en"}]
    assert len(parsed.of("h1")) == 1
    assert len(parsed.of("caption")) == len(parsed.of("table"))
    assert all("scope" in head for head in parsed.of("th"))
    ids = [attributes["id"] for _, attributes in parsed.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {section["aria-labelledby"] for section in parsed.of("section")} <= set(ids)
    for picture in parsed.of("svg"):
        assert picture.get("aria-hidden") == "true" or picture["role"] == "img"
    scrolls = [attributes for attributes in parsed.of("div") if (attributes.get("class") or "").startswith("scroll")]
    assert len(scrolls) == len(parsed.of("table")) + 2  # and two pictures
    assert all(attributes["tabindex"] == "0" and attributes["aria-label"] for attributes in scrolls)


def test_a_hundred_long_samples_stay_below_a_megabyte(full: Run) -> None:
    sample = {"prompt": "p " * 200, **dict.fromkeys(report.MODELS, "The brig came home. " * 100)}
    html = page(replace(full, samples=[sample] * 100))
    assert len(html.encode()) < 1_000_000
    assert "94 more" in html


def test_the_largest_groups_are_shown_and_the_others_counted(full: Run) -> None:
    groups = {f"group {number}": scored(9.0 + number / 10, rows=number) for number in range(1, 78)}
    html = page(replace(full, metrics={name: of | {"groups": groups} for name, of in full.metrics.items()}))
    assert "27 smaller groups are in" in Page(html).text
    assert html.index("group 77") < html.index("group 76")
    assert "group 27<" not in html


def test_the_same_run_gives_the_same_bytes(full: Run) -> None:
    assert page(full) == page(full)


@pytest.mark.parametrize("broken", [math.nan, math.inf, None, 1e300, 0.0])
def test_a_figure_that_is_not_finite_is_shown_as_such(full: Run, broken: float | None) -> None:
    candidate = full.metrics["candidate"] | {"perplexity": broken, "perplexity_high": broken}
    difference = dict.fromkeys(full.verdict["difference"])
    run = replace(
        full,
        metrics=full.metrics | {"candidate": candidate},
        verdict=full.verdict | {"difference": difference},
    )
    assert f"candidate {rounded(broken)}" in Page(page(run)).text


# What it is collected from


@pytest.fixture
def made(workspace: Workspace, full: Run) -> Workspace:
    """Return a workspace in which the stages have been run."""
    contents = {
        paths.SAMPLES: [{"prompt": "Once", "base": "b", "candidate": "c"}],
        paths.GENERATIONS: {
            "prompts": ["zero", "one"],
            "real": ["r0", "r1"],
            "base": [{"text": "base 0", "tokens": 2, "ended": True}, {"text": "base 1", "tokens": 2, "ended": False}],
            "candidate": [
                {"text": "cand 0", "tokens": 2, "ended": True},
                {"text": "cand 1", "tokens": 2, "ended": False},
            ],
            "worst": {
                "base": [],
                "candidate": [{"tokens": 2, "text": "cand", "row": 7, "source": "a cand a", "generation": 1}],
            },
        },
        paths.MANIFEST: {"corpus": "data/mine.csv", "git_revision": "abc+changes", "libraries": {"torch": "2.13.0"}},
    }
    for path, content in contents.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    paths.CLEAN.parent.mkdir(exist_ok=True)
    clean(paths.CLEAN, TALES)
    paths.LOSS_CURVE.parent.mkdir(parents=True)
    paths.LOSS_CURVE.write_text(curve())
    Path("dvc.lock").write_text(
        "schema: '2.0'\nstages:\n  validate:\n    cmd: x\n    deps:\n    - path: data/mine.csv\n      md5: aaaa\n"
        "    outs:\n    - path: data/clean.parquet\n      md5: bbbb\n    - path: reports/other.csv\n      md5: cccc\n"
    )
    return workspace


def test_a_run_is_collected_from_the_files_of_the_stages(made: Workspace, full: Run) -> None:
    run = collect(full.verdict, full.metrics, history=full.history)
    assert run.samples == [{"prompt": "Once", "base": "b", "candidate": "c"}]
    assert run.worst["base"] == []
    (copy,) = run.worst["candidate"]
    assert (copy["prompt"], copy["written"], copy["row"]) == ("one", "cand 1", 7)
    assert run.reproduce["git_revision"] == "abc+changes"
    assert run.reproduce["files"] == [
        {"path": "data/mine.csv", "md5": "aaaa"},
        {"path": "data/clean.parquet", "md5": "bbbb"},
    ]
    assert run.reproduce["commands"][0] == "git checkout abc"
    assert run.reproduce["libraries"].keys() == {"python", "torch"}
    assert run.data_changes_reason.startswith("There is no champion yet")
    assert "cand 1" in page(run) or "<mark>cand</mark> 1" in page(run)


def champion_of(run: Run, folder: Path) -> Champion:
    """Return the champion of a run, as promote evaluated it; its files are in `folder`."""
    evaluation = Evaluation(
        metrics=run.metrics["champion"],
        scores=Scores(np.array([1.0]), np.array([1]), np.array([1])),
        probes=Probes(*[Scores(np.array([1.0]), np.array([1]), np.array([1]))] * 3),
        samples=["a champion's sample"],
        generations=[Generation("zero", "champ 0", 2, True), Generation("one", "champ 1", 2, True)],
        copies=[Copy(tokens=1, text="champ", row=5, source="the champ", generation=0)],
    )
    return Champion(run.champion or {}, folder, evaluation)


def test_the_champions_figures_samples_and_copies_come_from_promote(made: Workspace, full: Run, tmp_path: Path) -> None:
    metrics = {name: figures for name, figures in full.metrics.items() if name != "champion"}
    run = collect(full.verdict, metrics, champion_of(full, tmp_path))
    assert run.metrics == full.metrics
    assert run.champion == full.champion
    assert run.samples[0]["champion"] == "a champion's sample"
    assert run.worst["champion"] == [
        {"tokens": 1, "text": "champ", "row": 5, "source": "the champ", "generation": 0, "prompt": "zero",
         "written": "champ 0"}
    ]  # fmt: skip


def test_missing_champion_data_is_explained_without_a_local_path(made: Workspace, full: Run, tmp_path: Path) -> None:
    folder = tmp_path / "champion"
    folder.mkdir()
    (folder / "manifest.json").write_text(json.dumps({"clean_md5": "0" * 32}))
    run = collect(full.verdict, full.metrics, champion_of(full, folder))
    assert run.data_changes is None
    assert run.data_changes_reason == (
        "There is no comparison: the champion's manifest.json: its clean data is in a DVC cache, "
        "but there is no DVC repository here."
    )
    (folder / "manifest.json").unlink()
    run = collect(full.verdict, full.metrics, champion_of(full, folder))
    assert run.data_changes_reason.startswith("There is no comparison: the champion is a folder without manifest.json;")


def test_a_missing_file_is_named_with_its_stage(made: Workspace, full: Run) -> None:
    paths.SAMPLES.unlink()
    with pytest.raises(UserError, match=r"reports/evaluate/samples.json does not exist; run `dvc repro evaluate`"):
        collect(full.verdict, full.metrics)
    paths.SAMPLES.write_text("{")
    with pytest.raises(UserError, match=r"samples.json is not JSON .* `dvc repro --force evaluate`"):
        collect(full.verdict, full.metrics)


def test_the_page_is_written_to_its_path(made: Workspace, first: Run) -> None:
    assert write(first) == paths.REPORT
    assert paths.REPORT.read_text(encoding="utf-8") == page(first)


# In a browser


@pytest.mark.integration
@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("kind", ["full", "first", "attack", "long", "right to left"])
def test_a_browser_reports_no_error_and_nothing_overflows(
    full: Run, first: Run, tmp_path: Path, kind: str, width: int
) -> None:
    texts = {"attack": ATTACK, "long": LONG, "right to left": RIGHT_TO_LEFT}
    run = attacked(full, texts[kind]) if kind in texts else {"full": full, "first": first}[kind]
    measured, console = measured_in_browser(tmp_path, page(run), width)
    assert console == ""
    assert measured == [width, 0, []]
