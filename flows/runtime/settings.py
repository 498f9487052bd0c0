"""The environment of every Prefect process of this project: local only, no telemetry, state within the project.

`python -m flows.runtime.settings` prints it for a shell of your own: `eval "$(python -m flows.runtime.settings)"`. Then
`prefect --no-prompt deploy --all` or `prefect deployment run retrain/retrain` use the server of `fresh up`.
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

# In the project, not in ~/.prefect: runs, schedules and paused deployments belong to this folder, survive a restart,
# and mix neither with another checkout's nor with a person's own Prefect.
HOME = paths.REGISTRY / "prefect"
PASSWORD = paths.REGISTRY / "prefect.password"  # holds PREFECT_SERVER_API_AUTH_STRING unless a person sets it
PORT = 4200  # Prefect's default
POOL = "local"  # prefect.yaml names it too

_LOCAL = ("127.0.0.1", "localhost", "[::1]")
_SERVER_PASSWORD = "PREFECT_SERVER_API_AUTH_STRING"  # noqa: S105 - the name of the setting
_CORS = ("PREFECT_SERVER_CORS_ALLOWED_ORIGINS", "PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS")
_CSRF = ("PREFECT_SERVER_CSRF_PROTECTION_ENABLED", "PREFECT_SERVER_API_CSRF_PROTECTION_ENABLED")
_TRUE = ("true", "1", "t", "y", "yes", "on")
_DEFAULTS = {  # the names of each setting, the current one first, and its value
    _CSRF: "true",
    # Nothing is sent or fetched. The second UI calls an analytics host whatever the other switches say.
    ("PREFECT_SERVER_ANALYTICS_ENABLED",): "false",
    ("DO_NOT_TRACK",): "1",
    ("BENTOML_DO_NOT_TRACK",): "True",
    ("PREFECT_SERVER_UI_V2_ENABLED",): "false",
    ("PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT",): "false",
    # Leases in memory are lost when the server restarts, and Prefect then ends the trainings that held them.
    ("PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE",): "prefect.server.concurrency.lease_storage.filesystem",
    # 30 is the minimum: `flows.runtime.zombie_runs` notices a lost run on another machine within minutes.
    ("PREFECT_FLOWS_HEARTBEAT_FREQUENCY", "PREFECT_RUNNER_HEARTBEAT_FREQUENCY"): "30",
    # On a busy machine a run needs some seconds to start; "Late" is to mean that there is no worker.
    ("PREFECT_SERVER_SERVICES_LATE_RUNS_AFTER_SECONDS", "PREFECT_API_SERVICES_LATE_RUNS_AFTER_SECONDS"): "60",
    ("PREFECT_WORKER_WEBSERVER_HOST",): "127.0.0.1",  # Prefect's default is 0.0.0.0 if the web server is enabled
    ("PREFECT_CLI_PROMPT",): "false",
    ("PREFECT_CLI_COLORS",): "false",  # the output goes to files
    ("PREFECT_LOGGING_COLORS",): "false",
}


def environment(root: Path, port: int = PORT, *, has_password: bool = True) -> dict[str, str]:
    """Return this process's environment with the settings for a project and its server.

    Settings that the user has made, under any of Prefect's names for them, have precedence; PREFECT_API_URL has not,
    for it is the server's own address.

    Args:
        root: The project's folder.
        port: The server's port.
        has_password: Whether to set a password: the one in the environment, else the one in `PASSWORD`.

    Raises:
        UserError: A setting would let others in; one line for each.
    """
    host = os.environ.get("PREFECT_SERVER_API_HOST", "127.0.0.1")
    _refuse_unsafe_settings(host)
    origins = ",".join(f"http://{name}:{port}" for name in _LOCAL)
    defaults = {("PREFECT_HOME",): str((root / HOME).resolve()), _CORS: origins, **_DEFAULTS}
    variables = {names[0]: value for names, value in defaults.items() if not any(name in os.environ for name in names)}
    # Our processes connect to it on this machine, whatever other addresses it has.
    address = host if is_local(host) else "127.0.0.1"
    variables |= {
        "PREFECT_SERVER_API_HOST": host,
        "PREFECT_SERVER_API_PORT": str(port),
        "PREFECT_API_URL": f"http://{f'[{address}]' if ':' in address else address}:{port}/api",
    }
    if has_password and (password := os.environ.get(_SERVER_PASSWORD) or read_password(root)):
        variables[_SERVER_PASSWORD] = password
        variables["PREFECT_API_AUTH_STRING"] = os.environ.get("PREFECT_API_AUTH_STRING", password)
    return {**os.environ, **variables, **_no_proxy_for_loopback()}


def _no_proxy_for_loopback() -> dict[str, str]:
    """Return NO_PROXY with this machine's own names added if a proxy is set: the proxy cannot reach our ports."""
    current = os.environ.get("no_proxy") or os.environ.get("NO_PROXY", "")
    names = [name.strip() for name in current.split(",") if name.strip()]
    if not urllib.request.getproxies_environment() or "*" in names:
        return {}
    names += [name for name in ("localhost", "127.0.0.1", "::1") if name not in names]
    return dict.fromkeys(("NO_PROXY", "no_proxy"), ",".join(names))  # libraries differ in which one they read


def read_password(root: Path) -> str | None:
    """Return the generated password of the project in `root`; None if there is none yet."""
    path = root / PASSWORD
    try:
        password = path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return None
    if not password:
        raise UserError(f"{PASSWORD} is empty; delete it, and the next `fresh up` makes a new password")
    return password


def make_password(root: Path) -> str | None:
    """Generate the password, in a file that only this user can read; return it, or None if there is one already.

    A file that others can read, of a copied project for instance, is replaced: they may know its password.
    """
    path = root / PASSWORD
    if path.exists() and not path.stat().st_mode & 0o077:
        return None
    password = f"admin:{secrets.token_urlsafe(18)}"
    descriptor, new = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)  # with mode 0600
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(f"{password}\n")
    Path(new).replace(path)
    return password


def worker_name() -> str:
    """Return the name of this machine's worker; runs carry it, which tells on which machine their process is."""
    return platform.node()


def is_local(host: str) -> bool:
    """Whether only this machine can reach a server that listens at `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _refuse_unsafe_settings(host: str) -> None:
    """Raise UserError for settings with which others, or any web page, could make a worker run their commands."""
    problems = []
    if os.environ.get(_SERVER_PASSWORD) == "":
        problems.append(
            f"{_SERVER_PASSWORD} is empty; set it to user:password, or unset it for a generated password"
            " (`fresh up --no-password` uses none)"
        )
    elif not is_local(host) and not os.environ.get(_SERVER_PASSWORD):
        problems.append(
            f"PREFECT_SERVER_API_HOST is {host}, where others can reach the server, but it has no password;"
            " set PREFECT_SERVER_API_AUTH_STRING to user:password, or use 127.0.0.1"
        )
    for name in _CORS:
        if "*" in os.environ.get(name, ""):
            problems.append(f"{name} is {os.environ[name]}, which lets any web page in; name the origins, or unset it")
    for name in _CSRF:
        if os.environ.get(name, "true").lower() not in _TRUE:
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
