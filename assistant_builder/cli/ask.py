"""The command ``ask``."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from assistant_builder import api
from assistant_builder.arms import ARMS, label
from assistant_builder.cli import output
from assistant_builder.cli.options import (
    ApproachName,
    Json,
    Name,
    TrustRemoteCode,
    documented,
    user_consent,
)
from assistant_builder.quantization import texts_of
from assistant_builder.quantization.gguf_types import GGUF_TYPES
from assistant_builder.retrieval.copying import COPY


@documented(arms=", ".join(ARMS))
def ask(
    name: Name,
    question: str,
    *,
    mode: Literal["tuned", "copy"] | None = None,
    arm: str = "both",
    look_up: Annotated[bool, typer.Option("--look-up/--no-look-up")] = True,
    backend: Literal["local", "llamacpp"] = "local",
    type: str | None = None,
    approach: ApproachName = None,
    why: bool = False,
    trust_remote_code: TrustRemoteCode = False,
    as_json: Json = False,
) -> None:
    """Ask the assistants one question.

    Args:
        question (QUESTION): The question, in quotes.
        mode: tuned (the trained assistants) or copy (the answer of the best fact of the data, looked up and not
            trained). Default: tuned, or copy before the training.
        arm: Who answers: {arms}, or both (every arm that the study trains).
        look_up: Whether a grounded assistant reads the facts that are found for the question. Without them it answers
            from memory.
        backend: What runs the model: local (PyTorch) or llamacpp (a GGUF file of the study, which is written if it is
            missing).
        type: Type of the GGUF file, for --backend llamacpp. Default: as of serve.
        why: Of a declined question, also print which evidence was low, and what to add to the data.
    """
    output.check_choice("--arm", arm, (*ARMS, "both"))
    if type is not None:
        output.check_choice("--type", type, tuple(GGUF_TYPES))
    from assistant_builder.data.prepare import row_numbers

    study = api.open(name, approach=approach)
    user_consent(trust_remote_code).allow(study.config)
    arms = None if arm == "both" else [arm]
    if mode is None:
        plain = arms is None and look_up and backend == "local"
        mode = "copy" if plain and not study.trained else "tuned"
        if mode == "copy":
            output.note(
                f"Looked up, not trained: the answer is copied from the data. 'assistant-builder run {study.name}' "
                "trains the assistants."
                if study.has_pairs
                else "Looked up, not trained: the answer is copied from the documents."
            )
    with study:
        answers = study.ask_arms(
            question, arms, mode=mode, look_up=look_up, backend=backend, type=type
        )
    if as_json:
        records = {
            answer.arm: answer.model_dump(exclude={"question", "arm"}, exclude_unset=True)
            for answer in answers
        }
        return output.print_json({"question": question, "answers": records})
    numbers = row_numbers(study.folder / "data")
    with texts_of(study.config.model.quant_type):
        titles = [
            f"{label(answer.arm)} ({answer.tokens} tokens, {answer.seconds:.1f} s)"
            if answer.arm != COPY
            else "Looked up, not trained"
            for answer in answers
        ]
    for title, answer in zip(titles, answers, strict=True):
        output.echo(f"{title}: {answer.text}")
        if answer.suggestions:
            output.echo("  Did you mean:" if answer.declined else "  You can ask:")
            for question in answer.suggestions:
                output.echo(f"  - {question}")
        if answer.declined and answer.reason and why:
            output.echo(f"  Why: {answer.reason}")
            output.echo(f"  What to do: {answer.advice}")
        for source in answer.sources:
            if source.document is not None:
                page = "" if source.page is None else f", page {source.page}"
                output.echo(f"  {source.document}{page}: {source.question}: {source.answer}")
                continue
            row = "" if source.row is None else f"row {numbers.shown(source.row)}: "
            output.echo(f"  {row}{source.question} {source.answer}")
