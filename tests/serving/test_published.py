"""A server that others reach: what it answers without a key, and behind nginx, Caddy and HAProxy as documented."""

import json
import re
import shlex
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from typer.main import get_command

from assistant_builder.cli import app
from assistant_builder.config.serving import ServingConfig
from assistant_builder.errors import ConfigError, StudyError
from assistant_builder.serving import ray_serve, widget
from assistant_builder.serving.app import make_app
from assistant_builder.serving.auth import check_access
from assistant_builder.serving.visitor_limits import Limits
from assistant_builder.study import Study
from tests.browser.serving import free_port
from tests.serving.conftest import Served
from tests.serving.test_widget import SITE, one_study
from tests.synthetic_study import new_study

NAME = "chat.example.com"
TLS = ssl.create_default_context()
TLS.check_hostname, TLS.verify_mode = False, ssl.CERT_NONE
QUESTION = {"messages": [{"role": "user", "content": "hello"}]}
DOCS = (Path(__file__).parents[2] / "docs" / "website.md").read_text(encoding="utf-8")
TRICKS = [
    "/v1/models",
    "//v1/models",
    "/v1//models",
    "/V1/models",
    "/v1/models/",
    "/./v1/models",
    "/%76%31/models",
    "/v1%2fmodels",
    "/widget/../v1/models",
    "/widget/ask/../../v1/models",
    "/widget/%2e%2e/v1/models",
    "/widget/..%2fv1/models",
    "/widget/ask%2f..%2f..%2fv1/models",
    "/chat/..;/v1/models",
    "/chat/../v1/models",
    "/widget.js/../v1/models",
    "/widget.js%00/../v1/models",
    "/chat?/../v1/models",
    "/v1/models?/widget/ask",
    "/v1/models%3f/widget/ask",
    "/widget/ask\\..\\..\\v1\\models",
    "/v1/models#/widget/ask",
    "/v1/models;/widget/ask",
    "/%252e%252e/v1/models",
    "/widget/ask/%2e%2e/%2e%2e/v1/models",
    "/v1/chat/completions",
    "/v1/feedback",
    "http://127.0.0.1:8000/v1/models",
    "http://localhost/v1/models",
    "https://chat.example.com/v1/models",
    "*",
    "/openapi.json",
    "/docs",
    "/v1/models\t",
    "/widget/ask/v1/models",
]
"""Ways to write the address of a path that is not the widget's."""


@pytest.fixture
def study() -> Study:
    return new_study("library")


@pytest.fixture
def publish(
    study: Study, serve: Callable[..., Served], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Served]:
    """Starts a server of one study with the widget and without a key."""
    monkeypatch.setattr("tests.serving.conftest.models", lambda folder: one_study(study))

    def start(**settings: Any) -> Served:
        return serve(config=ServingConfig(**{"widget": True, "allow_origin": (SITE,), **settings}))

    return start


