"""The gates of models that write a target for a source: no lazy copies, no empty answers, no loops."""

from pipeline.evaluation.quantity import TARGET_PERPLEXITY
from pipeline.verdict.gate import Gate, GateTable
from pipeline.verdict.shared_gates import MEMBERSHIP, SERVING
from pipeline.verdict.text_shares import TextShareGate

GATES: tuple[Gate, ...] = (
    TextShareGate(
        "source_copied",
        "copied",
        problem="It copies its sources",
        subject="Copying",
        what="of the 4-grams in its answers stand in their sources",
        lever="Train for longer (finetune.epochs), or on rows whose targets say it in other words.",
    ),
    TextShareGate(
        "empty",
        "empty",
        problem="It answers nothing",
        subject="Silence",
        what="of its answers are empty",
        lever="Remove rows with empty targets, and check that tasks.seq2seq.prefix is what the base was trained with.",
    ),
    TextShareGate(
        "repetition",
        "repetition",
        problem="It repeats itself",
        subject="Repetition",
        what="of the 4-grams in its answers occurred before in the same answer",
        lever="Remove targets that repeat themselves, train for longer (finetune.epochs), or lower"
        " tasks.seq2seq.max_target_length.",
    ),
    MEMBERSHIP,
    *SERVING,
)
TABLE = GateTable(TARGET_PERPLEXITY, GATES)
