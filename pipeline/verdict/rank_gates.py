"""The gates of rankers: a better loss of pairs must not order the passages of a query worse."""

from pipeline.evaluation.quantity import LABEL_PERPLEXITY_BY_QUERY
from pipeline.verdict.gate import Gate, GateTable
from pipeline.verdict.paired_means import PairedMeanGate
from pipeline.verdict.shared_gates import MEMBERSHIP, SERVING

GATES: tuple[Gate, ...] = (
    PairedMeanGate(
        "ndcg",
        "ndcg@10",
        sign=-1,
        problem="It ranks worse",
        subject="Ranking",
        what="a query's nDCG@10",
        lever="Add training rows of the queries that the report shows as the worst, or more passages that look relevant"
        " and are not.",
        rows="queries",
    ),
    MEMBERSHIP,
    *SERVING,
)
TABLE = GateTable(LABEL_PERPLEXITY_BY_QUERY, GATES)
