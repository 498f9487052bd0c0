"""Print an SBOM of the environment in CycloneDX 1.6 JSON: `python -m deploy.sbom > sbom.json`.

It lists the installed packages with the licences that they state, and the scripts that a file of the project bundles.
The same environment gives the same bytes.
"""

import json
import re
import uuid
from collections.abc import Iterator, Mapping
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import NormalizedName, canonicalize_name

from pipeline.command import arg_parser, echo_json, run

PROJECT = canonicalize_name("fresh-gpt2")
_PAGE = Path(".dvc/plots/template.html")  # a comment in it names the bundled scripts and their versions
_BUNDLED = re.compile(r"\b(vega|vega-lite|vega-embed) (\d+\.\d+\.\d+)")


def document() -> dict[str, Any]:
    """Return the SBOM."""
    installed = {canonicalize_name(package.metadata["Name"]): package for package in distributions()}
    project = installed.pop(PROJECT)
    bundled = [_bundled(name, version) for name, version in _BUNDLED.findall(_PAGE.read_text(encoding="utf-8")[:2000])]
    components = [_component(name, package) for name, package in sorted(installed.items())] + bundled
    refs = {name: _ref(name, package) for name, package in installed.items()}
    own = {**_component(PROJECT, project), "type": "application", "licenses": [{"expression": "Apache-2.0"}]}
    edges = [{"ref": own["bom-ref"], "dependsOn": sorted(_requirements(project, refs, {"", "dev"}))}]
    edges += [
        {"ref": refs[name], "dependsOn": sorted(_requirements(package, refs, {""}))}
        for name, package in sorted(installed.items())
    ]
    content = {"component": own, "components": components}
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(content, sort_keys=True))}",
        "version": 1,
        "metadata": {"component": own},
        "components": components,
        "dependencies": edges,
    }


def _ref(name: str, package: Distribution) -> str:
    return f"pkg:pypi/{name}@{package.version}"


def _component(name: str, package: Distribution) -> dict[str, Any]:
    component = {"type": "library", "bom-ref": _ref(name, package), "name": name, "version": package.version}
    return {**component, "purl": _ref(name, package), "licenses": list(_licenses(package))}


def _licenses(package: Distribution) -> Iterator[dict[str, Any]]:
    """Yield the licence that a package states: its expression, else names from its classifiers or its old field."""
    metadata = package.metadata
    if "License-Expression" in metadata:
        yield {"expression": metadata["License-Expression"]}
        return
    classified = [line for line in metadata.get_all("Classifier") or () if line.startswith("License :: ")]
    stated = metadata["License"].strip() if "License" in metadata else ""
    names = [line.rpartition(" :: ")[2] for line in classified] or [stated.splitlines()[0][:80]] * bool(stated)
    yield from ({"license": {"name": name}} for name in names)


def _bundled(name: str, version: str) -> dict[str, Any]:
    ref = f"pkg:npm/{name}@{version}"
    component = {"type": "library", "bom-ref": ref, "name": name, "version": version, "purl": ref}
    return {**component, "licenses": [{"license": {"id": "BSD-3-Clause"}}]}


def _requirements(package: Distribution, refs: Mapping[NormalizedName, str], extras: set[str]) -> set[str]:
    """Return the references of the installed packages that a package requires with these extras."""
    names = set()
    for line in package.requires or ():
        requirement = Requirement(line)
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in extras):
            names.add(canonicalize_name(requirement.name))
    return {refs[name] for name in names if name in refs}


def main() -> None:
    """Print the SBOM."""
    arg_parser().parse_args()
    echo_json(document())


if __name__ == "__main__":
    run(main)
