"""The command ``versions``."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from datetime import datetime

from assistant_builder.cli import output
from assistant_builder.cli.options import Json, Name, documented
from assistant_builder.errors import AssistantBuilderError, ConfigError
from assistant_builder.i18n import m
from assistant_builder.study import Study
from assistant_builder.study import versions as log


@documented()
def versions(
    name: Name,
    *,
    create: bool = False,
    publish: str | None = None,
    anyway: bool = False,
    reject: str | None = None,
    why: str = "",
    undo: bool = False,
    as_json: Json = False,
) -> None:
    """List the versions of a published assistant, create the next one, and choose which one is served.

    A running 'assistant-builder serve NAME' follows the choice without dropping an answer.

    Args:
        create: Create the next version: the served one with its corrections as training pairs.
        publish (VERSION): Serve this version from now on, if it is no worse than the served one.
        anyway: For --publish: also if nothing shows that it is no worse.
        reject (VERSION): Keep this version without serving it.
        why (TEXT): For --reject: the reason.
        undo: Serve the version again that was served before.
    """
    from evals.study_compare import versions as compared

    root = log.root_of(Study.open(name))
    if sum([create, publish is not None, reject is not None, undo]) > 1:
        raise ConfigError(
            m("only one of --create, --publish, --reject and --undo can be given"), where="versions"
        )
    if create:
        made, plan = compared.create_next_version(root)
        return output.echo(
            f"Created {made.name} with {len(plan.trained)} corrections. Train and evaluate it: "
            f"assistant-builder run {shlex.quote(made.name)}"
        )
    if publish is not None:
        verdict = compared.publish_version(root, Study.open(publish), anyway=anyway)
        return output.echo(f"{publish} is served now. {verdict.sentence}")
    if reject is not None:
        log.reject(root, reject, why or "rejected on the command line")
        return output.echo(f"{reject} is rejected.")
    if undo:
        return output.echo(f"{log.undo(root)} is served again.")
    known = log.read_versions(root)
    verdicts = {each: _verdict(root, each) for each in known.names if each != known.served}
    if as_json:
        return output.print_json(
            {
                **asdict(known),
                "verdicts": verdicts,
                "candidate": known.candidate,
                "corrections": len(compared.pending_corrections(root)),
            }
        )
    _print(root, known, verdicts, len(compared.pending_corrections(root)))


def _verdict(root: Study, version: str) -> str:
    """The verdict on a version in one sentence."""
    from evals.study_compare.versions import version_verdict

    try:
        verdict = version_verdict(root, Study.open(version))
    except AssistantBuilderError as error:
        return f"no verdict: {error}"
    return str(verdict.sentence or verdict.outcome)


def _print(root: Study, known: log.Versions, verdicts: dict[str, str], corrections: int) -> None:
    rejected = [name for name in known.names if known.reason(name) is not None]
    states = {known.candidate: "waits"} | dict.fromkeys(rejected, "rejected")
    states[known.served] = "served"
    rows = []
    for name in known.names:
        made = next((event for event in known.events if event.version == name), None)
        when = datetime.fromtimestamp(made.time).strftime("%Y-%m-%d %H:%M") if made else ""
        rows.append(
            [name, when, states.get(name, ""), known.reason(name) or verdicts.get(name, "")]
        )
    output.print_table(["version", "created", "state", "compared with the served one"], rows)
    if known.candidate is None and corrections:
        output.echo(
            f"{corrections} corrections for the next version: assistant-builder versions "
            f"{shlex.quote(root.name)} --create"
        )