def raw(port: int, head: str, body: bytes = b"", *, tls: bool = False) -> tuple[int, bytes]:
    """Status and content of the response to a request that is written by hand; 0 if the connection is closed."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=3)
    if tls:
        connection = TLS.wrap_socket(connection, server_hostname=NAME)
    received = b""
    with closing(connection), suppress(ConnectionError, TimeoutError):
        connection.sendall(head.encode("latin-1") + b"\r\n\r\n" + body)
        while part := connection.recv(65536):
            received += part
    status = re.match(rb"HTTP/1\.[01] (\d{3})", received)
    return int(status[1]) if status else 0, received.partition(b"\r\n\r\n")[2]


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2])


def assert_no_trick_leads_past(port: int) -> None:
    """No way to write a path reaches the models behind a proxy."""
    for trick in TRICKS:
        for host in (NAME, "localhost"):
            head = f"GET {trick} HTTP/1.1\r\nHost: {host}\r\nConnection: close"
            status, found = raw(port, head, tls=True)
            assert status != 200 or trick.startswith("/chat?") or not found, trick
            assert b"library-lora" not in found, trick


def ask(client: httpx.Client, study: Study, **headers: str) -> httpx.Response:
    content = json.dumps({"site": widget.site_token(study), **QUESTION})
    return client.post("/widget/ask", content=content, headers={"origin": SITE, **headers})


# without a key


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"proxy": "127.0.0.1"},
        {"allow_host": (NAME,)},
        {"proxy": "127.0.0.1", "allow_host": (NAME,)},
        {"proxy": "*"},
        {"allow_origin": ()},
    ],
)
def test_without_a_key_a_widget_is_all_that_is_served(publish, study, settings):
    served = publish(**settings)
    with httpx.Client(base_url=served.url, timeout=60) as client:
        for headers in ({}, {"x-forwarded-for": "127.0.0.1"}, {"host": "localhost"}):
            for path in ("/v1/models", "/v1/models/library", "/docs"):
                assert client.get(path, headers=headers).status_code == 401
            asked = client.post(
                "/v1/chat/completions", json={"model": "library", **QUESTION}, headers=headers
            )
            assert asked.status_code == 401 and asked.json()["error"]["code"] == "invalid_api_key"
            assert client.post("/v1/feedback", json={"id": "x"}, headers=headers).status_code == 401
        assert client.get("/chat").status_code == client.get("/widget.js").status_code == 200
        assert client.get("/").headers["location"] == "/chat"
        assert ask(client, study, origin=served.url).status_code == 200
        assert client.get("/health").status_code in (200, 503)


def test_no_way_to_write_a_path_leads_past_the_widget(publish):
    port = port_of(publish().url)
    for trick in TRICKS:
        for method in ("GET", "POST", "HEAD", "OPTIONS", "PUT", "PROPFIND"):
            for version in ("1.1", "1.0"):
                status, content = raw(
                    port,
                    f"{method} {trick} HTTP/{version}\r\nHost: localhost\r\n"
                    f"Origin: {SITE}\r\nConnection: close\r\nContent-Length: 0",
                )
                assert status != 200 or trick.startswith("/chat?"), (method, trick)
                assert b"library-lora" not in content


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Forwarded-For": "127.0.0.1"},
        {"Forwarded": "for=127.0.0.1"},
        {"X-Real-IP": "127.0.0.1"},
        {"Via": "1.1 x"},
        {"X-Forwarded-Proto": "https"},
        {"Host": "203.0.113.5"},
        {"Host": "203.0.113.5:8000"},
        {"Host": "[2001:db8::1]"},
        {"CF-Connecting-IP": "::1"},
    ],
)
def test_what_a_proxy_passed_on_is_never_taken_for_a_program_here(served, headers):
    assert httpx.get(f"{served.url}/v1/models").status_code == 200
    refused = httpx.get(f"{served.url}/v1/models", headers=headers)
    assert refused.status_code == 401 and "API_KEY" in refused.json()["error"]["message"]


@pytest.mark.parametrize(
    "head",
    [
        "GET /v1/models HTTP/1.0",
        "GET /v1/models HTTP/1.1",
        "GET /v1/models HTTP/1.1\r\nHost: ",
        "GET /v1/models HTTP/1.1\r\nHost: localhost\r\nHost: evil.example",
        "GET /v1/models HTTP/1.1\r\nHost: localhost, evil.example",
        "GET http://evil.example/v1/models HTTP/1.1\r\nHost: evil.example",
        "GET /v1/models HTTP/1.1\r\nHost: localhost#evil.example",
        "GET /v1/models HTTP/1.1\r\nHost: a@localhost",
        "GET /v1/models HTTP/1.1\r\nHost: localhost\r\nForwarded: for=1.1.1.1",
        "GET /v1/models HTTP/1.1\r\nHost: localhost\r\nx-forwarded-for:",
    ],
)
def test_odd_hosts_are_no_local_name(served, head):
    status, content = raw(port_of(served.url), f"{head}\r\nConnection: close")
    assert status in (0, 400, 401, 421) and b"library" not in content


def test_a_server_that_others_reach_needs_a_key_or_has_a_widget():
    for settings in ({"proxy": "127.0.0.1"}, {"allow_host": (NAME,)}, {"host": "0.0.0.0"}):
        with pytest.raises(ConfigError, match="ASSISTANT_BUILDER_API_KEY"):
            check_access(ServingConfig(**settings), None)
        line, *_ = check_access(ServingConfig(widget=True, **settings), None)
        assert "only the paths of the widget" in line
        assert not any(
            "only the paths" in line
            for line in check_access(ServingConfig(widget=True, **settings), "k")
        )
    with pytest.raises(ConfigError, match="neither an address"):
        check_access(ServingConfig(proxy="nginx"), "k" * 16)


# visitors behind proxies


@pytest.fixture
def two_questions(monkeypatch: pytest.MonkeyPatch) -> None:
    """A visitor may ask two questions."""
    limits = Limits(questions=2)
    monkeypatch.setattr(widget, "Limits", lambda: limits)


@pytest.mark.usefixtures("two_questions")
def test_visitors_are_counted_by_what_the_proxy_saw(publish, study):
    served = publish(proxy="127.0.0.1, 10.0.0.0/8")

    def statuses(*requests: list[str]) -> list[int]:
        found = []
        for lines in requests:
            headers = [("origin", SITE), *(("x-forwarded-for", line) for line in lines)]
            found.append(
                httpx.post(
                    f"{served.url}/widget/ask",
                    headers=headers,
                    timeout=60,
                    content=json.dumps({"site": widget.site_token(study), **QUESTION}),
                ).status_code
            )
        return found

    assert statuses(
        ["1.1.1.1", "198.51.100.7"], ["2.2.2.2", "198.51.100.7"], ["3.3.3.3", "198.51.100.7"]
    ) == [200, 200, 429]
    assert statuses(*[[f"2001:db8:1:2::{number}"] for number in range(3)]) == [200, 200, 429]
    assert statuses(["2001:db8:1:3::1"]) == [200]
    assert statuses(["::ffff:198.51.100.8"], ["198.51.100.8"], ["::ffff:c633:6408"]) == [
        200,
        200,
        429,
    ]
    assert statuses(["x1"], ["y, x2"], ["x3"]) == [200, 200, 429], (
        "the proxy itself, where it says nothing valid"
    )
    assert statuses(["198.51.100.9, 10.1.1.1"], ["198.51.100.9, 10.1.1.2"], ["198.51.100.9"]) == [
        200,
        200,
        429,
    ]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A self-signed certificate and its key."""
    folder = tmp_path_factory.mktemp("certificate")
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "2",
            "-subj",
            f"/CN={NAME}",
            "-keyout",
            str(folder / "key.pem"),
            "-out",
            str(folder / "cert.pem"),
        ],
        check=True,
        capture_output=True,
    )
    return folder / "cert.pem", folder / "key.pem"


