"""The verdict: is the candidate better than the model it would replace, beyond noise, and within every bound?

Pure: figures in, a verdict with its sentences out; no model, no file, no clock. It is better if its gain is above
promote.min_gain beyond chance (`improvement`), and within bounds if it passes every gate (`gates`).
"""

from dataclasses import asdict, replace

from pipeline import params
from pipeline.registry.model_version import short
from pipeline.verdict.challenges import Challenge
from pipeline.verdict.gate import GateTable
from pipeline.verdict.gates import TABLE, evaluate_gates
from pipeline.verdict.improvement import Improvement, improvement
from pipeline.verdict.records import Comparison, GateResult, Metrics, Verdict
from pipeline.verdict.scope import blind_spots


def judge(
    comparison: Comparison,
    config: params.Promote,
    *,
    table: GateTable = TABLE,
    challenge: Challenge | None = None,
    forced: str | None = None,
    at: str = "",
) -> Verdict:
    """Return the verdict on the candidate.

    Args:
        comparison: The candidate and the model it would replace.
        config: The section `promote` of params.yaml.
        table: What is compared, and the gates: the task's, by default that of causal language models.
        challenge: What the comparison with a champion may spend; None: one tail of `promote.confidence`.
        forced: Why to promote the candidate whatever speaks against it.
        at: The time, for the record.
    """
    comparison = replace(comparison, quantity=table.quantity)
    improved, gates = improvement(comparison, config, challenge), evaluate_gates(comparison, config, table.gates)
    passes = improved.is_better and all(gate.passed for gate in gates)
    candidate, baseline = comparison.candidate.metrics, comparison.baseline.metrics
    return Verdict(
        promoted=passes or forced is not None,
        forced=None if passes else forced,
        reasons=_reasons(improved, gates),
        warnings=[
            *comparison.warnings,
            *(gate.sentence for gate in gates if gate.is_warning),
            *blind_spots(comparison.reference_metrics),
        ],
        candidate=dict(candidate),
        champion=dict(baseline) if comparison.against == "champion" else None,
        against=comparison.against,
        difference=asdict(improved.gain) | {"confidence": config.confidence} | _sure(improved),
        comparison=improved.sentence,
        gates=gates,
        counterfactuals=[
            *([improved.counterfactual] if passes or not improved.is_better else []),
            *(gate.counterfactual for gate in gates if gate.passed == passes),
        ],
        rows=improved.gain.rows,
        at=at,
        challenge=challenge if improved.evidence else None,
    )


def unchanged(candidate: Metrics, at: str = "") -> Verdict:
    """Return the verdict on a candidate that already is the champion: nothing is compared, nothing can be forced."""
    comparison = f"The candidate already is the champion: both are version {short(candidate['version'])}."
    return Verdict(
        promoted=False,
        forced=None,
        reasons=[comparison],
        warnings=[],
        candidate=dict(candidate),
        champion=dict(candidate),
        against="champion",
        difference=None,
        comparison=comparison,
        gates=[],
        counterfactuals=["Another candidate: change the data or params.yaml, then run `dvc repro`."],
        rows=0,
        at=at,
    )


def _sure(improved: Improvement) -> dict[str, float | None]:
    """Return the gain that is sure on all rows and on new ones, each with its error rate: what decides."""
    sure = improved.evidence
    figures: dict[str, float | None] = {}
    for prefix, least in (("", sure and sure.all_rows), ("new_", sure and sure.new_rows)):
        figures |= {f"{prefix}least": least.gain if least else None, f"{prefix}alpha": least.alpha if least else None}
    return figures | {"new_rows": sure.new_rows.rows if sure and sure.new_rows else None}


def _reasons(improved: Improvement, gates: list[GateResult]) -> list[str]:
    """Return why the candidate passes, or all that speaks against it."""
    broken = [gate.sentence for gate in gates if not gate.passed]
    if not improved.is_better:
        return [improved.sentence, *broken]
    kept = ", ".join(gate.name for gate in gates if not gate.is_warning)
    return broken or [improved.sentence, f"It keeps to every bound: {kept}."]
