"""Build the page of `dvc plots show`, and the notices of what it bundles, from an npm installation.

    npm install --prefix vega vega vega-lite vega-embed && python -m deploy.plots_page vega/node_modules

DVC's own page loads Vega from a CDN and is blank without a network; this one includes it.
"""

import json
import re
from pathlib import Path
from typing import Any

from pipeline.command import UserError, arg_parser, run
from pipeline.reporting.pages import render

PAGE, NOTICES = Path(".dvc/plots/template.html"), Path(".dvc/plots/LICENSE-vega")
BUNDLED = ("vega", "vega-lite", "vega-embed")


def page(modules: Path) -> str:
    """Return the page with the scripts in `modules`, the `node_modules` of an npm installation."""
    versions = [f"{name} {_package(modules / name)['version']}" for name in BUNDLED]
    scripts = [_script(modules / name / "build" / f"{name}.min.js") for name in BUNDLED]
    return render("plots.html", versions=", ".join(versions), scripts=scripts) + "\n"


def _script(path: Path) -> str:
    text = path.read_text(encoding="utf-8")
    if "</script" in text:
        raise UserError(f"{path} contains </script, which would end the script in a page; escape it here first")
    return re.sub(r"\n//# sourceMappingURL=.*", "", text).strip()


def notices(modules: Path) -> str:
    """Return the name, version and licence of every package in the scripts, found by walking dependencies."""
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
    """Return the bundled packages and all their dependencies, without `@types`, which no script contains."""
    packages: dict[str, dict[str, Any]] = {}
    pending = list(BUNDLED)
    while pending:
        name = pending.pop()
        if name not in packages and not name.startswith("@types/"):
            packages[name] = _package(modules / name)
            pending += packages[name].get("dependencies", {})
    return packages


def _package(folder: Path) -> dict[str, Any]:
    try:
        package: dict[str, Any] = json.loads((folder / "package.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{folder} does not exist; run: npm install --prefix vega {' '.join(BUNDLED)}") from None
    return package


def main() -> None:
    """Write the page and the notices."""
    parser = arg_parser()
    parser.add_argument("modules", type=Path, metavar="NODE_MODULES", help="the folder that npm installed into")
    modules = parser.parse_args().modules
    PAGE.write_text(page(modules), encoding="utf-8")
    NOTICES.write_text(notices(modules), encoding="utf-8")


if __name__ == "__main__":
    run(main)
