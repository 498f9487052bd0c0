"""Builds the page of `dvc plots show`, and the notices of what it bundles, from an installation by npm.

    npm install --prefix vega vega vega-lite vega-embed && python -m deploy.plots_page vega/node_modules

DVC's own page loads Vega from a CDN and is blank without a network; this one holds it.
"""

import json
import re
from pathlib import Path
from typing import Any

from pipeline.command import UserError, arg_parser, run

PAGE, NOTICES = Path(".dvc/plots/template.html"), Path(".dvc/plots/LICENSE-vega")
BUNDLED = ("vega", "vega-lite", "vega-embed")
_HEAD = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
{refresh_tag}
<title>Plots</title>
<!--
The page of `dvc plots show` (plots.html_template in .dvc/config), made by deploy/plots_page.py. It holds
VERSIONS
as npm has them. The licences of these and of all that they bundle are in LICENSE-vega beside this file.
-->
<style>
  body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem; color: #1c2733; }
  body > div { margin-bottom: 2rem; }
</style>
"""
_TAIL = "</head>\n<body>\n{plot_divs}\n</body>\n</html>\n"


def page(modules: Path) -> str:
    """Return the page, with the scripts of an npm installation's `node_modules`."""
    versions = [f"{name} {_package(modules / name)['version']}" for name in BUNDLED]
    scripts = [(modules / name / "build" / f"{name}.min.js").read_text(encoding="utf-8") for name in BUNDLED]
    if any("</script" in script for script in scripts):
        raise UserError("one of the scripts holds </script, which ends it in a page; escape it here first")
    bodies = [re.sub(r"\n//# sourceMappingURL=.*", "", script).strip() for script in scripts]
    return (
        _HEAD.replace("VERSIONS", ", ".join(versions))
        + "".join(f"<script>\n{body}\n</script>\n" for body in bodies)
        + _TAIL
    )


def notices(modules: Path) -> str:
    """Return name, version and licence of each package that the scripts are made of, found by what depends on what."""
    parts = []
    for name, package in sorted(_closure(modules).items()):
        texts = sorted(
            path for path in (modules / name).glob("*") if re.match(r"(?i)(licen[cs]e|copying|notice)", path.name)
        )
        text = "\n".join(path.read_text(encoding="utf-8").strip() for path in texts)
        title = f"{name} {package['version']} ({package['license']})"
        stated = text or f"The package holds no text of its licence, and states: {package['license']}."
        parts.append(f"{title}\n{'=' * len(title)}\n{stated}\n")
    return "\n".join(parts)


def _closure(modules: Path) -> dict[str, dict[str, Any]]:
    """Return the packages that the bundled ones depend on, and these; not the types, which no script holds."""
    found: dict[str, dict[str, Any]] = {}
    todo = list(BUNDLED)
    while todo:
        name = todo.pop()
        if name not in found and not name.startswith("@types/"):
            found[name] = _package(modules / name)
            todo += found[name].get("dependencies", {})
    return found


def _package(folder: Path) -> dict[str, Any]:
    try:
        package: dict[str, Any] = json.loads((folder / "package.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{folder} is not there; install it: npm install --prefix vega {' '.join(BUNDLED)}") from None
    return package


def main() -> None:
    """Write the page and the notices."""
    parser = arg_parser()
    parser.add_argument("modules", type=Path, metavar="NODE_MODULES", help="the folder into which npm installed them")
    modules = parser.parse_args().modules
    PAGE.write_text(page(modules), encoding="utf-8")
    NOTICES.write_text(notices(modules), encoding="utf-8")


if __name__ == "__main__":
    run(main)
