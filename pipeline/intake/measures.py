"""One number per text and rule: what the rules of `pipeline.intake.rules` put a bound on.

Every character is looked at once, through a table of Unicode's properties (the `regex` module's version of Unicode).
Patterns that cost more are tried only on the texts that a prefilter lets through: RE2, by way of Arrow, looks in one
linear pass for what such a finding cannot do without. It may let too much through, never too little.

The module imports quickly, since it runs in worker processes: libraries for single rules are imported when a text
needs them.
"""

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import regex

from pipeline import params
from pipeline.command import UserError

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier

Span = tuple[int, int]
Finder = Callable[[str], Iterator[Span]]

# What is refused for its length anyway is not searched further when it is longer than this many characters: minutes
# of searching a field of 100 MB, say, would change nothing.
SEARCHED_CHARACTERS = 100_000
BLOCK_CHARACTERS = 2**18  # looked up at once: the arrays stay in the processor's cache, and memory stays flat

LETTER, VISIBLE, CONTROL, DAMAGE, TELLING, WANTED = (1 << bit for bit in range(6))
PERSONAL = ("secret", "email", "iban", "card", "phone")  # in the order in which `redact` trusts them


def measure(texts: Sequence[str], rules: params.Rules) -> dict[str, npt.NDArray[Any]]:
    """Return for each rule of rows that is not ignored one number for each text, as its bound is stated.

    Counts (int64): `too_short` and `too_long` characters without the white space around them, `encoding_damage` lost
    or garbled places, `control_characters`, and findings of `email`, `phone`, `card`, `iban` and `secret`. Shares
    (float64): `few_letters`, `script`. 0 or 1 (int64): `empty`, `language` (1: not one of those wanted).

    An empty text has no other fault: where `empty` refuses it, it counts as long enough. A text that `too_long`
    refuses and that has more than SEARCHED_CHARACTERS is not searched for garbled places, personal data, secrets and
    its language; these count 0. Raises UserError for a script, language or region that does not exist.
    """
    measures: dict[str, npt.NDArray[Any]] = {}
    wanted = {name for name in type(rules).model_fields if getattr(rules, name).severity != "ignore"}
    characters = np.fromiter((len(text.strip()) for text in texts), np.int64, len(texts))
    scripts = rules.script.scripts if "script" in wanted else ()
    letters, visible, controls, damaged, telling, of_scripts = _count(texts, scripts)
    # A lone surrogate is no character: it is counted as damage above, and Arrow could not hold it.
    searchable = [text.encode("utf-8", "replace").decode() if damaged[at] else text for at, text in enumerate(texts)]
    if rules.too_long.severity == "critical":
        limit = max(SEARCHED_CHARACTERS, rules.too_long.max_characters)
        for at in np.flatnonzero(characters > limit):
            searchable[at] = ""

    if "empty" in wanted:
        measures["empty"] = (visible == 0).astype(np.int64)
    if "too_short" in wanted:
        refused_already = (characters == 0) & (rules.empty.severity == "critical")
        measures["too_short"] = np.where(refused_already, rules.too_short.min_characters, characters)
    if "too_long" in wanted:
        measures["too_long"] = characters
    if "control_characters" in wanted:
        measures["control_characters"] = controls
    if "few_letters" in wanted:
        measures["few_letters"] = _share(letters, visible)
    if "script" in wanted:
        measures["script"] = _share(of_scripts, telling)
    if "language" in wanted:
        measures["language"] = _of_other_languages(searchable, rules.language)
    finders = {name: finder for name, finder in _finders(rules.phone.region).items() if name in wanted}
    measures |= _search(searchable, finders)
    if "encoding_damage" in wanted:
        measures["encoding_damage"] += damaged
    return measures


def redact(text: str, region: str = "none") -> str:
    """Return `text` with [email], [phone], [card], [iban] and [secret] in place of such data.

    `region` is that of the rule `phone`. Give whole texts: half a card number is not recognised as one.
    """
    finders = _finders(region)
    for name in PERSONAL:
        for start, end in reversed(list(finders[name][1](text))):
            text = f"{text[:start]}[{name}]{text[end:]}"
    return text


