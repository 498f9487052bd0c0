"""The page at /playground: one file that holds everything it needs and talks to this server only.

`playground.html` is the page of models that generate, `panel.html` that of models whose answer is shown as a whole.
Both get their style and what they share from files beside them.
"""

import json
import re
from pathlib import Path
from typing import Any

from fastapi.responses import HTMLResponse
from pydantic import BaseModel

from serving.http_rules import source_hash
from serving.schema import GenerateRequest


def response(body_type: type[GenerateRequest], timeout: float, *, rewrites: bool = False) -> HTMLResponse:
    """Return the page, with a policy under which it runs its own script and no other.

    Args:
        body_type: The body of POST /generate.
        timeout: Seconds for a whole request.
        rewrites: Whether the model rewrites its prompt, a source, rather than continue it.
    """
    return _response(page(body_type, timeout, rewrites=rewrites))


def panel(task: str, body_type: type[BaseModel]) -> HTMLResponse:
    """Return the page of a task, with the fields of its request's body in it.

    A task without a panel in `panel.html` gets one that asks for its texts and shows the answer as JSON.
    """
    return _response(panel_page(task, body_type))


def page(body_type: type[GenerateRequest], timeout: float, *, rewrites: bool = False) -> str:
    """Return the page, with the bounds, defaults and descriptions of the body of POST /generate in it."""
    settings = {"fields": body_type.model_json_schema()["properties"], "timeout": timeout, "rewrites": rewrites}
    return _assemble("playground.html", settings)


def panel_page(task: str, body_type: type[BaseModel]) -> str:
    """Return the page of a task, see `panel`."""
    return _assemble("panel.html", {"task": task, "fields": body_type.model_json_schema()["properties"]})


def _response(html: str) -> HTMLResponse:
    headers = {
        "Content-Security-Policy": policy(html),
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "no-cache",
        "Vary": "Accept",  # `/` is JSON for programs
    }
    return HTMLResponse(html, headers=headers)


def _assemble(name: str, settings: dict[str, Any]) -> str:
    data = json.dumps(settings).replace("<", "\\u003c")  # so that nothing in it closes its element
    parts = {"style": _read("playground.css").rstrip("\n"), "shared": _read("playground.js").rstrip("\n")}
    html = _read(name)
    for part, content in {**parts, "settings": data}.items():
        html = html.replace(f"{{{{ {part} }}}}", content)
    return html


def _read(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


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
