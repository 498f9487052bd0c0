"""One number per text and rule: what the rules of `pipeline.intake.rules` put a bound on.

Every character is looked at once, through a table of Unicode's properties (the `regex` module's version of Unicode).
Patterns that cost more are tried only on the texts that a prefilter lets through: RE2, by way of Arrow, looks in one
linear pass for what such a finding cannot do without. It may let too much through, never too little.

The module imports quickly, since it runs in worker processes: libraries for single rules are imported when a text
needs them.
"""

from collections.abc import Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import regex

from pipeline import params
from pipeline.command import UserError
from pipeline.intake import identifiers, personal_data
from pipeline.intake.detector import Detector, Span
from pipeline.intake.rules import row_bounds

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier

# A text that a rule without a search has refused is searched only up to this many characters: so that all reasons of an
# ordinary row are listed, and a huge one costs no more than counting its characters.
SEARCHED_CHARACTERS = 10_000
BLOCK_CHARACTERS = 2**18  # looked up at once: the arrays stay in the processor's cache, and memory stays flat

CONTENT, VISIBLE, CONTROL, DAMAGE, TELLING, WANTED = (1 << bit for bit in range(6))
# What rule few_letters can count besides letters. Lines and boxes drawn of characters are no more than punctuation.
_ALSO_CONTENT = {
    "digits": r"\p{N}",
    "symbols": r"[[\p{So}\p{Emoji_Modifier}]--\p{Block=Box_Drawing}--\p{Block=Block_Elements}--\uFFFC\uFFFD]",
}


def compute_row_metrics(texts: Sequence[str], rules: params.Rules) -> dict[str, npt.NDArray[Any]]:
    """Return for each rule of rows that is not ignored one number for each text, as its bound is stated.

    Counts (int64): `too_short` and `too_long` characters without the white space around them, `encoding_damage` lost
    or garbled places, `control_characters`, and findings of `email`, `phone`, `card`, `iban`, `secret` and
    `identifiers.RULES`. Shares
    (float64): `few_letters`, `script`. 0 or 1 (int64): `empty`, `language` (1: not one of those wanted).

    An empty text has no other fault: where `empty` refuses it, it counts as long enough. A text of more than
    SEARCHED_CHARACTERS that a rule by length or by counting characters refuses is not searched for garbled places,
    personal data, secrets and its language; these count 0. Raises UserError for a script, language or region that does
    not exist.
    """
    measures: dict[str, npt.NDArray[Any]] = {}
    wanted = {name for name in type(rules).model_fields if getattr(rules, name).severity != "ignore"}
    characters = np.fromiter((len(text.strip()) for text in texts), np.int64, len(texts))
    scripts = rules.script.scripts if "script" in wanted else ()
    content, visible, controls, damaged, telling, of_scripts = _count(texts, scripts, rules.few_letters.also)
    # A lone surrogate is no character: it is counted as damage above, and Arrow could not hold it.
    searchable = [text.encode("utf-8", "replace").decode() if damaged[at] else text for at, text in enumerate(texts)]

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
        measures["few_letters"] = _share(content, visible)
    if "script" in wanted:
        measures["script"] = _share(of_scripts, telling)
    for at in np.flatnonzero(_refused(measures, rules, len(texts)) & (characters > SEARCHED_CHARACTERS)):
        searchable[at] = ""
    if "language" in wanted:
        measures["language"] = _of_other_languages(searchable, rules.language)
    measures |= _search(searchable, detectors(rules))
    if "encoding_damage" in wanted:
        measures["encoding_damage"] += damaged
    return measures


def _refused(measures: dict[str, npt.NDArray[Any]], rules: params.Rules, count: int) -> npt.NDArray[np.bool_]:
    """Return which of `count` texts a critical rule among those measured so far refuses."""
    refused = np.zeros(count, np.bool_)
    bounds = row_bounds(rules)
    for name, values in measures.items():
        if getattr(rules, name).severity == "critical":
            refused |= (values < bounds[name].get("min_value", -np.inf)) | (
                values > bounds[name].get("max_value", np.inf)
            )
    return refused


def _share(part: npt.NDArray[np.int64], whole: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return part / whole; 1 where the whole is 0, for nothing of it falls short."""
    return np.divide(part, whole, out=np.ones(len(whole)), where=whole > 0)


def _count(texts: Sequence[str], scripts: tuple[str, ...], also: tuple[str, ...]) -> npt.NDArray[np.int64]:
    """Return how many characters of each text have each property: an array of shape (6, texts)."""
    properties = _properties(scripts, also)
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
def _properties(scripts: tuple[str, ...], also: tuple[str, ...]) -> npt.NDArray[np.uint8]:
    """Return a table from code points to the properties that count here.

    CONTENT: letters and the marks that belong to them, and what counts `also` for the rule few_letters. VISIBLE: all
    but white space. CONTROL: Unicode's category Cc but tab and line breaks, and the two overrides that turn the reading
    order of what follows (the marks, embeddings and isolates of right-to-left text are text). DAMAGE: what stands for a
    lost character or can be none. TELLING: letters of some script, unlike those common to several; WANTED: letters of
    these scripts.
    """
    table = np.zeros(0x110000, np.uint8)
    every = "".join(map(chr, range(0x110000)))

    def mark(pattern: str, bit: int) -> None:
        for match in regex.finditer(f"{pattern}+", every, regex.V1):
            table[slice(*match.span())] |= bit

    mark(r"[\p{L}\p{M}]", CONTENT)
    for kind in also:
        mark(_ALSO_CONTENT[kind], CONTENT)
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


def _search(texts: Sequence[str], detectors: dict[str, Detector]) -> dict[str, npt.NDArray[np.int64]]:
    """Return how often each detector finds something in each text."""
    counts = {name: np.zeros(len(texts), np.int64) for name in detectors}
    if not detectors:
        return counts
    array = pa.array(texts, pa.large_string())
    any_prefilter = "|".join(f"(?:{detector.prefilter})" for detector in detectors.values())
    suspects = pc.indices_nonzero(pc.match_substring_regex(array, any_prefilter))
    suspicious = array.take(suspects)
    for name, detector in detectors.items():
        for at in suspects.filter(pc.match_substring_regex(suspicious, detector.prefilter)).to_numpy():
            counts[name][at] = sum(1 for _ in detector.find(texts[at]))
    return counts


def detectors(rules: params.Rules) -> dict[str, Detector]:
    """Return the detector of each rule that searches texts and is not ignored."""
    known = {"encoding_damage": _mojibake_detector()} | personal_data.detectors(rules.phone.region)
    active = {name: detector for name, detector in known.items() if getattr(rules, name).severity != "ignore"}
    return active | identifiers.detectors(rules)


def _find_mojibake(text: str) -> Iterator[Span]:
    """Yield sequences of characters that arise when bytes are decoded with the wrong encoding, as ftfy knows them.

    Those with U+FFFD are left out: it is counted by itself.
    """
    from ftfy.badness import BADNESS_RE

    return (match.span() for match in BADNESS_RE.finditer(text) if "\ufffd" not in match[0])


@cache
def _mojibake_detector() -> Detector:
    return Detector(_mojibake_prefilter(), _find_mojibake)


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
