"""The chat worker and its client, with a fake session."""

import itertools
import json
import os
import queue
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from assistant_builder.atomic_io import write_text
from assistant_builder.chat.answer_server import Server, _run_start_watcher
from assistant_builder.chat.client import ChatWorker, WorkerPool
from assistant_builder.chat.reply_stream import Reply, ReplyStream
from assistant_builder.data import Message
from assistant_builder.errors import ConfigError, ResourceError
from assistant_builder.inference.chunks import Chunk, Sampling
from assistant_builder.inference.session import ProgressCallback
from assistant_builder.retrieval.index import FILES
from assistant_builder.runner.local_runner import machine_lock
from assistant_builder.study import Study, run_marker
from assistant_builder.study.steps import StepRecord
from tests.chat.fake_worker import parrot_command
from tests.synthetic_study import new_study


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    return parrot_command(tmp_path)


@pytest.fixture
def worker(command: list[str]) -> Iterator[ChatWorker]:
    worker = ChatWorker(command)
    yield worker
    worker.close()


def ask(
    worker: ChatWorker, question: str, arms: tuple[str, ...] = ("qlora", "lora")
) -> ReplyStream:
    return worker.ask({arm: [Message("user", question)] for arm in arms}, Sampling())


def last(exchange: ReplyStream) -> dict[str, Reply]:
    return list(exchange)[-1]


def test_both_arms_answer_the_same_question(worker):
    replies = last(ask(worker, "hello wörld 🚢"))
    assert replies["qlora"].text == "qlora:hello qlora:wörld qlora:🚢 ✓"
    assert replies["lora"].text == "lora:hello lora:wörld lora:🚢 ✓"
    assert {reply.state for reply in replies.values()} == {"stop"}
    assert replies["lora"].tokens_per_second == pytest.approx(3 / 0.5)
    assert not worker.busy


def test_the_arms_answer_at_the_same_time(worker):
    exchange = ask(worker, "long talk")
    for replies in exchange:
        if all(reply.tokens > 3 for reply in replies.values()):
            break
    assert not any(reply.finished for reply in replies.values())
    exchange.stop()


def test_models_can_be_loaded_before_a_question(worker):
    states = list(worker.load(("qlora", "base")))
    assert states[-1]["qlora"].phase == "Teaching the parrot"
    assert states[-1]["qlora"].fraction == 1.0
    assert {reply.state for reply in states[-1].values()} == {"loaded"}
    assert not worker.busy
    again = list(ask(worker, "hello", ("base",)))
    assert not any(replies["base"].state == "loading" for replies in again)
    assert again[-1]["base"].text == "base:hello ✓"


def test_stop_keeps_the_text_so_far(worker):
    exchange = ask(worker, "long talk")
    for replies in exchange:
        if all(reply.tokens > 2 for reply in replies.values()):
            exchange.stop()
    assert {reply.state for reply in replies.values()} == {"cancelled"}
    assert replies["qlora"].text.startswith("qlora:long")
    assert replies["qlora"].tokens < 6000


def test_two_questions_at_once_do_not_mix(worker):
    first, second = ask(worker, "one two"), ask(worker, "three")
    assert last(second)["lora"].text == "lora:three ✓"
    assert last(first)["lora"].text == "lora:one lora:two ✓"


def test_waiting_questions_report_their_queue_position(worker):
    first, second, third = (
        ask(worker, question, ("lora",)) for question in ("long talk", "two", "three")
    )
    assert next(iter(third))["lora"].ahead == 2
    assert next(iter(ask(worker, "of the other", ("qlora",))))["qlora"].ahead == 0
    first.stop()
    assert last(second)["lora"].state == last(third)["lora"].state == "stop"
    assert last(third)["lora"].ahead == 0


def test_loading_a_model_is_no_question_before_one(worker):
    loading = worker.load(("lora",))
    assert next(iter(ask(worker, "first", ("lora",))))["lora"].ahead == 0
    loading.stop()


def test_a_question_can_be_stopped_while_it_waits(worker):
    first, second = ask(worker, "long talk", ("lora",)), ask(worker, "next", ("lora",))
    second.stop()
    first.stop()
    assert last(second)["lora"].state == "cancelled"
    assert last(second)["lora"].text == ""


