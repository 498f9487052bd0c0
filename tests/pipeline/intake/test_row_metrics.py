"""What each rule finds in a text, what it ignores, and that the fast paths miss nothing."""

# ruff: noqa: RUF001 - the texts are in many scripts

import csv
import re
import unicodedata

import pyarrow as pa
import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import param_rules, params
from pipeline.command import UserError
from pipeline.intake import character_counts, credentials, identifiers, personal_data, row_metrics
from pipeline.intake.personal_data import PERSONAL_RULES
from tests.conftest import ROOT, real

DEFAULTS = params.load(ROOT / "params.yaml").validate_.rules
# Article 1 of the Universal Declaration of Human Rights: clean text in many scripts.
ARTICLE_1 = {
    "en": "All human beings are born free and equal in dignity and rights. They are endowed with reason.",
    "de": "Alle Menschen sind frei und gleich an Würde und Rechten geboren. Sie sind mit Vernunft begabt.",
    "fr": "Tous les êtres humains naissent libres et égaux en dignité et en droits. Ils sont doués de raison.",
    "es": "Todos los seres humanos nacen libres e iguales en dignidad y derechos, dotados como están de razón.",
    "pl": "Wszyscy ludzie rodzą się wolni i równi pod względem swej godności i swych praw. Są obdarzeni rozumem.",
    "cs": "Všichni lidé rodí se svobodní a sobě rovní co do důstojnosti a práv. Jsou nadáni rozumem a svědomím.",
    "tr": "Bütün insanlar hür, haysiyet ve haklar bakımından eşit doğarlar. Akıl ve vicdana sahiptirler.",
    "vi": "Tất cả mọi người sinh ra đều được tự do và bình đẳng về nhân phẩm và quyền.",
    "ru": "Все люди рождаются свободными и равными в своем достоинстве и правах.",
    "el": "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια και τα δικαιώματα.",
    "ar": "يولد جميع الناس أحرارا متساوين في الكرامة والحقوق. وقد وهبوا عقلا وضميرا.",
    "he": "כל בני האדם נולדו בני חורין ושווים בערכם ובזכויותיהם.",
    "hi": "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है।",
    "ja": "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。スーパー",
    "zh": "人人生而自由，在尊严和权利上一律平等。他们赋有理性和良心，并应以兄弟关系的精神相对待。",
    "ko": "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다.",
    "th": "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ",
}


def rules(**changes: dict[str, object]) -> param_rules.Rules:
    """Return the default rules with some changed."""
    content = DEFAULTS.model_dump()
    for name, values in changes.items():
        content[name] |= values
    return param_rules.Rules.model_validate(content)


def number(text: str, rule: str, **settings: object) -> float:
    return row_metrics.compute_row_metrics([text], rules(**{rule: {"severity": "critical", **settings}}))[rule].item()


# ---- matches and lookalikes

