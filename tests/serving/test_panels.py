"""The playground's panels of encoders in a real browser, with the real routes behind them."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import Field, create_model

from docs.picture import browser
from serving import playground
from serving.tasks.classify import Classify, classify_request
from tests.serving.conftest import service_settings
from tests.serving.tasks.encoders import CONTEXT, asgi_of, make_encoder
from tests.serving.test_playground import HOSTILE, Tab, listening, needs_chromium

pytestmark = pytest.mark.integration

CLASSIFIER = "AutoModelForSequenceClassification"
LABELS = ["ok", "fraud", HOSTILE]
TASK = {"task": "classify", "temperature": 1.0, "thresholds": {"fraud": 0.25}, "by": "cost", "multi_label": False}


@pytest.fixture(scope="module")
def chromium() -> Iterator[Tab]:
    with browser() as page:
        yield Tab(page)


@contextmanager
def panel(chromium: Tab, task: str, folder: Path, width: int = 1280) -> Iterator[str]:
    """Show the panel of a task; in the end the page may have spoken to no other host, nor complained."""
    with pytest.MonkeyPatch.context() as here:
        here.setenv("MODEL_DIR", str(folder))
        with listening(asgi_of(task, folder.parent), lifespan="on") as url:
            chromium.visit(f"{url}/playground", width)
            chromium.until("document.getElementById('about').textContent.includes('model')")
            yield url
            overflow = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
            assert chromium.value(overflow) == 0
            assert chromium.hosts() == {url}
            complaints = [one for one in chromium.complaints() if "400 (Bad Request)" not in one]
            assert complaints == []


def bars(tab: Tab, place: str = "#answer") -> list[tuple[str, float]]:
    """Return the names and the widths of the bars."""
    read = (
        f"[...document.querySelectorAll('{place} .bars li')].map(one =>"
        " [one.querySelector('.name').textContent, parseFloat(one.querySelector('.fill').style.width)])"
    )
    return [(name, width) for name, width in tab.value(read)]


def test_the_policy_of_a_panel_lets_in_its_own_script_and_this_server_alone() -> None:
    policy = playground.policy(playground.panel_page("classify", classify_request(service_settings())))
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
    assert "http" not in policy


@needs_chromium
@pytest.mark.parametrize("width", [360, 1280])
def test_probabilities_are_bars_with_the_threshold(chromium: Tab, tmp_path: Path, width: int) -> None:
    folder = make_encoder(tmp_path / "model", "bert", CLASSIFIER, TASK, id2label=dict(enumerate(LABELS)))
    with panel(chromium, "classify", folder, width) as url:
        chromium.fill("text", "twelve red apples")
        chromium.run()
        answer = httpx.post(f"{url}/classify", json={"text": "twelve red apples"}).json()
        [result] = answer["results"]
        expected = [(one["label"], 100 * one["probability"]) for one in result["probabilities"]]
        assert bars(chromium) == [(label, pytest.approx(share, abs=1e-3)) for label, share in expected]
        assert chromium.value("document.querySelector('.decision').textContent") == f"Label: {result['label']}"
        assert chromium.value("document.querySelector('.chosen .name').textContent") == result["label"]
        marks = (
            "[...document.querySelectorAll('.mark')].map(one => one.closest('li').querySelector('.name').textContent)"
        )
        assert chromium.value(marks) == ["fraud"]
        assert chromium.value("document.querySelectorAll('#answer img, #answer script').length") == 0
        [figures] = chromium.figures()
        assert figures["version"] == answer["model"][:12]
        assert "Verdict: not judged" in chromium.value("document.getElementById('verdict').textContent")
        assert "/classify" in chromium.value("document.getElementById('line').textContent")
        chromium.fill("text", "rain " * 60)
        chromium.run()
        message = chromium.value("document.getElementById('trouble').textContent")
        assert f"the model reads {CONTEXT}" in message
        assert bars(chromium) == []


@needs_chromium
def test_passages_are_ranked(chromium: Tab, tmp_path: Path) -> None:
    folder = make_encoder(tmp_path / "model", "roberta", CLASSIFIER, {"task": "rank"}, num_labels=1)
    passages = ["a cat", f"rain {HOSTILE[:20]}", "the golden crown"]
    with panel(chromium, "rank", folder) as url:
        chromium.fill("query", "a king")
        lines = json.dumps("\n\n".join(passages))
        chromium.value(f"document.getElementById('documents').value = {lines}")
        chromium.run()
        body: dict[str, Any] = {"query": "a king", "documents": passages}
        results = httpx.post(f"{url}/rerank", json=body).json()["results"]
        expected = [(passages[one["index"]], 100 * one["relevance_score"]) for one in results]
        assert bars(chromium) == [(text, pytest.approx(share, abs=1e-3)) for text, share in expected]
        assert chromium.figures()[0]["engine"] == "transformers"


@needs_chromium
def test_gaps_are_filled(chromium: Tab, tmp_path: Path) -> None:
    folder = make_encoder(tmp_path / "model", "bert", "AutoModelForMaskedLM", {"task": "masked_lm"})
    text = "A [MASK] cat sat on the <mask> mat."
    with panel(chromium, "masked_lm", folder) as url:
        chromium.fill("inputs-text", text)
        chromium.fill("top_k", "3")
        chromium.run()
        answer = httpx.post(f"{url}/fill-mask", json={"inputs": text, "top_k": 3}).json()
        expected = [(one["token_str"], 100 * one["score"]) for gap in answer for one in gap]
        assert bars(chromium) == [(token, pytest.approx(share, abs=1e-3)) for token, share in expected]
        best = [gap[0]["token_str"] for gap in answer]
        assert chromium.value("[...document.querySelectorAll('mark')].map(one => one.textContent)") == best
        filled = chromium.value("document.querySelector('.filled').textContent")
        assert filled == f"A {best[0]} cat sat on the {best[1]} mat."


@needs_chromium
def test_a_task_without_a_panel_has_its_texts_and_the_answer_as_json(
    chromium: Tab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = create_model("Body", text=(str, Field(examples=["a king"])), top_k=(int | None, None))
    monkeypatch.setattr(Classify, "page", lambda *_: playground.panel("classify/", body))  # a path of its route
    folder = make_encoder(tmp_path / "model", "bert", CLASSIFIER, TASK, id2label=dict(enumerate(LABELS)))
    with panel(chromium, "classify", folder) as url:
        chromium.run()
        answer = httpx.post(f"{url}/classify", json={"text": "a king"}).json()
        shown = json.loads(chromium.value("document.querySelector('#answer pre').textContent"))
        assert shown["results"][0]["label"] == answer["results"][0]["label"]
