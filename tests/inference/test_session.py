"""Streaming answers, with scripted models and a random two-layer model."""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from assistant_builder.cli import main
from assistant_builder.config import StudyConfig
from assistant_builder.data import Message
from assistant_builder.errors import ModelError
from assistant_builder.inference import session as session_module
from assistant_builder.inference.chunks import Chunk, Sampling
from assistant_builder.inference.generate import sampling_processors
from assistant_builder.inference.grounded import Grounded
from assistant_builder.inference.session import BASE, ChatSession, clone_sharing_weights
from assistant_builder.retrieval.decline import NAMES, DeclineRule
from assistant_builder.retrieval.index import Index
from assistant_builder.study import Study
from tests.retrieval.fake_embedder import FakeEmbedder, pair
from tests.synthetic_study import new_study, trained, with_data
from tests.tiny_models import small_llama

torch = pytest.importorskip("torch")
EOS = 3
ASK = [Message("user", "hello")]


@dataclass
class BytePrompter:
    """A tokenizer with one token per byte, starting at 10."""

    stop_ids: list[int] = field(default_factory=lambda: [EOS])
    pad_id: int = 0

    def prompt_ids(self, messages: Sequence[Message]) -> tuple[int, ...]:
        return tuple(byte + 10 for message in messages for byte in message.content.encode())

    def text_ids(self, text: str) -> tuple[int, ...]:
        return tuple(byte + 10 for byte in text.encode())

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(max(token - 10, 0) % 256 for token in ids).decode("utf-8", errors="replace")


