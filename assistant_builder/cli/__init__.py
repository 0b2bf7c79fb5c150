"""The command line. Its commands are thin: each calls the library and prints what it returns."""

from __future__ import annotations

from typing import Annotated

import typer

from assistant_builder import __version__
from assistant_builder.cli import app as cli_app
from assistant_builder.cli import before, output, results
from assistant_builder.cli import run as cli_run
from assistant_builder.cli import serve as cli_serve
from assistant_builder.cli import sweep as cli_sweep
from assistant_builder.error_translation import ran_out_of_memory, translate_error
from assistant_builder.errors import AssistantBuilderError, Cancelled

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None,
    help="Fine-tune a domain assistant with QLoRA, train its float16 LoRA twin beside it, and measure what 4-bit cost.",
)
data_app = typer.Typer(no_args_is_help=True, help="Look at a data file.")
app.add_typer(data_app, name="data")

data_app.command("check")(before.data_check)
app.command()(before.doctor)
app.command("settings")(before.list_settings)
app.command()(before.plan)
app.command()(cli_run.run)
app.command()(cli_run.status)
app.command()(cli_run.cancel)
app.command("list")(cli_run.list_studies)
app.command()(results.report)
app.command()(results.compare)
app.command()(cli_sweep.sweep)
app.command()(results.ask)
app.command()(results.export)
app.command()(cli_serve.serve)
app.command("app")(cli_app.open_app)
app.command("password")(cli_app.save_password)
app.command("step", hidden=True)(cli_run.step)


def main() -> None:
    """Run the command line; errors meant for the user become one line and exit code 1."""
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
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _top(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")]
    = False,
) -> None:
    pass
