"""The endpoint over a real socket and a real worker process, with assistants that repeat the question."""

import json
from typing import Any

import httpx
import pytest

from tests.cluster.conftest import wait_until
from tests.serving.conftest import LONGEST


def events(response: httpx.Response) -> list[Any]:
    """Text of a stream without its last word."""
    lines = [line.removeprefix("data: ") for line in response.iter_lines() if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def error_of(response: httpx.Response) -> dict[str, Any]:
    found = response.json()["error"]
    assert found.keys() == {"message", "type", "param", "code"}
    return dict(found)


def test_every_assistant_is_listed_and_found(served):
    listed = httpx.get(f"{served.url}/v1/models").json()
    assert listed["object"] == "list"
    assert [model["id"] for model in listed["data"]] == [
        "library-qlora",
        "library-lora",
        "ferries-qlora",
    ]
    assert httpx.get(f"{served.url}/v1/models/ferries").json() == {
        "id": "ferries-qlora",
        "object": "model",
        "created": 1_700_000_000,
        "owned_by": "assistant-builder",
    }
    missing = httpx.get(f"{served.url}/v1/models/other")
    assert missing.status_code == 404 and error_of(missing)["code"] == "model_not_found"


def test_an_answer_says_who_gave_it_and_what_it_took(served):
    answer = served.ask("hello you", model="library").json()
    assert answer["object"] == "chat.completion" and answer["id"].startswith("chatcmpl-")
    assert answer["model"] == "library-lora"
    (choice,) = answer["choices"]
    assert choice["message"]["content"] == "library-lora:hello library-lora:you \u2713"
    assert choice["message"]["role"] == "assistant" and choice["finish_reason"] == "stop"
    # "Be brief." of the study and the question's two words
    assert answer["usage"] == {"prompt_tokens": 4, "completion_tokens": 2, "total_tokens": 6}


def test_a_stream_comes_in_pieces_and_ends_with_its_usage(served):
    with served.stream(
        "one two three four five six", stream_options={"include_usage": True}
    ) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        first, *pieces, end, used = events(response)
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert len(pieces) > 1 and all(piece["choices"][0]["finish_reason"] is None for piece in pieces)
    text = "".join(piece["choices"][0]["delta"]["content"] for piece in pieces)
    assert (
        text
        == "".join(f"library-lora:{word} " for word in "one two three four five six".split())
        + "\u2713"
    )
    assert end["choices"][0] == {"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"}
    assert used["choices"] == [] and used["usage"]["completion_tokens"] == 6
    assert {event["id"] for event in (first, *pieces, end, used)} == {first["id"]}


def test_a_stop_text_ends_the_answer_before_it_and_frees_the_assistant(served):
    with served.stream("long talk of many words", stop=["never", "a:of library"]) as response:
        *pieces, end = events(response)
    text = "".join(piece["choices"][0]["delta"]["content"] for piece in pieces)
    assert text == "library-lora:long library-lora:talk library-lor" and "usage" not in end
    assert end["choices"][0]["finish_reason"] == "stop"
    wait_until(lambda: not served.worker.busy)


def test_two_assistants_answer_at_once_and_do_not_mix(served):
    with (
        served.stream("long first") as one,
        served.stream("long second", model="ferries-qlora") as other,
    ):
        # kept, for a connection closes with its iterator
        answers = [filter(None, answer.iter_lines()) for answer in (one, other)]
        parts = [[next(lines) for _ in range(6)] for lines in answers]
        assert served.worker.busy
    for lines, name, word in (
        (parts[0], "library-lora", "first"),
        (parts[1], "ferries-qlora", "second"),
    ):
        text = "".join(
            json.loads(line.removeprefix("data: "))["choices"][0]["delta"]["content"]
            for line in lines
        )
        assert set(text.split()) <= {f"{name}:long", f"{name}:{word}"} and text
    wait_until(lambda: not served.worker.busy)


@pytest.mark.parametrize(
    ("body", "param", "says"),
    [
        ({"model": 7}, "model", "string"),
        ({"messages": []}, "messages", "at least 1"),
        ({"messages": [{"role": "user", "content": " "}]}, None, "must be the user's"),
        ({"messages": [{"role": "assistant", "content": "hm"}]}, None, "must be the user's"),
        ({"messages": [{"role": "tool", "content": "7"}]}, "messages.0.role", "system"),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}
                ]
            },
            "messages.0.content",
            "only text is supported, not 'image_url'",
        ),
        (
            {"messages": [{"role": "user", "content": "a \ud800 surrogate"}]},
            "messages.0.content",
            "surrogate",
        ),
        ({"n": 2}, "n", "1"),
        ({"logprobs": True}, "logprobs", "False"),
        ({"tools": [{}]}, "tools", "0 items"),
        ({"presence_penalty": 0.5}, "presence_penalty", "0"),
        ({"response_format": {"type": "json_object"}}, None, "text"),
        ({"temperature": 3}, "temperature", "2"),
        ({"temperature": float("nan")}, "temperature", "2"),
        ({"top_p": 0}, "top_p", "0"),
        ({"max_tokens": 0}, "max_tokens", "1"),
        ({"stop": [""]}, "stop.0", "at least 1"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop", "at most 4"),
        ({"best_of": 3}, "best_of", "not supported here"),
    ],
)
def test_what_is_not_supported_is_refused_in_openais_shape(served, body, param, says):
    asked = {"model": "library-lora", "messages": [{"role": "user", "content": "hello"}], **body}
    refused = httpx.post(
        f"{served.url}/v1/chat/completions",
        content=json.dumps(asked),
        headers={"Content-Type": "application/json"},
    )
    assert refused.status_code == 400, refused.text
    error = error_of(refused)
    assert error["type"] == "invalid_request_error" and says in error["message"], error
    assert param is None or param in error["param"]


