"""How fast, and how faithfully, a CSV is taken in: `python -m bench.intake [--quick] [--json] [--mb 500]`.

Peers only parse; `pipeline.validate` also checks every row by all its rules, finds duplicates, splits, and writes clean
and quarantined rows and a report. What a reader makes of CSVs with a fault is in the second table.
"""

import csv
import json
import random
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ruamel.yaml import YAML

from bench import harness
from bench.faults import FAULTS, OURS, Verdict
from bench.readers import READERS
from pipeline.command import run

PEER = "pandas"
NEAR = "near-duplicates too"
LIBRARIES = ("pandas", "polars", "datasets", "pyarrow", "great-expectations")
CORPUS_VERSION = 1  # of what `make_corpus` writes; part of the cached file's name
ROWS_AT_ONCE = 10_000


def main() -> None:
    """Measure and publish."""
    parser = harness.arguments("Compare intake with plain readers of CSVs: speed, memory, and rows silently wrong.")
    parser.add_argument("--mb", type=int, default=500, help="size of the corpus in MB (default: 500)")
    wanted = parser.parse_args()
    megabytes, rounds = (2, 1) if wanted.quick else (wanted.mb, wanted.rounds)
    corpus = cached_corpus(megabytes)
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        variants = list(_variants(corpus, scratch))
        runs = harness.in_turns(variants, rounds)
        verdicts = {name: _verdicts(name, scratch) for name in [*READERS, OURS]}

    size = corpus.stat().st_size
    speed = {name: [size / 1e6 / run.seconds for run in of_one] for name, of_one in runs.items()}
    memory = {name: [run.peak_memory / 1e6 for run in of_one] for name, of_one in runs.items()}
    wrong = {name: sum(verdict.wrong > 0 for verdict in found.values()) for name, found in verdicts.items()}
    wrong |= {name: wrong[OURS] for name in runs if name not in wrong}  # our other variant reads alike
    rows = [
        *harness.compare(speed, "speed", "MB/s", PEER),
        *harness.compare(memory, "peak memory", "MB", PEER),
        *harness.compare({name: [float(count)] for name, count in wrong.items()}, "faults silent", "files", PEER),
    ]
    text = (
        f"{size / 1e6:.0f} MB, runs of each: {rounds}; median (least to greatest)\n\n{_figures(rows)}\n\n"
        f"Of {len(FAULTS)} CSVs with a fault\n\n{_fault_table(verdicts)}"
    )
    faults = {
        fault: {name: found[fault].in_words().replace("*", "") for name, found in verdicts.items()} for fault in FAULTS
    }
    harness.publish("intake", text, rows, LIBRARIES, wanted.json, corpus_bytes=size, faults=faults)


def _variants(corpus: Path, scratch: Path) -> Iterator[harness.Variant]:
    """Yield the readers that can read the corpus, then our stage without and with the search for near-duplicates."""
    for name, reader in READERS.items():
        if reader.large:
            yield harness.Variant(name, ["-m", "bench.readers", name, str(corpus)], scratch, {"HF_HUB_OFFLINE": "1"})
    for name, severity in ((OURS, "ignore"), (f"{OURS}, {NEAR}", "critical")):
        folder = scratch / severity
        folder.mkdir()
        _workspace(folder, corpus, near_duplicate=severity)
        yield harness.Variant(name, ["-m", "pipeline.validate"], folder)


def _workspace(folder: Path, corpus: Path, near_duplicate: str) -> None:
    """Make a folder in which `python -m pipeline.validate` runs as it does for a user."""
    yaml = YAML()
    content = yaml.load(harness.ROOT / "params.yaml")
    content["data"]["path"] = str(corpus)
    content["validate"]["rules"]["near_duplicate"]["severity"] = near_duplicate
    yaml.dump(content, folder / "params.yaml")


def _verdicts(name: str, scratch: Path) -> dict[str, Verdict]:
    """Return what a reader makes of each CSV with a fault."""
    folder = scratch / "faults"
    done = harness.run(harness.Variant(f"{name} on faults", ["-m", "bench.faults", name, str(folder)], scratch))
    shutil.rmtree(folder)
    return {fault: Verdict(**verdict) for fault, verdict in json.loads(done.output.splitlines()[-1]).items()}


def _figures(rows: list[harness.Row]) -> str:
    """Return the table of speed, memory and faults, a line a variant."""
    by_variant: dict[str, dict[str, harness.Row]] = {}
    for row in rows:
        by_variant.setdefault(row.variant, {})[row.metric] = row
    lines = []
    for variant, of in by_variant.items():
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


def _fault_table(verdicts: dict[str, dict[str, Verdict]]) -> str:
    """Return the table of what becomes of each CSV with a fault, a column a reader."""
    lines = [[fault, *(found[fault].in_words() for found in verdicts.values())] for fault in FAULTS]
    return harness.table(["fault", *verdicts], lines)


def cached_corpus(megabytes: int) -> Path:
    """Return a corpus of about this size, made on first use and kept among the system's temporary files."""
    path = Path(tempfile.gettempdir()) / "fresh-gpt2-bench" / f"intake-{CORPUS_VERSION}-{megabytes}mb.csv"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        unfinished = path.with_suffix(".part")
        make_corpus(unfinished, megabytes * 1_000_000)
        unfinished.replace(path)
    return path


def make_corpus(path: Path, size: int, seed: int = 0) -> None:
    """Write a CSV of at least `size` bytes: rows of about 500 with five columns, the same for the same seed.

    Its texts are sentences of the sample corpus in random order, with their quotes; some texts hold line breaks, and
    in each thousand rows there are about two empty, two repeated and one with an e-mail address.
    """
    with (harness.ROOT / "data" / "tales.csv").open(encoding="utf-8", newline="") as file:
        tales = [row["text"] for row in csv.DictReader(file)]
    sentences = sorted({sentence.strip() for tale in tales for sentence in re.findall(r'[^.!?]+[.!?]+"?', tale)})
    chosen = random.Random(seed)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["id", "date", "author", "stars", "text"])
        written, earlier = 0, "Once upon a time the tide came in."
        while file.tell() < size:
            rows = []
            for number in range(written + 1, written + 1 + ROWS_AT_ONCE):
                text = " ".join(chosen.choices(sentences, k=6))
                odd = chosen.randrange(1000)
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
