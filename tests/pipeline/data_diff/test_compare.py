"""What changed between two clean data sets."""

import shutil
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.command import UserError
from pipeline.data_diff import render
from pipeline.data_diff.compare import diff
from pipeline.data_diff.result import Length, LengthDrift
from pipeline.tokenize import data_hash
from tests.pipeline.data_diff.corpora import HARBOUR, compare_texts, row_counts, write

pytestmark = pytest.mark.integration


def test_a_data_set_equals_itself(tmp_path: Path) -> None:
    result = compare_texts(tmp_path, HARBOUR, HARBOUR)
    assert row_counts(result) == (24, 0, 0, 0)
    assert result.old.data == result.new.data
    assert (result.length.psi, result.length.ks, result.vocabulary.distance) == (0, 0, 0)
    assert result.vocabulary.unseen_share == 0
    assert "Both are the same data set." in render.page(result)


def test_row_order_changes_only_the_data_hash(tmp_path: Path) -> None:
    result = compare_texts(tmp_path, HARBOUR, HARBOUR[::-1])
    assert row_counts(result) == (24, 0, 0, 0)
    assert result.old.data != result.new.data


def test_the_data_hash_is_that_of_the_manifest(tmp_path: Path) -> None:
    old = write(tmp_path / "old.parquet", HARBOUR)
    assert diff(old, old).old.data == data_hash(pd.read_parquet(old)[["split", "text"]].to_dict("records"))


def test_a_row_with_another_label_is_edited_and_its_labels_are_shown(tmp_path: Path) -> None:
    files = [write(tmp_path / f"{name}.parquet", HARBOUR) for name in ("old", "new")]
    for file, first in zip(files, ("calm", "storm"), strict=True):
        frame = pd.read_parquet(file)
        frame["label"] = [first, *["calm"] * (len(frame) - 1)]
        frame["labels"] = [["a", "b"]] * len(frame)
        frame.to_parquet(file, index=False)
    result = diff(*files)
    assert row_counts(result) == (23, 1, 0, 0)
    [example] = result.examples.edited
    assert ("removed", "calm") in example["parts"]
    assert ("added", "storm") in example["parts"]
    clean = pd.read_parquet(files[1])
    rows = clean.assign(labels=clean["labels"].map(list)).to_dict("records")
    assert result.new.data == data_hash(rows) != result.old.data  # that of the manifest


def test_rows_only_in_the_new_data_set_are_added(tmp_path: Path) -> None:
    result = compare_texts(tmp_path, HARBOUR, [*HARBOUR, "Something else entirely.", "And yet another thing!"])
    assert row_counts(result) == (24, 0, 0, 2)
    assert [example["row"] for example in result.examples.added] == [26, 27]


def test_rows_only_in_the_old_data_set_are_removed(tmp_path: Path) -> None:
    result = compare_texts(tmp_path, HARBOUR, HARBOUR[3:])
    assert row_counts(result) == (21, 0, 3, 0)
    assert [example["row"] for example in result.examples.removed] == [2, 3, 4]


@pytest.mark.parametrize(
    "edited",
    [
        HARBOUR[0].upper(),
        HARBOUR[0].replace(" ", "  "),
        HARBOUR[0].replace("pilot", "p\uff49lot"),
        HARBOUR[0].replace("nobody", "no one"),
        f"{HARBOUR[0]} Then she came back.",
    ],
    ids=["case", "white space", "Unicode form", "a word", "a sentence"],
)
def test_a_slightly_changed_text_is_edited(tmp_path: Path, edited: str) -> None:
    assert row_counts(compare_texts(tmp_path, ["Unlike that.", HARBOUR[0]], ["Unlike that.", edited])) == (1, 1, 0, 0)


def test_different_texts_are_removed_and_added_not_edited(tmp_path: Path) -> None:
    result = compare_texts(tmp_path, ["A small cat sat on the warm mat."], ["My neighbour bought twelve red apples."])
    assert row_counts(result) == (0, 0, 1, 1)


def test_each_row_is_in_one_pair_and_the_most_similar_are_paired_first(tmp_path: Path) -> None:
    close, closer = HARBOUR[0].replace("morning tide", "evening tide"), HARBOUR[0].replace("a word", "a thing")
    result = compare_texts(tmp_path, [HARBOUR[0]], [f"{close} And so on, and so on.", closer])
    assert row_counts(result) == (0, 1, 0, 1)
    assert [example["new"] for example in result.examples.edited] == [3]


