"""What ``/metrics`` counts, and who reads it."""

import asyncio
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from assistant_builder.config.serving import ServingConfig
from assistant_builder.serving import widget
from assistant_builder.serving.engine import StreamChunk
from assistant_builder.serving.metrics import Metrics
from assistant_builder.serving.schemas import ApiError
from tests.serving.test_widget import KEY, limits, site, study  # noqa: F401

AUTHORIZED = {"Authorization": f"Bearer {KEY}"}


def samples(url: str, **labels: str) -> dict[str, float]:
    """Name of each sample with these labels → its value."""
    text = httpx.get(f"{url}/metrics", headers=AUTHORIZED).text
    return {
        sample.name.removeprefix("assistant_builder_")
        + sample.labels.get("outcome", ""): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if labels.items() <= sample.labels.items()
    }


def test_answers_of_endpoint_and_widget_are_counted_behind_the_key(site):  # noqa: F811
    assert httpx.get(f"{site.url}/metrics").status_code == 401
    site.ask("hello you")
    model = {"model": "library", "messages": [{"role": "user", "content": "hello"}]}
    for _ in range(2):
        httpx.post(f"{site.url}/v1/chat/completions", json=model, headers=AUTHORIZED, timeout=60)
    for through, answers, tokens in (("widget", 1, 2), ("endpoint", 2, 2)):
        found = samples(site.url, model="library-lora", through=through)
        assert found["answers_totalanswered"] == found["answer_seconds_count"] == answers
        assert found["answer_tokens_total"] == tokens and found["questions_running"] == 0
        assert found["first_text_seconds_sum"] <= found["answer_seconds_sum"] < 60
    assert samples(site.url, status="401")["refused_total"] == 1


@pytest.mark.parametrize(
    ("grounding", "fault", "read", "outcome"),
    [
        ({"declined": False}, None, 2, "answered"),
        ({"declined": True}, None, 2, "declined"),
        (None, ApiError(503, "gone"), 2, "failed"),
        (None, None, 1, "left"),
    ],
)
def test_outcomes_are_told_apart(grounding, fault, read, outcome):
    async def chunks():
        yield StreamChunk("a secret", 3)
        if fault:
            raise fault
        yield StreamChunk("", 3, "stop", grounding)

    async def ask(metrics: Metrics) -> None:
        found = metrics.measured(chunks(), request, "endpoint")
        with suppress(ApiError):
            for _ in range(read):
                await anext(found)
            await anext(found, None) if read == 2 else None
        await found.aclose()

    request: Any = SimpleNamespace(assistant=SimpleNamespace(id="help-lora"))
    metrics = Metrics()
    asyncio.run(ask(metrics))
    text = metrics.response().body.decode()
    counted = f'assistant_builder_answers_total{{model="help-lora",outcome="{outcome}",through="endpoint"}} 1.0'
    assert counted in text and text.count("answers_total{") == 1 and "secret" not in text
    assert 'answer_tokens_total{model="help-lora",through="endpoint"} 3.0' in text


def test_a_refused_question_is_counted_without_its_words(served):
    assert served.ask("hi", model="nobody").status_code == 404
    text = httpx.get(f"{served.url}/metrics").text
    assert 'assistant_builder_refused_total{status="404"} 1.0' in text and "nobody" not in text


def test_a_widget_without_a_key_shows_no_metrics(serve, study, monkeypatch):  # noqa: F811
    from tests.serving.test_widget import SITE, one_study

    monkeypatch.setattr("tests.serving.conftest.models", lambda folder: one_study(study))
    served = serve(config=ServingConfig(widget=True, allow_origin=(SITE,)))
    assert httpx.get(f"{served.url}/metrics").status_code in (401, 404)
    assert "/metrics" not in widget.PATHS