def _share(part: npt.NDArray[np.int64], whole: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return part / whole; 1 where the whole is 0, for nothing of it falls short."""
    return np.divide(part, whole, out=np.ones(len(whole)), where=whole > 0)


def _count(texts: Sequence[str], scripts: tuple[str, ...]) -> npt.NDArray[np.int64]:
    """Return how many characters of each text have each property: an array of shape (6, texts)."""
    properties = _properties(scripts)
    counts = np.zeros((6, len(texts)), np.int64)
    for block, owners, starts in _blocks(texts):
        characters = np.frombuffer(block.encode("utf-32-le", "surrogatepass"), np.uint32)
        found = properties[characters]
        present = np.bitwise_or.reduce(found)
        for bit in range(6):
            if present & (1 << bit):
                sums = np.add.reduceat(found >> bit & 1, starts, dtype=np.int64)
                np.add.at(counts[bit], owners, sums)
    return counts


def _blocks(texts: Sequence[str]) -> Iterator[tuple[str, list[int], list[int]]]:
    """Yield texts joined to blocks of at most BLOCK_CHARACTERS: the block, the texts in it, where each starts."""
    pieces: list[str] = []
    owners: list[int] = []
    starts: list[int] = []
    size = 0
    for owner, text in enumerate(texts):
        for offset in range(0, len(text), BLOCK_CHARACTERS):
            piece = text[offset : offset + BLOCK_CHARACTERS]
            if size + len(piece) > BLOCK_CHARACTERS:
                yield "".join(pieces), owners, starts
                pieces, owners, starts, size = [], [], [], 0
            pieces.append(piece)
            owners.append(owner)
            starts.append(size)
            size += len(piece)
    if pieces:
        yield "".join(pieces), owners, starts


@cache
def _properties(scripts: tuple[str, ...]) -> npt.NDArray[np.uint8]:
    """Return a table from code points to the properties that count here.

    LETTER: letters and the marks that belong to them. VISIBLE: all but white space. CONTROL: Unicode's category Cc but
    tab and line breaks, and the two overrides that turn the reading order of what follows (the marks, embeddings and
    isolates of right-to-left text are text). DAMAGE: what stands for a lost character or can be none. TELLING: letters
    of some script, unlike those common to several; WANTED: letters of these scripts.
    """
    table = np.zeros(0x110000, np.uint8)
    every = "".join(map(chr, range(0x110000)))

    def mark(pattern: str, bit: int) -> None:
        for match in regex.finditer(f"{pattern}+", every, regex.V1):
            table[slice(*match.span())] |= bit

    mark(r"[\p{L}\p{M}]", LETTER)
    mark(r"[\p{Cc}\u202D\u202E--[\t\n\r]]", CONTROL)
    mark(r"[\p{Cs}\p{Noncharacter_Code_Point}\uFFFD]", DAMAGE)
    mark(r"[\p{L}--\p{Script=Common}--\p{Script=Inherited}]", TELLING)
    for script in scripts:
        try:
            mark(rf"[\p{{L}}&&\p{{Script={script}}}]", WANTED)
        except regex.error:
            raise UserError(
                f"params.yaml: validate.rules.script.scripts: found {script!r}, which is no script of Unicode; "
                "expected names such as Latin, Cyrillic, Greek, Arabic, Han, Hiragana"
            ) from None
    mark(r"[^\s\x1C-\x1F]", VISIBLE)  # as str.strip has it
    return table


def _of_other_languages(texts: Sequence[str], rule: params.Language) -> npt.NDArray[np.int64]:
    """Return 1 for each text long enough to tell that is in none of the rule's languages."""
    identifier = _identifier()
    unknown = set(rule.languages) - set(identifier.labels)
    if unknown:
        raise UserError(
            f"params.yaml: validate.rules.language.languages: found {min(unknown)!r}, which is no language that can be "
            f"told; expected codes of ISO 639-1 among {', '.join(sorted(identifier.labels))}"
        )
    return np.fromiter(
        (
            len(text.strip()) >= rule.min_characters and identifier.classify(text)[0] not in rule.languages
            for text in texts
        ),
        np.int64,
        len(texts),
    )


@cache
def _identifier() -> "LanguageIdentifier":
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE)


