from pipeline.verdict.scope import blind_spots
from tests.pipeline.verdict.comparisons import compared, judged, metrics


def test_rows_that_end_in_labels_are_named_as_what_perplexity_does_not_judge() -> None:
    [sentence] = blind_spots({"label_endings": {"words": 2, "share": 0.9961}})
    assert sentence.startswith("99.6 % of the test rows end in one of 2 words, as labels and short answers do.")
    assert "does not tell whether the model gets that word right" in sentence


def test_other_corpora_get_no_such_sentence() -> None:
    assert blind_spots({"label_endings": None}) == blind_spots({}) == []


def test_a_verdict_on_rows_that_end_in_labels_warns_of_it() -> None:
    reference = metrics(label_endings={"words": 2, "share": 0.9961})
    verdict = judged(compared(), reference_metrics=reference)
    assert verdict.promoted
    assert verdict.warnings == blind_spots(reference)
