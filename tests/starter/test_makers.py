"""The starter RoBERTa and T5: what they are trained on, what the makers write, and what is committed."""

import json
import random
import re
import sys
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForMaskedLM, AutoModelForSeq2SeqLM, AutoTokenizer, RobertaForMaskedLM

from pipeline.registry.model_version import sha256
from starter import make_roberta, make_t5, pretraining
from starter.texts import write_texts
from tests.conftest import ROOT

TEXTS = write_texts(60)
COMMITTED = ("roberta", "t5")
ANY_TEXT = "naïve 漢字 🙂 \t\n\x00 end"


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Shrink both makers, and the texts that score them, so that one makes a model in seconds."""
    for maker in (make_roberta, make_t5):
        for name, value in {"LAYERS": 1, "HEADS": 2, "WIDTH": 16, "WARMUP": 1, "BATCH": 8}.items():
            monkeypatch.setattr(maker, name, value)
    monkeypatch.setattr(make_t5, "INNER", 32)
    monkeypatch.setattr(pretraining, "SCRATCH", tmp_path / "scratch")
    monkeypatch.setattr(pretraining.texts, "HELD_OUT", 8)
    monkeypatch.setattr(pretraining.texts, "foreign_texts", dict)


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize(("maker", "loads"), [(make_roberta, AutoModelForMaskedLM), (make_t5, AutoModelForSeq2SeqLM)])
def test_a_maker_writes_the_same_loadable_model_each_time(
    maker: object, loads: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    printed = []
    for folder in ("one", "other"):
        monkeypatch.setattr(sys, "argv", ["maker", "--texts", "40", "--to", str(tmp_path / folder)])
        maker.main()  # type: ignore[attr-defined]
        printed.append(capsys.readouterr().out)
    figures, again = (json.loads(text[text.rindex('{\n  "texts"') :]) for text in printed)
    assert figures["scores"] == again["scores"]  # so the masks and spans are the same, too
    held_out = figures["scores"]["texts of these genres, held out"]
    assert figures["texts"] == 40
    assert held_out["perplexity_low"] <= held_out["perplexity"] <= held_out["perplexity_high"]
    names = sorted(file.name for file in (tmp_path / "one").iterdir())
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(names)
    assert [sha256(tmp_path / "one" / name) for name in names] == [sha256(tmp_path / "other" / name) for name in names]
    model = loads.from_pretrained(tmp_path / "one")  # type: ignore[attr-defined]
    assert model.config.vocab_size == len(AutoTokenizer.from_pretrained(tmp_path / "one"))
    assert not pretraining.SCRATCH.exists()


@pytest.mark.parametrize("name", COMMITTED)
def test_a_committed_starter_loads_is_small_and_encodes_any_text(name: str) -> None:
    folder = ROOT / "starter" / name
    assert sum(file.stat().st_size for file in folder.iterdir()) <= 8_000_000
    loads = {"roberta": AutoModelForMaskedLM, "t5": AutoModelForSeq2SeqLM}[name]
    model, loading = loads.from_pretrained(folder, output_loading_info=True)
    assert not any(loading.values())
    assert type(model).__name__ == {"roberta": "RobertaForMaskedLM", "t5": "T5ForConditionalGeneration"}[name]
    tokenizer, file = AutoTokenizer.from_pretrained(folder), Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert len(tokenizer) == model.config.vocab_size
    ids = tokenizer(ANY_TEXT)["input_ids"]
    assert ids == file.encode(ANY_TEXT).ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == ANY_TEXT


@pytest.mark.parametrize("name", COMMITTED)
def test_a_card_has_the_perplexities_that_the_maker_printed(name: str) -> None:
    card = (ROOT / "starter" / name / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\|[^|]+\| ([\d,.]+) \(([\d,.]+)\u2013([\d,.]+)\) \|", card, re.MULTILINE)
    assert len(rows) == 3
    for row in rows:
        perplexity, low, high = (float(figure.replace(",", "")) for figure in row)
        assert 1 < low <= perplexity <= high
    maker = f"make_{name}"
    assert f"python -m starter.{maker}" in card
    assert "Apache-2.0" in card


def test_a_roberta_row_is_one_text_or_two_and_never_longer_than_the_context() -> None:
    tokenizer = make_roberta.learn_tokenizer(TEXTS)
    rows = [row["input_ids"] for row in make_roberta.rows(TEXTS, tokenizer)]
    start, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    assert all(row[0] == start and row[-1] == end and len(row) <= make_roberta.CONTEXT for row in rows)
    pairs = sum(row[1:-1].count(end) == 2 for row in rows)
    singles = sum(row[1:-1].count(end) == 0 for row in rows)
    assert pairs > 0
    assert singles + 2 * pairs == len(TEXTS)


def test_each_head_of_the_first_layer_looks_at_one_distance_before_training() -> None:
    tokenizer = make_roberta.learn_tokenizer(TEXTS)
    model = RobertaForMaskedLM(make_roberta.model_config(tokenizer)).eval()
    make_roberta.look_at_neighbours(model)
    model.set_attn_implementation("eager")
    ids = torch.tensor(
        [row["input_ids"][:40] for row in make_roberta.rows(TEXTS, tokenizer) if len(row["input_ids"]) > 40]
    )
    attention = model(ids, output_attentions=True).attentions[0]  # (rows, heads, tokens, tokens)
    places = range(4, 36)  # whose neighbours are all there
    for head, distance in enumerate(make_roberta.DISTANCES):
        looked_at = torch.stack([attention[:, head, at, at + distance] for at in places])
        assert looked_at.mean() > 0.9


def test_the_space_before_a_masked_word_belongs_to_the_mask() -> None:
    tokenizer = make_roberta.learn_tokenizer(TEXTS)
    with_mask = tokenizer("She saw the <mask> again.")["input_ids"]
    at = with_mask.index(tokenizer.mask_token_id)
    assert with_mask[:at] == tokenizer("She saw the")["input_ids"][:-1]


def test_span_corruption_loses_no_token_and_hides_15_percent_in_spans_of_3() -> None:
    tokenizer, rng = make_t5.learn_tokenizer(TEXTS), random.Random(0)
    hidden = spans = total = 0
    sentinels = {tokenizer.convert_tokens_to_ids(f"<extra_id_{number}>") for number in range(make_t5.SENTINELS)}
    for text in TEXTS:
        example = make_t5.corrupt(text, tokenizer, rng)
        pieces: dict[int, list[int]] = {}
        for token in example["labels"][:-1]:
            if token in sentinels:
                pieces[token] = []
            else:
                pieces[list(pieces)[-1]].append(token)
        whole = [part for token in example["input_ids"][:-1] for part in (pieces.get(token) or [token])]
        assert whole == tokenizer(text, add_special_tokens=False)["input_ids"][: make_t5.CONTEXT - 1]
        *used, last = pieces.values()
        assert last == []
        hidden, spans, total = hidden + sum(map(len, used)), spans + len(used), total + len(whole)
    assert hidden / total == pytest.approx(make_t5.NOISE, abs=0.01)
    assert hidden / spans == pytest.approx(make_t5.SPAN, abs=0.2)


def test_what_is_restored_is_part_of_the_text_and_what_is_copied_is_the_source() -> None:
    tokenizer, rng = make_t5.learn_tokenizer(TEXTS), random.Random(0)
    for text in TEXTS:
        restored = make_t5.restore(text, tokenizer, rng)
        assert tokenizer.decode(restored["labels"], skip_special_tokens=True) in text
        copied = make_t5.copy(text, tokenizer, rng)
        assert copied["input_ids"] == copied["labels"]
