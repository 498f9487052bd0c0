"""Whether the service may be left alone: `python -m bench.soak [--minutes 30] [--rate 12] [--quick] [--json]`.

A real server of two workers and three models of the starter's size with different weights, under mixed requests that
arrive at random (Poisson) and do not wait for each other: short and long, streamed or not, by our route and OpenAI's,
greedy and drawn, from clients that vanish, and bad ones. Meanwhile the champion changes every 20 s, once to a version
that does not load, and halfway a worker is killed.

What each model writes is asked beforehand, of a server with nothing else to do, and its greedy texts are held to
transformers in float32: so every wrong answer is noticed. Exits with 1 where there is anything to complain of.
"""

import asyncio
import itertools
import json
import math
import os
import random
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from bench import harness
from pipeline.command import UserError, arg_parser, run
from pipeline.registry.store import Registry
from pipeline.registry.versions import Version

LIBRARIES = ("torch", "transformers", "bentoml", "uvicorn", "aiohttp")
COPIED = ("serving", "pipeline", "service.py", "bentofile.yaml", "params.yaml", "constraints.txt", "requirements.lock")
WORKERS = 2
NOISE = 0.03  # of each weight: enough that every model writes something else, little enough that it still writes
SHORT, LONG = 8, 48  # tokens
PROMPTS = ("Once upon a time", "The old harbour", "In the morning", "A baker", "Nobody knew", "The letter")
NEAR = 0.25  # nats: where the reference's first two choices are closer than this, an engine that rounds may take either
LAG = 10.0  # seconds after which no answer may come from a version that is no longer the champion
GROWTH = 0.05  # of memory
COME_BACK = (429, 503)
TRIES = 4  # of a request that is told to come back
NO_ANSWER = 0  # in place of a status
SEED = 42

BAD: tuple[tuple[str, bytes, int], ...] = (  # a path, a body, and the status that it is to have
    ("/generate", b"{", 400),
    ("/generate", b'{"prompt": "x", "temperature": NaN}', 400),
    ("/generate", b'{"prompt": "x", "temperature": 1e400}', 400),
    ("/generate", b'{"prompt": "x", "max_new_tokens": 100000}', 400),
    ("/generate", b'{"prompt": "x", "unknown": 1}', 400),
    ("/generate", b'{"prompt": "\xff"}', 400),
    ("/generate", b"[" * 100_000, 400),
    ("/generate", b'{"prompt": "' + b"word " * 1500 + b'", "max_new_tokens": 200}', 400),
    ("/generate", b'{"prompt": "x", "model": "nobody"}', 404),
    ("/v1/completions", b'{"model": "champion"', 400),
    ("/v1/completions", b'{"model": "nobody", "prompt": "x"}', 404),
    ("/nowhere", b"{}", 404),
)


@dataclass(frozen=True)
class Text:
    """What is asked for."""

    prompt: str
    tokens: int
    seed: int | None  # None: greedy


TEXTS = tuple(Text(prompt, tokens, seed) for prompt in PROMPTS for tokens in (SHORT, LONG) for seed in (None, 7))
Expected = Mapping[str, Mapping[Text, str]]  # by version


@dataclass
class Answer:
    """A request: what it was, when it began and ended (monotonic seconds), and what came of it."""

    kind: str
    begun: float
    ended: float = math.inf
    status: int = NO_ANSWER
    expected_status: int = 200
    told_to_come_back: int = 0
    version: str = ""
    text: str = ""
    asked: Text | None = None
    problem: str = ""


@dataclass
class Reigns:
    """When each version was the champion: (version, since, until)."""

    all: list[tuple[str, float, float]] = field(default_factory=list)

    def begin(self, version: str, since: float, moved: float) -> None:
        """Note a move that began at `since`, when the new champion could first be seen, and had ended at `moved`."""
        if self.all:
            name, before, _ = self.all[-1]
            self.all[-1] = (name, before, moved)
        self.all.append((version, since, math.inf))

    def lag(self, answer: Answer) -> float:
        """Return for how long the answer's version was no champion when it began, in seconds; inf: it never was."""
        of_version = [(since, until) for name, since, until in self.all if name == answer.version]
        lags = [max(0.0, answer.begun - until) for since, until in of_version if since <= answer.ended]
        return min(lags, default=math.inf)