def block(language: str) -> str:
    """The lines of a proxy in the documentation."""
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", DOCS, re.MULTILINE | re.DOTALL)
    return str(found)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def running(command: list[str], folder: Path, port: int, **environment: str) -> Iterator[None]:
    """A proxy that listens on a port."""
    if shutil.which(command[0], path="/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/bin") is None:
        pytest.skip(f"{command[0]} is not installed")
    with (folder / "proxy.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=folder,
            stdout=log,
            stderr=log,
            env={
                "PATH": "/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/bin",
                "HOME": str(folder),
                **environment,
            },
        )
    try:
        deadline = time.monotonic() + 60
        while not listens(port):
            assert process.poll() is None and time.monotonic() < deadline, (
                folder / "proxy.log"
            ).read_text()
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait(30)


def visitor() -> httpx.HTTPTransport:
    """Connects from another address than that of the proxy."""
    return httpx.HTTPTransport(verify=False, local_address="127.0.0.2")


@contextmanager
def nginx(folder: Path, port: int, backend: int, certificate: tuple[Path, Path]) -> Iterator[None]:
    server = (
        block("nginx")
        .replace("listen 443 ssl;", f"listen 127.0.0.1:{port} ssl;")
        .replace("127.0.0.1:8000", f"127.0.0.1:{backend}")
    )
    for path, kind in zip(certificate, ("fullchain", "privkey"), strict=True):
        server = server.replace(f"/etc/letsencrypt/live/{NAME}/{kind}.pem", str(path))
    temporary = "".join(
        f"{kind}_temp_path {folder}/{kind};"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"daemon off; master_process off; pid {folder}/pid; error_log stderr;\nevents {{}}\n"
        f"http {{ access_log off; {temporary}\n{server} }}\n",
        encoding="utf-8",
    )
    with running(["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf")], folder, port):
        yield


