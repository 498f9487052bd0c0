"""The rules of the intake in words: what each refuses, where it is set, and what to do about it."""

from dataclasses import dataclass

from pipeline import params
from pipeline.intake.rules import BROKEN_ROW, REPEATED_HEADER
from pipeline.intake.task_columns import INVALID, MISSING


@dataclass(frozen=True)
class RuleDescription:
    """A rule in words: what it refuses, its settings in params.yaml, and what to do."""

    severity: str
    condition: str
    settings: tuple[str, ...]
    remedy: str


_DESCRIPTIONS = {  # rule: condition and remedy
    REPEATED_HEADER: (
        "the column names again, as where files were joined",
        "Nothing to do; if it is a text, set the rule to ignore.",
    ),
    "empty": ("no character that is not white space", "Give the row a text or delete it."),
    "too_short": ("fewer than {min_characters} characters after trimming", "Lower the bound if short texts matter."),
    "too_long": (
        "more than {max_characters} characters after trimming",
        "Split such texts into rows of their own, or raise the bound.",
    ),
    "encoding_damage": (
        "more than {max_damaged} lost or garbled characters (\ufffd, or é for é)",
        "Export the corpus again as UTF-8 from where it came; the characters cannot be recovered from this file.",
    ),
    "control_characters": (
        "more than {max_controls} control characters other than tabs and line breaks",
        "Remove them where the text comes from.",
    ),
    "few_letters": (
        "less than {min_letters} of the characters that are not white space are letters, or of the kinds: {also}",
        "Lower the bound if lines of punctuation are what you want to learn.",
    ),
    "script": (
        "less than {min_share} of the letters are of the scripts {scripts}",
        "Add the script to the list to keep such texts.",
    ),
    "language": (
        "in none of the languages {languages} (texts of {min_characters} characters or more)",
        "Add the language to the list to keep such texts.",
    ),
    "email": ("an e-mail address", "Replace it with a placeholder, so that no model can repeat it."),
    "phone": (
        "a phone number (with a country code; national ones of region: {region})",
        "Replace it with a placeholder, so that no model can repeat it.",
    ),
    "card": (
        "a payment card number with a correct checksum",
        "Replace it with a placeholder, so that no model can repeat it.",
    ),
    "iban": (
        "a bank account number (IBAN) with a correct checksum",
        "Replace it with a placeholder, so that no model can repeat it.",
    ),
    "secret": (
        "a key or token of a known service, or a private key",
        "Revoke the secret, then replace it with a placeholder.",
    ),
    "social_security": (
        "a US social security number in a form that is issued",
        "Replace it with a placeholder, so that no model can repeat it.",
    ),
    "record_number": (
        "a patient record or insurance number, after a word that says so",
        "Replace it with a placeholder, so that no model can repeat it.",
    ),
    "birth_date": ("a date after a word such as born", "Replace it with the year or a placeholder."),
    "person_name": (
        "a person's name, as the spaCy pipeline {model} finds it",
        "Replace it with a placeholder, so that no model can repeat it.",
    ),
    "duplicate": (
        "an earlier row has the same text, apart from case, white space and Unicode form",
        "The earlier row stays; with severity: warning all copies stay, and count as often as they occur.",
    ),
    "near_duplicate": (
        "at least {similarity} similar to an earlier row's text (Jaccard of their 5-character pieces)",
        "The earlier row stays. Raise the bound if distinct texts count as copies.",
    ),
}


def describe_rule(reason: str, config: params.Validate) -> RuleDescription:
    """Return the description of the rule behind `reason`, with its bounds."""
    rules = config.rules
    for column in config.columns.kept:
        if reason == f"{MISSING}{column.name}":
            remedy = f"Fill in the column {column.source!r}, or delete the row."
            return RuleDescription("critical", f"the {column.name} is blank", (column.key,), remedy)
        if reason == f"{INVALID}{column.name}":
            condition = f"the {column.name} is not {column.expected}"
            return RuleDescription("critical", condition, (column.key,), "Correct the cell.")
    if reason == BROKEN_ROW:
        return RuleDescription(
            "critical",
            "more or fewer fields than the header has columns",
            ("data.broken_rows",),
            "Put texts that hold a delimiter or a line break in quotes.",
        )
    rule = getattr(rules, reason)
    bounds = {name: value for name, value in rule if name != "severity"}
    condition, remedy = _DESCRIPTIONS[reason]
    values = {name: ", ".join(value) or "none" if isinstance(value, tuple) else value for name, value in bounds.items()}
    return RuleDescription(
        rule.severity,
        condition.format(**values),
        tuple(f"validate.rules.{reason}.{name}" for name in (*bounds, "severity")),
        remedy,
    )
