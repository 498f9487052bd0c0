"""The benchmarks of serving: what the load generator measures, how texts are batched, what is made of the figures."""

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
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from bench import batchers, designs, harness, load, serve
from bench.servers import STARTER, _fill_up, make_model


def found(tokens: int = 640, seconds: float = 1.0, first: float = 0.1, total: float = 1.0, **more: int) -> load.Found:
    return load.Found(10, tokens, seconds, [first] * 3, [total] * 3, 64, more, cpu=0.05)


@pytest.fixture(scope="module")
def model() -> Path:
    return make_model("tiny")


def test_times_are_of_good_answers_only_and_errors_are_counted_by_kind() -> None:
    good = [load.Answer(due=0, first=0.1 * n, ended=float(n), tokens=64) for n in range(1, 101)]
    bad = [load.Answer(due=0, first=500, ended=500, error="429"), load.Answer(due=0, ended=500, error="429")]
    summary = load.summary([*good, *bad], cpu=2.0)
    assert summary.total == pytest.approx([50.5, 95.05, 99.01])
    assert summary.first == pytest.approx([5.05, 9.505, 9.901])
    assert (summary.requests, summary.tokens, summary.least_tokens) == (102, 6400, 64)
    assert (summary.errors, summary.seconds, summary.cpu) == ({"429": 2}, 500, 2.0)


def test_without_a_good_answer_there_are_no_times() -> None:
    summary = load.summary([load.Answer(due=0, ended=1, error="500")])
    assert all(map(math.isnan, [*summary.first, *summary.total]))
    assert (summary.tokens, summary.least_tokens) == (0, 0)


def test_in_a_closed_loop_each_client_has_one_request_at_a_time() -> None:
    at_once, most = 0, 0

    async def ask(answer: load.Answer, number: int) -> None:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0.001)
        at_once -= 1

    assert len(asyncio.run(load.closed_loop(ask, clients=5, waves=3))) == 15
    assert most == 5
    assert len(asyncio.run(load.closed_loop(ask, clients=5, waves=3, seconds=0))) == 5


def test_in_an_open_loop_requests_do_not_wait_for_answers_and_time_counts_from_when_they_were_due() -> None:
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
        await load._read_events(lines, answer)  # type: ignore[arg-type] # aiohttp's has the same loop over lines
        return answer

    return asyncio.run(read())


@pytest.mark.parametrize(
    "events",
    [
        'data: {"text": ""}\n\ndata: {"text": "a"}\n\ndata: {"text": "", "usage": {"completion_tokens": 2}}\n\n',
        'data: {"choices": [{"text": "a"}], "usage": null}\n\n'
        'data: {"choices": [], "usage": {"completion_tokens": 2}}\n\n',
    ],
    ids=["ours", "OpenAI's"],
)
def test_a_stream_tells_its_first_text_and_its_tokens_and_one_that_breaks_off_is_an_error(events: str) -> None:
    whole, broken = _read(f"{events}data: [DONE]\n\n"), _read(events)
    assert (whole.tokens, whole.error) == (2, "")
    assert whole.first > 0
    assert broken.error == "broken stream"
    assert math.isnan(_read('data: {"text": ""}\n\ndata: [DONE]\n\n').first)


def test_prompts_differ_and_have_about_twelve_tokens_with_the_start() -> None:
    prompts = load.prompts(STARTER)
    assert len(set(prompts)) == len(prompts) > 1000
    lengths = [len(tokens) for tokens in designs.encoded(STARTER)]
    assert sum(lengths) / len(lengths) == pytest.approx(12, abs=0.5)


def test_each_token_of_gpt2s_large_vocabulary_has_a_text_of_its_own() -> None:
    tokenizer = json.loads((STARTER / "tokenizer.json").read_text(encoding="utf-8"))
    _fill_up(tokenizer["model"]["vocab"], 50257)
    made = Tokenizer.from_str(json.dumps(tokenizer))
    assert made.get_vocab_size() == 50257
    assert all(made.decode([token]) for token in range(5200, 50257, 997))
    prompt = "Once upon a time"
    assert made.encode(prompt).ids == Tokenizer.from_file(str(STARTER / "tokenizer.json")).encode(prompt).ids