def test_what_changes_nothing_may_be_sent(served):
    answer = served.ask(
        [{"type": "text", "text": "hello "}, {"type": "text", "text": "you"}],
        n=1,
        stream=False,
        temperature=0.7,
        top_p=0.9,
        seed=-5,
        max_completion_tokens=9,
        max_tokens=5,
        stop=None,
        presence_penalty=0,
        frequency_penalty=0.0,
        logit_bias={},
        logprobs=False,
        tools=[],
        tool_choice="auto",
        response_format={"type": "text"},
        user="me",
        metadata={"a": "b"},
        store=False,
        service_tier="auto",
    )
    assert answer.status_code == 200 and "library-lora:you" in answer.text, answer.text


def test_a_prompt_that_is_too_long_is_refused_before_it_is_asked(served):
    assert served.ask("w " * (LONGEST - 2)).status_code == 200
    refused = served.ask("w " * (LONGEST - 1))
    assert refused.status_code == 400 and error_of(refused)["code"] == "context_length_exceeded"


def test_a_website_whose_server_passes_questions_on_is_answered(served):
    """As the line of nginx on the tab "Use it" does: the browser's headers are passed on, except Origin."""
    body = {"model": "library-lora", "messages": [{"role": "user", "content": "hello"}]}
    answer = httpx.post(
        f"{served.url}/v1/chat/completions",
        json=body,
        timeout=60,
        headers={
            "Sec-Fetch-Site": "same-origin",
            "Sec-Fetch-Mode": "cors",
            "Referer": "https://shop.example/",
        },
    )
    assert answer.status_code == 200 and answer.json()["choices"][0]["message"]["content"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 421),
        ({"Origin": "https://evil.example"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Host": "localhost:8000"}, 200),
    ],
)
def test_other_names_and_pages_of_others_are_refused(served, headers, status):
    answer = httpx.get(f"{served.url}/v1/models", headers=headers)
    assert answer.status_code == status
    assert status == 200 or error_of(answer)["type"] == "invalid_request_error"


