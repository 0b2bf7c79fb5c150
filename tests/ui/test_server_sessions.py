"""What the server keeps of windows does not grow with what is done in them, nor with how many were closed.

Two people who know the password: each has windows and uploads of their own, and the studies are of both.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import httpx
import pytest

from assistant_builder.ui.refresh import Page
from assistant_builder.ui.server import CLOSED_KEPT, BoundedStateHolder, page_app
from assistant_builder.web.access import Access
from tests.browser.serving import App, guarded_app, start_app
from tests.ui.blocks import inside_blocks


@pytest.fixture
def demo() -> gr.Blocks:
    """A box that each event reads and makes anew."""

    def build() -> gr.Blocks:
        box = gr.Textbox("0")
        gr.Button().click(lambda text: gr.update(value=str(int(text) + 1), label=f"after {text}"), box, box)
        assert isinstance(box.parent, gr.Blocks)
        return box.parent

    return inside_blocks(build)


def test_events_leave_nothing_behind_but_their_outcome(demo: gr.Blocks) -> None:
    (function,) = demo.fns
    counts = []

    async def six_events() -> None:
        app, stop = page_app(Page(demo, []), Access())
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
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
    assert [part.label for part in parts if isinstance(part, gr.Textbox)] == ["after 5"], "the next event knows of it"


def test_closed_windows_are_forgotten_and_open_ones_kept(demo: gr.Blocks) -> None:
    windows = BoundedStateHolder()
    windows.set_blocks(demo)
    for number in range(3 * CLOSED_KEPT):
        window = windows[f"closed {number}"]
        window.is_closed = True
        windows[f"open {number}"]
    kept = set(windows.session_data)
    last = range(2 * CLOSED_KEPT, 3 * CLOSED_KEPT)
    assert kept == {f"open {number}" for number in range(3 * CLOSED_KEPT)} | {f"closed {number}" for number in last}
    assert set(windows.time_last_used) == kept


WINDOW = "k3j9d0s8f7"
FILE = "/gradio_api/file="


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    with guarded_app(tmp_path_factory.mktemp("two")) as app:
        yield app


@pytest.fixture
def people(site: App) -> Iterator[tuple[httpx.Client, httpx.Client]]:
    with site.logged_in() as one, site.logged_in() as other:
        yield one, other


def upload(client: httpx.Client, **options: Any) -> str:
    answer = client.post("/gradio_api/upload", files={"files": ("pairs.csv", b"question,answer\na,b\n")}, **options)
    assert answer.status_code == 200
    return str(answer.json()[0])


def follow(client: httpx.Client, window: str) -> httpx.Response:
    """What the page does every now and then."""
    events = client.get("/config").json()["dependencies"]
    number = next(event["id"] for event in events if event["api_name"] == "follow")
    body = {"data": [None, "{}"], "fn_index": number, "session_hash": window}
    return client.post("/gradio_api/run/predict", json=body)


def join(client: httpx.Client, window: str) -> httpx.Response:
    events = client.get("/config").json()["dependencies"]
    event = next(event for event in events if event["queue"] is not False and event["backend_fn"])
    body = {"data": [None] * len(event["inputs"]), "fn_index": event["id"], "session_hash": window}
    return client.post("/gradio_api/queue/join", json=body)


def test_a_window_answers_only_the_login_that_opened_it(people: tuple[httpx.Client, httpx.Client]) -> None:
    one, other = people
    assert follow(one, WINDOW).status_code == 200
    joined = join(one, WINDOW)
    assert joined.status_code == 200
    cancel = {"session_hash": WINDOW, "fn_index": 0, "event_id": joined.json()["event_id"]}
    asked: list[Callable[[], httpx.Response]] = [
        lambda: follow(other, WINDOW), lambda: join(other, WINDOW),
        lambda: other.post("/gradio_api/cancel", json=cancel),
        lambda: other.get("/gradio_api/queue/data", params={"session_hash": WINDOW}),
        lambda: other.get(f"/gradio_api/queue/data?session_hash=mine&session_hash={WINDOW}"),
        lambda: other.get(f"/gradio_api/heartbeat/{WINDOW}"),
    ]
    for ask in asked:
        answer = ask()
        assert answer.status_code == 403 and answer.headers["x-log-in"] == "/login", answer.text
    other_event = {**cancel, "session_hash": "of the other"}
    assert other.post("/gradio_api/cancel", json=other_event).status_code == 404, "an event of somebody else's window"
    with one.stream("GET", "/gradio_api/queue/data", params={"session_hash": WINDOW}) as stream:
        said = "".join(stream.iter_text())
    assert joined.json()["event_id"] in said and "process_completed" in said, "the owner hears of the event"
    assert follow(one, WINDOW).status_code == 200


def test_a_reload_opens_another_window_and_the_old_one_stays(people: tuple[httpx.Client, httpx.Client]) -> None:
    one, other = people
    assert one.get("/", headers={"accept": "text/html"}).status_code == 200
    assert follow(one, "before").status_code == follow(one, "after").status_code == 200
    assert follow(one, "before").status_code == 200 and follow(other, "own").status_code == 200


def test_a_window_does_not_pass_to_the_next_login(site: App) -> None:
    with site.logged_in() as client:
        assert follow(client, "evening").status_code == 200
        client.post("/logout")
        client.cookies.clear()
    with site.logged_in() as later:
        assert follow(later, "evening").status_code == 403


def test_an_upload_is_read_by_the_login_that_made_it(people: tuple[httpx.Client, httpx.Client]) -> None:
    one, other = people
    place = upload(one, params={"upload_id": "progress"})
    assert one.get(FILE + place).text == "question,answer\na,b\n"
    for written in (place, place.replace("/upload-", "/UPLOAD-"), place.replace("/upload-", "/x/../upload-")):
        assert other.get(FILE + written).status_code in (403, 404), written
    assert other.get("/gradio_api/upload_progress", params={"upload_id": "progress"}).status_code == 403
    named = {"path": place, "meta": {"_type": "gradio.FileData"}}
    through = {"path": str(Path(place).parent), "url": f"{other.base_url}{FILE[1:]}{place}",
               "meta": {"_type": "gradio.FileData"}}
    for file in (named, through):
        body = {"data": [file], "fn_index": 0, "session_hash": "thief"}
        for path in ("/gradio_api/queue/join", "/gradio_api/run/predict"):
            assert other.post(path, json=body).status_code == 403
    one.get("/", headers={"accept": "text/html"})  # a reload
    assert one.get(FILE + place).status_code == 200


def test_what_is_offered_and_what_is_on_disk_is_of_both(site: App, people: tuple[httpx.Client, httpx.Client]) -> None:
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


def test_without_a_password_nothing_belongs_to_anybody(tmp_path: Path) -> None:
    app = start_app(tmp_path)
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
