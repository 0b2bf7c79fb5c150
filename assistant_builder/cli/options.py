"""Arguments and options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output, and nothing else.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of a study.")]
Settings = Annotated[
    list[str], typer.Option("--set", metavar="KEY=VALUE", help="A setting by its dotted key; may be given several "
                            "times. 'assistant-builder settings' lists them all.")
]


def changes_of(settings: list[str]) -> dict[str, str]:
    """``["train.epochs=2"]`` → ``{"train.epochs": "2"}``."""
    wrong = [text for text in settings if "=" not in text]
    if wrong:
        raise typer.BadParameter(f"{wrong[0]!r} is not KEY=VALUE, as in --set train.epochs=2", param_hint="--set")
    return dict(text.split("=", 1) for text in settings)