def _search(texts: Sequence[str], finders: dict[str, tuple[str, Finder]]) -> dict[str, npt.NDArray[np.int64]]:
    """Return how often each finder finds something in each text. A finder comes with its prefilter, for RE2."""
    counts = {name: np.zeros(len(texts), np.int64) for name in finders}
    if not finders:
        return counts
    array = pa.array(texts, pa.large_string())
    any_of_them = "|".join(f"(?:{prefilter})" for prefilter, _ in finders.values())
    suspects = pc.indices_nonzero(pc.match_substring_regex(array, any_of_them))
    suspicious = array.take(suspects)
    for name, (prefilter, finder) in finders.items():
        for at in suspects.filter(pc.match_substring_regex(suspicious, prefilter)).to_numpy():
            counts[name][at] = sum(1 for _ in finder(texts[at]))
    return counts


@cache
def _finders(region: str) -> dict[str, tuple[str, Finder]]:
    """Return for each rule that searches its prefilter and what yields the places of its findings, in order."""
    return {
        "encoding_damage": (_mojibake_prefilter(), _find_mojibake),
        "email": (r"@[^@]*\.", _find_emails),
        "phone": _phones_of(region),
        "card": (r"[0-9](?:[ -]?[0-9]){13}", _find_cards),
        "iban": (r"[A-Za-z]{2}[0-9]{2}(?:[ -]?[0-9A-Za-z]){11}", _find_ibans),
        "secret": (_SECRET_PREFILTER, _find_secrets),
    }


def _find_mojibake(text: str) -> Iterator[Span]:
    """Yield sequences of characters that arise when bytes are decoded with the wrong encoding, as ftfy knows them.

    Those with U+FFFD are left out: it is counted by itself.
    """
    from ftfy.badness import BADNESS_RE

    return (match.span() for match in BADNESS_RE.finditer(text) if "\ufffd" not in match[0])


def _mojibake_prefilter() -> str:
    """Return a pattern for RE2 that finds something wherever ftfy's pattern does: pairs of its kinds of characters."""
    from ftfy.badness import MOJIBAKE_CATEGORIES as KINDS

    signs = "".join(
        KINDS[kind] for kind in ("bad", "law", "currency", "start_punctuation", "end_punctuation", "numeric", "box")
    )
    lower, upper = KINDS["lower_accented"], KINDS["upper_accented"]
    letters = lower + upper + KINDS["kaomoji"] + KINDS["lower_common"] + KINDS["upper_common"]
    return "|".join(
        (
            rf"[{KINDS['c1']}]",
            rf"[{signs}{letters}][{signs}]",
            rf"[{signs}][{letters}]",
            rf"[{lower}][{upper}]",
            rf"[{upper}]\x{{B0}}",
            r"[Œœ][^A-Za-z]",
            r"[ÂÃ] ",
            r"[ÂÃÎÐØÙ√≈\x{201A}][^\x00-\x7F]",
            r"[вВ]Ђ",
        )
    )


# Of image names for dense screens (icon@2x.png) and of packages with a version (pkg@1.2.3-rc.beta) the latter parts
# look like domains; git@host is everyone's.
_EMAIL = re.compile(
    r"(?<![\w.!#$%&'*+/=?^`{|}~@-])(?!git@)[\w.!#$%&'*+/=?^`{|}~-]{1,64}@"
    r"(?!\d+(?:\.\d|x\.(?:png|jpe?g|gif|webp|svg)\b))"
    r"(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.)+[^\W\d_]{2,24}(?!\w)"
)


