"""The command ``data questions``."""

from __future__ import annotations

import shlex
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from assistant_builder import api
from assistant_builder.cli import output
from assistant_builder.cli.options import Json, Name, documented
from assistant_builder.config import printable
from assistant_builder.documents.store import no_documents


@documented()
def questions(
    name: Name,
    file: Annotated[Path | None, typer.Argument()] = None,
    *,
    draft: bool = False,
    number: Annotated[int, typer.Option(min=1, max=10)] = 3,
    url: str = "",
    model: str = "",
    base: bool = False,
    to: Path | None = None,
    train_unseen: bool = False,
    as_json: Json = False,
) -> None:
    """Draft questions about a study's documents, accept or drop them, add those that people asked, or count them.

    With enough of them, 'run' trains the study. Accepted drafts of sections that training does not see, and people's
    questions, are its test.

    Args:
        file (FILE): A list of drafts in which you wrote yes, no or train (used for training, unseen) into the column
            accept, and corrected what is wrong; or a file with questions that people asked, and their answers.
        draft: Draft questions: from templates, or by a model at --url.
        number: Questions of a statement.
        url: Base URL of an OpenAI-compatible server, which receives the statements. Its key is read from
            ASSISTANT_BUILDER_DRAFT_KEY, if ASSISTANT_BUILDER_DRAFT_URL is this URL.
        model: Name of the model at that server.
        base: Let the base model of the study draft as well. The bundled one is small, and most of its drafts are poor.
        to (LIST): Write the drafts that wait for a decision to this CSV file.
        train_unseen: Train on all drafts that wait for a decision, although nobody saw them. They never test.
    """
    study = api.open(name)
    if not study.has_documents:
        raise no_documents(study.name)
    done: dict[str, Any] = {}
    if file is not None:
        decided = study.read_questions(file)
        done["file"] = decided
        words = ", ".join(f"{count} {state}" for state, count in decided.items())
        output.note(f"{file.name}: {words or 'nothing was decided'}")
    if draft:
        if url:
            output.note(f"this command sends the statements to {printable(url)} (--url)")
        added, drafted = study.draft_questions(number, url=url, model=model, base=base)
        done["drafted"], done["added"] = drafted, len(added)
        output.note(
            f"{drafted} questions were drafted, and {len(added)} new ones kept: the others do not find their statement "
            "first, or are known"
        )
    if to is not None:
        done["listed"] = study.list_questions(to)
        output.note(
            f"{done['listed']} drafts in {to}. Write yes, no or train into the column accept, then: "
            f"assistant-builder data questions {study.name} {shlex.quote(str(to))}"
        )
    if train_unseen:
        done["unseen"] = study.train_unseen_questions()
        output.note(f"{done['unseen']} drafts are trained on unseen")
    known = study.questions()
    if as_json:
        records = [{"key": each.key, **vars(each), "keys": list(each.keys)} for each in known]
        return output.print_json({"name": study.name, **done, "questions": records})
    if not known:
        return output.echo(
            f"{study.name} has no questions about its documents. Draft some with "
            f"'assistant-builder data questions {study.name} --draft --to drafts.csv'."
        )
    counts = Counter((each.origin, each.kind, each.state) for each in known)
    output.print_table(
        ["from", "kind", "state", "questions"],
        [[*key, str(count)] for key, count in sorted(counts.items())],
    )
    if study.can_train:
        output.echo(f"Train it: assistant-builder run {study.name}")
