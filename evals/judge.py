"""An optional judge: a model behind an OpenAI-compatible endpoint says which of two answers is better.

Every item is asked in both orders. Where the two verdicts differ the item is a tie, so a judge that prefers a place
prefers neither assistant. A call that fails excludes its item; it is counted and never scored.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assistant_builder.errors import EvaluationError
from assistant_builder.files import append_jsonl, read_jsonl, write_json, write_jsonl
from assistant_builder.study import Study
from evals.endpoint import PATIENCE, CallFailed, ChatEndpoint, Patience
from evals.judge_prompt import judge_messages, read_choice
from evals.preference import BASELINE, CANDIDATE, Outcome, counts

KEY_VARIABLE = "ASSISTANT_BUILDER_JUDGE_KEY"
"""Environment variable that holds the endpoint's key; it is written nowhere."""
AT_ONCE = 4
"""Items in flight at once; the first goes alone, to see whether the endpoint answers at all."""
GIVE_UP_AFTER = 5
"""Items in a row without a reply after which the endpoint is taken to be gone."""
_POLL_SECONDS = 0.2
_KEPT_REPLY = 500


@dataclass(frozen=True)
class _Question:
    """An item to be judged; ``asked`` is a hash of all that its verdict depends on."""

    item: str
    sample: Mapping[str, Any]
    answers: Mapping[str, str]
    asked: str

    @property
    def identical(self) -> bool:
        return self.answers[BASELINE].strip() == self.answers[CANDIDATE].strip()


def judge_study(
    study: Study, *, on_progress: Callable[[int, int], None] | None = None, patience: Patience = PATIENCE
) -> dict[str, Any]:
    """Have a judge compare the answers of L16 and Q4; writes ``evals/judge.jsonl`` item by item, then ``judge.json``.

    Verdicts on record are kept if model, host, prompt, question, reference and answers are the same; failed items are
    asked again. Identical answers are ties and cost no call.

    Args:
        study: A study whose cells are scored and whose ``eval.judge_url`` is set.
        on_progress: Told how many items are done, and of how many.
        patience: How long the endpoint is waited for.

    Returns:
        What ``judge.json`` holds.

    Raises:
        EvaluationError: The cells have no answers, or the endpoint cannot be reached, refuses, or
            has stopped answering. Verdicts so far are kept.
        Cancelled: The user asked for it; likewise.
    """
    config = study.config.eval
    assert config.judge_url is not None  # whoever asks for judging has looked
    endpoint = ChatEndpoint(config.judge_url, config.judge_model, key=os.environ.get(KEY_VARIABLE), patience=patience)
    questions = _questions(study, endpoint)
    path = study.folder / "evals" / "judge.jsonl"
    path.with_suffix(".json").unlink(missing_ok=True)  # speaks of the verdicts of an earlier run
    lines = _kept(path, questions)
    write_jsonl(path, lines.values())  # also ends a line that a crash left half-written
    for question in questions:
        if question.identical and question.item not in lines:
            lines[question.item] = _line(question, [], "tie", 0.0)
            append_jsonl(path, lines[question.item])
    asyncio.run(_ask_all(study, endpoint, [q for q in questions if q.item not in lines],
                         _Record(path, lines, len(questions), on_progress or _silent)))
    ordered = [lines[question.item] for question in questions]
    write_jsonl(path, ordered)
    record = {"model": endpoint.model, "url_host": endpoint.host, **counts(ordered)}
    write_json(path.with_suffix(".json"), record)
    return record


def _silent(done: int, total: int) -> None:
    pass


# --- which items, and what is known of them already -------------------------------------------------------------------


def _questions(study: Study, endpoint: ChatEndpoint) -> list[_Question]:
    """The items to be judged in file order: a seeded plain sample where there are more than ``eval.judge_items``."""
    config = study.config.eval
    cells = {cell: read_jsonl(study.cell_folder(cell) / "samples.jsonl") for cell in (BASELINE, CANDIDATE)}
    answers = {cell: {s["item"]: s["answer"] for s in samples if s.get("answer") is not None}
               for cell, samples in cells.items()}
    both = [s for s in cells[BASELINE] if s["item"] in answers[BASELINE] and s["item"] in answers[CANDIDATE]]
    if not both:
        raise EvaluationError(
            f"there are no answers of {BASELINE} and {CANDIDATE} to judge", where=f"study {study.name}",
            remedy=f"Keep both in eval.cells and run 'assistant-builder run {study.name}'",
        )
    if len(both) > config.judge_items:
        places = random.Random(config.seed).sample(range(len(both)), config.judge_items)
        both = [both[place] for place in sorted(places)]
    questions = []
    for sample in both:
        given: dict[str, str] = {cell: answers[cell][sample["item"]] for cell in (BASELINE, CANDIDATE)}
        depends = [endpoint.model, endpoint.host, given,
                   judge_messages(sample, given[BASELINE], given[CANDIDATE])]
        digest = hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()
        questions.append(_Question(sample["item"], sample, given, digest[:16]))
    return questions


