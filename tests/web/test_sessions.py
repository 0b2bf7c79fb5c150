"""Login sessions, with a fake clock."""

from assistant_builder.web.sessions import IDLE_SECONDS, MAX_SECONDS, Sessions
from tests.web.conftest import Clock


def test_an_idle_session_expires():
    clock = Clock()
    sessions = Sessions(clock=clock)
    token = sessions.create("ann")
    clock.now += IDLE_SECONDS - 1
    session = sessions.find(token)
    assert session is not None and session.user == "ann"
    sessions.touch(session)
    clock.now += IDLE_SECONDS - 1
    assert sessions.find(token) is session
    clock.now += 1
    assert sessions.find(token) is None


def test_an_active_session_expires_eventually():
    clock = Clock()
    sessions = Sessions(clock=clock)
    token = sessions.create("ann")
    for _ in range(int(MAX_SECONDS // 1000)):
        clock.now += 1000
        session = sessions.find(token)
        if session is not None:
            sessions.touch(session)
    assert clock.now - 1000 < MAX_SECONDS and sessions.find(token) is not None
    clock.now = 1000 + MAX_SECONDS
    assert sessions.find(token) is None


def test_tokens_are_long_random_and_stored_as_hashes():
    sessions = Sessions()
    tokens = {sessions.create("ann") for _ in range(100)}
    assert len(tokens) == 100 and min(map(len, tokens)) >= 43
    assert not any(token in repr(vars(sessions)) for token in tokens)
    for made_up in (None, "", "x", "\ud800", "a" * 10_000):
        assert sessions.find(made_up) is None


def test_ending_a_session_ends_its_open_responses():
    sessions = Sessions()
    token, other = sessions.create("ann"), sessions.create("ann")
    closed: list[str] = []
    for name in (token, other):
        session = sessions.find(name)
        assert session is not None
        session.open_responses.add(lambda name=name: closed.append(name))
    sessions.end(token)
    assert closed == [token] and sessions.find(token) is None and sessions.find(other) is not None


def test_the_oldest_of_too_many_sessions_is_dropped():
    clock = Clock()
    sessions = Sessions(clock=clock)
    first = sessions.create("ann")
    for _ in range(1000):
        clock.now += 1
        last = sessions.create("ann")
    assert sessions.find(first) is None and sessions.find(last) is not None