@contextmanager
def caddy(folder: Path, port: int, backend: int, certificate: tuple[Path, Path]) -> Iterator[None]:
    cert, key = certificate
    site = block("caddy").replace(
        f"{NAME} {{\n", f"https://{NAME}:{port} {{\n  bind 127.0.0.1\n  tls {cert} {key}\n"
    )
    (folder / "Caddyfile").write_text(
        f"{{\n  admin off\n  auto_https disable_redirects\n  storage file_system {folder}\n}}\n"
        + site.replace("127.0.0.1:8000", f"127.0.0.1:{backend}"),
        encoding="utf-8",
    )
    with running(["caddy", "run", "--config", "Caddyfile", "--adapter", "caddyfile"], folder, port):
        yield


@contextmanager
def haproxy(
    folder: Path, port: int, backend: int, certificate: tuple[Path, Path]
) -> Iterator[None]:
    """Appends a line of X-Forwarded-For to those that the client sent."""
    pem = folder / "both.pem"
    pem.write_bytes(b"".join(path.read_bytes() for path in certificate))
    (folder / "haproxy.cfg").write_text(
        f"""
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 600s
frontend site
  bind 127.0.0.1:{port} ssl crt {pem}
  option forwardfor
  default_backend app
backend app
  server app 127.0.0.1:{backend}
""",
        encoding="utf-8",
    )
    with running(["haproxy", "-db", "-f", "haproxy.cfg"], folder, port):
        yield


def test_the_documented_lines_name_every_path_of_the_widget():
    for path in widget.PATHS:
        assert f"location = {path} {{ proxy_pass http://127.0.0.1:8000{path}; }}" in block("nginx")
        assert f" {path}" in block("caddy")
    line = re.search(r"<script.*</script>", block("php"))
    assert line
    assert line[0] == widget.embedding(f"https://{NAME}", "site-\u2026").replace("&#34;", '"')


