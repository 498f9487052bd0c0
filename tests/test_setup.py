"""The set-up: a lock that covers everything by hash, a Makefile that recovers from a half-made environment, an SBOM."""

import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from deploy import lock, plots_page
from tests.conftest import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
FILES = (lock.LOCK, *lock.EXTRAS.values())
LOCKED = {path: lock.entries((ROOT / path).read_text(encoding="utf-8")) for path in FILES}
ALL = {name: entry for packages in LOCKED.values() for name, entry in packages.items()}
BUILDERS = lock.entries((ROOT / lock.BUILD_LOCK).read_text(encoding="utf-8"))
PINS = dict(line.split("==") for line in (ROOT / lock.CONSTRAINTS).read_text(encoding="utf-8").split("\n")[1:-1])
# Stands for Python: its `venv` fails half-way while a file `no-venv` is there, and what it makes stands for pip, which
# fails while there is a file `offline`.
PYTHON = """#!/bin/sh
case "$*" in
"-m venv --clear .venv")
  echo venv >> calls; rm -rf .venv; mkdir -p .venv/bin; cp pip .venv/bin/python
  if [ -e no-venv ]; then echo "exit 1" > .venv/bin/python; exit 1; fi;;
esac
"""
PIP = """#!/bin/sh
echo "$*" >> calls
case "$*" in *install*) [ ! -e offline ];; esac
"""


def test_every_package_but_torch_is_locked_by_hash_at_the_version_of_the_constraints() -> None:
    assert set(PINS) - set(ALL) == {"torch"}
    for name, entry in [item for packages in (*LOCKED.values(), BUILDERS) for item in packages.items()]:
        first, *hashes = entry.split("\n")
        assert first.split()[0] == f"{name}=={PINS[name]}"
        assert hashes, name
        assert all(re.fullmatch(r"    --hash=sha256:[0-9a-f]{64}( \\)?", line) for line in hashes), name
    assert set(BUILDERS) == set(lock.BUILDERS)


def test_the_lock_satisfies_what_the_project_asks_for_and_names_no_index() -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    required = [*PROJECT["project"]["dependencies"], *(line for lines in extras.values() for line in lines)]
    for requirement in map(Requirement, required):
        assert requirement.specifier.contains(PINS[canonicalize_name(requirement.name)]), requirement
    assert PROJECT["build-system"]["requires"] == [f"setuptools=={PINS['setuptools']}"]
    for path in (*FILES, lock.BUILD_LOCK, lock.CONSTRAINTS):
        assert not re.search(r"://|--(extra-)?index|--find-links", (ROOT / path).read_text(encoding="utf-8"))
    # CUDA comes with torch's build for GPUs alone; the other one asks a GPU for its figures.
    assert [name for name in ALL if name.startswith(("nvidia", "cuda", "triton"))] == ["nvidia-ml-py"]


