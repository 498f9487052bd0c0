"""How fast, and how exactly, ways of scoring find a perplexity: `python -m bench.evaluate [--quick] [--json]`.

GPT-2 of 124 million parameters (random weights, so nothing is fetched) and the starter, on texts of about 105 tokens:
the way of evaluate's perplexity metric, the same with other padding, and the stage's own code.
"""

import json
from collections.abc import Mapping, Sequence

from bench import harness
from bench.scorers import VARIANTS
from pipeline.command import run

PEER = "stock evaluate"
LIBRARIES = ("torch", "transformers", "evaluate")
SIZES = {"gpt2": 96, "starter": 960}  # texts
QUICK = {"starter": 32}


def main() -> None:
    """Measure and publish."""
    parser = harness.arguments("Compare ways of scoring texts: useful tokens a second, memory, and how exact they are.")
    wanted = parser.parse_args()
    sizes, rounds = (QUICK, 1) if wanted.quick else (SIZES, wanted.rounds)
    rows, texts = [], []
    for model, count in sizes.items():
        found = rows_of(harness.in_turns([_variant(name, model, count) for name in VARIANTS], rounds))
        title = f"{model}, {count} texts, runs of each: {rounds}; median (least to greatest)"
        texts.append(f"{title}\n\n{_figures(found)}")
        rows += [harness.Row(f"{model}: {row.variant}", *list(vars(row).values())[1:]) for row in found]
    harness.publish("evaluate", "\n\n".join(texts), rows, LIBRARIES, wanted.json)


def _variant(name: str, model: str, texts: int) -> harness.Variant:
    arguments = ["-m", "bench.scorers", name, model, str(texts)]
    return harness.Variant(name, arguments, environment={"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"})


def rows_of(runs: Mapping[str, Sequence[harness.Run]]) -> list[harness.Row]:
    """Return speed, memory and error of each way of scoring; errors in millionths, for figures have three decimals."""
    printed = {name: [json.loads(run.output.splitlines()[-1]) for run in of_one] for name, of_one in runs.items()}
    speed = {name: [one["tokens"] for one in of] for name, of in printed.items()}
    memory = {name: [run.peak_memory / 1e6 for run in of] for name, of in runs.items()}
    error = {name: [one["error"] * 1e6 for one in of] for name, of in printed.items()}
    return [
        *harness.compare(speed, "speed", "useful tokens/s", PEER),
        *harness.compare(memory, "peak memory", "MB", PEER),
        *harness.compare(error, "error of the perplexity", "millionths", PEER),
    ]


def _figures(rows: list[harness.Row]) -> str:
    """Return the table, a line a way of scoring."""
    by_variant: dict[str, dict[str, harness.Row]] = {}
    for row in rows:
        by_variant.setdefault(row.variant, {})[row.metric] = row
    lines = [
        [
            variant,
            f"{of['speed'].figure:,.0f} ({of['speed'].low:,.0f} to {of['speed'].high:,.0f})",
            f"{of['speed'].ratio:.2f}",
            f"{of['peak memory'].figure:,.0f}",
            f"{of['error of the perplexity'].figure:.2f}",
        ]
        for variant, of in by_variant.items()
    ]
    return harness.table(["", "useful tokens/s", "x stock", "peak memory, MB", "error, millionths"], lines)


if __name__ == "__main__":
    run(main)
