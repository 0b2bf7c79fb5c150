"""The documentation site: it asks no other host, and its search answers what a new user asks."""

import functools
import http.server
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.documents.blocks import ROOT

pytestmark = pytest.mark.browser
QUESTIONS = {
    "compare two ranks": "compare.html#compare-two-studies",
    "inconclusive": "report.html#the-verdicts",
    "which file for ollama": "formats.html#which-file-for-which-program",
    "column names": "data.html",
    "not enough memory": "planner.html#not-enough-memory",
    "when does it decline": "retrieval.html#the-grounded-approach",
    "train only qlora": "configuration.html#train-qlora-alone",
    "resume on another machine": "cluster.html#an-object-store",
    "password": "serving.html#the-page-for-others-on-your-network",
    "openai endpoint": "serving.html#an-endpoint-for-other-programs",
    "fail ci": "report.html#a-gate-for-ci",
    "wordpress": "website.html#4-the-line-for-the-website",
    "systemd": "website.html#2-run-it-on-a-server",
    "german": "languages.html#data-in-another-language",
    "pandas": "python.html#results-in-pandas",
    "pdf": "documents.html",
    "docker": "quickstart.html#other-ways-to-install",
    "rtx 4090": "gpu.html#installing-for-a-card",
    "vector database": "is-it-for-me.html",
    "erase": "website.html#what-is-kept",
    "train.learning_rate": "configuration.html#train",
}
"""What a new user types → the section with the answer, which has to be shown under one of the first three pages."""
SHOWN = """items => items.slice(0, 3).flatMap(item => [...item.querySelectorAll('a')].slice(0, 3)
  .map(link => new URL(link.href)).map(link => link.pathname.slice(1) + link.hash))"""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the built site."""
    folder = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.mark.long
def test_no_page_asks_another_host(page, url):
    for source in sorted((ROOT / "docs").glob("*.md")):
        page.goto(url + source.with_suffix(".html").name, wait_until="networkidle")
        assert page.locator("article h1").count() == 1
        assert not page.locator("article p", has_text="| ---").count(), "a table is not rendered"


@pytest.mark.long
def test_search_finds_what_a_new_user_asks(page, url):
    page.goto(url)
    query = page.locator("input[name=query]")
    missed = {}
    for question, answer in QUESTIONS.items():
        query.fill("")
        query.press_sequentially(question)
        shown: list[str] = []
        for _ in range(50):  # results are drawn again after each letter
            page.wait_for_timeout(200)
            shown = page.locator(".md-search-result__item").evaluate_all(SHOWN)
            if any(link.startswith(answer) for link in shown):
                break
        else:
            missed[question] = shown
    assert not missed


def test_every_page_is_one_click_away(page, url):
    page.goto(url)
    links = page.locator("nav.md-nav--primary a.md-nav__link").evaluate_all(
        "links => links.map(a => a.href)"
    )
    pages = {source.with_suffix(".html").name for source in Path(ROOT / "docs").glob("*.md")}
    assert pages <= {link.split("#")[0].removeprefix(url) for link in links}


def test_the_site_has_llms_txt_and_each_page_as_markdown(page, url):
    listed = page.request.get(f"{url}llms.txt").text()
    names = {source.name for source in (ROOT / "docs").glob("*.md")}
    assert set(re.findall(r"\]\(([^)]+)\): \S", listed)) == names
    for name in names:
        text = page.request.get(url + name).text()
        assert text.startswith("# ") and "--8<--" not in text, name
    assert "train_and_compare" in page.request.get(f"{url}python.md").text()
