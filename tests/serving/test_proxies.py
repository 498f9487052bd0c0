"""Whose address counts as the caller's."""

import asyncio
from typing import Any

import pytest
from bentoml.exceptions import BentoMLException
from starlette.types import Receive, Scope, Send

from serving import proxies
from tests.serving.conftest import service_settings


def seen(peer: str, *forwarded: str, trusted: tuple[str, ...] = ("10.0.0.0/8",), **headers: str) -> tuple[Any, str]:
    """Return the caller's address and the scheme that an app behind the middleware sees."""
    seen_scope: dict[str, Any] = {}

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen_scope.update(scope)

    fields = [(b"x-forwarded-for", line.encode("latin-1")) for line in forwarded]
    fields += [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "scheme": "http", "client": (peer, 5), "headers": fields}
    networks = proxies.trusted_networks(service_settings(trusted_proxies=trusted))
    asyncio.run(proxies.TrustedProxiesMiddleware(app, networks)(scope, None, None))  # type: ignore[arg-type]
    return seen_scope["client"][0], seen_scope["scheme"]


def test_by_default_no_proxy_is_trusted_not_even_this_machine() -> None:
    assert seen("127.0.0.1", "203.0.113.7", trusted=service_settings().trusted_proxies, x_forwarded_proto="https") == (
        "127.0.0.1",
        "http",
    )


@pytest.mark.parametrize(
    ("forwarded", "caller"),
    [
        (["203.0.113.7"], "203.0.113.7"),
        (["198.51.100.1, 203.0.113.7"], "203.0.113.7"),  # what stands before it, the caller may have written
        (["198.51.100.1", "203.0.113.7, 10.0.0.9"], "203.0.113.7"),
        (["203.0.113.7:4711"], "203.0.113.7"),
        (["[2001:db8::1]:4711"], "2001:db8::1"),
        (["2001:DB8:0::1"], "2001:db8::1"),
        (["::ffff:203.0.113.7"], "203.0.113.7"),
        (["10.0.0.8, 10.0.0.9"], "10.0.0.8"),
        ([], "10.0.0.1"),
        ([""], "10.0.0.1"),
        (["203.0.113.7, "], "10.0.0.1"),
        (["203.0.113.7, unknown, 10.0.0.9"], "10.0.0.9"),
        (["<script>"], "10.0.0.1"),
        (["fe80::1%<script>"], "10.0.0.1"),
        (["203.0.113.7:99999999"], "10.0.0.1"),
        (["1" * 60_000], "10.0.0.1"),
        (["\xff"], "10.0.0.1"),
        (["203.0.113.7" + ", 10.0.0.2" * 5_000], "10.0.0.2"),  # only the last few count
    ],
)
def test_of_a_trusted_proxys_list_the_nearest_address_that_is_no_proxy_counts(
    forwarded: list[str], caller: str
) -> None:
    assert seen("10.0.0.1", *forwarded) == (caller, "http")
    assert seen("::ffff:10.0.0.1", *forwarded)[0] == caller


def test_a_forwarded_scheme_needs_a_trusted_proxy_too() -> None:
    assert seen("10.0.0.1", x_forwarded_proto="https") == ("10.0.0.1", "https")
    assert seen("10.0.0.1", x_forwarded_proto="gopher") == ("10.0.0.1", "http")
    assert seen("11.0.0.1", "203.0.113.7", x_forwarded_proto="https") == ("11.0.0.1", "http")


def test_the_environment_may_name_proxies_and_an_invalid_name_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "192.0.2.1, 2001:db8::/32")
    assert seen("192.0.2.1", "203.0.113.7")[0] == "203.0.113.7"
    assert seen("2001:db8::5", "203.0.113.7")[0] == "203.0.113.7"
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "*")
    with pytest.raises(BentoMLException, match="FORWARDED_ALLOW_IPS: '\\*' does not appear to be an IPv4 or IPv6"):
        proxies.trusted_networks(service_settings())
