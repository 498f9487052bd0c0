"""Prefect's server behind a guard that refuses requests of other origins' web pages.

CORS and the CSRF check leave two gaps. Prefect accepts a WebSocket from any page, through which the page could read
every log and post events that start runs. And a page under a host name that resolves to 127.0.0.1 is same-origin.
"""

from pathlib import Path
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse, RedirectResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from flows.runtime.settings import is_local

_LOCAL = ("127.0.0.1", "localhost", "::1")


def app() -> ASGIApp:
    """Return the server; the factory for `uvicorn --factory`."""
    from prefect.settings import get_current_settings

    from flows.runtime import prefect_internals

    prefect_internals.use_immediate_transactions()
    server, cookie = prefect_internals.create_server(Path(__file__).with_name("no-ui-v2"))
    api = get_current_settings().server.api
    guarded = SingleUi(server, cookie)
    # A server that others can reach has a password, and its host names are not known here.
    return Guard(guarded, api.cors_allowed_origins.split(",")) if is_local(api.host) else guarded


class SingleUi:
    """Redirects links to the second UI to the first, and resets the cookie that chose the second."""

    def __init__(self, app: ASGIApp, cookie: str) -> None:
        """Wrap `app`; `cookie` is the name of the cookie that holds a browser's choice of UI."""
        self._app, self._cookie = app, cookie

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Redirect /v2 and the paths below it; pass everything else on."""
        if scope["type"] != "http" or scope["path"].split("/")[1] != "v2":
            await self._app(scope, receive, send)
            return
        response = RedirectResponse("/dashboard")
        response.set_cookie(self._cookie, "v1", max_age=365 * 24 * 3600, samesite="lax")
        await response(scope, receive, send)


class Guard:
    """Allows requests whose Host is this machine and whose Origin is absent or one of `origins`; answers others 403."""

    def __init__(self, app: ASGIApp, origins: list[str]) -> None:
        """Wrap `app`; `origins` are in the form that browsers send: http://127.0.0.1:4200."""
        self._app = app
        self._origins = origins
        self._hosts = {*_LOCAL, *(urlsplit(origin).hostname for origin in origins)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 403."""
        if scope["type"] == "lifespan" or self._is_allowed(Headers(scope=scope)):
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008})
        else:
            response = PlainTextResponse("requests from this origin are not allowed", status_code=403)
            await response(scope, receive, send)

    def _is_allowed(self, headers: Headers) -> bool:
        host = urlsplit(f"//{headers.get('host', '')}").hostname
        origin = headers.get("origin")
        return host in self._hosts and (origin is None or origin in self._origins)
