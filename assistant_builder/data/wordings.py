"""Wordings of a fact: whether a test asks known answers in other words, and further wordings for a data file.

Rows of one cluster, or without a cluster of one answer, are wordings of one fact. Where each answer occurs once, a test
needs wordings that a person adds.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from assistant_builder.atomic_io import write_text
from assistant_builder.data.columns import normalize_name
from assistant_builder.data.csv_reader import escape_formula, unescape_formula
from assistant_builder.data.edit import NO_NUMBERS, conversation, free_name, write_rows
from assistant_builder.data.one_wording import LEAST_WORDINGS
from assistant_builder.data.reading_process import load_pairs, load_rows, read_table
from assistant_builder.data.similarity import NearDuplicateIndex, casefold_normalize
from assistant_builder.data.types import Pair, RawRow, RowNumbers, is_empty
from assistant_builder.data.units import answers_occur_once, fact_of
from assistant_builder.errors import DataError
from assistant_builder.i18n import N_, Text, m, t, tn

_MAX_CHARACTERS = 400
_NEAR = 0.8
_YES = {"yes", "y", "true", "1", "x", "ja", "oui", "si", "ok"}
_FILE_REMEDY = (
    "Use a column with the new question, and a column with the answer, the known question or the row "
    "number that it belongs to"
)
DRAFT_COLUMNS = ("accept", "question", "row", "known question", "answer")
"""Columns of a file of drafts; a row is used if ``accept`` says yes."""


# Whether a test can show what was taught

ADDED_LATER = N_("After the test, its answers are added to what the assistant looks up.")
"""What becomes of answers that only the test has, where the assistant looks facts up and its index is completed."""


@dataclass(frozen=True)
class WordingCount:
    """Facts of a split, and how many of its test questions have an answer that training has.

    Attributes:
        facts: Facts that are answered, not declined.
        single: Facts with one wording.
        test: Test questions that are answered, without respelled ones.
        known: Test questions whose fact is in training in another wording.
        grouped: Whether the rows have groups, which are never divided.
        respelled: Questions of training that the test asks respelled, because there are no other wordings.
    """

    facts: int
    single: int
    test: int
    known: int
    grouped: bool = False
    respelled: int = 0

    @property
    def occurs_once(self) -> bool:
        """Whether most answers occur once."""
        return 2 * self.single > self.facts

    @property
    def holds_facts_out(self) -> bool:
        """Whether the test asks for answers that training does not have, as a given split can."""
        return self.known < self.test

    @property
    def title(self) -> str:
        """The finding in a few words."""
        if self.single == self.facts:
            return t("Each answer occurs once")
        return t("{single:,} of {facts:,} answers occur once", single=self.single, facts=self.facts)

    @property
    def meaning(self) -> str:
        """What a test on the file can show, in two sentences."""
        if self.holds_facts_out:
            asked = tn(
                "The test asks {test:,} questions, and only {count} of their answers is among those of training.",
                "The test asks {test:,} questions, and only {count} of their answers are among those of training.",
                self.known,
                test=self.test,
            )
            if not self.known:
                asked = t(
                    "The test asks {test:,} questions, and none of their answers is among those of training.",
                    test=self.test,
                )
            shows = t(
                "It shows what the assistant does with unknown questions, and not how many of your {facts:,} "
                "answers it gives.",
                facts=self.facts,
            )
            return f"{asked} {shows}"
        kept = t("The assistant is trained on all of them.")
        others = self.facts - self.single
        if self.respelled and others:
            shows = tn(
                "{count} answer has other wordings, which is too few for a test, so they are trained: the test asks "
                "questions of the file, respelled.",
                "{count} answers have other wordings, which is too few for a test, so they are trained: the test asks "
                "questions of the file, respelled.",
                others,
            )
        elif self.respelled:
            shows = t(
                "The file has no other wordings, so nothing is tested in other words: the test asks "
                "questions of the file, respelled."
            )
        else:
            shows = tn(
                "The test asks {count} question in other words.",
                "The test asks {count} questions in other words.",
                self.test,
            )
        return f"{kept} {shows}"

    @property
    def remedy(self) -> str:
        """What helps; empty if the test has enough other wordings."""
        if self.holds_facts_out:
            text = t(
                "Add other wordings of the questions: then known answers are asked for in words that are new."
            )
        elif self.test < LEAST_WORDINGS:
            text = t(
                "Type about ten questions as people would ask them (“Add other wordings”): they become the test."
            )
        else:
            return ""
        if self.grouped:
            text += " " + t("Rows of one group stay together, so map no group column.")
        return text

    def to_record(self) -> dict[str, Any]:
        """The counts and messages for JSON."""
        record = {**asdict(self), "occurs_once": self.occurs_once}
        if self.occurs_once:
            record |= {"title": self.title, "meaning": self.meaning, "remedy": self.remedy}
        return record


def count_wordings(split: Mapping[str, Any]) -> WordingCount | None:
    """The counts of ``Split.to_record()``; None for the ``split.json`` of an earlier version."""
    if not split.get("facts"):
        return None
    facts = {name: split["facts"][name] for name in ("facts", "single", "test", "known")}
    return WordingCount(
        **facts,
        grouped=split["units"]["kind"] == "group",
        respelled=(split.get("respelled") or {}).get("heldout", 0),
    )


# Wordings to be looked over


@dataclass(frozen=True)
class Wording:
    """A further question for the fact of a row; ``doubt`` is why it should be looked at, or empty."""

    row: int
    question: str
    doubt: Text = ""


def match_wordings(
    pairs: Sequence[Pair], cells: Iterable[tuple[str, str]], numbers: RowNumbers = NO_NUMBERS
) -> tuple[list[Wording], list[str]]:
    """Match new questions to the rows of a file.

    Args:
        pairs: The usable pairs of the file.
        cells: New question and what it belongs to: the answer, the known question or the shown number of a row.
        numbers: The row numbers of the file.

    Returns:
        The wordings, without those that the file already has, and the new questions that match no row.
    """
    rows: dict[str, Pair] = {str(numbers.shown(pair.row)): pair for pair in pairs}
    single = [pair for pair in reversed(pairs) if pair.turns == 1]
    rows |= {casefold_normalize(pair.question): pair for pair in single}
    # an answer is the more certain reference
    rows |= {casefold_normalize(pair.answer): pair for pair in single}
    wordings, unmatched = [], []
    for question, reference in cells:
        match = rows.get(casefold_normalize(reference))
        if match is None:
            unmatched.append(question)
        else:
            wordings.append(Wording(match.row, " ".join(question.split())))
    return check_wordings(pairs, wordings), unmatched


_HEADERS = re.compile(
    "wording|variant|phras|synonym|also|they say|asked|question|frage|pregunta|formul",
    re.IGNORECASE,
)
"""Parts of the title of a column with other wordings."""
_BETWEEN = re.compile(r"[\n;|]|(?<=\?)\s+")
"""What is between several wordings in one cell."""


def wordings_in_columns(
    source: Path, pairs: Sequence[Pair], columns: Mapping[str, str] | None = None
) -> tuple[list[str], list[Wording]]:
    """Other wordings in columns that have no role: their titles, and the wordings that the file does not have yet.

    A column has wordings if its title says so or half of its cells are questions, and most of them have two words.

    Args:
        source: The data file.
        pairs: Its usable pairs; other rows are left out.
        columns: Role → column, as in ``data.columns``.

    Raises:
        DataError: The file cannot be read.
    """
    table, mapping = load_rows(source, columns)
    titles, found = [], []
    usable = {pair.row for pair in pairs}
    for name in table.columns:
        cells = [
            (raw.row, str(raw.cells[name]).strip())
            for raw in table.rows
            if raw.cells is not None and not is_empty(raw.cells.get(name))
        ]
        asking = sum(cell.endswith("?") for _, cell in cells)
        if (
            name in mapping.columns.values()
            or 2 * sum(len(cell.split()) > 1 for _, cell in cells) <= len(cells)
            or not (_HEADERS.search(name) or 2 * asking > len(cells))
        ):
            continue
        titles.append(name)
        found += [
            Wording(row, " ".join(text.split()))
            for row, cell in cells
            if row in usable
            for text in _BETWEEN.split(cell)
            if text.strip()
        ]
    return titles, check_wordings(pairs, found)


def check_wordings(pairs: Sequence[Pair], wordings: Iterable[Wording]) -> list[Wording]:
    """Remove the wordings that the file already has, and mark those that are doubtful."""
    by_row = {pair.row: pair for pair in pairs}
    known = {casefold_normalize(pair.question) for pair in pairs}
    kept: list[Wording] = []
    for wording in wordings:
        key = casefold_normalize(wording.question)
        if key and key not in known:
            known.add(key)
            doubt = _doubt(wording.question, by_row[wording.row])
            kept.append(replace(wording, doubt=doubt))
    return kept


def _doubt(question: str, pair: Pair) -> Text:
    if len(question) > _MAX_CHARACTERS:
        return m("very long")
    if casefold_normalize(question) == casefold_normalize(pair.answer):
        return m("this is the answer")
    near = NearDuplicateIndex([pair.question, question], _NEAR)
    near.add(0)
    return m("nearly the same words") if near.nearest(1) else ""


def parse_wordings(text: str) -> list[tuple[str, str]]:
    """Pasted lines, each a new question and, after a tab (or the separator of a CSV file), what it belongs to.

    Raises:
        DataError: A line has one column only.
    """
    lines = [line for line in text.replace("\r\n", "\n").splitlines() if line.strip()]
    separator = next(
        (sign for sign in ("\t", ";", "|", ",") if all(sign in line for line in lines)), None
    )
    if not lines or separator is None:
        raise DataError(
            m("nothing was pasted")
            if not lines
            else m("not every line has a question and its answer"),
            remedy=m(
                "Write one new question per line and its answer after a tab, as copied from a spreadsheet"
            ),
        )
    rows = list(csv.reader(io.StringIO("\n".join(lines), newline=""), delimiter=separator))
    return [
        (cells[0].strip(), cells[1].strip())
        for cells in rows
        if len(cells) > 1 and cells[0].strip()
    ]


def read_wordings(path: Path) -> list[tuple[str, str]]:
    """New questions of a file and what they belong to; of a file of drafts only those that were accepted.

    Raises:
        DataError: The file cannot be read, or has no such columns.
    """
    table = read_table(path)
    names = {normalize_name(name): name for name in table.columns}
    cells = [
        {key: unescape_formula(str(cell)) for key, cell in row.cells.items() if not is_empty(cell)}
        for row in table.rows
        if row.cells is not None
    ]
    accept, number = names.get("accept"), names.get("row")
    if accept is not None:
        cells = [row for row in cells if row.get(accept, "").strip().casefold() in _YES]
    if number is not None and "question" in names:
        return [
            (row[names["question"]], row[number])
            for row in cells
            if names["question"] in row and number in row
        ]
    try:
        return [(pair.question, pair.answer) for pair in load_pairs(path).pairs]
    except DataError as error:
        raise DataError(error.what, where=error.where, remedy=m(_FILE_REMEDY)) from error


def write_drafts(
    path: Path, pairs: Sequence[Pair], wordings: Sequence[Wording], numbers: RowNumbers = NO_NUMBERS
) -> None:
    """Write wordings as a CSV file, in which a person accepts them."""
    by_row = {pair.row: pair for pair in pairs}
    out = io.StringIO(newline="")
    writer = csv.writer(out)
    writer.writerow(DRAFT_COLUMNS)
    for wording in wordings:
        pair = by_row[wording.row]
        cells = (wording.question, str(numbers.shown(wording.row)), pair.question, pair.answer)
        writer.writerow(["", *map(escape_formula, cells)])
    write_text(path, "\ufeff" + out.getvalue())  # by the mark spreadsheet programs recognize UTF-8


# The file with them


def add_wordings(
    source: Path,
    accepted: Sequence[Wording],
    target: Path,
    columns: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Write a copy of a data file with the accepted wordings as rows of the clusters of their facts.

    A new row has all cells of its fact but the question. Where the file gives the split, it is that of training, or of
    the test if that has no rows and the answers occur once. Every fact gets a cluster if it has none.

    Args:
        source: The data file; it is not changed.
        accepted: Wordings of its rows.
        target: The new ``.jsonl`` file.
        columns: Role → column of the source, as in ``data.columns``.

    Returns:
        The ``columns`` for reading the new file.

    Raises:
        DataError: The source cannot be read.
    """
    table, mapping = load_rows(source, columns)
    pairs = {pair.row: pair for pair in load_pairs(source, columns=columns).pairs}
    new_columns = dict(columns or {})
    cluster = mapping["cluster"]
    if cluster is None:
        cluster = free_name("cluster", table.columns)
        new_columns["cluster"] = cluster
    names: dict[str, str] = {}
    rows: list[RawRow] = []
    for raw in table.rows:
        fact = fact_of(pairs[raw.row]) if raw.row in pairs else None
        if raw.cells is not None and fact is not None and is_empty(raw.cells.get(cluster)):
            name = names.setdefault(fact, f"row {table.numbers.shown(raw.row)}")
            raw = RawRow(raw.row, {**raw.cells, cluster: name})
        rows.append(raw)
    known = [pair for pair in pairs.values() if pair.split == "train"]
    missing = answers_occur_once(known) and not any(
        pair.split == "heldout" for pair in pairs.values()
    )
    by_number = {raw.row: raw.cells for raw in rows}
    last = rows[-1].row
    for number, wording in enumerate(accepted, start=last + 1):
        cells, pair = dict(by_number[wording.row] or {}), pairs[wording.row]
        if mapping["messages"]:
            cells[mapping["messages"]] = conversation(
                None if mapping["system"] else pair.system, wording.question, pair.answer
            )
        else:
            assert mapping["question"] is not None  # load_rows requires it without messages
            cells[mapping["question"]] = wording.question
        if mapping["split"] and not is_empty(cells.get(mapping["split"])):
            cells[mapping["split"]] = "test" if missing else "train"
        rows.append(RawRow(number, cells))
    write_rows(rows, target, table.numbers)
    return new_columns


