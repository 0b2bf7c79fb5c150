"""Reading a website: its pages from an address on, of the same host, as robots.txt allows, and never a private address.

Each address is resolved once and connected to as resolved, so that a name cannot mean another address a moment later;
redirects are followed with the same checks.
"""

from __future__ import annotations

import ipaddress
import queue
import re
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar, cast
from urllib.parse import urlsplit
from urllib.robotparser import RobotFileParser

import httpx

from assistant_builder.chat_endpoint import ACCEPTED_CODINGS, has_accepted_coding
from assistant_builder.documents.limits import MAX_BYTES, too_much_text
from assistant_builder.documents.reading import KINDS, read_document, require_packages
from assistant_builder.documents.store import Reading
from assistant_builder.documents.types import DocumentKind
from assistant_builder.errors import AssistantBuilderError, ConfigError, DataError
from assistant_builder.i18n import Text, m

AGENT = "AssistantBuilder"
"""Name by which robots.txt can forbid or allow the reading."""
MAX_PAGES = 200
"""Pages of a site that are read at most, unless the user says otherwise."""
_SECONDS, _PAUSE, _LONGEST_PAUSE = 20.0, 0.2, 10.0
_MAX_REDIRECTS = 5
_LONGEST_LINK, _LINKS_PER_PAGE = 2_000, 100
"""Characters of an address, and addresses that wait for each page that may be read; others are not read."""
_ROBOTS_LINE = re.compile(
    r"\s*(?:#.*|(?:user-agent|allow|disallow)\s*:.*|crawl-delay\s*:\s*[0-9]{1,6}\s*(?:#.*)?)?",
    re.IGNORECASE,
)
"""The lines of robots.txt that are used, and empty ones, which separate its parts."""
_ROBOTS_BYTES = 512 * 1024
_TYPES: dict[str, DocumentKind] = {
    "text/html": "html",
    "application/xhtml+xml": "html",
    "application/pdf": "pdf",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": "docx",
    "application/vnd.openxmlformats-officedocument.presentationml.presentation": "pptx",
    "text/plain": "text",
    "text/markdown": "markdown",
}
Progress = Callable[[int, int, str], None]
_Result = TypeVar("_Result")


@dataclass
class Site:
    """What was read of a site.

    Attributes:
        readings: Its pages; each is named by its address.
        problems: Address → why it could not be read, of pages that exist.
        complete: Whether every page was tried, and none failed that may be there a moment later.
    """

    readings: list[Reading] = field(default_factory=list)
    problems: dict[str, AssistantBuilderError] = field(default_factory=dict)
    complete: bool = True

    def covers(self, known: Collection[str]) -> bool:
        """Whether pages that were not read are gone: the site is complete, and no known page failed."""
        return self.complete and not self.problems.keys() & known


def read_site(
    address: str,
    progress: Progress = lambda done, total, name: None,
    *,
    most: int = MAX_PAGES,
) -> Site:
    """Read a site from an address on, breadth first.

    Args:
        address: Address of the first page.
        progress: Called with the pages that were read, the number that is known, and the address of the next.
        most: Pages that are read at most.

    Raises:
        ConfigError: The address is none of a website, or the extra ``documents`` is not installed.
        DataError: The first page cannot be read.
    """
    require_packages()
    start = normal_address(address)
    site, waiting, seen = Site(), [start], {start}
    tried = text = 0
    with tempfile.TemporaryDirectory() as scratch, _Fetcher(start) as fetcher:
        robots = fetcher.robots()
        delay = robots.crawl_delay(AGENT)
        pause = min(max(float(delay or 0.0), _PAUSE), _LONGEST_PAUSE)
        while waiting:
            if tried == most:
                site.complete = False
                break
            page = waiting.pop(0)
            progress(tried, min(most, tried + 1 + len(waiting)), page)
            try:
                _require_allowed(robots, page)
                time.sleep(pause if tried else 0.0)
                tried += 1
                content, kind, final = fetcher.get(page, robots)
                if final != page and final in seen:
                    continue
                seen.add(final)
                path = Path(scratch, f"page.{kind}")
                path.write_bytes(content)
                document = read_document(path, final, kind)
            except DataError as error:
                if page == start:
                    raise
                if not isinstance(error, _Gone):
                    site.problems[page] = error
                site.complete = site.complete and not isinstance(error, _Failed)
                continue
            text += document.size
            if too_much := too_much_text(text, page):
                site.problems[page], site.complete = too_much, False
                break
            site.readings.append(Reading.of(path, document))
            for link in _links(final, document.links, fetcher.host):
                if link not in seen:
                    if len(seen) >= _LINKS_PER_PAGE * most:
                        site.complete = False
                        break
                    seen.add(link)
                    waiting.append(link)
    return site