def test_an_answer_that_fails_has_a_status_and_the_next_is_given(served):
    failed = served.ask("refuse")
    assert failed.status_code == 503 and "no trained adapter" in error_of(failed)["message"]
    assert error_of(failed)["type"] == "server_error"
    with served.stream("refuse") as response:
        assert response.status_code == 503
    bug = served.ask("bug")
    assert bug.status_code == 500 and "shape mismatch" in error_of(bug)["message"]
    assert served.ask("die").status_code == 503
    assert served.ask().status_code == 200


def test_a_process_that_dies_during_a_stream_is_reported_in_it(serve):
    served = serve()
    with served.stream("long talk") as response:
        lines = filter(None, response.iter_lines())
        next(lines), next(lines)
        process = served.worker._child.process
        assert process is not None
        process.kill()
        rest = list(lines)
    assert "memory ran out" in json.loads(rest[-2].removeprefix("data: "))["error"]["message"]
    assert rest[-1] == "data: [DONE]"
    # whoever watches the server brings the models back
    assert httpx.get(f"{served.url}/health").status_code == 503
    wait_until(lambda: httpx.get(f"{served.url}/health").status_code == 200)


def test_a_full_queue_is_refused_and_waiting_ends_when_the_client_goes(serve):
    served = serve(waiting=1)
    with served.stream("long talk") as first:
        lines = first.iter_lines()
        next(lines)
        with pytest.raises(httpx.ReadTimeout):  # it waits behind the first
            httpx.post(
                f"{served.url}/v1/chat/completions",
                timeout=0.5,
                json={"model": "library", "messages": [{"role": "user", "content": "hello"}]},
            )
        # its client went, so its place is free
        wait_until(lambda: served.engine._open["library-lora"] == 1)
        waiting = httpx.Client(timeout=60)
        with pytest.raises(httpx.ReadTimeout):
            waiting.post(
                f"{served.url}/v1/chat/completions",
                timeout=0.3,
                json={
                    "model": "library",
                    "messages": [{"role": "user", "content": "hello"}],
                    "stream": True,
                },
            )
        wait_until(lambda: served.engine._open["library-lora"] == 1)
        served.engine._open["library-lora"] += 1  # as if another waited
        full = served.ask()
        assert full.status_code == 429 and error_of(full)["code"] == "rate_limit_exceeded"
        assert full.headers["retry-after"] == "2"
        assert served.ask(model="ferries").status_code == 200  # its own queue is empty
        served.engine._open["library-lora"] -= 1
        waiting.close()
    wait_until(lambda: not served.worker.busy and not served.engine._open["library-lora"])


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_ends_its_answer(serve, stream):
    served = serve()
    body = {
        "model": "library",
        "messages": [{"role": "user", "content": "long talk"}],
        "stream": stream,
    }
    with pytest.raises(httpx.ReadTimeout) if not stream else _nothing():
        with httpx.stream(
            "POST", f"{served.url}/v1/chat/completions", json=body, timeout=30 if stream else 3
        ) as response:
            lines = response.iter_lines()
            next(lines)
            assert served.worker.busy
    wait_until(lambda: not served.worker.busy and not served.engine._open["library-lora"], 20)


def _nothing() -> Any:
    from contextlib import nullcontext

    return nullcontext()


def test_a_key_is_asked_for_where_there_is_one(serve):
    key = "k" * 24
    served = serve(key=key)
    for headers in (
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": key},
        {"Authorization": f"Basic {key}"},
    ):
        refused = httpx.get(f"{served.url}/v1/models", headers=headers)
        assert refused.status_code == 401 and error_of(refused)["code"] == "invalid_api_key", (
            headers
        )
    assert (
        httpx.get(f"{served.url}/v1/models", headers={"Authorization": f"Bearer {key}"}).status_code
        == 200
    )
    health = wait_until(
        lambda: (found := httpx.get(f"{served.url}/health")).status_code == 200 and found
    )
    assert health.json() == {"status": "ok"}
