"""The page over HTTPS with its own certificate."""

import datetime
import ipaddress
import ssl
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from playwright.sync_api import Browser, expect

from tests.browser.serving import ROOT, App, guarded_app, log_in

pytestmark = [pytest.mark.browser, pytest.mark.slow]
NAME = "page.localhost"
"""Chromium resolves it to this machine."""
COOKIE = "__Host-assistant-builder-"
SLOW = 240_000
"""Timeout in milliseconds for an action of about one second on a busy machine."""
FERRIES = ROOT / "datasets_cards" / "ostrel-sound-ferries" / "data.jsonl"


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
