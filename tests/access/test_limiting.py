"""Attempts, sessions and sizes, under a clock of the test's own."""

from __future__ import annotations

import pytest

from assistant_builder.access.limits import COUNT_VARIABLE, SIZE_VARIABLE, Limits, shown_size
from assistant_builder.access.sessions import IDLE_SECONDS, LONGEST_SECONDS, Sessions
from assistant_builder.access.throttle import ALL_ATTEMPTS, FREE_ATTEMPTS, LONGEST_WAIT, Throttle, client_of
from assistant_builder.errors import ConfigError


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_client_waits_longer_with_every_attempt() -> None:
    clock = Clock()
    throttle = Throttle(clock)
    assert [throttle.attempt("10.0.0.1") for _ in range(FREE_ATTEMPTS)] == [0.0] * FREE_ATTEMPTS
    waits = []
    for _ in range(14):
        waits.append(throttle.attempt("10.0.0.1"))
        clock.now += waits[-1]
        assert throttle.attempt("10.0.0.1") == 0.0
    assert waits[:4] == [2.0, 4.0, 8.0, 16.0] and waits[-1] == LONGEST_WAIT
    assert throttle.attempt("10.0.0.2") == 0.0, "others are not held up"
    throttle.succeeded("10.0.0.1")
    assert throttle.attempt("10.0.0.1") == 0.0 and throttle.failures("10.0.0.1") == 1


def test_a_day_of_guessing_gets_little() -> None:
    clock = Clock()
    throttle = Throttle(clock)
    tried = 0
    while clock.now < 1000 + 24 * 3600:
        wait = throttle.attempt("10.0.0.1")
        tried += wait == 0
        clock.now += wait
    assert tried < 120


def test_many_clients_together_are_limited_too() -> None:
    clock = Clock()
    throttle = Throttle(clock)
    tried = sum(throttle.attempt(f"10.0.{number // 250}.{number % 250}") == 0 for number in range(1000))
    assert tried == ALL_ATTEMPTS
    clock.now += 100
    assert sum(throttle.attempt(f"10.1.0.{number}") == 0 for number in range(100)) == 10


def test_addresses_of_one_client_count_together() -> None:
    assert client_of("2001:db8::1") == client_of("2001:db8::ffff:2") != client_of("2001:db8:0:1::1")
    assert client_of("::ffff:10.0.0.1") == client_of("10.0.0.1") == "10.0.0.1"
    assert client_of("fe80::1%eth0") == client_of("fe80::2") and client_of("") == ""


def test_a_session_ends_when_its_person_is_gone() -> None:
    clock = Clock()
    sessions = Sessions(clock=clock)
    token = sessions.begin("ann")
    clock.now += IDLE_SECONDS - 1
    session = sessions.find(token)
    assert session is not None and session.user == "ann"
    sessions.touch(session)
    clock.now += IDLE_SECONDS - 1
    assert sessions.find(token) is session
    clock.now += 1
    assert sessions.find(token) is None


def test_a_session_ends_at_last_whatever_its_person_does() -> None:
    clock = Clock()
    sessions = Sessions(clock=clock)
    token = sessions.begin("ann")
    for _ in range(int(LONGEST_SECONDS // 1000)):
        clock.now += 1000
        session = sessions.find(token)
        if session is not None:
            sessions.touch(session)
    assert clock.now - 1000 < LONGEST_SECONDS and sessions.find(token) is not None
    clock.now = 1000 + LONGEST_SECONDS
    assert sessions.find(token) is None


def test_tokens_are_long_random_and_kept_as_hashes() -> None:
    sessions = Sessions()
    tokens = {sessions.begin("ann") for _ in range(100)}
    assert len(tokens) == 100 and min(map(len, tokens)) >= 43
    assert not any(token in repr(vars(sessions)) for token in tokens)
    for made_up in (None, "", "x", "\ud800", "a" * 10_000):
        assert sessions.find(made_up) is None


def test_ending_a_session_ends_what_it_is_being_sent() -> None:
    sessions = Sessions()
    token, other = sessions.begin("ann"), sessions.begin("ann")
    closed: list[str] = []
    for name in (token, other):
        session = sessions.find(name)
        assert session is not None
        session.open_answers.add(lambda name=name: closed.append(name))  # type: ignore[misc]
    sessions.end(token)
    assert closed == [token] and sessions.find(token) is None and sessions.find(other) is not None


def test_the_oldest_of_too_many_sessions_goes() -> None:
    clock = Clock()
    sessions = Sessions(clock=clock)
    first = sessions.begin("ann")
    for _ in range(1000):
        clock.now += 1
        last = sessions.begin("ann")
    assert sessions.find(first) is None and sessions.find(last) is not None


def test_limits_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Limits.from_environment() == Limits()
    monkeypatch.setenv(SIZE_VARIABLE, "1.5 GB")
    monkeypatch.setenv(COUNT_VARIABLE, "7")
    limits = Limits.from_environment()
    assert (limits.file_bytes, limits.kept_files, limits.kept_bytes) == (1_500_000_000, 7, 6_000_000_000)
    assert shown_size(limits.file_bytes) == "1.5 GB" and shown_size(999) == "999 bytes"
    mistakes = ((SIZE_VARIABLE, "many"), (SIZE_VARIABLE, "0"), (COUNT_VARIABLE, "-1"), (COUNT_VARIABLE, "٣"))
    for variable, wrong in mistakes:
        with monkeypatch.context() as patch, pytest.raises(ConfigError, match=variable):
            patch.setenv(variable, wrong)
            Limits.from_environment()
