"""The artifacts of a run, read back from a real server."""

import base64
import json
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pandas as pd
import pytest
from markdown_it import MarkdownIt
from prefect import flow, task
from prefect.logging.handlers import APILogHandler
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from flows.runtime import artifacts
from flows.runtime.training_progress import ProgressArtifacts
from pipeline import escape, paths
from pipeline.command import UserError
from pipeline.promote import Decision
from pipeline.registry.history import Entry
from pipeline.registry.model_version import short
from pipeline.registry.store import Registry
from pipeline.training import curve
from pipeline.training.progress import ProgressWriter
from pipeline.verdict.records import GateResult, Verdict
from tests.conftest import ROOT, Workspace
from tests.flows.conftest import Prefect, within

pytestmark = pytest.mark.integration
HOSTILE = (
    "a | b\n\n# title <script>alert(1)</script> <img src=http://example.org/x> ![x](http://example.org/y) `code`"
    " [link](javascript:alert) **bold** | --- | mail jane.doe@example.org \\| $x$ &lt; https://example.org/z"
)


@pytest.fixture(autouse=True, scope="module")
def logs_are_sent(prefect: Prefect) -> Iterator[None]:
    """Send what Prefect logs while its server is still there."""
    yield
    APILogHandler().flush()


def in_a_run(prefect: Prefect, *write: Callable[[], object]) -> dict[str, dict[str, Any]]:
    """Call each function in a flow run; return the artifacts of that run by their keys."""

    @flow(name="shows")
    def shows() -> None:
        for one in write:
            one()

    with temporary_settings({PREFECT_API_URL: prefect.environment["PREFECT_API_URL"]}):
        state = shows(return_state=True)
        state.result()
    return written(prefect, str(state.state_details.flow_run_id))


def written(prefect: Prefect, run: str) -> dict[str, dict[str, Any]]:
    result = prefect.post("artifacts/filter", artifacts={"flow_run_id": {"any_": [run]}})
    assert all(one["description"] for one in result)
    return {one["key"]: one for one in result}


def tree(xml: str) -> ElementTree.Element:
    return ElementTree.fromstring(xml)  # noqa: S314 - made by ourselves


def rendered(markdown: str) -> ElementTree.Element:
    """Return the Markdown rendered with HTML enabled, as the UI renders it."""
    reader = MarkdownIt("commonmark", {"html": True}).enable("table")
    reader.validateLink = bool  # type: ignore[assignment]  # nor does the UI mind where links lead
    return tree(f"<page>{reader.render(markdown)}</page>")


def picture(markdown: str) -> ElementTree.Element:
    """Return the picture in the Markdown, decoded."""
    (image,) = rendered(markdown).iter("img")
    kind, _, content = image.get("src", "").partition(",")
    assert kind == "data:image/svg+xml;base64"
    root = tree(base64.b64decode(content, validate=True).decode())
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    return root


def entry(serial: int, action: Any, perplexity: float | None, why: str = "it was better") -> Entry:
    figures = {"perplexity": perplexity, "perplexity_low": 9.0, "perplexity_high": 11.5, "gain": 0.031}
    at = f"2026-11-{serial:02}T02:30:00+00:00"
    return Entry(serial, at, "ada", action, None, f"texts:{serial:012x}", why, dict(figures))


def a_decision(promoted: bool = True, group: str = "tales") -> Decision:
    gate = GateResult("group_loss", 0.01, None, 0.05, None, True, f"In {group} its perplexity rises by 1 %.", "none")
    model = {"perplexity": 10.0, "perplexity_low": 9.5, "perplexity_high": 10.5, "bits_per_byte": 1.25}
    judged = Verdict(
        promoted=promoted,
        forced=None,
        reasons=["Its perplexity is 3 % lower, beyond noise."],
        warnings=[],
        candidate={**model, "version": "c" * 12},
        champion={**model, "perplexity": 10.4, "version": "a" * 12},
        against="champion",
        difference={"gain": 0.031, "low": 0.02, "high": 0.04, "rows": 230, "confidence": 0.95},
        comparison="Perplexity 10.4 → 10.0.",
        gates=[gate],
        counterfactuals=["A gain of less than 0 %."],
        rows=230,
        at="2026-11-22T02:40:00+00:00",
    )
    return Decision(judged, Registry(name="texts"), None, None)


def put(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


@pytest.fixture
def store(workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "bentoml"))
    return workspace


def test_the_verdict_has_all_three_models_and_no_foreign_markup(prefect: Prefect, store: Workspace) -> None:
    put(paths.EVALUATE_METRICS, {"base": {"version": "b" * 12, "perplexity": 36.07}})
    result = in_a_run(prefect, lambda: artifacts.verdict(a_decision(group=HOSTILE)))["verdict"]
    page = rendered(result["data"])
    assert result["description"] == "Promoted"
    cells = ["".join(cell.itertext()) for cell in page.find("table").iter("td")]  # type: ignore[union-attr]
    assert cells[:4] == ["base", "b" * 12, "36.07", "\N{EN DASH} to \N{EN DASH}"]
    assert cells[5:9] == ["champion", "a" * 12, "10.40", "9.50 to 10.50"]
    assert cells[10:14] == ["candidate", "c" * 12, "10.00", "9.50 to 10.50"]
    assert "Gain: +3.10 % (+2.00 % to +4.00 % at 95 % confidence)" in "".join(page.itertext())
    assert not {"script", "img", "a"} & {part.tag for part in page.iter()}
    assert "jane.doe" not in result["data"]
    assert "[email]" in "".join(page.itertext())


