"""The address of a client behind proxies, and its key."""

import pytest

from assistant_builder.errors import ConfigError
from assistant_builder.web.client_address import TrustedProxies, client_key


def test_addresses_of_one_ipv6_network_count_as_one_client():
    assert (
        client_key("2001:db8::1") == client_key("2001:db8::ffff:2") != client_key("2001:db8:0:1::1")
    )
    assert client_key("::ffff:10.0.0.1") == client_key("10.0.0.1") == "10.0.0.1"
    assert client_key("fe80::1%eth0") == client_key("fe80::2") and client_key("") == ""


def client_of(
    *lines: str, proxy: str, peer: str = "127.0.0.1", scheme: str = ""
) -> tuple[str, str]:
    """Client and scheme of a request whose lines of X-Forwarded-For are these."""
    headers = [(b"x-forwarded-for", line.encode("latin-1")) for line in lines]
    headers += [(b"x-forwarded-proto", scheme.encode())] if scheme else []
    scope = {"client": (peer, 1), "headers": headers, "scheme": "http"}
    return TrustedProxies(proxy).client(scope), TrustedProxies(proxy).scheme(scope)


@pytest.mark.parametrize(
    ("lines", "proxy", "client"),
    [
        (["198.51.100.7"], "", "127.0.0.1"),
        (["198.51.100.7"], "10.0.0.1", "127.0.0.1"),
        (["198.51.100.7"], "127.0.0.1", "198.51.100.7"),
        (["1.1.1.1, 198.51.100.7"], "127.0.0.1", "198.51.100.7"),
        (["1.1.1.1", "198.51.100.7"], "127.0.0.1", "198.51.100.7"),  # as HAProxy appends it
        (["198.51.100.7", "2.2.2.2", "10.1.2.3"], "127.0.0.1, 10.0.0.0/8", "2.2.2.2"),
        (["10.9.9.9, 10.1.2.3"], "127.0.0.1,10.0.0.0/8", "10.9.9.9"),
        (["1.1.1.1, nonsense"], "127.0.0.1", "127.0.0.1"),
        (["1.1.1.1,"], "127.0.0.1", "127.0.0.1"),
        ([""], "127.0.0.1", "127.0.0.1"),
        (["nonsense, 10.1.2.3"], "127.0.0.1,10.0.0.0/8", "10.1.2.3"),
        (["1.1.1.1, 198.51.100.7:4711"], "127.0.0.1", "198.51.100.7"),
        (["1.1.1.1, [2001:db8::1]:443"], "127.0.0.1", "2001:db8::1"),
        (["::ffff:198.51.100.7"], "::ffff:127.0.0.1", "198.51.100.7"),
        (["1.1.1.1, 198.51.100.7"], "*", "198.51.100.7"),
        (["2.2.2.2," * 20_000 + "198.51.100.7"], "127.0.0.1", "198.51.100.7"),
        (["127.0.0.1," * 20_000], "127.0.0.0/8", "127.0.0.1"),
        (["\xb9.1.1.1"], "127.0.0.1", "127.0.0.1"),
    ],
)
def test_the_client_is_what_the_nearest_trusted_proxy_saw(lines, proxy, client):
    assert client_of(*lines, proxy=proxy)[0] == client


def test_the_scheme_is_that_of_a_trusted_proxy():
    assert client_of(proxy="127.0.0.1", scheme="http, HTTPS")[1] == "https"
    assert (
        client_of(proxy="", scheme="https")[1]
        == client_of(proxy="127.0.0.1", scheme="javascript")[1]
        == "http"
    )


@pytest.mark.parametrize("proxy", ["nginx", "127.0.0.1, 10.0.0.0/99", "localhost", "127.0.0.1:80"])
def test_what_is_no_address_of_a_proxy_is_refused(proxy):
    with pytest.raises(ConfigError, match="neither an address nor a network"):
        TrustedProxies(proxy)
