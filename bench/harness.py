"""What all benchmarks share: a process for each run, wall time and peak memory, and the report.

Variants take turns in each round, so that other work on the machine affects all of them. Memory is that of the whole
process tree, workers included.
"""

import argparse
import getpass
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from pipeline.command import arg_parser, echo, echo_json, warn

ROOT = Path(__file__).parent.parent
FRESH = "fresh"  # the variant that is this project's own code
MEMORY_EVERY = 0.2  # seconds between two samples; sampling more often slows OpenMP's threads down


@dataclass(frozen=True)
class Variant:
    """One way of doing the work: the arguments of a fresh Python, and where it runs."""

    name: str
    arguments: Sequence[str]
    folder: Path = ROOT
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """One run: wall seconds from start to exit, peak memory in bytes, and its output."""

    seconds: float
    peak_memory: int
    output: str

    @property
    def result(self) -> Any:
        """The last line of the output, parsed as JSON."""
        return json.loads(self.output.splitlines()[-1])


@dataclass(frozen=True)
class Row:
    """One figure of one variant, the median of its runs, and its ratio to the same figure of `peer`."""

    variant: str
    metric: str
    figure: float
    unit: str
    low: float
    high: float
    peer: str
    ratio: float | None  # None if the peer's figure is 0 or the peer did not run


def run(variant: Variant, python: str = sys.executable) -> Run:
    """Run the variant once, with `python`; raise RuntimeError with the end of its output if it fails."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), **variant.environment}
    started = time.perf_counter()
    with (
        subprocess.Popen(  # noqa: S603 - our own commands
            [python, *variant.arguments],
            cwd=variant.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as process,
        ThreadPoolExecutor(1) as watcher,
    ):
        memory = watcher.submit(peak_memory, process.pid)
        output, _ = process.communicate()
        seconds = time.perf_counter() - started
    if process.returncode != 0:
        raise RuntimeError(f"{variant.name} ended with {process.returncode}:\n{output[-2000:]}")
    return Run(seconds, memory.result(), output)


def peak_memory(pid: int) -> int:
    """Return the highest total resident size, in bytes, of a process and its descendants until it ends.

    Shared pages and pages of mapped files count in each process; a peak of less than MEMORY_EVERY may be missed.
    """
    peak = 0
    while True:
        try:
            process = psutil.Process(pid)
            peak = max(peak, int(process.memory_info().rss) + sum(map(_memory, process.children(recursive=True))))
            if process.status() == psutil.STATUS_ZOMBIE:
                return peak
        except psutil.NoSuchProcess:
            return peak
        time.sleep(MEMORY_EVERY)


def _memory(process: psutil.Process) -> int:
    """Return the resident size of a worker in bytes; 0 if it has ended."""
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


def in_turns(variants: Sequence[Variant], rounds: int) -> dict[str, list[Run]]:
    """Return each variant's runs: once in every round, in an order that rotates by one each round."""
    runs: dict[str, list[Run]] = {variant.name: [] for variant in variants}
    for number in range(rounds):
        start = number % len(variants)
        for variant in [*variants[start:], *variants[:start]]:
            warn(f"round {number + 1} of {rounds}: {variant.name}")
            runs[variant.name].append(run(variant))
    return runs


def compare(figures: Mapping[str, Sequence[float]], metric: str, unit: str, peer: str) -> list[Row]:
    """Return a row for each variant: median, minimum and maximum of its figures, and the ratio to the peer's median."""
    peer_median = statistics.median(figures[peer]) if peer in figures else 0.0
    rows = []
    for variant, values in figures.items():
        median = statistics.median(values)
        ratio = round(median / peer_median, 3) if peer_median else None
        low, high = round(min(values), 3), round(max(values), 3)
        rows.append(Row(variant, metric, round(median, 3), unit, low, high, peer, ratio))
    return rows


def cache_folder() -> Path:
    """Return this user's cache of corpora and models; raise PermissionError if another user owns the folder."""
    folder = Path(tempfile.gettempdir()) / f"fresh-gpt2-bench-{getpass.getuser()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():  # anyone may write into the folder of temporary files
        raise PermissionError(f"{folder}: belongs to another user; set TMPDIR to a folder of your own")
    return folder


def by_variant(rows: Sequence[Row]) -> dict[str, dict[str, Row]]:
    """Return the rows by variant and metric."""
    grouped: dict[str, dict[str, Row]] = {}
    for row in rows:
        grouped.setdefault(row.variant, {})[row.metric] = row
    return grouped


def machine(libraries: Sequence[str]) -> dict[str, Any]:
    """Return what the figures depend on: processor, cores this process may use, memory, system and versions."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "libraries": {name: metadata.version(name) for name in libraries},
    }


def _processor() -> str:
    """Return the processor's model."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def commit() -> str | None:
    """Return the measured commit, followed by "-dirty" if files differ from it; None without git."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],  # noqa: S607
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def arguments() -> argparse.ArgumentParser:
    """Return a parser with the options that every benchmark has."""
    parser = arg_parser()
    parser.add_argument("--quick", action="store_true", help="a small size and one round; the figures mean nothing")
    parser.add_argument("--json", action="store_true", help="print the JSON line only")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each variant (default: 3)")
    return parser


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def publish(name: str, text: str, rows: Sequence[Row], libraries: Sequence[str], json_only: bool, **more: Any) -> None:
    """Print the text (unless `json_only`), then one line of JSON: name, machine, rows, commit, and `more`."""
    host = machine(libraries)
    if not json_only:
        versions = ", ".join(f"{library} {version}" for library, version in host["libraries"].items())
        echo(
            f"{text}\n\n{host['processor']}, {host['cores']} cores, {host['memory_gb']} GB, "
            f"{host['system']}, Python {host['python']}; {versions}\n"
        )
    result = {"name": name, "machine": host, "rows": [asdict(row) for row in rows], "commit": commit(), **more}
    echo_json(result, indent=None)
