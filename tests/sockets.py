"""At which sockets a process and all its children listen."""

from contextlib import suppress
from pathlib import Path

import psutil

_ACCEPTS = 1 << 16  # __SO_ACCEPTCON of a Unix socket's flags


def listening(pid: int) -> set[int | str]:
    """Return the ports and the paths of Unix sockets at which the process or one of its descendants listens.

    UDP sockets count with their port. Abstract Unix sockets, whose names begin with @, have no owner: they count too.
    """
    process = psutil.Process(pid)
    addresses: set[int | str] = set()
    for one in [process, *process.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess, FileNotFoundError):  # it has just ended
            for connection in one.net_connections("inet"):
                if connection.laddr and connection.status in (psutil.CONN_LISTEN, psutil.CONN_NONE):
                    addresses.add(connection.laddr.port)
            addresses |= _unix(one.pid)
    return addresses


def _unix(pid: int) -> set[str]:
    """Return the names of the Unix sockets at which a process listens: psutil shows all kinds alike."""
    opened = set()
    for handle in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            opened.add(str(handle.readlink()))
    addresses = set()
    for line in Path("/proc/net/unix").read_text(encoding="utf-8").splitlines()[1:]:
        _, _, _, flags, _, _, inode, *name = line.split(maxsplit=7)
        if int(flags, 16) & _ACCEPTS and f"socket:[{inode}]" in opened:
            addresses.add(name[0] if name else "a socket without a name")
    return addresses


def ports(pid: int) -> set[int]:
    """Return only the ports of `listening`."""
    return {one for one in listening(pid) if isinstance(one, int)}
