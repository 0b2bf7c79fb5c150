"""The page as ``assistant-builder app`` serves it to the users of a machine: the token, and another user without it."""

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator

import httpx
import psutil
import pytest

from assistant_builder.ui.uploads import PREFIX
from assistant_builder.web.access import is_readable_by_others
from tests.browser.serving import ROOT, App, free_port, serving, start_app
from tests.commands import python

HTML = {"accept": "text/html"}
ROUTES = tuple(
    """
    / /config /theme.css /gradio_api/info /gradio_api/heartbeat/x /gradio_api/app_id
    /gradio_api/queue/data?session_hash=x /gradio_api/queue/status
    /gradio_api/upload_progress?upload_id=x /gradio_api/file=/etc/passwd /static/img/logo.svg
    /assets/index.js /svelte/x.js /robots.txt /favicon.ico /pulse?study=x
    /gradio_api/startup-events /gradio_api/token // /./ /%2e /%2e%2e/ /%2f /;/ //127.0.0.1/ /?
    /?token /?token= /login%3f /login/ /login// /login/%2e%2e/config /login;/../config /active
    /x?token=%s http://127.0.0.1/config /%00
""".split()
)


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    app = start_app(tmp_path_factory.mktemp("token"), HF_TOKEN="hf_other")
    yield app
    app.process.terminate()
    app.process.wait(timeout=60)


@pytest.fixture
def token(app: App) -> str:
    return app.start_url.partition("token=")[2]


def raw(app: App, method: str, target: str, *headers: str) -> tuple[int, str]:
    """Send a request whose target no client changes; returns status and response."""
    port = int(app.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        lines = [
            f"{method} {target} HTTP/1.1",
            f"Host: 127.0.0.1:{port}",
            "Connection: close",
            *headers,
            "",
            "",
        ]
        connection.sendall("\r\n".join(lines).encode())
        answer = b"".join(iter(lambda: connection.recv(65_536), b"")).decode(errors="replace")
    return int(answer.split(" ", 2)[1]), answer


def test_the_printed_address_opens_the_page(app, token):
    with app.client(headers=HTML) as client:
        assert client.get("/").headers["location"] == "/login"
        assert client.get(app.start_url).headers["location"] == "/"
        page = client.get("/")
        assert page.status_code == 200
        assert "window.gradio_config" in page.text
        assert token not in page.text
        assert page.headers["referrer-policy"] == "same-origin"
        assert client.get("/config").json().get("username") is None
        assert token not in client.get("/config").text
        assert client.get("/pulse", params={"study": "x"}).is_success
        place = client.post("/gradio_api/upload", files={"files": ("a.csv", b"a,b\n")}).json()[0]
        assert client.get(f"/gradio_api/file={place}").text == "a,b\n"
    with app.client() as other:
        assert other.get(f"/gradio_api/file={place}").status_code == 401
        other.headers["authorization"] = f"Bearer {token}"
        assert other.get("/config").is_success
        assert other.get(f"/gradio_api/file={place}").status_code == 404, (
            "uploads belong to the browser that sent them"
        )


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "OPTIONS", "TRACE", "PROPFIND"])
def test_no_route_opens_without_the_token(app, token, method):
    for route in ROUTES:
        status, answer = raw(app, method, route.replace("%s", token), "Accept: */*")
        assert status in (400, 401, 405, 429), (route, answer)
        assert "gradio_config" not in answer and "set-cookie" not in answer.lower(), route


def test_a_websocket_is_refused(app):
    upgrade = (
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    )
    assert raw(app, "GET", "/gradio_api/queue/join", *upgrade)[0] == 401


def test_a_smuggled_second_request_is_refused(app):
    body = "GET /config HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    for sent in (f"Content-Length: {len(body)}", "Transfer-Encoding: chunked"):
        status, answer = raw(
            app, "POST", "/login", sent, "Content-Type: application/x-www-form-urlencoded", "", body
        )
        assert status in (400, 401, 429)
        assert "gradio_config" not in answer
        assert '"components"' not in answer


