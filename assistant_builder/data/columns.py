"""Mapping of a file's columns to roles: question, answer, conversation and optional columns."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from assistant_builder.data.types import COLUMN_ROLES, SplitName, Table, is_empty
from assistant_builder.errors import DataError
from assistant_builder.i18n import ByPlace, Setting, Text, all_of, joined, m

# Names that belong together, the most common first; compared as normalize_name returns them.
_NAME_PAIRS = [
    tuple(pair.split(":"))
    for pair in """
    question:answer questions:answers prompt:completion prompt:response prompt:answer instruction:output
    instruction:response instruction:answer query:response query:answer question:response input:output input:target
    q:a user:assistant human:gpt human:assistant user:bot source:target frage:antwort pregunta:respuesta
    pergunta:resposta domanda:risposta question:reponse вопрос:ответ 问题:答案 问题:回答 質問:回答
    """.split()
]
_QUESTION_NAMES = dict.fromkeys(
    [question for question, _ in _NAME_PAIRS if question != "source"]
    + "userprompt usermessage userquery inputtext questiontext problem request faq".split()
)
_ANSWER_NAMES = dict.fromkeys(
    [answer for _, answer in _NAME_PAIRS if answer != "target"]
    + """
    reply outputtext answertext bestanswer correctanswer expectedanswer expectedoutput solution assistantresponse
    assistantmessage target chosen
    """.split()
)
_OTHER_NAMES = {
    "group": ["group", "groupid"],
    "cluster": ["cluster", "clusterid"],
    "family": ["family", "familyid"],
    "split": ["split"],
    "answerable": ["answerable", "isanswerable"],
    "system": ["system", "systemprompt", "systemmessage"],
    "context": ["context"],
    "messages": "messages conversations conversation dialogue dialog chat turns".split(),
}
_SPLIT_NAMES: dict[str, SplitName] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev", "development"), "validation"),
    **dict.fromkeys(("heldout", "test", "testing", "eval", "evaluation"), "heldout"),
}
_BOOLEANS = dict.fromkeys("true yes 1 y t".split(), True) | dict.fromkeys(
    "false no 0 n f".split(), False
)
_QUESTION_MARKS = ("?", "？", "؟")
_LONGEST_KNOWN = 100  # characters; a longer name is compared as it is
_LEAST_ASKED = 0.3
_GUESS_ROWS = 200
_MOST_WORDINGS = 20
_NUMBER = re.compile(r"[\d.,:/ -]*")
_PAIRED_NAMES = list(dict.fromkeys(name for names in _NAME_PAIRS for name in names))
_KNOWN_NAMES = {*_PAIRED_NAMES, *_QUESTION_NAMES, *_ANSWER_NAMES}.union(*_OTHER_NAMES.values())


@dataclass(frozen=True)
class ColumnMapping:
    """Role → column name (None where no column has the role), and notes on how the columns were chosen."""

    columns: dict[str, str | None]
    notes: list[Text] = field(default_factory=list)

    def __getitem__(self, role: str) -> str | None:
        return self.columns[role]


def normalize_name(name: str) -> str:
    """A column name in lower case, without accents, whitespace and punctuation: ``Réponse_1 `` → ``reponse1``."""
    # the time of the decomposition is quadratic in the number of combining marks
    if len(name) > _LONGEST_KNOWN:
        return name
    decomposed = unicodedata.normalize("NFKD", name).casefold()
    return "".join(character for character in decomposed if character.isalnum())


def is_known_column(name: str) -> bool:
    """Whether question-answer files commonly have a column of this name."""
    return normalize_name(name) in _KNOWN_NAMES


def parse_split(value: str) -> SplitName | None:
    """The split that a name stands for (``Test``, ``held-out`` → heldout, ``dev`` → validation), or None."""
    return _SPLIT_NAMES.get(normalize_name(value))


def parse_bool(value: str) -> bool | None:
    """True/false, yes/no or 1/0 as bool, None for any other text."""
    return _BOOLEANS.get(value.strip().casefold())


def map_columns(names: Sequence[str], requested: Mapping[str, str] | None) -> ColumnMapping:
    """Map the columns of a file to roles; in ``requested``, the mapping of the user, an empty name disables a role.

    Raises:
        DataError: A requested column or role does not exist, or no question or answer column is found.
    """
    notes: list[Text] = []
    columns = _requested_columns(names, requested or {})
    used = set(columns.values())
    free: dict[str, str] = {}
    for name in names:
        if name in used:
            continue
        normalized = normalize_name(name)
        if normalized in free and is_known_column(name):
            notes.append(
                m(
                    "columns {free!r} and {name!r} differ only in spelling: the first is used",
                    free=free[normalized],
                    name=name,
                )
            )
        free.setdefault(normalized, name)
    if not ({"question", "answer", "messages"} & columns.keys()):
        messages = next((free[name] for name in _OTHER_NAMES["messages"] if name in free), None)
        if not _map_question_and_answer(columns, free, notes) and messages:
            columns["messages"] = messages
        elif messages:
            notes.append(
                m(
                    "column {messages!r} is not used, because question and answer have their own columns",
                    messages=messages,
                )
            )
    if columns.get("messages") is None:
        _map_single(columns, free, "question", _QUESTION_NAMES, notes)
        _map_single(columns, free, "answer", _ANSWER_NAMES, notes)
        _map_context(columns, free, notes)
    for role in ("group", "cluster", "family", "split", "answerable", "system"):
        found = [free[name] for name in _OTHER_NAMES[role] if name in free]
        if role not in columns and found:
            columns[role] = found[0]
    missing = [role for role in ("question", "answer") if not columns.get(role)]
    if missing and not columns.get("messages"):
        options = column_settings(dict.fromkeys(missing, "NAME"))
        raise DataError(
            m(
                "no {roles} column found; the columns are: {names}",
                roles=all_of(missing),
                names=_list_names(names),
            ),
            remedy=m(
                "Choose the columns ({options}), or name them question and answer in a header row",
                options=options,
            ),
        )
    return ColumnMapping({role: columns.get(role) or None for role in COLUMN_ROLES}, notes)


def automatic_roles(names: Sequence[str]) -> dict[str, str]:
    """Role → column, by the names alone; without question and answer if no column is named so."""
    try:
        roles = map_columns(names, None).columns
    except DataError:
        roles = {
            role: next((name for name in names if normalize_name(name) in known), None)
            for role, known in _OTHER_NAMES.items()
            if role not in ("context", "messages")
        }
    return {role: name for role, name in roles.items() if name}


def guess_columns(table: Table) -> dict[str, str] | None:
    """Question and answer column by the content of the first rows; None if nothing suggests them.

    Questions end with a question mark, or are the shorter one of two columns of text; the answer is the longest text,
    which may repeat, because a question has several wordings.
    """
    rows = [row.cells for row in table.rows if row.cells is not None][:_GUESS_ROWS]
    texts = {
        name: [str(cells[name]) for cells in rows if not is_empty(cells.get(name))]
        for name in table.columns
    }
    length = {
        name: sum(len(text) for text in found) / len(found)
        for name, found in texts.items()
        if len(set(found)) * _MOST_WORDINGS > len(rows)
        and not all(_NUMBER.fullmatch(text) for text in found)
    }
    shares = {
        name: sum(text.rstrip().endswith(_QUESTION_MARKS) for text in texts[name])
        / len(texts[name])
        for name in length
        if len(set(texts[name])) * 2 > len(rows)
    }
    if len(length) < 2 or not shares:
        return None
    question = max(shares, key=lambda name: shares[name])
    if shares[question] < _LEAST_ASKED:
        if len(length) > 2:
            return None
        question = min(shares, key=lambda name: length[name])
    answer = max((name for name in length if name != question), key=lambda name: length[name])
    return {"question": question, "answer": answer}


def _requested_columns(names: Sequence[str], requested: Mapping[str, str]) -> dict[str, str]:
    problems = [
        m("{role!r} is not a role (roles: {names})", role=role, names=", ".join(COLUMN_ROLES))
        for role in requested
        if role not in COLUMN_ROLES
    ]
    columns: dict[str, str] = {}
    for role, name in requested.items():
        columns[role] = name
        if name and name not in names:
            similar = [other for other in names if normalize_name(other) == normalize_name(name)]
            if len(similar) != 1:
                problems.append(
                    m("{role} is mapped to {name!r}, which is not a column", role=role, name=name)
                )
            columns[role] = (similar or [name])[0]
    if columns.get("messages") and (columns.get("question") or columns.get("answer")):
        problems.append(
            m(
                "messages is mapped together with question or answer: a row is either a pair or a conversation"
            )
        )
    if columns.get("question") and columns.get("question") == columns.get("answer"):
        problems.append(
            m("question and answer are both mapped to {question!r}", question=columns["question"])
        )
    if problems:
        raise DataError(
            joined(problems, "; "), remedy=m("The columns are: {names}", names=_list_names(names))
        )
    return columns


def _map_question_and_answer(
    columns: dict[str, str], free: dict[str, str], notes: list[Text]
) -> bool:
    present = [names for names in _NAME_PAIRS if names[0] in free and names[1] in free]
    if not present:
        return False
    question, answer = present[0]
    columns["question"], columns["answer"] = free[question], free[answer]
    chosen = m(
        "question is {free!r} and answer is {free2!r}", free=free[question], free2=free[answer]
    )
    context = {"input"} if question in ("instruction", "prompt") else set()
    alternatives = [
        all_of((repr(free[q]), repr(free[a])))
        for q, a in present[1:]
        if not {q, a} & ({question, answer} | context)
    ]
    ignored = {question, answer, "source", "target", *context}
    unused = [free[name] for name in _PAIRED_NAMES if name in free and name not in ignored]
    if alternatives:
        notes.append(
            m(
                "{chosen}, the more common names; alternatives: {names}",
                chosen=chosen,
                names=joined(alternatives, "; "),
            )
        )
    elif unused:
        notes.append(
            m(
                "{chosen}, names that belong together; not used: {names}",
                chosen=chosen,
                names=", ".join(map(repr, sorted(unused))),
            )
        )
    return True


def _map_single(
    columns: dict[str, str],
    free: dict[str, str],
    role: str,
    known: Iterable[str],
    notes: list[Text],
) -> None:
    if role in columns:
        return
    matches = [free[name] for name in known if name in free and free[name] not in columns.values()]
    if matches:
        columns[role] = matches[0]
        notes.append(
            m(
                "{role} is {column!r}, the more common name; not used: {others}",
                role=role,
                column=matches[0],
                others=", ".join(map(repr, matches[1:])),
            )
            if matches[1:]
            else m("{role} is {column!r}", role=role, column=matches[0])
        )


def _map_context(columns: dict[str, str], free: dict[str, str], notes: list[Text]) -> None:
    """Map Alpaca's ``input`` or Dolly's ``context``, without which the question is incomplete."""
    if "context" in columns or "question" not in columns:
        return
    names = (
        ["input", "context"]
        if normalize_name(columns["question"]) == "instruction"
        else ["context"]
    )
    matches = [free[name] for name in names if name in free and free[name] not in columns.values()]
    if matches:
        columns["context"] = matches[0]
        notes.append(
            m(
                "column {found!r} is appended to the question (disable with {data.columns.context=''})",
                found=matches[0],
            )
        )


def column_settings(columns: Mapping[str, str]) -> ByPlace:
    """The settings that map columns (role → name), as commands take and the page lists them."""
    settings = [Setting(f"data.columns.{role}", name, flag=True) for role, name in columns.items()]
    return ByPlace(joined(settings), all_of(settings))


def _list_names(names: Sequence[str]) -> Text:
    shown = ", ".join(name if len(name) <= 40 else name[:39] + "…" for name in names[:30])
    if len(names) > 30:
        return m("{names} and {number} more", names=shown, number=len(names) - 30)
    return shown or m("none")
