"""The start token in the page's address: who gets in with it, and who does not."""

from collections.abc import Iterator
from typing import Any

import pytest

from assistant_builder.web.access import Access
from assistant_builder.web.login_rate_limit import FREE_ATTEMPTS
from tests.web.test_middleware import HTML, PLACES, Site, websocket

TOKEN = "c0ffee" * 8
BEARER = {"authorization": f"Bearer {TOKEN}"}


@pytest.fixture
def site() -> Iterator[Site]:
    yield Site(TOKEN)


def enter(site: Site, query: str = "", **options: Any) -> None:
    answer = site.ask("GET", f"/?token={TOKEN}{query}", headers=HTML, **options)
    assert answer.status_code == 303 and len(answer.headers.get_list("set-cookie")) == 1


def test_the_address_opens_the_page_and_loses_the_token(site):
    answer = site.ask("GET", f"/?study=demo&token={TOKEN}&tab=chat", headers=HTML)
    assert (answer.status_code, answer.headers["location"]) == (303, "/?study=demo&tab=chat")
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith("assistant-builder-7860=") and TOKEN not in cookie
    assert "HttpOnly" in cookie and "SameSite=strict" in cookie and "Domain" not in cookie
    assert site.reached.scopes == [], "the app does not see the token"
    assert site.ask("GET", "/?study=demo&tab=chat", headers=HTML).text == "inside"
    assert site.ask("POST", "/gradio_api/run/predict").text == "inside"
    assert not any(TOKEN.encode() in scope["query_string"] for scope in site.reached.scopes)


@pytest.mark.parametrize(
    "path", [*PLACES, "//", "/%2e/", "/%2e%2e/", "/login%3F", "/?x", "/static/x.svg", "/%3Ftoken"]
)
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "OPTIONS", "PUT", "DELETE", "PATCH"])
def test_without_the_token_nothing_is_reached(site, method, path):
    answer = site.ask(method, path)
    assert answer.status_code == 401
    assert site.reached.scopes == []
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize(
    "sent",
    [
        {"headers": {"authorization": "Bearer wrong"}},
        {"headers": {"authorization": f"Basic {TOKEN}"}},
        {"headers": {"authorization": f"Bearer {TOKEN}x"}},
        {"headers": {"authorization": TOKEN}},
        {"headers": {"authorization": f"Bearer {TOKEN.upper()}"}},
        {"headers": {"authorization": "Bearer "}},
        {
            "headers": {
                "x-token": TOKEN,
                "token": TOKEN,
                "x-gradio-token": TOKEN,
                "proxy-authorization": f"Bearer {TOKEN}",
            }
        },
        {
            "headers": {
                "cookie": f"token={TOKEN}; assistant-builder-7860={TOKEN}; assistant-builder={TOKEN}"
            }
        },
        {"headers": {"referer": f"http://localhost:7860/?token={TOKEN}"}},
        {"data": {"token": TOKEN}},
        {"json": {"token": TOKEN, "session_hash": TOKEN}},
        {"params": {"token": TOKEN, "access_token": TOKEN}},
    ],
)
def test_the_token_counts_in_no_other_place(site, sent):
    for method in ("POST", "PUT"):
        for path in ("/gradio_api/run/predict", "/gradio_api/upload", "/"):
            assert site.ask(method, path, **sent).status_code in (401, 429)
    assert site.cookies == {} and site.reached.scopes == []


@pytest.mark.parametrize(
    "path", ["/config", "/gradio_api/queue/data", "/login", "/index.html", "/%3f"]
)
def test_only_the_address_of_the_page_takes_the_token(site, path):
    answer = site.ask("GET", path, params={"token": TOKEN}, headers=HTML)
    assert "set-cookie" not in answer.headers and site.reached.scopes == []


def test_a_browser_without_the_token_is_told_where_it_is(site):
    first = site.ask("GET", "/?study=demo", headers=HTML)
    assert (first.status_code, first.headers["location"]) == (303, "/login?next=study%3Ddemo")
    form = site.ask("GET", first.headers["location"], headers=HTML)
    assert form.status_code == 200 and 'value="study=demo"' in form.text
    assert "http://localhost:7860/?token=…" in form.text
    assert TOKEN not in form.text and "<script" not in form.text and "http://evil" not in form.text


