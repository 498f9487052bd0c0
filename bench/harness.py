"""What every benchmark shares: fresh processes in turn, wall time and peak memory of each, and the report.

A variant runs in a process of its own, and the variants take turns in each round, so that whatever else the machine
does meets them all. Memory is that of the whole process tree, workers included.
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
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
MEMORY_EVERY = 0.2  # seconds between two looks at the memory; looking more often slows OpenMP's threads down


@dataclass(frozen=True)
class Variant:
    """One way of doing the work: the arguments of a fresh Python, and where it runs."""

    name: str
    arguments: Sequence[str]
    folder: Path = ROOT
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """What one run took: wall seconds from start to exit, peak memory in bytes, and what it printed."""

    seconds: float
    peak_memory: int
    output: str


@dataclass(frozen=True)
class Row:
    """One figure of one variant, the median of its runs, and how it relates to the same figure of `peer`."""

    variant: str
    metric: str
    figure: float
    unit: str
    low: float
    high: float
    peer: str
    ratio: float | None  # none where the peer's figure is 0 or the peer has not run


def run(variant: Variant) -> Run:
    """Run the variant once; raises RuntimeError with the end of its output when it fails."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), **variant.environment}
    begun = time.perf_counter()
    with (
        subprocess.Popen(  # noqa: S603 - our own commands
            [sys.executable, *variant.arguments],
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
        seconds = time.perf_counter() - begun
    if process.returncode != 0:
        raise RuntimeError(f"{variant.name} ended with {process.returncode}:\n{output[-2000:]}")
    return Run(seconds, memory.result(), output)


def peak_memory(pid: int) -> int:
    """Return the largest sum of the resident sizes, in bytes, of a process and its descendants until it ends.

    Pages that processes share, and pages of mapped files, count in each; a peak of less than 0.2 s may be missed.
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
    """Return the resident size of a worker in bytes; 0 when it has ended."""
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


def in_turns(variants: Sequence[Variant], rounds: int) -> dict[str, list[Run]]:
    """Return each variant's runs: in every round each runs once, in an order that moves on by one a round."""
    runs: dict[str, list[Run]] = {variant.name: [] for variant in variants}
    for number in range(rounds):
        start = number % len(variants)
        for variant in [*variants[start:], *variants[:start]]:
            warn(f"round {number + 1} of {rounds}: {variant.name}")
            runs[variant.name].append(run(variant))
    return runs


def compare(figures: Mapping[str, Sequence[float]], metric: str, unit: str, peer: str) -> list[Row]:
    """Return a row a variant: the median, the least and the greatest of its figures, and the ratio to the peer's."""
    of_peer = statistics.median(figures[peer]) if peer in figures else 0.0
    rows = []
    for variant, values in figures.items():
        median = statistics.median(values)
        ratio = round(median / of_peer, 3) if of_peer else None
        low, high = round(min(values), 3), round(max(values), 3)
        rows.append(Row(variant, metric, round(median, 3), unit, low, high, peer, ratio))
    return rows


def machine(libraries: Sequence[str]) -> dict[str, Any]:
    """Return what the figures hang on: processor, cores this process may use, memory, system and versions."""
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
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def commit() -> str | None:
    """Return the commit that is measured, with "-dirty" behind it if files differ from it; None without git."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],  # noqa: S607
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return described.stdout.strip()


def arguments(description: str) -> argparse.ArgumentParser:
    """Return a parser with the options that every benchmark has."""
    parser = arg_parser()
    parser.description = description
    parser.add_argument(
        "--quick", action="store_true", help="a small size and one round: it runs, the figures are moot"
    )
    parser.add_argument("--json", action="store_true", help="print the JSON line only")
    parser.add_argument("--rounds", type=int, default=3, help="how often each variant runs (default: 3)")
    return parser


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def publish(name: str, text: str, rows: Sequence[Row], libraries: Sequence[str], json_only: bool, **more: Any) -> None:
    """Print the text (unless `json_only`), then one line of JSON: name, machine, rows, commit, and `more`."""
    described = machine(libraries)
    if not json_only:
        versions = ", ".join(f"{library} {version}" for library, version in described["libraries"].items())
        echo(
            f"{text}\n\n{described['processor']}, {described['cores']} cores, {described['memory_gb']} GB, "
            f"{described['system']}, Python {described['python']}; {versions}\n"
        )
    result = {"name": name, "machine": described, "rows": [asdict(row) for row in rows], "commit": commit(), **more}
    echo_json(result, indent=None)
