"""The command ``inbox``."""

from __future__ import annotations

import shlex
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assistant_builder.atomic_io import write_bytes
from assistant_builder.cli import output
from assistant_builder.cli.options import Json, Name, documented
from assistant_builder.errors import ConfigError
from assistant_builder.i18n import m, render
from assistant_builder.retrieval.promise import is_promised
from assistant_builder.study import Study
from assistant_builder.study.versions import root_of, served_version

if TYPE_CHECKING:
    from assistant_builder.chat.inbox import Inbox, Overview, QuestionGroup
    from assistant_builder.chat.visitor_log import VisitorQuestion
    from assistant_builder.chat.watch import Watch

_LISTED = 30


@documented()
def inbox(
    name: Name,
    *,
    accept: str | None = None,
    answer: str | None = None,
    reject: str | None = None,
    later: str | None = None,
    export: Path | None = None,
    visitor: str | None = None,
    erase: str | None = None,
    find: str | None = None,
    right: str | None = None,
    wrong: str | None = None,
    as_json: Json = False,
) -> None:
    """List what visitors asked and did not get answered, and answer it.

    'serve --remember texts' keeps the questions. Answers become corrections, which the next version is trained on.

    Args:
        accept (ID): Answer the questions like this one, with --answer.
        answer (TEXT): The answer for --accept.
        reject (ID): Questions like this one are to be declined.
        later (ID): Decide later about questions like this one.
        export (FILE): Write what is kept as JSON lines.
        visitor (ID): For --export: of this visitor alone.
        erase (VISITOR): Delete all that is kept of a visitor.
        right (ID): The drawn answer of this id is right.
        wrong (ID): The drawn answer of this id is wrong.
        find (TEXT): List the questions that are kept with this text, with the ids of their visitors.
    """
    from assistant_builder.chat import visitor_log, watch
    from assistant_builder.chat.inbox import group_with_embedder, read_inbox

    study = root_of(Study.open(name))
    given = (accept, reject, later, export, erase, find, right, wrong)
    if sum(each is not None for each in given) > 1:
        raise ConfigError(
            m(
                "only one of --accept, --reject, --later, --export, --erase, --find, --right and --wrong can be given"
            ),
            where="inbox",
        )
    if (accept is None) != (answer is None):
        raise ConfigError(m("--accept needs --answer, and the other way round"), where="inbox")
    if find is not None:
        return _print_found(study, visitor_log.find_text(study, find), as_json)
    if erase is not None:
        gone = visitor_log.read_questions(study, visitor=erase)
        output.echo(f"Deleted {visitor_log.erase(study, erase)} questions of {erase}.")
        return _print_trained(study, gone)
    if export is not None:
        questions = visitor_log.read_questions(study, visitor=visitor)
        write_bytes(export, visitor_log.to_jsonl(questions).encode())
        return output.echo(f"Wrote {len(questions)} questions to {export}.")
    version = served_version(study)
    if (judged := right or wrong) is not None:
        promise = watch.judge(study, version, judged, right=right is not None)
        return _print_watch(study.name, promise, promised=is_promised(version))
    promise = watch.read_watch(study, version)
    group_with_embedder(study)
    contents = read_inbox(study, time.time())
    if (key := accept or reject or later) is not None:
        return output.echo(_decide(study, contents.group(key), answer, later=later is not None))
    if as_json:
        return output.print_json(
            {
                "overview": _record(contents.whole),
                "weeks": [
                    {"weeks_ago": week, **_record(counts)} for week, counts in contents.weeks
                ],
                "groups": [asdict(group) for group in contents.groups],
                "promise": {
                    **asdict(promise),
                    "promised": is_promised(version),
                    "holds": promise.holds,
                    "broken": promise.broken,
                    "needed": promise.needed if promise.unlike else 0,
                },
            }
        )
    _print(name, contents)
    if contents.has_texts or promise.drift is not None:
        _print_watch(name, promise, promised=is_promised(version))


def _print_watch(name: str, watch: Watch, *, promised: bool) -> None:
    """What the judged answers say, and those that wait to be judged."""
    from assistant_builder.chat.watch import said

    output.echo("")
    output.echo(render(said(watch, promised=promised)))
    rows = [
        [_one_line(each.id), _one_line(each.question), _one_line(each.answer)]
        for each in watch.waiting
    ]
    if rows:
        output.print_table(["id", "question", "answer"], rows)
        output.echo(
            f"Judge one: assistant-builder inbox {shlex.quote(name)} --right {shlex.quote(rows[0][0])}, or --wrong"
        )


