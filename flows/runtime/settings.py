"""The settings of every Prefect process of this project: closed to the outside, silent, its state in the project.

`python -m flows.runtime.settings` prints them for a shell of your own: `eval "$(python -m flows.runtime.settings)"`.
Then `prefect --no-prompt deploy --all` or `prefect deployment run retrain/retrain` talk to the server of `make up`.
"""

import ipaddress
import os
import platform
import secrets
import shlex
import tempfile
import urllib.request
from pathlib import Path

from pipeline import paths
from pipeline.command import UserError, arg_parser, run

# In the project, not in ~/.prefect: runs, schedules and what a person paused belong to this folder, survive a restart,
# and neither mix with another checkout's nor with a person's own Prefect.
HOME = paths.REGISTRY / "prefect"
PASSWORD = paths.REGISTRY / "prefect.password"  # what PREFECT_SERVER_API_AUTH_STRING is, unless a person sets it
PORT = 4200  # Prefect's own default
POOL = "local"  # prefect.yaml names it too

_LOCAL = ("127.0.0.1", "localhost", "[::1]")
_SERVER_PASSWORD = "PREFECT_SERVER_API_AUTH_STRING"  # noqa: S105 - the name of the setting
_CORS = ("PREFECT_SERVER_CORS_ALLOWED_ORIGINS", "PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS")
_CSRF = ("PREFECT_SERVER_CSRF_PROTECTION_ENABLED", "PREFECT_SERVER_API_CSRF_PROTECTION_ENABLED")
_SILENT_AND_SAFE = {
    _CSRF: "true",
    # Nothing is sent or fetched: the newer UI calls an analytics host whatever the other switches say.
    ("PREFECT_SERVER_ANALYTICS_ENABLED",): "false",
    ("DO_NOT_TRACK",): "1",
    ("BENTOML_DO_NOT_TRACK",): "True",
    ("PREFECT_SERVER_UI_V2_ENABLED",): "false",
    ("PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT",): "false",
    # Leases in memory are gone when the server restarts, and Prefect then ends the trainings that held them.
    ("PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE",): "prefect.server.concurrency.lease_storage.filesystem",
    # 30 is the least: `flows.runtime.zombie_runs` misses a run on another machine after minutes, not after 15.
    ("PREFECT_FLOWS_HEARTBEAT_FREQUENCY", "PREFECT_RUNNER_HEARTBEAT_FREQUENCY"): "30",
    # On a busy machine a run needs some seconds to start: "Late" shall mean that there is no worker.
    ("PREFECT_SERVER_SERVICES_LATE_RUNS_AFTER_SECONDS", "PREFECT_API_SERVICES_LATE_RUNS_AFTER_SECONDS"): "60",
    ("PREFECT_WORKER_WEBSERVER_HOST",): "127.0.0.1",  # 0.0.0.0 where somebody switches it on
    ("PREFECT_CLI_PROMPT",): "false",
    ("PREFECT_CLI_COLORS",): "false",  # what they print goes to files
    ("PREFECT_LOGGING_COLORS",): "false",
}


def environment(root: Path, port: int = PORT, *, has_password: bool = True) -> dict[str, str]:
    """Return this process's environment with the settings for the project in `root` and its server at `port`.

    What the user has set, by any of Prefect's names for it, wins, but for PREFECT_API_URL: it is the server's own.
    The password is the one that is set, else the one in `PASSWORD`; none if `has_password` is False.
    Raises UserError with one line for each value that would let others in.
    """
    host = os.environ.get("PREFECT_SERVER_API_HOST", "127.0.0.1")
    _refuse_what_opens(host)
    origins = ",".join(f"http://{name}:{port}" for name in _LOCAL)
    wanted = {("PREFECT_HOME",): str((root / HOME).resolve()), _CORS: origins, **_SILENT_AND_SAFE}
    found = {names[0]: value for names, value in wanted.items() if not any(name in os.environ for name in names)}
    # Our processes talk to it here, wherever else it can be reached.
    near = host if is_local(host) else "127.0.0.1"
    found |= {
        "PREFECT_SERVER_API_HOST": host,
        "PREFECT_SERVER_API_PORT": str(port),
        "PREFECT_API_URL": f"http://{f'[{near}]' if ':' in near else near}:{port}/api",
    }
    if has_password and (password := os.environ.get(_SERVER_PASSWORD) or read_password(root)):
        found[_SERVER_PASSWORD] = password
        found["PREFECT_API_AUTH_STRING"] = os.environ.get("PREFECT_API_AUTH_STRING", password)
    return {**os.environ, **found, **_loopback_without_proxy()}


