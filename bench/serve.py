"""Compare servers under load: `python -m bench.serve [--model smollm2] [--quick] [--json] [--plot PATH]`.

GPT-2 of 124 million parameters (random weights, so nothing is downloaded) or another base, prompts of about 12 tokens,
64 new ones, sampled. Each server is a process of its own, asked over HTTP from another one: the recipe's app,
transformers and CTranslate2 behind micro-batches (GPT-2 alone), llama.cpp's server if there is one, and this project's
service; and without HTTP the service's engine and CTranslate2.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from bench import harness, serve_report
from bench.harness import FRESH
from bench.serve_report import BARE, Round
from bench.server_processes import QUIET, ServerProcess, Size, engine_environment, load_results, servers
from pipeline.command import run, warn

LIBRARIES = ("torch", "transformers", "ctranslate2", "bentoml", "fastapi", "aiohttp")
CLIENTS = "1,4,8,16,32,64"
SHARES = [0.5, 0.9]  # of the service's highest tokens a second, for the open loop
MAX_SHARE = 0.95  # of a server's own highest: above it the queue would only grow, so that rate is left out

FULL = Size("gpt2", tokens=64, waves=3, min_requests=8, seconds=20)
QUICK = Size("tiny", tokens=8, waves=1, min_requests=2, seconds=1)


def main() -> None:
    """Measure and publish."""
    parser = harness.arguments()
    parser.add_argument("--model", default=FULL.model, help="gpt2, or a base as in params.yaml (default: %(default)s)")
    parser.add_argument("--clients", default=CLIENTS, help=f"numbers of clients at a time (default: {CLIENTS})")
    parser.add_argument("--only", metavar="NAMES", help="servers and engines, separated by ';' (default: all)")
    parser.add_argument("--plot", type=Path, metavar="PATH", help="write the curves there, as SVG")
    arguments = parser.parse_args()
    clients = [1, 2] if arguments.quick else [int(number) for number in arguments.clients.split(",")]
    full = replace(FULL, model=arguments.model)
    size, rounds, shares = (QUICK, 1, SHARES[:1]) if arguments.quick else (full, arguments.rounds, SHARES)
    names = arguments.only.split(";") if arguments.only else [*servers(), *BARE]
    model = harness.run(harness.Variant("the model", ["-m", "bench.servers", "model", size.model], environment=QUIET))
    folder = Path(model.output.splitlines()[-1])
    results: dict[str, list[Round]] = {name: [] for name in names}
    for number in range(rounds):
        warn(f"round {number + 1} of {rounds}")
        first = number % len(names)
        measured = measure_round([*names[first:], *names[:first]], folder, size, clients, shares)
        for name, result in measured.items():
            results[name].append(result)
    if arguments.plot:
        arguments.plot.write_text(serve_report.picture(results), encoding="utf-8")
    title = f"{size.model}, {size.tokens} tokens a text, rounds: {rounds}; medians"
    text = "\n\n".join([title, *serve_report.tables(results), serve_report.notes(results, size)])
    harness.publish("serve", text, serve_report.rows_of(results), LIBRARIES, arguments.json)


def measure_round(
    names: Sequence[str], folder: Path, size: Size, clients: Sequence[int], shares: Sequence[float]
) -> dict[str, Round]:
    """Return the figures of each variant; all servers run, one at a time gets load."""
    results: dict[str, Round] = {}
    with ExitStack() as stack:
        processes = {}
        for name, server in servers().items():
            if name in names:
                processes[name] = ServerProcess(name, server, folder)
                stack.callback(processes[name].stop)
        for process in processes.values():
            process.wait_until_ready()
        for name in names:
            warn(name)
            if name in processes:
                closed = processes[name].measure(folder, size, closed=clients)
                results[name] = Round(dict(zip(clients, closed, strict=True)))
            else:
                results[name] = measure_bare_engine(name, folder, size, clients)
        if FRESH in processes:
            results[FRESH].engine = processes[FRESH].engine()
            measure_open_loops(processes, results, folder, size, shares)
    for name, process in processes.items():
        results[name].memory = process.peak_memory
    return results


def measure_bare_engine(name: str, folder: Path, size: Size, clients: Sequence[int]) -> Round:
    """Return the figures of an engine without HTTP."""
    numbers = [str(number) for number in (size.tokens, size.waves, *clients)]
    variant = harness.Variant(
        name,
        ["-m", "bench.bare_engines", BARE[name], str(folder), *numbers],
        environment=QUIET | engine_environment(folder),
    )
    measured = harness.run(variant)
    return Round(dict(zip(clients, load_results(measured), strict=True)), memory=measured.peak_memory)


def measure_open_loops(
    processes: dict[str, ServerProcess], results: dict[str, Round], folder: Path, size: Size, shares: Sequence[float]
) -> None:
    """Add the figures of open loops at `shares` of the service's highest speed, for servers that sustain the rate."""
    for share in shares:
        speed = share * results[FRESH].max_speed
        for name, process in processes.items():
            if speed <= MAX_SHARE * results[name].max_speed:
                warn(f"{name}, {speed / size.tokens:.2f} requests a second")
                [results[name].open[share]] = process.measure(folder, size, open=[speed / size.tokens])


if __name__ == "__main__":
    run(main)