@dataclass
class Soak:
    """What happened."""

    answers: list[Answer] = field(default_factory=list)
    reigns: Reigns = field(default_factory=Reigns)
    memory: list[tuple[float, int, int]] = field(default_factory=list)  # time, bytes, processes
    killed: float = math.inf
    bad_version: str = ""
    bad_version_refused: bool = False


class Project:
    """A project in a folder of its own, with a registry that holds the models."""

    def __init__(self, folder: Path) -> None:
        """Copy what serving needs, and make three whole models and one that does not load."""
        self.root = folder / "project"
        self.root.mkdir()
        for name in COPIED:
            copy = shutil.copytree if (harness.ROOT / name).is_dir() else shutil.copy
            copy(harness.ROOT / name, self.root / name)
        os.environ["BENTOML_HOME"] = str(folder / "home")
        self.registry = Registry(self.root)
        self.models = [self._add(folder / f"model{seed}", seed) for seed in range(3)]
        self.bad = self._add(folder / "torn", 3, torn=True)
        self.log = folder / "server.log"

    def _add(self, folder: Path, seed: int, torn: bool = False) -> Version:
        folder.mkdir()
        for file in (harness.ROOT / "starter").glob("*.json"):
            shutil.copy(file, folder)
        torch.manual_seed(seed)
        weights = {
            name: (weight * (1 + NOISE * torch.randn(weight.shape))).to(weight.dtype)
            for name, weight in load_file(harness.ROOT / "starter" / "model.safetensors").items()
        }
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        if torn:
            os.truncate(folder / "model.safetensors", 1_000_000)
        (folder / "manifest.json").write_text(json.dumps({"data": f"{seed:064}"}), encoding="utf-8")
        return self.registry.add(folder, {}, {})

    def move(self, to: Version, reigns: Reigns | None = None) -> None:
        """Make `to` the champion, where it was the one before by a rollback, else by a promotion."""
        since = time.monotonic()
        champion = self.registry.champion()
        if champion and _previous(self.registry) == to.tag:
            self.registry.rollback(None, "soak")
        else:
            self.registry.move(to, expected=champion.tag if champion else None, action="promote", why="soak")
        if reigns:
            reigns.begin(to.version, since, time.monotonic())

    @contextmanager
    def served(self, workers: int) -> Iterator[tuple[str, psutil.Process]]:
        """Run the service until the end of the block; give its address and its master process."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        unset = ("MODEL_DIR", "PROMETHEUS_MULTIPROC_DIR")
        environment = {
            **{name: value for name, value in os.environ.items() if name not in unset},
            "BENTOML_CONFIG_OPTIONS": f"services.gpt2.workers={workers}",
            "BENTOML_DO_NOT_TRACK": "True",
            "OMP_NUM_THREADS": "1",
        }
        command = [sys.executable, "-m", "bentoml", "serve", ".", "--host", "127.0.0.1", "--port", str(port)]
        with (
            self.log.open("ab") as log,
            subprocess.Popen(command, cwd=self.root, env=environment, stdout=log, stderr=subprocess.STDOUT) as process,  # noqa: S603 - our own command
        ):
            try:
                yield f"http://127.0.0.1:{port}", psutil.Process(process.pid)
            finally:
                process.terminate()
                code = process.wait(90)
        if code:
            raise RuntimeError(f"the server ended with {code}; its log is {self.log}")


def _previous(registry: Registry) -> str | None:
    try:
        return registry.get("previous").tag
    except UserError:
        return None


# Asking


async def ask(session: aiohttp.ClientSession, kind: str, text: Text, answer: Answer) -> None:
    """Ask for a text by the route and in the way that `kind` says, as often as one is told to come back."""
    openai, streamed = kind.startswith("openai"), kind.endswith("streamed")
    body: dict[str, Any] = {"prompt": text.prompt, "stream": streamed}
    body |= {"temperature": 0} if text.seed is None else {"temperature": 1, "top_p": 1, "seed": text.seed}
    body |= {"model": "champion", "max_tokens": text.tokens} if openai else {"max_new_tokens": text.tokens, "top_k": 0}
    answer.asked = text
    for _ in range(TRIES):
        async with session.post("/v1/completions" if openai else "/generate", json=body) as response:
            answer.status = response.status
            answer.version = response.headers.get("X-Model-Version", "")
            if response.status == 200:
                if streamed:
                    answer.text = await _streamed(response, openai, answer)
                else:
                    told = await response.json()
                    answer.text = told["choices"][0]["text"] if openai else told["text"]
                return
            if response.status not in COME_BACK or "Retry-After" not in response.headers:
                return
            answer.told_to_come_back += 1
            wait = float(response.headers["Retry-After"])
        await asyncio.sleep(wait)


async def _streamed(response: aiohttp.ClientResponse, openai: bool, answer: Answer) -> str:
    """Return the text of a stream, which must have come to its proper end."""
    written: list[str] = []
    async for line in response.content:
        if line == b"data: [DONE]\n":
            return "".join(written)
        if line.startswith(b"data: "):
            event = json.loads(line[6:])
            if "error" in event:
                answer.problem = str(event["error"].get("code"))
                return ""
            written += [choice["text"] for choice in event["choices"]] if openai else [event["text"]]
    answer.problem = "the stream broke off"
    return ""


async def vanish(session: aiohttp.ClientSession, drawn: random.Random) -> None:
    """Ask for a long streamed text, and go away soon."""
    body = {"prompt": drawn.choice(PROMPTS), "max_new_tokens": 200, "stream": True}
    timeout = aiohttp.ClientTimeout(total=drawn.uniform(0.001, 0.2))
    async with session.post("/generate", json=body, timeout=timeout) as response:
        await response.content.readline()


async def one(session: aiohttp.ClientSession, soak: Soak, drawn: random.Random) -> None:
    """Make one request, of a kind drawn at random, and note what came of it."""
    kinds = {"native": 3, "native streamed": 3, "openai": 2, "openai streamed": 2, "vanishes": 1, "bad": 1}
    [kind] = drawn.choices([*kinds], [*kinds.values()])
    answer = Answer(kind, time.monotonic())
    try:
        if kind == "vanishes":
            await vanish(session, drawn)
        elif kind == "bad":
            path, body, answer.expected_status = drawn.choice(BAD)
            headers = {"Content-Type": "application/json"}
            async with session.post(path, data=body, headers=headers) as response:
                answer.status = response.status
                answer.told_to_come_back = int(response.status in COME_BACK)
        else:
            await ask(session, kind, drawn.choice(TEXTS), answer)
    except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
        if kind != "vanishes":
            answer.status, answer.problem = NO_ANSWER, type(error).__name__
    answer.ended = time.monotonic()
    soak.answers.append(answer)


async def arrive(url: str, soak: Soak, rate: float, seconds: float) -> None:
    """Let requests arrive at random, `rate` a second, until `seconds` have passed and all are answered."""
    drawn = random.Random(SEED)
    due = itertools.accumulate(drawn.expovariate(rate) for _ in itertools.count())
    begun = time.monotonic()
    async with _session(url) as session:
        asking = []
        for at in itertools.takewhile(lambda at: at < seconds, due):
            await asyncio.sleep(begun + at - time.monotonic())
            asking.append(asyncio.create_task(one(session, soak, drawn)))
        await asyncio.gather(*asking)


def _session(url: str) -> aiohttp.ClientSession:
    # A connection a request: one that is kept may be of the worker that is killed between two requests.
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    return aiohttp.ClientSession(url, connector=connector, timeout=aiohttp.ClientTimeout(total=180))


# What goes on meanwhile


async def move_about(url: str, project: Project, soak: Soak, every: float, seconds: float) -> None:
    """Change the champion every so often; once, after a third of the time, to the version that does not load."""
    begun = time.monotonic()
    for number in itertools.count(1):
        await asyncio.sleep(every)
        if time.monotonic() - begun > seconds:
            return
        if not soak.bad_version and time.monotonic() - begun > seconds / 3:
            soak.bad_version = project.bad.version
            await asyncio.to_thread(project.move, project.bad)
            async with _session(url) as session:
                for _ in range(int(LAG / 0.2)):
                    async with session.get("/") as response:
                        refused = (await response.json())["refused"]
                    if refused and refused["version"] == project.bad.version:
                        soak.bad_version_refused = True
                        break
                    await asyncio.sleep(0.2)
        champion = soak.reigns.all[-1][0]
        others = [model for model in project.models if model.version != champion]
        await asyncio.to_thread(project.move, others[number % len(others)], soak.reigns)


async def watch(master: psutil.Process, soak: Soak, every: float) -> None:
    """Note the memory of all processes, each page once (PSS), until cancelled."""
    while True:
        soak.memory.append((time.monotonic(), *await asyncio.to_thread(_memory, master)))
        await asyncio.sleep(every)


def _memory(master: psutil.Process) -> tuple[int, int]:
    total, count = 0, 0
    for process in (master, *master.children(recursive=True)):
        try:
            total += process.memory_full_info().pss
            count += 1
        except psutil.Error:
            continue  # it has just ended
    return total, count


async def kill_a_worker(master: psutil.Process, soak: Soak, after: float) -> None:
    """Kill a worker with SIGKILL; BentoML's master starts another."""
    await asyncio.sleep(after)
    worker = master.children()[0]
    soak.killed = time.monotonic()
    worker.send_signal(signal.SIGKILL)


