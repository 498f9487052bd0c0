"""Compare ways of computing perplexity, in speed and accuracy: `python -m bench.evaluate [--quick] [--json]`.

GPT-2 of 124 million parameters (random weights, so nothing is downloaded) and the starter, on texts of about 105
tokens: the method of evaluate's perplexity metric, the same with other padding, and the code of the stage `evaluate`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from bench import harness
from bench.scorers import VARIANTS
from pipeline.command import run

PEER = "stock evaluate"
LIBRARIES = ("torch", "transformers", "evaluate")
SIZES = {"gpt2": 96, "starter": 960}  # texts
QUICK = {"starter": 32}


def main() -> None:
    """Measure and publish."""
    parser = harness.arguments()
    arguments = parser.parse_args()
    sizes, rounds = (QUICK, 1) if arguments.quick else (SIZES, arguments.rounds)
    rows, texts = [], []
    for model, count in sizes.items():
        of_model = rows_of(harness.in_turns([_variant(name, model, count) for name in VARIANTS], rounds))
        title = f"{model}, {count} texts, runs of each: {rounds}; median (minimum to maximum)"
        texts.append(f"{title}\n\n{_table(of_model)}")
        rows += [replace(row, variant=f"{model}: {row.variant}") for row in of_model]
    harness.publish("evaluate", "\n\n".join(texts), rows, LIBRARIES, arguments.json)


def _variant(name: str, model: str, texts: int) -> harness.Variant:
    arguments = ["-m", "bench.scorers", name, model, str(texts)]
    return harness.Variant(name, arguments, environment={"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"})


def rows_of(runs: Mapping[str, Sequence[harness.Run]]) -> list[harness.Row]:
    """Return speed, memory and error of each variant; errors in millionths, because figures have three decimals."""
    speed = {name: [run.result["tokens"] for run in of_one] for name, of_one in runs.items()}
    memory = {name: [run.peak_memory / 1e6 for run in of_one] for name, of_one in runs.items()}
    error = {name: [run.result["error"] * 1e6 for run in of_one] for name, of_one in runs.items()}
    return [
        *harness.compare(speed, "speed", "useful tokens/s", PEER),
        *harness.compare(memory, "peak memory", "MB", PEER),
        *harness.compare(error, "error of the perplexity", "millionths", PEER),
    ]


def _table(rows: list[harness.Row]) -> str:
    """Return a table with a line for each variant."""
    lines = [
        [
            variant,
            f"{of['speed'].figure:,.0f} ({of['speed'].low:,.0f} to {of['speed'].high:,.0f})",
            f"{of['speed'].ratio:.2f}",
            f"{of['peak memory'].figure:,.0f}",
            f"{of['error of the perplexity'].figure:.2f}",
        ]
        for variant, of in harness.by_variant(rows).items()
    ]
    return harness.table(["", "useful tokens/s", "x stock", "peak memory, MB", "error, millionths"], lines)


if __name__ == "__main__":
    run(main)