# Drafting

_ECHO = re.compile("(?:answer is|customer (?:asks|asking)):?", re.IGNORECASE)
"""Parts of the prompt, which a small model repeats."""

Ask = Callable[[str], str]
"""A model: prompt → reply."""


def draft_prompt(pair: Pair, number: int) -> str:
    """The prompt that asks a model for other wordings of the question of a pair."""
    return (
        f"A customer asks: {pair.question}\nThe answer is: {pair.answer}\n\nWrite {number} other ways in which a "
        "customer could ask for this answer, in the language of the question and in other words. One question per "
        "line, no numbers, nothing else."
    )


def parse_drafts(reply: str, pair: Pair, number: int) -> list[Wording]:
    """The questions of a model's reply, at most ``number``."""
    wordings = []
    for line in reply.splitlines():
        text = line.strip().lstrip("-*•0123456789.) ").strip().strip("\"“”'«»").strip()
        if len(text.split()) > 1 and not text.endswith(":") and not _ECHO.search(text):
            wordings.append(Wording(pair.row, text))
    return wordings[:number]


def pairs_to_word(pairs: Sequence[Pair]) -> list[Pair]:
    """One pair of each fact with one wording."""
    facts = Counter(fact_of(pair) for pair in pairs)
    return [pair for pair in pairs if (fact := fact_of(pair)) is not None and facts[fact] == 1]
