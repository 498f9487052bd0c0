"""Compare readers of CSVs, in speed and in rows silently wrong: `python -m bench.intake [--quick] [--json] [--mb 500]`.

Peers only parse; `pipeline.validate` also checks every row by all its rules, finds duplicates, splits, and writes clean
and quarantined rows and a report. The second table shows how each reader treats CSVs with a fault.
"""

import csv
import random
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ruamel.yaml import YAML

from bench import harness
from bench.faults import FAULTS, STAGE, Outcome
from bench.readers import READERS
from pipeline.command import run

PEER = "pandas"
NEAR = "near-duplicates too"
LIBRARIES = ("pandas", "polars", "datasets", "pyarrow", "great-expectations")
CORPUS_VERSION = 1  # of what `make_corpus` writes; part of the cached file's name
ROWS_AT_ONCE = 10_000


def main() -> None:
    """Measure and publish."""
    parser = harness.arguments()
    parser.add_argument("--mb", type=int, default=500, help="size of the corpus in MB (default: 500)")
    arguments = parser.parse_args()
    megabytes, rounds = (2, 1) if arguments.quick else (arguments.mb, arguments.rounds)
    corpus = cached_corpus(megabytes)
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        variants = list(_variants(corpus, scratch))
        runs = harness.in_turns(variants, rounds)
        outcomes = {name: _outcomes(name, scratch) for name in [*READERS, STAGE]}

    size = corpus.stat().st_size
    speed = {name: [size / 1e6 / run.seconds for run in of_one] for name, of_one in runs.items()}
    memory = {name: [run.peak_memory / 1e6 for run in of_one] for name, of_one in runs.items()}
    wrong = {name: sum(outcome.wrong > 0 for outcome in by_fault.values()) for name, by_fault in outcomes.items()}
    wrong |= {name: wrong[STAGE] for name in runs if name not in wrong}  # the stage's other variant reads alike
    rows = [
        *harness.compare(speed, "speed", "MB/s", PEER),
        *harness.compare(memory, "peak memory", "MB", PEER),
        *harness.compare({name: [float(count)] for name, count in wrong.items()}, "faults silent", "files", PEER),
    ]
    text = (
        f"{size / 1e6:.0f} MB, runs of each: {rounds}; median (minimum to maximum)\n\n{_figure_table(rows)}\n\n"
        f"Of {len(FAULTS)} CSVs with a fault\n\n{_fault_table(outcomes)}"
    )
    faults = {
        fault: {name: by_fault[fault].in_words().replace("*", "") for name, by_fault in outcomes.items()}
        for fault in FAULTS
    }
    harness.publish("intake", text, rows, LIBRARIES, arguments.json, corpus_bytes=size, faults=faults)


def _variants(corpus: Path, scratch: Path) -> Iterator[harness.Variant]:
    """Yield the readers that can read the corpus, then the stage without and with the search for near-duplicates."""
    for name, reader in READERS.items():
        if reader.large:
            yield harness.Variant(name, ["-m", "bench.readers", name, str(corpus)], scratch, {"HF_HUB_OFFLINE": "1"})
    for name, severity in ((STAGE, "ignore"), (f"{STAGE}, {NEAR}", "critical")):
        folder = scratch / severity
        folder.mkdir()
        _workspace(folder, corpus, near_duplicate=severity)
        yield harness.Variant(name, ["-m", "pipeline.validate"], folder)


def _workspace(folder: Path, corpus: Path, near_duplicate: str) -> None:
    """Write a `params.yaml` with which `python -m pipeline.validate` runs in `folder`."""
    yaml = YAML()
    content = yaml.load(harness.ROOT / "params.yaml")
    content["data"]["path"] = str(corpus)
    content["validate"]["rules"]["near_duplicate"]["severity"] = near_duplicate
    yaml.dump(content, folder / "params.yaml")


def _outcomes(name: str, scratch: Path) -> dict[str, Outcome]:
    """Return how a reader treats each CSV with a fault."""
    folder = scratch / "faults"
    done = harness.run(harness.Variant(f"{name} on faults", ["-m", "bench.faults", name, str(folder)], scratch))
    shutil.rmtree(folder)
    return {fault: Outcome(**outcome) for fault, outcome in done.result.items()}


def _figure_table(rows: list[harness.Row]) -> str:
    """Return the table of speed, memory and faults, with a line for each variant."""
    lines = []
    for variant, of in harness.by_variant(rows).items():
        silent = f"{of['faults silent'].figure:.0f} of {len(FAULTS)}"
        if "speed" not in of:
            lines.append([variant, "stops: cells hold line breaks", "", "", "", silent])
            continue
        speed, memory = of["speed"], of["peak memory"]
        lines.append(
            [
                variant,
                f"{speed.figure:.1f} ({speed.low:.1f} to {speed.high:.1f})",
                f"{speed.ratio:.2f}",
                f"{memory.figure:,.0f} ({memory.low:,.0f} to {memory.high:,.0f})",
                f"{memory.ratio:.2f}",
                silent,
            ]
        )
    heads = ["", "MB/s", f"x {PEER}", "peak memory, MB", f"x {PEER}", "faults that pass silently"]
    return harness.table(heads, lines)


def _fault_table(outcomes: dict[str, dict[str, Outcome]]) -> str:
    """Return the table of the outcome of each CSV with a fault, with a column for each reader."""
    lines = [[fault, *(by_fault[fault].in_words() for by_fault in outcomes.values())] for fault in FAULTS]
    return harness.table(["fault", *outcomes], lines)


def cached_corpus(megabytes: int) -> Path:
    """Return a corpus of about this size, written on first use and kept in the folder of temporary files."""
    path = harness.cache_folder() / f"intake-{CORPUS_VERSION}-{megabytes}mb.csv"
    if not path.exists():
        unfinished = path.with_suffix(".part")
        make_corpus(unfinished, megabytes * 1_000_000)
        unfinished.replace(path)
    return path


def make_corpus(path: Path, size: int, seed: int = 0) -> None:
    """Write a CSV of at least `size` bytes: rows of about 500 bytes with five columns, the same for the same seed.

    Its texts are sentences of the sample corpus in random order, with their quotes; some texts hold line breaks, and
    in each thousand rows there are about two empty, two repeated and one with an e-mail address.
    """
    with (harness.ROOT / "data" / "tales.csv").open(encoding="utf-8", newline="") as file:
        tales = [row["text"] for row in csv.DictReader(file)]
    sentences = sorted({sentence.strip() for tale in tales for sentence in re.findall(r'[^.!?]+[.!?]+"?', tale)})
    rng = random.Random(seed)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["id", "date", "author", "stars", "text"])
        written, earlier = 0, "Once upon a time the tide came in."
        while file.tell() < size:
            rows = []
            for number in range(written + 1, written + 1 + ROWS_AT_ONCE):
                text = " ".join(rng.choices(sentences, k=6))
                odd = rng.randrange(1000)
                if odd < 5:
                    text = ("", "  ", earlier, earlier, f"{text} Write to harbour{number}@example.com.")[odd]
                elif odd < 100:
                    text = text.replace(". ", ".\n", 1)
                earlier = text or earlier
                date = f"20{number % 24:02d}-{number % 12 + 1:02d}-{number % 28 + 1:02d}"
                rows.append((number, date, f"pilot {number % 977}", number % 5 + 1, text))
                if number * 480 > size:  # near the end in small steps, so that small corpora are small
                    break
            writer.writerows(rows)
            written += len(rows)


if __name__ == "__main__":
    run(main)
