"""The command ``wordings``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from assistant_builder import api
from assistant_builder.cli import output
from assistant_builder.cli.options import Json, Name, TrustRemoteCode, documented, user_consent
from assistant_builder.retrieval.copying import COPY
from assistant_builder.study import Study
from assistant_builder.study.contents import OwnAnswer


@documented()
def wordings(
    name: Name,
    file: Annotated[Path | None, typer.Argument()] = None,
    *,
    trust_remote_code: TrustRemoteCode = False,
    as_json: Json = False,
) -> None:
    """Test the assistants with questions in your own words, which are never trained on.

    Without FILE it asks what was typed on the page and not asked yet; without any question it lists the facts whose
    other wordings would decide most.

    Args:
        file (FILE): A file with the columns question and answer. The answer, the known question or the row number says
            which row of the data file a new question belongs to; - that no row answers it.
    """
    from assistant_builder.chat.own_questions import ask_missing, renew_report
    from assistant_builder.data.prepare import row_numbers
    from assistant_builder.retrieval.own_questions import (
        add_questions_of_file,
        assistants,
        facts_to_word,
        read_questions,
        trained_arms,
    )
    from evals.report.build import write_report
    from evals.report.own_questions import name_of, own_questions, texts_of_questions
    from evals.report.schema import OwnQuestions

    study = api.open(name)
    user_consent(trust_remote_code).allow(study.config)
    view = Study.open(name).recommended
    if file is not None:
        add_questions_of_file(view, file)

    def ask(question: str, arms: Sequence[str]) -> dict[str, OwnAnswer]:
        trained = [arm for arm in arms if arm != COPY]
        answers = study.ask_arms(question, trained) if trained else []
        if COPY in arms:
            answers += study.ask_arms(question, mode="copy")
        return {each.arm: {"text": each.text, "declined": each.declined} for each in answers}

    with study:
        asked = ask_missing(view, ask)
    if asked:
        renew_report(view, write_report)
    found = OwnQuestions.model_validate(own_questions(view) or {})
    if as_json:
        return output.print_json(found.model_dump(mode="json"))
    if not read_questions(view):
        output.echo("Nothing was tested in other words. These facts would decide most:")
        numbers = row_numbers(view.folder / "data")
        for pair in facts_to_word(view):
            output.echo(f"  row {numbers.shown(pair.row)}: {pair.question} {pair.answer}")
        return None
    if not trained_arms(view):
        output.note(
            f"{len(found.questions)} questions are kept; no trained assistant can be asked yet"
        )
    texts = texts_of_questions(found, assistants(view))
    for line in texts.rows:
        output.echo(f"{line.question} ({line.expected})")
        for arm, answer in zip(texts.arms, line.answers, strict=True):
            output.echo(f"  {name_of(arm)}: {answer.text} ({answer.verdict})")
    for sentence in texts.lines:
        output.echo(sentence)
    return None
