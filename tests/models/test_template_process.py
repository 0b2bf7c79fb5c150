"""The process that renders and tokenizes within limits: the same results, and one sentence where a limit is reached."""

import os
import threading
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import psutil
import pytest

from assistant_builder import limited_process
from assistant_builder.data import Message, Pair
from assistant_builder.errors import ModelError
from assistant_builder.models import template_process
from assistant_builder.models.chat_template import ChatTokenizer
from assistant_builder.models.template_process import LimitedChatTokenizer, TemplateProcess
from tests.models.hostile_base import ENDLESS, FAILING, LONG_STRING, hostile_base, multiplying
from tests.models.mocked_days import LLAMA32
from tests.models.test_hostile_models import TEMPLATE

ASKED = [Message("user", "Who rows? qqqqq")]
PAIRS = [
    Pair(
        row,
        (
            Message("system", "Brief."),
            Message("user", f"Who rows {row}?"),
            Message("assistant", "Otto." * row),
        ),
    )
    for row in range(1, 40)
]


@pytest.fixture
def processes() -> Iterator[list[TemplateProcess]]:
    started: list[TemplateProcess] = []
    yield started
    for process in started:
        process.close()


def limited(
    processes: list[TemplateProcess], folder: Path, day: date | None = None, **limits: float
) -> LimitedChatTokenizer:
    processes.append(TemplateProcess(folder, **limits))
    return LimitedChatTokenizer(processes[-1], day)


def test_results_are_those_of_the_prompter(processes, tmp_path):
    folder, day = hostile_base(tmp_path / "base", template=LLAMA32), date(2026, 3, 2)
    own, there = ChatTokenizer.load(folder, day), limited(processes, folder, day)
    assert there.chat_template() == own.tokenizer.chat_template
    assert there.prompt_ids(ASKED) == own.prompt_ids(ASKED)
    assert there.prompt_tokens(ASKED) == len(own.prompt_ids(ASKED))
    assert [there.count_tokens(pair) for pair in PAIRS] == [
        own.count_tokens(pair) for pair in PAIRS
    ]
    assert there.measure(PAIRS) == template_process.measure_lengths(own, PAIRS)
    longest = max(len(turn.answer_ids) for pair in PAIRS for turn in own.turns(pair))
    assert there.longest_answer(PAIRS) == longest and there.longest_answer([]) == 0
    other = LimitedChatTokenizer(processes[0], date(2026, 11, 6))
    later = ChatTokenizer.load(folder, date(2026, 11, 6)).prompt_ids(ASKED)
    assert other.prompt_ids(ASKED) == later != own.prompt_ids(ASKED)


def test_lengths_are_measured_in_portions(processes, tmp_path, monkeypatch):
    folder = hostile_base(tmp_path / "base")
    monkeypatch.setattr(template_process, "_BATCH_CHARACTERS", 100)
    monkeypatch.setattr(template_process, "MAX_MEASURED_PAIRS", 20)
    expected = template_process.measure_lengths(ChatTokenizer.load(folder), PAIRS)
    assert limited(processes, folder).measure(PAIRS) == expected
    monkeypatch.setattr(template_process, "MEASURE_SECONDS", -1.0)
    with pytest.raises(ModelError, match="measuring 39 pairs took longer"):
        limited(processes, folder).measure(PAIRS)


@pytest.mark.long
@pytest.mark.parametrize(
    ("changes", "limits", "said"),
    [
        ({"template": LONG_STRING}, {"memory": 2**30}, "needed more than 1 GB of memory"),
        ({"template": LONG_STRING}, {"memory": 8 * 2**30}, "characters into 700,0"),
        ({"template": ENDLESS}, {"seconds": 1.0}, "took longer than 1 seconds"),
        ({"normalizer": multiplying()}, {}, "characters into 5,00.* tokens"),
        ({"template": FAILING}, {}, "refuses the conversation: xxx"),
    ],
)
def test_a_limit_ends_in_one_sentence(processes, tmp_path, changes, limits, said):
    there = limited(processes, hostile_base(tmp_path / "base", **changes), **limits)
    with pytest.raises(ModelError, match=said) as caught:
        there.prompt_tokens(ASKED)
    assert str(caught.value.where) and str(caught.value.remedy) and len(str(caught.value)) < 2_000


def test_memory_of_the_tokenizer_itself_is_limited(processes, tmp_path):
    there = limited(
        processes, hostile_base(tmp_path / "base", normalizer=multiplying()), memory=2**30
    )
    with pytest.raises(ModelError, match="needed more than 1 GB of memory"):
        # Rust ends the process where it gets no memory
        there.prompt_tokens([Message("user", "q" * 3_000)])


