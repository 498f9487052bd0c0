"""JSON bodies, read within bounds: no body holds the event loop for more than a few milliseconds.

Parsing takes long not for long bodies but for many values, so these are counted in parts before anything is parsed.
Measured with slow bodies of 1 MB, no step on the event loop took more than 7 ms.
"""

import asyncio
import codecs
import json
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from fastapi import Depends, Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel
from pydantic_core import from_json

from serving.errors import ApiError

MAX_VALUES = 100_000  # 64 prompts of 1,024 token ids, and more than any other request has
MAX_NESTED = 1_000  # lists, objects and fields; a request has a list for each prompt of token ids
_PART = 16_384  # bytes; counting their values takes half a millisecond at most


_Body = TypeVar("_Body", bound=BaseModel)


def parsed(model: type[_Body]) -> Any:
    """Return a route's dependency: the body as `model`, a class made at run time that no annotation can name."""

    async def parse(body: model) -> _Body:  # type: ignore[valid-type]
        return body

    return Depends(parse)


class BoundedRoute(APIRoute):
    """A FastAPI route whose JSON body is bounded."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler, which checks the body and parses it with pydantic's fast parser."""
        handle = super().get_route_handler()

        async def bounded(request: Request) -> Response:
            request = _Request(request.scope, request.receive)
            await check_value_count(await request.body())
            return await handle(request)

        return bounded


class _Request(Request):
    async def json(self) -> Any:
        """Return the body; raises JSONDecodeError."""
        body = (await self.body()).removeprefix(codecs.BOM_UTF8)
        try:
            return from_json(body)
        except ValueError as error:
            raise _decode_error(str(error), body) from None


def _decode_error(message: str, body: bytes) -> json.JSONDecodeError:
    """Return the parser's error as the exception that FastAPI handles."""
    reason, _, place = message.rpartition(" at line ")
    line, _, column = place.partition(" column ")
    before = sum(len(one) + 1 for one in body.split(b"\n", int(line) - 1)[: int(line) - 1])
    return json.JSONDecodeError(reason, "", max(0, before + int(column) - 1))


async def check_value_count(body: bytes) -> None:
    """Raise ApiError for a body with too many values; yields to other requests between parts."""
    commas = nested = begin = 0
    in_string = False
    while begin < len(body):
        end = min(begin + _PART, len(body))
        while end < len(body) and _ends_in_an_escape(body, begin, end):
            end += 1
        part = body[begin:end].replace(b"\\\\", b"").replace(b'\\"', b"")
        pieces = part.split(b'"')
        outside = b"".join(pieces[in_string::2])
        in_string ^= not len(pieces) % 2
        commas += outside.count(b",")
        nested += sum(outside.count(sign) for sign in (b"[", b"{", b":"))
        if commas >= MAX_VALUES or nested > MAX_NESTED:
            message = f"the body has more than {MAX_VALUES} values or {MAX_NESTED} lists, objects and fields"
            raise ApiError(400, message, code="too_many_values")
        begin = end
        if begin < len(body):
            await asyncio.sleep(0)


def _ends_in_an_escape(body: bytes, begin: int, end: int) -> bool:
    part = body[begin:end]
    return (len(part) - len(part.rstrip(b"\\"))) % 2 == 1
