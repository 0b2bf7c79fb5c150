"""The commands ``data documents`` and ``data changes``, and ``run`` with documents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from assistant_builder.cli import output
from assistant_builder.cli.options import Json, Name, documented
from assistant_builder.documents.changes import Change
from assistant_builder.documents.store import Documents, Update, no_documents
from assistant_builder.errors import ConfigError
from assistant_builder.i18n import m
from assistant_builder.redaction import terminal_text
from assistant_builder.study import Study


def read_documents(
    sources: Sequence[str], *, as_json: bool, **how: Any
) -> tuple[Study, dict[str, Any]]:
    """Read documents into a study; unless ``as_json``, say what they state and what changed.

    Returns:
        The study, and what was read as part of a JSON document.
    """
    from assistant_builder.runner.open_documents import open_documents

    with Console(stderr=True).status("Reading") as status:

        def progress(done: int, total: int, name: str) -> None:
            status.update(f"Reading {done + 1} of {total}: {escape(terminal_text(name))}")

        study, update = open_documents(sources, progress=progress, **how)
    record = {"documents": _record(study, update)}
    if as_json:
        return study, record
    for name, error in update.problems.items():
        output.note(f"{name} was not read: {output.said(error)}")
    documents = Documents(study)
    output.echo(
        f"{len(update.documents)} documents with {len(documents.statements)} statements are in the study {study.name}; "
        f"{len(update.added)} statements are new."
    )
    _print_changes(study, list(update.changes))
    output.echo(
        f'Ask it: assistant-builder ask {study.name} "…"   Chat on the page: assistant-builder app'
    )
    return study, record


@documented()
def documents(
    name: Name,
    files: list[str] = [],
    *,
    site: str | None = None,
    pages: Annotated[int | None, typer.Option(min=1)] = None,
    as_json: Json = False,
) -> None:
    """Read documents into a study, beside its pairs, or list those that it has.

    What changed since a document was read last is listed with the answers that rest on it.

    Args:
        files (FILES): A folder with documents, or several of them. Without any, the documents are listed.
        site (URL): Read the pages of this website, as its robots.txt allows.
        pages: Pages of the website that are read at most. Default: 200.
    """
    study = Study.open(name)
    if files or site is not None:
        how = {"site": site, "pages": pages, "name": study.name}
        _, record = read_documents(files, as_json=as_json, **how)
        return output.print_json({**study.status(), **record}) if as_json else None
    records = Documents(study).records
    if as_json:
        return output.print_json({"name": study.name, "documents": records})
    if not records:
        return output.echo(
            f"{study.name} has no documents. Add some with 'assistant-builder data documents {study.name} FOLDER'."
        )
    output.print_table(
        ["document", "format", "pages", "statements"],
        [
            [each["name"], each["kind"], str(each["pages"]), str(each["statements"])]
            for each in records
        ],
    )


@documented()
def changes(
    name: Name,
    *,
    keep: list[str] = [],
    drop: list[str] = [],
    all_of_them: Annotated[str | None, typer.Option("--all")] = None,
    as_json: Json = False,
) -> None:
    """List the statements that changed in the documents, with what rests on them; nothing of it is served meanwhile.

    A decision ends that: the statements are served as the documents say now, and what rests on them is either still
    right or no longer served.

    Args:
        keep (KEY): The answers that rest on this change are still right. Can be repeated.
        drop (KEY): The answers that rest on this change are no longer served. Can be repeated.
        all_of_them (keep|drop): Decide on all changes.
    """
    study = Study.open(name)
    known = Documents(study)
    if all_of_them is not None:
        output.check_choice("--all", all_of_them, ("keep", "drop"))
        if keep or drop:
            raise ConfigError(
                m("--all decides on every change"), remedy=m("Leave out --keep and --drop")
            )
    if not known:
        raise no_documents(name)
    if all_of_them is not None:
        known.decide(None, "keep" if all_of_them == "keep" else "drop")
    if keep:
        known.decide(keep, "keep")
    if drop:
        known.decide(drop, "drop")
    if as_json:
        return output.print_json({"name": study.name, "changes": _changes(study, known.changes)})
    undecided = known.undecided
    if not undecided:
        return output.echo("Nothing waits for a decision.")
    _print_changes(study, undecided)


def _record(study: Study, update: Update) -> dict[str, Any]:
    return {
        "read": list(update.documents),
        "statements": len(Documents(study).statements),
        "added": len(update.added),
        "changes": _changes(study, list(update.changes)),
        "problems": [
            {"document": name, **error.to_record()} for name, error in update.problems.items()
        ],
    }


def _changes(study: Study, changes: Sequence[Change]) -> list[dict[str, Any]]:
    from assistant_builder.chat.stale_answers import answers_resting_on

    return [
        {**change.to_record(), "rests": [answer.to_record() for answer in answers]}
        for change, answers in zip(changes, answers_resting_on(study, changes), strict=True)
    ]


def _print_changes(study: Study, changes: Sequence[Change]) -> None:
    from assistant_builder.chat.stale_answers import answers_resting_on

    if not changes:
        return
    output.echo(
        f"{len(changes)} statements changed or are gone, and are not served until somebody decides:"
    )
    for change, answers in zip(changes, answers_resting_on(study, changes), strict=True):
        output.echo(f"{change.key}  {change.old.place}: {change.old.text}")
        output.echo(f"  now: {change.new.text if change.new else '(gone)'}")
        for answer in answers:
            output.echo(f"  rests on it ({answer.kind}): {answer.question} {answer.answer}")
    output.echo(
        f"Decide with 'assistant-builder data changes {study.name} --keep KEY' (what rests on it is still right), "
        "'--drop KEY' (it is no longer served), or '--all keep|drop'."
    )
