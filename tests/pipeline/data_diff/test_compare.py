"""What changed between two clean data sets."""

import html
import io
import json
import math
import re
import shutil
import subprocess
import sys
from collections import Counter
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from scipy.stats import ks_2samp

from pipeline import paths
from pipeline.command import UserError, run
from pipeline.data_diff import compare
from pipeline.data_diff.compare import DataDiff, clean_data, diff
from pipeline.registry.model_version import NEEDED
from pipeline.registry.store import Registry
from pipeline.tokenize import data_hash
from tests.conftest import ROOT
from tests.pipeline.reporting.test_report import measured_in_a_browser

pytestmark = pytest.mark.integration

HARBOUR = [
    f"The pilot of the {ship} took her out on the morning tide, and {what} on the way."
    for ship in ("Albatross", "Bonny Jean", "Cormorant", "Dunlin", "Eider", "Fulmar")
    for what in ("nobody said a word", "a gull stole the cook's bread", "the bell rang twice", "it rained for an hour")
]


def write(path: Path, texts: list[str], splits: list[str] | None = None) -> Path:
    """Write a clean data set; its rows are numbered as in a CSV with a header."""
    path.parent.mkdir(parents=True, exist_ok=True)
    splits = splits or [("train", "train", "validation", "test")[len(text) % 4] for text in texts]
    frame = pd.DataFrame({"row": range(2, len(texts) + 2), "text": texts, "split": splits})
    frame.astype({"row": "int64", "text": "str", "split": "str"}).to_parquet(path, index=False)
    return path


def compared(folder: Path, old: list[str], new: list[str]) -> DataDiff:
    """Compare two lists of texts."""
    return diff(write(folder / "old.parquet", old), write(folder / "new.parquet", new), names=("old", "new"))


def counts(found: DataDiff) -> tuple[int, int, int, int]:
    """Return how many rows are unchanged, edited, removed and added."""
    return found.rows.unchanged, found.rows.edited, found.rows.removed, found.rows.added


# Rows


def test_a_data_set_does_not_differ_from_itself(tmp_path: Path) -> None:
    found = compared(tmp_path, HARBOUR, HARBOUR)
    assert counts(found) == (24, 0, 0, 0)
    assert found.old.data == found.new.data
    assert (found.length.psi, found.length.ks, found.vocabulary.distance) == (0, 0, 0)
    assert found.vocabulary.unseen_share == 0
    assert "Both are the same data set." in compare.page(found)


def test_the_order_of_the_rows_changes_nothing_but_the_data_hash(tmp_path: Path) -> None:
    found = compared(tmp_path, HARBOUR, HARBOUR[::-1])
    assert counts(found) == (24, 0, 0, 0)
    assert found.old.data != found.new.data


def test_the_data_hash_is_the_one_that_manifests_have(tmp_path: Path) -> None:
    old = write(tmp_path / "old.parquet", HARBOUR)
    assert diff(old, old).old.data == data_hash(pd.read_parquet(old)[["split", "text"]].itertuples(index=False))


def test_rows_that_only_the_new_one_has_are_added(tmp_path: Path) -> None:
    found = compared(tmp_path, HARBOUR, [*HARBOUR, "Something else entirely.", "And yet another thing!"])
    assert counts(found) == (24, 0, 0, 2)
    assert [example["row"] for example in found.examples.added] == [26, 27]


def test_rows_that_only_the_old_one_has_are_removed(tmp_path: Path) -> None:
    found = compared(tmp_path, HARBOUR, HARBOUR[3:])
    assert counts(found) == (21, 0, 3, 0)
    assert [example["row"] for example in found.examples.removed] == [2, 3, 4]


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
def test_a_text_that_was_changed_a_little_is_edited(tmp_path: Path, edited: str) -> None:
    assert counts(compared(tmp_path, ["Unlike that.", HARBOUR[0]], ["Unlike that.", edited])) == (1, 1, 0, 0)


