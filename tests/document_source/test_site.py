"""Reading of websites: robots.txt, one host, a limit of pages, and no private addresses."""

import gzip
import threading
from collections.abc import Iterator

import pytest

pytest.importorskip("selectolax", reason="needs the extra documents")

from assistant_builder.config import StudyConfig
from assistant_builder.documents import limits
from assistant_builder.documents import site as module
from assistant_builder.documents.site import is_public, normal_address, read_site
from assistant_builder.documents.store import Documents, Update
from assistant_builder.errors import ConfigError, DataError
from assistant_builder.runner.open_documents import open_documents
from assistant_builder.study import Study
from tests.http_server import Handler, Server, running

PAGES = {
    "/": "<main><h1>Shop</h1><p>We open at nine.</p><a href='/a#top'>A</a> <a href='secret/x'>S</a> "
    "<a href='https://other.example/'>O</a> <a href='photo.jpg'>P</a> <a href='/gone'>G</a></main>",
    "/a": "<main><p>Dogs are welcome.</p><a href='/moved'>M</a><a href='/'>home</a></main>",
    "/b": "<main><p>Tea is free.</p></main>",
    "/secret/x": "<main><p>The code is 1234.</p></main>",
}


class Site(Server):
    def __init__(self) -> None:
        super().__init__(SiteHandler)
        self.asked: list[str] = []
        self.pages = dict(PAGES)
        self.robots: str | int = "User-agent: *\nDisallow: /secret/\n"
        self.redirects = {"/moved": "/b"}
        self.compressed: dict[str, tuple[str, bytes]] = {}
        self.empty = self.chunked = ""
        self.released = threading.Event()


class SiteHandler(Handler):
    server: Site

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        html = {"Content-Type": "text/html; charset=utf-8"}
        if self.path == self.server.empty:
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n")
            self.wfile.write(b"Content-Encoding: gzip\r\n\r\n\x1f\x8b\x08\0\0\0\0\0\0\xff")
            while not self.server.released.wait(0.05):
                self.wfile.write(b"\0\0\0\xff\xff" * 100)
            self.close_connection = True
        elif self.path == self.server.chunked:
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n")
            self.wfile.write(b"Transfer-Encoding: chunked\r\n\r\n1;")
            while not self.server.released.wait(0.05):
                self.wfile.write(b"x")
            self.close_connection = True
        elif self.path == "/robots.txt" and isinstance(self.server.robots, int):
            self.send(self.server.robots)
        elif self.path == "/robots.txt":
            self.send(200, self.server.robots.encode(), {"Content-Type": "text/plain"})
        elif self.path in self.server.redirects:
            self.send(302, b"", {"Location": self.server.redirects[self.path]})
        elif self.path in self.server.compressed:
            coding, content = self.server.compressed[self.path]
            self.send(200, content, {**html, "Content-Encoding": coding})
        elif self.path == "/slow":
            self.wfile.write(b"HTTP/1.1 200 OK\r\n")
            while not self.server.released.wait(0.05):
                self.wfile.write(b"X-A: b\r\n")
        elif self.path in self.server.pages:
            self.send(200, self.server.pages[self.path].encode(), html)
        else:
            self.send(404, b"<main><p>There is no such page here.</p></main>", html)


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(module, "is_public", lambda address: True)
    monkeypatch.setattr(module, "_PAUSE", 0.0)
    with running(Site()) as server:
        yield server


def test_the_pages_of_one_host_are_read_as_robots_txt_allows(site):
    read = read_site(f"{site.endpoint}/#news")
    texts = [each.text for reading in read.readings for each in reading.document.statements]
    assert texts == ["We open at nine. A S O P G", "Dogs are welcome. M home", "Tea is free."] or (
        [text.split(".")[0] for text in texts if "." in text]
        == ["We open at nine", "Dogs are welcome", "Tea is free"]
    )
    names = [reading.document.name for reading in read.readings]
    assert names == [f"{site.endpoint}{path}" for path in ("/", "/a", "/b")]
    assert "/secret/x" not in site.asked and "/photo.jpg" not in site.asked
    said = {name.removeprefix(site.endpoint): str(error) for name, error in read.problems.items()}
    assert list(said) == ["/secret/x"] and "robots.txt" in said["/secret/x"] and read.complete