def _find_emails(text: str) -> Iterator[Span]:
    """Yield e-mail addresses: a name, @ and a domain with a dot (RFC 5321's lengths; no quoted names, no hosts)."""
    return (match.span() for match in _EMAIL.finditer(text))


_DATE = re.compile(r"\d{1,4}([./ -])\d{1,2}\1\d{1,4}")


def _phones_of(region: str) -> tuple[str, Finder]:
    """Return prefilter and finder of phone numbers, valid by their country's plan as libphonenumber has it.

    Without a region only those with a country code (+49 ...). With one also its national numbers, if they look like
    phone numbers: grouped, or with a leading 0, and no date.
    """
    import phonenumbers

    if region != "none" and region not in phonenumbers.SUPPORTED_REGIONS:
        raise UserError(
            f"params.yaml: validate.rules.phone.region: found {region!r}, which is no region with phone numbers; "
            "expected none or a country code of ISO 3166 in capitals, such as US, GB, DE"
        )

    def find(text: str) -> Iterator[Span]:
        for match in phonenumbers.PhoneNumberMatcher(text, None if region == "none" else region):
            number = match.raw_string
            international = "+" in unicodedata.normalize("NFKC", number)
            grouped = not number.isdecimal()
            if international or ((grouped or number.startswith("0")) and not _DATE.fullmatch(number)):
                yield match.start, match.end

    return (r"[+\x{FF0B}][^A-Za-z]*\p{Nd}" if region == "none" else r"(?:\p{Nd}[^A-Za-z]{0,5}){6}\p{Nd}"), find


# The lengths and first digits that issuers use (ISO/IEC 7812): Visa, Mastercard, American Express, Discover, JCB,
# Diners Club, UnionPay. Maestro's are left out: they take in half of all numbers.
_ISSUED = re.compile(
    r"4\d{15}(?:\d{3})?|(?:5[1-5]\d\d|222[1-9]|22[3-9]\d|2[3-6]\d\d|27[01]\d|2720)\d{12}|3[47]\d{13}"
    r"|(?:6011|64[4-9]\d|65\d\d|35[3-8]\d|352[89])\d{12,15}|3(?:0[0-5]|095|[689]\d)\d{11}|62\d{14,17}"
)
# In one piece or in the groups that are printed on cards; not a part of a longer number, word or decimal fraction.
_CARD = re.compile(
    r"(?<![0-9A-Za-z_+])(?<![0-9][.,:/-])"
    r"(?:[0-9]{14,19}|[0-9]{4}([ -])[0-9]{4}\1[0-9]{4}\1[0-9]{4}(?:\1[0-9]{3})?|3[0-9]{3}([ -])[0-9]{6}\2[0-9]{4,5})"
    r"(?![0-9A-Za-z_])(?![.,:/-][0-9])"
)


def _find_cards(text: str) -> Iterator[Span]:
    """Yield numbers of payment cards: an issuer's first digits and length, and the check digit (Luhn)."""
    from stdnum import luhn

    for match in _CARD.finditer(text):
        digits = match[0].replace(" ", "").replace("-", "")
        if _ISSUED.fullmatch(digits) and luhn.is_valid(digits):
            yield match.span()


_IBAN = re.compile(r"(?<![0-9A-Za-z_])[A-Za-z]{2}[0-9]{2}(?:[ -]?[0-9A-Za-z]){11,30}")


def _find_ibans(text: str) -> Iterator[Span]:
    """Yield IBANs: a country's structure and the check digits (ISO 13616). Words may follow after a space."""
    from stdnum import iban

    start = 0
    while match := _IBAN.search(text, start):
        start = match.start() + 1
        for end in range(match.end(), match.start() + 14, -1):
            candidate = text[match.start() : end]
            # Not by the lists of banks of single countries (check_country): they lag behind.
            if not text[end : end + 1].isalnum() and iban.is_valid(candidate, check_country=False):
                yield match.start(), end
                start = end
                break