async def soaked(project: Project, rate: float, seconds: float, every: float) -> tuple[Soak, Expected]:
    """Return what happened in so many seconds, and what had to be answered."""
    soak = Soak()
    with project.served(workers=1) as (url, _):  # alone: no swap in the other worker is to be waited for
        expected = {model.version: await _alone(url, project, model) for model in project.models}
    project.move(project.models[0], soak.reigns)
    with project.served(WORKERS) as (url, master):
        for _ in range(2 * WORKERS):  # of either worker
            await _serves(url, project.models[0].version)
        begun = time.monotonic()
        beside = [
            asyncio.create_task(watch(master, soak, min(5.0, seconds / 40))),
            asyncio.create_task(move_about(url, project, soak, every, seconds)),
            asyncio.create_task(kill_a_worker(master, soak, seconds / 2)),
        ]
        await arrive(url, soak, rate, seconds)
        beside[0].cancel()
        await asyncio.wait(beside)
        for task in beside[1:]:
            task.result()
        sys.stderr.write(f"{time.monotonic() - begun:.0f} s of load are over\n")
    return soak, expected


async def _serves(url: str, version: str) -> None:
    """Wait until a worker says that it serves `version`."""
    async with _session(url) as session:
        for _ in range(600):
            try:
                async with session.get("/health") as response:
                    if response.status == 200 and (await response.json())["model"] == version:
                        return
            except aiohttp.ClientError:
                pass  # not listening yet
            await asyncio.sleep(0.2)
    raise RuntimeError(f"{version} is not served after two minutes")


