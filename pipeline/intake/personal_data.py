"""Detectors of personal data and secrets: e-mail addresses, phone, card and bank account numbers, keys.

Each pattern repeats a bounded number of times, so a search takes time in proportion to the text. Numbers count only
where their checksum holds. Libraries for single rules are imported when a text needs them.
"""

import re
import unicodedata
from collections.abc import Iterator
from functools import cache

from pipeline.command import UserError
from pipeline.intake import credentials
from pipeline.intake.detector import Detector, Span

PERSONAL_RULES = ("secret", "email", "iban", "card", "phone")  # the most specific first: the order of redaction


@cache
def detectors(region: str) -> dict[str, Detector]:
    """Return the detector of each of PERSONAL_RULES; `region` is that of the rule `phone`, "none" for no region."""
    return {
        "email": Detector(r"@[^@]*\.", _find_emails),
        "phone": _phone_detector(region),
        "card": Detector(r"[0-9](?:[ -]?[0-9]){13}", _find_cards),
        "iban": Detector(r"[A-Za-z]{2}[0-9]{2}(?:[ -]?[0-9A-Za-z]){11}", _find_ibans),
        "secret": Detector(credentials.prefilter(), credentials.find),
    }


# Not addresses, though what follows the @ looks like a domain: image names for dense screens (icon@2x.png), packages
# with a version (pkg@1.2.3-rc.beta), and git@host.
_EMAIL = re.compile(
    r"(?<![\w.!#$%&'*+/=?^`{|}~@-])(?!git@)[\w.!#$%&'*+/=?^`{|}~-]{1,64}@"
    r"(?!\d{1,20}(?:\.\d|x\.(?:png|jpe?g|gif|webp|svg)\b))"
    r"(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.){1,32}[^\W\d_]{2,24}(?!\w)"
)


def _find_emails(text: str) -> Iterator[Span]:
    """Yield e-mail addresses: a name, @ and a domain with a dot (lengths of RFC 5321; no quoted names, no hosts)."""
    return (match.span() for match in _EMAIL.finditer(text))


_DATE = re.compile(r"\d{1,4}([./ -])\d{1,2}\1\d{1,4}")


def _phone_detector(region: str) -> Detector:
    """Return the detector of phone numbers that are valid in their country's numbering plan (libphonenumber).

    Without a region it finds numbers with a country code (+49 ...). With a region it also finds that region's national
    numbers if they look like phone numbers: grouped, or with a leading 0, and not a date.
    """
    import phonenumbers

    if region != "none" and region not in phonenumbers.SUPPORTED_REGIONS:
        raise UserError(
            f"params.yaml: validate.rules.phone.region: found {region!r}, which is not a region with phone numbers; "
            "expected none or a country code of ISO 3166 in capitals, such as US, GB, DE"
        )

    def find(text: str) -> Iterator[Span]:
        for match in phonenumbers.PhoneNumberMatcher(text, None if region == "none" else region):
            number = match.raw_string
            international = "+" in unicodedata.normalize("NFKC", number)
            grouped = not number.isdecimal()
            if international or ((grouped or number.startswith("0")) and not _DATE.fullmatch(number)):
                yield match.start, match.end

    prefilter = r"[+\x{FF0B}][^A-Za-z]*\p{Nd}" if region == "none" else r"(?:\p{Nd}[^A-Za-z]{0,5}){6}\p{Nd}"
    return Detector(prefilter, find)


# The lengths and first digits that issuers use (ISO/IEC 7812): Visa, Mastercard, American Express, Discover, JCB,
# Diners Club, UnionPay. Maestro is left out: its numbers are half of all numbers.
_ISSUED = re.compile(
    r"4\d{15}(?:\d{3})?|(?:5[1-5]\d\d|222[1-9]|22[3-9]\d|2[3-6]\d\d|27[01]\d|2720)\d{12}|3[47]\d{13}"
    r"|(?:6011|64[4-9]\d|65\d\d|35[3-8]\d|352[89])\d{12,15}|3(?:0[0-5]|095|[689]\d)\d{11}|62\d{14,17}"
)
# In one piece or in the groups printed on cards; not part of a longer number, word or decimal fraction.
_CARD = re.compile(
    r"(?<![0-9A-Za-z_+])(?<![0-9][.,:/-])"
    r"(?:[0-9]{14,19}|[0-9]{4}([ -])[0-9]{4}\1[0-9]{4}\1[0-9]{4}(?:\1[0-9]{3})?|3[0-9]{3}([ -])[0-9]{6}\2[0-9]{4,5})"
    r"(?![0-9A-Za-z_])(?![.,:/-][0-9])"
)


def _find_cards(text: str) -> Iterator[Span]:
    """Yield payment card numbers: an issuer's first digits and length, and a valid check digit (Luhn)."""
    from stdnum import luhn

    for match in _CARD.finditer(text):
        digits = match[0].replace(" ", "").replace("-", "")
        if _ISSUED.fullmatch(digits) and luhn.is_valid(digits):
            yield match.span()


_IBAN = re.compile(r"(?<![0-9A-Za-z_])[A-Za-z]{2}[0-9]{2}(?:[ -]?[0-9A-Za-z]){11,30}")


def _find_ibans(text: str) -> Iterator[Span]:
    """Yield IBANs: a country's structure and valid check digits (ISO 13616). Words may follow after a space."""
    from stdnum import iban

    start = 0
    while match := _IBAN.search(text, start):
        start = match.start() + 1
        places = [at for at, character in enumerate(match[0]) if character not in " -"]
        length = _iban_length(match[0][:2].upper())
        if not 15 <= length <= len(places):
            continue
        end = match.start() + places[length - 1] + 1
        candidate = text[match.start() : end]
        if text[end : end + 1].isalnum() or not _has_check_digits(candidate):
            continue
        # Without check_country: its lists of banks are out of date.
        if iban.is_valid(candidate, check_country=False):
            yield match.start(), end
            start = end


@cache
def _iban_length(country: str) -> int:
    """Return how many letters and digits an IBAN of `country` has; 0 if it has no IBANs."""
    from stdnum import numdb

    structure = numdb.get("iban").info(country)[0][1].get("bban", "")
    return 4 + sum(map(int, re.findall(r"\d+(?=!)", structure))) if structure else 0


def _has_check_digits(candidate: str) -> bool:
    """Return whether an IBAN's checksum is valid (ISO 7064, mod 97-10); faster than stdnum, which checks more."""
    compact = candidate.replace(" ", "").replace("-", "")
    return int("".join(str(int(character, 36)) for character in compact[4:] + compact[:4])) % 97 == 1
