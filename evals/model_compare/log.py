"""Recorded answers: sample logs of lm-eval, logs of inspect, and ``samples.jsonl`` of a cell of a study."""

from __future__ import annotations

import errno
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assistant_builder.atomic_io import file_hash, parse_json, read_jsonl
from assistant_builder.errors import AssistantBuilderError, DataError
from assistant_builder.i18n import m
from evals.metrics.text import normalise
from evals.model_compare.candidates import MAX_ANSWER, Candidate, Item, Receive, Result

_MOST_BYTES = 512 * 2**20  # of a log, unpacked
_REMEDY = m(
    "Score a generating task with lm-eval --log_samples on exactly these questions, and name its samples_*.jsonl; or "
    "evals/CELL/samples.jsonl of a study that was tested with them"
)


@dataclass(frozen=True)
class _Sample:
    """A recorded answer, and the texts in which its question can be found."""

    texts: tuple[str, ...]
    prompt: str
    answer: str


@dataclass
class LogCandidate(Candidate):
    """A log.

    Attributes:
        path: The file.
    """

    path: Path

    def __post_init__(self) -> None:
        self.kind = "log"

    @property
    def name(self) -> str:
        """The name of the file; of a study's, with that of the cell."""
        name = self.path.name
        return f"{self.path.parent.name}/{name}" if name == "samples.jsonl" else name

    @property
    def gives_loss(self) -> bool:
        """A log of generated answers has none."""
        return False

    def identity(self) -> dict[str, Any]:
        """Size and hash of the file."""
        try:
            if self.path.exists() and not (self.path.is_file() or self.path.is_dir()):
                raise OSError(errno.EINVAL, "it is no file")
            return {"bytes": self.path.stat().st_size, "sha256": file_hash(self.path)}
        except OSError as error:
            raise DataError(
                m("the file cannot be read: {reason}", reason=error.strerror or error),
                where=str(self.path),
                remedy=_REMEDY,
            ) from error

    def score(self, items: Sequence[Item], limit: int, receive: Receive) -> None:
        """Find the answer to each item.

        Raises:
            DataError: The file is no such log, or lacks a question.
        """
        samples = list(_samples(self.path))
        if any(len(sample.answer) > MAX_ANSWER for sample in samples):
            raise DataError(
                m("an answer of the log has more than {most:,} characters", most=MAX_ANSWER),
                where=str(self.path),
                remedy=_REMEDY,
            )
        exact = {text: sample for sample in samples for text in sample.texts}
        missing, found = [], []
        for item in items:
            question = normalise(item["question"])
            sample = exact.get(question) or next(
                (each for each in samples if question and question in each.prompt), None
            )
            if sample is None:
                missing.append(item)
            else:
                found.append(Result(item["item"], sample.answer.strip()))
        if missing:
            raise DataError(
                m(
                    "the log has no answer to {count} of {all} questions, the first of row {row}",
                    count=len(missing),
                    all=len(items),
                    row=missing[0]["row"],
                ),
                where=str(self.path),
                remedy=_REMEDY,
            )
        for result in found:
            receive(result)


def _samples(path: Path) -> Iterator[_Sample]:
    try:
        if path.suffix.lower() == ".jsonl":
            yield from map(_of_line, read_jsonl(path, remedy=_REMEDY))
        else:
            yield from map(_of_inspect, _inspect_samples(path))
    except Exception as error:  # zipfile and the files of others can cause any
        if isinstance(error, AssistantBuilderError) and not isinstance(error, KeyError):
            raise
        raise DataError(
            m(
                "it is no log of generated answers ({error})",
                error=f"{type(error).__name__}: {error}"[:100],
            ),
            where=str(path),
            remedy=_REMEDY,
        ) from error


def _of_line(line: Mapping[str, Any]) -> _Sample:
    if "filtered_resps" in line:
        return _of_lm_eval(line)
    return _Sample((normalise(line["question"]),), "", line["answer"])  # of a study


def _of_lm_eval(line: Mapping[str, Any]) -> _Sample:
    answer = line["filtered_resps"][0]
    if not isinstance(answer, str):  # of log-likelihoods
        raise TypeError("the answers of the task are not texts")
    prompts = [
        str(request.get("arg_0", "")) for request in dict(line.get("arguments") or {}).values()
    ]
    texts = [value for value in dict(line["doc"]).values() if isinstance(value, str)]
    return _Sample(tuple(map(normalise, texts)), normalise(" ".join(prompts)), answer)


def _of_inspect(sample: Mapping[str, Any]) -> _Sample:
    asked = sample["input"]
    turns = [asked] if isinstance(asked, str) else [_text(turn["content"]) for turn in asked]
    answer = _text(sample["output"]["choices"][0]["message"]["content"])
    return _Sample(tuple(map(normalise, turns)), normalise(" ".join(turns)), answer)


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "".join(str(part.get("text", "")) for part in content)


def _inspect_samples(path: Path) -> Iterator[Mapping[str, Any]]:
    if path.suffix.lower() == ".json":
        if path.stat().st_size > _MOST_BYTES:
            raise ValueError("it is too large")
        yield from parse_json(path.read_bytes(), dict[str, Any], str(path), _REMEDY)["samples"]
        return
    with zipfile.ZipFile(path) as archive:
        names = [each for each in archive.infolist() if each.filename.startswith("samples/")]
        if sum(each.file_size for each in names) > _MOST_BYTES:
            raise ValueError("it is too large")
        for each in names:
            yield parse_json(archive.read(each), dict[str, Any], str(path), _REMEDY)
