"""Every error in the same JSON format, and no prompt in any log."""

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

from serving import metrics

logger = logging.getLogger("bentoml.serving")

_MAX_NAME_LENGTH = 100  # of a field that the caller made up
_ABOUT_FIELDS = ("too_many_fields", "one_of")  # problems of a whole body that is an object
_MAX_PROBLEMS = 10  # that one answer reports


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
        """Take the HTTP status and one sentence that says what is wrong."""
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.headers = headers

    @property
    def body(self) -> dict[str, dict[str, str | None]]:
        """The JSON body."""
        error_type = "server_error" if self.status >= 500 else "invalid_request_error"
        if self.status == HTTPStatus.TOO_MANY_REQUESTS:
            error_type = "rate_limit_error"
        return {"error": {"message": self.message, "type": error_type, "param": self.param, "code": self.code}}

    def answer(self) -> JSONResponse:
        """Return the error as a response, and count it."""
        metrics.count_error(self.status, self.code)
        return JSONResponse(self.body, status_code=self.status, headers=self.headers)


def error_for_status(status: int, headers: Mapping[str, str]) -> ApiError:
    """Return the error for a status and headers (lower-case names) about which nothing else is known."""
    allow = headers.get("allow", "")
    if "GET" in allow and "HEAD" not in allow:
        allow += ", HEAD"  # see serving/http_rules.py
    kept = {"allow": allow} if allow else {}
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        kept["retry-after"] = "1"
    messages = {
        HTTPStatus.BAD_REQUEST: "the body must be a JSON object in UTF-8",
        HTTPStatus.NOT_FOUND: "there is no route at this path; see GET /",
        HTTPStatus.METHOD_NOT_ALLOWED: f"this path supports {allow or 'other methods'} only",
        HTTPStatus.TOO_MANY_REQUESTS: "the service is busy; try again later",
        HTTPStatus.INTERNAL_SERVER_ERROR: "the service failed; see its log",
        HTTPStatus.SERVICE_UNAVAILABLE: "the service is not ready",
        HTTPStatus.GATEWAY_TIMEOUT: "the request took too long; ask for fewer tokens, or try again later",
    }
    known = HTTPStatus(status)
    return ApiError(status, messages.get(known, known.phrase), code=known.name.lower(), headers=kept)


def install(app: FastAPI) -> None:
    """Make `app` answer errors in this format."""

    async def api_error(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, ApiError)
        return error.answer()

    async def http_error(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        headers = {name.lower(): value for name, value in (error.headers or {}).items()}
        return error_for_status(error.status_code, headers).answer()

    async def validation_error(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        return _from_validation(error).answer()

    app.add_exception_handler(ApiError, api_error)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(RequestValidationError, validation_error)


def _from_validation(error: RequestValidationError) -> ApiError:
    """Return which fields are wrong and how, without their values: these may be long and private."""
    problems = error.errors()
    if problems[0]["type"] == "json_invalid":
        reason = problems[0]["ctx"]["error"]
        return ApiError(400, f"the body is not valid JSON: {reason} at character {problems[0]['loc'][-1]}", "bad_json")
    places = [_place(problem) for problem in problems[:_MAX_PROBLEMS]]
    if not places[0] and problems[0]["type"] not in _ABOUT_FIELDS:
        return ApiError(400, "the body must be a JSON object, sent with Content-Type: application/json", "bad_body")
    messages = [f"{place or 'the body'}: {_reason(problem)}" for place, problem in zip(places, problems, strict=False)]
    return ApiError(400, "; ".join(messages), code=problems[0]["type"], param=_joined(_names(problems[0])) or None)


def _place(problem: dict[str, Any]) -> str:
    """Return the dotted path of the value that `problem` is about; empty for the whole body."""
    path = problem["loc"][1:]
    return _joined([part for part in path if isinstance(part, int) or part in _names(problem)])


def _names(problem: dict[str, Any]) -> list[str]:
    """Return the names on the path to a field; pydantic's path also names branches of unions."""
    path = problem["loc"][1:]
    unknown = path[-1:] if problem["type"] == "extra_forbidden" else ()
    return [part for part in path if isinstance(part, str) and (part.isidentifier() or part in unknown)]


def _joined(path: Sequence[str | int]) -> str:
    name = ".".join(str(part) for part in path)
    return name[:_MAX_NAME_LENGTH].encode(errors="replace").decode()


def _reason(problem: dict[str, Any]) -> str:
    if problem["type"] == "extra_forbidden":
        return "unknown field"
    message: str = problem["msg"]
    return message.replace("Input should", "it should")


class ErrorFormatMiddleware:
    """ASGI middleware: formats BentoML's own errors like ours, and logs a crash without its message.

    A message may quote a prompt, so only the type and the traceback of a crash are logged.
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

        async def send_formatted(message: Message) -> None:
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
                    if _is_formatted(body):
                        await send(error)
                        await send({"type": "http.response.body", "body": body})
                    else:
                        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in error["headers"]}
                        await error_for_status(error["status"], headers).answer()(scope, receive, send)

        try:
            await self._app(scope, receive, send_formatted)
        except Exception as crash:
            log_crash(crash)
            if not started:
                await error_for_status(500, {}).answer()(scope, receive, send)


def log_crash(crash: Exception) -> None:
    """Log its type and where it happened, without its message, which may quote a prompt."""
    where = "".join(traceback.format_tb(crash.__traceback__))
    logger.error("%s at\n%s", type(crash).__name__, where)


def _is_formatted(body: bytes) -> bool:
    """Return whether `body` is in our format; BentoML's errors are plain text, or JSON with a string in it."""
    try:
        content = json.loads(body)
    except ValueError:
        return False
    return isinstance(content, dict) and isinstance(content.get("error"), dict)
