"""The command line. Its commands are thin: each calls the library and prints what it returns."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from assistant_builder import __version__, console
from assistant_builder.config import ARMS, DataConfig, option_fields
from assistant_builder.errors import AssistantBuilderError, Cancelled, ConfigError, StudyError
from assistant_builder.jobs.local import Event
from assistant_builder.steps import arm_runs
from assistant_builder.study import Study

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None,
    help="Fine-tune a domain assistant with QLoRA, train its float16 LoRA twin beside it, and measure what 4-bit cost.",
)
data_app = typer.Typer(no_args_is_help=True, help="Look at a data file.")
app.add_typer(data_app, name="data")

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output, and nothing else.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of a study.")]
Settings = Annotated[
    list[str], typer.Option("--set", metavar="KEY=VALUE", help="A setting by its dotted key; may be given several "
                            "times. 'assistant-builder settings' lists them all.")
]


def main() -> None:
    """Run the command line; errors meant for the user become one line and exit code 1."""
    try:
        app()
    except Cancelled as stop:
        console.fail(stop)
    except AssistantBuilderError as error:
        console.fail(error)


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


def _changes(settings: list[str]) -> dict[str, str]:
    wrong = [text for text in settings if "=" not in text]
    if wrong:
        raise typer.BadParameter(f"{wrong[0]!r} is not KEY=VALUE, as in --set train.epochs=2", param_hint="--set")
    return dict(text.split("=", 1) for text in settings)


@app.command()
def doctor(as_json: Json = False) -> None:
    """Show hardware and versions, what is missing, and the remedy."""
    from assistant_builder.doctor import diagnose

    report = diagnose()
    if as_json:
        return console.print_json(report)
    console.print_table(
        ["", "check", "found", "remedy"],
        [["✓" if check["ok"] else "✗", check["name"], str(check["value"]), check["remedy"] or ""]
         for check in report["checks"]],
    )


@data_app.command("check")
def data_check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="CSV, TSV, JSON, JSONL, XLSX or Parquet.")],
    settings: Settings = [],  # noqa: B006 - typer reads the default and never changes it
    as_json: Json = False,
) -> None:
    """Show what of a file would be accepted; exit code 0 if a study can start from it, 1 if not."""
    from assistant_builder.config import StudyConfig
    from assistant_builder.data import check_pairs, load_pairs
    from evals.power import planned_power, power_sentence

    config: DataConfig = StudyConfig().with_changes(_changes(settings)).data
    dataset = load_pairs(file, columns=config.columns, system=config.system)
    findings = check_pairs(dataset, near_duplicate_threshold=config.near_duplicate_threshold)
    power = planned_power(findings.usable, config)
    if as_json:
        console.print_json({**findings.to_record(), "power": power.to_record() if power else None})
    else:
        console.print_findings(findings)
        if power:
            typer.echo(f"power: {power_sentence(power.to_record())}")
    findings.require_start()


@app.command("plan")
def plan_command(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A name, a hub id, or a folder with a config.json.")],
    memory: Annotated[str | None, typer.Option(metavar="SIZE", help="Plan for a GPU with this memory, as in 24GB.")]
    = None,
    card: Annotated[str | None, typer.Option(metavar="NAME", help="Plan for a GPU of the catalog, as in 'A100 80 GB'.")]
    = None,
    pairs: Annotated[int, typer.Option(min=0, help="Training pairs; 0: 10,000.")] = 0,
    tokens: Annotated[int, typer.Option(min=0, help="Mean tokens of a pair; 0: half of train.max_length.")] = 0,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the chart and tables as one HTML file.")]
    = None,
    settings: Settings = [],  # noqa: B006 - typer reads the default and never changes it
    as_json: Json = False,
) -> None:
    """Show memory, time and cost of each method before anything is downloaded or trained; here, or on a GPU."""
    from assistant_builder.config import StudyConfig
    from assistant_builder.planning.machines import choose_machine
    from assistant_builder.planning.plan import Lengths
    from assistant_builder.planning.planner import plan_study, to_document

    config = StudyConfig().with_changes({**_changes(settings), "model.base": model})
    lengths = Lengths.about(tokens, config.train.max_length) if tokens else None
    plan = plan_study(config, pairs, lengths, choose_machine(memory, card))
    if html is not None:
        from assistant_builder.ui.views.plan_file import write_plan_file

        write_plan_file(plan, html)
    if as_json:
        return console.print_json(to_document(plan))
    from assistant_builder.ui.views.plan import plan_text

    columns, rows, lines = plan_text(plan)
    console.print_table(columns, rows)
    typer.echo("\n".join([*lines, *([f"Chart and tables: {html}"] if html else [])]))


@app.command()
def run(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="A data file, a study.yaml, or a study's name.")],
    name: Annotated[str | None, typer.Option(help="Name of the study; by default the file's.")] = None,
    settings: Settings = [],  # noqa: B006 - typer reads the default and never changes it
    redo: Annotated[bool, typer.Option("--redo", help="Run steps whose inputs changed again, and all after them; "
                                       "where none changed, run everything again.")] = False,
    now: Annotated[bool, typer.Option("--now", help="Do not wait for the runs of other studies.")] = False,
    as_json: Json = False,
) -> None:
    """Train both arms, score them and write the report; carries on where it stopped.

    One study runs at a time; others wait for their turn in the order in which they were started.
    """
    from assistant_builder.jobs.local import run_study
    from assistant_builder.jobs.starting import open_or_create

    study = open_or_create(source, name=name, changes=_changes(settings), redo=redo)
    try:
        if as_json:
            run_study(study, redo=redo, now=now, check=_check_tasks)
        else:
            with console.run_display() as display:
                run_study(
                    study, redo=redo, now=now, on_event=_telling_power(study, display), check=_check_tasks
                )
    finally:
        if as_json:
            console.print_json(study.status())
    if not as_json:
        _print_outcome(study)


def _telling_power(study: Study, display: Callable[[Event], None]) -> Callable[[Event], None]:
    """Show what happens, and before training what the held-out set will be able to tell."""

    def show(event: Event) -> None:
        display(event)
        if event.step == "data" and event.state == "succeeded" and not event.kept:
            from assistant_builder.files import read_json
            from evals.power import power_sentence, split_power

            power = split_power(read_json(study.folder / "data" / "split.json"))
            if power:
                typer.echo(power_sentence(power.to_record()))

    return show


def _check_tasks(study: Study) -> None:
    """Refuse lm-eval tasks that cannot be run before hours are spent on training."""
    tasks = study.config.eval.tasks
    if tasks and study.step("evaluate").state != "succeeded":
        from evals.extra import ExtraTasks

        ExtraTasks(tasks)


def _print_outcome(study: Study) -> None:
    from assistant_builder.files import read_json

    report = read_json(study.folder / "report.json")
    typer.echo(report["sentence"])
    typer.echo(f"Report: {study.folder / 'report.html'}")


@app.command()
def status(name: Name, as_json: Json = False) -> None:
    """Show how a study stands."""
    from assistant_builder.jobs.local import waiting_sentence

    study = Study.open(name)
    document = study.status()
    if as_json:
        return console.print_json(document)
    typer.echo(", ".join(filter(None, (f"{study.name}: {document['state']}", waiting_sentence(document["behind"])))))
    console.print_table(["step", "state", "time"], console.step_rows(document))
    runner = study.runner()
    if runner and runner["error"]:
        error = runner["error"]
        typer.echo(f"{error['where']}: {error['what']}. {error['remedy']}")


@app.command()
def cancel(name: Name) -> None:
    """Pause a running study after the optimizer step it is at, or take a waiting one out of the queue; all is kept."""
    study = Study.open(name)
    if study.state != "running" and not study.behind:
        raise StudyError(f"the study is not running ({study.state})", where=f"study {name}",
                         remedy=f"Start it with 'assistant-builder run {name}'")
    study.request_cancel()
    typer.echo(f"{name}: asked to stop after the step it is at; 'assistant-builder run {name}' carries on.")


@app.command("list")
def list_studies(as_json: Json = False) -> None:
    """List the studies, the last changed first."""
    studies = Study.all()
    if as_json:
        return console.print_json([study.status() for study in studies])
    if not studies:
        typer.echo("No studies yet. Start one with 'assistant-builder run FILE'.")
        return None
    console.print_table(["study", "state", "folder"], [[s.name, s.state, str(s.folder)] for s in studies])


@app.command()
def report(
    name: Name,
    format: Annotated[str, typer.Option(help="html prints the path; md and json print the text.")] = "html",
) -> None:
    """Show a study's report."""
    study = Study.open(name)
    if format not in ("html", "md", "json"):
        raise typer.BadParameter(f"{format!r} is none of html, md, json", param_hint="--format")
    path = study.folder / f"report.{format}"
    if not path.is_file():
        raise StudyError("there is no report yet", where=f"study {name}",
                         remedy=f"Finish the study with 'assistant-builder run {name}'")
    typer.echo(str(path) if format == "html" else path.read_text(encoding="utf-8").rstrip("\n"))


