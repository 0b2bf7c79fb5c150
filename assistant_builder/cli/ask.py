"""The command ``ask``."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Annotated

import typer

from assistant_builder.arms import ARMS, label, with_arm
from assistant_builder.cli import output
from assistant_builder.cli.options import ApproachName, Consent, Json, Name, TrustRemoteCode
from assistant_builder.errors import ConfigError
from assistant_builder.quantization import texts_of
from assistant_builder.quantization.ggml import GGUF_TYPES
from assistant_builder.study import Study

if TYPE_CHECKING:
    from assistant_builder.inference.session import Session


def ask(
    name: Name,
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="The question, in quotes.")],
    arm: Annotated[
        str,
        typer.Option(
            help=f"Who answers: {', '.join(ARMS)}, or both (every arm that the study trains)."
        ),
    ] = "both",
    look_up: Annotated[
        bool,
        typer.Option(
            "--look-up/--no-look-up",
            help="Whether a grounded assistant reads the facts that are found for the question. "
            "Without them it answers from memory.",
        ),
    ] = True,
    backend: Annotated[
        str,
        typer.Option(
            help="What runs the model: local (PyTorch) or llamacpp (a GGUF file of the "
            "study, which is written if it is missing)."
        ),
    ] = "local",
    type: Annotated[
        str | None,
        typer.Option(
            show_default=False,
            help="Type of the GGUF file, for --backend llamacpp. Default: as of serve.",
        ),
    ] = None,
    approach: ApproachName = None,
    trust_remote_code: TrustRemoteCode = False,
    as_json: Json = False,
) -> None:
    """Ask the trained assistants one question."""
    output.check_choice("--arm", arm, (*ARMS, "both"))
    output.check_choice("--backend", backend, ("local", "llamacpp"))
    if type is not None:
        output.check_choice("--type", type, tuple(GGUF_TYPES))
    if not question.strip():
        raise ConfigError("the question is empty", remedy="Write a question in quotes")
    from assistant_builder.chat.ask import ask_arms
    from assistant_builder.data.prepare import row_numbers

    study = Study.open(name).of_choice(output.check_approach(approach))
    trained = study.config.arms
    if arm not in (*trained, "both"):
        raise ConfigError(
            f"study {name} trains only {' and '.join(trained)} and has no {arm} assistant",
            where="--arm",
            remedy=f"Ask with --arm {trained[0]}, or train it with "
            f"'assistant-builder run {name} --set arms={','.join(with_arm(trained, arm))}'",
        )
    Consent(trust_remote_code).allow(study.config)
    arms = [known for known in trained if arm in (known, "both")]
    with closing(_session(study, arms, backend, type)) as session:
        answers = ask_arms(study, question, arms, look_up=look_up, session=session)
    if as_json:
        return output.print_json({"question": question, "answers": answers})
    numbers = row_numbers(study.folder / "data")
    for asked, answer in answers.items():
        text = answer["text"]
        with texts_of(study.config.model.quant_type):
            title = label(asked)
        output.echo(f"{title} ({answer['tokens']} tokens, {answer['seconds']:.1f} s): {text}")
        for source in answer["sources"]:
            question_, found = source["question"], source["answer"]
            output.echo(f"  row {numbers.shown(source['row'])}: {question_} {found}")


def _session(study: Study, arms: Sequence[str], backend: str, type: str | None) -> Session:
    """What answers."""
    if backend == "llamacpp":
        from assistant_builder.inference.llamacpp import require_llamacpp
        from assistant_builder.serving.llamacpp import LlamaCppSession

        require_llamacpp()
        return LlamaCppSession({arm: (study, arm) for arm in arms}, type=type)
    from assistant_builder.inference.session import ChatSession

    return ChatSession(study, arms)
