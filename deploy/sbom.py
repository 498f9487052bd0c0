"""Prints what the environment is made of, as a CycloneDX 1.6 SBOM in JSON: `python -m deploy.sbom > sbom.json`.

It lists the installed packages, with their licences as they state them, and what files of the project bundle. The same
environment gives the same bytes.
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
_PAGE = Path(".dvc/plots/template.html")  # says in a comment which scripts it bundles, with their versions
_BUNDLED = re.compile(r"\b(vega|vega-lite|vega-embed) (\d+\.\d+\.\d+)")


def document() -> dict[str, Any]:
    """Return the SBOM."""
    installed = {canonicalize_name(one.metadata["Name"]): one for one in distributions()}
    project = installed.pop(PROJECT)
    bundled = [_bundled(name, version) for name, version in _BUNDLED.findall(_PAGE.read_text(encoding="utf-8")[:2000])]
    components = [_component(name, one) for name, one in sorted(installed.items())] + bundled
    refs = {name: _ref(name, one) for name, one in installed.items()}
    own = {**_component(PROJECT, project), "type": "application", "licenses": [{"expression": "Apache-2.0"}]}
    edges = [{"ref": own["bom-ref"], "dependsOn": sorted(_needs(project, refs, {"", "dev"}))}]
    edges += [
        {"ref": refs[name], "dependsOn": sorted(_needs(one, refs, {""}))} for name, one in sorted(installed.items())
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


def _ref(name: str, one: Distribution) -> str:
    return f"pkg:pypi/{name}@{one.version}"


def _component(name: str, one: Distribution) -> dict[str, Any]:
    component = {"type": "library", "bom-ref": _ref(name, one), "name": name, "version": one.version}
    return {**component, "purl": _ref(name, one), "licenses": list(_licenses(one))}


def _licenses(one: Distribution) -> Iterator[dict[str, Any]]:
    """Yield the licence that a package states: as an expression, else by name from its classifiers or its old field."""
    if "License-Expression" in one.metadata:
        yield {"expression": one.metadata["License-Expression"]}
        return
    classified = [line for line in one.metadata.get_all("Classifier") or () if line.startswith("License :: ")]
    stated = one.metadata["License"].strip() if "License" in one.metadata else ""
    names = [line.rpartition(" :: ")[2] for line in classified] or [stated.splitlines()[0][:80]] * bool(stated)
    yield from ({"license": {"name": name}} for name in names)


def _bundled(name: str, version: str) -> dict[str, Any]:
    ref = f"pkg:npm/{name}@{version}"
    component = {"type": "library", "bom-ref": ref, "name": name, "version": version, "purl": ref}
    return {**component, "licenses": [{"license": {"id": "BSD-3-Clause"}}]}


def _needs(one: Distribution, refs: Mapping[NormalizedName, str], extras: set[str]) -> set[str]:
    """Return the references of the installed packages that a package asks for, with these extras of its own."""
    asked = [Requirement(line) for line in one.requires or ()]
    wanted = [
        requirement
        for requirement in asked
        if requirement.marker is None or any(requirement.marker.evaluate({"extra": extra}) for extra in extras)
    ]
    names = {canonicalize_name(requirement.name) for requirement in wanted}
    return {refs[name] for name in names if name in refs}


def main() -> None:
    """Print the SBOM."""
    arg_parser().parse_args()
    echo_json(document())


if __name__ == "__main__":
    run(main)
