"""Health data: what its rules find with presidio, what they ignore, and the error if it is not installed."""

import sys
from pathlib import Path

import pytest

from pipeline import param_rules, params
from pipeline.command import UserError
from pipeline.intake import identifiers, row_metrics
from pipeline.redaction import redact
from pipeline.reporting.intake_summary import Examples
from tests.conftest import ROOT

DEFAULTS = params.load(ROOT / "params.yaml").validate_.rules
FINDINGS = {
    "social_security": (
        ["My SSN is 536-90-4399.", "Social security number: 536904399", "He wrote 536 90 4399 on the form."],
        ["Call 212-555-2368.", "Order 536904399 is late.", "078-05-1120 is in every brochure.", "SSN: 000-12-3456"],
    ),
    "record_number": (
        ["MRN 00123456 was admitted.", "Patient no. A-1234567", "Medicare 1EG4-TE5-MK73", "NHS number 943 476 5919"],
        ["The patient waited 20 minutes in room 12.", "Invoice 00123456 is paid.", "A record year: 2024"],
    ),
    "birth_date": (
        ["born 03/04/1961 in Ohio", "DOB: 1961-04-03", "Her date of birth is March 3, 1961.", "geb. 03.04.1961"],
        ["Seen on 03/04/2024.", "She was born in May.", "1961-04-03"],
    ),
}


def rules(**changes: dict[str, object]) -> param_rules.Rules:
    """Return the default rules with some changed."""
    content = DEFAULTS.model_dump()
    for name, values in changes.items():
        content[name] |= values
    return param_rules.Rules.model_validate(content)


@pytest.mark.parametrize("rule", FINDINGS)
def test_a_rule_finds_its_cases_and_ignores_lookalikes(rule: str) -> None:
    pytest.importorskip("presidio_analyzer")
    matches, lookalikes = FINDINGS[rule]
    config = rules(**{rule: {"severity": "critical"}})
    assert [text for text in matches if not row_metrics.compute_row_metrics([text], config)[rule].item()] == []
    assert [text for text in lookalikes if row_metrics.compute_row_metrics([text], config)[rule].item()] == []


def test_names_are_found_with_a_spacy_pipeline_and_a_missing_one_is_named(tmp_path: Path) -> None:
    spacy = pytest.importorskip("spacy")
    pytest.importorskip("presidio_analyzer")
    pipeline = spacy.blank("en")
    pipeline.add_pipe("entity_ruler").add_patterns([{"label": "PERSON", "pattern": "Ada Byron"}])
    pipeline.to_disk(tmp_path / "names")
    config = rules(person_name={"severity": "critical", "model": str(tmp_path / "names")})
    metrics = row_metrics.compute_row_metrics(["Ada Byron and Ada Byron wrote.", "Nobody wrote."], config)
    assert metrics["person_name"].tolist() == [2, 0]
    with pytest.raises(UserError, match=r"no spaCy pipeline 'en_none'; .* python -m spacy download en_none"):
        identifiers.detectors(rules(person_name={"severity": "warning", "model": "en_none"}))


def test_what_a_rule_finds_is_masked_in_examples() -> None:
    pytest.importorskip("presidio_analyzer")
    further = identifiers.detectors(rules(social_security={"severity": "warning"}, birth_date={"severity": "critical"}))
    examples = Examples(lambda text: redact(text, further=further))
    examples.add(2, "birth_date", "Ann, SSN 536-90-4399, born 03/04/1961, ann@example.com")
    assert examples.of["birth_date"][0].text == "Ann, SSN [social_security], born [birth_date], [email]"


@pytest.mark.parametrize("rule", identifiers.RULES)
def test_without_the_package_the_error_says_how_to_install_it(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert identifiers.detectors(DEFAULTS) == {}
    monkeypatch.setitem(sys.modules, "presidio_analyzer", None)
    identifiers._find_of.cache_clear()
    with pytest.raises(UserError, match=rf"rules\.{rule} needs presidio-analyzer.*pip install -c constraints.txt"):
        identifiers.detectors(rules(**{rule: {"severity": "critical"}}))
