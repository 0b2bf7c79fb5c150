"""Load test with many users on the page's HTTP interface: ``python -m tests.load.sessions --seconds 600``.

Some users ask questions in their own windows, others upload files; each checks that replies and files are complete and
their own. The assistants repeat the question, so that the test loads the server only. Meanwhile a study is run
repeatedly; its results must equal those of a run without load.
"""

import argparse
import asyncio
import json
import os
import re
import secrets
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from assistant_builder.atomic_io import write_text
from assistant_builder.chat.conversation import MAX_TURNS
from assistant_builder.models.bundled import ensure_base_model, ensure_embedder
from assistant_builder.study import Study
from tests.browser.serving import free_port
from tests.chat.fake_worker import parrot_command
from tests.fault_injection.study import outcome, run, small_study
from tests.synthetic_study import finished_study

ROOT = Path(__file__).parents[2]
STUDY = "parrots"
SERVE = """
import sys
from assistant_builder.chat.client import WorkerPool
from assistant_builder.ui.app import build_app
from assistant_builder.ui.server import serve_page
from assistant_builder.web.access import Access
serve_page(lambda: build_app(WorkerPool(sys.argv[2:])), Access(port=int(sys.argv[1]), allow_without_password=True))
"""
GROWTH = 1.1
"""What the peak of memory in the last quarter may be of that in the one before."""
_PLACE = re.compile(r"Waiting: \d+ questions? before this one")
_TAG = re.compile(r"\bt\d+q\d+\b")


@dataclass
class Tally:
    """What happened.

    Attributes:
        answers: Questions answered by both assistants, completely and in order.
        uploads: Files brought and read again, byte for byte.
        wrong: Sentences about what was lost, cut or somebody else's.
        seconds: How long each answer took.
        places: Places in the queue before an assistant that were told.
        runs: Studies that were run meanwhile.
        memory: Bytes of the server and what it started, at each look.
    """

    answers: int = 0
    uploads: int = 0
    wrong: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    places: int = 0
    runs: int = 0
    memory: list[int] = field(default_factory=list)


class Page:
    """What one window of the page knows: which event asks, and with which values.

    Args:
        client: Asks the server.
    """

    def __init__(self, client: httpx.AsyncClient) -> None:
        self.client = client
        self.session = secrets.token_hex(6)
        self.values: dict[int, Any] = {}

    async def open(self) -> None:
        """Read the page, and let it draw the study, as the picker does."""
        config = (await self.client.get("/config")).json()
        parts = {part["id"]: part["props"] for part in config["components"]}
        named = {props.get("elem_id"): number for number, props in parts.items()}
        self.values = {number: props.get("value") for number, props in parts.items()}
        self._ask = _event(config, named["ab-send"], "click")
        follow = next(
            event
            for event in _events(config, named["ab-picker"], "change")
            if len(event["inputs"]) == 2
        )
        drawn = await self._run(follow, [STUDY, "{}"])
        mark, self._question = named["ab-chat-mark"], named["ab-question"]
        self.values[mark] = drawn[follow["outputs"].index(mark)]
        self._kept = next(
            number for number, props in parts.items() if "-talks-" in props.get("storage_key", "")
        )
        self.values[named["ab-picker"]] = STUDY

    async def _run(self, event: dict[str, Any], data: list[Any]) -> list[Any]:
        body = {"data": data, "fn_index": event["id"], "session_hash": self.session}
        answer = await self.client.post("/gradio_api/run/predict", json=body)
        answer.raise_for_status()
        found: list[Any] = answer.json()["data"]
        return [
            part["value"] if isinstance(part, dict) and "value" in part else part for part in found
        ]

    async def ask(self, question: str) -> AsyncIterator[dict[str, Any]]:
        """Ask, and yield the events of the reply."""
        values = {**self.values, self._question: question}
        data = [values[number] for number in self._ask["inputs"]]
        body = {"data": data, "fn_index": self._ask["id"], "session_hash": self.session}
        (await self.client.post("/gradio_api/queue/join", json=body)).raise_for_status()
        place = f"/gradio_api/queue/data?session_hash={self.session}"
        async with self.client.stream("GET", place) as stream:
            async for line in stream.aiter_lines():
                if line.startswith("data: "):
                    yield json.loads(line.removeprefix("data: "))

    def keep(self, kept: Any) -> None:
        """Store the conversation as the browser does."""
        self.values[self._kept] = kept


