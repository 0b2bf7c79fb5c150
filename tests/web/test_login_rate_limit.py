"""The rate limit on login attempts, with a fake clock."""

from assistant_builder.web.login_rate_limit import (
    ALL_ATTEMPTS,
    FREE_ATTEMPTS,
    MAX_WAIT,
    RateLimiter,
)
from tests.web.conftest import Clock


def test_the_wait_doubles_with_every_attempt():
    clock = Clock()
    throttle = RateLimiter(clock)
    assert [throttle.attempt("10.0.0.1") for _ in range(FREE_ATTEMPTS)] == [0.0] * FREE_ATTEMPTS
    waits = []
    for _ in range(14):
        waits.append(throttle.attempt("10.0.0.1"))
        clock.now += waits[-1]
        assert throttle.attempt("10.0.0.1") == 0.0
    assert waits[:4] == [2.0, 4.0, 8.0, 16.0] and waits[-1] == MAX_WAIT
    assert throttle.attempt("10.0.0.2") == 0.0, "others are not held up"
    throttle.succeeded("10.0.0.1")
    assert throttle.attempt("10.0.0.1") == 0.0 and throttle.failures("10.0.0.1") == 1


def test_a_day_of_guessing_allows_few_attempts():
    clock = Clock()
    throttle = RateLimiter(clock)
    tried = 0
    while clock.now < 1000 + 24 * 3600:
        wait = throttle.attempt("10.0.0.1")
        tried += wait == 0
        clock.now += wait
    assert tried < 120


def test_attempts_of_all_clients_together_are_limited():
    clock = Clock()
    throttle = RateLimiter(clock)
    tried = sum(
        throttle.attempt(f"10.0.{number // 250}.{number % 250}") == 0 for number in range(1000)
    )
    assert tried == ALL_ATTEMPTS
    clock.now += 100
    assert sum(throttle.attempt(f"10.1.0.{number}") == 0 for number in range(100)) == 10
