"""The endpoint on a Ray cluster with autoscaled replicas."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from assistant_builder.chat.ask import ask_arms
from assistant_builder.config.serving import ServingConfig
from assistant_builder.serving.auth import digest_of
from assistant_builder.serving.ray_serve import APPLICATION, deployed, follow
from assistant_builder.serving.registry import select_models
from assistant_builder.study import Study
from assistant_builder.study.versions import add_version, publish
from tests.browser.serving import free_port
from tests.cluster.conftest import Nodes
from tests.export.tiny import tiny_base, tiny_study

# ignore import warnings of Ray Serve
pytestmark = [pytest.mark.cluster, pytest.mark.filterwarnings("default")]
KEY = "sixteen-letters-and-more"
QUESTION = "What are the opening hours?"


@pytest.fixture
def studies(tmp_path: Path) -> list[Study]:
    base = tiny_base(tmp_path / "base")
    return [tiny_study(base, "one"), tiny_study(base, "two", seed=2)]


@pytest.fixture
def url(nodes: Nodes, studies: list[Study]) -> Iterator[str]:
    from ray import serve

    config = ServingConfig(port=free_port(), min_replicas=1, max_replicas=2, ongoing=1, cpus=1)
    models = select_models(["one:qlora", "two:qlora"], lambda study: "qlora")
    with deployed(models, config, digest_of(KEY), nodes.address) as url:
        yield url
    assert APPLICATION not in serve.status().applications
    serve.shutdown()


def test_a_published_version_replaces_the_served_one_without_losing_an_answer(
    nodes, studies, tmp_path
):
    from ray import serve

    version = tiny_study(tmp_path / "base", "one-v2", seed=3)
    add_version(studies[0], version)
    before, after = (
        ask_arms(study, QUESTION, ["qlora"])["qlora"]["text"] for study in (studies[0], version)
    )
    config = ServingConfig(port=free_port(), min_replicas=1, max_replicas=1, cpus=1)
    models, stop, answers = (
        select_models(["one:qlora"], lambda study: "qlora"),
        threading.Event(),
        list[str](),
    )
    with deployed(models, config, None, nodes.address) as url:
        following = threading.Thread(target=follow, args=(models, config, None, stop))
        following.start()
        try:
            deadline = time.monotonic() + 240
            while time.monotonic() < deadline and answers[-3:] != [after] * 3:
                asked = {"model": "one", "messages": [{"role": "user", "content": QUESTION}]}
                found = httpx.post(f"{url}/chat/completions", json=asked, timeout=240)
                assert found.status_code == 200, found.text
                answers.append(found.json()["choices"][0]["message"]["content"].strip())
                if len(answers) == 1:
                    publish(studies[0], "one-v2")
        finally:
            stop.set()
            following.join()
    assert before != after
    assert answers[0] == before
    assert answers[-1] == after
    assert {*answers} == {before, after}
    serve.shutdown()


def replicas() -> int:
    from ray import serve

    found = serve.status().applications[APPLICATION].deployments["assistants"].replica_states
    return found.get("RUNNING", 0)


def test_streaming_two_adapters_autoscaling_and_authentication(url, studies):
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(base_url=url, api_key=KEY, timeout=300, max_retries=5)
    expected = {
        f"{study.name}-qlora": ask_arms(study, QUESTION, ["qlora"])["qlora"]["text"]
        for study in studies
    }
    assert len(set(expected.values())) == 2

    def ask(model: str) -> str:
        stream = client.chat.completions.create(
            model=model, messages=[{"role": "user", "content": QUESTION}], stream=True
        )
        return "".join(piece.choices[0].delta.content or "" for piece in stream).strip()

    with ThreadPoolExecutor(2) as pool:
        assert dict(zip(expected, pool.map(ask, expected), strict=True)) == expected
    assert httpx.get(f"{url}/models").status_code == 401
    assert httpx.get(f"{url.removesuffix('/v1')}/health").json() == {"status": "ok"}
    assert replicas() == 1

    enough, wrong = threading.Event(), list[Any]()

    def keep_asking(model: str) -> None:
        while not enough.is_set():
            if (text := ask(model)) != expected[model]:
                wrong.append(text)

    with ThreadPoolExecutor(6) as pool:
        for model in [*expected] * 3:
            pool.submit(keep_asking, model)
        deadline = time.monotonic() + 240
        while replicas() < 2 and time.monotonic() < deadline:
            time.sleep(1)
        grown = replicas()
        enough.set()
    assert grown == 2 and not wrong
