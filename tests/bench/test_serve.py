"""The benchmark of serving: what the load generator measures, how peers batch, and how figures are reported."""

import asyncio
import itertools
import json
import math
import os
import subprocess
import sys
import threading
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from bench import harness, load, serve, serve_report
from bench.micro_batches import MicroBatches, Request, tokenized_prompts
from bench.serve_report import Round
from bench.server_processes import servers
from bench.servers import STARTER, fill_vocabulary


def result(tokens: int = 640, **errors: int) -> load.LoadResult:
    return load.LoadResult(10, tokens, 1.0, [0.1] * 3, [1.0] * 3, 64, errors, cpu=0.05)


def test_times_count_good_answers_only_and_errors_are_counted_by_kind() -> None:
    good = [load.Answer(due=0, first=0.1 * n, ended=float(n), tokens=64) for n in range(1, 101)]
    bad = [load.Answer(due=0, first=500, ended=500, error="429"), load.Answer(due=0, ended=500, error="429")]
    summary = load.summary([*good, *bad], cpu=2.0)
    assert summary.total == pytest.approx([50.5, 95.05, 99.01])
    assert summary.first == pytest.approx([5.05, 9.505, 9.901])
    assert (summary.requests, summary.tokens, summary.min_tokens) == (102, 6400, 64)
    assert (summary.errors, summary.seconds, summary.cpu) == ({"429": 2}, 500, 2.0)


def test_times_are_nan_without_a_good_answer() -> None:
    summary = load.summary([load.Answer(due=0, ended=1, error="500")])
    assert all(map(math.isnan, [*summary.first, *summary.total]))
    assert (summary.tokens, summary.min_tokens) == (0, 0)


def test_a_client_of_a_closed_loop_has_one_request_at_a_time() -> None:
    running, most = 0, 0

    async def ask(answer: load.Answer, number: int) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.001)
        running -= 1

    assert len(asyncio.run(load.closed_loop(ask, clients=5, waves=3))) == 15
    assert most == 5
    assert len(asyncio.run(load.closed_loop(ask, clients=5, waves=3, seconds=0))) == 5


def test_requests_of_an_open_loop_do_not_wait_for_answers_and_time_counts_from_when_they_were_due() -> None:
    async def measured() -> list[load.Answer]:
        one_at_a_time = asyncio.Lock()

        async def ask(answer: load.Answer, number: int) -> None:
            async with one_at_a_time:
                await asyncio.sleep(0.01)
            answer.first = answer.ended = time.perf_counter()

        return await load.open_loop(ask, rate=300, seconds=0.1)

    answers = asyncio.run(measured())
    assert len(answers) == 30
    gaps = [after.due - before.due for before, after in itertools.pairwise(answers)]
    assert sum(gaps) / len(gaps) == pytest.approx(1 / 300, rel=0.4)
    waits = [answer.ended - answer.due for answer in answers]
    assert waits[-1] > 0.5 * len(answers) * 0.01  # the queue: 10 ms each, while one arrives every 3


def _read(events: str) -> load.Answer:
    async def read() -> load.Answer:
        lines = asyncio.StreamReader()
        lines.feed_data(events.encode())
        lines.feed_eof()
        answer = load.Answer(due=0)
        await load.read_events(lines, answer)  # type: ignore[arg-type] # aiohttp's has the same loop over lines
        return answer

    return asyncio.run(read())


@pytest.mark.parametrize(
    "events",
    [
        'data: {"text": ""}\n\ndata: {"text": "a"}\n\ndata: {"text": "", "usage": {"completion_tokens": 2}}\n\n',
        'data: {"choices": [{"text": "a"}], "usage": null}\n\n'
        'data: {"choices": [], "usage": {"completion_tokens": 2}}\n\n',
    ],
    ids=["native", "OpenAI"],
)
def test_first_text_and_tokens_are_read_from_a_stream_and_one_that_breaks_off_is_an_error(events: str) -> None:
    whole, broken = _read(f"{events}data: [DONE]\n\n"), _read(events)
    assert (whole.tokens, whole.error) == (2, "")
    assert whole.first > 0
    assert broken.error == "broken stream"
    assert math.isnan(_read('data: {"text": ""}\n\ndata: [DONE]\n\n').first)


def test_prompts_are_distinct_and_have_about_twelve_tokens_with_the_start() -> None:
    prompts = load.prompts(STARTER)
    assert len(set(prompts)) == len(prompts) > 1000
    lengths = [len(tokens) for tokens in tokenized_prompts(STARTER)]
    assert sum(lengths) / len(lengths) == pytest.approx(12, abs=0.5)


def test_each_token_of_a_vocabulary_of_gpt2s_size_has_a_text_of_its_own() -> None:
    tokenizer = json.loads((STARTER / "tokenizer.json").read_text(encoding="utf-8"))
    fill_vocabulary(tokenizer["model"]["vocab"], 50257)
    made = Tokenizer.from_str(json.dumps(tokenizer))
    assert made.get_vocab_size() == 50257
    assert all(made.decode([token]) for token in range(5200, 50257, 997))
    prompt = "Once upon a time"
    assert made.encode(prompt).ids == Tokenizer.from_file(str(STARTER / "tokenizer.json")).encode(prompt).ids


