"""Redaction replaces what the rules for personal data and secrets find, and nothing else."""

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.intake import row_metrics
from pipeline.intake.personal_data import PERSONAL_RULES
from pipeline.redaction import redact
from tests.pipeline.intake.test_row_metrics import DEFAULTS, FINDINGS, number


def test_personal_data_and_secrets_are_replaced_by_what_they_are() -> None:
    key = "-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----"
    text = f"Write a@b.de or +49 30 12345678; 4111 1111 1111 1111, DE89 3704 0044 0532 0130 00. {key} a@c.de"
    assert redact(text) == "Write [email] or [phone]; [card], [iban]. [secret] [email]"
    assert redact("call 212-555-2368", region="US") == "call [phone]"


def test_nothing_that_a_rule_finds_is_left_after_redaction() -> None:
    for rule in PERSONAL_RULES:
        for text in FINDINGS[rule][0]:
            assert number(redact(f"So: {text} - yes"), rule) == 0


@given(st.text())
@settings(derandomize=True, deadline=None, max_examples=50)
def test_a_text_without_such_data_is_not_changed(text: str) -> None:
    metrics = row_metrics.compute_row_metrics([text], DEFAULTS)
    if not any(metrics[rule].item() for rule in PERSONAL_RULES):
        assert redact(text) == text
