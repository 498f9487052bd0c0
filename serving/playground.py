"""The page at /playground: one file that holds all it needs and speaks to this server only."""

import json
import re
from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import HTMLResponse

from serving.http_rules import source_hash
from serving.schema import GenerateRequest
from serving.settings import LIMITS

_PLACE = "{{ settings }}"


def response() -> HTMLResponse:
    """Return the page, with a policy under which it runs its own script and no other."""
    html = page()
    headers = {
        "Content-Security-Policy": policy(html),
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "no-cache",
        "Vary": "Accept",  # `/` is JSON for programs
    }
    return HTMLResponse(html, headers=headers)


def router() -> APIRouter:
    """Return the route GET /playground."""
    shown = response()
    routes = APIRouter()

    @routes.get("/playground", include_in_schema=False)
    async def playground() -> HTMLResponse:
        """Show the page."""
        return shown

    return routes


def page() -> str:
    """Return the page, with the bounds, defaults and descriptions of the schema of POST /generate in it."""
    settings = {"fields": GenerateRequest.model_json_schema()["properties"], "timeout": LIMITS.timeout}
    data = json.dumps(settings).replace("<", "\\u003c")  # so that nothing in it ends its element
    return Path(__file__).with_name("playground.html").read_text(encoding="utf-8").replace(_PLACE, data)


def policy(html: str) -> str:
    """Return the Content-Security-Policy of a page: its own style and script, its own server, and no HTML from text."""
    [script], [style] = (re.findall(f"<{tag}>(.*?)</{tag}>", html, re.DOTALL) for tag in ("script", "style"))
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src {source_hash(script)}",
            f"style-src {source_hash(style)}",
            "connect-src 'self'",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",
            "trusted-types 'none'",
        )
    )
