"""The server over HTTP: login, routes, files, uploads, start and shutdown."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from assistant_builder.ui.uploads import PREFIX, remove_stale_folders
from tests.browser.serving import PASSWORD, ROOT, USER, App, start_app
from tests.commands import command

HTML = {"accept": "text/html"}
ADDRESS = "/gradio_api/file="


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    limits = {"ASSISTANT_BUILDER_MAX_UPLOAD": "200kB", "ASSISTANT_BUILDER_MAX_UPLOADS": "30"}
    folder = tmp_path_factory.mktemp("server")
    # in the working folder of the server
    (folder / "secret.txt").write_text("not for the page", encoding="utf-8")
    site = start_app(folder, "--auth", USER, ASSISTANT_BUILDER_PASSWORD=PASSWORD, **limits)
    yield site
    site.process.send_signal(signal.SIGINT)
    assert site.process.wait(timeout=60) == 0


@pytest.fixture
def inside(site: App) -> Iterator[httpx.Client]:
    with site.logged_in() as client:
        yield client


def upload(client: httpx.Client, *files: tuple[str, bytes], **options: Any) -> httpx.Response:
    return client.post("/gradio_api/upload", files=[("files", file) for file in files], **options)


def test_every_route_needs_a_login(site):
    with site.client() as client:
        for path in tuple(
            """
            /config /gradio_api/info /assets/x.js /theme.css /gradio_api/startup-events
            /gradio_api/heartbeat/x /gradio_api/queue/data?session_hash=x
        """.split()
        ):
            assert client.get(path).status_code == 401, path
        assert upload(client, ("a.csv", b"a")).status_code == 401
        assert client.post("/gradio_api/queue/join", json={"data": []}).status_code == 401
        assert client.get("/", headers=HTML).headers["location"] == "/login"


def test_the_page_and_its_security_headers(inside):
    page = inside.get("/", headers=HTML)
    assert page.status_code == 200
    assert "window.gradio_config" in page.text
    assert "ab-session" in page.text
    assert page.text.index("requestFrame") < page.text.index("window.gradio_config"), (
        "before all scripts of gradio"
    )
    assert int(page.headers["content-length"]) == len(page.content)
    policy = page.headers["content-security-policy"]
    assert "frame-ancestors 'none'" in policy and "http" not in policy and "*" not in policy
    assert page.headers["x-content-type-options"] == "nosniff"
    assert page.headers["cache-control"] == "no-store"
    assert page.headers["referrer-policy"] == "same-origin" and "server" not in page.headers
    assert inside.get("/config").json()["username"] == "ann"


@pytest.mark.parametrize(
    "path",
    """
        /monitoring /monitoring/summary /gradio_api/proxy=https://x.hf.space/
        /gradio_api/vibe-code /gradio_api/file=http://127.0.0.1:1/ /gradio_api/token
        /gradio_api/deep_link?session_hash=x /docs /gradio_api/dev/reload /gradio_api/runs
        /openapi.json /gradio_api/openapi.json /gradio_api/mcp /gradio_api/startup-events
        /gradio_api/custom_component/a/client/b/c /pwa_icon /redoc
        /gradio_api/run-history/records /gradio_api/call/x
        /gradio_api/stream/a/b/1/playlist-file
    """.split(),
)
def test_unused_routes_are_not_found(inside, path):
    assert inside.get(path).status_code == 404
    assert inside.post(path, json={}).status_code == 404


def test_no_other_file_of_the_machine_is_served(inside, site):
    mine = upload(inside, ("mine.csv", b"question,answer\n")).json()[0]
    assert inside.get(ADDRESS + mine).text == "question,answer\n"
    folder = site.folder() / "files"
    (folder / "link").symlink_to("/etc")
    secrets = [
        "/etc/passwd",
        str(site.home / "browser.key"),
        str(site.log),
        "browser.key",
        "log.txt",
        "secret.txt",
        "/proc/self/environ",
        str(ROOT / "app.py"),
        f"{mine}/../../../../.in-use",
        f"{folder}/../.in-use",
        f"{folder}/link/passwd",
        str(folder),
        "../../secret.txt",
        "~/.bashrc",
        "file:///etc/passwd",
    ]
    for secret in secrets:
        for written in (
            secret,
            secret.replace("/", "%2f"),
            secret.replace("..", "%2e%2e"),
            secret.replace("/", "%252f"),
            secret.replace("/", "\\"),
        ):
            for route in (
                ADDRESS,
                "/file=",
                "/gradio_api/file/",
                "/gradio_api/download/",
                "/static/",
                "/assets/",
                "/svelte/",
                "/static/../",
            ):
                answer = inside.get(route + written)
                assert answer.status_code in (403, 404), (route, written)
                assert not any(
                    word in answer.text for word in ("root:", "not for the page", "import")
                ), written


def test_a_file_named_in_a_value_is_not_copied(inside, site):
    """Gradio would copy a file that an output names from the working folder or the temporary folder."""
    config = inside.get("/config").json()
    named = {"path": str(site.log.parent / "secret.txt"), "meta": {"_type": "gradio.FileData"}}
    files = [
        entry["id"] for entry in config["components"] if entry["type"] in ("file", "browserstate")
    ]
    events = [entry for entry in config["dependencies"] if set(files) & set(entry["inputs"])]
    assert events
    for event in events:
        data = [named if entry in files else None for entry in event["inputs"]]
        body = {"data": data, "fn_index": event["id"], "session_hash": "thief"}
        for path in ("/gradio_api/queue/join", "/gradio_api/run/predict"):
            answer = inside.post(path, json=body)
            assert answer.status_code == 403 and "not uploaded here" in answer.text


def test_upload_paths_are_unguessable_and_inside_the_folder(inside, site):
    names = [
        "a.csv",
        "../../b.csv",
        "..\\c.csv",
        "/etc/d.csv",
        "..",
        ".",
        "e\n.csv",
        "f" * 300 + ".csv",
        "שלום.csv",
    ]
    places = [Path(upload(inside, (name, b"x")).json()[0]) for name in names]
    for place in places:
        assert place.is_relative_to(site.folder() / "files") and place.read_bytes() == b"x"
        assert len(place.parent.parent.name) >= len("upload-") + 22
    assert len({place.parent.parent for place in places}) == len(places), (
        "equal files have different folders"
    )
    assert places[0].name == "a.csv" and places[1].name == "b.csv" and places[8].name == "שלום.csv"
    assert (site.folder().stat().st_mode & 0o777) == 0o700


def kept(site: App) -> set[str]:
    """Files and folders in the folder of uploads."""
    return {
        os.path.join(folder, name)
        for folder, folders, files in os.walk(site.folder() / "files")
        for name in (*folders, *files)
    }


def test_refused_uploads_leave_no_file(inside, site):
    before = kept(site)
    large = upload(inside, ("large.csv", b"x" * 300_000))
    assert large.status_code == 413 and "larger than 200 kB" in large.text

    def endless() -> Iterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="files"; filename="x.csv"\r\n\r\n'
        for _ in range(40):
            yield b"x" * 10_000

    form = {"content-type": "multipart/form-data; boundary=b"}
    assert inside.post("/gradio_api/upload", content=endless(), headers=form).status_code == 413
    many = upload(inside, *((f"{number}.csv", b"x") for number in range(5)))
    assert many.status_code == 400 and "Too many files" in many.text
    assert (
        inside.post("/gradio_api/upload", files={"files": (None, "x" * 50_000)}).status_code == 400
    )
    assert inside.post("/gradio_api/upload", content=b"broken", headers=form).status_code == 400
    assert inside.post("/gradio_api/upload", json={}).status_code == 400
    _break_off(inside, site)
    deadline = time.monotonic() + 20
    while kept(site) != before and time.monotonic() < deadline:
        time.sleep(0.1)
    assert kept(site) == before


def _break_off(client: httpx.Client, site: App) -> None:
    """Send half an upload, and disconnect after the server has started to write it."""
    head = (
        b'--b\r\nContent-Disposition: form-data; name="files"; filename="half.csv"\r\n\r\n'
        + b"x" * 90_000
    )
    cookie = "; ".join(f"{name}={value}" for name, value in client.cookies.items())
    lines = [
        "POST /gradio_api/upload HTTP/1.1",
        f"Host: {client.base_url.netloc.decode()}",
        f"Cookie: {cookie}",
        "Content-Type: multipart/form-data; boundary=b",
        "Content-Length: 150000",
        "",
        "",
    ]
    before = kept(site)
    with socket.create_connection((client.base_url.host, client.base_url.port or 80)) as raw:
        raw.sendall("\r\n".join(lines).encode() + head)
        deadline = time.monotonic() + 20
        while kept(site) == before:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_the_number_of_stored_uploads_is_limited(inside, site):
    answers = [upload(inside, (f"{number}.csv", b"x")) for number in range(31)]
    full = [answer for answer in answers if answer.status_code != 200]
    assert full and {answer.status_code for answer in full} == {507} and "Try again" in full[0].text
    folders = list((site.folder() / "files").glob("upload-*"))
    assert len(folders) == 30
    # the first two were uploaded while the clock was ahead
    for number, folder in enumerate(folders):
        os.utime(folder, (time.time() + (86_400 if number < 2 else 0),) * 2)
    for _ in range(2):
        assert upload(inside, ("new.csv", b"x")).status_code == 200
    assert upload(inside, ("new.csv", b"x")).status_code == 507
    for folder in folders[2:]:
        os.utime(folder, (time.time() - 7200,) * 2)
    assert upload(inside, ("new.csv", b"x")).status_code == 200, "old uploads are removed"
    for folder in folders:
        os.utime(folder, (time.time() - 7200,) * 2) if folder.exists() else None


def test_streams_end_with_the_session(site):
    with site.logged_in() as client, site.client() as other:
        other.cookies = client.cookies
        with client.stream("GET", "/gradio_api/heartbeat/x") as heart:
            news = heart.iter_text()
            assert "ALIVE" in next(news)
            assert other.post("/logout").status_code == 303
            began = time.monotonic()
            assert "".join(news) == "" and time.monotonic() - began < 10


def test_the_password_is_not_stored_or_logged(site):
    with site.client() as client:
        client.post("/login", data={"username": PASSWORD, "password": "canary-typed"})
        client.get(f"/?password={PASSWORD}")
    process = psutil.Process(site.process.pid)
    assert PASSWORD not in " ".join(process.cmdline())
    log = site.log.read_text(encoding="utf-8")
    assert "login refused from 127.0.0.1" in log and "canary" not in log
    for path in (*site.home.rglob("*"), *site.temporary.rglob("*")):
        assert not path.is_file() or b"canary" not in path.read_bytes(), path


def test_it_listens_on_localhost_only(site):
    port = int(site.url.rpartition(":")[2])
    found = psutil.Process(site.process.pid).net_connections()
    assert [tuple(entry.laddr) for entry in found if entry.status == "LISTEN"] == [
        ("127.0.0.1", port)
    ]


def run_app(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    own = {"ASSISTANT_BUILDER_HOME": str(folder / "home"), "PYTHONPATH": str(ROOT)}
    no_input = subprocess.DEVNULL
    return command("app", *words, ends=1, cwd=folder, env=own | environment, stdin=no_input)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--host", "0.0.0.0"], "other machines can reach 0.0.0.0, so the page needs a login"),
        (["--auth", "ann"], "there is no password for 'ann'"),
        (["--certificate", "c.pem"], "HTTPS needs a certificate and its key"),
        (["--host", "no-such-host.invalid", "--auth", "ann"], "not an address of this machine"),
    ],
)
def test_a_refused_start_prints_one_line(tmp_path, words, message):
    given = {"ASSISTANT_BUILDER_PASSWORD": "x"} if "no-such-host.invalid" in words else {}
    done = run_app(tmp_path, "--port", "0", *words, **given)
    assert message in done.stderr and "Traceback" not in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_port_in_use_is_reported(site, tmp_path):
    port = site.url.rpartition(":")[2]
    done = run_app(tmp_path, "--port", port)
    assert f"port {port} is in use" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.long
def test_it_stops_cleanly_with_streams_open(tmp_path):
    site = start_app(tmp_path)
    with site.client() as client:
        client.get(site.start_url)
        with client.stream("GET", "/gradio_api/heartbeat/x") as heart:
            assert "ALIVE" in next(heart.iter_text())
            site.process.terminate()
            assert site.process.wait(timeout=60) == 128 + signal.SIGTERM
    assert "Traceback" not in site.log.read_text(encoding="utf-8")
    assert list(site.temporary.glob(f"{PREFIX}*")) == [], "uploads are deleted with the server"


@pytest.mark.long
def test_the_folder_of_a_killed_server_is_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    code = (
        "import os, sys\nfrom assistant_builder.ui.uploads import server_folder\n"
        "print(server_folder(), flush=True)\n"
        "if sys.argv[1] == 'die':\n    os._exit(9)\nsys.stdin.read()"
    )
    words = [sys.executable, "-c", code]
    settings = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    dead = Path(
        subprocess.run([*words, "die"], capture_output=True, text=True, env=settings).stdout.strip()
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([*words, "live"], text=True, env=settings, **pipes) as it:
        assert it.stdout is not None and it.stdin is not None
        live = Path(it.stdout.readline().strip())
        assert remove_stale_folders() == 0, "a new folder may belong to a starting server"
        for folder in (dead, live):
            os.utime(folder, (time.time() - 3600,) * 2)
        assert remove_stale_folders() == 1 and live.exists() and not dead.exists()
        it.stdin.close()
    assert not live.exists()
