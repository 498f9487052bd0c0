"""Run the tests and the figures that need a GPU: `python -m bench.gpu [--quick] [--json] [--rounds N]`, 6 minutes.

Each group of parts has a process of its own and a bound in seconds. What failed, or was left out, has a row that says
why. Without a GPU, or with --quick, models are tiny or slow and the figures mean nothing.
"""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from importlib import metadata
from typing import IO, Any

from bench import harness
from pipeline.command import run, warn

LIBRARIES = ("torch", "transformers", "accelerate", "datasets", "peft", "tokenizers", "triton")
TESTS = ["-m", "pytest", "-v", "-m", "gpu", "-W", "default", "-p", "no:cacheprovider", "tests/gpu"]
TEST_SECONDS = 95
GROUPS = {("training",): 160, ("evaluation", "generation"): 55, ("serving",): 50}  # parts -> seconds
QUICK_PARTS = ("training", "evaluation", "generation")
QUICK_SECONDS = 1200  # of all parts together; a minute, but for a busy machine
_OUTCOME = re.compile(r" (PASSED|FAILED|SKIPPED|ERROR) +\[ *\d+%\]$", re.MULTILINE)
_SHOWN = 200  # characters of a reason


def main() -> None:
    """Measure and publish."""
    arguments = harness.arguments().parse_args()
    has_gpu = _has_gpu()
    quick = arguments.quick or not has_gpu
    groups = {QUICK_PARTS: QUICK_SECONDS} if quick else GROUPS
    figures: list[dict[str, Any]] = []
    if quick:
        figures.append({"part": "serving", "variant": "all of it", "reason": "a quick run starts no server"})
    device = "no GPU"
    if has_gpu:
        warn("tests")
        figures += test_figures(*_output(TESTS, TEST_SECONDS))
    else:
        figures.append({"part": "tests", "variant": "all of it", "reason": "there is no CUDA device"})
    for parts, seconds in groups.items():
        warn(", ".join(parts))
        rounds = 1 if quick else arguments.rounds
        command = ["-m", "bench.gpu_parts", str(seconds - 15), str(rounds), *parts, *["--quick"] * quick]
        output, ended = _output(command, seconds)
        for line in _json_lines(output):
            device = line.get("device", device)
            figures += [line] if "part" in line else []
        figures += [
            {"part": part, "variant": "the rest", "reason": ended}
            for part in parts
            if ended and (part == parts[-1] or not any(figure["part"] == part for figure in figures))
        ]
    rows = rows_of(figures)
    left_out = [f"{one['part']}, {one['variant']}: {one['reason']}" for one in figures if one.get("reason")]
    title = f"{device}{', a quick run: the figures mean nothing' if quick else ''}"
    harness.publish(
        "gpu",
        f"{title}\n\n{table(figures, rows)}",
        rows,
        [name for name in LIBRARIES if _is_installed(name)],
        arguments.json,
        device=device,
        quick=quick,
        left_out=left_out,
        figures=figures,
    )


def _has_gpu() -> bool:
    """Tell whether torch sees a GPU: in a process of its own, which then leaves its memory free."""
    code = "import torch; raise SystemExit(not torch.cuda.is_available())"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0  # noqa: S603


def _is_installed(name: str) -> bool:
    try:
        return bool(metadata.version(name))
    except metadata.PackageNotFoundError:
        return False


def _output(arguments: Sequence[str], seconds: float) -> tuple[str, str]:
    """Return what a fresh Python prints within `seconds`, and why it ended early, or nothing."""
    settings = {
        "PYTHONPATH": str(harness.ROOT),
        "PYTHONUNBUFFERED": "1",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_VERBOSITY": "error",
    }
    one_gpu = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    environment = os.environ | settings | {"CUDA_VISIBLE_DEVICES": one_gpu}
    with tempfile.TemporaryFile() as printed, tempfile.TemporaryFile() as errors:  # bars would break its lines
        process = subprocess.Popen(  # noqa: S603 - our own commands
            [sys.executable, *arguments],
            cwd=harness.ROOT,
            env=environment,
            stdout=printed,
            stderr=errors,
            start_new_session=True,
        )
        try:
            process.wait(seconds)
            ended = ""
        except subprocess.TimeoutExpired:
            ended = f"it took more than {seconds:.0f} s"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        output, messages = _text(printed), _text(errors)
    if not ended and process.returncode:
        lines = [line for line in (output + messages).splitlines() if line.strip()]
        ended = f"it ended with {process.returncode}: {lines[-1] if lines else 'no output'}"
    return output, ended[:_SHOWN]


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")


def _json_lines(output: str) -> Iterator[dict[str, Any]]:
    for line in output.splitlines():
        if line.startswith("{"):
            try:
                yield json.loads(line)
            except ValueError:
                continue  # a library's line


def test_figures(output: str, ended: str) -> list[dict[str, Any]]:
    """Return how many tests passed and failed, and a reason for each that failed."""
    counts = Counter(_OUTCOME.findall(output))  # of each test's line: one that is ended has no summary
    failures = [line for line in output.splitlines() if line.startswith(("FAILED ", "ERROR "))]
    reasons = failures or ([ended] if ended else [])
    return [
        *(
            {"part": "tests", "variant": outcome.lower(), "figure": float(count), "unit": "tests"}
            for outcome, count in counts.items()
        ),
        *({"part": "tests", "variant": "a failure", "reason": reason[:_SHOWN]} for reason in reasons),
    ]


def rows_of(figures: Sequence[dict[str, Any]]) -> list[harness.Row]:
    """Return a row for each variant with figures, compared with its peer of the same part."""
    measured: dict[tuple[str, str, str], dict[str, list[float]]] = {}
    for one in figures:
        if one.get("figure") is not None:
            key = (one["part"], one.get("peer") or "", one["unit"])
            measured.setdefault(key, {}).setdefault(one["variant"], []).append(one["figure"])
    rows = []
    for (part, peer, unit), of_peer in measured.items():
        rows += harness.compare(of_peer, part, unit, peer)
    return rows


def table(figures: Sequence[dict[str, Any]], rows: Sequence[harness.Row]) -> str:
    """Return a table with a line for each variant, or for the reason why it has no figure."""
    last = {(one["part"], one["variant"]): one for one in figures}
    lines = []
    for row in rows:
        one = last[row.metric, row.variant]
        share, loss = one.get("share"), one.get("loss")
        lines.append(
            [
                f"{row.metric}: {row.variant}",
                f"{row.figure:,.0f} ({row.low:,.0f} to {row.high:,.0f}) {row.unit}",
                "" if row.ratio is None else f"{row.ratio:.2f}",
                row.peer,
                "" if share is None else f"{share:.1%}",
                "" if loss is None else f"{loss:.3f}",
            ]
        )
    lines += [
        [f"{one['part']}: {one['variant']}", f"left out: {one['reason']}", "", "", "", ""]
        for one in figures
        if one.get("reason")
    ]
    return harness.table(["", "figure", "ratio", "to", "of the bf16 limit", "validation loss"], lines)


if __name__ == "__main__":
    run(main)