FINDINGS = {
    "empty": (["", " ", "\t\r\n", "\u00a0\u3000"], ["a", ".", " 1 ", "\u200b"]),
    "encoding_damage": (
        [
            "caf�",
            "CafÃ©",
            "donâ€™t",
            "lâ€™Ã©tÃ©",
            "Ã¼ber",
            "ÐŸÑ€Ð¸Ð²ÐµÑ‚",
            "æ—¥æœ¬èªž",
            "ï¿½",
            "Â£5",
            "РџСЂРёРІРµС‚",
            "quote\x93d",
            "\u0432\u00c3",
            "\u0413\u00b0\u0413",
            "\u0393\u00b0\u0393",
            "half a pair �",
            "\ufffe",
        ],
        [
            "Il a dit : « C’est l’été » — à 20 °C.",
            "„Über uns“, ‚Ärger‘, »Öl«",
            "¿Qué? ¡Sí!",
            "5½ × 3² m² ± 2 µm",
            "Café™ © 2024 Société® • 10 € / £5",
            "NÃO É POSSÍVEL, MAÇÃ E PÃO",
            "l’Œuvre, un œuf",
            "(╯°□°)╯︵ ┻━┻ 😀",
            *list(ARTICLE_1.values()),
        ],
    ),
    "control_characters": (
        ["a\0b", "bell\a", "\x1b[31mred", "form\ffeed", "next\x85line", "\u202egnp.exe"],
        [
            "tab\there",
            "two\r\nlines",
            "\u200fשלום\u200e",
            "\u2067שלום\u2069",
            "می\u200cخواهم",
            "👩\u200d👩\u200d👧",
            *list(ARTICLE_1.values()),
        ],
    ),
    "email": (
        [
            "bob@example.com",
            "Mail <o'neil+x@mail.example.co.uk>.",
            "jürgen@müller.de",
            "(a@b.io)",
            "x_1@163.com,y",
            "mailto:me@web.de?subject=1",
            "bob@example.com:geheim",
            "Адрес: иван@почта.рф",
        ],
        [
            "@handle",
            "6 apples @ 5.99",
            "me@home",
            "root@localhost",
            "a @ b.com",
            "icon@2x.png",
            "npm i react@18.3.0-rc",
            "git@github.com:user/repo.git",
            "@user@mastodon.social",
            "e@f.g",
            "name@",
            "1@2.3",
        ],
    ),
    "phone": (
        [
            "+1 212 555 2368",
            "tel:+493012345678",
            "call (+44) 20 7946 0958 now",
            "+4915112345678",
            "＋81 3-1234-5678",
            "Tel. +33 (0)1 42 68 53 00",
        ],
        [
            "212 555 2368",
            "2024-01-31 12:30:00",
            "order 4021234567",
            "+100",
            "1,234,567.89",
            "5+12",
            "C++11",
            "+0 000 000",
            "ISBN 978-3-16-148410-0",
            "+1.23456789012",
            "on +2024-01-31",
        ],
    ),
    "card": (
        [
            "4111111111111111",
            "Visa 4111 1111 1111 1111.",
            "5500-0000-0000-0004",
            "3782 822463 10005",
            "6011111111111117",
            "30569309025904",
            "2223003122003222",
            "card:3530111333300000!",
            "6200000000000005",
        ],
        [
            "4111111111111112",
            "1234567890123452",
            "4111-1111 1111-1111",
            "0.4111111111111111",
            "4111111111111111.50",
            "x4111111111111111",
            "41111111111111110000000",
            "20240131123000000",
            "4006381333931",
            "+4111111111111111",
            "550e8400-e29b-41d4-a716-446655440000",
            "4111 1111",
        ],
    ),
    "iban": (
        [
            "DE89370400440532013000",
            "DE89 3704 0044 0532 0130 00 BIC COBADEFF",
            "gb29 nwbk 6016 1331 9268 19",
            "(FR1420041010050500013M02606)",
            "NO93 8601 1117 947",
            "IBAN:BE68-5390-0754-7034,",
        ],
        [
            "DE88370400440532013000",
            "XX89370400440532013000",
            "DE89 3704 0044",
            "ADE89370400440532013000",
            "DE893704004405320130001",
            "AB12 CDEF GHIJ KLMN",
            "mp30 player costs 1000000",
        ],
    ),
    # Joined here, so that no scanner of this repository takes them for real ones.
    "secret": (
        [
            "AKIA" + "IOSFODNN7EXAMPLE",
            "token=" + "ghp_" + "a1B2" * 9,
            "github_pat_" + "11ABCDEFG0" + "x" * 72,
            "glpat-" + "x1y2" * 5,
            "xoxb-" + "123456789012-abcdefghij",
            "sk_live_" + "4eC39HqLyjWDarjtT1zdp7dc99",
            "sk-" + "a1" * 10 + "T3BlbkFJ" + "b2" * 10,
            "sk-proj-" + "a_-1" * 18 + "T3BlbkFJ" + "b_-2" * 18,
            "sk-ant-" + "api03-" + "a-_1" * 23,
            "AIza" + "Sy_-1" * 7,
            "hf_" + "aBcDeFgHiJkLmNoPqRsTuVwXyZaBcDeFgH",
            "SG." + "a" * 22 + "." + "b" * 43,
            "eyJhbGciOiJIUzI1NiJ9" + ".eyJzdWIiOiIxIn0." + "abc_-123",
            "-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----",
            "-----BEGIN ENCRYPTED PRIVATE KEY-----",
            "PuTTY-User-Key-File-2: ssh-rsa",
            "postgres://bob:" + "hunter2@db.example.com/x",
            "12345678:" + "a1-_X" * 7,
            "AccountKey=" + "a" * 86 + "==",
        ],
        [
            "ASIAPACIFICCONFERENCE",
            "a risk-free task-list",
            "sk-8 and sk-learn",
            "the api key is in the vault",
            "password: hunter2",
            "d41d8cd98f00b204e9800998ecf8427e",
            "550e8400-e29b-41d4-a716-446655440000",
            "eyJoseph went.home",
            "http://example.com:8080/a@b",
            "BEGIN PRIVATE KEYNOTE",
            "ghp_short",
            "-----BEGIN PUBLIC KEY-----",
        ],
    ),
}


