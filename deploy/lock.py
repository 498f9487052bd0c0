"""Lock every package by version and hash: `python -m deploy.lock` (or `make lock`), with uv as the resolver.

Writes requirements.lock for `pip install --require-hashes`, a lock file with the further packages of each of the extras
dev and deploy, and requirements-build.lock with the packages that build source distributions. They hold for every
platform and every Python from 3.11 on, and name no index. constraints.txt gets the same versions, and torch's. torch is
not locked, for one version exists in several builds from different indexes; nor is the CUDA that one of them needs.
"""

import re
import subprocess
from collections.abc import Iterable
from pathlib import Path

from packaging.utils import canonicalize_name

from pipeline.command import UserError, arg_parser, run

LOCK, BUILD_LOCK, CONSTRAINTS = Path("requirements.lock"), Path("requirements-build.lock"), Path("constraints.txt")
EXTRAS = {"dev": Path("requirements-dev.lock"), "deploy": Path("requirements-deploy.lock")}
UNLOCKED = ("torch",)
BUILDERS = ("setuptools", "wheel")  # build source distributions, and the project itself
_COMPILE = ["uv", "pip", "compile", "pyproject.toml", "--universal", "--python-version", "3.11"]
_FORM = ["--generate-hashes", "--no-header", "--no-annotate", "--strip-extras", "--quiet"]
_HEAD = "# Made by `make lock`, for every platform and every Python from 3.11 on. Do not edit.\n"
_CONSTRAINTS_HEAD = "# The exact versions that work together. `make lock` keeps them and adds what is missing.\n"


def entries(text: str) -> dict[str, str]:
    """Return the lines of each package in a lock file, by its normalised name."""
    packages = re.findall(r"^[a-zA-Z0-9].*(?:\n    --hash=.*)*", text, re.MULTILINE)
    return {canonicalize_name(entry.partition("==")[0]): entry for entry in packages}


def resolve(extras: Iterable[str], upgrade: bool = False) -> dict[str, str]:
    """Return the entry of each package, at the versions in constraints.txt unless `upgrade` is set."""
    constraints = [] if upgrade else ["--constraint", str(CONSTRAINTS)]
    options = [word for extra in extras for word in ("--extra", extra)]
    try:
        result = subprocess.run(  # noqa: S603
            [*_COMPILE, *_FORM, *options, *constraints], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        raise UserError("uv is not installed; `make` installs it, or `pip install uv`") from None
    if result.returncode:
        raise UserError(f"uv cannot resolve pyproject.toml:\n{result.stderr.strip()}")
    return entries(result.stdout)


def lock(upgrade: bool) -> None:
    """Write all files; raises UserError if a builder is not among the packages."""
    packages = resolve(EXTRAS, upgrade)
    if missing := [name for name in BUILDERS if name not in packages]:
        raise UserError(f"pyproject.toml: add {', '.join(missing)} to the extra dev; other packages are built with it")
    pins = _lines(entry.split()[0] for entry in packages.values())
    CONSTRAINTS.write_text(_CONSTRAINTS_HEAD + pins, encoding="utf-8")
    run_time = resolve(())
    _write(LOCK, (run_time[name] for name in run_time if name not in UNLOCKED))
    for extra, path in EXTRAS.items():
        _write(path, (entry for name, entry in resolve([extra]).items() if name not in run_time))
    _write(BUILD_LOCK, (packages[name] for name in BUILDERS))


def _write(path: Path, parts: Iterable[str]) -> None:
    path.write_text(_HEAD + _lines(parts), encoding="utf-8")


def _lines(parts: Iterable[str]) -> str:
    return "".join(f"{part}\n" for part in parts)


def main() -> None:
    """Resolve, and write the lock files and constraints.txt."""
    parser = arg_parser()
    parser.add_argument("--upgrade", action="store_true", help="use the newest versions, not those in constraints.txt")
    arguments = parser.parse_args()
    if not Path("pyproject.toml").exists():
        raise UserError("pyproject.toml is not here; run the command from the repository's root")
    lock(arguments.upgrade)


if __name__ == "__main__":
    run(main)