def _in_a_window(batches: int, then: Callable[[designs.Window, threading.Event], Awaitable[None]]) -> list[int]:
    """Return the sizes of the batches that were written; the text of length 2 takes until the event is set."""
    sizes: list[int] = []
    go_on = threading.Event()

    def write(requests: list[designs.Request]) -> None:
        sizes.append(len(requests))
        if any(request.length == 2 for request in requests):
            assert go_on.wait(300)
        for request in requests:
            for _ in range(request.length):
                request.push(7)

    async def run() -> None:
        window = designs.Window(write, batches, stop=go_on.set)
        try:
            await then(window, go_on)
        finally:
            await window.close()

    asyncio.run(run())
    return sizes


def test_what_comes_at_the_same_time_is_one_batch_and_a_later_text_waits_for_its_end() -> None:
    async def then(window: designs.Window, go_on: threading.Event) -> None:
        early = [asyncio.create_task(window.write(designs.Request([0], length))) for length in (2, 1, 1)]
        await asyncio.sleep(0.1)
        late = asyncio.create_task(window.write(designs.Request([0], 1)))
        await asyncio.sleep(0.1)
        assert not late.done()
        go_on.set()
        await asyncio.gather(*early, late)

    assert _in_a_window(1, then) == [3, 1]


def test_with_two_batches_at_a_time_a_later_text_does_not_wait() -> None:
    async def then(window: designs.Window, go_on: threading.Event) -> None:
        early = asyncio.create_task(window.write(designs.Request([0], 2)))
        await asyncio.sleep(0.1)
        await asyncio.wait_for(window.write(designs.Request([0], 1)), 5)
        assert not early.done()
        go_on.set()
        await early

    assert _in_a_window(2, then) == [1, 1]


def test_a_batch_that_fails_says_so_to_each_of_its_texts() -> None:
    def write(requests: list[designs.Request]) -> None:
        raise MemoryError("too many")

    async def run() -> None:
        window = designs.Window(write)
        for outcome in await asyncio.gather(
            *(window.write(designs.Request([0], 1)) for _ in range(2)), return_exceptions=True
        ):
            assert isinstance(outcome, MemoryError)
        await window.close()

    asyncio.run(run())


