"""The bounds of the rules, how Great Expectations applies them, and that nothing passes unchecked."""

import json
from pathlib import Path

import great_expectations as gx
import numpy as np
import pandas as pd
import pytest
import sqlalchemy

from pipeline import param_rules, params
from pipeline.intake import row_metrics
from pipeline.intake.explain import Explainer
from pipeline.intake.rules import Checker, corpus_suite, duplicate_suite, row_suite
from tests.conftest import ROOT

DEFAULTS = params.load(ROOT / "params.yaml").validate_
TEXTS = [
    "A clean text.",
    " ",
    "x" * 2001,
    "caf\ufffd",
    "a\0b",
    "-----;;;;; a",
    "Write to bob@example.com or +49 30 12345678",
    "My card is 4111 1111 1111 1111 and it does not work",
    "DE89370400440532013000",
    "postgres://bob:" + "hunter2@db",
]
REASONS = [
    (),
    ("empty",),
    ("too_long",),
    ("encoding_damage",),
    ("control_characters",),
    ("few_letters",),
    ("email", "phone"),
    ("card",),
    ("iban",),
    ("secret",),
]


def rules(**changes: dict[str, object]) -> param_rules.Rules:
    content = DEFAULTS.rules.model_dump()
    for name, values in changes.items():
        content[name] |= values
    return param_rules.Rules.model_validate(content)


def check(texts: list[str], config: param_rules.Rules) -> tuple[list[tuple[str, ...]], list[tuple[str, ...]]]:
    return Checker(row_suite(config)).check(pd.DataFrame(row_metrics.compute_row_metrics(texts, config)))


def test_each_row_gets_the_names_of_the_rules_it_breaks() -> None:
    critical, warnings = check(TEXTS, DEFAULTS.rules)
    assert critical == REASONS
    assert warnings == [()] * len(TEXTS)


def test_warnings_are_separate_and_ignored_rules_are_not_checked() -> None:
    config = rules(email={"severity": "warning"}, phone={"severity": "ignore"}, few_letters={"severity": "warning"})
    critical, warnings = check(TEXTS, config)
    assert (critical[6], warnings[6]) == ((), ("email",))
    assert (critical[5], warnings[5]) == ((), ("few_letters",))
    assert "phone" not in row_metrics.compute_row_metrics(TEXTS, config)


def test_all_rules_can_be_switched_off() -> None:
    ignored = rules(**{name: {"severity": "ignore"} for name in param_rules.Rules.model_fields})
    assert Checker(row_suite(ignored)).check(pd.DataFrame({"row": [2, 3]})) == ([(), ()], [(), ()])


@pytest.mark.parametrize(
    ("rule", "bound", "passing", "breaking"),
    [
        ("too_short", {"min_characters": 3}, " abc ", "ab"),
        ("too_long", {"max_characters": 3}, " abc ", "abcd"),
        ("encoding_damage", {"max_damaged": 1}, "caf\ufffd", "c\ufffdf\ufffd"),
        ("control_characters", {"max_controls": 1}, "a\a", "a\a\a"),
        ("few_letters", {"min_letters": 0.25, "also": []}, "a123", "a1234"),
        ("script", {"scripts": ["Greek"], "min_share": 0.5}, "αa", "αaa"),  # noqa: RUF001
        ("language", {"languages": ["de"], "min_characters": 10}, "Wo ist bitte der Bahnhof?", "Where is the station?"),
    ],
)
def test_bounds_are_inclusive_and_come_from_the_params(
    rule: str, bound: dict[str, object], passing: str, breaking: str
) -> None:
    config = rules(**{name: {"severity": "ignore"} for name in param_rules.Rules.model_fields})
    config = param_rules.Rules.model_validate(config.model_dump() | {rule: {"severity": "critical", **bound}})
    assert check([passing, breaking], config) == ([(), (rule,)], [(), ()])


def test_each_reason_is_explained_by_its_value_and_bound() -> None:
    explainer = Explainer(rules(near_duplicate={"similarity": 0.9}))
    values = {"few_letters": 1 / 16, "too_long": 123_456.0, "email": 2.0, "empty": 1.0, "near_duplicate": 0.93219}
    assert explainer.details("duplicate few_letters too_long", values, 12) == (
        "duplicate: of row 12; few_letters: 0.0625 (at least 0.1); too_long: 123456 (at most 2000)"
    )
    assert explainer.details("email empty near_duplicate repeated_header", values, 7) == (
        "email: 2 (at most 0); near_duplicate: 0.9322 to row 7 (below 0.9)"
    )


def test_near_copies_are_refused_from_the_configured_similarity() -> None:
    config = rules(near_duplicate={"similarity": 0.9, "severity": "warning"})
    frame = pd.DataFrame({"duplicate": [0, 1, 0, 0], "near_duplicate": [0.0, 0.0, 0.9, 0.89]})
    critical, warnings = Checker(duplicate_suite(config)).check(frame)
    assert critical == [(), ("duplicate",), (), ()]
    assert warnings == [(), (), ("near_duplicate",), ()]
    flags = frame.assign(near_duplicate=[0, 0, 1, 1])
    assert Checker(duplicate_suite(config)).check(flags)[1] == [(), (), ("near_duplicate",), ("near_duplicate",)]