def make(folder: Path) -> subprocess.CompletedProcess[str]:
    command = ["make", f"PYTHON={folder / 'python'}", ".venv/installed"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """Return a folder with what the set-up reads, and stand-ins for Python and pip."""
    for name in ("Makefile", "pyproject.toml", *FILES, lock.BUILD_LOCK, lock.CONSTRAINTS):
        shutil.copy(ROOT / name, tmp_path)
    for name, text in (("python", PYTHON), ("pip", PIP)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    return tmp_path


def test_the_set_up_checks_hashes_and_builds_with_nothing_that_is_not_locked(bare: Path) -> None:
    done = make(bare)
    assert done.returncode == 0, done.stderr
    installs = [
        line.partition("install ")[2] for line in (bare / "calls").read_text().splitlines() if "install" in line
    ]
    assert installs == [
        "--require-hashes --no-deps -r requirements-build.lock",
        "--require-hashes --no-deps --no-build-isolation -r requirements.lock -r requirements-dev.lock",
        "-c constraints.txt torch",
        "--no-deps --no-build-isolation -e .",
    ]
    assert "up to date" in make(bare).stdout


def test_where_venv_fails_half_way_the_next_make_recovers(bare: Path) -> None:
    (bare / "no-venv").touch()
    for _ in range(2):
        done = make(bare)
        assert done.returncode == 2
        assert "venv failed, see above; on Debian and Ubuntu: apt install python3-venv" in done.stderr
    (bare / "no-venv").unlink()
    assert make(bare).returncode == 0


def test_where_an_installation_ended_half_way_the_next_make_starts_anew(bare: Path) -> None:
    (bare / "offline").touch()
    assert make(bare).returncode == 2
    assert (bare / ".venv/unfinished").exists()
    (bare / "offline").unlink()
    assert make(bare).returncode == 0
    assert (bare / "calls").read_text().count("venv\n") == 2
    assert not (bare / ".venv/unfinished").exists()


def test_the_sbom_names_every_installed_package_with_its_licence() -> None:
    done = subprocess.run([sys.executable, "-m", "deploy.sbom"], cwd=ROOT, capture_output=True, text=True, check=True)
    sbom = json.loads(done.stdout)
    assert (sbom["bomFormat"], sbom["specVersion"]) == ("CycloneDX", "1.6")
    components = {component["name"]: component for component in sbom["components"]}
    assert components["torch"]["purl"].startswith("pkg:pypi/torch@2.")
    assert components["bentoml"]["licenses"]
    assert {"vega", "vega-lite", "vega-embed"} <= components.keys()
    refs = [component["bom-ref"] for component in sbom["components"]]
    assert len(refs) == len(set(refs))
    edges = {edge["ref"]: edge["dependsOn"] for edge in sbom["dependencies"]}
    assert any(ref.startswith("pkg:pypi/torch@") for ref in edges[sbom["metadata"]["component"]["bom-ref"]])
    assert {ref for targets in edges.values() for ref in targets} <= set(refs)


def test_the_page_of_plots_and_its_notices_come_from_one_installation_of_npm(tmp_path: Path) -> None:
    needs = {
        "vega": ["d3-array"],
        "vega-lite": ["@types/x"],
        "vega-embed": ["vega-themes"],
        "d3-array": [],
        "vega-themes": [],
    }
    for name, others in needs.items():
        folder = tmp_path / name
        (folder / "build").mkdir(parents=True)
        (folder / "build" / f"{name}.min.js").write_text(f"script of {name};\n//# sourceMappingURL=x.map")
        package = {"version": "1.2.3", "license": "ISC", "dependencies": dict.fromkeys(others, "1")}
        (folder / "package.json").write_text(json.dumps(package))
    (tmp_path / "d3-array" / "LICENSE").write_text("Copyright Mike")
    html = plots_page.page(tmp_path)
    assert "vega 1.2.3, vega-lite 1.2.3, vega-embed 1.2.3" in html
    assert [line for line in html.splitlines() if "script of" in line] == [
        f"script of {name};" for name in plots_page.BUNDLED
    ]
    notices = plots_page.notices(tmp_path)
    assert "d3-array 1.2.3 (ISC)\n====================\nCopyright Mike\n" in notices
    assert "The package holds no text of its licence, and states: ISC." in notices


def test_the_notices_cover_the_scripts_of_the_page() -> None:
    page, notices = ((ROOT / path).read_text(encoding="utf-8") for path in (plots_page.PAGE, plots_page.NOTICES))
    for name in plots_page.BUNDLED:
        [version] = re.findall(rf"\b{name} (\d+\.\d+\.\d+)", page[:1000])
        assert f"{name} {version} (BSD-3-Clause)" in notices
    for name in ("d3-array", "topojson-client", "fast-json-patch", "robust-predicates", "tslib"):
        assert re.search(rf"^{name} \d", notices, re.MULTILINE), name
    assert page.count("{plot_divs}") == page.count("{refresh_tag}") == 1