@pytest.mark.parametrize("rule", FINDINGS)
def test_a_rule_finds_its_cases_and_ignores_lookalikes(rule: str) -> None:
    matches, lookalikes = FINDINGS[rule]
    assert [text for text in matches if not number(text, rule)] == []
    assert [text for text in lookalikes if number(text, rule)] == []


@pytest.mark.parametrize(
    ("region", "matches", "lookalikes"),
    [
        ("US", ["(212) 555-2368", "212-555-2368", "+49 30 12345678"], ["2125552368", "2024-01-31", "$212,555.23"]),
        ("DE", ["030 12345678", "0151/12345678", "015112345678"], ["03.04.2021", "12345678", "31 12 2024"]),
        ("GB", ["020 7946 0958", "07911 123456", "07911123456"], ["7911123456", "ref 2079460958", "31/12/2024"]),
    ],
)
def test_with_a_region_national_numbers_are_phone_numbers_too(
    region: str, matches: list[str], lookalikes: list[str]
) -> None:
    assert [text for text in matches if not number(text, "phone", region=region)] == []
    assert [text for text in lookalikes if number(text, "phone", region=region)] == []


def test_findings_are_counted() -> None:
    assert number("a@b.de, c@d.fr and a@b.de", "email") == 3
    assert number("\ufffd\ufffd and CafÃ©", "encoding_damage") == 3
    assert number("\0\0\n\x07", "control_characters") == 3


def test_lengths_are_in_characters_without_the_white_space_around() -> None:
    assert number("  naïve 漢字 🙂\n", "too_short") == number("  naïve 漢字 🙂\n", "too_long") == 10
    assert row_metrics.compute_row_metrics(["e\u0301"], DEFAULTS)["too_long"].tolist() == [2]


@pytest.mark.parametrize(("severity", "expected"), [("critical", 5), ("warning", 0), ("ignore", 0)])
def test_a_text_refused_as_empty_is_not_too_short_as_well(severity: str, expected: int) -> None:
    config = rules(empty={"severity": severity}, too_short={"min_characters": 5})
    assert row_metrics.compute_row_metrics([" \n"], config)["too_short"].tolist() == [expected]


# Texts as they are, and what is none: the default bound tells them apart.
CONTENT = [
    *(
        "A++++",
        "A+++++++++",
        "5/5",
        "10/10!!!!",
        "\U0001f44d\U0001f44d\U0001f44d",
        "\u2764\ufe0f!!!",
        "\U0001f60d!!!!!!",
    ),
    *(
        "\u2605\u2605\u2605\u2606\u2606",
        "\U0001f1e9\U0001f1ea",
        "1.5, 2.5, -3",
        "2024-01-01 12.5 7",
        "| 1 | 2 |",
        "E=mc\u00b2",
    ),
    "x = 3 * (y + 2)",
]
JUNK = [
    *(
        "------",
        "????",
        ";;;;",
        "...",
        "=====",
        "|---|---|",
        "~~~~",
        "\u250c\u2500\u2500\u2510",
        "\u2588\u2588\u2588",
        "* * *",
    ),
    *("$$$$", "+++", "-- 1 --------------------------------", "\ufffc\ufffc", "\u201c\u201d"),
]


def test_numbers_ratings_and_emoji_are_content_and_lines_of_punctuation_are_not() -> None:
    bound = DEFAULTS.few_letters.min_letters
    assert [text for text in CONTENT if number(text, "few_letters") < bound] == []
    assert [text for text in JUNK if number(text, "few_letters") >= bound] == []


@pytest.mark.parametrize(
    ("text", "share"),
    [("abcd", 1), ("ab 12", 0.5), ("1234", 0), ("", 1), ("é漢я", 1), ("हिन्दी", 1), ("e\u0301", 1), ("a 🙂", 0.5)],
)
def test_letters_and_their_marks_are_counted_in_every_script(text: str, share: float) -> None:
    assert number(text, "few_letters", also=[]) == share


def test_what_counts_besides_letters_is_a_setting() -> None:
    text = "a1 \U0001f600-"
    shares = [number(text, "few_letters", also=also) for also in ([], ["digits"], ["symbols"], ["digits", "symbols"])]
    assert shares == [0.25, 0.5, 0.5, 0.75]


