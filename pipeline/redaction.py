"""Masks personal data and secrets in texts that people see: on pages, in logs and in messages."""

from collections.abc import Mapping
from types import MappingProxyType

from pipeline.intake import personal_data
from pipeline.intake.detector import Detector

_NONE: Mapping[str, Detector] = MappingProxyType({})


def redact(text: str, region: str = "none", further: Mapping[str, Detector] = _NONE) -> str:
    """Return `text` with [email], [phone], [card], [iban] and [secret] in place of such data.

    Pass whole texts: half a card number is not recognised as one.

    Args:
        text: The text to mask.
        region: Country whose national phone numbers are masked too, as in the rule `phone`.
        further: Detectors to apply after those, such as `identifiers.detectors`; a finding becomes [name].
    """
    detectors = {**personal_data.detectors(region), **further}
    for name in (*personal_data.PERSONAL_RULES, *further):
        pieces, end_before = [], 0
        for start, end in detectors[name].find(text):
            pieces += [text[end_before:start], f"[{name}]"]
            end_before = end
        text = "".join([*pieces, text[end_before:]])
    return text