def test_at_most_as_many_pages_are_read_as_wanted(site):
    read = read_site(site.endpoint, most=2)
    assert len(read.readings) == 2 and not read.complete


@pytest.mark.parametrize("status", [404, 500])
def test_a_site_without_robots_txt_is_read_and_one_that_does_not_say_is_not(site, status):
    site.robots = status
    if status == 404:
        assert len(read_site(site.endpoint).readings) == 4
    else:
        with pytest.raises(DataError, match="status 500"):
            read_site(site.endpoint)


def test_a_redirect_to_another_host_or_a_loop_is_not_followed(site):
    site.redirects |= {"/a": "http://other.example/", "/gone": "/gone"}
    problems = read_site(site.endpoint).problems
    assert "another site, other.example" in str(problems[f"{site.endpoint}/a"])
    assert "on and on" in str(problems[f"{site.endpoint}/gone"])


def test_a_private_address_is_not_contacted():
    with (
        running(Site()) as server,
        pytest.raises(DataError, match="is a private address") as caught,
    ):
        read_site(server.endpoint)
    assert server.asked == [] and "\n" not in str(caught.value)


def test_a_redirect_to_a_private_address_is_not_followed(site, monkeypatch):
    site.redirects["/a"] = f"{site.endpoint}/b"
    answers = iter([True, True, True])  # robots.txt, the first page, the redirect; then private
    monkeypatch.setattr(module, "is_public", lambda address: next(answers, False))
    problems = read_site(site.endpoint).problems
    assert "is a private address" in str(problems[f"{site.endpoint}/a"])
    assert "/b" not in site.asked


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.215.14", True),
        ("2606:4700::6810:84e5", True),
        ("64:ff9b::5db8:d70e", True),  # a website with IPv4 alone, in a network with IPv6 alone
        *(
            (address, False)
            for address in "127.0.0.1 10.1.2.3 172.16.0.1 192.168.1.1 169.254.169.254 100.64.0.1 0.0.0.0 224.0.0.1 "
            "::1 ::ffff:127.0.0.1 fe80::1 fd00::1 2002:7f00:1:: ::7f00:1 ::ffff:0:7f00:1 64:ff9b::7f00:1 "
            "64:ff9b::a9fe:a9fe 64:ff9b:1::7f00:1 fec0::1".split()
        ),
    ],
)
def test_public_addresses_are_those_of_the_internet(address, public):
    assert is_public(address) == public


def test_addresses_are_normal():
    assert normal_address("example.org") == "https://example.org/"
    assert normal_address("http://example.org/a?b=1#c") == "http://example.org/a?b=1"
    for wrong in ("ftp://example.org", "https://", "https://user:secret@example.org"):
        with pytest.raises(ConfigError, match="no address of a website"):
            normal_address(wrong)


def update(site: Site) -> Update:
    """Read the site into the study ``shop`` again."""
    return open_documents([], site=site.endpoint, name="shop")[1]


def test_a_page_that_is_gone_goes_and_one_that_fails_stays(site):
    study = Study.create(StudyConfig(name="shop"))
    update(site)
    del site.pages["/b"]
    assert any("Tea is free." in change.old.text for change in update(site).changes)
    site.pages["/b"] = PAGES["/b"]
    assert not update(site).changes
    del site.pages["/a"]
    site.redirects["/a"] = "http://other.example/"  # not known to be gone
    assert not update(site).changes
    assert len(Documents(study).records) == 3


@pytest.mark.parametrize(
    "address",
    [
        "http://xn--a/",
        "javascript:alert(1)",
        "http://[::1",
        "file:///etc/passwd",
        "http://a:b@",
        "//",
    ],
)
def test_odd_redirects_and_links_are_problems_of_their_page(site, address):
    site.pages["/"] = (
        f"<main><p>We open at nine.</p><a href='/a'>A</a><a href='{address}'>B</a></main>"
    )
    site.redirects["/a"] = address
    read = read_site(site.endpoint)
    assert len(read.readings) == 1 and set(read.problems) <= {f"{site.endpoint}/a"}


