"""BentoML's supervisor (circus), closed to other users and web pages.

BentoML opens circus' control and event sockets on loopback TCP without authentication: every local user, and every web
page that posts to the port, could make circus run a command. Here both are Unix sockets in a folder of mode 0700.
This is the only module that touches the private names behind that; `tests/serving/test_supervisor.py` checks each one.
"""

import atexit
import fcntl
import functools
import inspect
import os
import shutil
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bentoml._internal.configuration.containers import BentoMLContainer
from bentoml.exceptions import BentoMLException

from serving import metric_store

FOLDER_PREFIX = "gpt2-supervisor-"
_LONGEST_SOCKET_PATH = 103  # bytes: sun_path has 104 on macOS, 108 on Linux
_STALE_SECONDS = 60  # a younger folder may belong to a server that has not locked it yet
_CHECK_SECONDS = 10  # BentoML's own interval between two looks at the workers


def install() -> None:
    """Replace the function with which BentoML makes its supervisor.

    Raises BentoMLException where this version of BentoML does not call that function: it would open a port.
    """
    from _bentoml_impl.server import serve_http
    from bentoml._internal.utils import circus  # not at import: workers import this module and need no circus

    names = inspect.unwrap(serve_http).__code__.co_names
    if circus.__name__ not in names or "create_standalone_arbiter" not in names:
        raise BentoMLException(
            f"BentoML {version('bentoml')} starts its supervisor in a way that this project does not know, so its "
            "control port would be open to every user of this machine: install the version in constraints.txt"
        )
    circus.create_standalone_arbiter = create_arbiter


def create_arbiter(watchers: list[Any], *, threaded: bool = False, **options: Any) -> Any:
    """Make the supervisor as BentoML's `create_standalone_arbiter` does, with its sockets in `folder()`."""
    from bentoml._internal.utils import circus

    kind = circus.ThreadedArbiter if threaded else circus.Arbiter
    for watcher in watchers:
        if watcher.numprocesses == 1:
            watcher.env.pop(metric_store.FOLDER, None)
        else:
            watcher.env[metric_store.FOLDER] = str(_metrics())
        # Also what a killed worker leaves, and torch's cache, which has a name in /tmp that anybody could take first.
        watcher.env["TMPDIR"] = str(_temporary())
    return kind(
        watchers,
        endpoint=f"ipc://{runtime_folder()}/control",
        pubsub_endpoint=f"ipc://{runtime_folder()}/events",
        **{"check_delay": _CHECK_SECONDS, **options},
    )


def separate_metrics() -> None:
    """Have BentoML clear a folder of this server's own at start, and not the one that all servers share."""
    BentoMLContainer.prometheus_multiproc_dir.set(str(_metrics()))


@functools.cache
def runtime_folder() -> Path:
    """Return this server's folder of mode 0700; it is deleted when this process ends.

    It stays locked until then. The folder of a server that was killed is deleted by the next server of the same user.
    Raises BentoMLException where no folder can be made.
    """
    temporary = Path(tempfile.gettempdir())
    socket = temporary / f"{FOLDER_PREFIX}12345678" / "control"
    if len(os.fsencode(socket)) > _LONGEST_SOCKET_PATH:
        temporary = Path("/tmp")  # noqa: S108 - mkdtemp makes a folder that only this user can enter
    try:
        _delete_stale(temporary)
        made = Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX, dir=temporary))
        fcntl.flock(os.open(made, os.O_RDONLY), fcntl.LOCK_EX)  # held open until the process ends
        (made / "metrics").mkdir()
        (made / "temporary").mkdir()
    except OSError as error:
        raise BentoMLException(
            f"no folder for the sockets of the service's supervisor: {error.filename}: {error.strerror}; "
            "free some space, or set TMPDIR to a folder that can be written"
        ) from None
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return made


def _metrics() -> Path:
    return runtime_folder() / "metrics"


def _temporary() -> Path:
    return runtime_folder() / "temporary"


def _delete_stale(temporary: Path) -> None:
    """Delete what servers of this user left that were killed: nobody holds the lock of their folders."""
    for left in temporary.glob(f"{FOLDER_PREFIX}*"):
        try:
            handle = os.open(left, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:
            continue  # another user's, or deleted just now
        try:
            found = os.fstat(handle)
            if found.st_uid == os.geteuid() and found.st_mtime < time.time() - _STALE_SECONDS:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(left, ignore_errors=True)
        except BlockingIOError:
            pass  # its server runs
        finally:
            os.close(handle)
