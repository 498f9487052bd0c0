"""The Jinja environment that renders every HTML page: templates from `templates/`, all values escaped.

Every page extends `base` and draws with the macros of `charts`; neither needs an import in the template.
"""

from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from pipeline import escape
from pipeline.reporting import formatting


def render(template: str, **context: Any) -> str:
    """Return the page made from a file in `templates/`; equal for an equal context."""
    return _environment().get_template(template).render(context)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("pipeline.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=escape.finalize,
    )
    environment.filters |= {
        "bytes": formatting.byte_size,
        "count": "{:,}".format,
        "figure": formatting.figure,
        "number": formatting.number,
        "percent": formatting.percent,
        "rounded": formatting.rounded,
    }
    environment.globals |= {"number": formatting.number, "percent": formatting.percent, "zip": zip}
    # Named here, so that `pipeline.stage_deps` finds them for every stage that renders a page.
    environment.globals["base"] = environment.get_template("base.html")
    environment.globals["charts"] = environment.get_template("charts.html").module
    return environment
