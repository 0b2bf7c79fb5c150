"""Which column holds the question, which the answer, and which the rest."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from assistant_builder.data.records import COLUMN_ROLES, SplitName
from assistant_builder.errors import DataError

# Names that belong together, the commonest first; each is compared without case, accents, blanks and signs.
_FAMILIES: tuple[tuple[str, str], ...] = (
    ("question", "answer"),
    ("questions", "answers"),
    ("prompt", "completion"),
    ("prompt", "response"),
    ("prompt", "answer"),
    ("instruction", "output"),
    ("instruction", "response"),
    ("instruction", "answer"),
    ("query", "response"),
    ("query", "answer"),
    ("question", "response"),
    ("input", "output"),
    ("input", "target"),
    ("q", "a"),
    ("user", "assistant"),
    ("human", "gpt"),
    ("human", "assistant"),
    ("user", "bot"),
    ("source", "target"),
    ("frage", "antwort"),
    ("pregunta", "respuesta"),
    ("pergunta", "resposta"),
    ("domanda", "risposta"),
    ("question", "reponse"),
    ("вопрос", "ответ"),
    ("问题", "答案"),
    ("问题", "回答"),
    ("質問", "回答"),
)
_QUESTIONS = tuple(dict.fromkeys([*(q for q, _ in _FAMILIES if q != "source"),
    "userprompt", "usermessage", "userquery", "inputtext", "questiontext", "problem", "request", "faq",
]))  # fmt: skip
_ANSWERS = tuple(dict.fromkeys([*(a for _, a in _FAMILIES if a != "target"),
    "reply", "outputtext", "answertext", "bestanswer", "correctanswer", "expectedanswer", "expectedoutput", "solution",
    "assistantresponse", "assistantmessage", "target", "chosen",
]))  # fmt: skip
_OTHERS: dict[str, tuple[str, ...]] = {
    "group": ("group", "groupid"),
    "cluster": ("cluster", "clusterid"),
    "split": ("split",),
    "answerable": ("answerable", "isanswerable"),
    "system": ("system", "systemprompt", "systemmessage"),
    "context": ("context",),
    "messages": ("messages", "conversations", "conversation", "dialogue", "dialog", "chat", "turns"),
}
_SPLIT_NAMES: dict[str, SplitName] = {
    "train": "train", "training": "train",
    "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation",
    "development": "validation",
    "heldout": "heldout", "test": "heldout", "testing": "heldout", "eval": "heldout", "evaluation": "heldout",
}  # fmt: skip
_TRUTH = {
    "true": True, "yes": True, "1": True, "y": True, "t": True,
    "false": False, "no": False, "0": False, "n": False, "f": False,
}  # fmt: skip
_FAMILY_NAMES = tuple(dict.fromkeys(name for family in _FAMILIES for name in family))


@dataclass(frozen=True)
class Roles:
    """Role → column name (None where no column plays it), and what was decided on the way."""

    columns: dict[str, str | None]
    notes: list[str] = field(default_factory=list)

    def __getitem__(self, role: str) -> str | None:
        """The column that plays a role."""
        return self.columns[role]


def plain_name(name: str) -> str:
    """A column name without case, accents, blanks, underscores and other signs: ``Réponse `` → ``reponse``."""
    bare = unicodedata.normalize("NFKD", name).casefold()
    return "".join(character for character in bare if character.isalnum())


def is_known_name(name: str) -> bool:
    """Whether a question-answer file commonly has a column of this name."""
    plain = plain_name(name)
    return plain in _FAMILY_NAMES or plain in _QUESTIONS or plain in _ANSWERS or any(
        plain in names for names in _OTHERS.values()
    )


def canonical_split(value: str) -> SplitName | None:
    """``Test``, ``held-out`` → heldout, ``dev`` → validation …; None for what is no split name."""
    return _SPLIT_NAMES.get(plain_name(value))


def truth(value: str) -> bool | None:
    """True/false, yes/no, 1/0 → bool; None for anything else."""
    return _TRUTH.get(value.strip().casefold())


def find_roles(names: Sequence[str], wanted: Mapping[str, str] | None, where: str) -> Roles:
    """Tell the roles of a file's columns.

    Args:
        names: The columns of the file.
        wanted: Role → column, as the user maps them; an empty name leaves the role out.
        where: What errors call the file.

    Raises:
        DataError: A wanted column or role does not exist, or question and answer are not found.
    """
    notes: list[str] = []
    columns = _wanted(names, wanted or {}, where)
    taken = {name for name in columns.values() if name}
    free: dict[str, str] = {}
    for name in names:
        if name in taken:
            continue
        if plain_name(name) in free and is_known_name(name):
            notes.append(f"columns {free[plain_name(name)]!r} and {name!r} differ in spelling only: the first is taken")
        free.setdefault(plain_name(name), name)
    if not ({"question", "answer", "messages"} & columns.keys()):
        messages = next((free[name] for name in _OTHERS["messages"] if name in free), None)
        if not _take_family(columns, free, notes) and messages:
            columns["messages"] = messages
        elif messages:
            notes.append(f"column {messages!r} is not used, since question and answer have columns of their own")
    if columns.get("messages") is None:
        _take_single(columns, free, "question", _QUESTIONS, notes)
        _take_single(columns, free, "answer", _ANSWERS, notes)
        _take_context(columns, free, notes)
    for role in ("group", "cluster", "split", "answerable", "system"):
        found = [free[name] for name in _OTHERS[role] if name in free]
        if role not in columns and found:
            columns[role] = found[0]
    _check(columns, names, where)
    return Roles({role: columns.get(role) or None for role in COLUMN_ROLES}, notes)


def _wanted(names: Sequence[str], wanted: Mapping[str, str], where: str) -> dict[str, str]:
    problems = [
        f"no such role: {role!r} (there are {', '.join(COLUMN_ROLES)})" for role in wanted if role not in COLUMN_ROLES
    ]
    columns: dict[str, str] = {}
    for role, name in wanted.items():
        exact = name if name in names or not name else None
        alike = [other for other in names if plain_name(other) == plain_name(name)]
        if exact is None and len(alike) != 1:
            problems.append(f"{role} is mapped to {name!r}, which is no column")
        columns[role] = name if exact is not None else (alike or [name])[0]
    if columns.get("messages") and (columns.get("question") or columns.get("answer")):
        problems.append("messages is mapped together with question or answer: a row is either a pair or a conversation")
    used = [name for role, name in columns.items() if name and role in ("question", "answer")]
    if len(used) != len(set(used)):
        problems.append(f"question and answer are both mapped to {used[0]!r}")
    if problems:
        raise DataError("; ".join(problems), where=where, remedy=f"The columns are: {_listed(names)}")
    return columns


def _take_family(columns: dict[str, str], free: dict[str, str], notes: list[str]) -> bool:
    whole = [family for family in _FAMILIES if family[0] in free and family[1] in free]
    if not whole:
        return False
    question, answer = whole[0]
    columns["question"], columns["answer"] = free[question], free[answer]
    used_as_context = {"input"} if question in ("instruction", "prompt") else set()
    others = [
        f"{free[q]!r} and {free[a]!r}" for q, a in whole[1:] if not {q, a} & ({question, answer} | used_as_context)
    ]
    passed = {question, answer, "source", "target", *used_as_context}
    single = [free[name] for name in _FAMILY_NAMES if name in free and name not in passed]
    if others:
        notes.append(
            f"question is {free[question]!r} and answer {free[answer]!r}, the commoner names; {'; '.join(others)} "
            "would have fitted too"
        )
    elif single:
        notes.append(
            f"question is {free[question]!r} and answer {free[answer]!r}, names that go together; not used: "
            f"{', '.join(map(repr, sorted(single)))}"
        )
    return True


def _take_single(
    columns: dict[str, str], free: dict[str, str], role: str, known: tuple[str, ...], notes: list[str]
) -> None:
    if role in columns:
        return
    found = [free[name] for name in known if name in free and free[name] not in columns.values()]
    if found:
        columns[role] = found[0]
        notes.append(f"{role} is {found[0]!r}" + (f", the commoner name; not used: {found[1:]}" if found[1:] else ""))


def _take_context(columns: dict[str, str], free: dict[str, str], notes: list[str]) -> None:
    """Alpaca's ``input`` and Dolly's ``context`` belong to the question: without them the answer has no ground."""
    if "context" in columns or "question" not in columns:
        return
    names = ["context"]
    if plain_name(columns["question"]) == "instruction":
        names.insert(0, "input")
    found = [free[name] for name in names if name in free and free[name] not in columns.values()]
    if found:
        columns["context"] = found[0]
        notes.append(f"column {found[0]!r} is put after the question (leave it out with data.columns.context='')")


def _check(columns: dict[str, str], names: Sequence[str], where: str) -> None:
    missing = [role for role in ("question", "answer") if not columns.get(role)]
    if columns.get("messages") or not missing:
        return
    sets = " ".join(f"--set data.columns.{role}=NAME" for role in missing)
    raise DataError(
        f"no column for {' and '.join(missing)} found among: {_listed(names)}", where=where,
        remedy=f"Say which they are ({sets}), or name them question and answer in a header row",
    )


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(name if len(name) <= 40 else name[:39] + "…" for name in names[:30])
    return (shown or "none") + (f" and {len(names) - 30} more" if len(names) > 30 else "")

