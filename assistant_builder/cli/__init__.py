"""The command line. Each command calls the library and prints what it returns."""

from __future__ import annotations

import logging
from typing import Annotated

import typer

from assistant_builder import __version__
from assistant_builder.child_process import limit_library_output
from assistant_builder.cli import app as app_commands
from assistant_builder.cli import (
    ask,
    bundle,
    data,
    doctor,
    document_questions,
    documents,
    export,
    inbox,
    judge,
    output,
    plan,
    report,
    run,
    serve,
    sweep,
    versions,
    wordings,
)
from assistant_builder.cli.options import with_choices
from assistant_builder.config.serving import SERVING_BACKENDS
from assistant_builder.error_translation import ran_out_of_memory, translate_error
from assistant_builder.errors import AssistantBuilderError, Cancelled
from assistant_builder.export_formats import EXPORT_FORMATS

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Fine-tune a domain assistant with QLoRA and with 16-bit LoRA, and measure what 4-bit quantization costs.",
)
data_app = typer.Typer(
    no_args_is_help=True, help="Inspect a data file, add wordings, and read documents."
)
app.add_typer(data_app, name="data")

data_app.command("check")(data.check)
data_app.command("draft")(data.draft)
data_app.command("add-wordings")(data.add_wordings)
data_app.command("documents")(documents.documents)
data_app.command("changes")(documents.changes)
data_app.command("questions")(document_questions.questions)
app.command()(doctor.doctor)
app.command()(plan.settings)
app.command()(plan.plan)
app.command()(run.run)
app.command()(run.example)
app.command()(run.status)
app.command()(run.cancel)
app.command("list")(run.list_studies)
app.command()(report.report)
app.command()(report.compare)
app.command()(report.atlas)
app.command()(judge.judge)
app.command()(bundle.bundle)
app.command()(bundle.verify)
app.command()(sweep.sweep)
app.command()(ask.ask)
app.command(cls=with_choices(format=EXPORT_FORMATS))(export.export)
app.command(cls=with_choices(backend=SERVING_BACKENDS))(serve.serve)
app.command()(inbox.inbox)
app.command()(versions.versions)
app.command()(wordings.wordings)
app.command("app")(app_commands.open_app)
app.command("password")(app_commands.save_password)
app.command("step", hidden=True)(run.step)


def main() -> None:
    """Run the command line; errors meant for the user become one line and exit code 1."""
    limit_library_output(logging.ERROR)  # the logs of steps have their warnings, too
    try:
        app()
    except Cancelled as stop:
        output.fail(stop)
    except Exception as error:
        if not (isinstance(error, AssistantBuilderError | OSError) or ran_out_of_memory(error)):
            raise
        output.fail(translate_error(error))


def _version(wanted: bool) -> None:
    if wanted:
        output.echo(__version__)
        raise typer.Exit


@app.callback()
def _top(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass
