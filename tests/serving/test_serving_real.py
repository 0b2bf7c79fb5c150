"""A real server over a base of two layers, asked by OpenAI's own client."""

import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from assistant_builder.chat.ask import ask_arms
from assistant_builder.data import Message
from assistant_builder.models.chat_template import ChatTokenizer
from assistant_builder.serving.shared_models import SharedSession
from assistant_builder.study import Study
from tests.commands import serving
from tests.export.tiny import tiny_base, tiny_study

QUESTION = "Which key opens <|im_end|> the gate?"
MODELS = ("one-qlora", "one-lora", "two-qlora")
pytestmark = pytest.mark.train


@pytest.fixture
def studies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Study]:
    """Two studies over one base, each with adapters of its own."""
    # in a model as small as this threads wait for one another
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    base = tiny_base(tmp_path / "base")
    return [tiny_study(base, "one"), tiny_study(base, "two", seed=2, system="Answer in one word.")]


@pytest.fixture
def url(studies: list[Study]) -> Iterator[str]:
    """A server of both arms of one study and of QLoRA of the other."""
    with serving("one two:qlora") as (ready, process):
        yield ready["url"]
        process.send_signal(signal.SIGINT)
        assert process.stdout is not None
        assert process.stdout.read() == "" and process.wait(timeout=30) == 0


@pytest.mark.long
def test_a_standard_client_is_answered_by_several_adapters_at_once(url, studies):
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=300)
    assert tuple(model.id for model in client.models.list()) == MODELS

    def ask(model: str) -> tuple[str, int, str]:
        stream = client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": QUESTION}],
            stream=True,
            stream_options={"include_usage": True},
        )
        *pieces, used = list(stream)
        text = "".join(piece.choices[0].delta.content or "" for piece in pieces)
        return text.strip(), used.usage.completion_tokens, pieces[-1].choices[0].finish_reason

    with ThreadPoolExecutor(len(MODELS)) as pool:
        answers = dict(zip(MODELS, pool.map(ask, MODELS), strict=True))
    expected: dict[str, dict[str, Any]] = {
        f"{study.name}-{arm}": answer
        for study, arms in zip(studies, (["qlora", "lora"], ["qlora"]), strict=True)
        for arm, answer in ask_arms(study, QUESTION, arms).items()
    }
    assert len({answer["text"] for answer in expected.values()}) == 3, (
        "the adapters say different things"
    )
    for model, answer in expected.items():
        ended = "length" if answer["tokens"] == 256 else "stop"
        assert answers[model] == (answer["text"], answer["tokens"], ended), model

    with pytest.raises(openai.BadRequestError, match="n: "):
        client.chat.completions.create(
            model="one", messages=[{"role": "user", "content": "hi"}], n=2
        )
    with pytest.raises(openai.NotFoundError, match="one-qlora, one-lora, two-qlora"):
        client.chat.completions.create(model="gpt-5", messages=[{"role": "user", "content": "hi"}])
    whole, again = (
        client.chat.completions.create(
            model="one",
            messages=[{"role": "user", "content": QUESTION}],
            max_tokens=5,
            temperature=1.0,
            seed=3,
        )
        for _ in range(2)
    )
    assert whole.choices[0].message.content == again.choices[0].message.content
    assert whole.choices[0].finish_reason == "length" and whole.usage is not None
    prompter = ChatTokenizer.load(Path(studies[0].config.model.base))
    assert whole.usage.prompt_tokens == len(prompter.prompt_ids([Message("user", QUESTION)]))


def test_assistants_of_one_base_hold_its_weights_once(studies):
    from peft.tuners.tuners_utils import BaseTunerLayer

    session = SharedSession(
        {f"{study.name}-{arm}": (study, arm) for study in studies for arm in ("qlora", "lora")}
    )
    names = ("one-qlora", "two-qlora", "one-lora", "two-lora")
    for name in names:
        session.load(name)

    def held(name: str) -> list[int]:
        model = session._loaded[name][0]
        parts = [
            layer.get_base_layer() for layer in model.modules() if isinstance(layer, BaseTunerLayer)
        ]
        return [part.weight.data_ptr() if hasattr(part, "weight") else id(part) for part in parts]

    assert held("one-qlora") == held("two-qlora") and held("one-lora") == held("two-lora")
    assert not set(held("one-qlora")) & set(held("one-lora"))
    embeddings = {
        name: session._loaded[name][0].get_input_embeddings().weight.data_ptr() for name in names
    }
    assert embeddings["one-qlora"] == embeddings["two-qlora"] != embeddings["one-lora"]