@pytest.mark.integration
@pytest.mark.parametrize("name", designs.DESIGNS)
def test_every_design_writes_each_text_to_its_own_length(
    model: Path, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ENGINES_DIR", str(tmp_path))
    lengths = [1, 16, 17, 40] * 2

    async def run() -> list[designs.Request]:
        design = designs.DESIGNS[name](model)
        prompts = designs.encoded(model)[: len(lengths)]
        requests = [designs.Request(prompt, length) for prompt, length in zip(prompts, lengths, strict=True)]
        await asyncio.gather(*(design.write(request) for request in requests))
        await design.close()
        return requests

    for request, length in zip(asyncio.run(run()), lengths, strict=True):
        assert len(request.tokens) == len(request.times) == length
        assert request.times == sorted(request.times)


def test_each_figure_of_a_server_stands_beside_the_recipes_and_a_stack_beside_its_engine() -> None:
    turns = {
        "recipe": [serve.Turn({1: found(30), 8: found(tokens)}, memory=2_000_000) for tokens in (20, 40, 30)],
        "ours": [serve.Turn({1: found(90), 8: found(450, busy=2)}, {0.5: found(220)}, memory=1_000_000)] * 3,
        "ours, bare engine": [serve.Turn({1: found(100), 8: found(500)})] * 3,
    }
    rows = {(row.variant, row.metric): row for row in serve.rows_of(turns)}
    assert (rows["ours", "8 clients: speed"].figure, rows["ours", "8 clients: speed"].ratio) == (450, 15)
    assert (rows["recipe", "8 clients: speed"].low, rows["recipe", "8 clients: speed"].high) == (20, 40)
    assert rows["ours", "8 clients: errors"].figure == 2
    assert rows["ours", "8 clients: whole text, p99"].figure == 1
    assert rows["ours", "peak memory"].ratio == 0.5
    assert rows["ours", "8 clients: cost of the stack over its engine"].figure == pytest.approx(0.1)
    assert rows["ours", "open loop at 50%: first text, p95"].ratio is None
    speeds, _, opened = serve.tables(turns)
    assert "| ours | 90 (3.0 x) | 450 (15.0 x) | 1 |" in speeds
    assert "| cost of ours, over its engine | 10% | 10% |  |" in speeds
    assert "| ours, 50% | 0.10 / 0.10 / 0.10 | 1.00 / 1.00 / 1.00 | 0 |" in opened


def test_figures_that_are_none_are_left_out_of_the_rows() -> None:
    failed = load.summary([load.Answer(due=0, ended=1, error="500")])
    rows = {(row.variant, row.metric) for row in serve.rows_of({"recipe": [serve.Turn({1: failed})]})}
    assert ("recipe", "1 clients: errors") in rows
    assert ("recipe", "1 clients: whole text, p50") not in rows


def test_short_texts_and_servers_that_do_not_stream_are_said() -> None:
    names = ("recipe", "ours", "CTranslate2, bare engine", "ours, bare engine")
    said = serve.notes({name: [serve.Turn({1: found()})] for name in names}, serve.Size("gpt2", 65, 1, 1, 1))
    assert "at most 5% of a core" in said
    assert "so their first text is the whole: recipe; CTranslate2, bare engine." in said
    assert "shorter than 65 tokens, the shortest 64" in said
    assert "LLAMA_SERVER" in said


def test_the_picture_has_a_line_a_server_in_both_panels() -> None:
    turns = {name: [serve.Turn({1: found(30), 8: found(450)})] for name in ("recipe", "ours", "ours, bare engine")}
    picture = ElementTree.fromstring(serve.picture(turns))  # noqa: S314 - our own
    lines = picture.findall(".//{*}polyline")
    assert len(lines) == 4
    assert all(len(line.attrib["points"].split()) == 2 for line in lines)


def test_each_way_of_batching_stands_beside_micro_batches() -> None:
    def run(speed: float, wait: float) -> harness.Run:
        mixed = {"speed": speed, "long_speed": 1.0, "shorts": 9, "first": [wait] * 3, "total": [wait * 2] * 3}
        return harness.Run(1, 1, "a line before\n" + json.dumps(mixed))

    rows = {
        (row.variant, row.metric): row for row in batchers.rows_of({batchers.PEER: [run(100, 4)], "b": [run(200, 1)]})
    }
    assert (rows["b", "speed"].ratio, rows["b", "short text, p95"].ratio) == (2, 0.25)


def _quick(module: str, *options: str) -> str:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", module, "--quick", *options]
    done = subprocess.run(command, cwd=harness.ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.integration
def test_a_quick_run_asks_every_server_and_engine_and_none_fails(tmp_path: Path) -> None:
    output = _quick("bench.serve", "--plot", str(tmp_path / "serve.svg"))
    result = json.loads(output.splitlines()[-1])
    names = {*serve.servers(), *serve.BARE}
    speeds = {row["variant"]: row["figure"] for row in result["rows"] if row["metric"] == "2 clients: speed"}
    assert speeds.keys() == names
    assert min(speeds.values()) > 0
    assert not [row for row in result["rows"] if row["metric"].endswith("errors") and row["figure"]]
    assert any(row["metric"] == "open loop at 50%: speed" for row in result["rows"])
    assert "| ours |" in output
    assert (tmp_path / "serve.svg").read_text(encoding="utf-8").startswith("<svg ")


@pytest.mark.slow
def test_a_quick_run_compares_every_way_of_batching() -> None:
    output = _quick("bench.batchers")
    result = json.loads(output.splitlines()[-1])
    assert {row["variant"] for row in result["rows"]} == set(designs.DESIGNS)
    assert f"| {designs.OURS} |" in output
