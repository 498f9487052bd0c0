"""Against the champion a margin of forgetting is allowed per retrain; against the base it is a warning."""

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np

from pipeline.evaluation.scores import Scores
from pipeline.verdict import rendering
from pipeline.verdict.forgetting import forgetting_gate
from tests.pipeline.verdict.comparisons import CONFIG, QUICK, compared, first, gate, judged, probes, scores

# Bits per byte above the base after training on 1,575, 2,362 and 3,150 product reviews, and as that goes on.
GROWING = (0.0, 1.22, 1.40, 1.50, 1.58, 1.65, 1.71, 1.76, 1.80)


def test_a_candidate_that_forgets_more_than_the_margin_since_the_champion_is_stopped() -> None:
    verdict = judged(compared(bits=(2.9, 2.0, 1.0)))
    (reason,) = verdict.reasons
    assert reason.startswith(
        "It has forgotten general English: a byte of 90 plain texts takes 2.90 bits, with the champion 2.00, which is"
        " 0.90 more (95 % interval 0.8"
    )
    assert reason.endswith("); promote.gates.forgetting allows 0.50 more.")
    (change,) = verdict.counterfactuals
    assert change.startswith("forgetting: at most about 2.5")
    assert "finetune.learning_rate" in change


def test_the_bits_that_are_said_to_pass_pass_and_more_do_not() -> None:
    change = gate("forgetting", judged(compared(bits=(2.9, 2.0, 1.0)))).counterfactual
    limit = float(change.split("at most about ")[1].split()[0])
    assert judged(compared(bits=(limit - 0.03, 2.0, 1.0))).promoted
    assert not judged(compared(bits=(limit + 0.03, 2.0, 1.0))).promoted


def test_of_eight_retrains_on_a_growing_corpus_each_truly_better_one_is_promoted() -> None:
    random = np.random.default_rng(40)
    base = 1.0
    for number, (before, now) in enumerate(pairwise(GROWING)):
        pair = scores(300, 0.1, random)
        comparison = compared(pair, bits=(base + now, base + before, base))
        verdict = judged(comparison if number else first(comparison))
        assert verdict.promoted, verdict.reasons
        assert bool(verdict.warnings) is (number == 0)


def test_a_first_model_that_forgets_is_promoted_with_a_warning() -> None:
    verdict = judged(first(compared(bits=(2.22, 2.0, 1.0))))
    assert verdict.promoted
    (warning,) = verdict.warnings
    assert warning.startswith("It has forgotten general English, as a model for one domain may: ")
    assert "with the base 1.00, which is 1.22 more" in warning
    assert "forgetting" not in verdict.reasons[1]
    assert gate("forgetting", verdict).is_warning
    assert rendering.as_json(verdict)["warnings"] == verdict.warnings
    assert f"Warnings:\n- {warning[:40]}" in rendering.text(verdict)
    assert f"## Warnings\n\n- {warning}" in rendering.markdown(verdict)
    assert rendering.summary(verdict).endswith(f" Warning: {warning}")


def test_a_first_model_that_knows_less_than_a_guess_is_stopped() -> None:
    verdict = judged(first(compared(bits=(8.5, 2.0, 1.0))))
    (reason,) = verdict.reasons
    assert reason.startswith("It knows less of plain English than a guess: a byte takes 8.50 bits (95 % interval 8.")
    assert judged(first(compared(bits=(7.9, 2.0, 1.0)))).promoted


def test_a_cap_on_forgetting_counts_from_the_base_over_all_retrains() -> None:
    gates = QUICK.gates.model_copy(update={"forgetting_cap": 1.2})
    config = QUICK.model_copy(update={"gates": gates})
    comparison = compared(bits=(2.5, 2.4, 1.0))
    (reason,) = judged(comparison, config).reasons
    assert reason.startswith("It is not within the limit on forgetting: a byte of plain text takes 1.50 bits more than")
    assert judged(compared(bits=(2.1, 2.0, 1.0)), config).promoted
    assert "forgetting_cap" not in [gate.name for gate in judged(comparison).gates]
    assert not judged(first(comparison), config).promoted


def test_a_loss_of_plain_english_that_is_not_a_number_never_passes() -> None:
    comparison = compared()
    broken = probes()
    broken.general.loss[3] = math.nan
    for model in ("candidate", "baseline"):
        figures = replace(getattr(comparison, model), probes=broken)
        assert not gate("forgetting", judged(comparison, **{model: figures})).passed


def test_of_models_exactly_at_the_margin_at_most_5_percent_are_stopped() -> None:
    random = np.random.default_rng(41)
    comparison = compared()
    size = random.integers(300, 700, 90)
    broken = 0
    for _ in range(500):
        champion = random.normal(2.0, 0.4, 90) * math.log(2) * size
        # Texts differ in how much of them is lost, with a long tail.
        lost = 0.5 * random.gamma(2, 0.5, 90) * math.log(2) * size
        models = [
            replace(model, probes=model.measured_probes()._replace(general=Scores(loss, size // 4, size)))
            for model, loss in ((comparison.candidate, champion + lost), (comparison.baseline, champion))
        ]
        result = forgetting_gate(replace(comparison, candidate=models[0], baseline=models[1]), CONFIG)
        broken += not result.passed
    assert broken <= 25
