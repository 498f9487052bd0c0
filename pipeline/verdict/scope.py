"""What a verdict cannot see of a candidate, in a sentence for each."""

from pipeline.verdict.records import Metrics
from pipeline.verdict.wording import percent


def blind_spots(reference_metrics: Metrics) -> list[str]:
    """Return what figures on all tokens may hide, where the test rows have something to hide."""
    labels = reference_metrics.get("label_endings")
    if not labels:
        return []
    return [
        f"{percent(labels['share'])} of the test rows end in one of {labels['words']} words, as labels and short"
        " answers do. Perplexity judges all tokens alike, so this verdict does not tell whether the model gets that"
        " word right, and a model that never writes the rarer ones may pass: check them by hand."
    ]