def _events(config: dict[str, Any], component: int, kind: str) -> list[dict[str, Any]]:
    return [event for event in config["dependencies"] if [component, kind] in event["targets"]]


def _event(config: dict[str, Any], component: int, kind: str) -> dict[str, Any]:
    return next(event for event in _events(config, component, kind) if event["backend_fn"])


async def talk(url: str, talker: int, until: float, tally: Tally) -> None:
    """The conversation of one user."""
    async with httpx.AsyncClient(base_url=url, timeout=600) as client:
        page = Page(client)
        await page.open()
        asked: list[str] = []
        while not asked or time.monotonic() < until:
            asked.append(f"t{talker}q{len(asked)} is all of it here?")
            began = time.monotonic()
            await _one_answer(page, asked, tally)
            tally.seconds.append(time.monotonic() - began)


async def _one_answer(page: Page, asked: list[str], tally: Tally) -> None:
    mine = {question.split()[0] for question in asked}
    completed: dict[str, Any] | None = None
    async for message in page.ask(asked[-1]):
        foreign = set(_TAG.findall(json.dumps(message))) - mine
        if foreign:
            tally.wrong.append(f"{asked[-1]}: was told of {sorted(foreign)}")
        tally.places += bool(_PLACE.search(json.dumps(message)))
        if message["msg"] == "process_completed":
            completed = message
    if completed is None or not completed["success"]:
        tally.wrong.append(f"{asked[-1]}: no answer, but {completed}")
        asked.pop()
        return
    kept = completed["output"]["data"][0]
    turns = kept[STUDY]["turns"]
    page.keep(kept)
    remembered = asked[-MAX_TURNS:]
    for question, turn in zip(remembered, turns, strict=False):
        for arm in ("qlora", "lora"):
            expected = " ".join(f"{arm}:{word}" for word in question.split()) + " \u2713"
            if turn["question"] != question or turn["answers"][arm]["text"] != expected:
                tally.wrong.append(
                    f"{question}: {turn['question']!r} got {turn['answers'].get(arm)}"
                )
    if len(turns) != len(remembered):
        tally.wrong.append(f"{asked[-1]}: {len(turns)} turns of {len(remembered)} are kept")
    tally.answers += 1


async def bring(url: str, uploader: int, until: float, tally: Tally) -> None:
    """The uploads of one user, each of which is read back."""
    async with httpx.AsyncClient(base_url=url, timeout=600) as client:
        number = 0
        while number == 0 or time.monotonic() < until:
            number += 1
            content = f"question,answer\n{uploader}-{number},{secrets.token_hex(50_000)}\n".encode()
            sent = await client.post(
                "/gradio_api/upload", files={"files": ("same-name.csv", content)}
            )
            read = (
                await client.get("/gradio_api/file=" + sent.json()[0])
                if sent.status_code == 200
                else sent
            )
            if read.content != content:
                tally.wrong.append(
                    f"upload {uploader}-{number}: {read.status_code}, {len(read.content)} bytes back"
                )
            tally.uploads += 1
            await asyncio.sleep(1)


def results(study: Study) -> dict[str, Any]:
    """Results that another study must have, too: all but its declaration, which has a time and a look of its own."""
    found = outcome(study)
    verdict = {key: value for key, value in found["verdict"].items() if key != "frozen"}
    return {**found, "verdict": verdict}


async def train(reference: Study, until: float, tally: Tally) -> None:
    """Run studies with the data and settings of the reference repeatedly, and compare the results."""
    wanted = results(reference)
    while tally.runs == 0 or time.monotonic() < until:
        study = small_study(f"crowded-{tally.runs + 1}")
        code, said = await asyncio.to_thread(run, study)
        if code:
            tally.wrong.append(f"run {study.name}: {said[-300:]}")
        elif (found := results(study)) != wanted:
            changed = sorted(key for key in wanted if found.get(key) != wanted[key])
            tally.wrong.append(f"{study.name} differs from the undisturbed run in {changed}")
        tally.runs += 1


