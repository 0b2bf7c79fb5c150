"""Questions from templates: what the structure of a statement asks, in English, German, French or Spanish.

A table row is asked for each of its cells, a heading that asks is the question of what is below it, and a sentence with
a known verb and a value is asked for that value. Two questions of one subject or section are joined to one. The answer
is a part of the statement in its own words, or the statement. Nothing is drafted where no template fits.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from itertools import pairwise

from assistant_builder.data.similarity import casefold_normalize
from assistant_builder.documents.questions import BETWEEN, DocumentQuestion, QuestionKind
from assistant_builder.documents.statements import sentences
from assistant_builder.documents.types import HEADINGS, Statement

TEMPLATE = "template"
"""Origin of a question from a template."""
_LONGEST_SUBJECT = 9  # words of what a question is about
_PARTNERS = 20  # later questions of one subject with which a question is joined
_LONGEST_SENTENCE = 1_000  # characters; the time that a pattern takes grows with their square
_NUMBER = (
    r"(?:[£$€]? ?\d[\d.,:]*(?: ?[%€£$])?|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|twenty|half"
    r"|zwei|drei|vier|fünf|sechs|sieben|acht|neun|zehn|elf|zwölf|eine[nmrs]?"
    r"|deux|trois|quatre|cinq|sept|huit|neuf|dix|onze|douze|une?"
    r"|dos|tres|cuatro|cinco|seis|siete|ocho|nueve|diez|once|doce|una?)"
)
_ABOUT = (
    r"(?:(?:up to|at most|about|at least|no longer than|bis zu|etwa|jusqu'à|environ|hasta|unos) )?"
)
_TIME = (
    r"(?:minutes?|hours?|days?|weeks?|months?|years?|Minuten?|Stunden?|Tagen?|Tage?|Wochen?|Monaten?|Monate?|Jahren?|Jahre?"
    r"|heures?|jours?|semaines?|mois|ans?|minutos?|horas?|días?|semanas?|meses|mes|años?)"
)
_NOUN = r"(?P<p>\w+(?: (?!and\b|or\b|in\b|on\b|at\b|with\b|und\b|et\b|y\b)\w+)?)"
_PATTERNS: Mapping[str, Sequence[tuple[str, str]]] = {
    "en": (
        (
            r"{s} (?P<x>is|are) (?P<p>open|closed|held|taught|announced|delivered|reviewed|sent|deleted) "
            r"(?P<v>(?:on|in|at|from|each|every) .+)",
            "When {x} {s} {p}?",
        ),
        (r"{s} cost {v}", "How much do {s} cost?"),
        (r"{s} costs {v}", "How much does {s} cost?"),
        (
            r"{s} (?P<x>may|can|must|is|are) (?P<p>[^,;]+?) for (?P<v>{about}{number} {time})\b.*",
            "For how long {x} {s} {p}?",
        ),
        (r"{s} (?:takes|lasts) (?P<v>{about}{number} .+)", "How long does {s} take?"),
        (r"{s} (?:take|last) (?P<v>{about}{number} .+)", "How long do {s} take?"),
        (r"{s} (?P<x>open|close|start|end|stop)s (?P<v>(?:at|on|from) .+)", "When does {s} {x}?"),
        (r"{s} (?P<x>open|close|start|end) (?P<v>(?:at|on|from) .+)", "When do {s} {x}?"),
        (r"{s} takes place (?P<v>(?:on|in|at|from) .+)", "When does {s} take place?"),
        (
            r"{s} (?P<x>is|are) (?P<v>{number} \w+) (?P<p>wide|long|high|deep|thick|old)\b.*",
            "How {p} {x} {s}?",
        ),
        (r"{s} has (?P<v>{number} {noun})(?: .*)?", "How many {p} does {s} have?"),
        (r"{s} have (?P<v>{number} {noun})(?: .*)?", "How many {p} do {s} have?"),
        (
            r"There are (?P<v>{number} {noun}) (?P<s>(?:in|at|on|beside|for) [^,;]+)",
            "How many {p} are there {s}?",
        ),
        (
            r"{s} (?P<x>carr|cover|reach|remove|print|cut|pay|get|need|hold)(?P<e>s|ies|es) "
            r"(?P<v>[^,;]*{number}[^,;]*)",
            "How much does {s} {x}{y}?",
        ),
        (
            r"{s} (?P<x>hang|stand|lie)s? (?P<v>(?:in|at|on|beside|near|next to) .+)",
            "Where can I find {s}?",
        ),
        (
            r"{s} (?P<x>is|are) (?P<p>mounted|kept|stored|found|moved|bought) "
            r"(?P<v>(?:in|at|on|beside|to) .+)",
            "Where {x} {s} {p}?",
        ),
        (r"{s} (?P<x>is|are|was|were) (?P<v>(?:the|an?|{number}) [^,;]+)", "What {x} {s}?"),
        (r"{s} (?P<x>may|can|must|should|is|are|was|were) (?P<r>\w.+)", "What applies to {s}?"),
    ),
    "de": (
        (r"{s} (?P<x>kostet|kosten) (?P<v>.*{number}.*)", "Was {x} {s}?"),
        (r"{s} (?P<x>dauert|dauern) (?P<v>.*{number}.*)", "Wie lange {x} {s}?"),
        (
            r"{s} (?P<x>öffnet|schließt|beginnt|beginnen|endet|öffnen) (?P<v>(?:um|am|ab|an|im) .+)",
            "Wann {x} {s}?",
        ),
        (
            r"{s} (?P<x>ist|sind) (?P<v>{number} \w+) (?P<p>breit|lang|hoch|tief|dick|alt)\b.*",
            "Wie {p} {x} {s}?",
        ),
        (r"{s} (?P<x>hat|haben) (?P<v>{number} (?P<p>\w+))(?: .*)?", "Wie viele {p} {x} {s}?"),
        (
            r"{s} (?P<x>steht|liegt|hängt|befindet sich|stehen|hängen) (?P<v>(?:in|im|am|an|auf|neben|bei|beim) .+)",
            "Wo {x} {s}?",
        ),
        (
            r"{s} (?P<x>darf|dürfen|kann|können|muss|müssen) (?P<r>.+)",
            "Was ist bei „{s}“ zu beachten?",
        ),
    ),
    "fr": (
        (r"{s} (?P<x>coûte|coûtent) (?P<v>.*{number}.*)", "Combien {x} {s} ?"),
        (r"{s} (?P<x>dure|durent) (?P<v>.*{number}.*)", "Combien de temps {x} {s} ?"),
        (
            r"{s} (?P<x>ouvre|ferme|commence|ouvrent|ferment|commencent) (?P<v>(?:à|le|du|dès|en) .+)",
            "Quand {x} {s} ?",
        ),
        (r"{s} (?P<x>a|ont) (?P<v>{number} (?P<p>\w+))(?: .*)?", "Combien de {p} {x} {s} ?"),
        (r"{s} se (?P<x>trouve|trouvent) (?P<v>.+)", "Où se {x} {s} ?"),
        (r"{s} (?P<x>peut|peuvent|doit|doivent) (?P<r>.+)", "Que faut-il savoir sur {s} ?"),
    ),
    "es": (
        (r"{s} (?P<x>cuesta|cuestan) (?P<v>.*{number}.*)", "¿Cuánto {x} {s}?"),
        (r"{s} (?P<x>dura|duran) (?P<v>.*{number}.*)", "¿Cuánto {x} {s}?"),
        (
            r"{s} (?P<x>abre|cierra|empieza|abren|cierran|empiezan) (?P<v>(?:a|el|de|desde|en) .+)",
            "¿Cuándo {x} {s}?",
        ),
        (r"{s} (?P<x>mide|miden) (?P<v>{number} .+)", "¿Cuánto {x} {s}?"),
        (r"{s} (?P<x>está|están) (?P<v>(?:en|al|junto|detrás) .+)", "¿Dónde {x} {s}?"),
        (r"{s} (?P<x>puede|pueden|debe|deben) (?P<r>.+)", "¿Qué hay que saber de {s}?"),
    ),
}
"""Language → sentence and question; ``v`` is the answer, and without it the whole statement is."""
_ROWS = {
    "en": "What is the {column} for {subject}?",
    "de": "{Column} für {subject}?",
    "fr": "{Column} pour {subject} ?",
    "es": "¿{Column} de {subject}?",
}
_COLUMNS: Mapping[str, Sequence[tuple[str, str, str]]] = {
    "en": (
        (r"(?P<x>open|close|start|begin|end)s", ".", "When does the {heading} {x} on {subject}?"),
        (r"prices?|costs?", ".", "How much does {subject} cost?"),
        (r".*\b(?:fee|deposit|charge|price)\b.*", ".", "How much is the {column} for {subject}?"),
        (r"per .+", "[£$€]", "What does {subject} cost {column}?"),
        (r".+", "[£$€]", "What does {subject} cost, {column}?"),
        (r"lengths?|durations?", ".", "How long is the {subject}?"),
        (r"(?P<x>\w+ on)", ".", "When is the {subject} {x}?"),
    ),
    "de": ((r"preise?|kosten", ".", "Was kostet {subject}?"),),
    "fr": ((r"prix|tarifs?", ".", "Combien coûte {subject} ?"),),
    "es": ((r"precios?", ".", "¿Cuánto cuesta {subject}?"),),
}
"""Language → name of a column, what its cell has, and how it is asked for."""
_JOINS = {"en": "and", "de": "und", "fr": "et", "es": "y"}


def _compiled(pattern: str) -> re.Pattern[str]:
    parts = {
        "{s}": r"(?P<s>\S.*?)",
        "{noun}": _NOUN,
        "{number}": _NUMBER,
        "{about}": _ABOUT,
        "{time}": _TIME,
    }
    parts["{v}"] = rf"(?P<v>[^,;]*{_NUMBER}[^,;]*?)(?:[,;] .*)?"
    for name, text in parts.items():
        pattern = pattern.replace(name, text)
    return re.compile(pattern + r"[.!]?")


_COMPILED = {
    code: [(_compiled(pattern), question) for pattern, question in rows]
    for code, rows in _PATTERNS.items()
}


def draft_from_templates(
    statements: Sequence[Statement], language_of: Callable[[str], str], most: int
) -> list[DocumentQuestion]:
    """Questions of statements, in their order, and then those of two statements.

    Args:
        statements: The statements of a study.
        language_of: Code of the language of a text.
        most: Questions of a statement at most.
    """
    common = {
        word.strip(".,;:!?()")
        for each in statements
        for word in each.text.split()
        if word.islower()
    }
    found: list[DocumentQuestion] = []
    parts: list[tuple[str, Statement, DocumentQuestion]] = []
    for place, statement in enumerate(statements):
        code = language_of(f"{statement.heading} {statement.text}")
        code = code if code in _COMPILED else "en"
        alone = all(
            other.heading != statement.heading or other.document != statement.document
            for other in statements[max(0, place - 1) : place + 2]
            if other is not statement
        )
        drafts = []
        for subject, question, answer in _asked(statement, code, common, alone=alone):
            whole = casefold_normalize(answer) == casefold_normalize(statement.answer)
            kind: QuestionKind = "statement" if whole else "part"
            draft = DocumentQuestion(question, answer, (statement.key,), kind, TEMPLATE)
            drafts.append(draft)
            if kind == "part":
                parts.append((f"{code} {casefold_normalize(subject)}", statement, draft))
        found += drafts[:most]
    return [*found, *_of_two(parts)]


def _asked(
    statement: Statement, code: str, common: AbstractSet[str], *, alone: bool
) -> Iterator[tuple[str, str, str]]:
    """Subject, question and answer of each template that fits."""
    last = statement.heading.rpartition(HEADINGS)[2]
    if last.endswith("?") and alone:
        yield last, last, statement.answer
        return
    if statement.kind == "row":
        yield from _of_row(statement, code, common)
        return
    if statement.kind != "text" or ": " in statement.text:
        return
    for place, (start, end) in enumerate(sentences(statement.text)):
        text = statement.text[start:end]
        if len(text) > _LONGEST_SENTENCE:
            continue
        for pattern, template in _COMPILED[code]:
            match = pattern.fullmatch(text)
            if match is None or (place and "v" not in match.groupdict()):
                continue
            groups = match.groupdict()
            subject = _inside(groups["s"].rstrip(". "), common)
            words = subject.casefold().split()
            if not words or (words[0] in _NO_SUBJECT and not template.endswith("there {s}?")):
                break
            if len(words) > _LONGEST_SUBJECT or not _VERBS.isdisjoint(words) or words[-1] == "and":
                continue
            ending = {"ies": "y"}.get(groups.get("e") or "", "")
            question = template.format(**{**groups, "s": subject, "y": ending})
            value = groups.get("v")
            yield subject, question, _FURTHER.sub("", value) if value else statement.answer
            break


_NO_SUBJECT = frozenset(
    """
    it its they their she he this that these those there if when before after on in from at each for by to nobody you
    es sie er das dies wenn vor nach bei in im am für man il elle ils elles si avant après en pour on
    esto eso si antes después en para
    """.split()
)
"""First words of a sentence that does not say what it is about."""
_VERBS = frozenset("is are was were has have may can must ist sind hat est sont es son".split())
_FURTHER = re.compile(r",? and (?:has|have|includes?|runs?|is|are|was|covers?|stays) .*$|[.! ]+$")
"""What follows the value of a sentence."""


def _of_row(
    statement: Statement, code: str, common: AbstractSet[str]
) -> Iterator[tuple[str, str, str]]:
    subject, dash, cells = statement.text.partition(" – ")
    if not dash:
        return
    for cell in cells.split("; "):
        column, colon, value = cell.partition(": ")
        if colon and value and column.strip():
            heading = _inside(statement.heading.rpartition(HEADINGS)[2], common)
            small = column[:1].lower() + column[1:] if column.split()[0].istitle() else column
            named = {"column": small, "Column": column, "heading": heading}
            named["subject"] = _inside(subject, common)
            for pattern, cells_have, template in _COLUMNS.get(code, ()):
                match = re.fullmatch(pattern, column, re.IGNORECASE)
                if match and re.search(cells_have, value):
                    extra = {name: text.lower() for name, text in match.groupdict().items()}
                    yield subject, template.format(**named, **extra), value
                    break
            else:
                yield subject, _ROWS[code].format(**named), value


def _inside(text: str, common: AbstractSet[str]) -> str:
    """A text as it is written within a sentence: its first letter is small where the documents write the word so."""
    first, space, rest = text.strip().partition(" ")
    low = first.lower()
    small = {low, low.removesuffix("s"), f"{low}s"} & common if first.istitle() else set()
    return f"{low}{space}{rest}" if small else text.strip()


def _of_two(parts: Sequence[tuple[str, Statement, DocumentQuestion]]) -> list[DocumentQuestion]:
    """Questions that join those of two statements: of one subject, else of neighbours below one heading."""
    by_subject: dict[str, list[tuple[str, Statement, DocumentQuestion]]] = {}
    for each in parts:
        by_subject.setdefault(each[0], []).append(each)
    couples = [
        (first, second)
        for group in by_subject.values()
        for number, first in enumerate(group)
        for second in group[number + 1 : number + 1 + _PARTNERS]
        if first[2].keys != second[2].keys
    ]
    couples += [
        (first, second)
        for first, second in pairwise(parts)
        if first[2].keys != second[2].keys and first[1].heading == second[1].heading
    ]
    joined: dict[tuple[str, ...], DocumentQuestion] = {}
    for (subject, _, first), (_, _, second) in couples:
        code = subject.partition(" ")[0]
        start = first.question.rstrip("? ")
        rest = second.question.lstrip("¿")
        rest = rest[:1].lower() + rest[1:] if code != "de" else rest
        keys = (*first.keys, *second.keys)
        question = f"{start}, {_JOINS[code]} {rest}"
        answer = f"{first.answer}{BETWEEN}{second.answer}"
        joined.setdefault(keys, DocumentQuestion(question, answer, keys, "two", TEMPLATE))
    return list(joined.values())
