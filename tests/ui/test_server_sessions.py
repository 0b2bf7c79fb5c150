"""Window state on the server: its size, its owner, and the private parts of gradio that it depends on.

Users share the studies, but each login has its own windows and uploads.
"""

import asyncio
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import httpx
import pytest
from fastapi import FastAPI
from gradio.routes import App
from starlette.routing import Mount

from assistant_builder.ui import gradio_internals
from assistant_builder.ui.gradio_internals import MAX_CLOSED_WINDOWS, BoundedStateHolder
from assistant_builder.ui.refresh import Page
from assistant_builder.ui.server import page_app
from assistant_builder.web.access import Access
from tests.browser.serving import App as ServedApp
from tests.browser.serving import guarded_app, start_app
from tests.ui.blocks import inside_blocks


@pytest.fixture
def demo() -> gr.Blocks:
    """A text box that each event reads and updates."""

    def build() -> gr.Blocks:
        box = gr.Textbox("0")
        gr.Button().click(
            lambda text: gr.update(value=str(int(text) + 1), label=f"after {text}"), box, box
        )
        assert isinstance(box.parent, gr.Blocks)
        return box.parent

    return inside_blocks(build)


def test_the_state_of_a_window_does_not_grow_with_its_events(demo):
    (function,) = demo.fns
    counts = []

    async def six_events() -> None:
        app, stop = page_app(Page(demo, []), Access(allow_without_password=True))
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://localhost"
        ) as client:
            for turn in range(6):
                body = {"data": [str(turn)], "fn_index": function, "session_hash": "window"}
                answer = (await client.post("/gradio_api/run/predict", json=body)).json()
                assert answer["data"][0]["value"] == str(turn + 1)
                window = demo.state_holder.session_data["window"]
                counts.append((len(window.blocks_config.blocks), len(window.config_values)))

        stop()

    asyncio.run(six_events())
    assert len(set(counts)) == 1, counts
    parts = demo.state_holder.session_data["window"].blocks_config.blocks.values()
    assert [part.label for part in parts if isinstance(part, gr.Textbox)] == ["after 5"], (
        "the update is read"
    )


def test_old_closed_windows_are_deleted_and_open_ones_kept(demo):
    windows = BoundedStateHolder()
    windows.set_blocks(demo)
    for number in range(3 * MAX_CLOSED_WINDOWS):
        window = windows[f"closed {number}"]
        window.is_closed = True
        windows[f"open {number}"]
    kept = set(windows.session_data)
    last = range(2 * MAX_CLOSED_WINDOWS, 3 * MAX_CLOSED_WINDOWS)
    still_open = {f"open {number}" for number in range(3 * MAX_CLOSED_WINDOWS)}
    assert kept == still_open | {f"closed {number}" for number in last}
    assert set(windows.time_last_used) == kept


PRIVATE_PARTS = {
    "gradio.Blocks": tuple(
        """
        fns state_holder has_launched is_running upload_file_set process_api preprocess_data
        call_function
    """.split()
    ),
    "gradio.queueing.Queue": tuple(
        """
        pending_event_ids_session pending_messages_per_session close sleep_when_free
        progress_update_sleep_when_free
    """.split()
    ),
    "gradio.routes.App": ("state_holder", "stop_event"),
    "gradio.state_holder.StateHolder": tuple(
        "blocks session_data time_last_used lock update".split()
    ),
    "gradio.state_holder.SessionState": ("is_closed", "__setitem__"),
}
"""Class of gradio → attributes that ``ui/gradio_internals.py`` uses without a promise of gradio."""


def test_gradio_still_has_the_private_parts_in_use(demo):
    async def mounted() -> dict[str, Any]:
        outer = FastAPI()
        gr.mount_gradio_app(outer, demo.queue(), path="/")
        apps = [
            route.app
            for route in outer.routes
            if isinstance(route, Mount) and isinstance(route.app, App)
        ]
        assert apps, (
            "gradio.mount_gradio_app no longer mounts a gradio.routes.App, whose state ui/gradio_internals.py replaces"
        )
        windows = apps[0].state_holder
        return {
            "gradio.Blocks": demo,
            "gradio.queueing.Queue": demo._queue,
            "gradio.routes.App": apps[0],
            "gradio.state_holder.StateHolder": windows,
            "gradio.state_holder.SessionState": windows["window"],
        }

    assert hasattr(demo, "_queue"), (
        "gradio.Blocks no longer has _queue, which assistant_builder/ui uses"
    )
    assert gr.EventData(None, {})._data == {}, "gradio.EventData no longer has _data"
    for name, found in asyncio.run(mounted()).items():
        for part in PRIVATE_PARTS[name]:
            assert hasattr(found, part), (
                f"{name} no longer has {part}, which assistant_builder/ui uses"
            )


def test_no_other_module_of_the_page_uses_private_parts():
    folder = Path(gradio_internals.__file__).parent
    private = re.compile(r"(?<!self)(?<!cls)(?<!super\(\))\._(?!_|replace\b)[a-z]\w*")
    uses = [
        f"{path.name}:{number}: {line.strip()}"
        for path in sorted(folder.rglob("*.py"))
        if path.name != "gradio_internals.py"
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if private.search(line)
    ]
    assert uses == []


WINDOW = "k3j9d0s8f7"
FILE = "/gradio_api/file="


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedApp]:
    with guarded_app(tmp_path_factory.mktemp("two")) as app:
        yield app


@pytest.fixture
def people(site: ServedApp) -> Iterator[tuple[httpx.Client, httpx.Client]]:
    with site.logged_in() as one, site.logged_in() as other:
        yield one, other


