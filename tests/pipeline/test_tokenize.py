"""Texts become rows of tokens: nothing is lost without being counted, and the bytes are the same everywhere."""

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from datasets import DatasetDict
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from pipeline import params, paths, tokenize
from pipeline.canaries import texts_to_plant
from pipeline.command import UserError
from pipeline.tasks.causal_lm import TASK
from tests.conftest import LINES, Workspace, real

END = 0  # the id of <|endoftext|> in the tiny tokenizer


@pytest.fixture
def tokenizer(tiny_gpt2: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(tiny_gpt2)


@pytest.fixture
def stage(workspace: Workspace, tiny_gpt2: Path) -> Workspace:
    """Return a workspace in which the stages before this one have run."""
    workspace.start_from(tiny_gpt2)
    workspace.set(tokenize__max_length=40)
    return workspace


def rows_of(texts: list[str], tokenizer: PreTrainedTokenizerBase, strategy: str, length: int, scratch: Path):
    config = params.Tokenize(strategy=strategy, max_length=length, canaries=0, canary_repeats=1)
    writer = tokenize.TokenWriter(TASK, tokenizer, config, {})
    dataset, budget = writer.dataset(({"text": text} for text in texts), scratch)
    return dataset.to_list(), budget


def test_pad_makes_a_row_of_each_text_between_start_and_end(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    [row], budget = rows_of(["The cat"], tokenizer, "pad", 12, tmp_path)
    ids = tokenizer("The cat")["input_ids"]
    padding = 12 - len(ids) - 2
    assert row["input_ids"] == [END, *ids, END] + [END] * padding
    assert row["attention_mask"] == [1] * (len(ids) + 2) + [0] * padding
    assert budget == {"documents": 1, "rows": 1, "kept": len(ids) + 2, "padding": padding, "truncated": 0}


def test_pad_truncates_a_long_text_and_counts_what_is_lost(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    ids = tokenizer(LINES[0])["input_ids"]
    [row], budget = rows_of([LINES[0]], tokenizer, "pad", 8, tmp_path)
    assert row["input_ids"] == [END, *ids][:8]  # no end token: the text does not end here
    assert budget["truncated"] == len(ids) + 2 - 8


def documents_of(row: dict[str, list[int]]) -> Iterator[list[int]]:
    starts = [at for at, position in enumerate(row["position_ids"]) if position == 0]
    for start, end in zip(starts, [*starts[1:], len(row["input_ids"])], strict=True):
        yield row["input_ids"][start:end]


def test_pack_keeps_every_document_whole_and_every_token(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    texts = [line[: 7 * number] for number in range(1, 9) for line in LINES]
    rows, budget = rows_of(texts, tokenizer, "pack", 64, tmp_path)
    config = sorted([END, *tokenizer(text)["input_ids"], END] for text in texts)
    packed = sorted(document for row in rows for document in documents_of(row) if document != [END])
    assert packed == config
    assert budget["kept"] == sum(map(len, config))
    assert budget["kept"] + budget["padding"] == 64 * len(rows)
    assert budget["padding"] < 0.1 * budget["kept"]


def test_pack_continues_a_long_text_in_another_row(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    text = " ".join(LINES)
    rows, budget = rows_of([text], tokenizer, "pack", 16, tmp_path)
    pieces = [document for row in rows for document in documents_of(row) if document != [END]]
    assert sorted(token for piece in pieces for token in piece) == sorted([END, *tokenizer(text)["input_ids"], END])
    assert budget["truncated"] == 0


def test_pack_chooses_among_some_documents_at_a_time_so_that_memory_has_a_bound(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenize, "_TOKENS_PER_WINDOW", 300)
    texts = [line[: 7 * number] for number in range(1, 9) for line in LINES]
    rows, budget = rows_of(texts, tokenizer, "pack", 64, tmp_path)
    config = sorted([END, *tokenizer(text)["input_ids"], END] for text in texts)
    assert sorted(document for row in rows for document in documents_of(row) if document != [END]) == config
    assert budget["kept"] == sum(map(len, config))


@pytest.mark.parametrize("strategy", ["pad", "pack"])
def test_the_stage_writes_three_splits_and_the_same_bytes_again(stage: Workspace, strategy: str) -> None:
    stage.set(tokenize__strategy=strategy)
    tokenize.main()
    first = {path: path.read_bytes() for path in paths.TOKENS.rglob("*") if path.is_file()}
    assert {split: len(rows) for split, rows in DatasetDict.load_from_disk(paths.TOKENS).items()}.keys() == {
        "train",
        "validation",
        "test",
    }
    paths.CLEAN.touch()  # another time of change, as in another clone
    tokenize.main()
    assert {path: path.read_bytes() for path in paths.TOKENS.rglob("*") if path.is_file()} == first
    budget = json.loads(paths.TOKEN_BUDGET.read_text())
    assert budget["splits"]["train"]["documents"] == 20
    clean = pd.read_parquet(paths.CLEAN)
    assert budget["data"] == tokenize.data_hash(clean[["split", "text"]].to_dict("records"))
    assert budget["clean_md5"] == hashlib.md5(paths.CLEAN.read_bytes()).hexdigest()  # noqa: S324 - as DVC names it
    assert not list(paths.TOKENS.parent.glob(".tokens-*"))


def test_the_data_hash_follows_the_texts_and_their_splits_alone() -> None:
    rows = [{"split": "train", "text": "a"}, {"split": "test", "text": "b"}]
    clean = tokenize.data_hash(rows)
    assert clean == hashlib.sha256(b"train\0a\0test\0b\0").hexdigest()
    assert clean == tokenize.data_hash([{**row, "group": "of no matter"} for row in rows])
    others = (rows[:1], [{**row, "split": "train"} for row in rows], [{**row, "label": "known"} for row in rows])
    assert clean not in map(tokenize.data_hash, others)


def test_a_length_beyond_the_base_is_refused(stage: Workspace) -> None:
    stage.set(tokenize__max_length=65)
    with pytest.raises(UserError, match=r"tokenize.max_length: found 65, but the base's context is 64 tokens"):
        tokenize.main()


@pytest.fixture
def wide(stage: Workspace) -> Workspace:
    """Return the workspace with rows wide enough for a canary."""
    stage.set(tokenize__max_length=60)
    return stage


def run_stage() -> dict[str, bytes]:
    """Run the stage and return its files, the dataset's by their names in it."""
    tokenize.main()
    files = {str(path.relative_to(paths.TOKENS)): path for path in paths.TOKENS.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in {**files, "budget": paths.TOKEN_BUDGET}.items()}


def documents_in(split: str, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return the texts of a split's rows, without what is around them."""
    rows = DatasetDict.load_from_disk(paths.TOKENS)[split]
    return [tokenizer.decode(row, skip_special_tokens=True) for row in rows["input_ids"]]


def test_canaries_are_planted_in_the_train_split_alone(wide: Workspace, tokenizer: PreTrainedTokenizerBase) -> None:
    without = run_stage()
    texts = documents_in("train", tokenizer)
    wide.set(tokenize__canaries=3, tokenize__canary_repeats=2)
    planted = run_stage()
    assert documents_in("train", tokenizer) == texts + texts_to_plant(3, 2)
    changed = {name for name in without.keys() | planted.keys() if without.get(name) != planted.get(name)}
    assert {name.split("/")[0] for name in changed} == {"train", "budget"}
    before, after = json.loads(without["budget"]), json.loads(planted["budget"])
    assert after["canaries"] == 6
    assert after["splits"]["train"]["documents"] == before["splits"]["train"]["documents"] + 6
    assert {key: after[key] for key in ("data", "clean_md5")} == {key: before[key] for key in ("data", "clean_md5")}


def test_other_canaries_make_another_dataset(wide: Workspace) -> None:
    def fingerprint(**changes: int) -> str:
        wide.set(**changes)
        return json.loads(run_stage()["train/state.json"])["_fingerprint"]

    seen = [fingerprint(tokenize__canaries=number, tokenize__canary_repeats=2) for number in (0, 1, 2)]
    assert len({*seen, fingerprint(tokenize__canary_repeats=3)}) == 4


def test_without_canaries_their_settings_change_no_byte(wide: Workspace) -> None:
    without = run_stage()
    assert "canaries" not in json.loads(without["budget"])
    wide.set(tokenize__canary_repeats=9)
    assert run_stage() == without


@pytest.mark.parametrize("strategy", ["pad", "pack"])
def test_rows_too_short_for_a_canary_are_refused(
    stage: Workspace, tokenizer: PreTrainedTokenizerBase, strategy: str
) -> None:
    stage.set(tokenize__canaries=3, tokenize__strategy=strategy)
    longest = max(len(tokenizer(text)["input_ids"]) for text in texts_to_plant(3, 1)) + 2
    with pytest.raises(
        UserError,
        match=rf"tokenize.max_length: found 40, but a canary takes up to {longest} tokens; set it to {longest} or more",
    ):
        tokenize.main()


def test_a_sample_prompt_that_fills_the_context_is_refused_before_training(stage: Workspace) -> None:
    stage.set(evaluate__prompts=[" ".join(LINES)])
    with pytest.raises(UserError, match=r"evaluate.prompts: 'The quick .* context is 64 tokens.* at most 62 tokens"):
        tokenize.main()


@pytest.fixture(scope="module")
def gpt2_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerBase:
    """Return GPT-2's own tokenizer, loaded from a folder as a base is."""
    folder = tmp_path_factory.mktemp("gpt2")
    shutil.copy(real("gpt2-tokenizer/encoder.json"), folder / "vocab.json")
    shutil.copy(real("gpt2-tokenizer/vocab.bpe"), folder / "merges.txt")
    (folder / "config.json").write_text('{"model_type": "gpt2"}')
    return AutoTokenizer.from_pretrained(folder)


def test_gpt2s_own_tokenizer_gives_the_reference_ids_in_all_47_cases(gpt2_tokenizer: PreTrainedTokenizerBase) -> None:
    folder = real("gpt2-tokenizer-reference")
    texts = (folder / "ggml-vocab-gpt-2.gguf.inp").read_bytes().decode().split("\n__ggml_vocab_test__\n")
    ids = (folder / "ggml-vocab-gpt-2.gguf.out").read_text().split("\n")
    assert len(texts[: len(ids)]) == 47
    for text, expected in zip(texts, ids, strict=False):
        assert gpt2_tokenizer(text, add_special_tokens=False)["input_ids"] == [int(token) for token in expected.split()]


def test_gpt2s_own_tokenizer_gives_nanogpts_counts_on_tinyshakespeare(gpt2_tokenizer: PreTrainedTokenizerBase) -> None:
    text = real("tinyshakespeare/input.txt").read_text(encoding="utf-8")
    cut = int(0.9 * len(text))
    counts = [len(gpt2_tokenizer(part, verbose=False)["input_ids"]) for part in (text[:cut], text[cut:])]
    assert counts == [301_966, 36_059]


def test_a_special_tokens_name_in_a_text_is_text(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    text = "So it ends.<|endoftext|> And goes on."
    rows, budget = rows_of([text], tokenizer, "pad", 64, tmp_path)
    ids = rows[0]["input_ids"][: budget["kept"]]
    assert ids.count(tokenizer.eos_token_id) == 2  # before the text and behind it
    assert tokenizer.decode(ids[1:-1]) == text
