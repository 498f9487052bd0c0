"""Each figure is its formula's, on texts small enough to count by hand and on those that a bad model writes."""

import random
import time
from pathlib import Path

import pytest
import sacrebleu
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from pipeline.evaluation.diversity import Diversity, diversity_metrics, ends_in_a_loop, self_bleu
from tests.conftest import LINES

CHINESE = ["從前有一位國王。他找不到自己的金色王冠。", "一隻小貓坐在溫暖的墊子上。看了一個小時的雨。"]
KEYS = [
    "distinct_1",
    "distinct_2",
    "distinct_3",
    "repetition",
    "loops",
    "empty",
    "blank",
    "tokens",
    "tokens_std",
    "ended",
]


@pytest.fixture(scope="module")
def words():
    """Return a tokenizer of which a letter between spaces is a token, to count by hand."""
    vocabulary = {chr(number): number for number in range(ord("a"), ord("z") + 1)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary | {"?": 0}, unk_token="?"))  # noqa: S106 - no password
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


@pytest.fixture(scope="module")
def tokenizer(tiny_gpt2: Path):
    return AutoTokenizer.from_pretrained(tiny_gpt2)


def of(tokenizer, *texts: str) -> dict[str, float]:
    return diversity_metrics(texts, tokenizer, [True] * len(texts))


def test_distinct_counts_different_n_grams_among_all_n_grams_of_all_texts(words) -> None:
    result = of(words, "a b a b", "a b c")
    assert result["distinct_1"] == pytest.approx(3 / 7)  # a b c; of 4 + 3
    assert result["distinct_2"] == pytest.approx(3 / 5)  # ab ba bc; of 3 + 2
    assert result["distinct_3"] == pytest.approx(3 / 3)  # aba bab abc; of 2 + 1


def test_repetition_is_the_share_of_4_grams_that_stood_in_the_same_text_before(words) -> None:
    # abcd bcda cdab dabc abcd: 1 of 5; the second text repeats nothing of its own.
    assert of(words, "a b c d a b c d")["repetition"] == pytest.approx(1 / 5)
    assert of(words, "a b c d a b c d", "a b c d e")["repetition"] == pytest.approx((1 / 5 + 0) / 2)


def test_a_text_without_a_4_gram_has_no_say_in_repetition(words) -> None:
    assert of(words, "a b c d a b c d", "a a a", "")["repetition"] == pytest.approx(1 / 5)


def test_lengths_and_ends_are_means_over_texts(words) -> None:
    result = diversity_metrics(["a b c d e", "a b c", ""], words, [True, False, True])
    assert result["tokens"] == pytest.approx(8 / 3)
    assert result["tokens_std"] == pytest.approx(
        ((5 - 8 / 3) ** 2 / 3 + (3 - 8 / 3) ** 2 / 3 + (8 / 3) ** 2 / 3) ** 0.5
    )
    assert result["ended"] == pytest.approx(2 / 3)


