"""One number per text and rule: what the rules of `pipeline.intake.rules` put a bound on.

Searches that cost more than counting characters run only on texts that match their prefilter, an RE2 pattern that Arrow
applies in one linear pass; it may match too much, never too little. The module imports quickly, since worker processes
import it: libraries of single rules are imported when a text needs them.
"""

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import param_rules
from pipeline.command import UserError
from pipeline.intake import identifiers, personal_data
from pipeline.intake.character_counts import count_characters
from pipeline.intake.detector import Detector
from pipeline.intake.mojibake import mojibake_detector
from pipeline.intake.rules import row_bounds

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier

# A text that a rule without a search refuses is searched only up to this length: an ordinary row gets all its reasons,
# and a huge one costs no more than counting its characters.
SEARCHED_CHARACTERS = 10_000
RowMetrics = dict[str, npt.NDArray[Any]]


def compute_row_metrics(texts: Sequence[str], rules: param_rules.Rules) -> RowMetrics:
    """Return the metrics of `texts`: for each rule of rows that is not ignored, an array with a number for each text.

    Counts (int64): `too_short` and `too_long` characters without surrounding white space, `encoding_damage` lost or
    garbled characters, `control_characters`, and findings of `personal_data.PERSONAL_RULES` and `identifiers.RULES`.
    Shares (float64): `few_letters`, `script`. 0 or 1 (int64): `empty`, `language` (1: none of those allowed).

    An empty text has no other fault: if `empty` refuses it, it counts as long enough. A text of more than
    SEARCHED_CHARACTERS that a rule by length or by counting characters refuses has 0 findings. Raises UserError for a
    script, language or region that does not exist.
    """
    active = {name for name in type(rules).model_fields if getattr(rules, name).severity != "ignore"}
    lengths = np.fromiter((len(text.strip()) for text in texts), np.int64, len(texts))
    scripts = rules.script.scripts if "script" in active else ()
    counts = count_characters(texts, scripts, rules.few_letters.also)
    long_enough = (lengths == 0) & (rules.empty.severity == "critical")
    by_counting = {
        "empty": (counts.visible == 0).astype(np.int64),
        "too_short": np.where(long_enough, rules.too_short.min_characters, lengths),
        "too_long": lengths,
        "control_characters": counts.control,
        "few_letters": _share(counts.content, counts.visible),
        "script": _share(counts.allowed, counts.scripted),
    }
    metrics = {name: values for name, values in by_counting.items() if name in active}
    # A lone surrogate is counted as damage; it is replaced for the searches, since Arrow cannot hold it.
    damaged = counts.damage
    searched = [text.encode("utf-8", "replace").decode() if damaged[at] else text for at, text in enumerate(texts)]
    for at in np.flatnonzero(_refused(metrics, rules, len(texts)) & (lengths > SEARCHED_CHARACTERS)):
        searched[at] = ""
    if "language" in active:
        metrics["language"] = _in_other_languages(searched, rules.language)
    metrics |= _count_findings(searched, detectors(rules))
    if "encoding_damage" in active:
        metrics["encoding_damage"] += damaged
    return metrics


def detectors(rules: param_rules.Rules) -> dict[str, Detector]:
    """Return the detector of each rule that searches texts and is not ignored."""
    known = {"encoding_damage": mojibake_detector()} | personal_data.detectors(rules.phone.region)
    active = {name: detector for name, detector in known.items() if getattr(rules, name).severity != "ignore"}
    return active | identifiers.detectors(rules)


def _refused(metrics: RowMetrics, rules: param_rules.Rules, count: int) -> npt.NDArray[np.bool_]:
    """Return which of `count` texts break a critical rule by these metrics."""
    refused = np.zeros(count, np.bool_)
    bounds = row_bounds(rules)
    for name, values in metrics.items():
        if getattr(rules, name).severity == "critical":
            low, high = bounds[name].get("min_value", -np.inf), bounds[name].get("max_value", np.inf)
            refused |= (values < low) | (values > high)
    return refused


def _share(part: npt.NDArray[np.int64], whole: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return part / whole, and 1 where the whole is 0: then nothing falls short."""
    return np.divide(part, whole, out=np.ones(len(whole)), where=whole > 0)


def _in_other_languages(texts: Sequence[str], rule: param_rules.Language) -> npt.NDArray[np.int64]:
    """Return 1 for each text that is long enough to tell and in none of the rule's languages, else 0."""
    identifier = _language_identifier()
    unknown = set(rule.languages) - set(identifier.labels)
    if unknown:
        raise UserError(
            f"params.yaml: validate.rules.language.languages: found {min(unknown)!r}, which is not a language that can "
            f"be identified; expected ISO 639-1 codes among {', '.join(sorted(identifier.labels))}"
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
def _language_identifier() -> "LanguageIdentifier":
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE)


def _count_findings(texts: Sequence[str], detectors: dict[str, Detector]) -> dict[str, npt.NDArray[np.int64]]:
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