@pytest.mark.parametrize(
    ("change", "broken"),
    [
        ({}, ()),
        ({"rows_in": 0}, ("rows_in",)),
        ({"rows_unaccounted": 1}, ("rows_unaccounted",)),
        ({"rows_unaccounted": -1}, ("rows_unaccounted",)),
        ({"refused_share": 0.2}, ()),
        ({"refused_share": 0.201}, ("refused_share",)),
        ({"train": 0, "validation": 0, "test": 0}, ("test", "train", "validation")),
    ],
)
def test_the_whole_corpus_has_bounds_too(change: dict[str, float], broken: tuple[str, ...]) -> None:
    statistics = {"rows_in": 10, "rows_unaccounted": 0, "refused_share": 0.1, "train": 7, "validation": 1, "test": 1}
    frame = pd.DataFrame([statistics | change])
    assert Checker(corpus_suite(DEFAULTS)).check(frame) == ([broken], [()])


# ---- nothing passes unchecked


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (lambda frame: frame[:0], "there are no rows to apply the rules to"),
        (lambda frame: frame.drop(columns="email"), "could not apply the rule email"),
        (lambda frame: frame.assign(email=[0, np.nan]), "1 rows have no number for the rule email"),
        (lambda frame: frame.assign(email=[None, None]), "2 rows have no number for the rule email"),
        (lambda frame: frame.assign(email=["0", "many"]), "could not apply the rule email"),
    ],
)
def test_rows_that_cannot_be_checked_do_not_pass(fault: object, message: str) -> None:
    frame = pd.DataFrame(row_metrics.compute_row_metrics(["one text", "two texts"], DEFAULTS.rules))
    checker = Checker(row_suite(DEFAULTS.rules))
    assert callable(fault)
    with pytest.raises(RuntimeError, match=message):
        checker.check(fault(frame))
    assert checker.results == []


def test_the_frames_index_does_not_matter() -> None:
    frame = pd.DataFrame(row_metrics.compute_row_metrics(TEXTS, DEFAULTS.rules))
    frame.index = pd.Index([7] * len(frame))
    assert Checker(row_suite(DEFAULTS.rules)).check(frame)[0] == REASONS


# ---- what is kept of Great Expectations' results


def test_the_results_are_reproducible_and_hold_no_text() -> None:
    def results() -> str:
        checker = Checker(row_suite(DEFAULTS.rules))
        for texts in (TEXTS, TEXTS[:3]):
            checker.check(pd.DataFrame(row_metrics.compute_row_metrics(texts, DEFAULTS.rules)))
        return json.dumps(checker.results, indent=2)

    first = results()
    assert results() == first
    chunks = json.loads(first)
    assert [chunk["success"] for chunk in chunks] == [False, False]
    assert [chunk["suite"] for chunk in chunks] == ["rows", "rows"]
    email = next(outcome for outcome in chunks[0]["results"] if outcome["meta"] == {"reason": "email"})
    assert email["severity"] == "critical"
    assert email["kwargs"] == {"column": "email", "max_value": 0.0}
    assert (email["result"]["element_count"], email["result"]["unexpected_count"]) == (len(TEXTS), 1)
    assert "bob@example.com" not in first
    assert "index" not in first


# ---- engines


def test_the_same_suite_gives_the_same_verdicts_in_a_database(tmp_path: Path) -> None:
    config = rules(script={"severity": "critical"}, few_letters={"severity": "warning"})
    frame = pd.DataFrame(row_metrics.compute_row_metrics(TEXTS, config))
    checker = Checker(row_suite(config))
    critical, warnings = checker.check(frame)

    url = f"sqlite:///{tmp_path / 'row_metrics.db'}"
    engine = sqlalchemy.create_engine(url)
    frame.to_sql("row_metrics", engine, index_label="position")
    engine.dispose()
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    table = context.data_sources.add_sqlite("database", connection_string=url).add_table_asset("row_metrics")
    batch = table.add_batch_definition_whole_table("all").get_batch()
    result = batch.validate(
        row_suite(config),
        result_format={"result_format": "COMPLETE", "unexpected_index_column_names": ["position"]},
    )
    by_database: dict[str, list[set[str]]] = {severity: [set() for _ in TEXTS] for severity in ("critical", "warning")}
    for outcome in result.results:
        assert outcome.exception_info["raised_exception"] is False
        for place in outcome.result.get("unexpected_index_list") or []:
            config = outcome.expectation_config
            by_database[config.severity][place["position"]].add(config.meta["reason"])
    assert by_database["critical"] == [set(reasons) for reasons in critical]
    assert by_database["warning"] == [set(reasons) for reasons in warnings]
    assert result.statistics == checker.results[0]["statistics"]
