"""The gates of causal language models: bounds that a candidate must keep to, however low its perplexity.

A gate is one row of `GATES`: the figure, what it is compared with, the test, and the words for it.
"""

from collections.abc import Sequence

from pipeline import params
from pipeline.evaluation.quantity import PERPLEXITY
from pipeline.verdict.bound_tests import SHARE, SHARE_ABOVE
from pipeline.verdict.forgetting import forgetting_cap_gate, forgetting_gate
from pipeline.verdict.gate import FigureGate, FunctionGate, Gate, GateTable, candidate, real_texts
from pipeline.verdict.likeness import likeness_gate
from pipeline.verdict.records import Comparison, GateResult
from pipeline.verdict.shared_gates import MEMBERSHIP, SERVING

__all__ = ["GATES", "TABLE", "FigureGate", "evaluate_gates"]

_REPEATS = (
    "Remove rows that repeat themselves, raise evaluate.temperature (and service.temperature) if it is below 1, or"
    " lower finetune.epochs."
)

GATES: tuple[Gate, ...] = (
    FunctionGate(likeness_gate),
    FigureGate(
        "copied",
        candidate("memorisation.copied"),
        SHARE_ABOVE,
        reference=real_texts("copied"),
        problem="It copies",
        subject="Copying",
        finding="{figure} of its {generations} texts contain {copied_tokens} tokens or more of one training row,"
        " besides boilerplate; {reference} of real unseen texts of the same lengths do",
        lever="Lower finetune.epochs or finetune.learning_rate, add rows, or let validate.rules.near_duplicate refuse"
        " near copies.",
    ),
    FigureGate(
        "extracted",
        candidate("memorisation.extracted"),
        SHARE,
        applies=lambda comparison: comparison.canaries > 0,
        problem="It gives away planted secrets",
        subject="It keeps planted secrets",
        finding="{figure} of the canaries can be extracted from it word for word",
        lever="Lower finetune.epochs or finetune.learning_rate, add rows, or set or lower finetune.lora_rank; a row"
        " that occurs once is recited less than one that occurs tokenize.canary_repeats times.",
    ),
    MEMBERSHIP,
    FigureGate(
        "repetition",
        candidate("text.repetition"),
        SHARE_ABOVE,
        reference=real_texts("repetition"),
        problem="It repeats itself",
        subject="Repetition",
        finding="{figure} of the 4-grams in its {generations} texts occurred before in the same text; {reference} of"
        " those in real texts of the same lengths do",
        lever=_REPEATS,
    ),
    FigureGate(
        "loops",
        candidate("text.loops"),
        SHARE_ABOVE,
        reference=real_texts("loops"),
        problem="It loops",
        subject="Looping",
        finding="{figure} of its {generations} texts end in a loop; {reference} of real texts of the same lengths do",
        lever=_REPEATS,
    ),
    FunctionGate(forgetting_gate),
    FunctionGate(forgetting_cap_gate),
    *SERVING,
)
TABLE = GateTable(PERPLEXITY, GATES)


def evaluate_gates(comparison: Comparison, config: params.Promote, gates: Sequence[Gate] = GATES) -> list[GateResult]:
    """Return the result of each gate that applies."""
    results = (gate.evaluate(comparison, config) for gate in gates)
    return [result for result in results if result is not None]
