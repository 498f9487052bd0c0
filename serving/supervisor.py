"""BentoML's supervisor (circus), closed to other users and web pages.

BentoML opens circus' control and event sockets on loopback TCP without authentication: every local user, and every web
page that posts to the port, could make circus run a command. Here both are Unix sockets in a folder of mode 0700.
"""

import atexit
import functools
import os
import shutil
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bentoml.exceptions import BentoMLException

from pipeline import storage
from serving import bentoml_internals, metric_store

FOLDER_PREFIX = "gpt2-supervisor-"
_MAX_SOCKET_PATH = 103  # bytes: sun_path has 104 on macOS, 108 on Linux
_STALE_SECONDS = 60  # a younger folder may belong to a server that has not locked it yet
_CHECK_SECONDS = 10  # BentoML's own interval between two checks of the workers


def install() -> None:
    """Replace the function with which BentoML makes its supervisor.

    Raises BentoMLException where this version of BentoML does not call that function: it would open a port.
    """
    if not bentoml_internals.replace_arbiter(create_arbiter):
        raise BentoMLException(
            f"BentoML {version('bentoml')} starts its supervisor in an unknown way, so its control port would be open "
            "to every user of this machine: install the version in constraints.txt"
        )


def create_arbiter(watchers: list[Any], *, threaded: bool = False, **options: Any) -> Any:
    """Make the supervisor as BentoML's `create_standalone_arbiter` does, with its sockets in `runtime_folder()`."""
    for watcher in watchers:
        if watcher.numprocesses == 1:
            watcher.env.pop(metric_store.FOLDER, None)
        else:
            watcher.env[metric_store.FOLDER] = str(_metrics_folder())
        # Also for files that a killed worker leaves, and for torch's cache, whose name in /tmp anybody could claim.
        watcher.env["TMPDIR"] = str(_temporary_folder())
    return bentoml_internals.make_arbiter(
        watchers,
        threaded=threaded,
        endpoint=f"ipc://{runtime_folder()}/control",
        pubsub_endpoint=f"ipc://{runtime_folder()}/events",
        **{"check_delay": _CHECK_SECONDS, **options},
    )


def separate_metrics() -> None:
    """Have BentoML clear a metrics folder of this server when it starts, not the one that all servers share."""
    bentoml_internals.set_metrics_folder(_metrics_folder())


@functools.cache
def runtime_folder() -> Path:
    """Return this server's folder of mode 0700, locked while this process runs and deleted when it ends.

    The folder of a killed server is deleted by the next server of the same user. Raises BentoMLException where no
    folder can be made.
    """
    temporary = Path(tempfile.gettempdir())
    socket = temporary / f"{FOLDER_PREFIX}12345678" / "control"
    if len(os.fsencode(socket)) > _MAX_SOCKET_PATH:
        temporary = Path("/tmp")  # noqa: S108 - mkdtemp makes a folder that only this user can enter
    try:
        _delete_stale(temporary)
        folder = Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX, dir=temporary))
        storage.try_flock(os.open(folder, os.O_RDONLY))  # held open until the process ends
        (folder / "metrics").mkdir()
        (folder / "temporary").mkdir()
    except OSError as error:
        raise BentoMLException(
            f"no folder for the sockets of the service's supervisor: {error.filename}: {error.strerror}; "
            "free some space, or set TMPDIR to a writable folder"
        ) from None
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _metrics_folder() -> Path:
    return runtime_folder() / "metrics"


def _temporary_folder() -> Path:
    return runtime_folder() / "temporary"


def _delete_stale(temporary: Path) -> None:
    """Delete the folders of killed servers of this user: nobody holds their locks."""
    for folder in temporary.glob(f"{FOLDER_PREFIX}*"):
        try:
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:
            continue  # another user's, or deleted just now
        try:
            stat = os.fstat(handle)
            is_stale = stat.st_uid == os.geteuid() and stat.st_mtime < time.time() - _STALE_SECONDS
            if is_stale and storage.try_flock(handle):  # else its server runs
                shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(handle)
