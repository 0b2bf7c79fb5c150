"""The command ``inbox``."""

from __future__ import annotations

import shlex
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from assistant_builder.atomic_io import write_bytes
from assistant_builder.cli import output
from assistant_builder.cli.options import Json, Name
from assistant_builder.errors import ConfigError
from assistant_builder.study import Study
from assistant_builder.study.versions import root_of, served_version

if TYPE_CHECKING:
    from assistant_builder.chat.inbox import Inbox, Overview, QuestionGroup

_LISTED = 30
_Option = typer.Option


def inbox(
    name: Name,
    accept: Annotated[
        str | None, _Option(metavar="ID", help="Answer the questions like this one, with --answer.")
    ] = None,
    answer: Annotated[str | None, _Option(metavar="TEXT", help="The answer for --accept.")] = None,
    reject: Annotated[
        str | None, _Option(metavar="ID", help="Questions like this one are to be declined.")
    ] = None,
    later: Annotated[
        str | None, _Option(metavar="ID", help="Decide later about questions like this one.")
    ] = None,
    export: Annotated[
        Path | None, _Option(metavar="FILE", help="Write what is kept as JSON lines.")
    ] = None,
    visitor: Annotated[
        str | None, _Option(metavar="ID", help="For --export: of this visitor alone.")
    ] = None,
    erase: Annotated[
        str | None, _Option(metavar="VISITOR", help="Delete all that is kept of a visitor.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List what visitors asked and did not get answered, and answer it.

    'serve --remember texts' keeps the questions. Answers become corrections, which the next version is trained on.
    """
    from assistant_builder.chat import inbox as found
    from assistant_builder.chat import visitor_log

    study = root_of(Study.open(name))
    if sum(each is not None for each in (accept, reject, later, export, erase)) > 1:
        raise ConfigError(
            "only one of --accept, --reject, --later, --export and --erase can be given",
            where="inbox",
        )
    if (accept is None) != (answer is None):
        raise ConfigError("--accept needs --answer, and the other way round", where="inbox")
    if erase is not None:
        return output.echo(f"Deleted {visitor_log.erase(study, erase)} questions of {erase}.")
    if export is not None:
        questions = visitor_log.read_questions(study, visitor=visitor)
        write_bytes(export, visitor_log.to_jsonl(questions).encode())
        return output.echo(f"Wrote {len(questions)} questions to {export}.")
    found.group_with_embedder(study)
    inbox = found.read_inbox(study, time.time())
    if (chosen := accept or reject or later) is not None:
        return output.echo(_decide(study, inbox.group(chosen), answer, later=later is not None))
    if as_json:
        return output.print_json(
            {
                "overview": _record(inbox.whole),
                "weeks": [{"weeks_ago": week, **_record(counts)} for week, counts in inbox.weeks],
                "groups": [asdict(group) for group in inbox.groups],
            }
        )
    _print(name, inbox)


def _record(counts: Overview) -> dict[str, Any]:
    return {**asdict(counts), "answered": counts.answered}


def _decide(study: Study, group: QuestionGroup, answer: str | None, *, later: bool) -> str:
    """Decide about a group, and say what was done."""
    from assistant_builder.chat import inbox

    question, train = (
        _one_line(group.wordings[0]),
        f"assistant-builder versions {study.name} --create",
    )
    if later:
        inbox.set_state(study, group, "later")
        return f"Kept for later: {question}"
    served = served_version(study)
    if answer is not None:
        count = inbox.accept(study, group, answer, corrected=served)
        return (
            f"Added {count} corrections to {served.name}. Train the next version on them: {train}"
        )
    count = inbox.reject(study, group, corrected=served)
    return f"Added {count} questions to decline to {served.name}: {question}. Train the next version on them: {train}"


def _one_line(text: str) -> str:
    """A visitor's text without line breaks, which could look like another row of the list."""
    return " ".join(text.split())


def _print(name: str, inbox: Inbox) -> None:
    from assistant_builder.chat.inbox import MOST_WORDINGS  # those that --accept takes

    whole, groups = inbox.whole, inbox.groups
    if not whole.asked:
        return output.echo(
            f"Nothing is kept. Serve with: assistant-builder serve {shlex.quote(name)} --widget "
            "--remember texts"
        )
    output.echo(
        f"{whole.asked} questions: {whole.declined} declined, {whole.voted_down} voted down, {whole.voted_up} "
        f"voted up; {whole.answered:.0%} answered."
    )
    output.print_table(
        ["weeks ago", "asked", "answered"],
        [
            [str(week), str(counts.asked), f"{counts.answered:.0%}"]
            for week, counts in inbox.weeks[-12:]
        ],
    )
    if not inbox.has_texts:
        return output.echo("Texts are not kept: serve with --remember texts to see what was asked.")
    output.echo("")
    output.print_table(
        ["id", "times", "problem", "question"],
        [
            [
                group.key,
                str(group.count),
                f"{group.problem}{', for later' if group.later else ''}",
                "\n".join(map(_one_line, group.wordings[:MOST_WORDINGS]))
                + (
                    f"\n(+ {more} wordings)"
                    if (more := len(group.wordings) - MOST_WORDINGS) > 0
                    else ""
                ),
            ]
            for group in groups[:_LISTED]
        ],
    )
    if groups:
        output.echo(
            f'Answer one: assistant-builder inbox {shlex.quote(name)} --accept {groups[0].key} --answer "…"'
        )