def test_the_loss_curve_is_embedded_in_the_markdown(prefect: Prefect, store: Workspace) -> None:
    steps = pd.DataFrame({"epoch": [0.5, 1.0], "loss": [5.0, 4.0]})
    put(paths.LOSS_CURVE, curve.draw(steps, pd.DataFrame({"epoch": [0, 1], "loss": [8.0, 3.6]}), 1))
    put(paths.FINETUNE_METRICS, {"steps": 869, "best_epoch": 1, "validation_loss": 3.5853})
    data = in_a_run(prefect, artifacts.training)["training"]["data"]
    assert len(list(picture(data).iter("{http://www.w3.org/2000/svg}polyline"))) == 2
    assert "3.59" in "".join(rendered(data).itertext())


def test_perplexity_over_time_has_a_point_per_verdict(prefect: Prefect, store: Workspace) -> None:
    history = [
        entry(1, "promote", 10.5),
        entry(2, "refuse", 11.0),
        entry(3, "refuse", None),
        entry(4, "rollback", 9.0),
        entry(5, "force", 9.5),
    ]
    data = in_a_run(prefect, lambda: artifacts.perplexity_over_time(history))["perplexity"]["data"]
    points = list(picture(data).iter("{http://www.w3.org/2000/svg}circle"))
    assert [point.get("fill") for point in points] == ["#1f77b4", "white", "#1f77b4"]
    heights = [float(point.get("cy", "")) for point in points]
    assert heights[1] < heights[0] < heights[2], "a higher perplexity is drawn higher"
    places = [float(point.get("cx", "")) for point in points]
    assert places == sorted(places)
    assert (
        "No candidate was judged" in in_a_run(prefect, lambda: artifacts.perplexity_over_time([]))["perplexity"]["data"]
    )


def test_samples_are_side_by_side_whatever_they_contain(prefect: Prefect, store: Workspace) -> None:
    put(paths.SAMPLES, [{"prompt": "Once", "base": HOSTILE, "candidate": "x" * 5000}] * 40)
    data = in_a_run(prefect, artifacts.samples)["samples"]["data"]
    page = rendered(data)
    assert ["".join(cell.itertext()) for cell in page.iter("th")] == ["prompt", "base", "candidate"]
    rows = [["".join(cell.itertext()) for cell in row] for row in page.iter("tr")][1:]
    assert len(rows) == 12
    literally = " ".join(HOSTILE.replace("jane.doe@example.org", "[email]").split())
    assert rows[0][1] == literally
    assert rows[0][2] == "x" * 500 + " …"
    assert not {"script", "img", "a", "code", "strong", "h1"} & {part.tag for part in page.iter()}
    assert "The first 12 of 40." in data


def test_the_intake_table_counts_the_rows(prefect: Prefect, store: Workspace) -> None:
    put(
        paths.VALIDATE_METRICS,
        {"corpus": "data/a.csv", "rows_in": 2226, "rows_clean": 2200, "rows_quarantined": 26, "reasons": {"empty": 26}},
    )
    result = in_a_run(prefect, artifacts.intake)["intake"]
    rows = {row["what"]: row["found"] for row in json.loads(result["data"])}
    assert rows == {
        "corpus": "data/a.csv",
        "rows in": 2226,
        "rows clean": 2200,
        "rows quarantined": 26,
        "reasons: empty": 26,
    }
    assert result["description"].startswith("2,200 of 2,226 rows are clean")


def candidate(content: str) -> None:
    shutil.rmtree(paths.CANDIDATE, ignore_errors=True)
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        put(paths.CANDIDATE / name, content)
    put(paths.MANIFEST, {"base": "starter", "corpus": "data/tales.csv", "data": "d" * 64, "git_revision": "e" * 40})


def test_the_versions_table_has_the_last_twenty_and_the_champion(prefect: Prefect, store: Workspace) -> None:
    registry = Registry(name="texts")
    before = None
    for number in range(21):
        candidate(f"model {number}")
        new = registry.add(paths.CANDIDATE, {"data": "d" * 64}, {})
        figures = {"perplexity": 30.0 - number, "gain": 0.05}
        registry.move(new, expected=before, action="promote", why=f"better {number}", who="ada", figures=figures)
        before = new.tag
    result = in_a_run(prefect, lambda: artifacts.versions(registry))["versions"]
    rows = json.loads(result["data"])
    assert len(rows) == 20
    (champion,) = [row for row in rows if row["state"] == "champion"]
    assert f"texts:{champion['version']}" == short(before or "")
    assert (champion["perplexity"], champion["gain"], champion["by"]) == ("10.00", "+5.00 %", "ada")
    assert champion["version"] in result["description"]


