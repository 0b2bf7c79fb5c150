"""What a check of a data file found, as messages for page and command line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from assistant_builder.data.units import has_given_split, too_few_units
from assistant_builder.i18n import Message, Rows, Text, capitalized, joined, m, mn, written

if TYPE_CHECKING:
    from assistant_builder.data.validate import Findings

Severity = Literal["error", "warning", "info"]
_MAX_PROBLEM_ROWS = 100
_SMALL_DATASET = 100
_SEVERITY_ORDER: dict[Severity, int] = {"error": 0, "warning": 1, "info": 2}


class Problem(TypedDict):
    """One finding as a message for page and command line."""

    severity: Severity  # error: a study cannot start; warning: rows were left out or need a review
    title: Text  # with the count
    detail: Text  # meaning and consequence
    rows: list[int]  # the first ones


def problems_of(findings: Findings) -> list[Problem]:
    """All findings as messages, errors first."""
    found = [
        *_row_problems(findings),
        *_content_problems(findings),
        *_split_and_reading_problems(findings),
    ]
    return sorted(found, key=lambda problem: _SEVERITY_ORDER[problem["severity"]])


def _problem(severity: Severity, title: Text, detail: Text, rows: Iterable[int] = ()) -> Problem:
    rows = sorted(rows)[:_MAX_PROBLEM_ROWS]
    return {"severity": severity, "title": title, "detail": detail, "rows": rows}


def problem_record(problem: Problem) -> dict[str, Any]:
    """A finding in English, and the records of its messages."""
    title, detail = written(problem["title"]), written(problem["detail"])
    said = {"title": title[1], "detail": detail[1]}
    return {**problem, "title": title[0], "detail": detail[0], "said": said}


def _row_problems(findings: Findings) -> Iterable[Problem]:
    usable = findings.usable
    if problem := too_few_units(usable):
        what, remedy = problem
        detail = Message("{What}. {remedy}.", {"what": what, "remedy": remedy})
        yield _problem("error", m("A {study} cannot start from this file"), detail)
    elif len(usable) < _SMALL_DATASET:
        title = mn("Only {count} usable pair", "Only {count} usable pairs", len(usable))
        detail = m(
            "A test of this size can only detect large differences; several hundred pairs give a more precise result."
        )
        yield _problem("warning", title, detail)
    rejected = [entry for entry in findings.rejected if entry.row not in findings.too_long]
    if rejected:
        general = [_general_reason(entry.reason) for entry in rejected]
        messages = {written(reason)[0]: reason for reason in general}
        counts = Counter(written(reason)[0] for reason in general).most_common(4)
        reasons = joined(
            (
                Message("{reason} ({number:,})", {"reason": messages[reason], "number": number})
                for reason, number in counts
            ),
            "; ",
        )
        title = mn("{count} row cannot be used", "{count} rows cannot be used", len(rejected))
        detail = m("Left out: {reasons}.", reasons=reasons)
        yield _problem("warning", title, detail, (entry.row for entry in rejected))
    if unanswered := findings.unanswered:
        title = mn(
            "{count} question without an answer",
            "{count} questions without an answer",
            len(unanswered),
        )
        detail = m(
            "Whoever asks one gets the answer of the nearest row, which is wrong. Write an answer, or mark it as a "
            "question to decline."
        )
        yield _problem("warning", title, detail, unanswered)
    if too_long := findings.too_long:
        words = too_long_words(too_long, findings.max_pair_tokens or 0)
        yield _problem("warning", *words, too_long)
    if copies := findings.exact_duplicates:
        title = mn("{count} exact duplicate", "{count} exact duplicates", len(copies))
        detail = m(
            "Question and answer are identical to those of an earlier row. The first row is kept, and its copies "
            "are left out."
        )
        yield _problem("warning", title, detail, (copy.row for copy in copies))


def too_long_words(too_long: Mapping[int, int], limit: int) -> tuple[Text, Text]:
    """Title and detail of rows (→ tokens) that are longer than the ``limit`` tokens that are read."""
    row = max(too_long, key=lambda row: too_long[row])
    return (
        mn(
            "{count} row is longer than the model reads",
            "{count} rows are longer than the model reads",
            len(too_long),
        ),
        m(
            "Row {row} has {tokens:,} tokens with what its prompt needs, and at most {limit:,} are read. Such rows "
            "are left out: shorten them, set {train.max_length=auto}, or choose a base model with a longer context.",
            row=Rows((row,)),
            tokens=too_long[row],
            limit=limit,
        ),
    )


def _content_problems(findings: Findings) -> Iterable[Problem]:
    if findings.is_foreign:
        detail = m(
            "The bundled base model knows English: in another language its answers are wrong more often. Set "
            "{model.base} to a multilingual model, and ask your own questions before visitors do."
        )
        yield _problem("warning", m("The data are not in English"), detail)
    if near := findings.near_duplicates:
        first = near[0]
        title = mn("{count} near-duplicate question", "{count} near-duplicate questions", len(near))
        detail = m(
            "They are similar to an earlier question (similarity {threshold:g} or more), for example row {row}, "
            "{question}, and row {of}, {other}. They are kept; a test question that is similar to a training "
            "question counts as a leak.",
            threshold=findings.threshold,
            row=Rows((first.row,)),
            question=_quote(first.question),
            of=Rows((first.of,)),
            other=_quote(first.other),
        )
        yield _problem("warning", title, detail, (entry.row for entry in near))
    if conflicts := findings.conflicts:
        title = mn(
            "{count} question with conflicting answers",
            "{count} questions with conflicting answers",
            len(conflicts),
        )
        detail = m(
            "Rows {rows} give different answers to {question}. Both are kept, and either may be "
            "given: edit or delete the wrong one.",
            rows=[Rows((row,)) for row in conflicts[0].rows[:5]],
            question=_quote(conflicts[0].text),
        )
        yield _problem("warning", title, detail, (row for each in conflicts for row in each.rows))
    if declining := findings.declining:
        title = mn("{count} answer that declines", "{count} answers that decline", len(declining))
        detail = m(
            "Such a question counts as one that the data answer, and an assistant that rightly declines it counts as "
            "wrong. Questions to decline have “no” in a column {column}.",
            column='"answerable"',
        )
        yield _problem("warning", title, detail, declining)
    if words := findings.one_word_answers:
        title = mn("{count} one-word answer", "{count} one-word answers", len(words))
        detail = m("They are kept. A test counts them as right only with the same word.")
        yield _problem("warning", title, detail, words)
    for kind, odd in findings.odd_texts.items():
        title = mn("{count} row: {kind}", "{count} rows: {kind}", len(odd), kind=m(kind))
        yield _problem("warning", title, m("They are kept unchanged."), odd)
    if answers := findings.answers_shared:
        rows = [row for shared in answers for row in shared.rows]
        title = mn(
            "{count} answer shared by several questions",
            "{count} answers shared by several questions",
            len(answers),
        )
        detail = mn(
            "{count} row in total. This is often intended (several phrasings of one fact), so they are kept and do "
            "not count as leaks.",
            "{count} rows in total. This is often intended (several phrasings of one fact), so they are kept "
            "and do not count as leaks.",
            len(rows),
        )
        yield _problem("info", title, detail, rows)
    if over := findings.over_long:
        title = mn(
            "{count} row longer than {tokens} tokens",
            "{count} rows longer than {tokens} tokens",
            len(over),
            tokens=findings.max_length,
        )
        detail = m(
            "Training leaves them out; the longest has {longest:,} tokens. Set {train.max_length=auto}, or raise it.",
            longest=max(findings.tokens[row] for row in over),
        )
        yield _problem("warning", title, detail, over)


def _split_and_reading_problems(findings: Findings) -> Iterable[Problem]:
    if has_given_split(findings.usable):
        sizes = Counter(pair.split for pair in findings.usable)
        shown = ", ".join(f"{split} {count:,}" for split, count in sorted(sizes.items(), key=str))
        detail = m("It is used as given: {shown}.", shown=shown)
        yield _problem("info", m("The file specifies the split"), detail)
    if groups := findings.straddling_groups:
        title = mn(
            "{count} group on both sides of the given split",
            "{count} groups on both sides of the given split",
            len(groups),
        )
        detail = m(
            "For example {groups}. The split is used as given; the test may be too optimistic.",
            groups=", ".join(map(_quote, groups[:3])),
        )
        yield _problem("warning", title, detail)
    for change, rows in findings.dataset.changes.items():
        title = mn("{count} row: {kind}", "{count} rows: {kind}", len(rows), kind=m(change))
        yield _problem("info", title, "", rows)
    for note in findings.dataset.notes:
        yield _problem("info", capitalized(note), "")


def _quote(text: str) -> str:
    line = " ".join(text.split())
    return f'"{line if len(line) <= 80 else line[:79] + "…"}"'


def _general_reason(reason: Text) -> Text:
    """A reason without the details of the row, so that similar reasons are counted together."""
    if isinstance(reason, str):
        return reason
    return reason.map(lambda detail: "…", str | int | float | Rows)