@pytest.mark.parametrize(
    "line",
    [
        "Crawl-delay: \u00b2",
        f"Crawl-delay: {'9' * 400}",
        f"Crawl-delay: {'9' * 5000}",
        f"Request-rate: 1/{'9' * 5000}",
        "Request-rate: \u00b2/5",
        "Disallow: http://[::1",
        "Allow: //[a",
    ],
)
def test_odd_lines_of_robots_txt_are_left_out(site, line):
    site.robots = f"User-agent: *\n{line}\nDisallow: /secret/\n"
    read = read_site(site.endpoint)
    assert len(read.readings) == 3 and "/secret/x" not in site.asked


def test_a_redirect_to_what_robots_txt_forbids_is_not_followed(site):
    site.redirects["/a"] = "/secret/x"
    assert "robots.txt" in str(read_site(site.endpoint).problems[f"{site.endpoint}/a"])
    assert "/secret/x" not in site.asked


def test_a_page_that_expands_without_bounds_is_not_read(site):
    page = PAGES["/b"].encode()
    site.compressed = {"/b": ("gzip, gzip", gzip.compress(gzip.compress(page))),
                       "/c": ("gzip", gzip.compress(page))}  # fmt: skip
    site.pages["/"] = "<main><p>We open at nine.</p><a href='/b'>B</a><a href='/c'>C</a></main>"
    read = read_site(site.endpoint)
    assert [each.document.name for each in read.readings] == [
        f"{site.endpoint}/",
        f"{site.endpoint}/c",
    ]
    assert "compressed" in str(read.problems[f"{site.endpoint}/b"])


def test_headers_without_end_end_after_a_while(site, monkeypatch):
    monkeypatch.setattr(module, "_SECONDS", 0.5)
    site.pages["/"] = "<main><p>We open at nine.</p><a href='/slow'>S</a></main>"
    read = read_site(site.endpoint)
    assert "header comes too slowly" in str(read.problems[f"{site.endpoint}/slow"])
    site.released.set()
    assert not read.complete


@pytest.mark.parametrize("path", ["/", "/robots.txt"])
def test_a_compressed_page_of_nothing_ends_after_a_while(site, monkeypatch, path):
    """Blocks of a compressed reply can be empty for ever, so that no text comes of which a limit could be looked at."""
    monkeypatch.setattr(module, "_SECONDS", 0.3)
    site.empty = path
    try:
        with pytest.raises(DataError):
            read_site(site.endpoint)
    finally:
        site.released.set()


def test_the_head_of_a_chunk_without_end_ends_after_a_while(site, monkeypatch):
    monkeypatch.setattr(module, "_SECONDS", 0.3)
    site.chunked = "/slow"
    site.pages["/"] = "<main><p>We open at nine.</p><a href='/slow'>S</a></main>"
    threading.Timer(5.0, site.released.set).start()
    read = read_site(site.endpoint)
    assert not site.released.is_set() and not read.complete
    site.released.set()
    assert "content comes too slowly" in str(read.problems[f"{site.endpoint}/slow"])


def test_links_and_text_of_a_site_are_bounded(site, monkeypatch):
    monkeypatch.setattr(module, "_LINKS_PER_PAGE", 10)
    links = "".join(f"<a href='/{number}'>x</a>" for number in range(1_000))
    long = f"<a href='/{'x' * 3_000}'>x</a>"
    site.pages["/"] = f"<main><p>We open at nine.</p>{long}{links}</main>"
    read = read_site(site.endpoint, most=3)
    assert not read.complete and not any(len(path) > 2_000 for path in site.asked)
    monkeypatch.setattr(limits, "MAX_TEXT", 10)
    read = read_site(site.endpoint, most=3)
    assert not read.complete and not read.readings
    assert "more than 10 characters together" in str(read.problems[f"{site.endpoint}/"])
