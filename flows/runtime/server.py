"""Prefect's server behind a guard: web pages of other origins are refused before they reach it.

CORS and the CSRF check do not cover all: Prefect accepts a WebSocket from any page, through which it could read every
log and post events that start runs, and a name that some other host makes point to 127.0.0.1 has a page's own origin.
"""

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse, RedirectResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from flows.runtime.settings import is_local

_LOCAL = ("127.0.0.1", "localhost", "::1")


def app() -> ASGIApp:
    """Return the server, as `uvicorn --factory` wants it."""
    import prefect
    from prefect.server.api.server import UI_VERSION_COOKIE_NAME, create_app
    from prefect.settings import get_current_settings

    from flows.runtime.prefect_internals import lock_before_reading

    lock_before_reading()
    # Prefect mounts its second UI even where it is switched off, offers it in a banner, and remembers a click in a
    # cookie that then leads every visit there. Without its files it is not mounted: no banner, the cookie is ignored.
    prefect.__ui_v2_static_path__ = Path(__file__).with_name("no second UI")
    api = get_current_settings().server.api
    server: Any = FirstUi(create_app(final=True), UI_VERSION_COOKIE_NAME)
    # Where others reach it, it has a password, and we cannot know the names that it goes by.
    return Guard(server, api.cors_allowed_origins.split(",")) if is_local(api.host) else server


class FirstUi:
    """Leads links to the second UI, which calls an analytics host, to the first one, and resets the choice of it."""

    def __init__(self, app: ASGIApp, cookie: str) -> None:
        """Keep the app, and the name of the cookie that holds which UI a browser wants."""
        self._app, self._cookie = app, cookie

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Redirect /v2 and what is below it; pass on the rest."""
        if scope["type"] != "http" or scope["path"].split("/")[1] != "v2":
            await self._app(scope, receive, send)
            return
        answer = RedirectResponse("/dashboard")
        answer.set_cookie(self._cookie, "v1", max_age=365 * 24 * 3600, samesite="lax")
        await answer(scope, receive, send)


class Guard:
    """Lets in what names this machine as the host and comes from no web page, or from one of `origins`."""

    def __init__(self, app: ASGIApp, origins: list[str]) -> None:
        """Keep the app, and the origins as the browser writes them: http://127.0.0.1:4200."""
        self._app = app
        self._origins = origins
        self._hosts = {*_LOCAL, *(urlsplit(origin).hostname for origin in origins)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass it on, or answer 403."""
        if scope["type"] == "lifespan" or self._is_welcome(Headers(scope=scope)):
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008})
        else:
            await PlainTextResponse("not from there", status_code=403)(scope, receive, send)

    def _is_welcome(self, headers: Headers) -> bool:
        host = urlsplit(f"//{headers.get('host', '')}").hostname
        origin = headers.get("origin")
        return host in self._hosts and (origin is None or origin in self._origins)
