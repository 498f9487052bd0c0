"""What a connection may do, against a real uvicorn: each bound, and each part of uvicorn that the bounds rely on."""

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httptools
import pytest
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import PlainTextResponse
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp

from serving import http_server
from tests.serving.conftest import service_settings

GET = b"GET /path HTTP/1.1\r\nHost: localhost\r\n"
POST = b"POST /length HTTP/1.1\r\nHost: localhost\r\n"


def app() -> FastAPI:
    made = FastAPI(docs_url=None, openapi_url=None)
    made.state.going = asyncio.Event()

    @made.get("/{path}")
    async def path(path: str, request: Request) -> dict[str, Any]:
        return {"path": path, "headers": len(request.headers), "client": request.client and request.client.host}

    @made.get("/wait/{number}")
    async def wait(number: int) -> int:
        await made.state.going.wait()
        return number

    @made.exception_handler(ClientDisconnect)
    async def gone(_: Request, __: Exception) -> PlainTextResponse:
        return PlainTextResponse("nobody reads this")

    @made.get("/large/answer")
    async def large() -> PlainTextResponse:
        return PlainTextResponse("x" * 20_000_000)

    @made.post("/length")
    async def length(request: Request) -> dict[str, Any]:
        return {"length": len(await request.body()), "trailer": request.headers.get("x-trailer")}

    return made


@contextmanager
def serving(asgi: ASGIApp | None = None, **limits: Any) -> Iterator[tuple[int, uvicorn.Server]]:
    """Serve on a free port, as BentoML's worker does, until the end of the block."""
    with pytest.MonkeyPatch.context() as patch, socket.socket() as listening:
        patch.setattr(uvicorn, "Config", uvicorn.Config)  # restored at the end
        limit_shutdown = http_server.install(service_settings(**limits))
        config = uvicorn.Config(app=asgi or app(), log_config=None, timeout_keep_alive=60, timeout_graceful_shutdown=60)
        limit_shutdown(1)
        assert config.timeout_graceful_shutdown == 1
        server = uvicorn.Server(config)
        listening.bind(("127.0.0.1", 0))
        port = int(listening.getsockname()[1])
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        listening.listen()
        thread.start()
        try:
            yield port, server
        finally:
            server.should_exit = True
            thread.join(300)


@contextmanager
def connected(port: int) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port), timeout=300) as connection:
        yield connection


def received(connection: socket.socket) -> bytes:
    """Return all that comes until the server closes the connection."""
    parts = []
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(65_536):
            parts.append(part)
    return b"".join(parts)


def exchange(port: int, *parts: bytes) -> bytes:
    """Send the parts; return all that comes back until the server closes the connection."""
    with connected(port) as connection:
        for part in parts:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.sendall(part)
        return received(connection)


def error(answer: bytes) -> tuple[int, str]:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"connection: close" in head
    content = json.loads(body)["error"]
    assert set(content) == {"message", "type", "param", "code"}
    return int(head.split()[1]), content["code"]


CLOSE = b"Connection: close\r\n\r\n"


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with serving() as (port, _):
        yield port


@pytest.mark.parametrize(
    "head",
    [
        [GET, b"X-Long: " + b"a" * 70_000],
        [GET, *[b"X-Long: " + b"a" * 7_000 + b"\r\n"] * 10],
        [b"GET /" + b"a" * 70_000],
        [GET, *[b"a: b\r\n"] * 110],
        [GET, b"X-Endless: ", *[b"a" * 100_000] * 50],  # far more than is read before the answer
    ],
)
def test_a_head_that_is_too_large_is_refused_and_the_connection_closed(port: int, head: list[bytes]) -> None:
    assert error(exchange(port, *head)) == (431, "head_too_large")


