"""Compare ways of fine-tuning, in speed and loss: `python -m bench.train [--models gpt2,t5] [--quick] [--json]`.

GPT-2 of 124 million parameters (random weights, so nothing is downloaded) and the starter, on tales of about 105
tokens: the original recipe, transformers' language-modelling example, a loop like nanoGPT's, and the code of the stage
`finetune`. SmolLM2-135M on tales, MiniLM on short texts of 77 labels and the starter's T5 on messages with summaries:
transformers' Trainer with batches padded to their longest row, and the code of the stage.
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from bench import harness
from bench.train_models import MODELS, TrainedModel
from bench.trainers import LIMITS
from pipeline.command import UserError, run

LIBRARIES = ("torch", "transformers", "accelerate", "datasets")
QUICK_BATCHES = 3  # of training rows

Runs = Mapping[str, Sequence[harness.Run]]


def main() -> None:
    """Measure and publish."""
    parser = harness.arguments()
    parser.add_argument("--models", default=",".join(MODELS), help="which, with commas between (default: %(default)s)")
    arguments = parser.parse_args()
    models = chosen(arguments.models)
    rounds = 1 if arguments.quick else arguments.rounds
    with tempfile.TemporaryDirectory() as folder:
        bases = {name: Path(folder, name) for name in models}
        sources = {name: model.write_base(bases[name], arguments.quick) for name, model in models.items()}
        ways = [harness.Variant(limit, ["-m", "bench.trainers", limit]) for limit in LIMITS]
        for name, model in models.items():
            ways += [_variant(way, name, model, bases[name], arguments.quick) for way in model.variants]
        runs = harness.in_turns(ways, rounds)
    limits = {name: runs[name] for name in LIMITS}
    rows, texts = limits_of(limits), []
    for name, model in models.items():
        of_model = rows_of({way: runs[f"{name}: {way}"] for way in model.variants}, limit_of(limits))
        size = (
            f"{_rows(model, arguments.quick)} rows, batches of {model.batch}, {_epochs(model, arguments.quick)} epochs"
        )
        title = f"{name} ({sources[name]}), {size}, runs of each: {rounds}; median (minimum to maximum)"
        texts.append(f"{title}\n\n{_table(of_model)}")
        rows += [replace(row, variant=f"{name}: {row.variant}", peer=f"{name}: {row.peer}") for row in of_model]
    texts.append(", ".join(f"{row.variant}: {row.figure:,.0f} {row.unit}" for row in rows[: len(LIMITS)]))
    harness.publish("train", "\n\n".join(texts), rows, LIBRARIES, arguments.json, bases=sources)


def chosen(names: str) -> dict[str, TrainedModel]:
    """Return the models that `names` lists; raises UserError for one that there is not."""
    models = names.split(",")
    for name in models:
        if name not in MODELS:
            raise UserError(f"--models: found {name!r}; expected some of {','.join(MODELS)}, with commas between")
    return {name: MODELS[name] for name in models}


def _rows(model: TrainedModel, quick: bool) -> int:
    return QUICK_BATCHES * model.batch if quick else model.rows


def _epochs(model: TrainedModel, quick: bool) -> int:
    return 1 if quick else model.epochs


def _variant(way: str, name: str, model: TrainedModel, base: Path, quick: bool) -> harness.Variant:
    size = [str(_rows(model, quick)), str(_epochs(model, quick))]
    arguments = ["-m", "bench.trainers", way, name, *size, "--base", str(base)]
    environment = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    return harness.Variant(f"{name}: {way}", arguments, environment=environment)


def limit_of(limits: Runs) -> float:
    """Return the most floating-point operations a second that any run reached in fp32."""
    fp32 = next(iter(LIMITS))
    return max(float(run.result["operations_a_second"]) for run in limits[fp32])


def limits_of(limits: Runs) -> list[harness.Row]:
    """Return the machine's rate of matrix products in each precision."""
    rates = {name: [run.result["operations_a_second"] / 1e9 for run in of_one] for name, of_one in limits.items()}
    return harness.compare(rates, "matrix products", "GFLOP/s", next(iter(LIMITS)))


def rows_of(runs: Runs, limit: float) -> list[harness.Row]:
    """Return speed, share of the machine's limit, memory and loss of each way to train one model; the peer is first."""
    peer = next(iter(runs))
    results = {name: [run.result for run in of_one] for name, of_one in runs.items()}
    speed = {name: [one["tokens"] for one in of_one] for name, of_one in results.items()}
    share = {name: [one["tokens"] * one["operations"] / limit for one in of_one] for name, of_one in results.items()}
    loss = {name: [one["loss"] for one in of_one] for name, of_one in results.items()}
    memory = {name: [run.peak_memory / 1e6 for run in of_one] for name, of_one in runs.items()}
    return [
        *harness.compare(speed, "speed", "useful tokens/s", peer),
        *harness.compare(share, "share of the fp32 limit", "", peer),
        *harness.compare(memory, "peak memory", "MB", peer),
        *harness.compare(loss, "validation loss", "nats", peer),
    ]


def _table(rows: list[harness.Row]) -> str:
    """Return a table with a line for each variant."""
    lines = [
        [
            variant,
            f"{of['speed'].figure:,.0f} ({of['speed'].low:,.0f} to {of['speed'].high:,.0f})",
            f"{of['speed'].ratio:.2f}",
            f"{of['share of the fp32 limit'].figure:.0%}",
            f"{of['peak memory'].figure:,.0f}",
            f"{of['validation loss'].figure:.3f}",
        ]
        for variant, of in harness.by_variant(rows).items()
    ]
    heads = ["", "useful tokens/s", "x peer", "of the fp32 limit", "peak memory, MB", "validation loss"]
    return harness.table(heads, lines)


if __name__ == "__main__":
    run(main)
