"""Detectors of health data and personal identifiers: social security and record numbers, birth dates, names.

Numbers and dates are found by the patterns and checks of presidio-analyzer, an optional package; only names need a
model, a spaCy pipeline. A pattern that fits many harmless numbers counts only after a word that says what follows.
"""

import re
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Any

from pipeline import param_rules
from pipeline.command import UserError
from pipeline.intake.detector import Detector, Find, Span

if TYPE_CHECKING:
    from presidio_analyzer import PatternRecognizer

RULES = ("social_security", "record_number", "birth_date", "person_name")
_CERTAIN = 0.5  # presidio's score from which a pattern counts without such a word
_CONTEXT = 40  # characters before a finding in which the word must be
_BIRTH = r"born|birth|birthday|birthdate|d\.?o\.?b\.?|geboren|geb\.|geburtsdatum|née?|nacimiento|naissance"
_RECORD = r"mrn|medical|patient|record|chart|member|subscriber|insurance|policy|claim|medicare|mbi|nhs|dea"
_PERSON = ("PERSON", "PER")  # labels of English and of most other spaCy pipelines
_MONTH = r"(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]{0,6}\.?"
# Patterns for RE2 that match every text with a finding.
_PREFILTERS = {
    "social_security": r"[0-9]{3}[ .-]?[0-9]{2}[ .-]?[0-9]{4}",
    "record_number": rf"(?i:{_RECORD})",
    "birth_date": rf"(?i:{_BIRTH})",
    "person_name": r"\pL",
}


def detectors(rules: param_rules.Rules) -> dict[str, Detector]:
    """Return the detector of each of RULES that is not ignored.

    Raises UserError if presidio-analyzer or the model for names is not installed.
    """
    active = [name for name in RULES if getattr(rules, name).severity != "ignore"]
    return {name: Detector(_PREFILTERS[name], _find_of(name, rules.person_name.model)) for name in active}


@cache
def _find_of(name: str, model: str) -> Find:
    try:
        from presidio_analyzer import Pattern, PatternRecognizer
        from presidio_analyzer import predefined_recognizers as known
    except ImportError:
        raise UserError(
            f"params.yaml: validate.rules.{name} needs presidio-analyzer, which is not installed; install it with "
            "pip install -c constraints.txt presidio-analyzer, or set the rule's severity to ignore"
        ) from None
    if name == "person_name":
        return _by_model(model)
    if name == "social_security":
        return _by_pattern([known.UsSsnRecognizer()], r"ssns?|social|security", _CERTAIN)
    if name == "birth_date":
        with_month_names = [
            Pattern("day month year", rf"\b[0-3]?[0-9]\.? {_MONTH},? [12][0-9]{{3}}\b", 0.4),
            Pattern("month day year", rf"\b{_MONTH} [0-3]?[0-9],? [12][0-9]{{3}}\b", 0.4),
        ]
        dates = [known.DateRecognizer(), PatternRecognizer(supported_entity="DATE_TIME", patterns=with_month_names)]
        return _by_pattern(dates, _BIRTH, None)
    mrn = Pattern("medical record number", r"\b[A-Z]{0,3}-?[0-9]{5,12}\b", 0.4)
    numbers = [
        PatternRecognizer(supported_entity="MEDICAL_RECORD", patterns=[mrn]),
        known.UsMbiRecognizer(),
        known.MedicalLicenseRecognizer(),
        known.NhsRecognizer(),
        known.UsHealthInsuranceMemberIdRecognizer(),
    ]
    return _by_pattern(numbers, _RECORD, None)


def _by_pattern(recognizers: "list[PatternRecognizer]", words: str, certain: float | None) -> Find:
    """Return a search for the recognizers' matches that follow one of `words`, or have a score of `certain`."""
    word = re.compile(rf"(?<!\w)(?:{words})(?!\w)", re.IGNORECASE)

    def find(text: str) -> Iterator[Span]:
        results: list[Any] = []
        for recognizer in recognizers:
            results += recognizer.analyze(text, recognizer.supported_entities, None)
        end = 0
        for result in sorted(results, key=lambda result: (result.start, -result.end)):
            is_certain = certain is not None and result.score >= certain
            if result.start >= end and (
                is_certain or word.search(text[max(0, result.start - _CONTEXT) : result.start])
            ):
                end = result.end
                yield result.start, result.end

    return find


def _by_model(model: str) -> Find:
    """Return a search for the names of persons with a spaCy pipeline."""
    import spacy

    try:
        pipeline = spacy.load(model)
    except OSError:
        raise UserError(
            f"params.yaml: validate.rules.person_name.model: there is no spaCy pipeline {model!r}; install it with "
            f"python -m spacy download {model}, or name another one or its folder"
        ) from None

    def find(text: str) -> Iterator[Span]:
        return ((entity.start_char, entity.end_char) for entity in pipeline(text).ents if entity.label_ in _PERSON)

    return find