def test_simultaneous_requests_are_one_batch_and_a_later_one_waits_for_its_end() -> None:
    batches: list[list[int]] = []
    finish = threading.Event()

    def write(requests: Sequence[Request]) -> list[list[int]]:
        batches.append([request.length for request in requests])
        assert finish.wait(300)
        return [[7] * request.length for request in requests]

    async def run() -> list[list[int]]:
        micro_batches = MicroBatches(write)
        early = [asyncio.create_task(micro_batches.write(Request([0], length))) for length in (3, 1, 2)]
        while not batches:
            await asyncio.sleep(0.01)
        late = asyncio.create_task(micro_batches.write(Request([0], 1)))
        await asyncio.sleep(0.1)
        assert not late.done()
        finish.set()
        texts = [*await asyncio.gather(*early), await late]
        await micro_batches.close()
        return texts

    assert asyncio.run(run()) == [[7, 7, 7], [7], [7, 7], [7]]
    assert batches == [[3, 1, 2], [1]]


def test_a_batch_that_fails_raises_its_error_for_each_request() -> None:
    def write(requests: Sequence[Request]) -> list[list[int]]:
        raise MemoryError("too many")

    async def run() -> None:
        micro_batches = MicroBatches(write)
        texts = (micro_batches.write(Request([0], 1)) for _ in range(2))
        for outcome in await asyncio.gather(*texts, return_exceptions=True):
            assert isinstance(outcome, MemoryError)
        await micro_batches.close()

    asyncio.run(run())


def test_servers_are_compared_with_the_recipe_and_with_their_bare_engine() -> None:
    results = {
        "recipe": [Round({1: result(30), 8: result(tokens)}, memory=2_000_000) for tokens in (20, 40, 30)],
        "fresh": [Round({1: result(90), 8: result(450, busy=2)}, {0.5: result(220)}, memory=1_000_000)] * 3,
        "fresh, bare engine": [Round({1: result(100), 8: result(500)})] * 3,
    }
    rows = {(row.variant, row.metric): row for row in serve_report.rows_of(results)}
    assert (rows["fresh", "8 clients: speed"].figure, rows["fresh", "8 clients: speed"].ratio) == (450, 15)
    assert (rows["recipe", "8 clients: speed"].low, rows["recipe", "8 clients: speed"].high) == (20, 40)
    assert rows["fresh", "8 clients: errors"].figure == 2
    assert rows["fresh", "8 clients: whole text, p99"].figure == 1
    assert rows["fresh", "peak memory"].ratio == 0.5
    assert rows["fresh", "8 clients: cost of the stack over its engine"].figure == pytest.approx(0.1)
    assert rows["fresh", "open loop at 50%: first text, p95"].ratio is None
    speeds, _, opened = serve_report.tables(results)
    assert "| fresh | 90 (3.0 x) | 450 (15.0 x) | 1 |" in speeds
    assert "| cost of fresh, over its engine | 10% | 10% |  |" in speeds
    assert "| fresh, 50% | 0.10 / 0.10 / 0.10 | 1.00 / 1.00 / 1.00 | 0 |" in opened


def test_figures_that_are_not_finite_have_no_row() -> None:
    failed = load.summary([load.Answer(due=0, ended=1, error="500")])
    rows = {(row.variant, row.metric) for row in serve_report.rows_of({"recipe": [Round({1: failed})]})}
    assert ("recipe", "1 clients: errors") in rows
    assert ("recipe", "1 clients: whole text, p50") not in rows


def test_notes_name_short_texts_and_servers_that_do_not_stream() -> None:
    names = ("recipe", "fresh", "CTranslate2, bare engine", "fresh, bare engine")
    notes = serve_report.notes({name: [Round({1: result()})] for name in names}, serve.Size("gpt2", 65, 1, 1, 1))
    assert "at most 5% of a core" in notes
    assert "so their first text is the whole: recipe; CTranslate2, bare engine." in notes
    assert "shorter than 65 tokens, the shortest 64" in notes
    assert "LLAMA_SERVER" in notes


def test_both_panels_of_the_picture_have_a_line_for_each_server() -> None:
    names = ("recipe", "fresh", "fresh, bare engine")
    results = {name: [Round({1: result(30), 8: result(450)})] for name in names}
    picture = ElementTree.fromstring(serve_report.picture(results))  # noqa: S314 - our own
    lines = picture.findall(".//{*}polyline")
    assert len(lines) == 4
    assert all(len(line.attrib["points"].split()) == 2 for line in lines)


def _quick(module: str, *options: str) -> str:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", module, "--quick", *options]
    done = subprocess.run(command, cwd=harness.ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.integration
def test_a_quick_run_measures_every_server_and_engine_without_errors(tmp_path: Path) -> None:
    output = _quick("bench.serve", "--plot", str(tmp_path / "serve.svg"))
    rows = json.loads(output.splitlines()[-1])["rows"]
    names = {*servers(), *serve_report.BARE}
    speeds = {row["variant"]: row["figure"] for row in rows if row["metric"] == "2 clients: speed"}
    assert speeds.keys() == names
    assert min(speeds.values()) > 0
    assert not [row for row in rows if row["metric"].endswith("errors") and row["figure"]]
    assert any(row["metric"] == "open loop at 50%: speed" for row in rows)
    assert "| fresh |" in output
    assert (tmp_path / "serve.svg").read_text(encoding="utf-8").startswith("<svg ")
