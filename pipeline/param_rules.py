"""Settings of the rules that `validate` applies to rows."""

from typing import Annotated, Literal

from pydantic import (
    Field,
    model_validator,
)

from pipeline.param_types import (
    Count,
    Name,
    Section,
    Share,
)


class Rule(Section):
    """What a row must keep to."""

    severity: Literal["critical", "warning", "ignore"]


class TooShort(Rule):
    """Length after trimming, at least."""

    min_characters: Count


class TooLong(Rule):
    """Length after trimming, at most."""

    max_characters: Count


class EncodingDamage(Rule):
    """Lost or garbled characters, at most."""

    max_damaged: Annotated[int, Field(ge=0)]


class ControlCharacters(Rule):
    """Control characters but tab and line breaks, at most."""

    max_controls: Annotated[int, Field(ge=0)]


class FewLetters(Rule):
    """Share of letters, and of what counts `also`, among the characters that are not white space, at least."""

    min_letters: Share
    also: Annotated[tuple[Literal["digits", "symbols"], ...], Field(strict=False)]


class Script(Rule):
    """Share of the letters that are of these scripts, at least."""

    scripts: Annotated[tuple[Name, ...], Field(strict=False, min_length=1)]
    min_share: Share


class Language(Rule):
    """The languages a text may be in, where it is long enough to tell."""

    languages: Annotated[tuple[Name, ...], Field(strict=False, min_length=1)]
    min_characters: Count


class Phone(Rule):
    """Phone numbers, also the national ones of a region."""

    region: Name


class PersonName(Rule):
    """Names of persons, as a spaCy pipeline tells them."""

    model: Name


class NearDuplicate(Rule):
    """Similarity (Jaccard) to an earlier text from which on a text counts as its copy."""

    similarity: Annotated[float, Field(ge=0.5, le=1)]


class Rules(Section):
    """The rules for rows; a rule's name is the reason that `quarantine.csv` and the metrics give."""

    repeated_header: Rule
    empty: Rule
    too_short: TooShort
    too_long: TooLong
    encoding_damage: EncodingDamage
    control_characters: ControlCharacters
    few_letters: FewLetters
    script: Script
    language: Language
    email: Rule
    phone: Phone
    card: Rule
    iban: Rule
    secret: Rule
    social_security: Rule
    record_number: Rule
    birth_date: Rule
    person_name: PersonName
    duplicate: Rule
    near_duplicate: NearDuplicate

    @model_validator(mode="after")
    def _leaves_something(self) -> "Rules":
        if self.too_short.min_characters > self.too_long.max_characters:
            raise ValueError("too_short.min_characters must not be above too_long.max_characters")
        return self
