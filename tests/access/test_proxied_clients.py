"""Who counts as one client for the login's throttle, on this machine alone and behind a reverse proxy."""

from __future__ import annotations

from pathlib import Path

import httpx

from assistant_builder.access.passwords import PasswordHash
from assistant_builder.access.rules import Access
from assistant_builder.access.throttle import FREE_ATTEMPTS
from tests.browser.serving import PASSWORD, USER, guarded_app


def attempt(client: httpx.Client, told: str, password: str = "wrong") -> int:
    """Status of a login; ``told`` is what a proxy says of its client."""
    data = {"username": USER, "password": password}
    return client.post("/login", data=data, headers={"X-Forwarded-For": told}).status_code


def test_behind_a_proxy_a_guesser_holds_up_nobody_else(tmp_path: Path) -> None:
    with guarded_app(tmp_path, "--proxy", "127.0.0.1") as app, app.client() as client:
        assert [attempt(client, "203.0.113.5") for _ in range(FREE_ATTEMPTS)] == [401] * FREE_ATTEMPTS
        assert attempt(client, "203.0.113.5", PASSWORD) == 429
        assert attempt(client, "198.51.100.7, 203.0.113.5", PASSWORD) == 429, "what the client says itself"
        assert attempt(client, "203.0.113.6", PASSWORD) == 200


def test_without_a_proxy_nobody_is_believed(tmp_path: Path) -> None:
    with guarded_app(tmp_path) as app, app.client() as client:
        statuses = [attempt(client, f"203.0.113.{number}") for number in range(FREE_ATTEMPTS + 1)]
        assert statuses == [401] * FREE_ATTEMPTS + [429]


def test_a_proxy_that_is_not_named_is_warned_of() -> None:
    password = PasswordHash.of("correct horse")
    (warning,) = Access(user="ann", password=password, allowed_hosts=("page.example",)).check()
    assert "--proxy 127.0.0.1" in warning
    assert Access(user="ann", password=password, allowed_hosts=("page.example",), proxy="127.0.0.1").check() == []
    assert Access(user="ann", password=password).check() == Access(allowed_hosts=("page.example",)).check() == []
