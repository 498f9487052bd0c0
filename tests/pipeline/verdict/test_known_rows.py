"""The test rows that a model was chosen on are found again in a corpus that has grown, and only there."""

from pipeline.verdict.known_rows import fingerprint, known_rows

TEXTS = ["one", "zwei", "三"]


def test_old_rows_are_found_at_the_beginning_of_a_corpus_that_has_grown() -> None:
    assert known_rows([*TEXTS, "four"], fingerprint(TEXTS)) == 3
    assert known_rows(TEXTS, fingerprint(TEXTS)) == 3


def test_rows_that_were_edited_removed_or_never_recorded_are_unknown() -> None:
    assert known_rows(["one", "two", "三", "four"], fingerprint(TEXTS)) is None
    assert known_rows(TEXTS[:2], fingerprint(TEXTS)) is None
    assert known_rows(TEXTS, None) is None