def _print_found(study: Study, found: list[VisitorQuestion], as_json: bool) -> None:
    """The questions with a text, and how to delete those of a visitor."""
    if as_json:
        return output.print_json([asdict(each) for each in found])
    days = [time.strftime("%Y-%m-%d", time.localtime(each.time)) for each in found]
    rows = [
        [each.visitor, day, _one_line(each.question or "")]
        for each, day in zip(found, days, strict=True)
    ]
    output.print_table(["visitor", "day", "question"], rows)
    if found:
        erase = shlex.join(["assistant-builder", "inbox", study.name, "--erase", found[0].visitor])
        output.echo(f"Delete all of a visitor: {erase}")
    _print_trained(study, found)


def _print_trained(study: Study, questions: list[VisitorQuestion]) -> None:
    """Name the versions that have questions in their data, which --erase does not change."""
    from assistant_builder.chat.inbox import trained_with

    names = trained_with(study, [each.question for each in questions if each.question])
    if names:
        output.echo(
            f"Accepted as training data, and still part of: {', '.join(names)}. Remove the rows from the "
            "data file, and train and publish a new study; then delete these."
        )


def _record(counts: Overview) -> dict[str, Any]:
    return {**asdict(counts), "answered": counts.answered}


def _decide(study: Study, group: QuestionGroup, answer: str | None, *, later: bool) -> str:
    """Decide about a group, and say what was done."""
    from assistant_builder.chat import inbox

    question = _one_line(group.wordings[0])
    if later:
        inbox.set_state(study, group, "later")
        return f"Kept for later: {question}"
    served = served_version(study)
    if answer is not None:
        count = inbox.accept(study, group, answer, corrected=served)
        change = f"Added {count} corrections to {served.name}."
    else:
        count = inbox.reject(study, group, corrected=served)
        change = f"Added {count} questions to decline to {served.name}: {question}."
    train = f"assistant-builder versions {study.name} --create"
    return f"{change} Train the next version on them: {train}"


def _one_line(text: str) -> str:
    """A visitor's text without line breaks, which could look like another row of the list."""
    return " ".join(text.split())


def _print(name: str, inbox: Inbox) -> None:
    whole, groups = inbox.whole, inbox.groups
    if not whole.asked:
        return output.echo(
            f"Nothing is kept. Serve with: assistant-builder serve {shlex.quote(name)} --widget "
            "--remember texts"
        )
    output.echo(
        f"{whole.asked} questions: {whole.declined} declined, {whole.voted_down} voted down, "
        f"{whole.judged_wrong} judged wrong, {whole.voted_up} voted up; "
        f"{whole.answered:.0%} answered. {whole.greetings} greetings, {whole.asked_back} asked back."
    )
    weeks = [[str(week), str(each.asked), f"{each.answered:.0%}"] for week, each in inbox.weeks]
    output.print_table(["weeks ago", "asked", "answered"], weeks[-12:])
    if not inbox.has_texts:
        return output.echo("Texts are not kept: serve with --remember texts to see what was asked.")
    output.echo("")
    output.print_table(["id", "times", "problem", "question"], list(map(_row, groups[:_LISTED])))
    if groups:
        output.echo(
            f"Answer one: assistant-builder inbox {shlex.quote(name)} --accept "
            f'{shlex.quote(groups[0].key)} --answer "…"'
        )


def _row(group: QuestionGroup) -> list[str]:
    from assistant_builder.chat.inbox import MOST_WORDINGS  # those that --accept takes

    wordings = [_one_line(wording) for wording in group.wordings[:MOST_WORDINGS]]
    more = len(group.wordings) - len(wordings)
    if more:
        wordings.append(f"(+ {more} wordings)")
    if group.chosen:
        wordings.append(f"(chosen instead: {_one_line(group.chosen[0])})")
    problem = f"{group.problem}{', for later' if group.later else ''}"
    return [_one_line(group.key), str(group.count), problem, "\n".join(wordings)]