@pytest.mark.parametrize(
    ("scripts", "text", "share"),
    [
        (["Latin"], "abcd: 12!", 1),
        (["Latin"], "abя", 2 / 3),
        (["Cyrillic"], "abя", 1 / 3),
        (["Latin", "Cyrillic"], "abя", 1),
        (["Han", "Hiragana", "Katakana"], ARTICLE_1["ja"], 1),
        (["Arabic"], ARTICLE_1["ar"], 1),
        (["Latin"], "123", 1),
    ],
)
def test_the_share_of_letters_in_the_allowed_scripts_is_measured(scripts: list[str], text: str, share: float) -> None:
    assert number(text, "script", scripts=scripts) == share


def test_the_language_is_identified_if_the_text_is_long_enough() -> None:
    for language, text in ARTICLE_1.items():
        assert number(text, "language", languages=[language, "la"], min_characters=10) == 0
        assert number(text, "language", languages=["eo"], min_characters=10) == 1
        assert number(text, "language", languages=["eo"], min_characters=len(text) + 1) == 0


@pytest.mark.parametrize(
    ("rule", "change", "sentence"),
    [
        (
            "script",
            {"scripts": ["Latin", "Elvish"]},
            "rules.script.scripts: found 'Elvish', which is not a Unicode",
        ),
        ("language", {"languages": ["en", "english"]}, "rules.language.languages: found 'english', which is not"),
        ("phone", {"region": "UK"}, "rules.phone.region: found 'UK', which is not a region"),
    ],
)
def test_an_unknown_script_language_or_region_is_a_user_error(
    rule: str, change: dict[str, object], sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        number("a text", rule, **change)


# ---- which rules are checked


def test_each_row_rule_that_is_not_ignored_has_a_metric() -> None:
    texts = ["one", "two"]
    metrics = row_metrics.compute_row_metrics(texts, DEFAULTS)
    of_others = {"repeated_header", "script", "language", *identifiers.RULES, "duplicate", "near_duplicate"}
    assert set(metrics) == set(param_rules.Rules.model_fields) - of_others
    assert {len(values) for values in metrics.values()} == {2}
    ignored = rules(**{name: {"severity": "ignore"} for name in param_rules.Rules.model_fields})
    assert row_metrics.compute_row_metrics(texts, ignored) == {}
    assert {len(values) for values in row_metrics.compute_row_metrics([], DEFAULTS).values()} == {0}


def test_a_text_that_is_far_too_long_is_refused_without_a_search() -> None:
    text = "bob@example.com " * 10_000 + "\0"
    refused = row_metrics.compute_row_metrics([text], DEFAULTS)
    assert (refused["too_long"].item(), refused["email"].item()) == (len(text), 0)
    assert refused["control_characters"].item() == 1
    warned = {"severity": "warning"}
    searched = row_metrics.compute_row_metrics([text], rules(too_long=warned, control_characters=warned))
    assert searched["email"].item() == 10_000


def test_all_reasons_of_an_ordinary_row_are_listed() -> None:
    metrics = row_metrics.compute_row_metrics(["bob@example.com " * 200 + "\0"], DEFAULTS)
    assert [metrics[rule].item() for rule in ("too_long", "control_characters", "email")] == [3201, 1, 200]


# ---- linear time for any text

# What once took time quadratic in the length: 8 s and more for the 50,000 characters of the first.
ADVERSARIAL = {
    "secret": [
        "/" * 200_000 + "_authToken",
        "//x/:_authToken=npm_a " * 10_000,
        "sk-" * 70_000 + "T3BlbkFJ",
        "sk-proj-aaaaaaaaaaaaaaaaaaaaT3BlbkFJ" * 6_000,
        "eyJ" * 70_000,
        "xoxa-1-1-" * 20_000,
        ("_sk_live_" + "a" * 24) * 6_000,
        "-----BEGIN " * 20_000,
    ],
    "email": ["a@" + "a." * 100_000, "a@a" * 70_000, "a" * 200_000],
    "iban": ["DE00 " * 40_000, "DE00" + " 0" * 100_000],
    "card": ["4111 " * 40_000, "1" * 200_000],
    "phone": ["+1" * 50_000, "+" * 200_000],
    "encoding_damage": ["Ã" * 200_000, "â€" * 100_000],
}


def test_no_rule_takes_quadratic_time_for_an_adversarial_text() -> None:
    for rule, texts in ADVERSARIAL.items():
        detector = row_metrics.detectors(DEFAULTS)[rule]
        for text in texts:  # on a mistake here the suite would hang for minutes
            assert all(0 <= start < end <= len(text) for start, end in detector.find(text))


def test_backtracking_patterns_have_bounded_repeats() -> None:
    unbounded = re.compile(r"(?<!\\)[*+](?![^\[]*\])|\{\d*,\}")
    patterns = [value for value in vars(personal_data).values() if isinstance(value, re.Pattern)]
    assert len(patterns) >= 5
    assert [pattern.pattern for pattern in patterns if unbounded.search(pattern.pattern)] == []


def test_re2_accepts_every_pattern_of_secrets() -> None:
    for pattern in credentials._patterns():
        assert list(credentials._matches(pa.array(["plain text"], pa.large_string()), pattern)) == []


# ---- the fast paths are exact

ANY_CHARACTER = st.characters(exclude_categories=())  # lone surrogates, too


def count_one_by_one(text: str) -> dict[str, float]:
    """Count character by character, as the rules are defined."""
    visible = [character for character in text if not character.isspace()]
    letters = [character for character in visible if regex.match(r"\p{L}|\p{M}", character)]
    content = [character for character in visible if regex.match(r"\p{L}|\p{M}|\p{N}", character)]
    greek = [character for character in letters if regex.match(r"\p{L}", character)]
    greek = [character for character in greek if not regex.match(r"\p{Script=Zyyy}|\p{Script=Zinh}", character)]
    controls = [
        character
        for character in text
        if (unicodedata.category(character) == "Cc" and character not in "\t\n\r") or character in "\u202d\u202e"
    ]
    return {
        "empty": float(not visible),
        "too_long": len(text.strip()),
        "control_characters": len(controls),
        "few_letters": len(content) / len(visible) if visible else 1,
        "script": sum("GREEK" in unicodedata.name(c, "") for c in greek) / len(greek) if greek else 1,
    }


@given(st.lists(st.text(ANY_CHARACTER | st.sampled_from("aα 1\0\ufffd\u202e\u200f")), max_size=8))
@settings(derandomize=True, deadline=None, max_examples=200)
def test_counts_by_table_equal_counts_character_by_character(texts: list[str]) -> None:
    config = rules(script={"severity": "critical", "scripts": ["Greek"]}, few_letters={"also": ["digits"]})
    metrics = row_metrics.compute_row_metrics(texts, config)
    expected = [count_one_by_one(text) for text in texts]
    for rule in ("empty", "too_long", "control_characters", "few_letters", "script"):
        assert metrics[rule].tolist() == [numbers[rule] for numbers in expected], rule


def test_counts_do_not_depend_on_the_block_size(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["", *ARTICLE_1.values(), "", "a\0 b\ufffd" * 500, ""]
    whole = row_metrics.compute_row_metrics(texts, DEFAULTS)
    monkeypatch.setattr(character_counts, "BLOCK_CHARACTERS", 7)
    pieces = row_metrics.compute_row_metrics(texts, DEFAULTS)
    assert {rule: values.tolist() for rule, values in whole.items()} == {
        rule: values.tolist() for rule, values in pieces.items()
    }


FRAGMENTS = st.sampled_from(
    [text for matches, lookalikes in FINDINGS.values() for text in matches + lookalikes if len(text) < 40]
    + [
        "@",
        ".com",
        "+",
        "4111 ",
        "1111",
        " 22",
        "-",
        " ",
        "0",
        "DE",
        "eyJ",
        "://",
        ":",
        "\n",
        "x",
        "٤٩",
        "1 2 3 ",
        "(",
        ")",
    ]
    + list("ÃÂâ€™œŒ°éÉ½²£¿»«“”ÐØ√‚вЂВГ¬†´×àö│\x93\xa0"),
)


@pytest.mark.parametrize("region", ["none", "US"])
@given(st.lists(FRAGMENTS, max_size=12).map("".join))
@settings(derandomize=True, deadline=None, max_examples=200)
def test_the_prefilters_let_every_finding_through(region: str, text: str) -> None:
    in_region = rules(phone={"region": region})
    metrics = row_metrics.compute_row_metrics([text.replace("\ud83d", "")], in_region)
    lost = sum(text.count(character) for character in "\ufffd\ufffe")
    for rule, detector in row_metrics.detectors(in_region).items():
        expected = len(list(detector.find(text.replace("\ud83d", ""))))
        assert metrics[rule].item() == expected + (lost if rule == "encoding_damage" else 0), rule


# ---- real texts


def test_real_bank_questions_break_no_rule() -> None:
    with real("banking77-customer-support/train.csv").open(newline="") as file:
        texts = [row["text"] for row in csv.DictReader(file)]
    metrics = row_metrics.compute_row_metrics(texts, rules(language={"severity": "critical"}))
    for rule in ("empty", "encoding_damage", "control_characters", "language", *PERSONAL_RULES):
        assert not metrics[rule].any(), rule
    assert metrics["few_letters"].min() > 0.5
