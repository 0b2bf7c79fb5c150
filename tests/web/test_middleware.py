"""Authentication middleware and login in front of a dummy app, and the rate limit behind a reverse proxy."""

import asyncio
from collections.abc import Iterator
from http.cookies import SimpleCookie
from typing import Any

import httpx
import pytest
from starlette.types import Message, Receive, Scope, Send

from assistant_builder.web.access import LOCAL, Access, AllowedHosts
from assistant_builder.web.client_address import TrustedProxies
from assistant_builder.web.login_rate_limit import FREE_ATTEMPTS, RateLimiter
from assistant_builder.web.middleware import AuthMiddleware, Login, PasswordLogin, ProxyMiddleware
from assistant_builder.web.passwords import PasswordHash
from assistant_builder.web.sessions import Sessions
from assistant_builder.web.token_login import TokenLogin
from tests.browser.serving import PASSWORD, USER, guarded_app
from tests.web.conftest import Clock

URL = "http://localhost:7860"
SECRET = PasswordHash.of("correct horse")
HTML = {"accept": "text/html,*/*"}
RIGHT = {"username": "ann", "password": "correct horse"}


class Reached:
    """An app that records the requests it receives."""

    def __init__(self) -> None:
        self.scopes: list[Scope] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scopes.append(scope)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"inside"})


class Site:
    def __init__(self, token: str = "") -> None:
        self.clock, self.reached = Clock(), Reached()
        self.sessions = Sessions(clock=self.clock)
        limiter = RateLimiter(self.clock)
        self.login: Login = (
            TokenLogin(token, self.sessions, limiter)
            if token
            else PasswordLogin("ann", SECRET, self.sessions, limiter)
        )
        self.app = AuthMiddleware(self.reached, AllowedHosts("127.0.0.1"), self.login)
        self.cookies: dict[str, str] = {}

    def ask(self, method: str, path: str, url: str = URL, **options: Any) -> httpx.Response:
        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(
                app=self.app, client=(options.pop("address", "10.0.0.1"), 5)
            )
            held = {"cookie": "; ".join(f"{name}={value}" for name, value in self.cookies.items())}
            async with httpx.AsyncClient(transport=transport, base_url=url) as client:
                answer = await client.request(
                    method, path, **{**options, "headers": held | options.get("headers", {})}
                )
            for line in answer.headers.get_list("set-cookie"):
                for name, cookie in SimpleCookie(line).items():
                    self.cookies.pop(name, None)
                    self.cookies |= {name: cookie.value} if cookie["max-age"] != "0" else {}
            return answer

        return asyncio.run(ask())

    def enter(self) -> httpx.Response:
        return self.ask("POST", "/login", data=RIGHT, headers=HTML)


@pytest.fixture
def site() -> Iterator[Site]:
    yield Site()


PLACES = """
    /config /gradio_api/info /gradio_api/heartbeat/abc /gradio_api/queue/data?session_hash=a
    /gradio_api/upload_progress?upload_id=a /gradio_api/file=/etc/passwd /assets/index.js
    /theme.css /gradio_api/startup-events /gradio_api/app_id //config /./config /login/../config
    /login/x /LOGIN /gradio_api/token /nothing
""".split()


@pytest.mark.parametrize("path", PLACES)
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "OPTIONS", "PUT", "DELETE", "PATCH"])
def test_requests_without_a_login_are_rejected(site, method, path):
    site.cookies = {"assistant-builder-7860": "a" * 43}
    answer = site.ask(method, path)
    assert answer.status_code == 401 and site.reached.scopes == []
    assert answer.headers["x-log-in"] == "/login"


def test_the_manifest_which_browsers_request_without_cookies_is_there(site):
    answer = site.ask("GET", "/manifest.json")
    assert answer.status_code == 200 and answer.json()["name"] == "Assistant Builder"
    assert answer.headers["content-type"] == "application/manifest+json"
    assert site.reached.scopes == [] and site.ask("POST", "/manifest.json").status_code == 401


def test_browsers_are_redirected_to_the_login_and_back(site):
    first = site.ask("GET", "/?study=demo&tab=chat", headers=HTML)
    assert first.status_code == 303
    assert first.headers["location"] == "/login?next=study%3Ddemo%26tab%3Dchat"
    form = site.ask("GET", first.headers["location"], headers=HTML)
    assert form.status_code == 200 and 'value="study=demo&amp;tab=chat"' in form.text
    answer = site.ask("POST", "/login", data={**RIGHT, "next": "study=demo&tab=chat"}, headers=HTML)
    assert (answer.status_code, answer.headers["location"]) == (303, "/?study=demo&tab=chat")
    assert site.ask("GET", "/?study=demo&tab=chat", headers=HTML).text == "inside"
    assert site.reached.scopes[0]["assistant_builder.user"] == "ann"


