"""HTTP rules of every route: HEAD wherever GET is, a valid Host, and headers that restrict browsers."""

import base64
import hashlib
import re

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.errors import ApiError

# uri-host [":" port] of RFC 9110, 7.2: a name, an IPv4 address, or an IPv6 address in brackets.
_HOST = re.compile(r"(?:\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._~!$&'()*+,;=%-]{0,255})(?::\d{0,5})?")
_RESTRICTED = ("default-src 'none'", "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'")


def policy(html: str, *sources: str) -> str:
    """Return a Content-Security-Policy that allows the inline scripts of `html`, and further `sources`."""
    hashes = " ".join(map(source_hash, re.findall("<script>(.*?)</script>", html, re.DOTALL)))
    return "; ".join((*_RESTRICTED, f"script-src 'self' {hashes}".rstrip(), "connect-src 'self'", *sources))


def source_hash(text: str) -> str:
    """Return the source expression of an inline script or style (https://www.w3.org/TR/CSP3/#match-element-to-source-list)."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def wants_page(scope: Scope) -> bool:
    """Return whether a request for `/` comes from a browser: it accepts text/html, and not application/json."""
    accept = ",".join(Headers(scope=scope).getlist("accept")).lower()
    return scope["path"] == "/" and "text/html" in accept and "application/json" not in accept


class HttpRulesMiddleware:
    """ASGI middleware in front of all routes."""

    def __init__(self, app: ASGIApp) -> None:
        """Wrap `app`."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        head = scope["method"] == "HEAD"

        async def send_restricted(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.setdefault("X-Content-Type-Options", "nosniff")
                if headers.get("content-type", "").startswith("text/html"):
                    headers.setdefault("Content-Security-Policy", "; ".join(_RESTRICTED))
            elif head and message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        hosts = Headers(scope=scope).getlist("host")
        if len(hosts) > 1 or not all(map(_HOST.fullmatch, hosts)):
            error = ApiError(400, "the Host header is not valid", code="bad_host")
            await error.answer()(scope, receive, send_restricted)
        else:
            await self._app({**scope, "method": "GET"} if head else scope, receive, send_restricted)
