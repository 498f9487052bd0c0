"""Soak the service: `python -m bench.soak [--minutes 30] [--rate 12] [--quick] [--json]`.

A server of two workers and three models of the starter's size, under mixed requests: short and long, streamed or not,
over both protocols, greedy and sampled, from clients that vanish, and bad ones. Meanwhile the champion changes every
20 s, once to a version that does not load, and halfway a worker is killed. The expected texts come from a server at
rest and, for greedy ones, from transformers in float32. Exits with 1 if there is anything to complain of.
"""

import asyncio
import itertools
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import aiohttp
import psutil

from bench import harness
from bench.soak_project import Project
from bench.soak_traffic import TEXTS, Answer, Expected, SoakLog, TextRequest, new_session, request_text, send_traffic
from bench.soak_verdict import MAX_LAG, check_against_reference, complaints, rows_of
from pipeline.command import arg_parser, run, warn
from pipeline.registry.versions import Version

LIBRARIES = ("torch", "transformers", "bentoml", "uvicorn", "aiohttp")
WORKERS = 2


def main() -> None:
    """Soak, and report what happened."""
    parser = arg_parser(no="there is something to complain of")
    parser.add_argument("--minutes", type=float, default=30, help="duration (default: 30)")
    parser.add_argument("--rate", type=float, default=12, help="requests a second (default: 12)")
    parser.add_argument("--quick", action="store_true", help="20 s, a swap every 4 s; memory is not judged")
    parser.add_argument("--json", action="store_true", help="print the JSON line only")
    arguments = parser.parse_args()
    seconds, swap_every = (20.0, 4.0) if arguments.quick else (arguments.minutes * 60, 20.0)
    with tempfile.TemporaryDirectory(prefix="soak-", ignore_cleanup_errors=True) as folder:
        project = Project(Path(folder))
        try:
            log, expected = asyncio.run(soak(project, arguments.rate, seconds, swap_every))
        except BaseException:
            sys.stderr.write(project.log.read_text(encoding="utf-8")[-4000:] if project.log.exists() else "")
            raise
    sentences = complaints(log, expected, check_memory=not arguments.quick)
    publish(log, rows_of(log, expected), sentences, seconds, arguments.json)
    sys.exit(1 if sentences else 0)


async def soak(project: Project, rate: float, seconds: float, swap_every: float) -> tuple[SoakLog, Expected]:
    """Return what happened, and the texts that each version writes when it has nothing else to do."""
    log = SoakLog()
    with project.served(workers=1) as (url, _):  # a single worker, so that one swap is enough
        expected = {model.version: await expected_texts(url, project, model) for model in project.models}
    project.move(project.models[0], log.champions)
    with project.served(WORKERS) as (url, master):
        for _ in range(2 * WORKERS):  # likely of each worker
            await wait_until_served(url, project.models[0].version)
        started = time.monotonic()
        watcher = asyncio.create_task(watch_memory(master, log, min(5.0, seconds / 40)))
        disturbances = [
            asyncio.create_task(swap_champions(url, project, log, swap_every, seconds)),
            asyncio.create_task(kill_worker(master, log, seconds / 2)),
        ]
        await send_traffic(url, log, rate, seconds)
        watcher.cancel()
        await asyncio.wait([watcher, *disturbances])
        for task in disturbances:
            task.result()  # raises what it raised
        warn(f"{time.monotonic() - started:.0f} s of load are over")
    return log, expected


async def expected_texts(url: str, project: Project, model: Version) -> dict[TextRequest, str]:
    """Return what `model` writes with nothing else to do, checked against transformers."""
    champion = project.registry.champion()
    if champion is None or champion.tag != model.tag:
        project.move(model)
    await wait_until_served(url, model.version)
    texts = {}
    async with new_session(url) as session:
        for request in TEXTS:
            answer = Answer("native", time.monotonic())
            await request_text(session, answer.kind, request, answer)
            if (answer.status, answer.version) != (200, model.version):
                raise RuntimeError(f"expected {model.version} to answer {request}, got {answer}")
            texts[request] = answer.text
    await asyncio.to_thread(check_against_reference, model.folder, texts)
    return texts


