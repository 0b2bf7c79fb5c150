import socket

import pytest
from starlette.datastructures import Headers

from assistant_builder.errors import ConfigError
from assistant_builder.web.access import (
    Access,
    AllowedHosts,
    is_cross_origin,
    is_from_this_machine,
    is_loopback,
)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("localhost", True),
        ("::1", True),
        ("127.8.8.8", True),
        ("0.0.0.0", False),
        ("::", False),
        ("", False),
        ("192.0.2.1", False),
        ("no-such-host.invalid", False),
    ],
)
def test_loopback_hosts(host, expected):
    assert is_loopback(host) is expected


@pytest.mark.parametrize(
    "name",
    """
        localhost LOCALHOST:7860 localhost. 127.0.0.1:7860 [::1]:7860 192.168.1.5:7860
    """.split(),
)
def test_own_names_and_ip_addresses_are_allowed(name):
    assert AllowedHosts("127.0.0.1").allows(name)


@pytest.mark.parametrize(
    "name",
    [
        None,
        "",
        "evil.example",
        "evil.example:7860",
        "localhost.evil.example",
        "localhost@evil.example",
        "127.0.0.1.nip.io",
        "localhost:port",
        "localhost/..",
        "[::1",
        "a b",
        "localhost,evil.example",
        "evil.example#localhost",
    ],
)
def test_other_host_names_are_rejected(name):
    assert not AllowedHosts("127.0.0.1").allows(name)
    assert not AllowedHosts("0.0.0.0").allows(name)


def test_additional_host_names_are_allowed():
    assert AllowedHosts("127.0.0.1", ["Assistant.Example."]).allows("assistant.example:443")
    assert AllowedHosts("0.0.0.0").allows(f"{socket.gethostname()}:7860")
    assert AllowedHosts("127.0.0.1").allows(socket.gethostname()) is (
        socket.gethostname() == "localhost"
    )


def asked(
    method: str = "POST", path: str = "/gradio_api/queue/join", kind: str = "http", **headers: str
) -> bool:
    named = Headers(
        {
            "host": "localhost:7860",
            **{name.replace("_", "-"): value for name, value in headers.items()},
        }
    )
    scope = {
        "type": kind,
        "method": method,
        "path": path,
        "scheme": "ws" if kind == "websocket" else "http",
    }
    return is_cross_origin(scope, named)


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example",
        "null",
        "http://localhost",
        "http://localhost:7861",
        "https://localhost:7860",
        "http://127.0.0.1:7860",
        "",
        "localhost:7860",
        "http://[",
        "file://",
    ],
)
def test_cross_origin_requests_are_rejected(origin, kind):
    assert asked(origin=origin, kind=kind)
    assert asked("GET", origin=origin, kind=kind)


@pytest.mark.parametrize("site", ["cross-site", "same-site", "anything"])
def test_cross_site_fetch_metadata_is_rejected(site):
    page = {"sec_fetch_mode": "navigate", "sec_fetch_dest": "document"}
    assert asked(sec_fetch_site=site) and asked("GET", sec_fetch_site=site)
    assert asked("POST", "/", sec_fetch_site=site, **page), "a form that another page sends"
    assert asked("GET", "/gradio_api/queue/data", sec_fetch_site=site, **page)
    assert asked(
        "GET", "/", sec_fetch_site=site, sec_fetch_mode="navigate", sec_fetch_dest="iframe"
    )
    assert not asked("GET", "/", sec_fetch_site=site, **page), "a link to the page"


def test_same_origin_and_non_browser_requests_are_allowed():
    assert not asked()
    assert not asked(origin="http://localhost:7860", sec_fetch_site="same-origin")
    assert not asked("GET", sec_fetch_site="none")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7"])
def test_other_machines_need_a_password_or_explicit_permission(host):
    with pytest.raises(ConfigError, match="other machines can reach"):
        Access(host).check()
    assert "everyone" in Access(host, allow_without_password=True).check()[0]
    assert "unencrypted" in Access(host, user="ann").check()[0]
    assert Access(host, user="ann", proxy="10.0.0.1").check() == []
    assert Access().check() == [] and Access("localhost").check() == []


def test_certificate_and_key_are_required_together(tmp_path):
    file = tmp_path / "certificate.pem"
    with pytest.raises(ConfigError, match="HTTPS needs a certificate and its key"):
        Access(certificate=file).check()
    with pytest.raises(ConfigError, match="does not exist"):
        Access(certificate=file, key=file).check()


@pytest.mark.parametrize(
    ("client", "headers", "here"),
    [
        ("127.0.0.1", {}, True),
        ("::1", {}, True),
        ("::ffff:127.0.0.1", {}, True),
        ("127.0.0.1", {"host": "[::1]:1"}, True),
        ("10.0.0.7", {}, False),
        (None, {}, False),
        ("socket", {}, False),
        ("127.0.0.1", {"host": "203.0.113.5"}, False),
        ("127.0.0.1", {"host": "page.example"}, False),
        ("127.0.0.1", {"host": ""}, False),
        ("127.0.0.1", {"host": "localhost@page.example"}, False),
        *[
            ("127.0.0.1", {name: "10.0.0.7"}, False)
            for name in tuple(
                """
                X-Forwarded-For Forwarded x-real-ip via X-FORWARDED-HOST cf-connecting-ip
                true-client-ip
            """.split()
            )
        ],
    ],
)
def test_a_browser_on_this_machine_is_told_from_one_elsewhere(client, headers, here):
    pairs = [
        (name.encode(), value.encode())
        for name, value in {"host": "localhost:7860", **headers}.items()
    ]
    assert is_from_this_machine({"client": client and (client, 1), "headers": pairs}) is here