@pytest.mark.parametrize(
    "typed",
    [
        TOKEN,
        f"  {TOKEN}\n",
        f"http://127.0.0.1:7860/?token={TOKEN}",
        f"http://127.0.0.1:7860/?study=a&token={TOKEN}&tab=chat",
    ],
)
def test_the_token_or_the_whole_address_is_pasted(site, typed):
    answer = site.ask("POST", "/login", data={"token": typed, "next": "study=demo"}, headers=HTML)
    assert (answer.status_code, answer.headers["location"]) == (303, "/?study=demo")
    assert site.ask("GET", "/", headers=HTML).text == "inside"
    assert site.ask("GET", "/login", headers=HTML).headers["location"] == "/"


@pytest.mark.parametrize(
    "typed", ["", " ", "x", TOKEN[:-1], f"?token={TOKEN[:-1]}", "é" * 50, "\ud800", TOKEN * 2]
)
def test_a_wrong_token_is_refused(site, typed):
    data = {"token": typed.encode("utf-8", errors="surrogatepass")}
    answer = site.ask("POST", "/login", data=data, headers=HTML)
    assert answer.status_code == 401 and "This token is wrong" in answer.text and site.cookies == {}
    answer = site.ask(
        "GET", "/", params={"token": typed.encode("utf-8", errors="replace")}, headers=HTML
    )
    assert answer.status_code == 401 and "This token is wrong" in answer.text and site.cookies == {}


def test_guesses_are_slowed_down_and_keep_the_owner_not_out(site, caplog):
    guesses = [
        lambda: site.ask("GET", "/?token=a", headers=HTML),
        lambda: site.ask("POST", "/login", data={"token": "a"}),
        lambda: site.ask("GET", "/config", headers={"authorization": "Bearer a"}),
    ]
    statuses = [guesses[number % 3]().status_code for number in range(30)]
    assert statuses == [401] * FREE_ATTEMPTS + [429] * (30 - FREE_ATTEMPTS), (
        "all ways are counted together"
    )
    assert len(caplog.records) == FREE_ATTEMPTS, "the log is not filled"
    enter(site)
    assert site.ask("GET", "/config").text == "inside"


def test_a_second_window_keeps_the_session_of_the_first(site):
    enter(site)
    held = dict(site.cookies)
    for query in (f"token={TOKEN}", "token=of-the-last-start"):
        answer = site.ask("GET", f"/?{query}&study=demo", headers=HTML)
        assert (answer.status_code, answer.headers["location"]) == (303, "/?study=demo")
        assert "set-cookie" not in answer.headers
    assert site.cookies == held and site.ask("GET", "/config").text == "inside"


def test_a_cookie_of_another_start_leads_to_the_explanation(site):
    before = Site("another-token")
    answer = before.ask("GET", "/?token=another-token", headers=HTML)
    site.cookies = dict(before.cookies)
    first = site.ask("GET", "/", headers=HTML)
    assert answer.status_code == first.status_code == 303 and first.headers["location"] == "/login"
    assert site.ask("GET", "/login", headers=HTML).status_code == 200, "no loop"
    event = site.ask("POST", "/gradio_api/run/predict")
    assert event.status_code == 401 and event.headers["x-log-in"] == "/login"
    told = site.ask("GET", "/login?said=over", headers=HTML)
    assert "Assistant Builder was restarted" in told.text
    enter(site)
    assert site.cookies != before.cookies


def test_a_planted_cookie_is_not_taken_over(site):
    site.cookies = {"assistant-builder-7860": "planted" * 6}
    enter(site)
    assert "planted" not in site.cookies["assistant-builder-7860"]
    thief = Site(TOKEN)
    thief.app = site.app
    thief.cookies = {"assistant-builder-7860": "planted" * 6}
    assert thief.ask("GET", "/config").status_code == 401


def test_the_browser_is_remembered_for_thirty_days_of_use():
    site = Site(TOKEN)
    site.login.sessions = type(site.sessions)(30 * 86_400.0, 30 * 86_400.0, site.clock)
    enter(site)
    site.clock.now += 29 * 86_400
    assert site.ask("GET", "/config").text == "inside"
    site.clock.now += 86_400
    assert site.ask("GET", "/config").status_code == 401


