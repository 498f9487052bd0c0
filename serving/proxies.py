"""The caller's address behind reverse proxies: X-Forwarded-For is used only where a trusted proxy wrote it."""

import ipaddress
import os
import re

from bentoml.exceptions import BentoMLException
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from pipeline.params import Service

_VARIABLE = "FORWARDED_ALLOW_IPS"  # uvicorn's name for the same
_MAX_HOPS = 10  # proxies between the caller and the service
_WITH_PORT = re.compile(r"\[(?P<v6>[^\]]*)\](?::\d{1,5})?|(?P<v4>[\d.]+):\d{1,5}")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def trusted_networks(settings: Service) -> tuple[Network, ...]:
    """Return the networks of trusted proxies, of the settings and the environment; raises BentoMLException."""
    named = [part.strip() for part in os.environ.get(_VARIABLE, "").split(",") if part.strip()]
    try:
        return tuple(ipaddress.ip_network(name) for name in (*settings.trusted_proxies, *named))
    except ValueError as error:
        raise BentoMLException(f"{_VARIABLE}: {error}; expected addresses or networks, such as 10.0.0.0/8") from None


class TrustedProxiesMiddleware:
    """Outermost ASGI middleware: replaces a trusted proxy's address and scheme by the caller's."""

    def __init__(self, app: ASGIApp, networks: tuple[Network, ...]) -> None:
        """Wrap `app`, which is behind proxies in `networks`."""
        self._app = app
        self._networks = networks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if self._networks and scope["type"] == "http" and scope.get("client"):
            host, port = scope["client"]
            peer = _address(host.partition("%")[0])  # without a link-local address' zone
            if peer is not None and self._trusts(peer):
                headers = Headers(scope=scope)
                caller = self._caller(peer, headers.getlist("x-forwarded-for"))
                scope = {**scope, "client": (str(caller), port if caller == peer else 0)}
                if headers.get("x-forwarded-proto") in ("http", "https"):
                    scope["scheme"] = headers["x-forwarded-proto"]
        await self._app(scope, receive, send)

    def _trusts(self, address: Address) -> bool:
        return any(address in network for network in self._networks)

    def _caller(self, peer: Address, forwarded: list[str]) -> Address:
        """Return the nearest address that is not a trusted proxy's, or the last one before an invalid entry."""
        caller = peer
        hops = [hop for line in forwarded for hop in line.rsplit(",", _MAX_HOPS)][-_MAX_HOPS:]
        for hop in reversed(hops):
            address = _address(hop.strip(" \t"))
            if address is None:
                break
            caller = address
            if not self._trusts(address):
                break
        return caller


def _address(text: str) -> Address | None:
    """Return the address in `text`, which may have a port; None where there is none."""
    if "%" in text:  # a zone may be any text
        return None
    if match := _WITH_PORT.fullmatch(text):
        text = match["v6"] or match["v4"] or ""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    mapped = getattr(address, "ipv4_mapped", None)  # ::ffff:1.2.3.4, as a dual-stack socket reports it
    return mapped or address
