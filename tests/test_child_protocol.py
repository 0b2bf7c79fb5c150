"""The protocol of child processes: requests, events, death, and the end of a parent."""

import time
from collections.abc import Iterator

import pytest

from assistant_builder.child_process import python_command, python_environment
from assistant_builder.child_protocol import Child

ECHO = """
import sys
from assistant_builder.child_protocol import Events, read_requests
events = Events()
events.emit("ready")
for request in read_requests():
    print("a library prints to standard output")
    if request["op"] == "die":
        sys.exit("out of luck")
    events.emit("result", result=request["text"])
"""


@pytest.fixture
def child() -> Iterator[Child]:
    child = Child(python_command("-c", ECHO), python_environment())
    yield child
    child.end()


def test_requests_are_answered_by_events(child):
    events = child.events()
    assert next(events) == {"event": "ready"}
    for text in ("größer\n", "half a pair \udc00"):
        child.send({"op": "echo", "text": text})
        assert next(events) == {"event": "result", "result": text}
    assert child.running


def test_the_last_words_of_a_process_that_dies_are_kept(child):
    child.send({"op": "die"})
    assert [event["event"] for event in child.events()] == ["ready"]
    assert (child.process.returncode, child.last_words) == (1, "out of luck")
    child.send({"op": "echo"})  # nobody reads it, and nothing happens
    assert not child.running


def test_a_process_ends_with_its_standard_input(child):
    events = child.events()
    next(events)
    began = time.monotonic()
    child.end(60)
    assert child.process.returncode == 0 and time.monotonic() - began < 30


def test_closing_its_events_kills_a_process(child):
    events = child.events()
    next(events)
    events.close()
    assert not child.running


def test_a_line_that_is_too_long_ends_a_process(child):
    child.send({"op": "echo", "text": "x" * 1000})
    lines = list(child.lines(100))
    assert len(lines[-1]) == 100 and not child.running
