"""Any JSON in any field of a request: answered or refused, never a failure of the server."""

import json
import logging
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from assistant_builder.serving.schemas import ChatMessage, ChatRequest, StreamOptions, TextFormat
from tests.serving.conftest import Served

TEXTS = st.text(st.characters(), max_size=8) | st.text(
    st.sampled_from("\ud800\udfffa\0\u202e"), max_size=4
)
SCALARS = (
    st.none()
    | st.booleans()
    | TEXTS
    | st.floats()
    | st.integers(-3, 3)
    | st.sampled_from(
        [10**30, -(10**400), 2**63, 1e308, "0", "1e400", "text", "user", "none", "auto"]
    )
)
ODD = st.recursive(
    SCALARS,
    lambda parts: (
        st.lists(parts, max_size=3)
        | st.dictionaries(
            TEXTS | st.sampled_from(["type", "text", "role", "content"]), parts, max_size=3
        )
    ),
    max_leaves=6,
)
PARTS = st.lists(
    st.fixed_dictionaries(
        {}, optional={"type": ODD | st.just("text"), "text": ODD, "image_url": ODD}
    )
    | ODD,
    max_size=3,
)
FREE = [name for name in ChatMessage.model_fields if name not in ("role", "content")]
TURNS = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant"]), "content": st.just("hi")},
    optional=dict.fromkeys(FREE, ODD),
)
PROFILE = settings(
    max_examples=15,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture(scope="module")
def failures() -> Iterator[list[logging.LogRecord]]:
    """What uvicorn logs with a traceback."""
    found: list[logging.LogRecord] = []

    class Keeper(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.exc_info or "Traceback" in record.getMessage():
                found.append(record)

    keeper, logger = Keeper(), logging.getLogger("uvicorn.error")
    logger.addHandler(keeper)
    yield found
    logger.removeHandler(keeper)


def check(served: Served, failures: list[logging.LogRecord], body: Any) -> None:
    failures.clear()
    answer = httpx.post(
        f"{served.url}/v1/chat/completions",
        content=json.dumps(body),
        timeout=60,
        headers={"Content-Type": "application/json"},
    )
    assert answer.status_code == 200 or 400 <= answer.status_code < 500, (body, answer.text)
    if answer.status_code != 200:
        assert answer.json()["error"]["message"], body
    assert not failures, (body, failures[0].getMessage())


def request(**fields: Any) -> dict[str, Any]:
    return {"model": "library-lora", "messages": [{"role": "user", "content": "hi"}], **fields}


@pytest.mark.parametrize("field", [*ChatRequest.model_fields, "unknown"])
def test_any_json_in_any_field(served, failures, field):
    @PROFILE
    @given(ODD)
    def odd(value: Any) -> None:
        check(served, failures, request(**{field: value}))

    odd()


@pytest.mark.parametrize("field", [*ChatMessage.model_fields, "unknown"])
def test_any_json_in_any_field_of_a_message(served, failures, field):
    @PROFILE
    @given(ODD, st.lists(TURNS, max_size=2))
    def odd(value: Any, before: list[Any]) -> None:
        check(
            served,
            failures,
            request(messages=[*before, {"role": "user", "content": "hi", field: value}]),
        )

    odd()


def test_any_json_in_the_parts_of_a_message(served, failures):
    @settings(PROFILE, max_examples=60)
    @given(PARTS)
    def odd(parts: list[Any]) -> None:
        check(served, failures, request(messages=[{"role": "user", "content": parts}]))

    odd()


@pytest.mark.parametrize(
    ("field", "model"), [("stream_options", StreamOptions), ("response_format", TextFormat)]
)
def test_any_json_below_a_field(served, failures, field, model):
    @PROFILE
    @given(
        st.fixed_dictionaries(
            {}, optional={**{name: ODD for name in model.model_fields}, "unknown": ODD}
        )
    )
    def odd(value: Any) -> None:
        check(served, failures, request(**{field: value}))

    odd()


@pytest.mark.parametrize(
    "content",
    [
        '{"seed": ' + "9" * 5000 + "}",
        '{"model": "\\ud800"}',
        '{"\\ud800": 1}',
        '{"metadata": {"\\udc00": "\\ud800"}}',
        "[]",
        "null",
        '"x"',
        '{"model": "a", "model": {}}',
        "\ufeff{}",
        '{"messages": ' + "[" * 990 + "]" * 990 + "}",
        '{"messages": ' + '{"a":' * 3000 + "1" + "}" * 3001,
    ],
)
def test_odd_documents(served, failures, content):
    failures.clear()
    answer = httpx.post(
        f"{served.url}/v1/chat/completions",
        content=content.encode(),
        timeout=60,
        headers={"Content-Type": "application/json"},
    )
    assert (
        answer.status_code == 400 and answer.json()["error"]["type"] == "invalid_request_error"
    ), answer.text
    assert not failures, failures[0].getMessage()