# What detect-secrets 1.5 does not know or would take from plain words; from the services' own documentation.
_KEYS = (
    r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----(?s:.*?)(?:-----END [A-Z0-9 ]*-----|\Z)|PuTTY-User-Key-File-\d",
    r"\b(?:A3T[A-Z0-9]|ABIA|ACCA|AKIA|ASIA)(?=[A-Z]*[0-9])[A-Z0-9]{16}\b",  # AWS
    r"\bgithub_pat_[0-9A-Za-z_]{82}\b",
    r"\bsk-(?:proj|svcacct|admin)-[\w-]{20,}T3BlbkFJ[\w-]{20,}",  # OpenAI
    r"\bsk-ant-[a-z0-9]+-[\w-]{80,}",  # Anthropic
    r"\bAIza[\w-]{35}(?![\w-])",  # Google
    r"\bhf_[A-Za-z]{34}\b",  # Hugging Face
    r"(?<=://)[^\s:/?#@]+:[^\s:/?#@]+(?=@)",  # name and password in a URL
)
_SECRET_PREFILTER = "|".join(
    (
        r"PRIVATE KEY|PuTTY-User-Key-File|A3T[A-Z0-9]{17}|(?:ABIA|ACCA|AKIA|ASIA)[A-Z0-9]{16}|github_pat_",
        r"T3BlbkFJ|sk-ant-|AIza|hf_[A-Za-z]{34}|://[^\s/]*:[^\s/]+@|gh[pousr]_|gl[a-z]+-|GR1348941",
        r"(?i:xox[abpors]-|hooks\.slack\.com)|[rs]k_live_|eyJ|SG\.|[0-9]{8}:|pypi-Ag|AccountKey=|sq0csp-|_authToken",
        r"[0-9a-z]{32}-us[0-9]|[MNO][A-Za-z\d_-]{23,25}\.[A-Za-z\d_-]{6}\.",
    )
)


@cache
def _secret_patterns() -> tuple[list[re.Pattern[str]], Callable[[str], bool]]:
    """Return the patterns of secrets, and whether what looks like a JSON web token is one.

    Of detect-secrets only the plugins for key formats that plain text does not have by chance: no entropy, no
    keywords, and nothing that asks a server.
    """
    from detect_secrets.plugins import (
        azure_storage_key,
        discord,
        github_token,
        gitlab_token,
        jwt,
        mailchimp,
        npm,
        openai,
        pypi_token,
        sendgrid,
        slack,
        square_oauth,
        stripe,
        telegram_token,
    )

    plugins = (
        azure_storage_key.AzureStorageKeyDetector,
        discord.DiscordBotTokenDetector,
        github_token.GitHubTokenDetector,
        gitlab_token.GitLabTokenDetector,
        jwt.JwtTokenDetector,
        mailchimp.MailchimpDetector,
        npm.NpmDetector,
        openai.OpenAIDetector,
        pypi_token.PypiTokenDetector,
        sendgrid.SendGridDetector,
        slack.SlackDetector,
        square_oauth.SquareOAuthDetector,
        stripe.StripeDetector,
        telegram_token.TelegramBotTokenDetector,
    )
    patterns = [re.compile(key) for key in _KEYS]
    patterns += [pattern for plugin in plugins for pattern in plugin.denylist]
    return patterns, jwt.JwtTokenDetector.is_formally_valid


def _find_secrets(text: str) -> Iterator[Span]:
    """Yield keys and tokens of known services, private keys and passwords in URLs, to the end of the word."""
    patterns, is_token = _secret_patterns()
    spans: list[Span] = []
    for pattern in patterns:
        for match in pattern.finditer(text):
            start, end = match.span()
            within_a_word = text[start].isalnum() and text[start - 1 : start].isalnum()
            if within_a_word or (match[0].startswith("eyJ") and not is_token(match[0])):
                continue
            while end < len(text) and (text[end].isalnum() or text[end] in "_-"):
                end += 1
            spans.append((start, end))
    last: Span | None = None
    for start, end in sorted(spans):
        if last and start < last[1]:
            last = last[0], max(last[1], end)
            continue
        if last:
            yield last
        last = start, end
    if last:
        yield last