class Scripted:
    """A model that streams given tokens like transformers' ``generate``."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self.script = [*tokens, EOS]
        self.config = type("Config", (), {"max_position_embeddings": 64})()
        self.device = torch.device("cpu")
        self.generated = 0

    def generate(
        self,
        *,
        input_ids: Any,
        streamer: Any,
        stopping_criteria: Any,
        max_new_tokens: int,
        **options: Any,
    ) -> None:
        assert options["eos_token_id"] == [EOS]
        assert options["do_sample"] is False
        assert options["temperature"] is None
        streamer.put(input_ids)
        for token in self.script[:max_new_tokens]:
            self.generated += 1
            streamer.put(torch.tensor([token]))
            if token == EOS or stopping_criteria(input_ids, None).all():
                break
            time.sleep(0.002)
        streamer.end()


def session_with(model: Any, prompter: Any) -> ChatSession:
    session = ChatSession(Study(Path("nowhere")))
    session._loaded["lora"] = (model, prompter)
    return session


def answer(session: ChatSession, messages: list[Message] = ASK, **sampling: Any) -> list[Chunk]:
    return list(session.stream("lora", messages, Sampling(**sampling), threading.Event()))


def tokens_of(text: str) -> list[int]:
    return [byte + 10 for byte in text.encode()]


def test_an_answer_is_streamed_token_by_token():
    model = Scripted(tokens_of("Hi!"))
    chunks = answer(session_with(model, BytePrompter()))
    assert [chunk.text_delta for chunk in chunks] == ["H", "i", "!", ""]
    assert [chunk.tokens for chunk in chunks] == [1, 2, 3, 3]
    assert chunks[-1].finish == "stop"
    assert all(chunk.finish is None for chunk in chunks[:-1])
    assert chunks[0].first_token_seconds == chunks[-1].first_token_seconds
    assert model.generated == 4


def test_incomplete_characters_are_not_streamed():
    chunks = answer(session_with(Scripted(tokens_of("a🚢é")), BytePrompter()))
    assert [chunk.text_delta for chunk in chunks] == ["a", "🚢", "é", ""]


def test_answers_respect_the_token_limit_and_the_context_length():
    assert (
        answer(session_with(Scripted(tokens_of("x" * 90)), BytePrompter()), max_new_tokens=5)[
            -1
        ].tokens
        == 5
    )
    session = session_with(Scripted(tokens_of("x" * 90)), BytePrompter())
    assert answer(session, [Message("user", "q" * 60)])[-1].tokens == 4
    with pytest.raises(ModelError, match="context length of the model is 64") as caught:
        answer(session, [Message("user", "q" * 64)])
    assert "Clear the conversation" in str(caught.value.remedy)


def test_stop_ends_the_answer_and_keeps_its_text():
    stop = threading.Event()
    seen = []
    for chunk in session_with(Scripted(tokens_of("x" * 50)), BytePrompter()).stream(
        "lora", ASK, Sampling(), stop
    ):
        seen.append(chunk)
        if chunk.tokens == 3:
            stop.set()
    assert seen[-1].finish == "cancelled" and seen[-1].tokens == 3
    (only,) = session_with(Scripted([40]), BytePrompter()).stream("lora", ASK, Sampling(), stop)
    assert only == Chunk("", 0, None, 0.0, "cancelled")


def test_a_model_that_runs_out_of_memory_is_not_loaded(monkeypatch):
    from assistant_builder.models import loading

    def short(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(loading, "load_arm", lambda *_, **__: (Scripted([]), BytePrompter()))
    monkeypatch.setattr(session_module, "prepare_for_inference", short)
    session = ChatSession(Study(Path("nowhere")))
    for _ in range(2):  # loading is retried the second time
        with pytest.raises(torch.OutOfMemoryError):
            session.load("lora")
        assert not session.ready("lora")


def test_ask_reports_that_memory_ran_out(monkeypatch, capsys):
    def stream(self: ChatSession, speaker: str, *_: Any) -> Any:
        if speaker == "lora":
            raise torch.OutOfMemoryError("CUDA out of memory")
        yield Chunk("Yes.", 1, 0.1, 0.2, "stop")

    monkeypatch.setattr(ChatSession, "stream", stream)
    study = trained(with_data(new_study("short")))
    monkeypatch.setattr("sys.argv", ["assistant-builder", "ask", study.name, "Why?"])
    with pytest.raises(SystemExit) as ended:
        main()
    error = capsys.readouterr().err
    assert ended.value.code == 1 and error.count("\n") == 1
    assert "arm lora: memory ran out. Ask only one arm" in error


@pytest.fixture(scope="module")
def llama() -> Any:
    return small_llama(
        max_position_embeddings=128, eos_token_id=EOS, pad_token_id=0, bos_token_id=1
    )


def test_greedy_streaming_equals_generate(llama):
    prompter = BytePrompter()
    ids = list(prompter.prompt_ids(ASK))
    whole = llama.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=20)[
        0, len(ids) :
    ].tolist()
    expected = prompter.decode([token for token in whole if token != EOS])
    chunks = answer(session_with(llama, prompter), max_new_tokens=20)
    assert "".join(chunk.text_delta for chunk in chunks) == expected


def test_sampling_differs_and_top_p_narrows_it(llama):
    session = session_with(llama, BytePrompter())

    def said(**sampling: Any) -> str:
        return "".join(chunk.text_delta for chunk in answer(session, max_new_tokens=12, **sampling))

    assert len({said(temperature=2.0) for _ in range(4)}) > 1
    assert said(temperature=2.0, top_p=1e-9) == said()
    assert (
        said(temperature=2.0, seed=5)
        == said(temperature=2.0, seed=5)
        != said(temperature=2.0, seed=6)
    )


def test_samples_follow_the_distribution_at_the_temperature():
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0]])
    processors = sampling_processors(Sampling(temperature=0.7, seed=0))
    counts = torch.zeros(4)
    for _ in range(4000):
        scores = logits.clone()
        for process in processors:
            scores = process(None, scores)
        counts[scores.argmax()] += 1
    expected = torch.softmax(logits[0] / 0.7, 0)
    assert torch.allclose(counts / 4000, expected, atol=4 * 0.5 / 4000**0.5)


def test_a_concurrent_answer_does_not_change_a_seeded_one(llama):
    session = session_with(llama, BytePrompter())
    alone = [
        chunk.text_delta for chunk in answer(session, max_new_tokens=12, temperature=2.0, seed=5)
    ]
    beside = session.stream(
        "lora", ASK, Sampling(max_new_tokens=12, temperature=2.0, seed=8), threading.Event()
    )
    mixed = []
    for chunk in session.stream(
        "lora", ASK, Sampling(max_new_tokens=12, temperature=2.0, seed=5), threading.Event()
    ):
        mixed.append(chunk.text_delta)
        next(beside, None)
    beside.close()
    assert mixed == alone


@pytest.fixture(scope="module")
def adapted(llama: Any) -> Any:
    from copy import deepcopy

    from peft import LoraConfig, get_peft_model

    torch.manual_seed(1)
    config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
    return get_peft_model(deepcopy(llama), config).eval()


def test_the_cloned_base_ignores_the_adapter_and_shares_all_weights(adapted):
    base = clone_sharing_weights(adapted.get_base_model())
    ids = torch.tensor([[1, 20, 30, 40]])
    with torch.no_grad():
        with adapted.disable_adapter():
            expected = adapted(ids).logits
        assert torch.equal(base(ids).logits, expected)
        assert not torch.equal(adapted(ids).logits, expected)  # the adapter is still active
    held = {parameter.data_ptr() for parameter in adapted.parameters()}
    assert {parameter.data_ptr() for parameter in base.parameters()} <= held
    assert not any("lora_" in name for name, _ in base.named_parameters())


def test_the_base_model_shares_the_loaded_base_and_reports_progress(adapted, monkeypatch):
    loaded: list[str] = []

    def load_arm(study: Study, arm: str, *, hold: bool) -> Any:
        loaded.append(arm)
        return adapted, BytePrompter()

    monkeypatch.setattr("assistant_builder.models.loading.load_arm", load_arm)
    session, told = ChatSession(new_study("untuned")), []
    session.load(BASE, lambda phase, fraction: told.append((fraction, str(phase))))
    session.load("lora")
    assert loaded == ["lora"] and session.ready("lora") and session.ready(BASE)
    assert told == sorted(told) and "Reading the 16-bit base" in [phase for _, phase in told]


def test_an_abandoned_answer_ends_its_generation():
    model = Scripted(tokens_of("x" * 50))
    stream = session_with(model, BytePrompter()).stream("lora", ASK, Sampling(), threading.Event())
    next(stream)
    stream.close()
    assert model.generated < 50
    assert not any(thread.name == "generate" for thread in threading.enumerate())


# grounded assistants

HALL = [
    pair(1, "When does the hall open?", "At nine."),
    pair(2, "Who keeps the hall?", "Ada Flint."),
]
ASK_HALL = [Message("user", "When does the hall open?")]


@pytest.fixture
def both_facts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompts have both facts of the hall, however far the second is."""
    monkeypatch.setattr(
        "assistant_builder.retrieval.retriever.shown_facts", lambda hits: [hit.fact for hit in hits]
    )