async def _alone(url: str, project: Project, model: Version) -> dict[Text, str]:
    """Return what `model` writes with nothing else to do, after a look at whether that is what transformers would."""
    champion = project.registry.champion()
    if champion is None or champion.tag != model.tag:
        project.move(model)
    await _serves(url, model.version)
    found = {}
    async with _session(url) as session:
        for text in TEXTS:
            answer = Answer("native", time.monotonic())
            await ask(session, answer.kind, text, answer)
            if (answer.status, answer.version) != (200, model.version):
                raise RuntimeError(f"{model.version} was asked for {text}, and {answer} came")
            found[text] = answer.text
    await asyncio.to_thread(hold_to_the_reference, model.folder, found)
    return found


@torch.inference_mode()
def hold_to_the_reference(folder: Path, found: Mapping[Text, str]) -> None:
    """Raise RuntimeError unless the greedy texts are those of transformers in float32, but for near ties."""
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, local_files_only=True, trust_remote_code=False, use_safetensors=True
    ).eval()
    for text, written in found.items():
        if text.seed is not None:
            continue
        prompt = [model.config.bos_token_id, *tokenizer.encode(text.prompt, add_special_tokens=False)]
        ids: list[int] = []
        while len(ids) < text.tokens:
            logits, likeliest = torch.topk(model(torch.tensor([prompt + ids])).logits[0, -1], 2)
            if logits[0] - logits[1] < NEAR or likeliest[0] == model.config.eos_token_id:
                break  # after a near tie either is right
            ids.append(int(likeliest[0]))
        sure = tokenizer.decode(ids)
        if not written.startswith(sure):
            raise RuntimeError(f"{folder}: after {text.prompt!r} came {written!r}; by transformers it begins {sure!r}")