def test_self_bleu_counted_by_hand(words) -> None:
    # "a b c d e" against "a b c d f": 4/5, 3/4, 2/3 and 1/2 of its n-grams are there; as long, so no penalty.
    by_hand = (4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** (1 / 4)
    assert of(words, "a b c d e", "a b c d f")["self_bleu"] == pytest.approx(by_hand)


@pytest.mark.parametrize("seed", range(5))
def test_self_bleu_is_sacrebleus_of_each_text_against_all_others(seed: int) -> None:
    generator = random.Random(seed)
    ids = [[generator.randrange(8) for _ in range(generator.randrange(1, 30))] for _ in range(20)]
    ids.append(ids[0])  # and two that are the same
    lines = [" ".join(map(str, text)) for text in ids]
    bleu = sacrebleu.BLEU(tokenize="none", effective_order=True)
    scores = [bleu.sentence_score(line, lines[:at] + lines[at + 1 :]).score for at, line in enumerate(lines)]
    assert self_bleu(ids) == pytest.approx(sum(scores) / len(scores) / 100)


def test_self_bleu_is_1_of_equal_texts_and_0_of_texts_that_share_nothing(words) -> None:
    assert of(words, *["a b c d e f"] * 3)["self_bleu"] == pytest.approx(1)
    assert of(words, "a b c d e", "f g h i j")["self_bleu"] == 0


def test_self_bleu_compares_100_texts_of_more_at_even_distances() -> None:
    same, other = [1, 2, 3, 4, 5], [6, 7, 8, 9, 10]
    assert self_bleu([same, other] * 100) == pytest.approx(1)  # every second of 200 is `same`
    # 100 of 1000 are compared, each tenth; the others, all different, must not count.
    ids = [same if place % 10 == 0 else [1000 + place] for place in range(1000)]
    assert self_bleu(ids) == pytest.approx(1)


@pytest.mark.parametrize(
    ("tokens", "loops"),
    [
        ([1, 2, 3, *[7] * 12], True),
        ([1, 2, 3, *[7] * 11], False),  # 12 tokens at least
        ([9, *[1, 2, 3, 4] * 3], True),
        ([9, *[1, 2, 3, 4, 5] * 2, 1, 2, 3, 4], False),  # three times at least
        ([9, *[1, 2, 3, 4, 5] * 3, 1, 2], True),  # and the last turn may be cut short
        ([*[1, 2, 3, 4] * 5, 9], False),  # the loop ends with another token
        (list(range(32)) * 3, True),
        (list(range(33)) * 3, False),  # a period of 32 at most
        (list(range(96)), False),
        ([7] * 12, True),
        ([], False),
        ([7], False),
    ],
)
def test_a_loop_is_3_times_the_same_1_to_32_tokens_at_the_end_over_12_tokens(tokens: list[int], loops: bool) -> None:
    assert ends_in_a_loop(tokens) == loops


def test_a_loop_is_found_wherever_its_definition_read_out_finds_one() -> None:
    def read_out(tokens: list[int]) -> bool:
        """Try every end of the text: is it three times or more as long as a period that it keeps to?"""
        return any(
            all(tail[at] == tail[at - period] for at in range(period, size))
            for size in range(12, len(tokens) + 1)
            for tail in [tokens[-size:]]
            for period in range(1, min(32, size // 3) + 1)
        )

    generator = random.Random(1)
    verdicts = []
    for _ in range(300):
        turn = [generator.randrange(3) for _ in range(generator.randrange(1, 12))]
        tokens = [generator.randrange(3) for _ in range(generator.randrange(5))] + (turn * 8)[: generator.randrange(40)]
        verdicts.append(read_out(tokens))
        assert ends_in_a_loop(tokens) == verdicts[-1]
    assert 50 < sum(verdicts) < 250


def test_a_looping_text_stands_out_from_a_healthy_one(tokenizer) -> None:
    healthy, looping = of(tokenizer, *LINES), of(tokenizer, *[line + " and so on" * 12 for line in LINES])
    assert (healthy["loops"], looping["loops"]) == (0, 1)
    assert healthy["repetition"] < 0.02 < 0.3 < looping["repetition"]
    assert healthy["distinct_3"] > looping["distinct_3"]
    assert healthy["self_bleu"] < looping["self_bleu"]


def test_a_text_of_one_word_repeated_is_a_loop_of_nothing_new(words) -> None:
    result = of(words, " ".join(["a"] * 50))
    assert result["loops"] == 1
    assert result["repetition"] == pytest.approx(46 / 47)
    assert result["distinct_1"] == pytest.approx(1 / 50)


def test_chinese_needs_no_word_splitter(tokenizer) -> None:
    healthy, looping = of(tokenizer, *CHINESE), of(tokenizer, CHINESE[0] + "哈" * 12)
    assert (healthy["loops"], healthy["empty"]) == (0, 0)
    assert healthy["repetition"] < 0.1 < looping["repetition"]
    assert looping["loops"] == 1
    assert 0 < healthy["self_bleu"] < 0.5


def test_a_text_of_white_space_alone_is_blank(tokenizer) -> None:
    assert of(tokenizer, "", " \n\t", "\u3000", "...", "word")["blank"] == pytest.approx(3 / 5)


def test_a_text_without_a_word_is_empty(tokenizer) -> None:
    assert of(tokenizer, "", " \n", "... !?", "🙂", "word", "42", "é", "漢")["empty"] == pytest.approx(4 / 8)


@pytest.mark.parametrize("texts", [[""], ["", ""], ["a"], ["a", ""]])
def test_texts_too_short_for_a_figure_leave_it_at_0(words, texts: list[str]) -> None:
    result = of(words, *texts)
    assert result == pytest.approx(result)  # no NaN
    assert {key: result[key] for key in ("distinct_2", "distinct_3", "repetition", "loops", "self_bleu")} == {
        "distinct_2": 0,
        "distinct_3": 0,
        "repetition": 0,
        "loops": 0,
        "self_bleu": 0,
    }


def test_no_texts_or_ends_of_other_texts_are_the_callers_mistake(words) -> None:
    with pytest.raises(ValueError, match="found 0 texts and 0 entries"):
        diversity_metrics([], words, [])
    with pytest.raises(ValueError, match="found 2 texts and 1 entries"):
        diversity_metrics(["a", "b"], words, [True])


def test_it_is_a_measurement_of_evaluate_that_gives_the_same_figures(tokenizer) -> None:
    result = Diversity().compute(data=LINES, tokenizer=tokenizer, ended=[True, False, True, True])
    assert result == diversity_metrics(LINES, tokenizer, [True, False, True, True])
    assert list(result) == [*KEYS, "self_bleu"]
    assert all(type(value) is float for value in result.values())  # as JSON has it


def test_it_says_nothing(words, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    of(words, *["a b c ."] * 120)  # sacrebleu warns of texts that end so, where it sees them
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


def test_a_thousand_texts_take_less_than_a_second_or_two(tokenizer) -> None:
    generator = random.Random(0)
    vocabulary = " ".join(LINES).split()
    texts = [" ".join(generator.choices(vocabulary, k=45)) for _ in range(1000)]
    start = time.process_time()
    of(tokenizer, *texts)
    assert time.process_time() - start < 2
