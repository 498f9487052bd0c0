"""The gates of classifiers: no class given up, no false confidence, no dearer decisions."""

from pipeline.evaluation.quantity import LABEL_PERPLEXITY
from pipeline.verdict.calibration import calibration_gate
from pipeline.verdict.gate import FunctionGate, Gate, GateTable
from pipeline.verdict.paired_means import PairedMeanGate
from pipeline.verdict.recall import recall_gate
from pipeline.verdict.shared_gates import MEMBERSHIP, SERVING

GATES: tuple[Gate, ...] = (
    FunctionGate(recall_gate),
    FunctionGate(calibration_gate),
    PairedMeanGate(
        "cost",
        "cost",
        sign=1,
        problem="Its decisions cost more",
        subject="Cost",
        what="a decision's cost (tasks.classify.costs; 1 for a wrong one without)",
        lever="See which labels it is taken for in the report, and set tasks.classify.decide to cost.",
        rows="rows",
        refuses_first=False,
    ),
    MEMBERSHIP,
    *SERVING,
)
TABLE = GateTable(LABEL_PERPLEXITY, GATES)