# Judging


def complaints(soak: Soak, expected: Expected, memory_counts: bool) -> list[str]:
    """Return what is not as it should be, each as a sentence."""
    found = []
    texts = [answer for answer in soak.answers if answer.asked]
    good = [answer for answer in texts if answer.status == 200 and not answer.problem]
    for answer in good:
        if answer.text != expected.get(answer.version, {}).get(answer.asked):  # type: ignore[arg-type]
            found.append(f"wrong answer: {answer}")
        elif soak.reigns.lag(answer) > LAG:
            found.append(f"its version was no longer champion: {answer}")
    found += [f"lost: {answer}" for answer in lost(soak) if not by_the_kill(soak, answer)]
    found += [
        f"a bad request was answered with {answer.status}, not {answer.expected_status}"
        for answer in soak.answers
        if answer.kind == "bad" and answer.status not in (answer.expected_status, *COME_BACK, NO_ANSWER)
    ]
    if not soak.bad_version_refused:
        found.append("the version that does not load was not refused")
    if soak.killed == math.inf:
        found.append("no worker was killed")
    if len({version for version, _, _ in soak.reigns.all} & {answer.version for answer in good}) < 2:
        found.append("the champion never changed")
    if memory_counts and growth(soak) > GROWTH:
        found.append(f"memory grew by {growth(soak):.1%}")
    return found


def lost(soak: Soak) -> list[Answer]:
    """Return the requests, bad ones too, that no proper answer came to; clients that vanish wait for none."""
    return [
        answer
        for answer in soak.answers
        if answer.kind != "vanishes"
        and (answer.status == NO_ANSWER or answer.problem or (answer.asked and answer.status != 200))
    ]


def by_the_kill(soak: Soak, answer: Answer) -> bool:
    """Return whether a request was with the killed worker: under way when it died, and ended by that."""
    return answer.begun <= soak.killed <= answer.ended < soak.killed + 1


def growth(soak: Soak) -> float:
    """Return by what share memory grew from before the kill until the end, medians of a quarter each."""
    since, until = soak.memory[0][0], soak.memory[-1][0]
    quarter = (until - since) / 4
    early = [size for at, size, _ in soak.memory if since + quarter <= at < min(since + 2 * quarter, soak.killed)]
    late = [size for at, size, _ in soak.memory if at >= until - quarter]
    return statistics.median(late) / statistics.median(early) - 1 if early and late else math.nan