async def wait_until_served(url: str, version: str) -> None:
    """Return when a worker reports that it serves `version`."""
    async with new_session(url) as session:
        for _ in range(600):
            try:
                async with session.get("/health") as response:
                    if response.status == 200 and (await response.json())["model"] == version:
                        return
            except aiohttp.ClientError:
                pass  # not listening yet
            await asyncio.sleep(0.2)
    raise RuntimeError(f"{version} is not served after two minutes")


async def swap_champions(url: str, project: Project, log: SoakLog, every: float, seconds: float) -> None:
    """Change the champion regularly; once, after a third of the time, to the version that does not load."""
    started = time.monotonic()
    for number in itertools.count(1):
        await asyncio.sleep(every)
        if time.monotonic() - started > seconds:
            return
        if not log.truncated_version and time.monotonic() - started > seconds / 3:
            log.truncated_version = project.truncated.version
            await asyncio.to_thread(project.move, project.truncated)
            log.truncated_version_refused = await is_refused(url, project.truncated.version)
        champion = log.champions.periods[-1][0]
        others = [model for model in project.models if model.version != champion]
        await asyncio.to_thread(project.move, others[number % len(others)], log.champions)


async def is_refused(url: str, version: str) -> bool:
    """Return whether a worker reports within MAX_LAG that it refused `version`."""
    async with new_session(url) as session:
        for _ in range(int(MAX_LAG / 0.2)):
            async with session.get("/") as response:
                refused = (await response.json())["refused"]
            if refused and refused["version"] == version:
                return True
            await asyncio.sleep(0.2)
    return False


async def watch_memory(master: psutil.Process, log: SoakLog, every: float) -> None:
    """Log the memory of all processes, counting each page once (PSS), until cancelled."""
    while True:
        log.memory.append((time.monotonic(), *await asyncio.to_thread(_memory, master)))
        await asyncio.sleep(every)


def _memory(master: psutil.Process) -> tuple[int, int]:
    """Return the bytes and the number of the processes."""
    total, count = 0, 0
    for process in (master, *master.children(recursive=True)):
        try:
            total += process.memory_full_info().pss
            count += 1
        except psutil.Error:
            continue  # it has just ended
    return total, count


async def kill_worker(master: psutil.Process, log: SoakLog, after: float) -> None:
    """Kill a worker with SIGKILL; BentoML's master starts another one."""
    await asyncio.sleep(after)
    worker = master.children()[0]
    log.killed = time.monotonic()
    worker.send_signal(signal.SIGKILL)


def publish(
    log: SoakLog, rows: Sequence[harness.Row], sentences: Sequence[str], seconds: float, json_only: bool
) -> None:
    """Print the figures, the answers by kind and status, and the complaints; then the JSON line."""
    kinds = Counter(f"{answer.kind}: {answer.status or 'no answer'}" for answer in log.answers)
    figures = [[row.metric, f"{row.figure:,g} {row.unit}".strip(), f"{row.low:,g}", f"{row.high:,g}"] for row in rows]
    answers = harness.table(["requests by kind and answer", ""], [[kind, f"{kinds[kind]:,}"] for kind in sorted(kinds)])
    verdict = "\n".join(sentences[:20]) or "nothing to complain of"
    text = f"{seconds:.0f} s\n\n{harness.table(['', '', 'minimum', 'maximum'], figures)}\n\n{answers}\n\n{verdict}"
    started = log.memory[0][0]
    harness.publish(
        "soak",
        text,
        rows,
        LIBRARIES,
        json_only,
        seconds=seconds,
        answers=dict(kinds),
        complaints=list(sentences),
        memory=[[round(at - started, 1), size, count] for at, size, count in log.memory],
    )


if __name__ == "__main__":
    run(main)
