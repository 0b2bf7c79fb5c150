"""llama.cpp in a process of its own: answers, slots, failures, and the comparison of prompts."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from assistant_builder.data import Message
from assistant_builder.errors import ConfigError, EvaluationError, ModelError
from assistant_builder.inference import llamacpp
from assistant_builder.inference.llamacpp import LlamaServer, check_prompts
from tests.export.tiny import CHATML
from tests.models.hostile_base import ENDLESS
from tests.tiny_gguf import prompter, tokens, write_tiny_gguf

needs_llamacpp = pytest.mark.skipif(
    not llamacpp.is_installed(), reason="xllamacpp is not installed"
)
CONVERSATIONS = {
    "1": [Message("system", "Be brief."), Message("user", "Which key?")],
    "2": [
        Message("user", "Täglich <|im_end|> um 9?"),
        Message("assistant", "Ja."),
        Message("user", "🎉 Sure?"),
    ],
}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


@pytest.fixture(scope="module")
def server(path: Path) -> Iterator[LlamaServer]:
    """A server for the tests that leave it as it is."""
    with LlamaServer(path, context=512, slots=3, threads=1) as found:
        yield found


def ids(text: str) -> tuple[int, ...]:
    return prompter().prompt_ids([Message("user", text)])


def test_without_the_package_the_error_names_the_extra(path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install -e '\.\[gguf\]'"):
        LlamaServer(path)


@needs_llamacpp
def test_answers_have_tokens_probabilities_and_times(server):
    answer = server.complete(ids("Which key?"), 12, logprobs=True)
    assert answer.finish == "length"
    assert len(answer.ids) == 12
    assert answer.prompt_tokens == len(ids("Which key?"))
    assert all(value <= 0 for value in answer.logprobs) and answer.logprobs
    assert answer.first_token_seconds > 0 and answer.tokens_per_second > 0
    assert not server.complete(ids("Which key?"), 3).logprobs
    assert server.load_seconds > 0
    assert server.resident_bytes > 1_000_000
    assert server.file.architecture == "llama"
    again = server.complete(ids("Which key?"), 12)
    assert again.ids == answer.ids and again.cached_tokens == len(ids("Which key?")) - 1


@needs_llamacpp
def test_a_stream_has_the_text_of_the_complete_answer(server):
    chunks = list(server.stream(ids("One two"), 12, logprobs=True))
    whole = server.complete(ids("One two"), 12)
    assert "".join(chunk.text for chunk in chunks) == whole.text
    assert [chunk.finish for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1].finish == "length"
    assert chunks[-1].tokens == 12 and sum(len(chunk.logprobs) for chunk in chunks) > 0


@needs_llamacpp
@pytest.mark.parametrize("count", [0, 1, 7])
def test_several_answers_at_a_time_are_those_of_their_prompts(server, count):
    prompts = [ids(f"Question {number * 5 % 7}") for number in range(count)]
    alone = [server.complete(prompt, 6).ids for prompt in prompts]
    answers = dict(server.complete_all(prompts, 6))
    assert [answers[place].ids for place in range(count)] == alone


@needs_llamacpp
def test_a_stopped_stream_ends_soon_and_frees_its_slot(path):
    with LlamaServer(path, context=2048, threads=1) as server:
        stop = threading.Event()
        stream = server.stream(ids("On and on"), 1900, stop_event=stop)
        next(stream)
        stop.set()
        *_, last = stream
        assert last.finish == "cancelled" and last.tokens < 1800
        began = time.monotonic()
        assert server.complete(ids("And now?"), 2).ids
        assert time.monotonic() - began < 10
        abandoned = server.stream(ids("Again"), 1900)
        next(abandoned)
        abandoned.close()
        assert server.complete(ids("And now?"), 2).ids


@needs_llamacpp
def test_a_prompt_that_is_too_long_is_refused(server):
    with pytest.raises(ModelError, match="refuses the request"):
        server.complete([5] * 600, 4)
    with pytest.raises(ModelError, match="refuses the request"):
        list(server.stream([5] * 600, 4))
    assert server.complete(ids("Fine"), 2).ids


@needs_llamacpp
def test_the_death_of_the_process_is_an_error_of_its_answers_alone(path):
    with LlamaServer(path, context=2048, threads=1) as server:
        os.kill(server._process.pid, signal.SIGSTOP)  # so that it cannot end before it is killed
        threading.Timer(0.2, os.kill, (server._process.pid, signal.SIGKILL)).start()
        with pytest.raises(ModelError, match="SIGKILL") as caught:
            list(server.stream(ids("On and on"), 1900))
        assert "Memory may have run out" in str(caught.value) and not server.running
        with pytest.raises(ModelError, match="ended while it answered"):
            server.complete(ids("Still there?"), 2)
        assert server.resident_bytes == 0


PARENT = """
import sys
from pathlib import Path
from assistant_builder.inference.llamacpp import LlamaServer
server = LlamaServer(Path(sys.argv[1]), context=512, threads=1)
print(server._process.pid, flush=True)
sys.stdin.read()
"""


@needs_llamacpp
def test_the_process_ends_with_its_parent(path):
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    child.wait(timeout=20)


@needs_llamacpp
def test_a_file_that_cannot_be_loaded_is_refused_in_one_line(path, tmp_path):
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ModelError, match="truncated"):
        LlamaServer(cut)
    incomplete = write_tiny_gguf(tmp_path / "incomplete.gguf", leave_out="blk.1.attn_q.weight")
    with pytest.raises(ModelError, match="could not load the file .*attn_q") as caught:
        LlamaServer(incomplete)
    assert "\n" not in str(caught.value)


@needs_llamacpp
def test_the_key_is_needed(server):
    server.headers, headers = {}, server.headers
    with pytest.raises(ModelError, match="API Key"):
        server.tokenize("hi")
    server.headers = headers


@needs_llamacpp
def test_equal_prompts_pass(server):
    check_prompts(server, prompter(), CONVERSATIONS)


@needs_llamacpp
@pytest.mark.parametrize("adds_bos", [False, True])
def test_llama_cpp_gives_the_bos_token_of_a_base_without_a_template_once(tmp_path, adds_bos):
    plain = prompter("", adds_bos=True)
    assert all(plain.prompt_ids(messages).count(0) == 1 for messages in CONVERSATIONS.values())
    path = write_tiny_gguf(
        tmp_path / "b.gguf", template=str(plain.tokenizer.chat_template), adds_bos=adds_bos
    )
    with LlamaServer(path, context=512, threads=1) as server:
        check_prompts(server, plain, CONVERSATIONS)


@needs_llamacpp
def test_a_damaged_template_is_found(tmp_path):
    damaged = write_tiny_gguf(
        tmp_path / "t.gguf", template=CHATML.replace("'<|im_end|>' + '\n'", "'<|im_end|>'")
    )
    with (
        LlamaServer(damaged, context=512, threads=1) as server,
        pytest.raises(EvaluationError) as caught,
    ):
        check_prompts(server, prompter(), CONVERSATIONS)
    text = str(caught.value)
    assert "chat template" in text and "item 1" in text and "at character 38" in text
    assert r"it has '<|im_start|>user\nWhich key" in text
    assert r"the study has '\n<|im_start|>user" in text


@needs_llamacpp
def test_a_template_that_refuses_is_found(tmp_path):
    refusing = write_tiny_gguf(tmp_path / "r.gguf", template="{{ raise_exception('no') }}" + CHATML)
    try:
        server = LlamaServer(refusing, context=512, threads=1)
    except ModelError as error:  # newer versions try the template when they load it
        assert "could not load" in str(error)
        return
    with server, pytest.raises(EvaluationError, match="chat template"):
        check_prompts(server, prompter(), CONVERSATIONS)


@needs_llamacpp
@pytest.mark.skipif(os.name != "posix", reason="needs timers of the system")
def test_a_template_without_end_ends_while_nobody_watches(tmp_path, monkeypatch):
    endless = write_tiny_gguf(tmp_path / "e.gguf", template=ENDLESS)
    monkeypatch.setattr(llamacpp, "_LOAD_SECONDS", 5.0)
    monkeypatch.setattr(threading.Timer, "start", lambda timer: None)  # as if the parent had ended
    with pytest.raises(ModelError, match="could not load"):
        LlamaServer(endless, context=512, threads=1)


@needs_llamacpp
def test_a_damaged_tokenizer_is_found(tmp_path):
    words = tokens()
    one, two = words.index("W"), words.index("k")
    words[one], words[two] = words[two], words[one]
    damaged = write_tiny_gguf(tmp_path / "v.gguf", vocabulary=words)
    with (
        LlamaServer(damaged, context=512, threads=1) as server,
        pytest.raises(EvaluationError) as caught,
    ):
        check_prompts(server, prompter(), CONVERSATIONS)
    text, place = str(caught.value), prompter().prompt_ids(CONVERSATIONS["1"]).index(one)
    assert "tokenizer" in text and "item 1" in text
    assert f"token {place} is 'W' (id {two})" in text and f"the study has 'k' (id {one})" in text