def test_a_head_just_within_the_bound_is_answered(port: int) -> None:
    answer = exchange(port, GET + b"X-Long: " + b"a" * 65_000 + b"\r\n" + CLOSE)
    assert answer.startswith(b"HTTP/1.1 200")
    assert exchange(port, GET + b"".join(b"X-%d: b\r\n" % n for n in range(97)) + CLOSE).startswith(b"HTTP/1.1 200")


def test_a_body_does_not_count_as_head_however_it_arrives(port: int) -> None:
    body = b"x" * 200_000
    whole = POST + b"Content-Length: 200000\r\n" + CLOSE + body
    assert b'"length":200000' in exchange(port, whole)
    assert b'"length":200000' in exchange(port, *(whole[at : at + 1_000] for at in range(0, len(whole), 1_000)))
    chunks = b"10\r\n" + b"x" * 16 + b"\r\n"
    chunked = POST + b"Transfer-Encoding: chunked\r\n" + CLOSE + chunks * 12_500 + b"0\r\n\r\n"
    assert b'"length":200000' in exchange(port, chunked)


def test_trailers_are_bounded_and_are_no_headers(port: int) -> None:
    chunked = POST + b"Transfer-Encoding: chunked\r\n" + CLOSE + b"1\r\nx\r\n0\r\n"
    assert b'{"length":1,"trailer":null}' in exchange(port, chunked + b"X-Trailer: a\r\n\r\n")
    for endless in ([b"X-Trailer: a\r\n" * 1_000] * 100, [b"X-Trailer: ", *[b"a" * 10_000] * 100]):
        assert error(exchange(port, chunked, *endless)) == (431, "head_too_large")


def test_invalid_http_is_refused_in_the_usual_format(port: int) -> None:
    for nonsense in (
        b"nonsense\r\n\r\n",
        GET + b"Content-Length: -1\r\n\r\n",
        b"\x16\x03\x01\x02",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ):
        assert error(exchange(port, nonsense)) == (400, "bad_http")
    broken = exchange(port, POST + b"Transfer-Encoding: chunked\r\n\r\n", b"no length\r\n")
    assert error(broken) == (400, "bad_http")


FAULT_IN_A_BODY = POST + b"Transfer-Encoding: chunked\r\n\r\nno length\r\n"


