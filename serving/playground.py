"""The page at /playground: one file that holds everything it needs and talks to this server only."""

import json
import re
from pathlib import Path

from fastapi.responses import HTMLResponse

from serving.http_rules import source_hash
from serving.schema import GenerateRequest

_PLACEHOLDER = "{{ settings }}"


def response(body_type: type[GenerateRequest], timeout: float) -> HTMLResponse:
    """Return the page, with a policy under which it runs its own script and no other."""
    html = page(body_type, timeout)
    headers = {
        "Content-Security-Policy": policy(html),
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "no-cache",
        "Vary": "Accept",  # `/` is JSON for programs
    }
    return HTMLResponse(html, headers=headers)


def page(body_type: type[GenerateRequest], timeout: float) -> str:
    """Return the page, with the bounds, defaults and descriptions of the body of POST /generate in it."""
    settings = {"fields": body_type.model_json_schema()["properties"], "timeout": timeout}
    data = json.dumps(settings).replace("<", "\\u003c")  # so that nothing in it closes its element
    return Path(__file__).with_name("playground.html").read_text(encoding="utf-8").replace(_PLACEHOLDER, data)


def policy(html: str) -> str:
    """Return the Content-Security-Policy of a page: its own style, script and server, and no HTML from text."""
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