@app.command()
def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="Study to compare against; its margin and metric decide.")],
    b: Annotated[str, typer.Argument(metavar="B", help="Study that is compared.")],
    as_json: Json = False,
) -> None:
    """Compare two studies, item by item, on the held-out questions that both have."""
    first, second = Study.open(a), Study.open(b)
    from evals.across import compare_studies, contrast_rows, difference_rows

    comparison = compare_studies(first, second)
    if as_json:
        return console.print_json(comparison)
    typer.echo(f"A = {a}, B = {b}")
    if comparison["differences"]:
        console.print_table(["what differs", "A", "B"], difference_rows(comparison))
    console.print_table(["cell", "metric", "A", "B", "B \u2212 A", "95% interval", "p (Holm)"],
                        contrast_rows(comparison))
    typer.echo(comparison["sentence"])
    for warning in comparison["warnings"]:
        typer.echo(f"note: {warning}.")


@app.command()
def ask(
    name: Name,
    question: Annotated[str, typer.Argument(metavar="QUESTION")],
    arm: Annotated[str, typer.Option(help="qlora, lora or both.")] = "both",
    as_json: Json = False,
) -> None:
    """Put one question to the trained assistants."""
    if arm not in ("qlora", "lora", "both"):
        raise typer.BadParameter(f"{arm!r} is none of qlora, lora, both", param_hint="--arm")
    if not question.strip():
        raise ConfigError("the question is empty", remedy="Write one between quotes")
    from assistant_builder.chat.asking import ask_arms

    answers = ask_arms(Study.open(name), question, [known for known in ARMS if arm in (known, "both")])
    if as_json:
        return console.print_json({"question": question, "answers": answers})
    for asked, answer in answers.items():
        label = {"qlora": "QLoRA · 4-bit", "lora": "LoRA · 16-bit"}[asked]
        typer.echo(f"{label} ({answer['tokens']} tokens, {answer['seconds']:.1f} s): {answer['text']}")