def test_the_lineage_has_the_hashes_from_corpus_to_version(prefect: Prefect, store: Workspace) -> None:
    shutil.copy(ROOT / "dvc.lock", "dvc.lock")
    candidate("a model")
    result = in_a_run(prefect, artifacts.lineage)["lineage"]
    rows = {row["what"]: row for row in json.loads(result["data"])}
    assert list(rows) == ["corpus", "clean rows", "dataset", "base", "model", "version", "code"]
    lock = Path("dvc.lock").read_text()
    for what in ("corpus", "clean rows", "dataset", "base", "model"):
        assert rows[what]["hash"].removeprefix("md5 ") in lock
        assert rows[what]["where"] in lock
    assert len(rows["version"]["where"]) == 12
    assert rows["code"]["hash"] == "e" * 40


def test_links_have_the_report_and_the_addresses_that_answer(prefect: Prefect, store: Workspace) -> None:
    class Service(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(404 if self.path == "/playground" else 200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    put(paths.REPORT, "<html></html>")
    with HTTPServer(("127.0.0.1", 0), Service) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        data = in_a_run(prefect, lambda: artifacts.links(address))["links"]["data"]
        server.shutdown()
    assert escape.markdown(str(paths.REPORT.resolve())) in data
    assert [link.get("href") for link in rendered(data).iter("a")] == [f"{address}/", f"{address}/docs"]
    assert "did not answer" in in_a_run(prefect, lambda: artifacts.links(address))["links"]["data"]


def test_missing_files_are_logged_and_the_other_artifacts_written(prefect: Prefect, store: Workspace) -> None:
    logged: list[str] = []
    put(paths.SAMPLES, [{"prompt": "Once", "base": "a", "candidate": "b"}])
    registry = Registry(name="texts")
    result = in_a_run(prefect, lambda: artifacts.write_all(a_decision(), logged.append, registry=registry))
    assert set(result) == {"verdict", "samples", "versions", "perplexity", "links"}
    assert [line.partition(":")[0] for line in logged] == [
        "the artifact 'training' was not written",
        "the artifact 'intake' was not written",
        "the artifact 'lineage' was not written",
    ]
    with pytest.raises(UserError, match="`dvc repro` writes it"):
        artifacts.intake()


def test_the_progress_artifacts_follow_a_training(prefect: Prefect, store: Workspace) -> None:
    store.set(finetune__epochs=1)
    put(paths.TOKEN_BUDGET, {"splits": {"train": {"kept": 149728}}})
    seen: list[dict[str, Any]] = []
    logged: list[str] = []

    @task
    def trains() -> None:
        from prefect.runtime import flow_run

        def shown() -> dict[str, dict[str, Any]]:
            return written(prefect, str(flow_run.id))

        with ProgressArtifacts(logged.append, update_seconds=0.2):
            writer = ProgressWriter(paths.TRAINING_PROGRESS, 0, interval=0.0)
            writer.epoch(0, 8.6)
            writer.step(2, 869, 8.652)
            assert within(300, lambda: len(shown()) == 2)
            seen.append(shown())
            writer.step(490, 869, 4.178)
            assert within(300, lambda: "490 of 869" in shown()["training-live"]["data"])
            seen.append(shown())
            writer.step(869, 869, 3.711)
            writer.epoch(1, 3.5853)
        seen.append(shown())

    @flow(name="shows")
    def shows() -> None:
        trains()

    with temporary_settings({PREFECT_API_URL: prefect.environment["PREFECT_API_URL"]}):
        shows()
    assert logged == []
    assert [round(one["training-progress"]["data"], 1) for one in seen] == [0.2, 56.4, 100.0]
    assert all(one["training-progress"]["task_run_id"] for one in seen)
    live = seen[1]["training-live"]["data"]
    assert "| loss, nats | 4.1780 |" in live
    assert re.search(r"\| speed \| [\d,]+ tokens per second \(\d+\.\d\d steps per second\) \|", live)
    assert "| time left | at most " in live
    assert "- epoch 1: validation loss 3.5853" in seen[2]["training-live"]["data"]
    assert len({one["training-live"]["id"] for one in seen}) == 1, "one artifact, updated"


def test_a_server_that_is_away_is_logged_once_and_delays_nothing(store: Workspace) -> None:
    logged: list[str] = []
    nobody: dict[Any, Any] = {PREFECT_API_URL: "http://127.0.0.1:9/api", PREFECT_CLIENT_MAX_RETRIES: 0}
    with temporary_settings(nobody), ProgressArtifacts(logged.append, update_seconds=0.05):
        writer = ProgressWriter(paths.TRAINING_PROGRESS, 0, interval=0.0)
        for step in range(1, 4):
            writer.step(step, 869, 4.178)
            within(0.3, lambda: False)
    assert len(logged) == 1
    assert "was not sent to Prefect's server" in logged[0]