@pytest.mark.parametrize(
    "after",
    [
        "https://evil.example",
        "//evil.example",
        "/\\evil.example",
        "javascript:alert(1)",
        "a\r\nSet-Cookie: b=c",
        '"><script>',
    ],
)
def test_the_login_redirects_only_to_the_page(site, after):
    form = site.ask("GET", "/login", params={"next": after}, headers=HTML).text
    assert "<script" not in form and form.count("<form") == 1
    answer = site.ask("POST", "/login", data={**RIGHT, "next": after}, headers=HTML)
    assert answer.headers["location"].startswith(("/?", "/"))
    assert not answer.headers["location"].startswith("//")
    assert "\\" not in answer.headers["location"]
    assert "evil.example/" not in answer.headers["location"]
    assert len(answer.headers.get_list("set-cookie")) == 1


def test_the_session_cookie_is_strict_and_host_only(site):
    cookie = site.enter().headers["set-cookie"]
    assert cookie.startswith("assistant-builder-7860=")
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert "Path=/" in cookie
    assert "Secure" not in cookie
    assert "Domain" not in cookie
    secure = site.ask("POST", "/login", url="https://localhost:7860", data=RIGHT).headers[
        "set-cookie"
    ]
    assert secure.startswith("__Host-assistant-builder-7860=") and "Secure" in secure


def test_wrong_user_and_wrong_password_give_the_same_response(site):
    pages = [
        site.ask("POST", "/login", data=data, headers=HTML)
        for data in (
            {"username": "ann", "password": "wrong"},
            {"username": "bob", "password": "correct horse"},
            {},
        )
    ]
    assert {page.status_code for page in pages} == {401} and len({page.text for page in pages}) == 1
    assert "The user name or password is incorrect" in pages[0].text and site.cookies == {}


def test_login_attempts_are_limited_even_with_the_correct_password(site):
    wrong = {"username": "ann", "password": "wrong"}
    for _ in range(FREE_ATTEMPTS):
        assert site.ask("POST", "/login", data=wrong).status_code == 401
    held = site.enter()
    assert held.status_code == 429
    assert held.headers["retry-after"] == "3"
    assert "Try again in 3 seconds" in held.text
    assert site.ask("POST", "/login", data=RIGHT, address="10.0.0.2").status_code == 200
    site.cookies = {}
    site.clock.now += 2
    assert site.enter().status_code == 303


def test_every_login_issues_a_new_token_and_revokes_the_old_one(site):
    site.enter()
    old = dict(site.cookies)
    site.enter()
    assert site.cookies != old
    site.cookies = old
    assert site.ask("GET", "/config").status_code == 401


def test_logout_ends_the_session(site):
    site.enter()
    kept = dict(site.cookies)
    assert site.ask("GET", "/logout").status_code == 405, (
        "a link or picture must not log anyone out"
    )
    assert site.ask("GET", "/config").text == "inside"
    out = site.ask("POST", "/logout")
    assert out.headers["location"] == "/login?said=out" and site.cookies == {}
    site.cookies = kept
    assert site.ask("GET", "/config").status_code == 401


def test_only_user_activity_keeps_a_session_alive(site):
    site.enter()
    for _ in range(7):
        site.clock.now += 500
        assert site.ask("POST", "/gradio_api/run/predict").status_code == 200
    assert site.ask("POST", "/active").status_code == 204
    site.clock.now += 3599
    assert site.ask("POST", "/gradio_api/run/predict").status_code == 200
    site.clock.now += 1
    assert site.ask("POST", "/gradio_api/run/predict").status_code == 401
    assert site.ask("POST", "/active").status_code == 401


def test_an_oversized_or_malformed_form_is_rejected(site):
    assert site.ask("POST", "/login", content=b"x=" + b"y" * 10_000).status_code == 413
    assert site.ask("POST", "/login", content=b"\xff\xfe").status_code == 413
    assert site.ask("DELETE", "/login").status_code == 405


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.example"},
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site"},
    ],
)
def test_unknown_hosts_and_origins_are_rejected_before_the_login(site, headers):
    answer = site.ask("POST", "/login", data=RIGHT, headers=headers)
    assert answer.status_code in (403, 421) and "set-cookie" not in answer.headers
    site.enter()
    assert site.ask("POST", "/gradio_api/queue/join", headers=headers).status_code in (403, 421)
    assert site.reached.scopes == []


def test_untrusted_forwarding_headers_are_removed(site):
    site.enter()
    site.ask(
        "GET",
        "/config",
        headers={
            "x-forwarded-host": "evil.example",
            "x-gradio-server": "http://evil.example",
            "x-forwarded-proto": "https",
            "forwarded": "host=evil.example",
        },
    )
    names = [name for name, _ in site.reached.scopes[-1]["headers"]]
    assert b"host" in names
    assert not [name for name in names if b"forward" in name or b"gradio" in name]


def websocket(app: Any, headers: list[tuple[bytes, bytes]]) -> list[Message]:
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {
        "type": "websocket",
        "path": "/ws",
        "scheme": "ws",
        "query_string": b"",
        "server": ("localhost", 7860),
        "headers": [(b"host", b"localhost:7860"), *headers],
    }
    asyncio.run(app(scope, receive, send))
    return sent


