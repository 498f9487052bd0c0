"""The playground in a real browser, with a stand-in for the routes that it uses, and with the real service."""

import asyncio
import json
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import pytest
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from docs.picture import Browser, browser
from serving import playground
from serving.schema import generate_request
from tests.serving.conftest import service_settings, serving

needs_chromium = pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
pytestmark = pytest.mark.integration

BODY = generate_request(service_settings())
HOSTILE = "<img src=x onerror=\"document.title='caught'\"><script>document.title='caught'</script>"
AWKWARD = 'It\'s "quoted" `id` $(id) $HOME \\ \\n!\n\nline\ttab\x7fdelete é 中文 😀 \u202e\u2028 \U000e0041 </script>'
PATIENCE = 300.0  # seconds for a page to show what is looked for


class Server:
    """A stand-in for the service with its contract; its texts repeat what was requested."""

    def __init__(self) -> None:
        self.app = FastAPI(openapi_url=None)
        page = playground.response(BODY, service_settings().timeout)
        self.app.get("/playground")(lambda: page)
        self.app.get("/")(self.about)
        self.app.post("/generate")(self.generate)
        self.url = ""
        self.begin()

    def begin(self) -> None:
        """Forget what was asked and set."""
        self.models = ["0123456789ab", "champion"]
        self.context: int | None = None
        self.more: dict[str, Any] = {}  # of the answer of GET /
        self.key: str | None = None
        self.pause = 0.0  # seconds before each event
        self.finish = "length"
        self.ending = "done"  # error: an error event; cut: the stream ends early; refused: no stream
        self.requests: list[dict[str, Any]] = []
        self.gone = threading.Event()  # a client went away in mid-stream

    def locked(self, request: Request) -> JSONResponse | None:
        if self.key is None or request.headers.get("authorization") == f"Bearer {self.key}":
            return None
        return problem(401, "this server wants an API key: Authorization: Bearer …")

    async def about(self, request: Request) -> Response:
        refused = {"version": "bad0bad0bad0", "reason": "it writes <b>nothing</b>", "at": "2026-11-22T00:00:00+00:00"}
        answer = {"name": "gpt2", "status": "up", "model": "0123456789ab", "data": "0" * 64, "engine": "stand-in"}
        more = {"why": "the champion", "refused": refused, "models": self.models, "context": self.context}
        return self.locked(request) or JSONResponse({**answer, **more, **self.more})

    async def generate(self, request: Request) -> Response:
        body = await request.json()
        self.requests.append(body)
        if refused := self.locked(request):
            return refused
        if self.ending == "refused":
            return problem(429, "the queue is full", {"Retry-After": "7"})
        sampling = {name: value for name, value in body.items() if name != "stream"}
        text = f" {HOSTILE} {json.dumps(sampling, ensure_ascii=False)}"
        last = {
            "finish_reason": self.finish, "usage": {"prompt_tokens": 5, "completion_tokens": len(text)},
            "model": f"version of {body.get('model')}", "data": "0" * 64, "seed": body["seed"], "engine": "stand-in",
        }  # fmt: skip
        headers = {"X-Model-Version": last["model"]}
        if body.get("stream"):
            return StreamingResponse(self.events(text, last), media_type="text/event-stream", headers=headers)
        return JSONResponse({"text": text, **last}, headers=headers)

    async def events(self, text: str, last: dict[str, Any]) -> AsyncIterator[bytes]:
        pieces = [text[at : at + 40] for at in range(0, len(text), 40)]
        gone = self.gone
        try:
            for number, piece in enumerate(pieces):
                if self.ending == "cut" and number == 2:
                    return
                if self.ending == "error" and number == 2:
                    error = {"message": "the engine <i>broke</i>", "type": "server_error", "param": None, "code": None}
                    yield f"event: error\ndata: {json.dumps({'error': error})}\n\n".encode()
                    return
                event = f"data: {json.dumps({'text': piece}, ensure_ascii=False)}\n\n".encode()
                half = len(event) // 2 + 1  # a part of the network need not end where a character does
                yield event[:half]
                await asyncio.sleep(self.pause)
                yield event[half:]
            yield f"data: {json.dumps({'text': '', **last})}\n\ndata: [DONE]\n\n".encode()
        except (asyncio.CancelledError, GeneratorExit):
            gone.set()
            raise


