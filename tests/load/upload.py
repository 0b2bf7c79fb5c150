"""A file of many rows through the real page in Chromium: ``python -m tests.load.upload --rows 50000``.

Prints the seconds until the pairs are checked and shown and until the study is created and split, and the memory of the
server. Fails if the page shows another number of rows.
"""

import argparse
import csv
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
from playwright.sync_api import Page, expect, sync_playwright

from benchmarks.scaling import generated_pairs
from tests.browser.serving import free_port, serving

MOST_SECONDS = 600.0
CHROMIUM = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]


def write_pairs(path: Path, rows: int) -> None:
    """Write a CSV file of generated pairs."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["question", "answer"])
        writer.writeheader()
        writer.writerows(generated_pairs(rows))


def bring(page: Page, url: str, file: Path, rows: int) -> dict[str, float]:
    """Upload the file in the page and create a study; returns the seconds of each part."""
    found: dict[str, float] = {}

    def timed(part: str, work: Callable[[], None]) -> None:
        began = time.monotonic()
        work()
        found[part] = round(time.monotonic() - began, 2)

    page.goto(f"{url}&study=&tab=data")
    page.wait_for_function("window.abArrived")

    def check() -> None:
        page.locator("#ab-file input[type=file]").set_input_files(str(file))
        expect(page.locator("#ab-brief")).to_contain_text(
            f"of {rows:,} rows", timeout=1000 * MOST_SECONDS
        )

    def make() -> None:
        page.locator("#ab-create").click()
        expect(page.locator("#ab-plan")).to_contain_text(
            "Memory by component", timeout=1000 * MOST_SECONDS
        )

    timed("checked_seconds", check)
    timed("made_seconds", make)
    timed(
        "reloaded_seconds", lambda: (page.reload(), page.wait_for_function("window.abArrived"))[0]
    )
    return found


def main(words: Sequence[str] | None = None) -> int:
    """Measure, and print one JSON document."""
    parser = argparse.ArgumentParser(prog="python -m tests.load.upload", description=__doc__)
    parser.add_argument("--rows", type=int, default=50_000)
    given = parser.parse_args(words)
    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as playwright:
        file, home = Path(scratch) / "pairs.csv", Path(scratch) / "home"
        write_pairs(file, given.rows)
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=CHROMIUM
        )
        with serving(home, free_port()) as site:
            assert site.process is not None
            found = bring(browser.new_page(), site.start_url, file, given.rows)
            server = psutil.Process(site.process.pid)
            found["server_memory_bytes"] = server.memory_info().rss
        browser.close()
    sys.stdout.write(json.dumps({"rows": given.rows, **found}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