def test_unlike_texts_are_no_edit_of_each_other(tmp_path: Path) -> None:
    found = compared(tmp_path, ["A small cat sat on the warm mat."], ["My neighbour bought twelve red apples."])
    assert counts(found) == (0, 0, 1, 1)


def test_each_row_is_in_one_pair_and_the_likest_are_paired_first(tmp_path: Path) -> None:
    close, closer = HARBOUR[0].replace("morning tide", "evening tide"), HARBOUR[0].replace("a word", "a thing")
    found = compared(tmp_path, [HARBOUR[0]], [f"{close} And so on, and so on.", closer])
    assert counts(found) == (0, 1, 0, 1)
    assert [example["new"] for example in found.examples.edited] == [3]


def test_a_text_that_is_there_twice_counts_twice(tmp_path: Path) -> None:
    assert counts(compared(tmp_path, ["Ahoy!", "Ahoy!", "Belay."], ["Ahoy!"])) == (1, 0, 2, 0)
    assert counts(compared(tmp_path, ["Ahoy!", "ahoy!"], ["AHOY!", "Ahoy!"])) == (1, 1, 0, 0)


def test_rows_of_one_template_are_paired_in_their_order(tmp_path: Path) -> None:
    old = [f"Dear customer, your order number {number} has left our warehouse today." for number in range(1000)]
    new = [text.replace("today", "now") for text in old]
    found = compared(tmp_path, old, new)
    assert counts(found) == (0, 1000, 0, 0)


TEXTS = st.lists(st.text(st.sampled_from("ab \u00e9\u00c9"), max_size=8), max_size=12)


@settings(max_examples=15, deadline=None)
@given(TEXTS, TEXTS)
def test_every_row_is_counted_once(tmp_path_factory: pytest.TempPathFactory, old: list[str], new: list[str]) -> None:
    folder = tmp_path_factory.mktemp("texts")
    rows = compared(folder, old, new).rows
    shutil.rmtree(folder)
    assert rows.unchanged + rows.edited + rows.removed == rows.old == len(old)
    assert rows.unchanged + rows.edited + rows.added == rows.new == len(new)
    assert rows.unchanged == sum((Counter(old) & Counter(new)).values())


def test_signatures_estimate_the_similarity_of_texts() -> None:
    rng = np.random.default_rng(0)
    estimates, similarities = [], []
    for kept in np.linspace(0, 400, 41).astype(int):
        old = "".join(rng.choice(list("abcdefghij "), 400))
        new = old[:kept] + "".join(rng.choice(list("klmnopqrst "), 400 - kept))
        pieces = [{text[at : at + 5] for at in range(len(text) - 4)} for text in (old, new)]
        similarities.append(len(pieces[0] & pieces[1]) / len(pieces[0] | pieces[1]))
        agreeing = np.equal(*compare.signatures_of([old, new])).mean()
        estimates.append((agreeing - 1 / 256) / (1 - 1 / 256))
    errors = np.abs(np.array(estimates) - similarities)
    assert errors.max() < 4 * math.sqrt(0.25 / 128)  # 4 standard errors of 128 draws


# Splits


def test_a_text_that_is_in_another_split_now_has_moved(tmp_path: Path) -> None:
    texts = HARBOUR[:4]
    old = write(tmp_path / "old.parquet", texts, ["train", "train", "validation", "test"])
    new = write(tmp_path / "new.parquet", [texts[0].upper(), *texts[1:]], ["test", "train", "validation", "train"])
    found = diff(old, new)
    assert found.splits.moved == 2
    assert found.splits.moves == {"test to train": 1, "train to test": 1}
    assert found.splits.moved_by_edit == 0
    assert "2 texts are in another split now" in " ".join(compare.page(found).split())


def test_an_edited_text_may_fall_in_another_split_and_is_counted_apart(tmp_path: Path) -> None:
    old = write(tmp_path / "old.parquet", [HARBOUR[0]], ["test"])
    new = write(tmp_path / "new.parquet", [f"{HARBOUR[0]} Aye."], ["train"])
    splits = diff(old, new).splits
    assert (splits.moved, splits.moved_by_edit) == (0, 1)
    assert splits.old == {"train": 0, "validation": 0, "test": 1}
    assert splits.new == {"train": 1, "validation": 0, "test": 0}


