"""A verdict reads the same as JSON, Markdown and terminal text, and no text in it can break them."""

import json
import math
import re
from dataclasses import replace

import numpy as np

from pipeline.verdict import rendering
from pipeline.verdict.judge import unchanged
from tests.pipeline.verdict.comparisons import compared, judged, metrics, noisy_scores
from tests.pipeline.verdict.test_gates import grouped

TITLE = "Not promoted: candidate 0123456789ab against the champion ba9876543210\n\n- Better than"


def test_json_has_the_keys_that_scripts_rely_on_and_no_nan() -> None:
    verdict = judged(compared(text__loops=math.nan, memorisation__copied=np.float64(0.01)))
    content = json.loads(json.dumps(rendering.as_json(verdict), allow_nan=False))
    assert list(content) == [
        "promoted", "forced", "reasons", "warnings", "candidate", "champion", "against", "difference", "comparison",
        "gates", "counterfactuals", "rows", "at", "challenge",
    ]  # fmt: skip
    assert set(content["difference"]) >= {"gain", "low", "high", "nats", "rows", "confidence"}
    keys = ["name", "value", "low", "bound", "reference", "passed", "sentence", "counterfactual", "high", "warning"]
    assert [list(gate) for gate in content["gates"]] == [keys] * 9
    assert content["candidate"]["text"]["loops"] is None


def test_a_verdict_without_a_comparison_is_json_too() -> None:
    verdict = unchanged(metrics())
    assert json.dumps(rendering.as_json(verdict), allow_nan=False)
    assert "already is the champion" in rendering.markdown(verdict)


def test_markdown_is_a_heading_the_comparison_the_bounds_and_counterfactuals() -> None:
    text = rendering.markdown(judged(compared(text__loops=0.25)))
    assert text.startswith(f"# {TITLE}")
    assert "- It loops: 25.0 % of its 100 texts end in a loop;" in text
    assert "| loops | **broken** | 0.250 | 0.167 | 0.050 |" in text
    assert "\n## What would have changed it\n\n- " in text
    first = rendering.markdown(judged(against="base"))
    assert first.startswith("# Promoted: candidate 0123456789ab against the base, as there is no champion")


def test_terminal_text_is_aligned_within_100_columns_and_says_the_same() -> None:
    text = rendering.text(judged(compared(text__loops=0.25)))
    assert text.startswith(TITLE)
    assert max(map(len, text.splitlines())) <= 100
    assert "- It loops: 25.0 % of its 100 texts end in a loop;" in text
    assert re.search(r"^loops +BROKEN +0.250 +0.167 +0.050$", text, re.MULTILINE)
    assert "|" not in text
    assert "#" not in text


def test_a_forced_promotion_says_what_spoke_against_it() -> None:
    verdict = judged(compared(noisy_scores()), forced="the champion is on fire")
    beginning = "Promoted by force: the champion is on fire (What spoke against it: Better by"
    assert rendering.summary(verdict).startswith(beginning)
    assert "Forced, for this reason: the champion is on fire" in rendering.markdown(verdict)


def test_a_group_name_cannot_break_the_table() -> None:
    comparison = grouped({"loans": 0.15}, rows=100)
    groups = [name.replace("loans", "a|b\n| c") for name in comparison.groups]
    text = rendering.markdown(judged(replace(comparison, groups=groups)))
    (row,) = [line for line in text.splitlines() if line.startswith("| groups")]
    assert "a\\|b \\| c: perplexity up" in row