def test_ports_and_host_names_have_cookies_of_their_own(site):
    """Two pages whose port is forwarded (``ssh -L 8001:localhost:7860``) share the cookies of ``localhost``."""
    enter(site, url="http://localhost:8001")
    assert list(site.cookies) == ["assistant-builder-8001"]
    assert site.ask("GET", "/config", url="http://localhost:8001").text == "inside"
    assert site.ask("GET", "/config", url="http://localhost:8002").status_code == 401
    enter(site, url="http://localhost:8002")
    assert {
        site.ask("GET", "/config", url=f"http://localhost:{port}").text for port in (8001, 8002)
    } == {"inside"}
    site.cookies = {}
    enter(site, url="http://127.0.0.1:7860")
    assert site.ask("GET", "/config", url="http://127.0.0.1:7860").text == "inside"


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.example:7860"},
        {"host": "localhost.evil.example"},
        {"origin": "http://evil.example"},
        {"sec-fetch-site": "cross-site"},
    ],
)
def test_other_sites_get_nothing_even_with_the_token(site, headers):
    """DNS rebinding, and requests of a page that has learned the token."""
    for method, path in (("GET", f"/?token={TOKEN}"), ("POST", "/login"), ("GET", "/config")):
        answer = site.ask(method, path, headers={**HTML, **BEARER, **headers})
        assert answer.status_code in (403, 421) and "set-cookie" not in answer.headers
    assert site.reached.scopes == []


def test_a_link_with_the_token_on_another_site_opens_the_page(site):
    """A terminal in a browser; the strict cookie is sent after the reload."""
    link = {
        **HTML,
        "sec-fetch-site": "cross-site",
        "sec-fetch-mode": "navigate",
        "sec-fetch-dest": "document",
    }
    assert site.ask("GET", f"/?token={TOKEN}", headers=link).headers["location"] == "/"
    held, site.cookies = site.cookies, {}
    assert 'http-equiv="refresh"' in site.ask("GET", "/", headers=link).text
    site.cookies = held
    assert site.ask("GET", "/", headers=HTML).text == "inside"


def test_a_program_sends_the_token_as_a_header(site):
    for scheme in ("Bearer", "bearer"):
        answer = site.ask(
            "POST", "/gradio_api/queue/join", headers={"authorization": f"{scheme} {TOKEN}"}
        )
        assert answer.text == "inside" and "set-cookie" not in answer.headers
    sessions = {scope["assistant_builder.session"].name for scope in site.reached.scopes}
    assert len(sessions) == 1, "its windows and uploads are its own in all requests"


def test_a_proxy_that_has_a_password_of_its_own_is_no_guess(site):
    """A browser sends the name and password of the proxy with each request."""
    basic = {**HTML, "authorization": "Basic YW5uOmE="}
    for _ in range(2 * FREE_ATTEMPTS):
        assert site.ask("GET", "/login", headers=basic).status_code == 200
    assert site.ask("POST", "/login", data={"token": TOKEN}, headers=basic).status_code == 303
    assert site.ask("GET", "/", headers=basic).text == "inside"


def test_websockets_need_the_token(site):
    wrong: list[list[tuple[bytes, bytes]]] = [
        [],
        [(b"cookie", f"assistant-builder-7860={TOKEN}".encode())],
        [(b"authorization", b"Bearer x")],
        [(b"sec-websocket-protocol", TOKEN.encode())],
    ]
    for headers in wrong:
        assert [message["type"] for message in websocket(site.app, headers)] == ["websocket.close"]
    assert site.reached.scopes == []
    websocket(site.app, [(b"authorization", f"Bearer {TOKEN}".encode())])
    assert len(site.reached.scopes) == 1


def test_every_start_has_a_token_of_its_own():
    one, other = Access(), Access()
    assert one.token != other.token and len(one.token) == 48
    assert one.start_url == f"http://127.0.0.1:7860/?token={one.token}"
    assert one.token not in repr(one)
    assert (
        Access(user="ann").start_url
        == Access(allow_without_password=True).start_url
        == "http://127.0.0.1:7860"
    )


def test_opening_the_page_to_everyone_causes_a_warning():
    (warning,) = Access(allow_without_password=True).check()
    assert warning.startswith("every user of this machine can read") and "run code" in warning
