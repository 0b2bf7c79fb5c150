"""The command ``inbox``."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from assistant_builder.atomic_io import write_bytes
from assistant_builder.cli import output
from assistant_builder.cli.options import Json, Name
from assistant_builder.errors import ConfigError
from assistant_builder.redaction import escape_control_characters
from assistant_builder.study import Study

if TYPE_CHECKING:
    from assistant_builder.chat.inbox import Encode, Overview, QuestionGroup

_LISTED = 30
_Option = typer.Option


def inbox(
    name: Name,
    accept: Annotated[str | None, _Option(metavar="ID", help="Answer the questions like this one, with "
                                          "--answer.")] = None,
    answer: Annotated[str | None, _Option(metavar="TEXT", help="The answer for --accept.")] = None,
    reject: Annotated[str | None, _Option(metavar="ID", help="The assistant need not answer questions like this "
                                          "one.")] = None,
    later: Annotated[str | None, _Option(metavar="ID", help="Decide later about questions like this one.")] = None,
    export: Annotated[Path | None, _Option(metavar="FILE", help="Write what is kept as JSON lines.")] = None,
    visitor: Annotated[str | None, _Option(metavar="ID", help="For --export: of this visitor alone.")] = None,
    erase: Annotated[str | None, _Option(metavar="VISITOR", help="Delete all that is kept of a visitor.")] = None,
    as_json: Json = False,
) -> None:
    """List what visitors asked and did not get answered, and answer it.

    'serve --remember texts' keeps the questions. Answers become corrections, which the next version is trained on.
    """
    from assistant_builder.chat import inbox as found
    from assistant_builder.chat import visitor_log

    study = Study.open(name)
    if sum(each is not None for each in (accept, reject, later, export, erase)) > 1:
        raise ConfigError("only one of --accept, --reject, --later, --export and --erase can be given", where="inbox")
    if (accept is None) != (answer is None):
        raise ConfigError("--accept needs --answer, and the other way round", where="inbox")
    if erase is not None:
        return typer.echo(f"Deleted {visitor_log.erase(study, erase)} questions of {erase}.")
    if export is not None:
        questions = visitor_log.read_questions(study, visitor=visitor)
        write_bytes(export, visitor_log.to_jsonl(questions).encode())
        return typer.echo(f"Wrote {len(questions)} questions to {export}.")
    questions, groups = found.inbox_of(study, _encoder(study))
    if (chosen := accept or reject or later) is not None:
        group = found.group_named(groups, chosen)
        if answer is not None:
            count = found.accept(study, group, answer)
            return typer.echo(f"Added {count} corrections. Train them on the page: Chat, Corrections.")
        found.set_state(study, group, "rejected" if reject else "later")
        done = "Rejected" if reject else "Kept for later"
        return typer.echo(f"{done}: {escape_control_characters(group.wordings[0])}")
    weeks = found.by_week(questions, time.time())
    if as_json:
        return output.print_json({"overview": asdict(found.overview(questions)),
                                  "weeks": [{"weeks_ago": week, **asdict(counts)} for week, counts in weeks],
                                  "groups": [asdict(group) for group in groups]})
    _print(name, found.overview(questions), weeks, groups, texts=any(each.question for each in questions))


def _print(name: str, whole: Overview, weeks: list[tuple[int, Overview]], groups: list[QuestionGroup], *,
           texts: bool) -> None:
    if not whole.asked:
        return typer.echo(f"Nothing is kept. Serve with: assistant-builder serve {shlex.quote(name)} --widget "
                          "--remember texts")
    typer.echo(f"{whole.asked} questions: {whole.declined} declined, {whole.voted_down} voted down, {whole.voted_up} "
               f"voted up; {whole.answered:.0%} answered.")
    output.print_table(["weeks ago", "asked", "answered"], [
        [str(week), str(counts.asked), f"{counts.answered:.0%}"] for week, counts in weeks[-12:]])
    if not texts:
        return typer.echo("Texts are not kept: serve with --remember texts to see what was asked.")
    typer.echo("")
    output.print_table(["id", "times", "problem", "question"], [
        [group.key, str(group.count), group.problem,
         escape_control_characters(group.wordings[0])
         + (f" (+ {len(group.wordings) - 1} wordings)" if len(group.wordings) > 1 else "")]
        for group in groups[:_LISTED]])
    if groups:
        typer.echo(f'Answer one: assistant-builder inbox {shlex.quote(name)} --accept {groups[0].key} --answer "…"')


def _encoder(study: Study) -> Encode:
    """Sentence embeddings of the study's embedder, which is loaded when they are needed."""
    def encode(texts: Sequence[str]) -> Any:
        from assistant_builder.retrieval.train_embedder import embedder_of_study

        return embedder_of_study(study).encode(texts)

    return encode