def rows_of(soak: Soak, expected: Expected) -> list[harness.Row]:
    """Return the figures."""
    good = [answer for answer in soak.answers if answer.asked and answer.status == 200 and not answer.problem]
    seconds = [answer.ended - answer.begun for answer in good]
    lags = [soak.reigns.lag(answer) for answer in good]
    wrong = sum(answer.text != expected.get(answer.version, {}).get(answer.asked) for answer in good)  # type: ignore[arg-type]
    sizes = [size / 1e6 for _, size, _ in soak.memory]

    def row(metric: str, figure: float, unit: str, low: float = math.nan, high: float = math.nan) -> harness.Row:
        of_all = (figure if math.isnan(low) else low, figure if math.isnan(high) else high)
        return harness.Row("ours", metric, round(figure, 3), unit, round(of_all[0], 3), round(of_all[1], 3), "", None)

    return [
        row("requests", len(soak.answers), ""),
        row("texts answered", len(good), ""),
        row("wrong answers", wrong, ""),
        row("lost with the killed worker", sum(by_the_kill(soak, answer) for answer in lost(soak)), ""),
        row("lost beyond", sum(not by_the_kill(soak, answer) for answer in lost(soak)), ""),
        row("told to come back", sum(answer.told_to_come_back for answer in soak.answers), ""),
        row("swaps", len(soak.reigns.all) - 1, ""),
        row("time of an answer", statistics.median(seconds), "s", min(seconds), max(seconds)),
        row("longest lag of a version", max(lags), "s"),
        row("memory", statistics.median(sizes), "MB", min(sizes), max(sizes)),
        row("growth of memory", 100 * growth(soak), "%"),
    ]


def main() -> None:
    """Soak, and say what happened."""
    parser = arg_parser(no="there is something to complain of")
    parser.add_argument("--minutes", type=float, default=30, help="how long (default: 30)")
    parser.add_argument("--rate", type=float, default=12, help="requests a second (default: 12)")
    parser.add_argument("--quick", action="store_true", help="20 s, a swap every 4 s: it runs, memory is moot")
    parser.add_argument("--json", action="store_true", help="print the JSON line only")
    wanted = parser.parse_args()
    seconds, every = (20.0, 4.0) if wanted.quick else (wanted.minutes * 60, 20.0)
    with tempfile.TemporaryDirectory(prefix="soak-", ignore_cleanup_errors=True) as folder:
        project = Project(Path(folder))
        try:
            soak, expected = asyncio.run(soaked(project, wanted.rate, seconds, every))
        except BaseException:
            sys.stderr.write(project.log.read_text(encoding="utf-8")[-4000:] if project.log.exists() else "")
            raise
    rows, wrong = rows_of(soak, expected), complaints(soak, expected, memory_counts=not wanted.quick)
    kinds = Counter(f"{answer.kind}: {answer.status or 'no answer'}" for answer in soak.answers)
    publish(soak, rows, wrong, kinds, seconds, wanted.json)
    sys.exit(1 if wrong else 0)


def publish(
    soak: Soak,
    rows: Sequence[harness.Row],
    wrong: Sequence[str],
    kinds: Mapping[str, int],
    seconds: float,
    json_only: bool,
) -> None:
    """Print the figures, the answers by kind and status, and the complaints; then the JSON line."""
    figures = [[row.metric, f"{row.figure:,g} {row.unit}".strip(), f"{row.low:,g}", f"{row.high:,g}"] for row in rows]
    counts = [[kind, f"{kinds[kind]:,}"] for kind in sorted(kinds)]
    answered = harness.table(["requests by kind and answer", ""], counts)
    verdict = "\n".join(wrong[:20]) or "nothing to complain of"
    text = f"{seconds:.0f} s\n\n{harness.table(['', '', 'least', 'most'], figures)}\n\n{answered}\n\n{verdict}"
    begun = soak.memory[0][0]
    memory = [[round(at - begun, 1), size, count] for at, size, count in soak.memory]
    harness.publish(
        "soak", text, rows, LIBRARIES, json_only,
        seconds=seconds, answers=dict(kinds), complaints=list(wrong), memory=memory,
    )  # fmt: skip


if __name__ == "__main__":
    run(main)