def _require_allowed(robots: RobotFileParser, page: str) -> None:
    try:
        allowed = robots.can_fetch(AGENT, page)
    except ValueError:  # of an address that urllib cannot read
        allowed = False
    if not allowed:
        raise DataError(
            m("robots.txt of the site does not allow to read this page"),
            where=page,
            remedy=m("Ask who runs the site, or save the page as a file"),
        )


def normal_address(address: str) -> str:
    """An address without fragment, with a path; ``https`` if it names no scheme.

    Raises:
        ConfigError: It is none of a website.
    """
    try:
        url = httpx.URL(address if "://" in address else f"https://{address}")
        host = url.host
    except (httpx.InvalidURL, ValueError) as error:
        raise _no_address(address) from error
    if url.scheme not in ("http", "https") or not host or url.userinfo:
        raise _no_address(address)
    return str(url.copy_with(fragment=None, raw_path=url.raw_path or b"/"))


def _no_address(address: str) -> ConfigError:
    return ConfigError(
        m("{address!r} is no address of a website", address=address),
        where="--site",
        remedy=m("Write it as https://www.example.org"),
    )


class _Gone(DataError):
    """The site says that a page does not exist."""


class _Failed(DataError):
    """A page that may be there a moment later."""


def _error(what: Text, address: str, kind: type[DataError] = DataError) -> DataError:
    return kind(what, where=address, remedy=m("Open it in a browser to see what it shows"))


class _Fetcher:
    """Fetches pages of one host; ``host`` is its name without ``www.``."""

    def __init__(self, start: str) -> None:
        self.host = _host(httpx.URL(start))
        self._start = start
        # no proxy of the environment: it would resolve names by itself
        self._client = httpx.Client(
            timeout=_SECONDS,
            trust_env=False,
            headers={"User-Agent": f"{AGENT}/1", **ACCEPTED_CODINGS},
        )

    def __enter__(self) -> _Fetcher:
        return self

    def __exit__(self, *error: object) -> None:
        self._client.close()

    def robots(self) -> RobotFileParser:
        """What robots.txt allows; a server without one allows everything.

        Raises:
            DataError: The server cannot be reached, or does not say.
        """
        rules = RobotFileParser()
        address = str(httpx.URL(self._start).copy_with(raw_path=b"/robots.txt"))
        try:
            content, _, _ = self.get(address, most=_ROBOTS_BYTES, any_type=True)
            lines = content.decode("utf-8", errors="replace").splitlines()
            rules.parse(list(filter(_is_rule, lines)))
        except _Gone:
            rules.parse([])
        return rules

    def get(
        self,
        address: str,
        robots: RobotFileParser | None = None,
        *,
        most: int = MAX_BYTES,
        any_type: bool = False,
    ) -> tuple[bytes, DocumentKind, str]:
        """Content, format and final address of a page.

        Raises:
            DataError: It cannot be fetched, is not of this host or no document, or leads to an address that ``robots``
                does not allow.
        """
        for redirect in range(_MAX_REDIRECTS + 1):
            url = httpx.URL(address)
            if _host(url) != self.host or url.scheme not in ("http", "https"):
                raise _error(m("the page leads to another site, {host}", host=_host(url)), address)
            if redirect and robots is not None:
                _require_allowed(robots, address)
            with self._open(url) as response:
                if response.has_redirect_location:
                    try:
                        target = url.join(response.headers["location"])
                        address = str(target.copy_with(fragment=None, userinfo=b""))
                    except (httpx.InvalidURL, ValueError) as error:
                        raise _error(
                            m("the page leads to something that is no address"), address
                        ) from error
                    continue
                if response.status_code in (404, 410):
                    raise _Gone(m("there is no such page"), where=address)
                if not response.is_success:
                    status = response.status_code
                    raise _error(
                        m("the server answers with status {status}", status=status), address
                    )
                kind = _TYPES.get(
                    response.headers.get("content-type", "").split(";")[0].strip().lower()
                )
                if kind is None and not any_type:
                    raise _error(m("the address is of no document"), address)
                return _content(response, address, most), kind or "text", address
        raise _error(m("the page leads on and on to other addresses"), address)

    def _open(self, url: httpx.URL) -> _Response:
        name = url.host
        target = url.copy_with(host=_resolved(name, url.port or _port(url)))
        request = self._client.build_request(
            "GET",
            target,
            headers={"Host": url.netloc.decode("ascii")},
            extensions={"sni_hostname": name},
        )
        # extensions of build_request replace the client's timeout
        request.extensions["timeout"] = httpx.Timeout(_SECONDS).as_dict()
        return _Response(self._client, request, str(url))


