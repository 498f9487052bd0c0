"""Whether a port can be listened on: checked before anything starts, by `bentoml serve` and `fresh up`."""

import socket


def unusable_reason(host: str, port: int) -> str:
    """Return why nothing can listen on `port` of `host`, a name or an address, as a clause; empty when it can."""
    if not 0 < port < 2**16:
        return f"port {port} is out of range, expected 1 to {2**16 - 1}"
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return f"port {port} cannot be used: {error.strerror}"
    return ""
