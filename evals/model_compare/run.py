"""Run a comparison: declare, score what is missing, decide, report. A run that stops goes on with the same command."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from assistant_builder.atomic_io import append_jsonl, read_json, read_jsonl, write_json, write_jsonl
from assistant_builder.config import slug
from assistant_builder.data import Pair
from assistant_builder.errors import ConfigError, StudyError
from assistant_builder.i18n import Text, m
from assistant_builder.study import home
from assistant_builder.study.containment import check_folder, is_plain_name, path_inside
from assistant_builder.study.contents import PairLine
from assistant_builder.study.locks import folder_lock
from evals.declaration import Declaration, HeldOut, json_hash
from evals.model_compare.candidates import Candidate, Item, Result
from evals.model_compare.declare import (
    Record,
    answer_limit,
    declaration_hash,
    difference_text,
    freeze,
    inputs_of,
    prompt_differences,
    settings_of,
)
from evals.model_compare.endpoint import sampling
from evals.model_compare.parse import parse_candidates
from evals.model_compare.questions import build_items, read_questions
from evals.model_compare.report import build_report, write_report
from evals.model_compare.verdict import compare
from evals.report.rules import Rules

FOLDER, FILE, REPORT = "judgements", "judgement.json", "report.json"
QUESTIONS = "questions.jsonl"  # the pairs of the file
Tell = Callable[[Text], None]
"""Receives what happens, one sentence each."""


def judgements_folder() -> Path:
    """The folder that contains the folders of comparisons."""
    return home() / FOLDER


@dataclass(frozen=True)
class Judgement:
    """A finished comparison.

    Attributes:
        folder: Its folder.
    """

    folder: Path

    @cached_property
    def report(self) -> dict[str, Any]:
        """The content of ``report.json``."""
        found: dict[str, Any] = read_json(self.folder / REPORT)
        return found

    @property
    def verdicts(self) -> list[dict[str, Any]]:
        """The verdict on each candidate, against the reference."""
        return list(self.report["verdicts"])

    @property
    def outcomes(self) -> list[str]:
        """Their outcomes; a candidate without a verdict is ``inconclusive``."""
        found = {verdict["cell"]: verdict["outcome"] for verdict in self.verdicts}
        others = [each["letter"] for each in self.report["candidates"][1:]]
        return [found.get(letter, "inconclusive") for letter in others]

    @property
    def sentence(self) -> str:
        """The verdicts in one paragraph."""
        return str(self.report["sentence"])

    def __repr__(self) -> str:
        return f"<Judgement {self.report['name']}: {self.sentence}>"

    def _repr_html_(self) -> str:
        return (self.folder / "report.html").read_text(encoding="utf-8")


def judge(
    questions: Path,
    words: Sequence[str],
    *,
    name: str | None = None,
    settings: Mapping[str, Any] | None = None,
    system: str | None = None,
    tell: Tell = lambda text: None,
) -> Judgement:
    """Compare models on questions; the first is the reference. The same call continues one that stopped.

    Args:
        questions: File of questions and reference answers.
        words: The candidates, see :func:`parse_candidates`.
        name: Name of the folder; by default that of the file and a hash of all inputs.
        settings: Settings of the evaluation by dotted key, such as ``eval.margin``.
        system: System prompt for rows without one.
        tell: Receives what happens.

    Raises:
        AssistantBuilderError: An input is damaged or missing, or a candidate stopped answering; what was scored is
            kept.
    """
    config, candidates = settings_of(settings or {}), parse_candidates(words)
    pairs, rejected = read_questions(questions, system)
    items = build_items(pairs)
    inputs = inputs_of(questions, items, candidates, config)
    stem = questions.stem if is_plain_name(questions.stem) else slug(questions.stem)
    folder = judgement_folder(name or f"{stem}-{json_hash(inputs)[:8]}")
    folder.mkdir(parents=True, exist_ok=True)
    busy = StudyError(m("another process works on it"), where=str(folder), remedy=m("Wait for it"))
    with folder_lock(folder, busy):
        record = _record(folder, pairs, items, candidates, config, inputs, tell)
        if rejected:
            tell(m("{count} rows of the file are not used", count=rejected))
        results = {
            each.letter: _results(folder, each, items, record["sampling"]["max_tokens"], tell)
            for each in candidates
        }
        _finish(folder, record, pairs, items, results)
    return Judgement(folder)


def _record(
    folder: Path,
    pairs: Sequence[Pair],
    items: Sequence[Item],
    candidates: Sequence[Candidate],
    config: Any,
    inputs: dict[str, Any],
    tell: Tell,
) -> Record:
    """The declaration of an earlier run of the same inputs, or a new one."""
    path = folder / FILE
    known: Record | None = read_json(path, Record) if path.is_file() else None
    if known is not None:
        if known["inputs"] != inputs or declaration_hash(known) != known["sha256"]:
            raise StudyError(
                m("it was begun with other questions, models or settings, or its file was changed"),
                where=str(path),
                remedy=m("Choose another name with --name NEW, or delete the folder"),
            )
    prompts = prompt_differences(candidates, items)
    for found in prompts:
        tell(difference_text(found))
    if known is not None:
        return known
    drawn = dict(sampling(answer_limit(config, items)))
    record = freeze(folder.name, pairs, candidates, config, inputs, prompts, drawn)
    write_jsonl(folder / QUESTIONS, [pair.to_record() for pair in pairs])
    write_json(path, record)
    return record


def _results(
    folder: Path, candidate: Candidate, items: Sequence[Item], limit: int, tell: Tell
) -> dict[str, Result]:
    """The results of a candidate; those of an earlier run are kept, except errors of a run that stopped."""
    path, done = folder / f"{candidate.letter}.jsonl", folder / f"{candidate.letter}.json"
    lines = read_results(folder, candidate.letter)
    if done.is_file() and any(item["item"] not in lines for item in items):
        raise StudyError(
            m("answers of {letter} are missing", letter=candidate.letter),
            where=str(path),
            remedy=m("Delete the folder, and judge the models again"),
        )
    if not done.is_file():
        lines = {item: result for item, result in lines.items() if result.error is None}
        write_jsonl(path, [result.to_record() for result in lines.values()])
        missing = [item for item in items if item["item"] not in lines]
        values = {"letter": candidate.letter, "name": candidate.name}
        tell(m("{letter} = {name}: {count} questions", count=len(missing), **values))
        began = time.monotonic()

        def receive(result: Result) -> None:
            lines[result.item] = result
            append_jsonl(path, result.to_record())

        candidate.score(missing, limit, receive)
        write_jsonl(path, [lines[item["item"]].to_record() for item in items])
        errors = sum(result.error is not None for result in lines.values())
        write_json(done, {"seconds": time.monotonic() - began, "errors": errors})
    return {item["item"]: lines[item["item"]] for item in items}


def _finish(
    folder: Path,
    record: Record,
    pairs: Sequence[Pair],
    items: Sequence[Item],
    results: Mapping[str, Mapping[str, Result]],
) -> None:
    rules = rules_of(record, pairs)
    names = {each["letter"]: f"{each['letter']} ({each['name']})" for each in record["candidates"]}
    compared = compare(items, results, names, rules, record["level"])
    write_report(folder, build_report(record, items, compared))


def judgement_folder(name: str) -> Path:
    """The folder of a comparison, which need not exist.

    Raises:
        ConfigError: The name is none of a folder.
        StudyError: The folder has links or special files.
    """
    if "/" in name or not is_plain_name(name):
        raise ConfigError(
            m("{name!r} is no name of a comparison", name=name[:200]),
            where="judge",
            remedy=m("Use letters, digits, - and _"),
        )
    folder = path_inside(judgements_folder(), name)
    check_folder(folder)
    return folder


def read_results(folder: Path, letter: str) -> dict[str, Result]:
    """The results of a candidate by item; raises StudyError if the file is damaged."""
    path = path_inside(folder, f"{letter}.jsonl")
    return {each.item: each for each in read_jsonl(path, Result)}


def read_pairs(folder: Path) -> list[Pair]:
    """The pairs of a comparison; raises StudyError if the file is damaged."""
    return [Pair.from_record(line) for line in read_jsonl(folder / QUESTIONS, PairLine)]


def rules_of(record: Mapping[str, Any], pairs: Sequence[Pair]) -> Rules:
    """The rules of a declaration."""
    config = settings_of({})
    declared = Declaration.from_record(record["declared"])
    return Rules(declared, HeldOut.of(pairs, ()), config.eval)
