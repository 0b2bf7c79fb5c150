"""The command ``versions``."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from datetime import datetime
from typing import Annotated

import typer

from assistant_builder.cli import output
from assistant_builder.cli.options import Json, Name
from assistant_builder.errors import AssistantBuilderError, ConfigError
from assistant_builder.study import Study
from assistant_builder.study.versions import Versions, read_versions, reject, root_of, undo

_Option = typer.Option


def versions(
    name: Name,
    create: Annotated[
        bool,
        _Option(
            "--create",
            help="Create the next version: the served one with its corrections as training pairs.",
        ),
    ] = False,
    publish: Annotated[
        str | None,
        _Option(
            metavar="VERSION",
            help="Serve this version from now on, if it is no worse than the served one.",
        ),
    ] = None,
    anyway: Annotated[
        bool, _Option("--anyway", help="For --publish: also if nothing shows that it is no worse.")
    ] = False,
    refuse: Annotated[
        str | None,
        _Option("--reject", metavar="VERSION", help="Keep this version without serving it."),
    ] = None,
    why: Annotated[str, _Option(metavar="TEXT", help="For --reject: the reason.")] = "",
    back: Annotated[
        bool, _Option("--undo", help="Serve the version again that was served before.")
    ] = False,
    as_json: Json = False,
) -> None:
    """List the versions of a published assistant, create the next one, and choose which one is served.

    A running 'assistant-builder serve NAME' follows the choice without dropping an answer.
    """
    from evals.study_compare import versions as found

    root = root_of(Study.open(name))
    if sum([create, publish is not None, refuse is not None, back]) > 1:
        raise ConfigError(
            "only one of --create, --publish, --reject and --undo can be given", where="versions"
        )
    if create:
        made, plan = found.create_next_version(root)
        return output.echo(
            f"Created {made.name} with {len(plan.trained)} corrections. Train and evaluate it: "
            f"assistant-builder run {shlex.quote(made.name)}"
        )
    if publish is not None:
        verdict = found.publish_version(root, Study.open(publish), anyway=anyway)
        return output.echo(f"{publish} is served now. {verdict.sentence}")
    if refuse is not None:
        reject(root, refuse, why or "rejected on the command line")
        return output.echo(f"{refuse} is rejected.")
    if back:
        return output.echo(f"{undo(root)} is served again.")
    known = read_versions(root)
    verdicts = {each: _verdict(root, each) for each in known.names if each != known.served}
    if as_json:
        return output.print_json(
            {
                **asdict(known),
                "verdicts": verdicts,
                "candidate": known.candidate,
                "corrections": len(found.pending_corrections(root)),
            }
        )
    _print(root, known, verdicts, len(found.pending_corrections(root)))


def _verdict(root: Study, version: str) -> str:
    """The verdict on a version in one sentence."""
    from evals.study_compare.versions import version_verdict

    try:
        verdict = version_verdict(root, Study.open(version))
    except AssistantBuilderError as error:
        return f"no verdict: {error}"
    return verdict.sentence or verdict.outcome


def _print(root: Study, known: Versions, verdicts: dict[str, str], corrections: int) -> None:
    rows = []
    for name in known.names:
        made = next((event for event in known.events if event.version == name), None)
        state = (
            "served"
            if name == known.served
            else "rejected"
            if known.reason(name) is not None
            else "waits"
            if name == known.candidate
            else ""
        )
        when = datetime.fromtimestamp(made.time).strftime("%Y-%m-%d %H:%M") if made else ""
        rows.append([name, when, state, known.reason(name) or verdicts.get(name, "")])
    output.print_table(["version", "created", "state", "compared with the served one"], rows)
    if known.candidate is None and corrections:
        output.echo(
            f"{corrections} corrections for the next version: assistant-builder versions "
            f"{shlex.quote(root.name)} --create"
        )
