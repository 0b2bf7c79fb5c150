"""``python -m benchmarks.widget_load --visitors 50 --minutes 10``: many visitors of the chat widget at once.

Starts ``assistant-builder serve --widget --remember texts`` on loopback behind a proxy's header, and visitors who ask
over several turns, stop, leave, read slowly and vote. Some come from one address and some all at once, to be refused.
The answers come from a script (:mod:`benchmarks.scripted_backend`), so that each is known beforehand; ``--study NAME``
serves a study instead, whose questions and log stay untouched, ``--mode copy`` its copied answers. Before the load, the
time until the first text is measured through the widget and from the endpoint, one question at a time. Prints a table;
exit code 1 if a check fails.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from assistant_builder.atomic_io import read_json, write_json
from assistant_builder.child_process import python_command, python_environment
from assistant_builder.data import load_split
from assistant_builder.models.bundled import ensure_base_model
from assistant_builder.registry import PLUGIN_VARIABLE
from assistant_builder.serving.auth import API_KEY_VARIABLE
from assistant_builder.serving.visitor_limits import Limits
from assistant_builder.study import Study
from assistant_builder.study import home as home_folder
from assistant_builder.study.example import open_example
from benchmarks.paths import temporary_home
from benchmarks.widget_checks import Load, Sample, checks, later, percentile, warm_up
from benchmarks.widget_visitors import (
    KEY,
    NOBODY,
    ORIGIN,
    Known,
    Question,
    Scripted,
    Site,
    ask_and_leave,
    ask_at_once,
    first_texts,
    visit,
    visitors_client,
)

_BEYOND = 40  # questions at once beyond those that may wait
_KNOWN = 24  # questions of a study that are asked
_START_SECONDS, _END_SECONDS = 300.0, 15.0
_OWN_FILES = ("visitors.db", "widget.json")  # of a study, which its copy does not have


@asynccontextmanager
async def served(
    name: str, backend: str, slots: int, log: Path, mode: str = ""
) -> AsyncIterator[tuple[dict[str, Any], Any]]:
    """A server of a study as a process: what it prints when it is ready, and the process; ended at the end."""
    options = f"--backend {backend} --slots {slots} --port 0 --widget --allow-origin {ORIGIN}"
    options += f" --mode {mode}" if mode else ""
    words = f"{options} --remember texts --proxy 127.0.0.1 --json".split()
    command = python_command("-m", "assistant_builder", "serve", name, *words)
    plugins = {PLUGIN_VARIABLE: "benchmarks.scripted_backend"} if backend == "scripted" else {}
    with log.open("wb") as errors:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
            env={**python_environment(), **plugins, API_KEY_VARIABLE: KEY},
        )
    try:
        yield await asyncio.wait_for(_ready(process, log), _START_SECONDS), process
    finally:
        with suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), _END_SECONDS)
        except TimeoutError:
            process.kill()
            await process.wait()


async def _ready(process: Any, log: Path) -> dict[str, Any]:
    """The JSON document that the server prints, once its models are loaded."""
    text = b""
    while True:
        line = await process.stdout.readline()
        if not line:
            raise SystemExit(
                f"the server did not start: {log.read_text(encoding='utf-8', errors='replace')[-500:]}"
            )
        text += line
        with suppress(ValueError):
            found: dict[str, Any] = json.loads(text)
            break
    async with visitors_client() as client:
        while (await client.get(found["url"].removesuffix("/v1") + "/health")).status_code != 200:
            await asyncio.sleep(0.2)
    return found


async def run_load(
    name: str,
    backend: str,
    visitors: int,
    seconds: float,
    *,
    slots: int,
    rounds: int,
    mode: str = "",
) -> Load:
    """Serve a study, and let visitors ask.

    Args:
        name: The study.
        backend: What answers: ``scripted`` or a backend of the product.
        visitors: How many ask at a time.
        seconds: How long they ask.
        slots: Questions that are answered at a time.
        rounds: Pairs of questions whose first text is timed.
        mode: ``copy`` for copied answers; empty for what ``serve`` does by itself.
    """
    with tempfile.TemporaryDirectory() as scratch:
        log = Path(scratch) / "errors.txt"
        async with (
            served(name, backend, slots, log, mode) as (ready, process),
            visitors_client() as client,
        ):
            site = Site(
                ready["url"].removesuffix("/v1"),
                next(iter(ready["aliases"])),
                ready["widget"]["token"],
                Scripted(),
                client,
            )
            load = Load(site)
            if backend != "scripted":
                site.topic = await _known(site, Study.open(name))
            load.first_texts = await first_texts(site, rounds)
            server = psutil.Process(process.pid)
            load.before = await _at_rest(server)
            began = time.monotonic()
            until = began + seconds
            await asyncio.gather(
                *(visit(site, number, until) for number in range(visitors)),
                _watch(server, load, began, until),
                _refusals(load, slots, warm_up(seconds)),
            )
            load.after = await _at_rest(server)
            load.rested = await ask_at_once(site, slots if backend != "local" else 1)
            again = (
                ask_at_once(site, Limits.open, address) for address in _left_addresses(site)[:10]
            )
            load.again = [each for asked in await asyncio.gather(*again) for each in asked]
        load.code, load.said = process.returncode, log.read_text(encoding="utf-8", errors="replace")
    return load


async def _known(site: Site, study: Study) -> Known:
    """Held-out questions of a study with different answers of the endpoint."""
    found: dict[str, str] = {}
    for pair in load_split(study.folder / "data", "heldout"):
        if len(found) == _KNOWN:
            break
        question = pair.messages[-2].content
        if pair.answerable and question not in found:
            asked = await site.complete(Question([question], tab=NOBODY))
            if asked.answer not in found.values():
                found[question] = asked.answer
    return Known(found)


async def _at_rest(server: psutil.Process) -> Sample:
    """What the server holds when nobody asks."""
    await asyncio.sleep(2.0)
    return _sample(server, 0.0)


def _sample(server: psutil.Process, seconds: float) -> Sample:
    memory, started = server.memory_info().rss, 0
    for child in server.children(recursive=True):
        with suppress(psutil.Error):
            started += child.memory_info().rss
    return Sample(seconds, memory, memory + started, server.num_fds(), server.num_threads())


async def _watch(server: psutil.Process, load: Load, began: float, until: float) -> None:
    while (now := time.monotonic()) < until:
        load.samples.append(_sample(server, now - began))
        await asyncio.sleep(0.5)


async def _refusals(load: Load, slots: int, warm: float) -> None:
    """Ask what has to be refused: too much from all, and then too much from one address.

    The crowd comes early, because memory after the warm-up has to include it.
    """
    limits = Limits()
    await asyncio.sleep(warm / 4)
    start = time.monotonic()
    load.surge = await ask_at_once(load.site, limits.waiting + slots + _BEYOND)
    load.surge_time = start, time.monotonic()
    load.crowd = await ask_at_once(load.site, limits.open + 2, load.site.address())
    load.hasty = await ask_and_leave(load.site, limits.questions + 3)


def _left_addresses(site: Site) -> list[str]:
    """Addresses of visitors who left a question and asked few others."""
    asked = Counter(each.address for each in site.asked)
    return list(
        dict.fromkeys(
            each.address for each in site.asked if each.left and asked[each.address] <= 10
        )
    )


@contextmanager
def home_of(name: str | None) -> Iterator[Study]:
    """A home with the study to serve; it ends with the context, and nothing is written into the study.

    Args:
        name: A study of the user's home; None for the finished example, of which the script answers conversations.
    """
    models = home_folder() / "models"
    own = Study.open(name) if name else None
    if own is None:
        ensure_base_model()
    models.mkdir(parents=True, exist_ok=True)  # the server puts the embedder there
    with temporary_home() as folder:
        (folder / "models").symlink_to(models)
        yield conversing_example() if own is None else _copied(own)


def conversing_example() -> Study:
    """The finished example, changed so that the widget sends whole conversations."""
    study = open_example("example")
    path = study.folder / "data" / "split.json"
    split = read_json(path)
    split["turns"] = {**split.get("turns", {}), "train": split["counts"]["train"] + 1}
    write_json(path, split)
    return study


def _copied(own: Study) -> Study:
    """A copy of a study in the current home, without its visitors; a study can contain no links."""
    study = Study(home_folder() / "studies" / own.folder.name)
    left = shutil.ignore_patterns(*(f"{name}*" for name in _OWN_FILES))
    shutil.copytree(own.folder, study.folder, ignore=left)
    return study


def summary(load: Load) -> dict[str, Any]:
    """The figures of :func:`main`."""
    waits = [
        each.first_text for each in load.site.asked if each.ended and each.first_text is not None
    ]
    widget, endpoint = ([1000 * pair[place] for pair in load.first_texts] for place in (0, 1))
    return {
        "first_text_ms": {
            "widget": {"median": statistics.median(widget), "95": percentile(widget, 0.95)},
            "endpoint": {"median": statistics.median(endpoint), "95": percentile(endpoint, 0.95)},
            "later": dict(
                zip(("median", "95"), (1000 * each for each in later(load)), strict=True)
            ),
        },
        "loaded_first_text_seconds": {
            "median": statistics.median(waits),
            "95": percentile(waits, 0.95),
        },
    }


def main(words: Sequence[str] | None = None) -> int:
    """Run the load test and print the results; exit code 1 if a check fails."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.widget_load",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--visitors", type=int, default=50, help="visitors at a time")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument(
        "--slots", type=int, default=4, help="questions that are answered at a time"
    )
    parser.add_argument(
        "--rounds", type=int, default=100, help="pairs of questions whose first text is timed"
    )
    parser.add_argument("--study", metavar="NAME", help="serve this study instead of the script")
    parser.add_argument(
        "--backend", default="local", choices=["local", "llamacpp"], help="what serves the study"
    )
    parser.add_argument("--mode", default="", choices=["tuned", "copy"], help="who answers")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(words)
    with home_of(given.study) as study:
        load = asyncio.run(
            run_load(
                study.folder.name,
                given.backend if given.study else "scripted",
                given.visitors,
                60 * given.minutes,
                slots=given.slots,
                rounds=given.rounds,
                mode=given.mode,
            )
        )
        found = checks(load, study)
    figures = summary(load)
    if given.json:
        print(json.dumps({**figures, "checks": [vars(each) for each in found]}, indent=2))
    else:
        for check in found:
            print(f"{'ok  ' if check.passed else 'FAIL'} {check.name:52} {check.found}")
        for way, times in figures["first_text_ms"].items():
            print(
                f"     first text, {way:39} median {times['median']:.1f} ms, 95 % {times['95']:.1f} ms"
            )
        times = figures["loaded_first_text_seconds"]
        print(
            f"     first text under load, place in the queue included   median {times['median']:.2f} s, "
            f"95 % {times['95']:.2f} s"
        )
    return 0 if all(check.passed for check in found) else 1


if __name__ == "__main__":
    sys.exit(main())