@app.command()
def export(
    name: Name,
    arm: Annotated[str, typer.Option(help="qlora or lora.")],
    to: Annotated[Path, typer.Option(metavar="DIR", help="Folder to make; new or empty.")],
    format: Annotated[str, typer.Option(help="adapter: the adapter alone, with a zip; merged: the whole model in 16 "
                                        "bits, with an Ollama Modelfile.")] = "adapter",
    force: Annotated[bool, typer.Option("--force", help="Write into a folder that is not empty: files of the same name "
                                        "are replaced, all others stay.")] = False,
    sample: Annotated[int, typer.Option(min=1, help="Held-out items to score again after writing.")] = 20,
    as_json: Json = False,
) -> None:
    """Write a trained assistant to a folder, with model card, scored again after writing."""
    from evals.export.command import export_to, told_lines
    from evals.export.kinds import parse_kind

    try:
        kind = parse_kind(arm, format)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    if as_json:
        return console.print_json(export_to(Study.open(name), kind, to, force=force, sample=sample))
    with console.run_display() as display:
        record = export_to(Study.open(name), kind, to, force=force, sample=sample,
                           on_progress=lambda at: display(Event("export", "running", at)))
    for line in told_lines(record):
        typer.echo(line)


@app.command()
def settings(as_json: Json = False) -> None:
    """List every setting of study.yaml with its default and meaning."""
    rows: list[dict[str, Any]] = []
    for key, (field, default) in option_fields().items():
        value = default if isinstance(default, str | int | float | bool | None) else str(default)
        rows.append({"key": key, "default": value, "help": field.description or ""})
    if as_json:
        return console.print_json(rows)
    console.print_table(["setting", "default", "meaning"],
                        [[row["key"], "" if row["default"] is None else str(row["default"]), row["help"]]
                         for row in rows])


@app.command("app")
def app_command(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 7860,
    auth: Annotated[str | None, typer.Option(metavar="USER", help="Ask for this user; the password comes from "
                                             "ASSISTANT_BUILDER_PASSWORD or is asked for.")] = None,
) -> None:
    """Open the page."""
    if host not in ("127.0.0.1", "localhost", "::1") and auth is None:
        raise ConfigError(f"the page would be open to everyone who reaches {host}",
                          remedy="Add --auth USER, or leave --host at 127.0.0.1")
    login = None
    if auth is not None:
        password = os.environ.get("ASSISTANT_BUILDER_PASSWORD") or typer.prompt("Password", hide_input=True)
        login = (auth, password)
    from assistant_builder.ui.app import launch

    launch(host, port, login)


@app.command("step", hidden=True)
def step_command(
    step: Annotated[str, typer.Argument(help="data, data-embed or one that trains, such as train-lora.")],
    study: Annotated[Path, typer.Option(help="The study's folder.")],
) -> None:
    """Run one step in this process; the run command starts these."""
    from assistant_builder.jobs.data_steps import embed_data, prepare_data
    from assistant_builder.training.arm import train_arm
    from assistant_builder.worker import Work, run_as_step

    subject = Study(study)
    work: dict[str, Work] = {
        "data": lambda: prepare_data(subject),
        "data-embed": lambda: embed_data(subject),
        **{f"train-{run}": partial(train_arm, subject, run) for run in arm_runs(subject.config.seeds)},
    }
    if step not in work:
        raise typer.BadParameter(f"{step!r} is none of {', '.join(work)}", param_hint="STEP")
    raise SystemExit(run_as_step(subject, step, work[step]))
