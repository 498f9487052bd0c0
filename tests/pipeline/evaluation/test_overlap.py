"""ROUGE is rouge_score's on ASCII and knows all scripts; copies, loops and empty outputs are told by row."""

import json

import numpy as np
import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score import rouge_scorer

from pipeline.evaluation.overlap import overlap_metrics, row_figures, row_overlap
from pipeline.evaluation.rouge import common_length, rouge_l, rouge_n, words, words_and_marks

ASCII = st.text(st.sampled_from("ab cD1.'-_\n"), max_size=40)


def of(output: str, reference: str = "a reference", source: str = "the source text") -> dict[str, float]:
    return {name: float(values[0]) for name, values in row_overlap([source], [output], [reference]).items()}


@given(st.tuples(ASCII, ASCII))
@settings(max_examples=150, deadline=None)
def test_rouge_of_ascii_is_that_of_rouge_score(texts: tuple[str, str]) -> None:
    scorer = rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeL"])
    expected = {name: score.fmeasure for name, score in scorer.score(texts[1], texts[0]).items()}
    output, reference = map(words, texts)
    assert rouge_n(output, reference, 1) == pytest.approx(expected["rouge1"])
    assert rouge_n(output, reference, 2) == pytest.approx(expected["rouge2"])
    assert rouge_l(output, reference) == pytest.approx(expected["rougeL"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Don't stop_now", ["don", "t", "stop", "now"]),
        ("Größe, ÉTÉ", ["größe", "été"]),
        ("cafe\u0301", ["café"]),
        ("привет мир!", ["привет", "мир"]),
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("می\u200cخواهم", ["می\u200cخواهم"]),  # noqa: RUF001 - Persian
        ("機械翻訳 GPT2", ["機", "械", "翻", "訳", "gpt2"]),
        ("データー", ["デ", "ー", "タ", "ー"]),
        ("น้ำใจ", ["น\u0e49\u0e4d", "า", "ใ", "จ"]),
        ("한국어 말", ["한국어", "말"]),
        ("\u200f👍 …", []),
    ],
)
def test_words_of_all_scripts_are_found(text: str, expected: list[str]) -> None:
    assert words(text) == expected


def test_marks_stand_alone_and_the_case_stays_for_bleu() -> None:
    assert words_and_marks("Don't (stop) 日本。") == ["Don", "'", "t", "(", "stop", ")", "日", "本", "。"]


@given(st.lists(st.sampled_from("abc"), max_size=8), st.lists(st.sampled_from("abc"), max_size=8))
@settings(max_examples=100, deadline=None)
def test_a_common_subsequence_is_as_long_as_the_table_says(first: list[str], second: list[str]) -> None:
    table = np.zeros((len(first) + 1, len(second) + 1), int)
    for i, one in enumerate(first):
        for j, other in enumerate(second):
            table[i + 1, j + 1] = table[i, j] + 1 if one == other else max(table[i, j + 1], table[i + 1, j])
    assert common_length(first, second) == table[-1, -1]


def test_a_text_of_another_script_agrees_with_itself() -> None:
    figures = of("東京は大きい。", "東京は大きい。")
    assert [figures[name] for name in ("rouge_1", "rouge_2", "rouge_l", "exact_match")] == [1, 1, 1, 1]
    assert figures["chrf"] == pytest.approx(1)


def test_an_exact_match_ignores_white_space_and_forms_of_characters_and_nothing_else() -> None:
    assert of("ﬁne  \u00a0text\n", "fine text")["exact_match"] == 1
    assert of("Fine text", "fine text")["exact_match"] == 0


@pytest.mark.parametrize(
    ("output", "copied", "novel"),
    [
        ("one two three four five", 1.0, 0.0),
        ("one two three four new", 0.5, 0.2),
        ("Two, three", 1.0, 0.0),
        ("three two", 0.0, 0.0),
        ("other words here now", 0.0, 1.0),
        ("one two three four five six", 1.0, 0.0),
    ],
)
def test_what_stands_in_the_source_is_copied(output: str, copied: float, novel: float) -> None:
    figures = of(output, source="one two three four five six seven")
    assert figures["copied"] == copied
    assert figures["novel"] == pytest.approx(novel)


def test_an_empty_output_is_counted_and_has_no_share_copied() -> None:
    figures = of(" …")
    assert figures["empty"] == 1
    assert np.isnan(figures["copied"])
    assert figures["rouge_l"] == figures["words"] == figures["repetition"] == 0


def test_a_loop_is_repetition() -> None:
    figures = of("the cat sat " * 6)
    assert figures["repetition"] == pytest.approx(12 / 15)
    assert figures["loops"] == 1
    assert of("the cat sat on the mat")["repetition"] == 0


def test_figures_of_all_rows_are_means_and_corpus_scores_with_intervals() -> None:
    sources = ["the first source is long", "another source", "third", "the fourth one"]
    outputs = ["the first source is short", "another", "", "no"]
    references = ["the first is short", "another source", "third", "no"]
    rows = row_overlap(sources, outputs, references)
    result = overlap_metrics(rows, outputs, references, (200, 0.95, 0))
    json.dumps(result, allow_nan=False)
    assert result["exact_match"] == result["empty"] == 0.25
    assert result["copied"] == pytest.approx(np.nanmean(rows["copied"]))
    for name in ("rouge_l", "chrf"):
        assert result[f"{name}_low"] < result[name] < result[f"{name}_high"]
    assert result["chrf_corpus"] == pytest.approx(sacrebleu.corpus_chrf(outputs, [references]).score / 100)
    assert result["bleu"] == pytest.approx(sacrebleu.corpus_bleu(outputs, [references]).score / 100)
    assert set(row_figures(rows)) == {"copied", "empty", "repetition"}


def test_outputs_of_one_word_and_of_none_have_figures() -> None:
    for outputs in (["yes", "no"], ["", ""]):
        references = ["yes", "yes"]
        result = overlap_metrics(row_overlap(["?", "?"], outputs, references), outputs, references, (100, 0.95, 0))
        json.dumps(result, allow_nan=False)
        assert result["bleu"] == pytest.approx(result["exact_match"])
    with pytest.raises(ValueError, match="found none"):
        overlap_metrics(row_overlap([], [], []), [], [], (100, 0.95, 0))
    with pytest.raises(ValueError, match="found 1 sources, 2 outputs and 1 references"):
        row_overlap(["a"], ["b", "c"], ["d"])