def _kept(path: Path, questions: Sequence[_Question]) -> dict[str, dict[str, Any]]:
    asked = {question.item: question.asked for question in questions}
    return {
        line["item"]: line for line in read_jsonl(path)
        if line["outcome"] != "failed" and line.get("asked") == asked.get(line["item"])
    }


# --- asking -----------------------------------------------------------------------------------------------------------


class _Record:
    """Keeps each finished item at once, and stops when the endpoint is of no use.

    Args:
        path: ``judge.jsonl``.
        lines: Item → line; filled.
        total: Items in all.
        tell: Told after each item.
    """

    def __init__(
        self, path: Path, lines: dict[str, dict[str, Any]], total: int, tell: Callable[[int, int], None]
    ) -> None:
        self._path, self._lines, self._total, self._tell = path, lines, total, tell
        self._silent_in_a_row = 0
        self.answered = False

    def add(self, line: dict[str, Any], failure: CallFailed | None) -> None:
        self._lines[line["item"]] = line
        append_jsonl(self._path, line)
        silent = failure is not None and failure.kind != "reply"
        self._silent_in_a_row = self._silent_in_a_row + 1 if silent else 0
        self.answered = self.answered or not silent

    def tell(self) -> None:
        self._tell(len(self._lines), self._total)

    def useless(self, failure: CallFailed | None) -> bool:
        """Whether a failure says that the other items would fail as well."""
        if failure is None or failure.kind == "reply":
            return False
        at_first = not self.answered and failure.kind in ("unreachable", "refused")
        return at_first or failure.kind == "key" or self._silent_in_a_row >= GIVE_UP_AFTER


async def _ask_all(study: Study, endpoint: ChatEndpoint, todo: Sequence[_Question], record: _Record) -> None:
    waiting = list(reversed(todo))
    running: set[asyncio.Task[tuple[dict[str, Any], CallFailed | None]]] = set()
    record.tell()
    async with endpoint:
        try:
            while waiting or running:
                study.raise_if_cancelled()
                while waiting and len(running) < (AT_ONCE if record.answered else 1):
                    running.add(asyncio.create_task(_judged(endpoint, waiting.pop())))
                done, running = await asyncio.wait(
                    running, timeout=_POLL_SECONDS, return_when=asyncio.FIRST_COMPLETED
                )
                results = [task.result() for task in done]
                for line, failure in results:
                    record.add(line, failure)
                useless = next((failure for _, failure in results if record.useless(failure)), None)
                if useless is not None:
                    raise _given_up(endpoint, useless)
                if results:
                    record.tell()
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)


async def _judged(endpoint: ChatEndpoint, question: _Question) -> tuple[dict[str, Any], CallFailed | None]:
    """The item's line, and the last call's failure if it failed."""
    began = time.monotonic()
    orders: list[dict[str, Any]] = []
    failure: CallFailed | None = None
    for first, second in ((BASELINE, CANDIDATE), (CANDIDATE, BASELINE)):
        order: dict[str, Any] = {"first": first, "choice": None, "reply": "", "error": None}
        orders.append(order)
        if failure is not None:
            order["error"] = "not asked, because the other order had failed"
            continue
        try:
            reply = await endpoint.ask(judge_messages(
                question.sample, question.answers[first], question.answers[second]
            ))
        except CallFailed as failed:
            failure, order["error"] = failed, failed.words
            continue
        choice = read_choice(reply)
        order |= {"choice": choice, "reply": reply[:_KEPT_REPLY],
                  "error": None if choice else "the reply names no answer, or more than one"}
    return _line(question, orders, _outcome(orders), time.monotonic() - began), failure


def _outcome(orders: Sequence[Mapping[str, Any]]) -> Outcome:
    preferred: set[Outcome] = set()
    for order in orders:
        if order["choice"] is None:
            return "failed"
        other: Outcome = BASELINE if order["first"] == CANDIDATE else CANDIDATE
        preferred.add({"first": order["first"], "second": other, "tie": "tie"}[order["choice"]])
    return preferred.pop() if len(preferred) == 1 else "tie"


def _line(question: _Question, orders: list[dict[str, Any]], outcome: Outcome, seconds: float) -> dict[str, Any]:
    return {"item": question.item, "orders": orders, "outcome": outcome, "asked": question.asked,
            "seconds": round(seconds, 3)}


def _given_up(endpoint: ChatEndpoint, failure: CallFailed) -> EvaluationError:
    what, remedy = {
        "unreachable": ("the judge cannot be reached", "Start its server or correct eval.judge_url"),
        "key": ("the judge refuses the key", f"Put the right one into the environment variable {KEY_VARIABLE}"),
        "refused": (
            f"the judge refuses to answer as {endpoint.model!r}",
            "Check eval.judge_model, and that eval.judge_url ends where /chat/completions begins (often /v1)",
        ),
        "busy": (f"the judge left {GIVE_UP_AFTER} items in a row without a reply", "See to its server"),
    }[failure.kind]
    return EvaluationError(
        f"{what} ({failure.words})", where=f"judge {endpoint.host}",
        remedy=f"{remedy}; running again carries on, and without eval.judge_url there is no judge",
    )