def problem(status: int, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    error = {"message": message, "type": "server_error", "param": None, "code": None}
    return JSONResponse({"error": error}, status_code=status, headers=headers)


@contextmanager
def listening(app: Any, lifespan: Literal["on", "off"] = "off") -> Iterator[str]:
    """Serve `app` on a free port until the end of the block."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        server = uvicorn.Server(
            uvicorn.Config(app, log_config=None, ws="none", lifespan=lifespan, timeout_graceful_shutdown=1)
        )
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            while not server.started:
                assert thread.is_alive()
                thread.join(0.02)
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


class Tab(Browser):
    """A page of Chromium that remembers what it asked of the network and what it complained about."""

    def __init__(self, page: Browser) -> None:
        self.events: list[dict[str, Any]] = []
        super().__init__(page._connection)
        for domain in ("Network", "Runtime", "Log"):
            self(f"{domain}.enable")

    def __call__(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Return the answer to a command; the events before it are kept."""
        self._id += 1
        self._connection.send(json.dumps({"id": self._id, "method": method, "params": parameters}))
        while (message := json.loads(self._connection.recv(timeout=PATIENCE))).get("id") != self._id:
            self.events.append(message)
        assert "error" not in message, message
        result: dict[str, Any] = message["result"]
        return result

    def until(self, expression: str) -> Any:
        """Return what the JavaScript expression is as soon as it is true."""
        deadline = time.monotonic() + PATIENCE
        while not (value := self.value(expression)):
            assert time.monotonic() < deadline, (expression, self.value("document.body.innerText"), self.complaints())
            time.sleep(0.02)
        return value

    def visit(self, url: str, width: int = 1280, height: int = 900) -> None:
        """Open a page of `width`, as a phone where it is narrow."""
        self("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500)
        self("Page.navigate", url="about:blank")  # a navigation to the same page would be none
        self.until("location.href === 'about:blank'")
        self.events.clear()
        self("Page.navigate", url=url)
        self.until(f"location.href === {json.dumps(url)} && document.readyState === 'complete'")

    def press(self, key: str, control: bool = False, shift: bool = False) -> None:
        """Press and release a key, on a page that has been drawn: before that, Chromium drops what is pressed."""
        self.until("performance.getEntriesByName('first-contentful-paint').length")
        codes = {"Enter": 13, "Escape": 27, "Tab": 9, " ": 32, "ArrowRight": 39, "ArrowDown": 40}
        held = {"modifiers": 2 * control + 8 * shift, "windowsVirtualKeyCode": codes[key]}
        text = {"text": {"Enter": "\r", " ": " "}[key]} if key in ("Enter", " ") and not control else {}
        self("Input.dispatchKeyEvent", type="keyDown", key=key, code={" ": "Space"}.get(key, key), **held, **text)
        self("Input.dispatchKeyEvent", type="keyUp", key=key, code={" ": "Space"}.get(key, key), **held)

    def type(self, text: str) -> None:
        """Type into what has the focus."""
        self("Input.insertText", text=text)

    def fill(self, name: str, text: str) -> None:
        """Put a text into a field in the place of what it holds."""
        self.value(f"document.getElementById({json.dumps(name)}).focus()")
        self.value(f"document.getElementById({json.dumps(name)}).select()")
        self.type(text)

    def run(self) -> None:
        """Press Ctrl+Enter and wait for the end."""
        self.press("Enter", control=True)
        self.until("['Done.', 'Stopped.'].includes(document.getElementById('state').textContent)")

    def texts(self) -> list[str]:
        """Return what was written, by column."""
        values: list[str] = self.value("[...document.querySelectorAll('.text')].map(one => one.textContent)")
        return values

    def figures(self) -> list[dict[str, str]]:
        """Return the figures, by column."""
        values: list[dict[str, str]] = self.value(
            "[...document.querySelectorAll('dl')].map(list => Object.fromEntries("
            "[...list.querySelectorAll('dt')].map(name => [name.textContent, name.nextSibling.textContent])))"
        )
        return values

    def code(self, kind: str, column: int = 0) -> str:
        """Return the code that the page shows, as chosen."""
        for name, value in (("kind", kind), ("which", str(column))):
            field = f"document.getElementById('{name}')"
            self.value(f"{field}.value = '{value}'; {field}.dispatchEvent(new Event('change'))")
        line: str = self.value("document.getElementById('line').textContent")
        return line

    def hosts(self) -> set[str]:
        """Return the origins of all requests."""
        self.value("0")  # reads the events that have come in
        urls = [
            event["params"]["request"]["url"] for event in self.events if event["method"] == "Network.requestWillBeSent"
        ]
        return {"/".join(url.split("/")[:3]) for url in urls if not url.startswith(("data:", "about:"))}

    def complaints(self) -> list[str]:
        """Return errors and warnings of the console, exceptions and what the page's policy stopped."""
        errors = []
        for event in self.events:
            if event["method"] == "Runtime.exceptionThrown":
                errors.append(json.dumps(event["params"]["exceptionDetails"]))
            elif event["method"] == "Runtime.consoleAPICalled" and event["params"]["type"] in ("error", "warning"):
                errors.append(json.dumps(event["params"]["args"]))
            elif event["method"] == "Log.entryAdded" and event["params"]["entry"]["level"] in ("error", "warning"):
                errors.append(event["params"]["entry"]["text"])
        return errors


@pytest.fixture(scope="module")
def chromium() -> Iterator[Tab]:
    with browser() as page:
        yield Tab(page)


@pytest.fixture(scope="module")
def stand_in() -> Iterator[Server]:
    server = Server()
    with listening(server.app) as server.url:
        yield server


@pytest.fixture
def server(stand_in: Server) -> Server:
    stand_in.begin()
    return stand_in


@pytest.fixture
def tab(chromium: Tab, server: Server) -> Iterator[Tab]:
    """The playground, open on a wide screen. In the end it may have spoken to no other host, nor complained."""
    chromium.visit(f"{server.url}/playground")
    chromium.until("document.getElementById('about').textContent")
    yield chromium
    assert chromium.hosts() == {server.url}
    expected = ("401 (Unauthorized)", "429 (Too Many Requests)")  # Chromium says so of any answer that is an error
    assert [said for said in chromium.complaints() if not any(status in said for status in expected)] == []
    chromium.value("sessionStorage.clear()")


def test_the_policy_lets_in_the_pages_own_script_and_this_server_alone() -> None:
    policy = playground.policy(playground.page(BODY, 120.0))
    assert re.search(r"script-src 'sha256-[^' ]+'; style-src 'sha256-[^' ]+'; connect-src 'self'", policy)
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    assert "http" not in policy


def test_a_description_in_the_schema_cannot_end_the_data_in_the_page() -> None:
    [data] = re.findall(
        '<script type="application/json" id="data">(.*?)</script>', playground.page(BODY, 120.0), re.DOTALL
    )
    assert "<" not in data
    assert json.loads(data)["fields"] == BODY.model_json_schema()["properties"]


@needs_chromium
@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_the_screen_before_and_after_three_models_wrote(
    chromium: Tab, server: Server, width: int, scheme: str
) -> None:
    server.models = ["champion", "previous", "base", "interminable" * 20]
    chromium("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    chromium.visit(f"{server.url}/playground", width)
    chromium.until("document.querySelectorAll('#names input').length === 4")
    overflow = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert chromium.value("innerWidth") == width
    assert chromium.value(overflow) == 0
    chromium.value("document.querySelectorAll('#names input').forEach(box => { box.checked = true; })")
    chromium.fill("prompt", "interminable" * 60)
    chromium.value("document.getElementById('settings').open = true")
    chromium.run()
    assert chromium.value("document.querySelectorAll('.column').length") == 4
    assert chromium.value(overflow) == 0
    light = chromium.value("getComputedStyle(document.body).backgroundColor") == "rgb(247, 248, 250)"
    assert light == (scheme == "light")
    chromium("Emulation.setEmulatedMedia", features=[])


@needs_chromium
def test_bounds_defaults_and_hints_are_those_of_the_schema(tab: Tab) -> None:
    for name, field in BODY.model_json_schema()["properties"].items():
        if "default" in field and field.get("type") in ("integer", "number"):
            bounds = tab.value(
                f"(box => box && [+box.value, +box.max, document.getElementById('about-{name}').textContent])"
                f"(document.getElementById('{name}'))"
            )
            if name in ("presence_penalty", "frequency_penalty"):
                assert bounds is None
            else:
                assert bounds == [field["default"], field["maximum"], field["description"]]


@needs_chromium
def test_no_more_tokens_can_be_asked_for_than_the_model_can_hold(tab: Tab, server: Server) -> None:
    assert tab.value("document.getElementById('max_new_tokens').max") == str(service_settings().max_new_tokens)
    server.context = 100
    tab.value("location.reload()")
    tab.until("document.getElementById('max_new_tokens')?.value === '99'")  # the default is 128
    assert tab.value("document.getElementById('max_new_tokens').max") == "99"
    tab.run()
    assert server.requests[-1]["max_new_tokens"] == 99


@needs_chromium
def test_while_there_is_no_champion_it_says_what_to_do_and_then_names_the_verdict(tab: Tab, server: Server) -> None:
    assert tab.value("document.getElementById('verdict').hidden") is True
    server.more = {"status": "waiting", "model": None, "models": [], "why": "there is no champion; run `fresh promote`"}
    tab.value("location.reload()")
    tab.until("document.getElementById('about')?.textContent === 'there is no champion; run `fresh promote`'")
    verdict = {"outcome": "refused", "reasons": ["It <i>loops</i>.", "It copies.", "Third."], "at": "2026-01-02"}
    server.more = {"verdict": verdict, "prompts": ["My card has not", "Another"]}
    tab.until("document.getElementById('about').textContent.startsWith('gpt2')")  # without a reload
    shown = tab.value("[document.getElementById('verdict').textContent, document.getElementById('verdict').className]")
    assert shown == ["Verdict: refused (2026-01-02). It <i>loops</i>. It copies.", "bad"]
    assert tab.value("document.getElementById('prompt').value") == "My card has not"  # of the model's own corpus
    tab.fill("prompt", "mine")
    tab.run()  # which asks for what is served again
    assert server.requests[-1]["prompt"] == tab.value("document.getElementById('prompt').value") == "mine"


@needs_chromium
def test_slider_and_box_move_together_and_defaults_come_back(tab: Tab, server: Server) -> None:
    tab.value("document.querySelector('#temperature').focus()")
    tab.press("Tab", shift=True)
    tab.press("ArrowRight")
    assert tab.value("document.getElementById('temperature').value") == "0.65"
    tab.fill("temperature", "4.5")
    assert tab.value("document.activeElement.previousSibling.value") == "2"  # the slider goes as far as is of use
    tab.run()
    assert server.requests[-1]["temperature"] == 4.5
    tab.value("document.querySelector('[type=reset]').click()")
    assert tab.value("document.getElementById('temperature').value") == "0.6"
    assert tab.value("document.getElementById('temperature').previousSibling.value") == "0.6"
    tab.until("document.getElementById('seed').value")


@needs_chromium
def test_the_keyboard_alone_types_runs_and_stops(tab: Tab, server: Server) -> None:
    tab.press("Tab")
    assert tab.value("document.activeElement.id") == "prompt"
    assert tab.value("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    tab.press("Tab")
    assert tab.value("document.activeElement.id") == "run"
    server.pause = 0.1
    tab.press(" ")
    tab.until("document.querySelector('.text')?.textContent")
    tab.press("Tab")
    assert tab.value("document.activeElement.id") == "stop"
    tab.press("Enter")
    tab.until("document.getElementById('state').textContent === 'Stopped.'")
    assert tab.value("document.activeElement.id") == "run"
    assert server.gone.wait(PATIENCE)


@needs_chromium
def test_every_control_has_a_name_and_the_text_is_announced_when_complete(tab: Tab, server: Server) -> None:
    server.pause = 0.1
    tab.press("Enter", control=True)
    tab.until("document.querySelector('.text')?.textContent")
    live = "[document.querySelector('.text').ariaLive, document.querySelector('.text').ariaBusy]"
    assert tab.value(live) == ["polite", "true"]
    tab.until("document.getElementById('state').textContent === 'Done.'")
    assert tab.value(live) == ["polite", "false"]
    nodes = tab("Accessibility.getFullAXTree")["nodes"]
    roles = {"button", "checkbox", "combobox", "slider", "spinbutton", "textbox"}
    named = [
        (node["role"]["value"], node["name"]["value"]) for node in nodes if node.get("role", {}).get("value") in roles
    ]
    assert {role for role, _ in named} == roles
    assert [role for role, name in named if not name] == []


@needs_chromium
def test_text_streams_in_and_stays_text(tab: Tab, server: Server) -> None:
    server.pause = 0.1
    tab.press("Enter", control=True)
    seen = []
    while tab.value("document.getElementById('state').textContent") != "Done.":
        seen.append(len("".join(tab.texts())))
    assert len(set(seen)) > 3
    assert seen == sorted(seen)
    [text] = tab.texts()
    sampling = {name: value for name, value in server.requests[0].items() if name != "stream"}
    assert text == f" {HOSTILE} {json.dumps(sampling, ensure_ascii=False)}"
    assert tab.value("document.querySelectorAll('img, .text *').length") == 0
    assert tab.value("document.title") == "Playground"
    assert tab.value("document.querySelectorAll('#refused *').length") == 0


@needs_chromium
def test_an_answer_has_version_times_speed_tokens_and_finish_reason(tab: Tab, server: Server) -> None:
    server.pause = 0.05
    tab.run()
    [figures] = tab.figures()
    assert list(figures) == ["version", "first token", "total", "speed", "tokens", "finish", "seed", "engine"]
    first, total = (float(figures[name].split()[0]) for name in ("first token", "total"))
    written = int(figures["tokens"].split()[2])
    assert 0.05 <= first < total
    assert float(figures["speed"].split()[0]) == pytest.approx(written / total, rel=0.02)
    assert figures["seed"] == str(server.requests[0]["seed"])
    assert (figures["version"], figures["finish"]) == ("version of None"[:12], "stopped at the limit")


@needs_chromium
def test_a_text_that_was_stopped_at_the_limit_is_continued_by_its_model_in_its_place(tab: Tab, server: Server) -> None:
    tab.run()
    [first], [request] = tab.texts(), server.requests
    tab.click("Continue")
    tab.until("document.getElementById('state').textContent === 'Done.'")
    assert server.requests[1] == {**request, "prompt": request["prompt"] + first}
    [both] = tab.texts()
    assert both.startswith(first)
    assert len(both) > 2 * len(first)
    server.finish = "stop"
    tab.run()
    assert tab.figures()[0]["finish"] == "stop"
    assert tab.value("document.querySelector('.continue').hidden")


@needs_chromium
def test_models_write_side_by_side_at_one_seed_and_those_that_are_not_there_are_not_offered(
    tab: Tab, server: Server
) -> None:
    assert tab.value("document.getElementById('models').hidden") is True
    server.models = ["0123456789ab", "champion", "previous", "base"]
    tab.run()  # looks again at its end
    tab.until("!document.getElementById('models').hidden")
    assert tab.value("[...document.querySelectorAll('#names label')].map(one => one.textContent)") == server.models[1:]
    tab.value("document.querySelectorAll('#names input').forEach(box => { if (!box.checked) box.click(); })")
    server.requests.clear()
    tab.run()
    assert [body["model"] for body in server.requests] == ["champion", "previous", "base"]
    assert len({body["seed"] for body in server.requests}) == 1
    assert [figures["version"] for figures in tab.figures()] == [
        f"version of {name}"[:12] for name in server.models[1:]
    ]
    boxes = tab.value("[...document.querySelectorAll('.column')].map(one => one.getBoundingClientRect().top)")
    assert len(set(boxes)) == 1
    tab.value("document.querySelectorAll('#names input').forEach(box => box.click())")
    tab.press("Enter", control=True)
    assert len(server.requests) == 3  # with no model chosen there is no run
    assert tab.value("document.querySelector('#names input').validationMessage") == "Choose a model."


@needs_chromium
def test_each_run_draws_a_seed_unless_it_is_kept(tab: Tab, server: Server) -> None:
    tab.run()
    tab.run()
    assert server.requests[0]["seed"] != server.requests[1]["seed"]
    tab.fill("seed", "4294967295")
    tab.value("document.getElementById('keep').click()")
    tab.run()
    tab.run()
    assert [body["seed"] for body in server.requests[2:]] == [4294967295] * 2
    tab.value("document.getElementById('draw').click()")
    assert tab.value("document.getElementById('seed').value") != "4294967295"


@needs_chromium
def test_stop_strings_stand_one_a_line_with_escapes(tab: Tab, server: Server) -> None:
    tab.fill("strings", "\\n\\n\n\nTHE END\n\\\\n\\x")
    tab.run()
    assert server.requests[0]["stop"] == ["\n\n", "THE END", "\\n\\x"]


@needs_chromium
def test_a_value_out_of_bounds_is_not_sent_and_shown_even_where_settings_are_closed(tab: Tab, server: Server) -> None:
    tab.fill("temperature", "-1")
    tab.value("document.getElementById('settings').open = false")
    tab.press("Enter", control=True)
    assert tab.value("document.getElementById('settings').open") is True
    assert tab.value("document.activeElement.id") == "temperature"
    assert server.requests == []


@needs_chromium
def test_escape_stops_and_the_text_so_far_stays(tab: Tab, server: Server) -> None:
    server.pause = 0.1
    server.models = ["champion", "base"]
    tab.value("refresh()")
    tab.until("document.querySelectorAll('#names input').length === 2")
    tab.value("document.querySelectorAll('#names input').forEach(box => { box.checked = true; })")
    tab.press("Enter", control=True)
    tab.until("document.querySelector('.text')?.textContent")
    tab.press("Escape")
    tab.until("document.getElementById('state').textContent === 'Stopped.'")
    assert server.gone.wait(PATIENCE)
    assert [figures["finish"] for figures in tab.figures()] == ["stopped by you"] * 2
    assert len(server.requests) == 1  # the second was never asked
    assert tab.texts()[0].startswith(" <img")


@needs_chromium
def test_running_again_ends_the_run_before(tab: Tab, server: Server) -> None:
    server.pause = 0.2
    tab.press("Enter", control=True)
    tab.until("document.querySelector('.text')?.textContent")
    server.pause = 0
    tab.run()
    assert server.gone.wait(PATIENCE)
    assert [figures["finish"] for figures in tab.figures()] == ["stopped at the limit"]
    assert tab.value("document.getElementById('stop').disabled") is True


@needs_chromium
@pytest.mark.parametrize(
    ("ending", "said"),
    [
        ("error", "the engine <i>broke</i>"),
        ("cut", "The text is incomplete: the stream ended without [DONE]."),
        ("refused", "the queue is full (try again in 7 s)"),
    ],
)
def test_an_error_is_shown_in_its_column(tab: Tab, server: Server, ending: str, said: str) -> None:
    server.ending = ending
    tab.run()
    assert tab.value("document.querySelector('.trouble').textContent") == said
    assert tab.value("document.querySelector('.trouble').hidden") is False
    assert bool(tab.texts()[0]) == (ending != "refused")


@needs_chromium
def test_a_server_that_is_gone_is_named_as_such(chromium: Tab) -> None:
    stand_in = Server()
    with listening(stand_in.app) as stand_in.url:
        chromium.visit(f"{stand_in.url}/playground")
        chromium.until("document.getElementById('about').textContent")
    chromium.run()
    assert "does not answer" in chromium.value("document.querySelector('.trouble').textContent")


@needs_chromium
def test_a_key_is_asked_for_when_the_server_does_and_kept_in_the_tab_alone(
    tab: Tab, server: Server, tmp_path: Path
) -> None:
    assert tab.value("document.getElementById('key-form').hidden") is True
    server.key = "sesame-key"
    tab.run()
    assert tab.value("[document.getElementById('key-form').hidden, document.activeElement.id]") == [False, "key"]
    assert "wants an API key" in tab.value("document.querySelector('.trouble').textContent")
    tab.type("sesame-key")
    tab.press("Enter")
    tab.until("document.getElementById('key-form').hidden")
    tab.run()
    assert tab.figures()[0]["finish"] == "stopped at the limit"
    assert tab.value("[JSON.stringify(sessionStorage), localStorage.length, document.cookie]") == [
        '{"api_key":"sesame-key"}', 0, "",
    ]  # fmt: skip
    for kind in ("curl", "httpx", "openai"):
        assert "sesame" not in tab.code(kind)
        assert "API_KEY" in tab.code(kind)
    text = tab.texts()[0]
    assert json.loads(in_shell(tab.code("curl"), tmp_path, API_KEY="sesame-key"))["text"] == text
    assert in_python(tab.code("httpx"), tmp_path, API_KEY="sesame-key") == text
    tab.visit(f"{server.url}/playground")
    tab.until("document.getElementById('about').textContent.startsWith('gpt2')")  # without being asked again


def in_shell(line: str, folder: Path, **more: str) -> str:
    """Return what a line prints in a bare POSIX shell."""
    environment = {"PATH": "/usr/bin:/bin", **more}
    done = subprocess.run(
        ["sh", "-c", line], cwd=folder, env=environment, capture_output=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.decode()


def in_python(code: str, folder: Path, **more: str) -> str:
    """Return what Python code prints, without the line's end."""
    (folder / "code.py").write_text(code, encoding="utf-8")
    command = [sys.executable, "-X", "utf8", "code.py"]
    done = subprocess.run(command, cwd=folder, env=more, capture_output=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode().removesuffix("\n")


@needs_chromium
@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_shown_code_repeats_the_request_and_gets_the_same_text(tab: Tab, server: Server, tmp_path: Path) -> None:
    tab.value(f"document.getElementById('prompt').value = {json.dumps(AWKWARD)}")
    tab.fill("strings", "'\\n\\n\n$(id)")
    tab.run()
    [text] = tab.texts()
    request = server.requests.pop()
    assert request["prompt"] == AWKWARD
    for line in (tab.code("curl"), tab.code("streamed"), tab.code("httpx")):
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f\u202e\u2028\U000e0041]", line)
    assert json.loads(in_shell(tab.code("curl"), tmp_path))["text"] == text
    events = in_shell(tab.code("streamed"), tmp_path).split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    assert "".join(json.loads(event.removeprefix("data: "))["text"] for event in events[:-2]) == text
    assert in_python(tab.code("httpx"), tmp_path) == text
    assert [{**body, "stream": True} for body in server.requests] == [request] * 3


@needs_chromium
def test_code_and_text_are_copied(tab: Tab, server: Server) -> None:
    allowed = ["clipboardReadWrite", "clipboardSanitizedWrite"]
    tab("Browser.grantPermissions", origin=server.url, permissions=allowed)
    tab.run()
    tab.code("curl")
    for button, shown in (("#copy", "#line"), (".copy-text", ".text")):
        tab.value(f"document.querySelector('{button}').focus()")
        tab.press("Enter")
        tab.until("document.getElementById('state').textContent === 'Copied.'")
        pasted = tab(
            "Runtime.evaluate", expression="navigator.clipboard.readText()", awaitPromise=True, returnByValue=True
        )
        assert pasted["result"]["value"] == tab.value(f"document.querySelector('{shown}').textContent")
    # Where there is no clipboard (plain HTTP from another machine), the page selects and copies.
    tab.value("Object.defineProperty(navigator, 'clipboard', {value: undefined, configurable: true})")
    tab(
        "Runtime.evaluate",
        expression="copy('', document.querySelector('#copy'), document.querySelector('#line'))",
        userGesture=True,
    )
    assert tab.value("getSelection().toString()") == tab.value("document.querySelector('#line').textContent")
    assert tab.value("document.getElementById('state').textContent") == "Copied."


@needs_chromium
def test_with_the_real_service_playground_and_docs_work_offline(chromium: Tab, checkout: Path, tmp_path: Path) -> None:
    with serving("service:ModelService", checkout, "/health") as real:
        chromium.visit(f"{real.url}/", 360)
        chromium.until("document.getElementById('about').textContent.includes('model')")
        chromium.value("document.getElementById('settings').open = true")  # closed on a phone
        chromium.fill("prompt", "Once upon a time")
        chromium.fill("max_new_tokens", "20")
        chromium.fill("seed", "1")  # with which the tiny model does not end at once
        chromium.value("document.getElementById('keep').click()")
        chromium.run()
        assert chromium.value("document.querySelector('.trouble').textContent") == ""
        [text], [figures] = chromium.texts(), chromium.figures()
        assert text, figures
        assert re.fullmatch("[0-9a-f]{12}", figures["version"])
        assert figures["finish"] in ("stop", "stopped at the limit")
        assert json.loads(in_shell(chromium.code("curl"), tmp_path))["text"] == text
        assert in_python(chromium.code("httpx"), tmp_path) == text
        assert in_python(chromium.code("openai"), tmp_path) == text
        assert chromium.hosts() == {real.url}
        assert chromium.complaints() == []
        chromium.visit(f"{real.url}/docs")
        chromium.until("document.querySelectorAll('.opblock').length > 3")
        shown = chromium.value("document.body.innerText")
        assert shown.startswith("Text generation")
        assert shown.index("/generate") < shown.index("/livez")
        assert chromium.hosts() == {real.url}
        assert chromium.complaints() == []
