"""Requests for unknown events or with unexpected values: the response is 4xx and the page keeps working."""

import json
import random
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.browser.serving import App, guarded_app

PREDICT, JOIN, CANCEL = "/gradio_api/run/predict", "/gradio_api/queue/join", "/gradio_api/cancel"
ODD: list[Any] = json.loads(
    r'[null, "", "x", "[", "null", 5, -1.5, 1e308, [], ["a"], {}, {"a": 1}, true, "\u202e", [[]], {"path": 1}]'
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    with guarded_app(tmp_path_factory.mktemp("odd")) as app:
        yield app


@pytest.fixture(scope="module")
def inside(site: App) -> Iterator[httpx.Client]:
    with site.logged_in() as client:
        yield client


def events(client: httpx.Client) -> list[dict[str, Any]]:
    """The events of the page that run on the server."""
    return [event for event in client.get("/config").json()["dependencies"] if event["backend_fn"]]


def send(client: httpx.Client, path: str, body: Any) -> httpx.Response:
    content = body if isinstance(body, str) else json.dumps(body)
    return client.post(path, content=content, headers={"content-type": "application/json"})


@pytest.mark.parametrize("path", [PREDICT, JOIN])
@pytest.mark.parametrize("number", [-1, 99_999, 10**30, None, "0", 1.0, True, [], {}, "\ud800"])
def test_an_event_that_does_not_exist_is_not_found(inside, path, number):
    answer = send(inside, path, {"data": [], "fn_index": number, "session_hash": "odd"})
    assert 400 <= answer.status_code < 500, answer.text


def test_a_javascript_only_event_is_not_found(inside):
    javascript_only = [
        event for event in inside.get("/config").json()["dependencies"] if not event["backend_fn"]
    ]
    assert javascript_only
    for event in javascript_only:
        body = {
            "data": [None] * len(event["inputs"]),
            "fn_index": event["id"],
            "session_hash": "odd",
        }
        assert send(inside, PREDICT, body).status_code == 404


@pytest.mark.parametrize("path", [PREDICT, JOIN, CANCEL, "/gradio_api/reset"])
@pytest.mark.parametrize(
    "body",
    [
        "[]",
        "null",
        "7",
        '"x"',
        "{}",
        '{"data": null}',
        '{"data": "x", "fn_index": 0}',
        '{"session_hash": {}}',
        '{"session_hash": "\\ud800", "data": [], "fn_index": 0}',
        '{"data": ["\\udfff"], "fn_index": 0}',
        '{"\\ud800": 1}',
        '{"session_hash": "odd", "event_id": [], "fn_index": 0}',
        '{"data": ' + "[" * 900 + "]" * 900 + "}",
        '{"session_hash": "' + "x" * 5000 + '", "data": [], "fn_index": 0, "event_id": "a"}',
    ],
)
def test_unexpected_bodies_are_refused(inside, path, body):
    answer = send(inside, path, body)
    assert 400 <= answer.status_code < 500, answer.text


def test_too_few_values_are_refused(inside):
    for event in events(inside):
        if event["inputs"]:
            for path in (PREDICT, JOIN):
                body = {
                    "data": [None] * (len(event["inputs"]) - 1),
                    "fn_index": event["id"],
                    "session_hash": "odd",
                }
                assert send(inside, path, body).status_code == 400


@pytest.mark.parametrize("value", ODD, ids=repr)
def test_unexpected_values_cause_no_server_error(inside, value):
    direct = [event for event in events(inside) if event["queue"] is False]
    assert direct
    for event in direct:
        body = {
            "data": [value] * len(event["inputs"]),
            "fn_index": event["id"],
            "session_hash": "odd",
        }
        answer = send(inside, PREDICT, body)
        assert answer.status_code < 500, (event["api_name"], answer.text)


def finished(client: httpx.Client, window: str, waiting: set[str]) -> list[str]:
    """Wait for queued events; returns what failed without a message."""
    failed = []
    with client.stream("GET", "/gradio_api/queue/data", params={"session_hash": window}) as lines:
        for line in lines.iter_lines():
            message = json.loads(line[5:]) if line.startswith("data:") else {"msg": ""}
            if message["msg"] == "process_completed":
                waiting.discard(message["event_id"])
                if not message["success"] and not message["output"].get("error"):
                    failed.append(str(message))
            if message["msg"] == "close_stream" or not waiting:
                return failed
    return failed


def attack(
    client: httpx.Client, event: dict[str, Any], requests: list[dict[str, Any]]
) -> list[str]:
    """Send an event with odd values, directly or through the queue; returns what failed without a message."""
    failed, waiting, window = [], set(), f"odd-{event['id']}"
    for body in requests:
        direct = event["queue"] is False
        answer = send(
            client,
            PREDICT if direct else JOIN,
            {**body, "fn_index": event["id"], "session_hash": window},
        )
        if answer.status_code >= 500:
            failed.append(answer.text)
        elif not direct and answer.status_code == 200:
            waiting.add(answer.json()["event_id"])
    return failed + (finished(client, window, waiting) if waiting else [])


def tracebacks(site: App) -> int:
    return site.log.read_text(encoding="utf-8", errors="replace").count("Traceback")


@pytest.mark.parametrize("count", [1, pytest.param(10, marks=pytest.mark.slow)])
def test_no_event_fails_at_values_of_a_wrong_type(site, inside, count):
    """All values wrong, one wrong among right ones, or a wrong target: a few of each event, or one."""
    before, failed = tracebacks(site), {}
    shown = {
        part["id"]: part["props"].get("value")
        for part in inside.get("/config").json()["components"]
    }
    for event in events(inside):
        right = [shown.get(part) for part in event["inputs"]]
        wrong: tuple[Any, ...] = (None, "x", 5, [], {"a": 1}, [[]])
        odd = [{"data": [value] * len(right)} for value in wrong]
        odd += [
            {"data": [*right[:place], value, *right[place + 1 :]]}
            for place in range(len(right))
            for value in wrong
        ]
        odd += [
            {"data": right, "event_data": data}
            for data in (None, 5, {}, {"turn": "x", "action": {}})
        ]
        # all of them take a quarter of an hour
        some = random.Random(event["api_name"]).sample(odd, min(count, len(odd)))
        failed[event["api_name"]] = attack(inside, event, some)
    assert {name: texts for name, texts in failed.items() if texts} == {}
    assert tracebacks(site) == before


@pytest.mark.parametrize("versions", ["[", "null", "[]", "7", '{"parts": 3}', "{}", "[" * 100_000])
def test_invalid_versions_redraw_the_page(inside, versions):
    follow = next(event for event in events(inside) if event["api_name"] == "follow")
    body = {"data": [None, versions], "fn_index": follow["id"], "session_hash": "odd"}
    answer = send(inside, PREDICT, body)
    assert answer.status_code == 200 and json.loads(answer.json()["data"][0])["parts"]


@pytest.mark.parametrize(
    "study", ["\ud800", "%ED%A0%80", "..%2F..", "%00", "x" * 5000, "no-such", "a&study=b"]
)
def test_polling_with_unexpected_names(inside, study):
    query = (
        study.encode("utf-8", errors="surrogatepass").decode("latin-1")
        if study == "\ud800"
        else study
    )
    assert inside.get(f"/pulse?study={query}").status_code < 500


def test_a_stream_of_an_unknown_window_ends_without_a_traceback(site, inside):
    before = site.log.read_text(encoding="utf-8").count("Traceback")
    answer = inside.get("/gradio_api/queue/data", params={"session_hash": "unknown"})
    assert answer.status_code == 200 and '"session_not_found": true' in answer.text
    assert site.log.read_text(encoding="utf-8").count("Traceback") == before