def test_a_text_that_occurs_twice_counts_twice(tmp_path: Path) -> None:
    assert row_counts(compare_texts(tmp_path, ["Ahoy!", "Ahoy!", "Belay."], ["Ahoy!"])) == (1, 0, 2, 0)
    assert row_counts(compare_texts(tmp_path, ["Ahoy!", "ahoy!"], ["AHOY!", "Ahoy!"])) == (1, 1, 0, 0)


def test_rows_of_one_template_are_paired_in_order(tmp_path: Path) -> None:
    old = [f"Dear customer, your order number {number} has left our warehouse today." for number in range(1000)]
    new = [text.replace("today", "now") for text in old]
    result = compare_texts(tmp_path, old, new)
    assert row_counts(result) == (0, 1000, 0, 0)


TEXTS = st.lists(st.text(st.sampled_from("ab \u00e9\u00c9"), max_size=8), max_size=12)


@settings(max_examples=15, deadline=None)
@given(TEXTS, TEXTS)
def test_every_row_is_counted_once(tmp_path_factory: pytest.TempPathFactory, old: list[str], new: list[str]) -> None:
    folder = tmp_path_factory.mktemp("texts")
    rows = compare_texts(folder, old, new).rows
    shutil.rmtree(folder)
    assert rows.unchanged + rows.edited + rows.removed == rows.old == len(old)
    assert rows.unchanged + rows.edited + rows.added == rows.new == len(new)
    assert rows.unchanged == sum((Counter(old) & Counter(new)).values())


def test_a_text_whose_split_changed_has_moved(tmp_path: Path) -> None:
    texts = HARBOUR[:4]
    old = write(tmp_path / "old.parquet", texts, ["train", "train", "validation", "test"])
    new = write(tmp_path / "new.parquet", [texts[0].upper(), *texts[1:]], ["test", "train", "validation", "train"])
    result = diff(old, new)
    assert result.splits.moved == 2
    assert result.splits.moves == {"test to train": 1, "train to test": 1}
    assert result.splits.moved_by_edit == 0
    assert "2 texts are in another split now" in " ".join(render.page(result).split())


def test_an_edited_text_in_another_split_is_counted_separately(tmp_path: Path) -> None:
    old = write(tmp_path / "old.parquet", [HARBOUR[0]], ["test"])
    new = write(tmp_path / "new.parquet", [f"{HARBOUR[0]} Aye."], ["train"])
    splits = diff(old, new).splits
    assert (splits.moved, splits.moved_by_edit) == (0, 1)
    assert splits.old == {"train": 0, "validation": 0, "test": 1}
    assert splits.new == {"train": 1, "validation": 0, "test": 0}


def test_two_empty_data_sets_are_equal(tmp_path: Path) -> None:
    result = compare_texts(tmp_path, [], [])
    assert row_counts(result) == (0, 0, 0, 0)
    assert result.length == LengthDrift(*[Length(None, None, None)] * 2, None, None, None)
    assert (result.vocabulary.distance, result.vocabulary.unseen_share) == (None, None)
    assert "Both are the same data set." in render.page(result)
    assert "not comparable" in render.table(result)


@pytest.mark.parametrize("emptied", [False, True])
def test_against_an_empty_data_set_all_rows_are_added_or_removed(tmp_path: Path, emptied: bool) -> None:
    result = compare_texts(tmp_path, *((HARBOUR, []) if emptied else ([], HARBOUR)))
    assert row_counts(result) == ((0, 0, 24, 0) if emptied else (0, 0, 0, 24))
    assert (result.length.psi, result.vocabulary.distance) == (None, None)
    assert result.vocabulary.unseen_share == (None if emptied else 1)
    render.page(result)


def test_a_file_that_is_not_parquet_is_refused(tmp_path: Path) -> None:
    csv = tmp_path / "tales.csv"
    csv.write_text("text\nAhoy!\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"tales\.csv: is no clean data set: not a Parquet file; expected row"):
        diff(csv, csv)


def test_a_parquet_file_with_other_columns_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "other.parquet"
    pd.DataFrame({"row": [1.5], "text": ["Ahoy!"]}).to_parquet(other)
    with pytest.raises(UserError, match=r"its columns are row \(double\), text \(large_string\); expected row"):
        diff(other, other)


def test_a_missing_value_is_refused(tmp_path: Path) -> None:
    gap = tmp_path / "gap.parquet"
    pd.DataFrame({"row": [2, 3], "text": ["Ahoy!", None], "split": ["train", "test"]}).to_parquet(gap)
    with pytest.raises(
        UserError, match=r"gap\.parquet: is no clean data set: its column text has a missing value in row 2 of"
    ):
        diff(gap, gap)
