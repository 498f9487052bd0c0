"""Compare ways of fine-tuning, in speed and loss: `python -m bench.train [--quick] [--json]`.

GPT-2 of 124 million parameters (random weights, so nothing is downloaded) and the starter, on tales of about 105
tokens: the original recipe, transformers' language-modelling example, a loop like nanoGPT's, and the code of the stage
`finetune`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from bench import harness
from bench.trainers import LIMITS, VARIANTS
from pipeline.command import run

PEER = "recipe, padded to 128"
LIBRARIES = ("torch", "transformers", "accelerate", "datasets")
SIZES = {"gpt2": (24, 1), "starter": (256, 3)}  # training texts, epochs
QUICK = {"starter": (8, 1)}


def main() -> None:
    """Measure and publish."""
    parser = harness.arguments()
    arguments = parser.parse_args()
    sizes, rounds = (QUICK, 1) if arguments.quick else (SIZES, arguments.rounds)
    rows, texts = [], []
    for model, (count, epochs) in sizes.items():
        runs = harness.in_turns([_variant(name, model, count, epochs) for name in [*LIMITS, *VARIANTS]], rounds)
        of_model = rows_of(runs)
        title = f"{model}, {count} texts, {epochs} epochs, runs of each: {rounds}; median (minimum to maximum)"
        texts.append(f"{title}\n\n{_table(of_model)}")
        rows += [replace(row, variant=f"{model}: {row.variant}") for row in of_model]
    harness.publish("train", "\n\n".join(texts), rows, LIBRARIES, arguments.json)


def _variant(name: str, model: str, texts: int, epochs: int) -> harness.Variant:
    arguments = ["-m", "bench.trainers", name, model, str(texts), str(epochs)]
    return harness.Variant(name, arguments, environment={"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"})


def rows_of(runs: Mapping[str, Sequence[harness.Run]]) -> list[harness.Row]:
    """Return speed, share of the machine's limit, memory and loss of each variant."""
    results = {name: [run.result for run in of_one] for name, of_one in runs.items()}
    limit = max(result["operations_a_second"] for result in results[next(iter(LIMITS))])
    trained = {name: of_one for name, of_one in results.items() if name not in LIMITS}
    speed = {name: [one["tokens"] for one in of_one] for name, of_one in trained.items()}
    share = {name: [one["tokens"] * one["operations"] / limit for one in of_one] for name, of_one in trained.items()}
    loss = {name: [one["loss"] for one in of_one] for name, of_one in trained.items()}
    memory = {name: [run.peak_memory / 1e6 for run in runs[name]] for name in trained}
    limits = {name: [one["operations_a_second"] / 1e9 for one in results[name]] for name in LIMITS}
    return [
        *harness.compare(limits, "matrix products", "GFLOP/s", next(iter(LIMITS))),
        *harness.compare(speed, "speed", "useful tokens/s", PEER),
        *harness.compare(share, "share of the fp32 limit", "", PEER),
        *harness.compare(memory, "peak memory", "MB", PEER),
        *harness.compare(loss, "validation loss", "nats a token", PEER),
    ]


def _table(rows: list[harness.Row]) -> str:
    """Return a table with a line for each variant."""
    by_variant = harness.by_variant(rows)
    limits = ", ".join(
        f"{name}: {of['matrix products'].figure:,.0f} GFLOP/s" for name, of in by_variant.items() if len(of) == 1
    )
    lines = [
        [
            variant,
            f"{of['speed'].figure:,.0f} ({of['speed'].low:,.0f} to {of['speed'].high:,.0f})",
            f"{of['speed'].ratio:.2f}",
            f"{of['share of the fp32 limit'].figure:.0%}",
            f"{of['peak memory'].figure:,.0f}",
            f"{of['validation loss'].figure:.3f}",
        ]
        for variant, of in by_variant.items()
        if len(of) > 1
    ]
    heads = ["", "useful tokens/s", "x recipe", "of the fp32 limit", "peak memory, MB", "validation loss"]
    return f"{harness.table(heads, lines)}\n\n{limits}"


if __name__ == "__main__":
    run(main)
