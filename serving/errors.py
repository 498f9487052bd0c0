"""One shape for every error, and no prompt in any log."""

import json
import logging
import traceback
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving import telemetry

logger = logging.getLogger("bentoml.serving")

_LONGEST_NAME = 100  # of a field that a caller made up
_MAX_ERRORS = 10  # that one answer reports


class ApiError(Exception):
    """An answer that is an error."""

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Say what is wrong in one sentence."""
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.headers = headers

    @property
    def body(self) -> dict[str, dict[str, str | None]]:
        """The one shape."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        if self.status == HTTPStatus.TOO_MANY_REQUESTS:
            kind = "rate_limit_error"
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def answer(self) -> JSONResponse:
        """Return the error as a response, and count it."""
        telemetry.count_error(self.status, self.code)
        return JSONResponse(self.body, status_code=self.status, headers=self.headers)


def error_for_status(status: int, headers: Mapping[str, str]) -> ApiError:
    """Return the error for a status and headers (names in small letters) about which nothing else is known."""
    allow = headers.get("allow", "")
    if "GET" in allow and "HEAD" not in allow:
        allow += ", HEAD"  # see serving/http_rules.py
    kept = {"allow": allow} if allow else {}
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        kept["retry-after"] = "1"
    messages = {
        HTTPStatus.BAD_REQUEST: "the body must be a JSON object in UTF-8",
        HTTPStatus.NOT_FOUND: "there is nothing at this path; GET / says what there is",
        HTTPStatus.METHOD_NOT_ALLOWED: f"this path answers {allow or 'other methods'} only",
        HTTPStatus.TOO_MANY_REQUESTS: "the service answers as many requests as it takes at once; come back later",
        HTTPStatus.INTERNAL_SERVER_ERROR: "something went wrong inside the service; its log says what",
        HTTPStatus.SERVICE_UNAVAILABLE: "the service is not ready",
        HTTPStatus.GATEWAY_TIMEOUT: "not done in time; ask for fewer tokens, or come back when there is less to do",
    }
    known = HTTPStatus(status)
    return ApiError(status, messages.get(known, known.phrase), code=known.name.lower(), headers=kept)


def install(app: FastAPI) -> None:
    """Make `app` answer errors in the one shape."""

    async def api_error(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, ApiError)
        return error.answer()

    async def http_error(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        headers = {name.lower(): value for name, value in (error.headers or {}).items()}
        return error_for_status(error.status_code, headers).answer()

    async def invalid_request(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        return _invalid(error).answer()

    app.add_exception_handler(ApiError, api_error)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(RequestValidationError, invalid_request)


def _invalid(error: RequestValidationError) -> ApiError:
    """Return which fields are wrong and how, without what was sent: it may be as long as it is private."""
    problems = error.errors()
    if problems[0]["type"] == "json_invalid":
        reason = problems[0]["ctx"]["error"]
        return ApiError(400, f"the body is not valid JSON: {reason} at character {problems[0]['loc'][-1]}", "bad_json")
    places = [_place(problem) for problem in problems[:_MAX_ERRORS]]
    if not places[0] and problems[0]["type"] != "too_many_fields":
        return ApiError(400, "the body must be a JSON object, sent with Content-Type: application/json", "bad_body")
    messages = [f"{place or 'the body'}: {_reason(problem)}" for place, problem in zip(places, problems, strict=False)]
    return ApiError(400, "; ".join(messages), code=problems[0]["type"], param=_text(_names(problems[0])) or None)


def _place(problem: dict[str, Any]) -> str:
    """Return the dotted path of the value that `problem` is about; empty when it is the whole body."""
    path = problem["loc"][1:]
    return _text([part for part in path if isinstance(part, int) or part in _names(problem)])


def _names(problem: dict[str, Any]) -> list[str]:
    """Return the field that `problem` is about, after those that it is in; pydantic names branches of unions too."""
    path = problem["loc"][1:]
    unknown = path[-1:] if problem["type"] == "extra_forbidden" else ()
    return [part for part in path if isinstance(part, str) and (part.isidentifier() or part in unknown)]


def _text(path: Sequence[str | int]) -> str:
    name = ".".join(str(part) for part in path)
    return name[:_LONGEST_NAME].encode(errors="replace").decode()


def _reason(problem: dict[str, Any]) -> str:
    if problem["type"] == "extra_forbidden":
        return "unknown field"
    message: str = problem["msg"]
    return message.replace("Input should", "it should")


class ErrorFormatMiddleware:
    """ASGI middleware: gives BentoML's own errors the one shape, and logs a crash without its message.

    A message may quote a prompt, so a crash is logged as its kind and where it happened.
    """

    def __init__(self, app: ASGIApp) -> None:
        """Wrap `app`."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False
        error: Message | None = None
        body = b""

        async def shaped(message: Message) -> None:
            nonlocal started, error, body
            if message["type"] == "http.response.start" and message["status"] >= 400:
                error = message
            elif error is None:
                started = True
                await send(message)
            else:
                body += message.get("body", b"")
                if not message.get("more_body"):
                    started = True
                    if _has_the_shape(body):
                        await send(error)
                        await send({"type": "http.response.body", "body": body})
                    else:
                        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in error["headers"]}
                        await error_for_status(error["status"], headers).answer()(scope, receive, send)

        try:
            await self._app(scope, receive, shaped)
        except Exception as crash:
            log_crash(crash)
            if not started:
                await error_for_status(500, {}).answer()(scope, receive, send)


def log_crash(crash: Exception) -> None:
    """Log what kind it is and where it happened; its message may quote a prompt."""
    where = "".join(traceback.format_tb(crash.__traceback__))
    logger.error("%s at\n%s", type(crash).__name__, where)


def _has_the_shape(body: bytes) -> bool:
    """Return whether `body` is an error as we answer it; BentoML's are plain text, or JSON with a sentence in it."""
    try:
        content = json.loads(body)
    except ValueError:
        return False
    return isinstance(content, dict) and isinstance(content.get("error"), dict)