def undisturbed(home: Path) -> Study:
    """The reference study, run without load."""
    models = [ensure_base_model(), ensure_embedder()]
    os.environ["ASSISTANT_BUILDER_HOME"] = str(home)
    (home / "models").mkdir(parents=True)
    for model in models:
        (home / "models" / model.name).symlink_to(model.resolve())
    study = small_study("undisturbed")
    code, said = run(study)
    if code:
        raise SystemExit(f"the undisturbed run failed: {said}")
    return study


async def watch(process: int, until: float, tally: Tally) -> None:
    """Record the memory of the server and its child processes."""
    server = psutil.Process(process)
    while not tally.memory or time.monotonic() < until:
        tally.memory.append(
            sum(part.memory_info().rss for part in (server, *server.children(recursive=True)))
        )
        await asyncio.sleep(1)


@asynccontextmanager
async def parrots(home: Path) -> AsyncIterator[tuple[str, int]]:
    """Start the page with a study whose assistants repeat the question; yield its address and process id."""
    os.environ["ASSISTANT_BUILDER_HOME"] = str(home)
    study = finished_study(STUDY)
    for arm in ("qlora", "lora"):
        write_text(study.arm_folder(arm) / "adapter" / "adapter_model.safetensors", "feathers")
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        SERVE,
        str(port),
        *parrot_command(home),
        stdout=asyncio.subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(ROOT), "ASSISTANT_BUILDER_MAX_UPLOADS": "10000"},
    )
    try:
        url = f"http://127.0.0.1:{port}"
        async with httpx.AsyncClient(base_url=url, timeout=10) as client:
            for _ in range(3000):
                try:
                    await client.get("/theme.css")
                    break
                except httpx.HTTPError:
                    await asyncio.sleep(0.1)
        yield url, process.pid
    finally:
        process.terminate()
        await process.wait()


async def crowd(
    home: Path, talkers: int, uploaders: int, seconds: float, reference: Study | None = None
) -> Tally:
    """Run all users concurrently, and a training if there is a reference."""
    tally = Tally()
    async with parrots(home) as (url, process):
        until = time.monotonic() + seconds
        await asyncio.gather(
            *(talk(url, number, until, tally) for number in range(talkers)),
            *(bring(url, number, until, tally) for number in range(uploaders)),
            watch(process, until, tally),
            *([train(reference, until, tally)] if reference else []),
        )
    return tally


def _peaks_of_quarters(memory: list[int]) -> list[int]:
    quarter = max(len(memory) // 4, 1)
    return [
        max(memory[first : first + quarter] or memory) for first in range(0, 4 * quarter, quarter)
    ]


def main() -> int:
    """Run the load test and print the results; exit code 1 for any error."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--talkers", type=int, default=20)
    parser.add_argument("--uploaders", type=int, default=5)
    words = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        reference = undisturbed(home)
        tally = asyncio.run(crowd(home, words.talkers, words.uploaders, words.seconds, reference))
    peaks = _peaks_of_quarters(tally.memory)
    slowest, middle = max(tally.seconds), statistics.median(tally.seconds)
    print(
        json.dumps(
            {
                "answers": tally.answers,
                "uploads": tally.uploads,
                "wrong": len(tally.wrong),
                "queue_places_told": tally.places,
                "runs_beside": tally.runs,
                "answer_seconds": {"median": round(middle, 2), "slowest": round(slowest, 2)},
                "memory_mb_of_quarters": [peak // 10**6 for peak in peaks],
            },
            indent=2,
        )
    )
    for sentence in tally.wrong[:20]:
        print(sentence)
    if grows := peaks[-1] > GROWTH * peaks[-2]:
        print(
            f"memory grows: its peak in the last quarter is more than {GROWTH} times that in the one before"
        )
    return 1 if tally.wrong or not tally.answers or grows else 0


if __name__ == "__main__":
    sys.exit(main())
