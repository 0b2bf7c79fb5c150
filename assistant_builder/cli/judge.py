"""The command ``judge``."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from assistant_builder import api
from assistant_builder.atomic_io import read_json
from assistant_builder.cli import output
from assistant_builder.cli.options import Json, Settings, documented, parse_settings
from assistant_builder.cli.report import FailIf, exit_if_failing
from assistant_builder.i18n import environment_language, render, use_language


@documented()
def judge(
    questions: Path,
    candidates: list[str],
    *,
    name: str | None = None,
    system: str | None = None,
    format: Literal["html", "md", "json"] = "html",
    settings: Settings = [],
    as_json: Json = False,
    fail_if: FailIf = None,
) -> None:
    """Compare models on your questions; the first is the reference. The same command continues one that stopped.

    Args:
        questions (QUESTIONS): File of questions and reference answers, in any format of a study.
        candidates (A B…): Models: a *.gguf file, a folder, catalog name or hub id, MODEL@URL or ollama:TAG for an
            endpoint (its key in ASSISTANT_BUILDER_KEY_A, …_B), or a log of lm-eval or inspect.
        name: Name of the comparison, default: that of the file and a hash of all inputs.
        system: System prompt for rows without one.
        format: html prints the path of the report; md and json print its text.
    """
    language = environment_language()

    def tell(text: object) -> None:
        with use_language(language):
            output.note(render(text))  # type: ignore[arg-type]

    judged = api.judge(
        questions,
        *candidates,
        name=name,
        system=system,
        on_event=tell,
        **parse_settings(settings),
    )
    path = judged.folder / f"report.{format}"
    if as_json or format == "json":
        output.print_json(read_json(judged.folder / "report.json"))
    elif format == "md":
        output.echo(path.read_text(encoding="utf-8").rstrip("\n"))
    else:
        output.echo(judged.sentence, err=True)
        for note in judged.report["notes"]:
            output.echo(f"note: {note}", err=True)
        output.echo(str(path))
    exit_if_failing(fail_if, judged.outcomes, judged.sentence)