def test_the_resident_set_is_watched_where_the_system_limits_nothing(
    processes, tmp_path, monkeypatch
):
    monkeypatch.setattr(limited_process, "_resident", lambda process: 2**40)
    there = limited(processes, hostile_base(tmp_path / "base", template=ENDLESS))
    with pytest.raises(ModelError, match="needed more than 2 GB of memory"):
        there.prompt_tokens(ASKED)


def test_after_a_limit_the_next_request_is_answered_and_the_same_one_refused_at_once(
    processes, tmp_path, monkeypatch
):
    template = ENDLESS.replace(
        "{% for i", "{% if 'loop' in messages[0]['content'] %}{% for i", 1
    ).replace(TEMPLATE, "{% endif %}" + TEMPLATE)
    there = limited(processes, hostile_base(tmp_path / "base", template=template), seconds=2.0)
    for _ in range(2):
        began = time.monotonic()
        with pytest.raises(ModelError, match="took longer than 2 seconds"):
            there.prompt_tokens([Message("user", "loop")])
    assert time.monotonic() - began < 1.0
    assert there.prompt_tokens([Message("user", "hello")]) > 5
    monkeypatch.setattr(limited_process, "REFUSAL_CACHE_SECONDS", 0.0)
    began = time.monotonic()
    with pytest.raises(ModelError):
        there.prompt_tokens([Message("user", "loop")])
    assert time.monotonic() - began > 1.0


def test_a_result_that_is_too_long_is_not_read(processes, tmp_path, monkeypatch):
    monkeypatch.setattr(template_process, "REPLY_BYTES", 1_000)
    there = limited(processes, hostile_base(tmp_path / "base"))
    with pytest.raises(ModelError, match="gave too long a result"):
        there.prompt_ids([Message("user", "word " * 1_000)])
    assert there.prompt_tokens(ASKED) > 5


def test_it_ends_when_nobody_asks_and_starts_again(processes, tmp_path):
    there = limited(processes, hostile_base(tmp_path / "base"), idle_seconds=0.2)
    assert there.prompt_tokens(ASKED) > 5
    first = processes[0]._child.process
    assert first is not None and first.wait(10) != 0
    assert there.prompt_tokens(ASKED) > 5


def test_it_ends_with_who_started_it(tmp_path):
    process = TemplateProcess(hostile_base(tmp_path / "base"))
    assert LimitedChatTokenizer(process).prompt_tokens(ASKED) > 5
    child = process._child.process
    assert child is not None and child.stdin is not None
    child.stdin.close()  # as the system closes it however the parent ends
    assert child.wait(10) == 0


def test_closing_while_it_answers_ends_it_after_the_answer(processes, tmp_path):
    there = limited(processes, hostile_base(tmp_path / "base", template=ENDLESS), seconds=2.0)
    found: list[BaseException] = []

    def ask() -> None:
        try:
            there.prompt_tokens(ASKED)
        except ModelError as error:
            found.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    while processes[0]._child is None:
        time.sleep(0.01)
    processes[0].close()
    thread.join(20)
    assert len(found) == 1 and processes[0]._child.process.poll() is not None


def test_no_module_of_the_current_folder_runs(processes, tmp_path, monkeypatch):
    folder, here = hostile_base(tmp_path / "base"), tmp_path / "here"
    here.mkdir()
    for name in ("psutil", "transformers", "tokenizers", "json"):
        (here / f"{name}.py").write_text(f"open({str(here / 'ran')!r}, 'w').close()\n")
    monkeypatch.setenv("PYTHONPATH", str(Path(template_process.__file__).parents[2]))
    monkeypatch.chdir(here)
    assert limited(processes, folder).prompt_tokens(ASKED) > 5
    assert not (here / "ran").exists()


def test_a_folder_without_a_tokenizer_is_a_sentence(processes, tmp_path):
    with pytest.raises(ModelError, match=r"tokenizer\.json"):
        limited(processes, tmp_path).chat_template()


def test_it_gets_no_secrets(processes, tmp_path, monkeypatch):
    for name in ("HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "SOME_API_KEY"):
        monkeypatch.setenv(name, "canary")
    limited(processes, hostile_base(tmp_path / "base")).chat_template()
    assert processes[0]._child is not None
    assert "canary" not in psutil.Process(processes[0]._child.process.pid).environ().values()


@pytest.mark.skipif(not Path("/proc/self/limits").exists(), reason="reads Linux's own account")
def test_the_system_holds_the_limit(processes, tmp_path):
    limited(processes, hostile_base(tmp_path / "base"), memory=2**30).chat_template()
    child = processes[0]._child.process
    assert child is not None
    assert psutil.Process(child.pid).rlimit(psutil.RLIMIT_AS) == (2**30, 2**30)
    assert os.getsid(child.pid) == child.pid, "Ctrl-C in the terminal is the server's"