def upload(client: httpx.Client, **options: Any) -> str:
    answer = client.post(
        "/gradio_api/upload", files={"files": ("pairs.csv", b"question,answer\na,b\n")}, **options
    )
    assert answer.status_code == 200
    return str(answer.json()[0])


def follow(client: httpx.Client, window: str) -> httpx.Response:
    """Send the event with which the page redraws itself."""
    events = client.get("/config").json()["dependencies"]
    number = next(event["id"] for event in events if event["api_name"] == "follow")
    body = {"data": [None, "{}"], "fn_index": number, "session_hash": window}
    return client.post("/gradio_api/run/predict", json=body)


def join(client: httpx.Client, window: str) -> httpx.Response:
    events = client.get("/config").json()["dependencies"]
    event = next(event for event in events if event["queue"] is not False and event["backend_fn"])
    body = {"data": [None] * len(event["inputs"]), "fn_index": event["id"], "session_hash": window}
    return client.post("/gradio_api/queue/join", json=body)


def test_a_window_answers_only_the_login_that_opened_it(people):
    one, other = people
    assert follow(one, WINDOW).status_code == 200
    joined = join(one, WINDOW)
    assert joined.status_code == 200
    cancel = {"session_hash": WINDOW, "fn_index": 0, "event_id": joined.json()["event_id"]}
    requests: list[Callable[[], httpx.Response]] = [
        lambda: follow(other, WINDOW),
        lambda: join(other, WINDOW),
        lambda: other.post("/gradio_api/cancel", json=cancel),
        lambda: other.get("/gradio_api/queue/data", params={"session_hash": WINDOW}),
        lambda: other.get(f"/gradio_api/queue/data?session_hash=mine&session_hash={WINDOW}"),
        lambda: other.get(f"/gradio_api/heartbeat/{WINDOW}"),
    ]
    for request in requests:
        answer = request()
        assert answer.status_code == 403 and answer.headers["x-log-in"] == "/login", answer.text
    other_event = {**cancel, "session_hash": "of the other"}
    assert other.post("/gradio_api/cancel", json=other_event).status_code == 404, (
        "an event of another window"
    )
    with one.stream("GET", "/gradio_api/queue/data", params={"session_hash": WINDOW}) as stream:
        received = "".join(stream.iter_text())
    assert joined.json()["event_id"] in received and "process_completed" in received, (
        "the owner receives the result"
    )
    assert follow(one, WINDOW).status_code == 200


def test_a_reload_opens_a_new_window_and_the_old_one_remains(people):
    one, other = people
    assert one.get("/", headers={"accept": "text/html"}).status_code == 200
    assert follow(one, "before").status_code == follow(one, "after").status_code == 200
    assert follow(one, "before").status_code == 200 and follow(other, "own").status_code == 200


def test_a_window_is_not_available_to_the_next_login(site):
    with site.logged_in() as client:
        assert follow(client, "evening").status_code == 200
        client.post("/logout")
        client.cookies.clear()
    with site.logged_in() as later:
        assert follow(later, "evening").status_code == 403


def test_an_upload_belongs_to_its_login(people):
    one, other = people
    place = upload(one, params={"upload_id": "progress"})
    assert one.get(FILE + place).text == "question,answer\na,b\n"
    for written in (
        place,
        place.replace("/upload-", "/UPLOAD-"),
        place.replace("/upload-", "/x/../upload-"),
    ):
        assert other.get(FILE + written).status_code in (403, 404), written
    assert (
        other.get("/gradio_api/upload_progress", params={"upload_id": "progress"}).status_code
        == 403
    )
    named = {"path": place, "meta": {"_type": "gradio.FileData"}}
    through = {
        "path": str(Path(place).parent),
        "url": f"{other.base_url}{FILE[1:]}{place}",
        "meta": {"_type": "gradio.FileData"},
    }
    for file in (named, through):
        body = {"data": [file], "fn_index": 0, "session_hash": "thief"}
        for path in ("/gradio_api/queue/join", "/gradio_api/run/predict"):
            assert other.post(path, json=body).status_code == 403
    one.get("/", headers={"accept": "text/html"})  # a reload
    assert one.get(FILE + place).status_code == 200


def test_downloads_and_studies_are_shared(site, people):
    one, other = people
    offered = site.folder() / "files" / "0a1b2c" / "report.html"
    offered.parent.mkdir()
    offered.write_text("a report", encoding="utf-8")
    assert one.get(f"{FILE}{offered}").text == other.get(f"{FILE}{offered}").text == "a report"
    before = one.get("/pulse", params={"study": "shared"}).text
    (site.home / "studies" / "shared").mkdir(parents=True)
    (site.home / "studies" / "shared" / "study.yaml").write_text("name: shared\n", encoding="utf-8")
    seen = {client.get("/pulse", params={"study": "shared"}).text for client in people}
    assert len(seen) == 1 and seen != {before}


@pytest.mark.long
def test_without_a_password_nothing_has_an_owner(tmp_path):
    app = start_app(tmp_path, "--without-password")
    try:
        with app.client() as one, app.client() as other:
            place = upload(one)
            assert other.get(FILE + place).status_code == 200
            assert follow(one, WINDOW).status_code == follow(other, WINDOW).status_code == 200
            joined = join(one, WINDOW)
            answer = other.get("/gradio_api/queue/data", params={"session_hash": WINDOW})
            assert json.dumps(joined.json()["event_id"]) in answer.text
    finally:
        app.process.terminate()
        app.process.wait(timeout=120)
