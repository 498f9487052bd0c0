"""The gates that every task's table has, whatever its models do."""

from pipeline.evaluation.quantity import ROW_PERPLEXITY
from pipeline.verdict.bound_tests import NEVER, RATIO
from pipeline.verdict.gate import FigureGate, FunctionGate, Gate, GateTable, baseline, candidate, megabytes
from pipeline.verdict.groups import group_gate
from pipeline.verdict.latency import latency_gate
from pipeline.verdict.membership import membership_gate

MEMBERSHIP = FunctionGate(membership_gate)
GROUPS = FunctionGate(group_gate)
SIZE = FigureGate(
    "size",
    candidate("bytes", megabytes),
    RATIO,
    reference=baseline("bytes", megabytes),
    problem="It is too big",
    subject="Size",
    finding="its weights take {figure} MB of memory",
    unit=" MB",
    lever="Start from a smaller base, or raise the bound if the servers have the memory.",
)
LATENCY = FunctionGate(latency_gate)
ROLLED_BACK = FigureGate(
    "rolled_back",
    lambda comparison: float(comparison.rolled_back is not None),
    NEVER,
    setting=None,
    problem="This version was champion and was rolled back: {rolled_back}",
    subject="This version was not rolled back.",
    if_kept="a rollback of this version.",
    if_broken="another candidate; or --force with the reason why it may come back.",
)
# At the end of every table.
SERVING: tuple[Gate, ...] = (GROUPS, SIZE, LATENCY, ROLLED_BACK)
TABLE = GateTable(ROW_PERPLEXITY, (MEMBERSHIP, *SERVING))  # of a task without a table of its own
