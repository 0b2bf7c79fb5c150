"""The commands ``report``, ``compare`` and ``atlas``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from assistant_builder import api
from assistant_builder.atomic_io import read_json, write_text
from assistant_builder.cli import output
from assistant_builder.cli.options import (
    Json,
    Name,
    TrustAddress,
    TrustRemoteCode,
    documented,
    user_consent,
)
from assistant_builder.i18n import (
    ENGLISH,
    Message,
    Text,
    environment_language,
    m,
    use_language,
)
from assistant_builder.quantization import texts_of
from assistant_builder.runner.backend import Event
from assistant_builder.runner.display import run_display

if TYPE_CHECKING:
    from evals.report.schema import Report

_FAILING = {"worse": ("worse",), "inconclusive": ("worse", "inconclusive")}
"""Value of ``--fail-if`` → verdicts that fail."""
FailIf = Annotated[
    Literal["worse", "inconclusive"] | None,
    typer.Option(
        metavar="VERDICT",
        help="worse or inconclusive: exit with code 3 if that "
        "is the verdict. inconclusive also fails if the verdict is worse.",
    ),
]


def exit_if_failing(fail_if: str | None, verdicts: Sequence[str], sentence: Text) -> None:
    """Exit with code 3, and one line on standard error, if a verdict fails; no verdict counts as inconclusive."""
    if fail_if is None:
        return
    failing = [verdict for verdict in verdicts or ("inconclusive",) if verdict in _FAILING[fail_if]]
    if failing:
        verdict = "worse" if "worse" in failing else failing[0]
        output.fail_with(
            3,
            m(
                "the verdict is {verdict} (--fail-if {option}): {sentence}",
                verdict=Message(verdict),
                option=fail_if,
                sentence=sentence,
            ),
        )


@documented()
def report(
    name: Name, *, format: Literal["html", "md", "json"] = "html", fail_if: FailIf = None
) -> None:
    """Show the report of a study; with html its conclusion is printed to standard error, unless a verdict may fail.

    Args:
        format: html prints the path of the report; md and json print its text.
    """
    study = api.open(name)
    path = study.report_path(format)
    if format == "html" and fail_if is None:
        for line in output.conclusion(study):
            output.echo(line, err=True)
    document = study.report
    if format == "json":
        output.print_json(read_json(path))
    else:
        output.echo(_in_the_language(document, path, format))
    from evals.report.other_words import decided_outcome

    with texts_of(study.config.model.quant_type):
        exit_if_failing(fail_if, [decided_outcome(document)], document.message("sentence"))


def _in_the_language(report: Report, path: Path, format: Literal["html", "md"]) -> str:
    """The text of a report, or the path of its page, in the language of the environment.

    Files of a study are in English; a page in another language is written next to them, as ``report.de.html``.
    """
    language = environment_language()
    if language == ENGLISH:
        return str(path) if format == "html" else path.read_text(encoding="utf-8").rstrip("\n")
    from evals.report.render import render_html, render_markdown

    with use_language(language):
        if format == "md":
            return render_markdown(report).rstrip("\n")
        translated = path.with_suffix(f".{language}.html")
        write_text(translated, render_html(report))
    return str(translated)


@documented()
def compare(a: str, b: str, *, as_json: Json = False, fail_if: FailIf = None) -> None:
    """Compare two studies on their common held-out questions.

    Args:
        a (A): Reference study; its primary metric and margin are used.
        b (B): Study to compare with A.
    """
    comparison = api.compare(a, b)
    if as_json:
        output.print_json(comparison)
    else:
        from evals.study_compare import contrast_rows, difference_rows

        output.echo(f"A = {a}, B = {b}")
        if comparison["differences"]:
            output.print_table(["difference", "A", "B"], difference_rows(comparison))
        output.print_table(
            ["cell", "metric", "A", "B", "B \u2212 A", "95% interval", "p (Holm)"],
            contrast_rows(comparison),
        )
        output.echo(comparison["sentence"])
        for warning in comparison["warnings"]:
            output.echo(f"note: {warning}.")
    exit_if_failing(
        fail_if, [verdict["outcome"] for verdict in comparison["verdicts"]], comparison["sentence"]
    )


@contextmanager
def _show_study(name: str) -> Iterator[Callable[[Event], None]]:
    """Print the name on standard error, which leaves ``--json`` alone, and show a progress bar for each step."""
    output.note(f"{name}:")
    with run_display() as display:
        yield display


@documented()
def atlas(
    names: list[str],
    *,
    run: bool = False,
    to: Path | None = None,
    trust_remote_code: TrustRemoteCode = False,
    trust_address: TrustAddress = [],
    as_json: Json = False,
) -> None:
    """Pool what a smaller storage cost in several studies, by a random-effects meta-analysis.

    Args:
        names (STUDY|BUNDLE|ATLAS): Finished studies by name, bundles by file, and atlas.yaml files, of different data.
        run: Run the studies of ATLAS files that have no cell yet, one after the other; a later call goes on.
        to (FILE): Write the tables and forest plots to this Markdown file.
    """
    from evals.atlas import atlas as pool
    from evals.atlas import markdown, run_missing
    from evals.atlas.declared import is_declared, read_atlas

    if run:
        consent = user_consent(trust_remote_code, trust_address)
        for declared in [read_atlas(Path(name)) for name in names if is_declared(name)]:
            run_missing(declared, before=consent, listener=_show_study, check=api.check_tasks)
    found = pool(names)
    if as_json:
        output.print_json(found)
        return
    text = markdown(found)
    if to is None:
        output.echo(text)
    else:
        write_text(to, text)
        output.echo(str(to))