def test_the_documented_service_runs_a_command_that_exists(tmp_path):
    unit = block("ini")
    (command,) = re.findall(r"^ExecStart=((?:.*\\\n)*.*)", unit, re.MULTILINE)
    program, *words = shlex.split(command.replace("\\\n", " "))
    assert program == "/opt/assistant/bin/assistant-builder"
    get_command(app).commands[words[0]].make_context(words[0], words[1:])
    if shutil.which("systemd-analyze"):
        path = tmp_path / "assistant.service"
        path.write_text(unit.replace(program, "/bin/true"), encoding="utf-8")
        done = subprocess.run(
            ["systemd-analyze", "verify", str(path)], capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.usefixtures("two_questions")
@pytest.mark.parametrize("proxy", [nginx, caddy])
def test_the_documented_lines_pass_the_widget_on_and_nothing_else(
    publish, study, tmp_path, certificate, proxy
):
    served, port = publish(allow_host=(NAME,), proxy="127.0.0.1"), free_port()
    with (
        proxy(tmp_path, port, port_of(served.url), certificate),
        httpx.Client(
            base_url=f"https://127.0.0.1:{port}",
            headers={"host": NAME},
            timeout=60,
            transport=visitor(),
        ) as client,
    ):
        extensions = {"sni_hostname": NAME}
        script = client.get("/widget.js", extensions=extensions)
        assert script.status_code == 200
        assert script.headers["cross-origin-resource-policy"] == "cross-origin"
        page = client.get("/chat", extensions=extensions)
        assert widget.site_token(study) in page.text
        content = json.dumps({"site": widget.site_token(study), **QUESTION})

        def post(path: str, **headers: str) -> httpx.Response:
            return client.post(
                path, content=content, headers={"origin": SITE, **headers}, extensions=extensions
            )

        assert post("/widget/start").json()["title"] == "library"
        answer = post("/widget/ask", origin=f"https://{NAME}")
        assert answer.status_code == 200
        assert "library-lora:hello" in answer.text.replace('"}\n\ndata: {"text": "', "")
        # a visitor who names other addresses stays the same visitor
        assert (
            post(
                "/widget/ask", **{"x-forwarded-for": "1.2.3.4", "forwarded": "for=1.2.3.4"}
            ).status_code
            == 200
        )
        assert (
            post(
                "/widget/ask", **{"x-forwarded-for": "1.2.3.5", "x-real-ip": "1.2.3.5"}
            ).status_code
            == 429
        )
        for path in ("/v1/models", "/v1/chat/completions", "/health", "/", "/docs"):
            assert client.get(path, extensions=extensions).status_code == 404
            assert (
                client.post(
                    path, json={"model": "library", **QUESTION}, extensions=extensions
                ).status_code
                == 404
            )
        assert_no_trick_leads_past(port)
        upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: eA=="
        assert raw(port, f"GET /v1/models HTTP/1.1\r\nHost: {NAME}\r\n{upgrade}", tls=True)[0] in (
            0,
            400,
            404,
        )
        # a second request in the body of the first
        smuggled = b"0\r\n\r\nGET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n"
        _, found = raw(
            port,
            f"POST /widget/start HTTP/1.1\r\nHost: {NAME}\r\nTransfer-Encoding: chunked\r\n"
            f"Content-Length: {len(smuggled)}\r\nConnection: close",
            smuggled,
            tls=True,
        )
        assert b"library-lora" not in found


@pytest.mark.usefixtures("two_questions")
def test_without_the_documented_lines_a_proxy_still_opens_the_widget_alone(
    publish, study, tmp_path, certificate
):
    """HAProxy passes everything on, and appends a line of X-Forwarded-For to those of the visitor."""
    served, port = publish(allow_host=(NAME,), proxy="127.0.0.1"), free_port()
    with (
        haproxy(tmp_path, port, port_of(served.url), certificate),
        httpx.Client(
            base_url=f"https://127.0.0.1:{port}",
            headers={"host": NAME},
            timeout=60,
            transport=visitor(),
        ) as client,
    ):
        assert [
            ask(client, study, **{"x-forwarded-for": f"203.0.113.{number}"}).status_code
            for number in range(3)
        ] == [200, 200, 429]
        assert client.get("/chat").status_code == 200
        assert_no_trick_leads_past(port)


def test_an_endpoint_without_a_key_stays_closed_behind_a_proxy_that_nobody_named(
    serve, tmp_path, certificate
):
    served, port = serve(app=make_app), free_port()
    assert httpx.get(f"{served.url}/v1/models").status_code == 200
    with haproxy(tmp_path, port, port_of(served.url), certificate):
        for host in ("127.0.0.1:8000", "localhost", "203.0.113.5"):
            answer = httpx.get(
                f"https://127.0.0.1:{port}/v1/models", headers={"host": host}, verify=False
            )
            assert answer.status_code == 401


def test_errors_of_a_version_on_a_cluster_do_not_change_the_terminal(monkeypatch, capsys):
    monkeypatch.setattr(ray_serve, "_PUBLISHED_SECONDS", 0)
    stop = threading.Event()

    class Models:
        @property
        def published(self) -> object:
            return object()

        def latest(self) -> None:
            stop.set()
            raise StudyError("\x1b]0;bad\x07\x9b2J", where="x")

    ray_serve.follow(cast("Any", Models()), ServingConfig(), None, stop)
    assert "is not served: x: \N{SYMBOL FOR ESCAPE}]0;bad" in (said := capsys.readouterr().err)
    assert not {"\x1b", "\x07", "\x9b"} & set(said)