# Drift


def test_lengths_are_in_characters(tmp_path: Path) -> None:
    found = compared(tmp_path, ["a" * 10, "\u00e9" * 20, "\U0001f6a2" * 60], ["b" * 5])
    assert (found.length.old.mean, found.length.old.median) == (30, 20)
    assert found.length.old.p95 == 56  # 20 + 0.9 * (60 - 20)
    assert found.length.new == compare.Length(5, 5, 5)


def test_the_population_stability_index_of_a_case_by_hand() -> None:
    # Deciles of 1..10 are its first nine values: ten bins. Old has 1.5 in each with the half row added; new has 10.5
    # in the last and 0.5 in the others; each has 15 in all.
    by_hand = 9 * (0.5 / 15 - 1.5 / 15) * math.log(0.5 / 1.5) + (10.5 / 15 - 1.5 / 15) * math.log(10.5 / 1.5)
    assert compare.psi(np.arange(1, 11), np.full(10, 10)) == pytest.approx(by_hand, rel=1e-12)


def test_the_index_has_its_usual_reading(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    old, same, shifted, other = (rng.normal(mean, 40, 2000).astype(int) for mean in (300, 300, 318, 400))
    assert compare.reading(compare.psi(old, same)) == "no shift"
    assert compare.reading(compare.psi(old, shifted)) == "some shift"
    assert compare.reading(compare.psi(old, other)) == "large shift"


def test_the_kolmogorov_smirnov_statistic_is_the_one_of_scipy(tmp_path: Path) -> None:
    old = ["x" * (10 + number % 7) for number in range(50)]
    new = ["x" * (12 + number % 5) for number in range(40)]
    found = compared(tmp_path, old, new).length
    expected = ks_2samp([len(text) for text in old], [len(text) for text in new])
    assert found.ks == pytest.approx(expected.statistic, rel=1e-5)
    assert found.p_value == pytest.approx(expected.pvalue, abs=0.05)  # the limit against the exact value


def test_vocabulary_drift_of_a_case_by_hand(tmp_path: Path) -> None:
    vocabulary = compared(tmp_path, ["Gull gull rope.", "Rope!"], ["gull lamp", "lamp 7"]).vocabulary
    assert (vocabulary.words_old, vocabulary.words_new) == (4, 4)
    assert (vocabulary.distinct_old, vocabulary.distinct_new) == (2, 3)
    assert (vocabulary.distinct_added, vocabulary.distinct_gone) == (2, 1)
    assert vocabulary.unseen_share == 0.75
    # gull 1/2 -> 1/4, rope 1/2 -> 0, lamp 0 -> 1/2, 7: 0 -> 1/4
    gull = (0.5 * math.log2(0.5 / 0.375) + 0.25 * math.log2(0.25 / 0.375)) / 2
    assert vocabulary.distance == pytest.approx(math.sqrt(gull + 0.25 + 0.25 + 0.125), rel=1e-5)
    assert vocabulary.added == (compare.Word("lamp", 0, 2),)
    assert vocabulary.gone == (compare.Word("rope", 2, 0),)
    assert [word.word for word in vocabulary.rose] == ["lamp"]
    assert [word.word for word in vocabulary.fell] == ["rope", "gull"]


def test_the_distance_of_the_vocabularies_is_the_one_of_scipy(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    texts = [[" ".join(f"w{number}" for number in rng.zipf(a, 30)) for _ in range(40)] for a in (1.5, 1.7)]
    found = compared(tmp_path, *texts).vocabulary
    frequencies = [Counter(" ".join(side).split()) for side in texts]
    vocabulary = sorted(frequencies[0] | frequencies[1])
    p, q = ([counted[word] for word in vocabulary] for counted in frequencies)
    assert found.distance == pytest.approx(jensenshannon(p, q, base=2), rel=1e-5)
    assert found.distinct_gone == len(frequencies[0].keys() - frequencies[1].keys())


def test_counts_are_the_same_when_the_words_do_not_fit_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = compared(tmp_path, HARBOUR, HARBOUR[5:])
    monkeypatch.setattr(compare, "_WORDS_AT_ONCE", 3)
    monkeypatch.setattr(compare, "_ROWS_AT_ONCE", 2)
    assert compared(tmp_path, HARBOUR, HARBOUR[5:]) == whole


@given(st.text(st.sampled_from("ab01_.':,; -\n\t\"(")))
def test_the_quick_way_to_ascii_words_finds_those_of_unicode(text: str) -> None:
    assert compare.words(text) == regex.findall(r"(?w)\w(?:\B.)*", text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("couldn't pay 3.50, or 1,000", ["couldn't", "pay", "3.50", "or", "1,000"]),
        ("\u0939\u093f\u0928\u094d\u0926\u0940 7", ["\u0939\u093f\u0928\u094d\u0926\u0940", "7"]),
        ("\u6e2f\u53e3 \u30ab\u30e2\u30e1", ["\u6e2f", "\u53e3", "\u30ab\u30e2\u30e1"]),
        ("write to jane.doe@example.org\nor @jane now", ["write", "to", "or", "now"]),
    ],
    ids=["English", "Hindi keeps its marks", "Han one by one", "no addresses"],
)
def test_words_are_those_of_unicode_without_addresses(text: str, words: list[str]) -> None:
    assert compare.words(text) == words


# Empty ends


def test_two_empty_data_sets_are_the_same(tmp_path: Path) -> None:
    found = compared(tmp_path, [], [])
    assert counts(found) == (0, 0, 0, 0)
    assert found.length == compare.LengthDrift(*[compare.Length(None, None, None)] * 2, None, None, None)
    assert (found.vocabulary.distance, found.vocabulary.unseen_share) == (None, None)
    assert "Both are the same data set." in compare.page(found)
    assert "not comparable" in compare.table(found)


@pytest.mark.parametrize("emptied", [False, True])
def test_an_empty_data_set_has_all_rows_added_or_removed(tmp_path: Path, emptied: bool) -> None:
    found = compared(tmp_path, *((HARBOUR, []) if emptied else ([], HARBOUR)))
    assert counts(found) == ((0, 0, 24, 0) if emptied else (0, 0, 0, 24))
    assert (found.length.psi, found.vocabulary.distance) == (None, None)
    assert found.vocabulary.unseen_share == (None if emptied else 1)
    compare.page(found)


def test_texts_without_words_are_no_hindrance(tmp_path: Path) -> None:
    found = compared(tmp_path, ["?!", "", "\n"], ["?!", "..."])
    assert counts(found) == (1, 0, 2, 1)
    assert found.vocabulary.distance is None


# The page


def shown(page: str) -> str:
    """Return what a browser shows of a page, as one line."""
    return " ".join(html.unescape(re.sub(r"<[^>]+>", "", page)).split())


def test_the_page_marks_what_an_edit_removed_and_added(tmp_path: Path) -> None:
    page = compare.page(compared(tmp_path, [HARBOUR[0]], [HARBOUR[0].replace("morning", "evening")]))
    assert "took her out on the <del>morning</del><ins>evening</ins> tide" in page


def test_marks_give_both_texts_back() -> None:
    parts = compare.marked("the old  rope, here", "the new rope - here")
    assert "".join(part for kind, part in parts if kind != "added") == "the old  rope, here"
    assert "".join(part for kind, part in parts if kind != "removed") == "the new rope - here"


def test_of_a_long_text_the_page_shows_what_is_near_the_edit() -> None:
    old = " ".join(f"rope{number}" for number in range(10_000))
    at = old.index("rope5000")
    parts = compare.marked(old, f"{old[:at]}lamp {old[at:]}")
    assert [part for part in parts if part[0] != "same"] == [("added", "lamp ")]
    assert sum(len(part) for _, part in parts) < 400


def test_the_page_shows_texts_and_runs_none(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script><img src=x onerror=alert(2)>"
    old = [f"{HARBOUR[0]} {evil}", f"{evil} gone"]
    page = compare.page(compared(tmp_path, old, [f"{HARBOUR[0]} {evil} more", f"new and unlike: {evil * 3}"]))
    assert "<script" not in page
    assert "<img" not in page
    assert page.count("&lt;script&gt;") >= 3


@pytest.mark.integration
@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
def test_on_a_phone_every_column_of_every_table_is_in_sight(tmp_path: Path) -> None:
    edited = [text.replace("the", "that") for text in HARBOUR[:2]]
    html = compare.page(compared(tmp_path, HARBOUR, [*edited, *HARBOUR[3:], "A text of another kind: 12,345 words."]))
    found, console = measured_in_a_browser(tmp_path, html.replace("<details", "<details open"), 360)
    assert (found, console) == ([360, 0, []], "")


def test_the_page_needs_no_network(tmp_path: Path) -> None:
    page = compare.page(compared(tmp_path, HARBOUR, HARBOUR[2:]))
    assert not re.search(r"https?:|//|url\(|@import|<link|\bsrc=", page)


def test_nothing_private_is_on_the_page_or_in_the_numbers(tmp_path: Path) -> None:
    private = {
        "email": "jane.roe@shipmail.org",
        "phone": "+44 20 7946 0958",
        "card": "4111 1111 1111 1111",
        "iban": "DE89 3704 0044 0532 0130 00",
        "secret": "AKIAIOSFODNN7EXAMPLE",
    }
    old = [f"{HARBOUR[0]} Reach me by {kind}: {value}." for kind, value in private.items()]
    new = [f"{HARBOUR[0]} You reach me by {kind}: {value}." for kind, value in private.items()]
    new += [f"Quite another {kind} altogether, namely {value}" for kind, value in private.items()]
    found = compared(tmp_path, old, new)
    page, numbers = compare.page(found), json.dumps(found.numbers())
    for kind, value in private.items():
        assert f"[{kind}]" in shown(page)
        for part in re.findall(r"\w{4,}", value):
            assert not re.search(rf"\b{part}\b", page + numbers, re.IGNORECASE)


def test_the_same_files_give_the_same_bytes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    texts = [" ".join(f"word{number}" for number in rng.zipf(1.4, 20)) for _ in range(3000)]
    results = [compared(tmp_path, texts[:2000], texts[1000:]) for _ in range(3)]
    assert len({compare.page(found) for found in results}) == 1
    assert len({json.dumps(found.numbers()) for found in results}) == 1


# What is no clean data set


def test_a_file_that_is_no_parquet_is_refused(tmp_path: Path) -> None:
    csv = tmp_path / "tales.csv"
    csv.write_text("text\nAhoy!\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"tales\.csv: is no clean data set: not a Parquet file; expected row"):
        diff(csv, csv)


def test_a_parquet_of_other_columns_is_refused(tmp_path: Path) -> None:
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


# Versions, in a real DVC repository


class Project:
    """A git and DVC repository whose clean data has two committed versions, as `dvc repro` records them."""

    OLD, NEW = HARBOUR, [*HARBOUR[2:], "A new tale about a lamp."]

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.run("git", "init", "-q")
        self.run("dvc", "init", "-q")
        (folder / "dvc.yaml").write_text(
            "stages:\n  validate:\n    cmd: cp source.parquet data/clean.parquet\n"
            "    deps: [source.parquet]\n    outs: [data/clean.parquet]\n",
            encoding="utf-8",
        )
        (folder / ".gitignore").write_text("/source.parquet\n", encoding="utf-8")
        (folder / "data").mkdir()
        self.commit("empty")
        for tag, texts in (("old", self.OLD), ("new", self.NEW)):
            write(folder / "source.parquet", texts)
            self.run("dvc", "repro", "-q")
            self.commit(tag)

    def commit(self, tag: str) -> None:
        """Commit everything under a tag."""
        self.run("git", "add", "-A")
        self.run("git", "-c", "user.name=A", "-c", "user.email=a@example.org", "commit", "-qm", tag)
        self.run("git", "tag", tag)

    def run(self, *command: str, code: int = 0) -> tuple[str, str]:
        """Return what a command prints and complains; fail unless it exits with `code`."""
        tool = Path(sys.executable).parent / command[0]
        done = subprocess.run(
            [str(tool) if tool.exists() else command[0], *command[1:]],
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout, done.stderr

    def diff(self, *arguments: str, code: int = 0) -> tuple[str, str]:
        """Run the command as a user does, but for a process of its own."""
        out, error = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(error):
            patch.chdir(self.folder)
            patch.setattr(sys, "argv", ["data_diff", *arguments])
            with pytest.raises(SystemExit) as ended:
                run(compare.main)
        assert ended.value.code == code, out.getvalue() + error.getvalue()
        return out.getvalue(), error.getvalue()

    def model(self, **manifest: object) -> str:
        """Make a model folder with this manifest."""
        (self.folder / "model").mkdir(exist_ok=True)
        (self.folder / "model" / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
        return "model"


@pytest.fixture(scope="module")
def made_project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return Project(tmp_path_factory.mktemp("project"))


@pytest.fixture
def project(made_project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """Return the project, which is the current folder during the test."""
    monkeypatch.chdir(made_project.folder)
    return made_project


def clean_md5(project: Project, revision: str) -> str:
    """Return the MD5 that a revision's dvc.lock has for the clean data."""
    lock, _ = project.run("git", "show", f"{revision}:dvc.lock")
    return re.findall(r"path: data/clean.parquet\n\s+hash: md5\n\s+md5: (\w+)", lock)[0]


def test_a_git_revision_is_compared_with_what_is_here(project: Project) -> None:
    out, _ = project.diff("old", "--json")
    numbers = json.loads(out)
    assert [numbers["rows"][key] for key in ("unchanged", "edited", "removed", "added")] == [22, 0, 2, 1]
    assert (numbers["old"]["name"], numbers["new"]["name"]) == ("old", "data/clean.parquet")


@pytest.mark.parametrize("revision", ["HEAD~1", "old", "old^{commit}"])
def test_any_name_of_a_revision_will_do(project: Project, revision: str) -> None:
    with clean_data(revision) as path:
        assert pd.read_parquet(path)["text"].tolist() == Project.OLD


def test_people_get_a_table_and_a_page(project: Project) -> None:
    out, _ = project.diff("old", "new", "--page", "reports/data_diff/report.html")
    assert "22 unchanged, 0 edited, 2 removed, 1 added" in out
    page = (project.folder / "reports/data_diff/report.html").read_text(encoding="utf-8")
    assert "From old (old) to new (new)." in shown(page)


def test_a_model_folder_stands_for_the_clean_data_it_was_made_from(project: Project) -> None:
    with clean_data(project.model(clean_md5=clean_md5(project, "old"))) as path:
        assert pd.read_parquet(path)["text"].tolist() == Project.OLD


def test_a_version_of_the_registry_stands_for_the_clean_data_it_was_made_from(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = Project.__new__(Project)
    there.folder = Path(shutil.copytree(project.folder, tmp_path / "clone"))
    monkeypatch.chdir(there.folder)
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "home"))
    shutil.copy(ROOT / "params.yaml", there.folder)
    registry = Registry()
    for tag in ("old", "new"):
        folder = Path(there.model(clean_md5=clean_md5(there, tag)))
        for name in NEEDED:
            (folder / name).touch()
        seen = registry.champion()
        registry.move(registry.add(folder, {}, {}), expected=seen and seen.tag, action="promote", why=tag)
    champion = registry.get("champion")
    for name in ("champion", champion.tag, champion.version):
        with clean_data(name) as path:
            assert pd.read_parquet(path)["text"].tolist() == Project.NEW
    out, _ = there.diff("previous", "champion")
    assert "22 unchanged, 0 edited, 2 removed, 1 added" in out
    refusal = "is no file, no model folder, no version in the registry"
    with pytest.raises(UserError, match=refusal), clean_data(champion.version[:7]):  # git's commits are abbreviated so
        pass
    with clean_data("HEAD~1") as path:
        assert pd.read_parquet(path)["text"].tolist() == Project.OLD


def test_a_model_without_the_md5_is_refused(project: Project) -> None:
    _, error = project.diff(project.model(data="4d2d"), code=2)
    assert error == (
        "error: model/manifest.json: has no clean_md5, the MD5 of the clean data, as models have that were made before "
        "it was recorded; name the git revision that made the model instead\n"
    )


def test_a_broken_manifest_is_refused(project: Project) -> None:
    project.model()
    (project.folder / "model" / "manifest.json").write_text("{", encoding="utf-8")
    _, error = project.diff("model", code=2)
    assert "manifest.json: is not JSON" in error


def test_data_that_is_in_no_cache_is_said_to_be_so(project: Project, tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    shutil.copytree(project.folder, clone)
    shutil.rmtree(clone / ".dvc" / "cache")
    there = Project.__new__(Project)
    there.folder = clone
    _, error = there.diff("old", code=2)
    assert error == (
        f"error: old: its clean data (MD5 {clean_md5(there, 'old')}) is neither in the DVC cache nor in a remote; run "
        "`dvc fetch --all-commits validate` where a remote has it, else check that revision out and run "
        "`dvc repro validate`\n"
    )
    _, error = there.diff(there.model(clean_md5=clean_md5(there, "old")), code=2)
    assert error.startswith("error: model/manifest.json: its clean data (MD5 ")
    assert error.count("\n") == 1


def test_data_comes_from_the_remote_where_the_cache_has_it_no_more(project: Project, tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    shutil.copytree(project.folder, clone)
    there = Project.__new__(Project)
    there.folder = clone
    there.run("dvc", "remote", "add", "-q", "-d", "store", str(tmp_path / "store"))
    shutil.move(clone / ".dvc" / "cache", tmp_path / "store")  # a remote has the cache's layout
    for old in ("old", there.model(clean_md5=clean_md5(there, "old"))):
        out, _ = there.diff(old, "source.parquet")
        assert "22 unchanged, 0 edited, 2 removed, 1 added" in out


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        (
            "no-such",
            "'no-such' is no file, no model folder, no version in the registry and no git revision known here; "
            "name a clean parquet file, ",
        ),
        ("data", "data is a folder without manifest.json; name a model folder, "),
        ("empty", "empty: the dvc.lock of this git revision records no data/clean.parquet; name a revision "),
        ("dvc.yaml", "dvc.yaml: is no clean data set: not a Parquet file; expected row "),
    ],
)
def test_what_names_no_version_is_refused(project: Project, name: str, sentence: str) -> None:
    _, error = project.diff(name, code=2)
    assert error.startswith(f"error: {sentence}")
    assert error.count("\n") == 1


def test_outside_a_repository_only_files_have_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(paths.CLEAN, HARBOUR)
    with clean_data(str(paths.CLEAN)) as path:
        assert path == paths.CLEAN
    refusal = "'HEAD' is no file, no model folder, no version in the registry and no git revision known here"
    with pytest.raises(UserError, match=refusal), clean_data("HEAD"):
        pass


def test_a_page_that_cannot_be_written_is_a_mistake_of_the_caller(project: Project) -> None:
    _, error = project.diff("old", "--page", "data", code=2)
    assert error == "error: --page data: cannot be written (Is a directory); name another file\n"


def test_a_missing_argument_is_a_mistake_of_the_caller(project: Project) -> None:
    project.diff(code=2)


def test_national_phone_numbers_are_redacted_where_the_rule_names_their_region(tmp_path: Path) -> None:
    old = write(tmp_path / "old.parquet", HARBOUR)
    new = write(tmp_path / "new.parquet", [*HARBOUR, "Call the harbour master on (415) 555-2671 before dawn."])
    assert "555-2671" in compare.page(diff(old, new))
    assert "555-2671" not in compare.page(diff(old, new, region="US"))
