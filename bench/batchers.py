"""How ways of batching treat short texts beside long ones: `python -m bench.batchers [--quick] [--json]`.

GPT-2 of 124 million parameters (random weights, so nothing is fetched), without HTTP: most clients ask for 16 tokens,
some for 512, each again and again. Micro-batches, two batches at a time, and chunks, over CTranslate2; and token by
token, as the service does it.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from bench import harness, load
from bench.designs import DESIGNS, SHORT, Mixed
from pipeline.command import run

PEER = "micro-batches"
LIBRARIES = ("torch", "ctranslate2")
QUIET = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}


@dataclass(frozen=True)
class Size:
    """The load: clients that want SHORT tokens, clients that want `length`, and for how many seconds."""

    model: str
    short: int
    long: int
    length: int
    seconds: int


FULL = Size("gpt2", short=12, long=4, length=512, seconds=60)
QUICK = Size("tiny", short=3, long=1, length=128, seconds=1)


def main() -> None:
    """Measure and publish."""
    parser = harness.arguments("Compare ways of batching: tokens a second, and how long short texts take beside long.")
    wanted = parser.parse_args()
    size, rounds = (QUICK, 1) if wanted.quick else (FULL, wanted.rounds)
    made = harness.run(harness.Variant("the model", ["-m", "bench.servers", "model", size.model], environment=QUIET))
    folder = Path(made.output.splitlines()[-1])
    rows = rows_of(harness.in_turns([_variant(name, folder, size) for name in DESIGNS], rounds))
    title = (
        f"{size.model}, {size.short} clients that want {SHORT} tokens and {size.long} that want {size.length}, "
        f"{size.seconds} s, rounds: {rounds}; median (least to greatest)"
    )
    harness.publish("batchers", f"{title}\n\n{_figures(rows)}", rows, LIBRARIES, wanted.json, load=asdict(size))


def _variant(name: str, folder: Path, size: Size) -> harness.Variant:
    numbers = [str(number) for number in (size.short, size.long, size.length, size.seconds)]
    environment = QUIET | {"ENGINES_DIR": str(folder.parent / "engines")}
    return harness.Variant(name, ["-m", "bench.designs", name, str(folder), "mixed", *numbers], environment=environment)


def rows_of(runs: Mapping[str, Sequence[harness.Run]]) -> list[harness.Row]:
    """Return speed, in all and of the long texts, and the times of the short ones, of each way of batching."""
    met = {name: [Mixed(**json.loads(run.output.splitlines()[-1])) for run in of_one] for name, of_one in runs.items()}
    rows = [
        *harness.compare({name: [one.speed for one in of] for name, of in met.items()}, "speed", "tokens/s", PEER),
        *harness.compare(
            {name: [one.long_speed for one in of] for name, of in met.items()}, "speed of the long", "tokens/s", PEER
        ),
    ]
    for at, percent in enumerate(load.PERCENTS):
        first = {name: [one.first[at] for one in of] for name, of in met.items()}
        total = {name: [one.total[at] for one in of] for name, of in met.items()}
        rows += harness.compare(first, f"first token of a short text, p{percent}", "s", PEER)
        rows += harness.compare(total, f"short text, p{percent}", "s", PEER)
    return rows


def _figures(rows: Sequence[harness.Row]) -> str:
    """Return the table, a line a way of batching."""
    by_variant: dict[str, dict[str, harness.Row]] = {}
    for row in rows:
        by_variant.setdefault(row.variant, {})[row.metric] = row
    lines = [
        [
            variant,
            f"{of['speed'].figure:,.0f} ({of['speed'].low:,.0f} to {of['speed'].high:,.0f})",
            f"{of['speed of the long'].figure:,.0f}",
            " / ".join(f"{of[f'first token of a short text, p{percent}'].figure:.2f}" for percent in load.PERCENTS),
            " / ".join(f"{of[f'short text, p{percent}'].figure:.2f}" for percent in load.PERCENTS),
        ]
        for variant, of in by_variant.items()
    ]
    percents = " / ".join(f"p{percent}" for percent in load.PERCENTS)
    heads = ["", "tokens/s", "of the long", f"short, first token, s: {percents}", f"short, whole, s: {percents}"]
    return harness.table(heads, lines)


if __name__ == "__main__":
    run(main)