def test_an_error_is_reported_with_its_remedy_and_the_worker_survives(worker):
    reply = last(ask(worker, "refuse"))["qlora"]
    assert reply.state == "failed"
    assert reply.error == {
        "type": "ModelError",
        "what": "there is no trained adapter",
        "where": "arm qlora",
        "remedy": "Train the study first",
    }
    bug = last(ask(worker, "bug"))["lora"].error
    assert bug is not None and "RuntimeError: shape mismatch" in bug["what"] and bug["remedy"]
    assert last(ask(worker, "again"))["lora"].state == "stop"


def test_a_crash_is_reported_and_the_next_question_restarts_the_process(worker):
    reply = last(ask(worker, "die"))["lora"]
    assert reply.error is not None
    assert reply.error["what"] == "the chat process ended with exit code 7: out of luck"
    assert last(ask(worker, "still there?"))["lora"].text.startswith("lora:still")


def test_a_killed_process_is_reported_as_out_of_memory(worker):
    error = last(ask(worker, "kill"))["qlora"].error
    assert error is not None and "memory" in error["what"] and "ask again" in error["remedy"]


def test_a_process_that_needs_a_restart_finishes_its_pending_requests(worker):
    under_way = ask(worker, "one two three four five", ("lora",))
    error = last(ask(worker, "starve", ("qlora",)))["qlora"].error
    assert error is not None
    assert error["what"] == "memory ran out"
    assert "ask again" in error["remedy"]
    process = worker._child.process
    assert last(under_way)["lora"].text.endswith("lora:five \u2713")
    assert process is not None and process.wait(timeout=10) == 0
    assert last(ask(worker, "better?"))["lora"].text == "lora:better? \u2713"
    assert worker._child.process is not process


class Short:
    """A session in which one arm can be loaded and the other does not fit into memory."""

    def __init__(self, error: Exception) -> None:
        self._error = error
        self._loaded: set[str] = set()

    def ready(self, speaker: str) -> bool:
        return speaker in self._loaded

    def load(self, speaker: str, report: ProgressCallback) -> None:
        if speaker == "lora":
            raise self._error
        self._loaded.add(speaker)

    def stream(
        self,
        speaker: str,
        messages: Sequence[Message],
        sampling: Sampling,
        stop_event: threading.Event,
    ) -> Iterator[Chunk]:
        if messages[-1].content == "long":
            raise self._error
        yield Chunk("yes", 1, 0.1, 0.1, "stop")


class OutOfMemoryError(RuntimeError):
    """Has the name of PyTorch's exception, so that this test does not import torch."""


def wrapped(cause: Exception) -> ResourceError:
    """The exception that loading a base model raises."""
    error = ResourceError(
        "memory does not suffice to load the base model", where="base", remedy="Close programs"
    )
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "error",
    [
        OutOfMemoryError("CUDA out of memory"),
        wrapped(OutOfMemoryError("CUDA out of memory")),
        MemoryError(),
        wrapped(MemoryError()),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_an_arm_that_does_not_fit_leaves_the_other_arm_loaded(error):
    numbers = itertools.count(1)
    asked: queue.Queue[str | None] = queue.Queue()
    events: queue.Queue[dict[str, Any]] = queue.Queue()
    server = Server(Short(error), events.put)
    thread = threading.Thread(target=server.serve, args=(iter(asked.get, None),), daemon=True)
    thread.start()

    def ended(operation: str, arm: str, question: str = "short") -> dict[str, Any]:
        """Final event of a request."""
        asked.put(
            json.dumps(
                {
                    "op": operation,
                    "id": str(next(numbers)),
                    "arm": arm,
                    "messages": [{"role": "user", "content": question}],
                }
            )
        )
        while True:
            event = events.get(timeout=10)
            if event["event"] in ("loaded", "end", "error", "idle"):
                return event

    assert ended("load", "qlora")["event"] == "loaded"
    failed = ended("load", "lora")["error"]
    assert [ended("ask", arm)["event"] for arm in ("qlora", "lora", "qlora")] == [
        "end",
        "error",
        "end",
    ]
    assert failed["type"] == "ResourceError" and failed["where"] == "arm lora"
    assert failed["what"] == "memory ran out while loading lora; qlora can still be asked"
    assert "Close other programs" in failed["remedy"]
    assert ended("ask", "qlora", "long")["error"]["what"] == "memory ran out"
    assert ended("ask", "qlora")["text"] == "yes"
    assert thread.is_alive()
    asked.put(None)
    thread.join(timeout=10)
    assert not thread.is_alive()


def test_a_process_without_models_stays_when_a_run_starts(home):
    run_marker().parent.mkdir(parents=True, exist_ok=True)
    held = False
    started = _run_start_watcher(lambda: held)
    run_marker().write_text("1", encoding="utf-8")
    assert not started()
    held = True
    assert not started(), "the run began before the model was loaded"
    os.utime(run_marker(), ns=(1, 1))
    assert started()


def test_an_idle_process_ends_when_a_run_starts(command):
    pool = WorkerPool(command)
    study = new_study("running")
    worker = pool.worker(study)
    assert last(ask(worker, "one"))["lora"].state == "stop"
    process = worker._child.process
    assert process is not None and process.poll() is None
    with machine_lock(study, waiting=lambda names: None):
        assert process.wait(timeout=10) == 0
    # a question restarts the process
    assert last(ask(worker, "two"))["lora"].text == "lora:two \u2713"
    pool.close()


def test_a_run_does_not_interrupt_a_pending_answer(worker):
    under_way = ask(worker, "long talk", ("lora",))
    next(replies for replies in under_way if replies["lora"].tokens)
    process = worker._child.process
    assert process is not None
    with machine_lock(new_study("running"), waiting=lambda names: None):
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=2.5)  # long enough for two polls
        under_way.stop()
        assert process.wait(timeout=10) == 0
    assert last(under_way)["lora"].state == "cancelled"


