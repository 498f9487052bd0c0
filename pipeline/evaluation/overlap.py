"""How much the outputs of a sequence-to-sequence model have in common with their references and their sources.

All figures are shares from 0 to 1, BLEU and chrF too; lengths are in words of `rouge.words`, which knows all scripts.
"""

import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from sacrebleu.metrics import BLEU, CHRF

from pipeline.evaluation.bootstrap import bootstrap_ratios, interval
from pipeline.evaluation.diversity import ends_in_a_loop, repetition_metrics
from pipeline.evaluation.rouge import rouge_l, rouge_n, words, words_and_marks

Floats = npt.NDArray[np.float64]

_COPIED = 4  # words of an n-gram that counts as copied
_WITH_INTERVAL = ("rouge_l", "chrf")


def row_overlap(sources: Sequence[str], outputs: Sequence[str], references: Sequence[str]) -> dict[str, Floats]:
    """Return figures of each output, (rows,) each.

    - rouge_1, rouge_2, rouge_l: F1, see `rouge`; rouge_l takes the whole text as one sequence.
    - chrf: sacrebleu's sentence chrF2 (Popović, "chrF: character n-gram F-score for automatic MT evaluation", 2015).
    - exact_match: 1 where output and reference are equal in NFKC with runs of white space as one space.
    - copied: share of the output's 4-grams of words that stand in the source; of all its words as one n-gram where it
      has fewer. NaN of an output without words.
    - novel: share of the output's words that are nowhere in the source (See, Liu and Manning, "Get To The Point", ACL
      2017, figure 6, of 1-grams). NaN of an output without words.
    - repetition: share of 4-grams that occurred before in the output, see `diversity_metrics`; 0 without any.
    - loops: 1 where the output ends in a loop, see `ends_in_a_loop`.
    - empty: 1 where the output has neither a letter nor a digit.
    - words, words_reference: lengths.

    Raises ValueError where the three are not of one length.
    """
    if not len(sources) == len(outputs) == len(references):
        raise ValueError(f"found {len(sources)} sources, {len(outputs)} outputs and {len(references)} references")
    chrf = CHRF()
    rows = []
    for source, output, reference in zip(sources, outputs, references, strict=True):
        given, written, expected = words(source), words(output), words(reference)
        ids = _ids(written)
        rows.append(
            {
                "rouge_1": rouge_n(written, expected, 1),
                "rouge_2": rouge_n(written, expected, 2),
                "rouge_l": rouge_l(written, expected),
                "chrf": chrf.sentence_score(output, [reference]).score / 100,
                "exact_match": float(_folded(output) == _folded(reference)),
                "copied": _copied(written, given),
                "novel": float(np.mean([word not in set(given) for word in written])) if written else np.nan,
                "repetition": repetition_metrics([ids])["repetition"],
                "loops": float(ends_in_a_loop(ids)),
                "empty": float(not written),
                "words": float(len(written)),
                "words_reference": float(len(expected)),
            }
        )
    return {name: np.array([row[name] for row in rows]) for name in rows[0]} if rows else {}


def overlap_metrics(
    rows: dict[str, Floats], outputs: Sequence[str], references: Sequence[str], resampling: tuple[int, float, int]
) -> dict[str, Any]:
    """Return the means of `row_overlap`, with intervals of rouge_l and chrf, and BLEU and chrF of the whole corpus.

    `bleu` and `chrf_corpus` are sacrebleu's corpus scores, which published figures are; they are no mean over rows.
    BLEU is on `words_and_marks`: on plain English that is about sacrebleu's tokenizer 13a, and it splits the scripts
    that put no space between words. Only n-grams that exist count, so that answers of one word have a BLEU.

    Args:
        rows: What `row_overlap` returned.
        outputs: Of the model.
        references: One for each output.
        resampling: How many draws of all rows, the confidence, and the seed.

    Raises:
        ValueError: There is no row.
    """
    if not outputs:
        raise ValueError("figures of outputs need at least one; found none")
    resamples, confidence, seed = resampling
    result: dict[str, Any] = {}
    for name, values in rows.items():
        counted = values[~np.isnan(values)]
        result[name] = float(counted.mean()) if len(counted) else None
        if name in _WITH_INTERVAL:
            drawn = bootstrap_ratios(values, np.ones(len(values)), resamples, seed)
            result[f"{name}_low"], result[f"{name}_high"] = interval(drawn, confidence)
    tokens = [[" ".join(words_and_marks(text)) for text in texts] for texts in (outputs, references)]
    bleu = BLEU(tokenize="none", effective_order=True, force=True)  # force: no warning about tokenized text
    result["bleu"] = bleu.corpus_score(tokens[0], [tokens[1]]).score / 100
    result["chrf_corpus"] = CHRF().corpus_score(list(outputs), [list(references)]).score / 100
    return result


def row_figures(rows: dict[str, Floats]) -> dict[str, Floats]:
    """Return those of `row_overlap` that gates compare."""
    return {name: rows[name] for name in ("copied", "empty", "repetition")}


def _copied(written: Sequence[str], given: Sequence[str]) -> float:
    """Return the share of n-grams of `written` that stand in `given`, NaN without a word."""
    n = min(_COPIED, len(written))
    if n == 0:
        return float("nan")
    grams = list(zip(*(written[at:] for at in range(n)), strict=False))
    known = set(zip(*(given[at:] for at in range(n)), strict=False))
    return sum(gram in known for gram in grams) / len(grams)


def _ids(written: Sequence[str]) -> list[int]:
    """Return a number for each word, the same for equal ones."""
    known: dict[str, int] = {}
    return [known.setdefault(word, len(known)) for word in written]


def _folded(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).split())