def grounded_session(text: str, *, context: int = 400, threshold: float = 0.0) -> ChatSession:
    """An assistant that says ``text`` and declines where the nearest question has a cosine below ``threshold``."""
    from assistant_builder.retrieval.grounding import Grounder
    from assistant_builder.retrieval.retriever import Retriever

    model, prompter = Scripted(tokens_of(text)), BytePrompter()
    model.config.max_position_embeddings = context
    session = session_with(model, prompter)
    embedder: Any = FakeEmbedder()
    grounder = Grounder(prompter, 2, 1000, answer=20)
    study: Any = SimpleNamespace(config=StudyConfig())
    retriever = Retriever(study, Index.build(HALL, embedder), embedder, grounder)
    weights = tuple(100.0 * (name == "similarity") for name in NAMES)
    zeros, ones = (0.0,) * len(NAMES), (1.0,) * len(NAMES)
    rule = DeclineRule(
        zeros, ones, weights, -100 * threshold, 0.5, 0.04, True, 9, 0, 9, 9, "I was not told."
    )
    session._grounded["lora"] = Grounded(retriever, rule)
    return session


@pytest.mark.usefixtures("both_facts")
def test_an_answer_has_its_sources_and_the_tokens_of_its_prompt():
    chunks = answer(grounded_session("It opens at nine o'clock."), ASK_HALL)
    assert "".join(chunk.text_delta for chunk in chunks) == "It opens at nine o'clock."
    first, *middle, last = chunks
    assert [source["row"] for source in last.sources] == [1, 2] and not last.declined
    assert first.sources == last.sources and first.prompt_tokens == last.prompt_tokens
    facts = "Q: Who keeps the hall?\nA: Ada Flint.\nQ: When does the hall open?\nA: At nine."
    assert last.prompt_tokens == len(facts) + len(ASK_HALL[0].content)
    assert not any(chunk.sources or chunk.prompt_tokens for chunk in middle)