def test_websockets_require_a_login(site):
    for headers in ([], [(b"origin", b"http://evil.example")]):
        assert [message["type"] for message in websocket(site.app, headers)] == ["websocket.close"]
    open_to_all = AuthMiddleware(site.reached, AllowedHosts("127.0.0.1"))
    assert (
        websocket(open_to_all, [(b"origin", b"http://evil.example")])[0]["type"]
        == "websocket.close"
    )
    assert site.reached.scopes == []


@pytest.mark.parametrize("how", ["logout", "idle"])
def test_a_stream_ends_with_its_session(site, how):
    token = site.sessions.create("ann")
    sent: list[Message] = []

    async def stream(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"a", "more_body": True})
        assert (await receive())["type"] == "http.request"
        if how == "logout":
            site.sessions.end(token)
        else:
            site.clock.now += 3600
            await send({"type": "http.response.body", "body": b"b", "more_body": True})
        assert (await receive())["type"] == "http.disconnect"

    async def ask() -> None:
        first = [{"type": "http.request", "body": b"", "more_body": False}]

        async def receive() -> Message:
            if first:
                return first.pop()
            await asyncio.sleep(60)
            raise AssertionError

        async def send(message: Message) -> None:
            sent.append(message)

        cookie = f"assistant-builder-7860={token}".encode()
        scope = {
            "type": "http",
            "method": "GET",
            "path": "/gradio_api/queue/data",
            "scheme": "http",
            "query_string": b"",
            "server": ("localhost", 7860),
            "headers": [(b"host", b"localhost:7860"), (b"cookie", cookie)],
        }
        await AuthMiddleware(stream, AllowedHosts("127.0.0.1"), site.login)(scope, receive, send)

    asyncio.run(asyncio.wait_for(ask(), 20))
    assert sent[-1] == {"type": "http.response.body", "body": b"", "more_body": False}


@pytest.mark.parametrize(
    ("address", "headers", "local"),
    [
        ("127.0.0.1", {}, True),
        ("10.0.0.1", {}, False),
        ("127.0.0.1", {"x-forwarded-for": "127.0.0.1"}, False),
        ("127.0.0.1", {"forwarded": "for=127.0.0.1"}, False),
        ("127.0.0.1", {"host": "192.168.1.5:7860"}, False),
    ],
)
def test_who_asks_is_told_before_the_headers_of_proxies_are_removed(address, headers, local):
    """The page shows paths of this machine to its own browsers alone, and gradio reads them from the scope."""
    site = Site()
    app, site.app = site.app, AuthMiddleware(site.reached, AllowedHosts("127.0.0.1"))
    site.ask("GET", "/", address=address, headers=headers)
    (scope,) = site.reached.scopes
    assert app is not site.app and scope[LOCAL] is local
    assert not any(name.startswith((b"x-forwarded", b"forwarded")) for name, _ in scope["headers"])


def test_a_proxy_names_client_and_scheme():
    site = Site()
    app, site.app = site.app, ProxyMiddleware(site.app, TrustedProxies("127.0.0.1"))
    told = {"x-forwarded-for": "203.0.113.5", "x-forwarded-proto": "https"}
    assert (
        "secure"
        in site.ask("POST", "/login", address="127.0.0.1", data=RIGHT, headers=told)
        .headers["set-cookie"]
        .lower()
    )
    assert (
        "secure"
        not in site.ask("POST", "/login", address="10.0.0.9", data=RIGHT, headers=told)
        .headers["set-cookie"]
        .lower()
    )
    for number in range(FREE_ATTEMPTS):
        wrong = {**RIGHT, "password": "wrong"}
        told = {"x-forwarded-for": f"198.51.100.{number}, 203.0.113.7"}
        site.clock.now += 60
        site.ask("POST", "/login", address="127.0.0.1", data=wrong, headers=told)
    assert app._login._rate_limiter.failures("203.0.113.7") == FREE_ATTEMPTS


def attempt(client: httpx.Client, told: str, password: str = "wrong") -> int:
    """Status of a login; ``told`` is what a proxy says of its client."""
    data = {"username": USER, "password": password}
    return client.post("/login", data=data, headers={"X-Forwarded-For": told}).status_code


@pytest.mark.long
def test_behind_a_proxy_clients_are_limited_separately(tmp_path):
    with guarded_app(tmp_path, "--proxy", "127.0.0.1") as app, app.client() as client:
        assert [attempt(client, "203.0.113.5") for _ in range(FREE_ATTEMPTS)] == [
            401
        ] * FREE_ATTEMPTS
        assert attempt(client, "203.0.113.5", PASSWORD) == 429
        assert attempt(client, "198.51.100.7, 203.0.113.5", PASSWORD) == 429, (
            "what the client says itself"
        )
        assert attempt(client, "203.0.113.6", PASSWORD) == 200


def test_an_unnamed_proxy_causes_a_warning():
    password = PasswordHash.of("correct horse")
    (warning,) = Access(user="ann", password=password, allowed_hosts=("page.example",)).check()
    assert "--proxy 127.0.0.1" in warning
    assert (
        Access(
            user="ann", password=password, allowed_hosts=("page.example",), proxy="127.0.0.1"
        ).check()
        == []
    )
    assert (
        Access(user="ann", password=password).check()
        == Access(allowed_hosts=("page.example",)).check()
        == []
    )