class _Response:
    """The response of a request, closed at the end of the ``with`` block; raises DataError without a connection."""

    def __init__(self, client: httpx.Client, request: httpx.Request, address: str) -> None:
        self._client, self._request, self._address = client, request, address

    def __enter__(self) -> httpx.Response:
        try:
            self._response = _in_time(
                lambda: self._client.send(self._request, stream=True),
                2 * _SECONDS,
                "its header comes too slowly",
            )
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            raise _error(
                m("the server cannot be reached: {error}", error=error), self._address, _Failed
            ) from error
        return self._response

    def __exit__(self, *error: object) -> None:
        self._response.close()


def _in_time(work: Callable[[], _Result], seconds: float, why: str) -> _Result:
    """The result of work in a thread, within a time: the timeout of httpx is between two bytes.

    Raises:
        httpx.ReadTimeout: It takes longer; the thread ends when its connection is closed.
    """
    found: queue.Queue[tuple[_Result | None, Exception | None]] = queue.Queue()

    def run() -> None:
        try:
            found.put((work(), None))
        except Exception as error:
            found.put((None, error))

    threading.Thread(target=run, daemon=True).start()
    try:
        result, error = found.get(timeout=seconds)
    except queue.Empty:
        raise httpx.ReadTimeout(why) from None
    if error is not None:
        raise error
    return cast("_Result", result)


def _content(response: httpx.Response, address: str, most: int) -> bytes:
    if not has_accepted_coding(response):
        raise _error(m("the page is compressed in an unknown way"), address)

    def read() -> bytes:
        content = bytearray()
        for chunk in response.iter_bytes():
            content += chunk
            if len(content) > most:
                raise _error(m("the page is too large or comes too slowly"), address, _Failed)
        return bytes(content)

    try:
        return _in_time(read, _SECONDS, "its content comes too slowly")
    except httpx.HTTPError as error:
        raise _error(
            m("the server cannot be reached: {error}", error=error), address, _Failed
        ) from error


def _resolved(host: str, port: int) -> str:
    """A public address of a host.

    Raises:
        DataError: The host has none, or one of its addresses is private.
    """
    try:
        found = {entry[4][0] for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)}
    except (OSError, UnicodeError) as error:
        raise _error(m("there is no host {host}", host=host), host) from error
    addresses = [str(address).partition("%")[0] for address in found]
    if not addresses or not all(map(is_public, addresses)):
        raise DataError(
            m("{host} is a private address, which is not read", host=host),
            where=host,
            remedy=m("Save the pages as files, and use their folder"),
        )
    return min(addresses, key=lambda address: (":" in address, address))  # IPv4 first


def is_public(address: str) -> bool:
    """Whether an IP address is one of the public internet."""
    parsed = ipaddress.ip_address(address)
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.is_site_local or any(parsed in network for network in _TRANSLATED):
            return False
        inner = parsed.ipv4_mapped or parsed.sixtofour
        if parsed in _NAT64:
            inner = ipaddress.IPv4Address(int(parsed) & 0xFFFFFFFF)
        if inner is not None:
            return inner.is_global
    return parsed.is_global and not parsed.is_multicast


_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
"""Addresses of networks without IPv4, whose gateways lead to the IPv4 address in the last 32 bits."""
_TRANSLATED = [
    ipaddress.IPv6Network(network) for network in ("64:ff9b:1::/48", "::ffff:0:0:0/96", "::/96")
]
"""Other addresses with an IPv4 address in them, which no public website has."""


def _port(url: httpx.URL) -> int:
    return 443 if url.scheme == "https" else 80


def _host(url: httpx.URL) -> str:
    """The host of an address without ``www.``; empty if it is no name."""
    try:
        return url.host.lower().removeprefix("www.")
    except ValueError:  # of IDNA
        return ""


def _is_rule(line: str) -> bool:
    """Whether a line of robots.txt can be used; urllib fails on odd numbers and addresses."""
    try:
        urlsplit(line.partition(":")[2].strip())
    except ValueError:
        return False
    return _ROBOTS_LINE.fullmatch(line) is not None


def _links(page: str, links: tuple[str, ...], host: str) -> Iterator[str]:
    """Addresses of the documents that a page links to on the same host."""
    base = httpx.URL(page)
    for link in links:
        if len(link) > _LONGEST_LINK:
            continue
        try:
            url = base.join(link).copy_with(fragment=None)
        except (httpx.InvalidURL, ValueError):
            continue
        ending = Path(url.path).suffix.lower()
        # other endings, as of ".php", are of pages as well
        media = ending in _NO_DOCUMENTS
        if (
            url.scheme in ("http", "https")
            and _host(url) == host
            and not media
            and not url.userinfo
        ):
            yield str(url)


_NO_DOCUMENTS = frozenset(
    ".jpg .jpeg .png .gif .svg .webp .avif .ico .css .js .mjs .json .xml .zip .gz .mp3 .mp4 .webm .woff .woff2 .ics "
    ".xlsx .xls .csv .pptx .ppt .doc .exe .dmg".split()
) - frozenset(KINDS)
