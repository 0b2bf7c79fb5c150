"""The judge's endpoint failing in every way, and what it tells no one."""

import itertools
import json
import logging
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from assistant_builder.chat_endpoint import RetryPolicy
from assistant_builder.errors import EvaluationError
from evals.judge.pairwise import GIVE_UP_AFTER
from tests.evals.judge.fake_server import Reply, Texts, honest, judge_server
from tests.evals.judge.judged_study import everything_on_disk, lines_of, make_study, run

KEY = "sk-test-4f6e1c0de"


def test_errors_of_the_server_are_tried_again(home):
    seen: Counter[str] = Counter()
    lock = threading.Lock()

    def judge(texts: Texts) -> Reply:
        with lock:
            seen[json.dumps(texts)] += 1
            tries = seen[json.dumps(texts)]
        return {1: (500, {"error": {"message": "overloaded"}}), 2: (429, b"slow down")}.get(
            tries, honest(texts)
        )

    with judge_server(judge) as server:
        record = run(make_study(), server.url)
    assert (record["wins"], record["losses"], record["failures"]) == (3, 3, 0)
    assert set(seen.values()) == {3}


def test_what_fails_for_good_is_counted_and_asked_again_next_time(home):
    study, broken = make_study(30), {"Question 9?", "Question 13?"}

    def judge(texts: Texts) -> Reply:
        return (503, b"") if texts["question"] in broken else honest(texts)

    with judge_server(judge) as server:
        record = run(study, server.url)
        assert record["wins"] == 9
        assert record["losses"] == 9
        assert record["ties"] == 10
        assert record["failures"] == 2
        orders = lines_of(study)["9"]["orders"]
        assert [order["error"] for order in orders] == [
            "HTTP 503",
            "skipped, because the other order failed",
        ]
        broken.clear()
        before = len(server.asked)
        assert run(study, server.url)["failures"] == 0
        assert len(server.asked) - before == 4


def test_a_reply_that_drips_is_not_waited_for_longer(home):
    def drip() -> Iterator[bytes]:
        for _ in range(50):
            time.sleep(0.1)
            yield b" "

    began = time.monotonic()
    with judge_server(lambda texts: (200, drip())) as server:
        record = run(
            make_study(3), server.url, patience=RetryPolicy(timeout_seconds=0.3, attempts=1)
        )
    assert record["failures"] == 2 and time.monotonic() - began < 3


def test_an_endpoint_that_only_hangs_is_given_up(home):
    study = make_study(60)
    with (
        judge_server(lambda texts: None) as server,
        pytest.raises(EvaluationError, match=r"no reply in 0\.1 s"),
    ):
        run(study, server.url, patience=RetryPolicy(timeout_seconds=0.1, attempts=1))
    assert len(server.asked) == GIVE_UP_AFTER
    assert not (study.folder / "evals" / "judge.json").exists()


def test_an_endpoint_that_goes_away_keeps_what_it_said(home):
    study, calls = make_study(60), itertools.count()
    with judge_server(lambda texts: honest(texts) if next(calls) < 20 else (500, b"")) as server:
        with pytest.raises(EvaluationError, match="another run continues from here"):
            run(study, server.url)
        said = [
            line
            for line in lines_of(study).values()
            if line["orders"] and line["outcome"] != "failed"
        ]
        assert len(said) >= 8


@pytest.mark.parametrize(
    ("status", "message", "remedy"),
    [
        (401, "Incorrect API key provided", "ASSISTANT_BUILDER_JUDGE_KEY"),
        (403, "Forbidden", "ASSISTANT_BUILDER_JUDGE_KEY"),
        (404, "The model `judge-7b` does not exist", "eval.judge_model"),
        (400, "max_tokens is not supported", "eval.judge_model"),
    ],
)
def test_a_refusal_stops_after_one_call(home, status, message, remedy):
    with judge_server(lambda texts: (status, {"error": {"message": message}})) as server:
        with pytest.raises(EvaluationError, match=message) as caught:
            run(make_study(60), server.url)
    assert len(server.asked) == 1
    assert str(status) in str(caught.value.what) and remedy in str(caught.value.remedy)
    assert str(caught.value.where) == f"judge {server.url.split('/')[2]}"


def test_an_unreachable_endpoint_is_said_at_once(home):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        with pytest.raises(EvaluationError, match="cannot be reached") as caught:
            run(make_study(60), f"http://127.0.0.1:{taken.getsockname()[1]}/v1")
    assert "eval.judge_url" in str(caught.value.remedy)


# --- secrets ----------------------------------------------------------------------------------------------------------


def test_the_key_is_sent_and_appears_nowhere(home, monkeypatch, caplog, capfd):
    monkeypatch.setenv("ASSISTANT_BUILDER_JUDGE_KEY", f" {KEY}\n")
    caplog.set_level(logging.DEBUG)
    study = make_study(6)
    with judge_server(
        lambda texts: f"{honest(texts)} {KEY}"
    ) as server:  # a server that echoes what it was sent
        run(study, server.url)
    assert {headers["authorization"] for headers in server.headers} == {f"Bearer {KEY}"}
    assert "[hidden]" in everything_on_disk(study)
    assert KEY not in everything_on_disk(study) + caplog.text + "".join(capfd.readouterr())

    with judge_server(lambda texts: (401, {"error": {"message": f"bad key {KEY}"}})) as server:
        with pytest.raises(EvaluationError, match=r"bad key \[hidden\]") as caught:
            run(study, server.url)
    assert KEY not in str(caught.value) + everything_on_disk(study)
