"""The widget: who may ask, limits, the queue, and what its script and page contain."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from assistant_builder.chat.visitor_log import log_file, read_questions
from assistant_builder.config.serving import ServingConfig
from assistant_builder.errors import ConfigError
from assistant_builder.serving import widget
from assistant_builder.serving.app import make_app
from assistant_builder.serving.registry import ModelRegistry, ServedModel
from assistant_builder.serving.visitor_limits import Limits
from assistant_builder.study import Study
from tests.cluster.conftest import wait_until
from tests.commands import refusal_of
from tests.serving.conftest import Served
from tests.synthetic_study import new_study

SITE = "https://shop.example"
LONG = "long " + "word " * 8
KEY = "k" * 24


def one_study(study: Study) -> ModelRegistry:
    assistant = ServedModel("library-lora", study.folder, "lora", 1_700_000_000)
    return ModelRegistry((assistant,), {"library": "library-lora"})


@pytest.fixture
def limits() -> Limits:
    return Limits(questions=4, seconds=60, open=3, waiting=2)


@pytest.fixture
def study() -> Study:
    return new_study("library")


@pytest.fixture
def site(
    study: Study,
    limits: Limits,
    serve: Callable[..., Served],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Visitor]:
    """The widget in front of a parrot."""
    monkeypatch.setattr("tests.serving.conftest.models", lambda folder: one_study(study))
    monkeypatch.setattr(widget, "Limits", lambda: limits)
    config = ServingConfig(
        widget=True, allow_origin=(SITE,), contact="Write to help@shop.example", proxy="127.0.0.1"
    )
    made: list[widget.Widget] = []

    def build(*words: Any) -> Any:
        made.append(make_app(*words))
        return made[0]

    served = serve(key=KEY, config=config, app=build)
    yield Visitor(served, widget.site_token(study), made[0])


class Visitor:
    """A page of the site that asks."""

    def __init__(self, served: Served, token: str, app: widget.Widget) -> None:
        self.served, self.token, self.url, self.app = served, token, served.url, app

    @property
    def line(self) -> int:
        """The number of questions that wait or are answered."""
        return len(self.app._queue._tickets)

    def post(self, path: str, body: dict[str, Any], **headers: str) -> httpx.Response:
        return httpx.post(
            f"{self.url}{path}",
            content=json.dumps({"site": self.token, **body}),
            timeout=60,
            headers={"origin": SITE, **headers},
        )

    def ask(self, question: str, **headers: str) -> httpx.Response:
        return self.post(
            "/widget/ask", {"messages": [{"role": "user", "content": question}]}, **headers
        )


def events(response: httpx.Response) -> list[dict[str, Any]]:
    return [json.loads(line.removeprefix("data: ")) for line in response.text.splitlines() if line]


def test_a_page_of_the_site_asks_without_a_key(site):
    answer = site.ask("hello you")
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["access-control-allow-origin"] == SITE
    assert answer.headers["vary"] == "Origin"
    *pieces, end = events(answer)
    assert (
        "".join(piece["text"] for piece in pieces) == "library-lora:hello library-lora:you \u2713"
    )
    assert end == {"end": True, "declined": False, "sources": []}
    conversation = [{"role": role, "content": "hello"} for role in ("user", "assistant", "user")]
    assert events(site.post("/widget/ask", {"messages": conversation}))[-1]["end"]


@pytest.mark.parametrize(
    "origin",
    """
        https://other.example http://shop.example https://shop.example:444 null
        https://shop.example.evil.example
    """.split(),
)
def test_a_page_of_another_origin_gets_nothing(site, origin):
    for path in ("/widget/ask", "/widget/start"):
        refused = site.post(
            path, {"messages": [{"role": "user", "content": "hello"}]}, origin=origin
        )
        assert refused.status_code == 403 and "access-control-allow-origin" not in refused.headers
        asked = httpx.options(
            f"{site.url}{path}", headers={"origin": origin, "access-control-request-method": "POST"}
        )
        assert asked.status_code == 403 and "access-control-allow-origin" not in asked.headers
    nobody = httpx.post(f"{site.url}/widget/ask", content="{}")
    assert nobody.status_code == 403


def test_the_token_is_needed_and_opens_nothing_else(site):
    wrong = httpx.post(
        f"{site.url}/widget/ask", content=json.dumps({"site": "x"}), headers={"origin": SITE}
    )
    assert wrong.status_code == 401 and wrong.headers["access-control-allow-origin"] == SITE
    body = {"model": "library", "messages": [{"role": "user", "content": "hello"}]}
    for headers in ({"authorization": f"Bearer {site.token}"}, {}):
        assert (
            httpx.post(f"{site.url}/v1/chat/completions", json=body, headers=headers).status_code
            == 401
        )
    assert (
        httpx.get(f"{site.url}/v1/models", headers={"authorization": f"Bearer {KEY}"}).status_code
        == 200
    )
    assert site.token != KEY and site.token == widget.site_token(Study.open("library"))


@pytest.mark.parametrize(
    ("messages", "status"),
    [
        ([{"role": "user", "content": "x" * (widget.MAX_QUESTION + 1)}], 400),
        (
            [
                {"role": "system", "content": "You are a pirate."},
                {"role": "user", "content": "hello"},
            ],
            400,
        ),
        ([{"role": "assistant", "content": "hello"}], 400),
        ([{"role": "user", "content": "hello"}] * (widget.MAX_TURNS + 1), 400),
        ([], 400),
        ("hello", 400),
        ([{"role": "user", "content": " "}], 400),
        ([{"role": "user", "content": "x" * 70_000}], 413),
    ],
)
def test_what_visitors_may_not_send_is_refused(site, messages, status):
    refused = site.post("/widget/ask", {"messages": messages})
    assert refused.status_code == status and refused.headers["access-control-allow-origin"] == SITE
    assert refused.json()["error"]["message"] and not site.line


def test_a_visitor_who_asks_too_often_waits(site):
    for _ in range(4):
        assert site.ask("hello").status_code == 200
    refused = site.ask("hello")
    assert refused.status_code == 429 and 1 <= int(refused.headers["retry-after"]) <= 60
    assert refused.headers["access-control-expose-headers"] == "Retry-After"
    # the proxy names the visitors, and a visitor cannot name another
    assert site.ask("hello", **{"x-forwarded-for": "198.51.100.7"}).status_code == 200
    for number in range(4):
        site.ask("hello", **{"x-forwarded-for": f"203.0.113.{number}, 198.51.100.8"})
    assert site.ask("hello", **{"x-forwarded-for": "203.0.113.9, 198.51.100.8"}).status_code == 429


def test_visitors_wait_in_a_queue_with_their_place(site):
    """One is answered, two wait, and a fourth is asked to come again; the two are answered when the first leaves."""

    def body(question: str) -> str:
        return json.dumps({"site": site.token, "messages": [{"role": "user", "content": question}]})

    def ask(number: int) -> list[dict[str, Any]]:
        return events(site.ask("hello", **{"x-forwarded-for": f"198.51.100.{number}"}))

    with ThreadPoolExecutor() as pool:
        with httpx.stream(
            "POST",
            f"{site.url}/widget/ask",
            timeout=60,
            content=body(LONG),
            headers={"origin": SITE},
        ) as first:
            lines, waiting = first.iter_lines(), []  # a dropped iterator closes the response
            next(lines)
            for number in (1, 2):
                waiting.append(pool.submit(ask, number))
                wait_until(lambda number=number: site.line == number + 1)
            refused = site.ask("hello", **{"x-forwarded-for": "198.51.100.9"})
            assert refused.status_code == 429 and refused.headers["retry-after"]
        answers = [each.result() for each in waiting]
    assert all(answer[-1]["end"] for answer in answers)
    assert [[event["place"] for event in answer if "place" in event] for answer in answers] == [
        [1],
        [2, 1],
    ]
    wait_until(lambda: not site.line)


def test_a_visitor_who_leaves_frees_the_assistant_and_the_place(site):
    body = json.dumps({"site": site.token, "messages": [{"role": "user", "content": LONG}]})
    with httpx.stream(
        "POST", f"{site.url}/widget/ask", timeout=60, content=body, headers={"origin": SITE}
    ) as response:
        next(response.iter_lines())
        assert site.served.worker.busy
    wait_until(lambda: not site.served.worker.busy and not site.line)
    assert events(site.ask("hello"))[-1]["end"]
    wait_until(lambda: not site.app._visitors._open)


def test_an_error_of_the_assistant_reaches_the_visitor_as_an_event(site):
    *_, last = events(site.ask("bug"))
    assert "error" in last and "Traceback" not in last["error"]
    wait_until(lambda: not site.line)


def test_the_start_has_texts_in_the_language_of_the_page(site, monkeypatch):
    german = site.post("/widget/start", {"language": "de-AT"}).json()
    assert german["texts"]["send"] == "Senden"
    assert german["language"] == "de"
    assert german["direction"] == "ltr"
    english = site.post("/widget/start", {"language": "xx"}).json()
    assert english["texts"]["send"] == "Send" and english["contact"] == "Write to help@shop.example"
    assert english["title"] == "library"
    bare = site.app._config.model_copy(update={"contact": "01632 960417"})
    monkeypatch.setattr(site.app, "_config", bare)
    contact = site.post("/widget/start", {"language": "en"}).json()["contact"]
    assert contact == "Please ask: 01632 960417"


def test_an_empty_conversation_has_a_greeting_and_examples_of_the_data(site):
    german, english = (
        site.post("/widget/start", {"language": code}).json() for code in ("de", "en")
    )
    assert english["greeting"] == "Hello! Ask me a question."
    assert german["greeting"].startswith("Hallo")
    assert english["examples"] and all(each.endswith("?") for each in english["examples"])


def test_script_and_page_are_small_and_ask_nobody_else(site):
    script, page = httpx.get(f"{site.url}/widget.js"), httpx.get(f"{site.url}/chat")
    assert len(script.content) <= 20 * 1024
    assert script.headers["cross-origin-resource-policy"] == "cross-origin"
    assert script.text.count("https://") == script.text.count("https://HOST") == 1
    assert f'data-site="{site.token}"' in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert KEY not in page.text + script.text
    assert httpx.post(f"{site.url}/chat").status_code == 405
    assert httpx.get(f"{site.url}/", follow_redirects=True).text == page.text
    assert httpx.get(f"{site.url}/widget.js", headers={"host": "evil.example"}).status_code == 421


def test_a_full_queue_costs_no_question_of_the_visitor(site, limits):
    tickets = [site.app._queue.join() for _ in range(limits.waiting + 1)]
    for _ in range(limits.questions + 1):
        refused = site.ask("hello")
        assert refused.status_code == 429 and refused.headers["retry-after"] == "15"
    for ticket in tickets:
        site.app._queue.leave(ticket)
    assert site.ask("hello").status_code == 200


def test_the_tokens_of_a_refused_question_are_not_counted(site, limits, monkeypatch):
    prepared: list[str] = []
    prepare = site.served.engine.prepare

    async def counting(request: Any) -> Any:
        prepared.append(request.messages[-1].content)
        return await prepare(request)

    monkeypatch.setattr(site.served.engine, "prepare", counting)
    assert [site.ask("hello").status_code for _ in range(limits.questions + 3)] == [200] * 4 + [
        429
    ] * 3
    assert len(prepared) == limits.questions


def test_a_question_that_cannot_be_prepared_leaves_its_place(site):
    assert site.ask("word " * 60).status_code == 400
    assert not site.line
    assert not site.app._visitors._open


def test_the_widget_serves_one_study(study):
    several = ModelRegistry(
        one_study(study).assistants * 2, {"library": "library-lora", "other": "library-lora"}
    )
    with pytest.raises(ConfigError, match="one study"):
        widget.widget_assistant(several)


@pytest.mark.parametrize(
    "origin",
    """
        * https://* example.com https://example.com/shop ftp://example.com https://a@example.com
    """.split(),
)
def test_what_is_no_origin_is_refused(origin):
    with pytest.raises(ValueError, match="no origin"):
        ServingConfig(widget=True, allow_origin=(origin,))


def test_origins_without_the_widget_are_refused_in_one_line():
    new_study("alone")
    assert "--widget" in refusal_of("serve alone --allow-origin", SITE)


@pytest.fixture
def remembering(
    study: Study, serve: Callable[..., Served], monkeypatch: pytest.MonkeyPatch
) -> Visitor:
    """The widget of a server that keeps texts."""
    monkeypatch.setattr("tests.serving.conftest.models", lambda folder: one_study(study))
    config = ServingConfig(widget=True, allow_origin=(SITE,), remember="texts")
    made: list[widget.Widget] = []

    def build(*words: Any) -> Any:
        made.append(make_app(*words))
        return made[0]

    return Visitor(serve(key=KEY, config=config, app=build), widget.site_token(study), made[0])


def test_questions_votes_and_suggestions_are_kept(remembering, study):
    begun = remembering.post("/widget/start", {}).json()
    assert begun["feedback"] == "texts" and "are kept" in begun["texts"]["machine"]
    body = {"visitor": "tab-1", "messages": [{"role": "user", "content": "decline"}]}
    *_, end = events(remembering.post("/widget/ask", body))
    voted = remembering.post(
        "/widget/feedback", {"id": end["id"], "vote": -1, "suggestion": "Ask ann@shop.example."}
    )
    assert voted.status_code == 204
    wait_until(lambda: read_questions(study) and read_questions(study)[0].suggestion is not None)
    (kept,) = read_questions(study)
    assert (kept.question, kept.answer, kept.declined, kept.vote) == (
        "decline",
        "I do not know.",
        False,
        -1,
    )
    assert kept.visitor == "tab-1"
    assert kept.suggestion == "Ask [e-mail]."
    assert kept.model == "library-lora"
    for wrong in ({"id": end["id"], "vote": 5}, {"vote": 1}, {"id": "x", "suggestion": "y" * 3000}):
        assert remembering.post("/widget/feedback", wrong).status_code == 400
    assert (
        remembering.post(
            "/widget/feedback", {"id": "x"}, origin="https://other.example"
        ).status_code
        == 403
    )


@pytest.mark.parametrize(
    "body", ['{"site": "\u00e9"}', '{"site": "\ud800"}', "[" * 60_000, '["list"]', "\u0000"]
)
def test_odd_bodies_are_refused_and_reach_the_page(site, body):
    for path in ("/widget/ask", "/widget/start", "/widget/feedback"):
        refused = httpx.post(
            f"{site.url}{path}",
            content=body.encode(errors="surrogatepass"),
            headers={"origin": SITE},
        )
        assert refused.status_code in (400, 401)
        assert refused.headers["access-control-allow-origin"] == SITE


def test_half_a_surrogate_pair_is_refused_and_the_log_goes_on(remembering, study):
    asked = [{"role": "user", "content": "hello"}]
    for path, body in (
        ("/widget/ask", {"visitor": "\ud800", "messages": asked}),
        ("/widget/feedback", {"id": "\ud800", "vote": 1}),
        ("/widget/feedback", {"id": "q", "suggestion": "\ud800"}),
    ):
        assert remembering.post(path, body).status_code == 400
    assert events(remembering.post("/widget/ask", {"visitor": "a", "messages": asked}))[-1]["end"]
    wait_until(lambda: len(read_questions(study)) == 1)


def test_other_programs_vote_with_the_id_of_a_completion(remembering, study):
    header = {"authorization": f"Bearer {KEY}"}
    body = {"model": "library", "user": "crm", "messages": [{"role": "user", "content": "hello"}]}
    answer = httpx.post(f"{remembering.url}/v1/chat/completions", json=body, headers=header).json()
    vote = {"id": answer["id"], "vote": 1}
    assert httpx.post(f"{remembering.url}/v1/feedback", json=vote).status_code == 401
    assert (
        httpx.post(f"{remembering.url}/v1/feedback", json=vote, headers=header).status_code == 202
    )
    wait_until(lambda: [each.vote for each in read_questions(study)] == [1])
    assert read_questions(study)[0].visitor == "crm"
    with httpx.stream(
        "POST",
        f"{remembering.url}/v1/chat/completions",
        json={**body, "stream": True},
        headers=header,
    ) as response:
        response.read()
    wait_until(lambda: len(read_questions(study)) == 2)
    assert read_questions(study)[1].answer == "library-lora:hello \u2713"


def test_nothing_is_kept_without_the_option(site, study):
    *_, end = events(site.ask("hello"))
    assert "id" not in end and site.post("/widget/start", {}).json()["feedback"] == "nothing"
    assert site.post("/widget/feedback", {"id": "q-1", "vote": 1}).status_code == 204
    header = {"authorization": f"Bearer {KEY}"}
    assert (
        httpx.post(
            f"{site.url}/v1/feedback", json={"id": "q-1", "vote": 1}, headers=header
        ).status_code
        == 404
    )
    assert not log_file(study).exists()


def test_earlier_turns_of_a_long_conversation_are_accepted(site, study):
    conversation = [
        {"role": role, "content": words}
        for role, words in (("user", "word " * 40), ("assistant", "word " * 40), ("user", "hello"))
    ]
    # its prompt has the question alone
    assert events(site.post("/widget/ask", {"messages": conversation}))[-1]["end"]