@pytest.mark.skipif(
    os.name != "posix" or os.geteuid() != 0 or not shutil.which("curl"),
    reason="needs root and curl",
)
def test_another_user_of_the_machine_gets_nothing(app, token):
    """What ``nobody`` reaches: the address, /proc, and the files of the temporary folder."""
    with app.client() as client:
        client.get(app.start_url)
        client.post("/gradio_api/upload", files={"files": ("a.csv", b"a,b\n")})

    def as_nobody(*command: str) -> str:
        done = subprocess.run(
            command, user="nobody", group=65_534, extra_groups=[], capture_output=True, cwd="/"
        )
        return (done.stdout + done.stderr).decode(errors="replace")

    assert as_nobody("id", "-un").strip() == "nobody"
    for path in ("/", "/?study=", "/config", "/gradio_api/info", "/login"):
        answer = as_nobody("curl", "-s", "-i", "-H", "Accept: text/html", f"{app.url}{path}")
        assert token not in answer
        assert "gradio_config" not in answer
        assert "set-cookie" not in answer.lower()
    join = as_nobody(
        "curl",
        "-s",
        "-i",
        "-H",
        "Content-Type: application/json",
        "-d",
        '{"fn_index": 0, "data": [], "session_hash": "x"}',
        f"{app.url}/gradio_api/queue/join",
    )
    assert " 401 " in join.splitlines()[0]
    processes = [
        app.process.pid,
        *(child.pid for child in psutil.Process(app.process.pid).children(recursive=True)),
    ]
    for pid in processes:
        read = as_nobody(
            "cat", *(f"/proc/{pid}/{name}" for name in ("cmdline", "environ", "fd/1", "maps"))
        )
        assert token not in read
    folder = next(app.temporary.glob(f"{PREFIX}*"))
    assert "Permission denied" in as_nobody("ls", str(folder))
    assert (folder.stat().st_mode & 0o077) == 0


def test_the_token_is_only_in_the_printed_line(app, token):
    with app.client(headers=HTML) as client:
        for query in (f"token={token}x", f"token={token}", f"study={token}"):
            client.get(f"/?{query}")
        client.post("/login", data={"token": f"{token}x"})
        client.get("/config", headers={"authorization": f"Bearer {token}x"})
    log = app.log.read_text(encoding="utf-8")
    assert log.count(token) == 1
    assert re.search(rf"is at {re.escape(app.url)}/\?token={token} \(", log)
    assert "other users may read" in log, "the log of this test has the usual mode"
    for path in (*app.home.rglob("*"), *app.temporary.rglob("*")):
        assert not path.is_file() or token.encode() not in path.read_bytes(), path
    for process in (
        psutil.Process(app.process.pid),
        *psutil.Process(app.process.pid).children(recursive=True),
    ):
        assert token not in " ".join([*process.cmdline(), *process.environ().values()])


@pytest.mark.long
def test_a_restart_ends_the_old_token_and_cookie(tmp_path):
    """Also of ``python app.py``, on the same port."""
    (tmp_path / "home").mkdir()
    port = free_port()
    with httpx.Client(headers=HTML, timeout=120) as browser:
        with serving(tmp_path / "home", port) as before:
            assert browser.get(before.start_url).headers["location"] == "/"
            assert browser.get(before.url).status_code == 200
        with serving(tmp_path / "home", port) as after:
            assert after.start_url != before.start_url
            answer = browser.get(after.url, follow_redirects=True)
            assert answer.url.path == "/login" and len(answer.history) == 1
            assert browser.get(before.start_url).status_code == 401
            assert browser.get(after.start_url).headers["location"] == "/"
            assert browser.get(after.url).status_code == 200


@pytest.mark.long
def test_the_token_goes_to_no_other_server_of_the_same_name(tmp_path):
    """``localhost`` has two addresses, and another user may listen at the one that is free."""
    app = start_app(tmp_path, "--host", "localhost")
    try:
        host, _, port = app.url.removeprefix("http://").rpartition(":")
        connections = psutil.Process(app.process.pid).net_connections()
        served = [tuple(entry.laddr) for entry in connections if entry.status == "LISTEN"]
        assert served == [(host.strip("[]"), int(port))], "what was printed"
        with app.client(headers={**HTML, "host": f"localhost:{port}"}) as client:
            assert client.get(app.start_url).headers["location"] == "/", "the name still works"
    finally:
        app.process.terminate()
        app.process.wait(timeout=60)


def test_a_file_that_others_may_read_is_recognised(tmp_path):
    for mode, open_to_others in ((0o644, True), (0o604, True), (0o640, True), (0o600, False)):
        path = tmp_path / f"{mode:o}"
        with path.open("w") as file:
            path.chmod(mode)
            assert is_readable_by_others(file) is open_to_others
    with tempfile.TemporaryFile("w") as file:
        assert not is_readable_by_others(file)
    with subprocess.Popen([sys.executable, "-c", ""], stdin=subprocess.PIPE, text=True) as child:
        assert child.stdin is not None and not is_readable_by_others(child.stdin), "a pipe"


def test_gradio_serves_the_page_of_app_py_itself(home):
    """Scripts that use ``demo`` without the page's server need no token."""
    code = (
        "import app, gradio, httpx, sys\nassert isinstance(app.demo, gradio.Blocks)\n"
        "_, url, _ = app.demo.launch(prevent_thread_lock=True, quiet=True, server_port=int(sys.argv[1]))\n"
        "print(httpx.get(url + 'config').status_code)\napp.demo.close()"
    )
    assert python("-c", code, free_port(), cwd=ROOT).stdout.startswith("200")