def test_a_declined_question_is_answered_by_the_sentence_alone():
    session = grounded_session("Ada Flint painted it, as all know.", threshold=0.9)
    (only,) = answer(session, [Message("user", "Who painted the ceiling?")])
    assert (only.text_delta, only.finish, only.declined) == ("I was not told.", "stop", True)
    assert not only.sources and only.prompt_tokens
    assert only.judged["mode"] == "tuned" and only.judged["confidence"] < 0.5
    assert only.judged["reason"].startswith("The nearest question of the data is “")
    first, *_, last = answer(session, ASK_HALL)
    assert not last.declined and last.judged["confidence"] > 0.5 and not first.judged
    assert last.judged["evidence"].keys() == set(NAMES) and "reason" not in last.judged


def test_without_looking_up_nothing_is_found_or_declined():
    last = answer(grounded_session("From memory.", threshold=2.0), ASK_HALL, look_up=False)[-1]
    assert (last.sources, last.prompt_tokens, last.declined) == ((), None, False)


@pytest.mark.usefixtures("both_facts")
@pytest.mark.parametrize(("context", "facts"), [(400, 2), (160, 2), (116, 1), (60, 0)])
def test_facts_beyond_the_context_are_left_out(context, facts):
    """The two facts, the question and 20 tokens for the answer need 120 tokens, one fact less 85."""
    last = answer(grounded_session("At nine.", context=context), ASK_HALL)[-1]
    assert last.finish == "stop" and len(last.sources) == facts
    talk = [Message("user", "x" * 200), Message("assistant", "y" * 100), *ASK_HALL]
    assert answer(grounded_session("At nine.", context=context), talk)[-1].sources == last.sources


def own_words_session(text: str) -> ChatSession:
    session = grounded_session(text)
    grounded = session._grounded["lora"]
    assert grounded.rule is not None
    session._grounded["lora"] = replace(grounded, rule=replace(grounded.rule, own_words=True))
    return session


@pytest.mark.usefixtures("both_facts")
@pytest.mark.parametrize(
    "text", ["At nine.", "At ten.", "At nine and never on Mondays, as far as I know.", "Yes."]
)
def test_an_answer_is_the_fact_that_it_begins(text):
    (only,) = answer(own_words_session(text), ASK_HALL)
    assert (only.text_delta, only.finish, only.declined) == ("At nine.", "stop", False)
    assert only.sources


def one_fact_session(text: str) -> ChatSession:
    session = grounded_session(text)
    grounded = session._grounded["lora"]
    assert grounded.rule is not None
    session._grounded["lora"] = replace(grounded, rule=replace(grounded.rule, values="answer"))
    return session


@pytest.mark.usefixtures("both_facts")
@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("At nine. Come in by the door.", "At nine. Come in by the door."),
        ("At nine. Bring 5 euros. Thank you.", "At nine."),
        ("At ten, as ever.", "At nine."),
    ],
)
def test_a_sentence_with_values_of_no_fact_is_replaced_while_streaming(text, shown):
    chunks = answer(one_fact_session(text), ASK_HALL)
    assert "".join(chunk.text_delta for chunk in chunks) == shown
    assert chunks[-1].finish == "stop" and chunks[-1].sources
    assert [chunk.finish for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)


def test_unrelated_turns_change_no_answer():
    """The prompt is the same, and so is the answer, with any conversation before the question."""
    talk = [Message("user", "Who keeps the hall?"), Message("assistant", "Ada Flint."), *ASK_HALL]
    alone, after = (answer(grounded_session("At nine."), messages) for messages in (ASK_HALL, talk))
    assert [(chunk.text_delta, chunk.sources, chunk.prompt_tokens) for chunk in after] == [
        (chunk.text_delta, chunk.sources, chunk.prompt_tokens) for chunk in alone
    ]


def test_a_follow_up_is_looked_up_with_the_turn_before():
    session = grounded_session("At nine.", threshold=0.6)
    assert answer(session, [Message("user", "Until when?")])[-1].declined
    talk = [*ASK_HALL, Message("assistant", "At nine."), Message("user", "Until when?")]
    last = answer(session, talk)[-1]
    assert not last.declined and last.sources[0]["row"] == 1
    assert last.prompt_tokens == len("Q: When does the hall open?\nA: At nine.Until when?")


def test_an_assistant_of_single_questions_that_looks_nothing_up_reads_the_last_one_alone():
    session = session_with(model := Scripted(tokens_of("yes")), BytePrompter())
    talk = [Message("user", "x" * 200), Message("assistant", "y" * 100), *ASK]
    with pytest.raises(ModelError, match="context length"):
        answer(session, talk)
    session._conversations_read["lora"] = False
    assert answer(session, talk)[-1].finish == "stop" and model.generated
