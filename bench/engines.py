"""Compare the service's engines on one model, without HTTP: `python -m bench.engines [--base smollm2] [--rounds 3]`.

Prompts of about 12 tokens, 64 new ones, sampled; so many texts at a time. Each run is a process of its own, and the
engines take turns. An engine compares itself with the reference before its first run.
"""

import statistics

from bench import harness
from bench.bare_engines import SERVICE_ENGINES
from bench.server_processes import QUIET, engine_environment, load_results
from bench.servers import make_model
from pipeline.command import run

LIBRARIES = ("torch", "transformers")
ENGINES = "int8,transformers"
CLIENTS = "1,8,32"
TOKENS, WAVES = 64, 2
QUICK_TOKENS = 4


def main() -> None:
    """Measure and publish."""
    parser = harness.arguments()
    parser.add_argument("--base", default="smollm2", help="as in params.yaml (default: smollm2)")
    parser.add_argument("--engines", default=ENGINES, help=f"of {', '.join(SERVICE_ENGINES)} (default: {ENGINES})")
    parser.add_argument(
        "--beginning",
        type=int,
        metavar="TOKENS",
        help="the first engine alone, with prompts that begin with so many tokens: shared ones, or each its own",
    )
    parser.add_argument("--clients", default=CLIENTS, help=f"numbers of texts at a time (default: {CLIENTS})")
    arguments = parser.parse_args()
    tokens, waves, rounds = (QUICK_TOKENS, 1, 1) if arguments.quick else (TOKENS, WAVES, arguments.rounds)
    engines, clients = arguments.engines.split(","), [int(number) for number in arguments.clients.split(",")]
    folder = make_model(arguments.base)
    numbers = [str(number) for number in (tokens, waves, *clients)]
    environment = QUIET | engine_environment(folder)
    ways = {name: [name, str(folder), *numbers] for name in engines}
    if arguments.beginning:
        own = [engines[0], str(folder), *numbers, "--beginning", str(arguments.beginning)]
        ways = {"a shared beginning": [*own, "--shared"], "beginnings of their own": own}
    variants = [
        harness.Variant(name, ["-m", "bench.bare_engines", *way], environment=environment) for name, way in ways.items()
    ]
    speeds: dict[str, list[list[float]]] = {}  # by engine, round and number of texts: tokens a second
    for name, runs in harness.in_turns(variants, rounds).items():
        speeds[name] = [[result.tokens / result.seconds for result in load_results(one)] for one in runs]
    rows = []
    for at, count in enumerate(clients):
        figures = {name: [speed[at] for speed in of_engine] for name, of_engine in speeds.items()}
        rows += harness.compare(figures, f"{count} at a time", "tokens/s", list(ways)[-1])
    table = harness.table(["", *map(str, clients)], [_line(name, speeds) for name in ways])
    title = f"{arguments.base}, {tokens} tokens a text, rounds: {rounds}; medians of tokens a second by texts at a time"
    harness.publish("engines", f"{title}\n\n{table}", rows, LIBRARIES, arguments.json)


def _line(name: str, speeds: dict[str, list[list[float]]]) -> list[str]:
    """Return an engine's line of the table, with ratios to the last engine."""
    *_, peer = speeds
    medians = {
        engine: [statistics.median(of_count) for of_count in zip(*speeds[engine], strict=True)] for engine in speeds
    }
    cells = [f"{own:,.0f} ({own / other:.1f} x)" for own, other in zip(medians[name], medians[peer], strict=True)]
    return [name, *cells]


if __name__ == "__main__":
    run(main)
