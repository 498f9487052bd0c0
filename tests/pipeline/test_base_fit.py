"""Before training: a base that does not know the corpus, and texts that rows cut off, are warned of."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

import cli
from pipeline import base_fit, fit_warnings, params, paths, tokenize
from pipeline.base_fit import BaseFit
from pipeline.evaluation.scoring import score
from pipeline.tasks.causal_lm import TASK
from tests.conftest import LINES, ROOT, Workspace

# A line each that the author of this test wrote; the starter has read English stories alone.
GERMAN = [
    "Der Zug nach Hamburg fährt heute wegen einer Störung an der Strecke erst um zwölf Uhr ab.",
    "Über die Größe des Grundstücks können wir Ihnen leider keine genauen Auskünfte geben.",
    "Bitte schließen Sie die Tür, bevor Sie das Gebäude am Abend als Letzter verlassen.",
    "Die Bürgermeisterin eröffnete gestern das neue Schwimmbad am Rand der kleinen Stadt.",
]
CHINESE = ["今天下午火车晚点了两个小时。", "请在离开办公室之前关好所有的门窗。", "这家饭店的菜很好吃,但是价格有点贵。"]
CODE = [
    "def area(width, height):\n    if width < 0:\n        raise ValueError(width)\n    return width * height",
    "for (let i = 0; i < rows.length; i++) { total += rows[i].price * rows[i].count; }",
    "SELECT name, COUNT(*) FROM orders WHERE paid = 1 GROUP BY name HAVING COUNT(*) > 3;",
]
ENGLISH = [
    "It was late when Anna closed the shop, and the rain had not stopped since noon.",
    "My brother called from the station because he had lost his umbrella on the train.",
    "Thank you for your letter. I am sorry to hear that the lamp arrived broken.",
    "The two friends walked along the river and talked about the long winter.",
]
KNOWN = BaseFit(
    rows=1000,
    tokens_per_character=0.26,
    fragments=0.0,
    truncated=0.02,
    length=120,
    bits_per_byte=3.03,
    general_bits_per_byte=0.28,
    frequency_bits_per_byte=4.27,
)


@pytest.fixture
def with_starter(monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the starter model's folder, which `paths.BASE` names."""
    monkeypatch.setattr(paths, "BASE", ROOT / "starter")
    return paths.BASE


def test_the_starter_knows_plain_english_and_takes_the_bits_per_byte_of_the_evaluation(with_starter: Path) -> None:
    fit = base_fit.measure(ENGLISH, TASK, truncated=0.0)
    assert fit is not None
    assert fit.general_bits_per_byte < 0.6 < fit.bits_per_byte < fit.frequency_bits_per_byte
    assert base_fit.warnings(fit, "starter", 128, 256) == {}
    scores = score(*TASK.load(with_starter), ENGLISH, batch_tokens=2048)
    assert fit.bits_per_byte == pytest.approx(scores.loss.sum() / math.log(2) / scores.bytes.sum(), abs=0.01)


@pytest.mark.parametrize("texts", [GERMAN, CHINESE, CODE], ids=["German", "Chinese", "code"])
def test_the_starter_is_warned_of_for_what_it_has_never_read(with_starter: Path, texts: list[str]) -> None:
    fit = base_fit.measure(texts, TASK, truncated=0.0)
    assert fit is not None
    assert (fit.fragments > 0.5) == (texts is CHINESE)
    warning = base_fit.warnings(fit, "starter", 128, 256)["language"]
    needs = f"it needs {fit.bits_per_byte:.2f} bits per byte, where guessing each byte by its frequency needs"
    assert f"{needs} {fit.frequency_bits_per_byte:.2f}" in warning
    assert "set base in params.yaml to a model that knows such texts" in warning


def test_the_sample_does_not_depend_on_the_order_of_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base_fit, "_TOKENIZED", 3)
    sample = base_fit.sample_of([*ENGLISH, " ", *GERMAN])
    assert len(sample) == 3
    assert sample == base_fit.sample_of([*reversed(GERMAN), *ENGLISH])


def test_without_texts_there_are_no_figures(with_starter: Path) -> None:
    assert base_fit.measure([], TASK, truncated=0.0) is None


def test_a_script_that_the_tokenizer_splits_into_bytes_is_warned_of_though_the_base_predicts_them() -> None:
    warning = base_fit.warnings(replace(KNOWN, fragments=0.76, tokens_per_character=1.72), "gpt2", 128, 1024)
    assert list(warning) == ["language"]
    assert "76 % of the tokens are parts of a character (at most 10 % are expected), 1.72" in warning["language"]
    assert "bits per byte" not in warning["language"]


@pytest.mark.parametrize(
    ("length", "max_length", "advice"),
    [
        (200, 128, "set it to 200, which cuts off at most 5 %, or tokenize.strategy to pack"),
        (900, 128, "set it to 256, the base's context, or tokenize.strategy to pack"),
        (900, 256, "set tokenize.strategy to pack"),
    ],
)
def test_the_advised_length_is_within_the_bases_context(length: int, max_length: int, advice: str) -> None:
    fit = replace(KNOWN, truncated=0.431, length=length)
    warning = base_fit.warnings(fit, "starter", max_length, 256)
    assert list(warning) == ["length"]
    assert f"tokenize.max_length ({max_length}) cuts off 43.1 % of the tokens" in warning["length"]
    assert advice in warning["length"]


def test_the_advised_length_cuts_off_at_most_one_token_in_twenty() -> None:
    lengths = [10] * 50 + [100] * 10 + [1000]
    advised = base_fit.length_for(lengths)
    kept = [sum(min(length, limit) for length in lengths) / sum(lengths) for limit in (advised - 8, advised)]
    assert kept[0] < 0.95 <= kept[1]


def test_the_stage_says_what_it_found_and_others_repeat_it(
    workspace: Workspace, tiny_gpt2: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace.start_from(tiny_gpt2)
    workspace.set(tokenize__max_length=16)
    tokenize.main()
    record = json.loads(paths.BASE_FIT.read_text())
    assert capsys.readouterr().err.splitlines() == list(record["warnings"].values())
    assert list(record["warnings"]) == ["length"]
    assert "tokenize.max_length (16) cuts off" in record["warnings"]["length"]

    workspace.write_corpus("text\n" + "\n".join(f'"{line}"' for line in LINES))
    tokenize.main()
    capsys.readouterr()
    cli.check()
    assert "cuts off" in capsys.readouterr().out
    workspace.set(tokenize__max_length=40)  # the warning is about 16
    cli.check()
    assert "cuts off" not in capsys.readouterr().out


def test_before_the_stage_has_run_there_are_no_warnings(workspace: Workspace) -> None:
    assert fit_warnings.read(params.load()) == {}