@pytest.mark.parametrize("fault", [b"nonsense\r\n\r\n", FAULT_IN_A_BODY, GET + b"\r\n" + FAULT_IN_A_BODY])
def test_a_fault_behind_a_request_that_runs_ends_the_connection_after_the_answers_before_it(
    fault: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    made = app()
    with serving(made) as (port, server), connected(port) as connection:
        connection.sendall(b"GET /wait/7 HTTP/1.1\r\nHost: localhost\r\n\r\n" + fault)
        wait_for(lambda: bool(server.server_state.tasks))
        made.state.going.set()
        answer = received(connection)
    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.count(b"HTTP/1.1 200") == answer.count(b"HTTP/1.1") == 1 + fault.count(GET)
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


@pytest.mark.parametrize("offer", [b"h2c", b"websocket", b"anything"])
def test_an_offer_of_another_protocol_is_declined_and_the_request_answered_with_its_body(
    port: int, offer: bytes
) -> None:
    upgrade = b"Connection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\nUpgrade: " + offer
    request = POST + upgrade + b"\r\nContent-Length: 5\r\n\r\nhello"
    again = POST + b"Content-Length: 3\r\n" + CLOSE + b"bye"
    for parts in ([request + again], [request[:-5], request[-5:], again], [request[:-3], request[-3:] + again]):
        answer = exchange(port, *parts)
        assert answer.count(b"HTTP/1.1 200") == 2
        assert b'"length":5' in answer
        assert b'"length":3' in answer
    assert error(exchange(port, b"CONNECT a.example:80 HTTP/1.1\r\nHost: a.example\r\n\r\n"))[0] in (400, 405)


def test_a_slow_head_times_out_and_an_idle_connection_is_closed() -> None:
    with serving(head_seconds=1.5) as (port, _), ThreadPoolExecutor(4) as pool:
        sent = ([GET], [], [b"\r\n"], [GET + b"\r\n", GET])
        slow, idle, newlines, after_a_request = pool.map(lambda parts: exchange(port, *parts), sent)
        assert error(slow) == (408, "head_timeout")
        assert idle == b""
        assert newlines == b""  # what may stand before a request is none
        assert after_a_request.startswith(b"HTTP/1.1 200")
        assert after_a_request.count(b"HTTP/1.1 408") == 1


def test_a_request_may_take_longer_than_a_head() -> None:
    made = app()
    with serving(made, head_seconds=1.5) as (port, server), connected(port) as connection:
        connection.sendall(b"GET /wait/7 HTTP/1.1\r\nHost: localhost\r\n" + CLOSE)
        wait_for(lambda: bool(server.server_state.tasks))
        with connected(port) as other:  # which has been closed by the time that the first is answered
            assert received(other) == b""
        made.state.going.set()
        assert received(connection).endswith(b"7")


def test_above_the_bound_of_connections_the_one_that_waited_longest_is_closed() -> None:
    made = app()
    with serving(made, max_connections=3, head_seconds=600) as (port, server), contextlib.ExitStack() as stack:
        running = stack.enter_context(connected(port))
        running.sendall(b"GET /wait/7 HTTP/1.1\r\nHost: localhost\r\n" + CLOSE)
        wait_for(lambda: bool(server.server_state.tasks))
        idle, slow = stack.enter_context(connected(port)), stack.enter_context(connected(port))
        slow.sendall(GET)
        wait_for(lambda: len(server.server_state.connections) == 3)
        assert exchange(port, GET + CLOSE).startswith(b"HTTP/1.1 200")
        assert received(idle) == b""
        others = [stack.enter_context(connected(port)) for _ in range(2)]
        for other in others:
            other.sendall(b"GET /wait/8 HTTP/1.1\r\nHost: localhost\r\n" + CLOSE)
        wait_for(lambda: len(server.server_state.tasks) == 3)
        assert received(slow) == b""
        assert error(exchange(port)) == (503, "too_many_connections")
        made.state.going.set()
        assert received(running).endswith(b"7")
        assert all(received(other).endswith(b"8") for other in others)


def test_requests_that_are_sent_ahead_are_bounded(port: int) -> None:
    few = exchange(port, (GET + b"\r\n") * 10 + GET + CLOSE)
    assert few.count(b"HTTP/1.1 200") == 11
    many = exchange(port, (GET + b"\r\n") * 1_000)
    assert 1 < many.count(b"HTTP/1.1 200") < 30


def test_a_client_that_does_not_read_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "STALLED_SECONDS", 0.2)
    with serving() as (port, server), connected(port) as connection:
        connection.sendall(b"GET /large/answer HTTP/1.1\r\nHost: localhost\r\n\r\n")
        wait_for(lambda: server.server_state.total_requests > 0 and not server.server_state.connections)
        assert len(received(connection)) < 20_000_000


def test_uvicorn_ignores_forwarded_headers(port: int) -> None:
    assert b'"client":"127.0.0.1"' in exchange(port, GET + b"X-Forwarded-For: 203.0.113.7\r\n" + CLOSE)


def test_httptools_says_where_an_offer_of_another_protocol_ends() -> None:
    parser = httptools.HttpRequestParser(object())
    request = GET + b"Connection: upgrade\r\nUpgrade: h2c\r\n\r\n"
    with pytest.raises(httptools.HttpParserUpgrade) as upgrade:
        parser.feed_data(request + b"rest")
    assert upgrade.value.args[0] == len(request)


def wait_for(condition: Any) -> None:
    """Wait until `condition` holds."""
    event = threading.Event()
    for _ in range(6_000):
        if condition():
            return
        event.wait(0.01)
    raise AssertionError("it did not come about")