def test_an_idle_process_ends_and_is_started_again(tmp_path):
    worker = ChatWorker(parrot_command(tmp_path, 0.2))
    assert last(ask(worker, "one"))["lora"].state == "stop"
    process = worker._child.process
    assert process is not None
    process.wait(timeout=10)
    assert last(ask(worker, "two"))["lora"].text == "lora:two ✓"
    worker.close()


def test_the_process_ends_with_the_page(command):
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdin is not None
    request = {
        "op": "ask",
        "id": "1",
        "arm": "lora",
        "messages": [{"role": "user", "content": "long talk"}],
        "sampling": {},
    }
    process.stdin.write(json.dumps(request).encode() + b"\n")
    process.stdin.flush()
    assert process.stdout is not None and process.stdout.readline()
    process.stdin.close()
    assert process.wait(timeout=10) == 0
    process.stdout.close()


def test_closing_ends_pending_answers(worker):
    exchange = ask(worker, "long talk")
    replies = next(reply for reply in exchange if reply["lora"].tokens)
    assert not replies["lora"].finished
    started = time.monotonic()
    worker.close()
    ended = last(exchange)["lora"]
    assert ended.state == "failed" and ended.error is not None and "closed" in ended.error["what"]
    assert time.monotonic() - started < 5


def test_unreadable_requests_are_skipped(command):
    lines = 'nonsense\n{"op": "dance", "id": "1"}\n{"op":"stop","id":"9"}\n' + json.dumps(
        {"op": "ask", "id": "2", "arm": "lora", "messages": [], "sampling": {"temperature": -1}}
    )
    done = subprocess.run(
        command, input=lines + "\n", capture_output=True, text=True, timeout=20, check=True
    )
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [event["event"] for event in events] == ["error"]
    assert "temperature" in events[0]["error"]["what"]


def test_sampling_reports_all_problems_together():
    with pytest.raises(ConfigError, match=r"max_new_tokens=0.*temperature=9.*top_p=0.*seed=-1"):
        Sampling(max_new_tokens=0, temperature=9, top_p=0, seed=-1)


def test_the_pool_keeps_one_process_and_renews_it_when_a_file_changes_that_it_reads(tmp_path):
    pool = WorkerPool()
    study = Study(tmp_path / "one")
    write_text(study.folder / "study.yaml", "name: one\n")
    first = pool.worker(study)
    assert pool.worker(study) is first
    study.write_step(
        StepRecord("train-lora", state="succeeded", outputs={"arms/lora/adapter": "abc"})
    )
    second = pool.worker(study)
    assert second is not first
    workers = [second]
    for name in ("arms/qlora/decline.json", "retrieval/index.json", "report.json"):
        for text in ("{}", '{"of": "another evaluation"}'):
            write_text(study.folder / name, text)
            workers.append(pool.worker(study))
            assert pool.worker(study) is workers[-1]
    for name in FILES:
        write_text(study.retrieval_folder / Study.FINAL_INDEX / name, "{}")
    workers += [pool.worker(study), pool.worker(Study(tmp_path / "two"))]
    assert len(set(workers)) == 9
    pool.close()