def _loopback_without_proxy() -> dict[str, str]:
    """Return NO_PROXY with this machine's own names added, where a proxy is set: it cannot reach our ports."""
    given = os.environ.get("no_proxy") or os.environ.get("NO_PROXY", "")
    names = [name.strip() for name in given.split(",") if name.strip()]
    if not urllib.request.getproxies_environment() or "*" in names:
        return {}
    names += [name for name in ("localhost", "127.0.0.1", "::1") if name not in names]
    return dict.fromkeys(("NO_PROXY", "no_proxy"), ",".join(names))  # libraries differ in which one they read


def read_password(root: Path) -> str | None:
    """Return the generated password of the project in `root`; None where there is none yet."""
    path = root / PASSWORD
    try:
        password = path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return None
    if not password:
        raise UserError(f"{PASSWORD} is empty; delete it, and the next `make up` makes a new password")
    return password


def make_password(root: Path) -> str | None:
    """Generate the password, which only this user can read; return it, or None where there is one already.

    A file that others can read (a copy of the project, say) is replaced: they may know what is in it.
    """
    path = root / PASSWORD
    if path.exists() and not path.stat().st_mode & 0o077:
        return None
    password = f"admin:{secrets.token_urlsafe(18)}"
    descriptor, new = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)  # of mode 0600
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(f"{password}\n")
    Path(new).replace(path)
    return password


def worker_name() -> str:
    """Return the name of this machine's worker; runs carry it, which tells on which machine their process is."""
    return platform.node()


def is_local(host: str) -> bool:
    """Tell whether only this machine can reach a server that listens at `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _refuse_what_opens(host: str) -> None:
    """Raise UserError for settings with which others, or any web page, could have a worker run their commands."""
    problems = []
    if os.environ.get(_SERVER_PASSWORD) == "":
        problems.append(
            f"{_SERVER_PASSWORD} is empty; set it to user:password, or unset it for a generated password"
            " (`python -m flows.local_stack --no-password` asks for none)"
        )
    elif not is_local(host) and not os.environ.get(_SERVER_PASSWORD):
        problems.append(
            f"PREFECT_SERVER_API_HOST is {host}, where others can reach the server, but it has no password;"
            " set PREFECT_SERVER_API_AUTH_STRING to user:password, or keep to 127.0.0.1"
        )
    for name in _CORS:
        if "*" in os.environ.get(name, ""):
            problems.append(f"{name} is {os.environ[name]}, which lets any web page in; name the origins, or unset it")
    for name in _CSRF:
        if os.environ.get(name, "true").lower() not in ("true", "1", "t", "y", "yes", "on"):
            problems.append(f"{name} is {os.environ[name]}, which lets any web page post to the server; unset it")
    if problems:
        raise UserError("\n".join(problems))


def main() -> None:
    """Print the settings as a shell's `export` lines."""
    parser = arg_parser()
    parser.add_argument("--port", type=int, default=os.environ.get("PREFECT_SERVER_API_PORT", PORT))
    for name, value in environment(Path(), parser.parse_args().port).items():
        if os.environ.get(name) != value:
            print(f"export {name}={shlex.quote(value)}")  # noqa: T201 - the command's output


if __name__ == "__main__":
    run(main)
