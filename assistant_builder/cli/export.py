"""The command ``export``."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from assistant_builder.arms import ARMS
from assistant_builder.cli import output
from assistant_builder.cli.options import (
    ApproachName,
    Json,
    Name,
    TrustRemoteCode,
    documented,
    user_consent,
)
from assistant_builder.export_formats import DEFAULT_FORMAT, parse_export
from assistant_builder.runner.backend import Event
from assistant_builder.runner.display import run_display
from assistant_builder.study import Study


@documented(arms=" or ".join(ARMS))
def export(
    name: Name,
    *,
    arm: str,
    to: Path,
    format: str = DEFAULT_FORMAT,
    type: str | None = None,
    force: bool = False,
    sample: Annotated[int, typer.Option(min=1)] = 20,
    with_data: bool = False,
    push: str | None = None,
    public: bool = False,
    approach: ApproachName = None,
    trust_remote_code: TrustRemoteCode = False,
    as_json: Json = False,
) -> None:
    """Export a trained assistant to a folder.

    A model card is included. The written files are checked by scoring some held-out items again.

    Args:
        arm: Assistant to export: {arms}.
        to (DIR): Target folder; it must be new or empty.
        format: Format of the export.
        type: Type of the weights, for a format with several: with gguf BF16, Q8_0 (the default), Q6_K, Q5_K_M, Q5_1,
            Q4_K_M, Q4_1, Q4_0 or Q3_K_M.
        force: Write to a folder that is not empty. Files of the same name are replaced; other files are kept.
        sample: Number of held-out items for the check after writing.
        with_data: Add the index of a grounded assistant, with which it looks facts up. It contains the training pairs
            as plain text.
        push (OWNER/NAME): Upload the export to the model hub as a private repository. Needs a token with write access:
            HF_TOKEN or 'hf auth login'.
        public: With --push: let everyone read the repository.
    """
    from assistant_builder.export.job import export_to, summary_lines
    from assistant_builder.export.push import check_push, push_export, upload_lines

    if public and push is None:
        raise typer.BadParameter("--public needs --push OWNER/NAME", param_hint="--public")
    try:
        spec = parse_export(arm, format, type)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    study = Study.open(name).of_choice(approach)
    user_consent(trust_remote_code).allow(study.config)
    if push is not None:
        check_push(push)
    display: Callable[[Event], None]
    with nullcontext(lambda event: None) if as_json else run_display() as display:
        record = export_to(
            study,
            spec,
            to,
            on_progress=lambda at: display(Event("export", "running", at)),
            force=force,
            sample=sample,
            with_data=with_data,
        )
        display(Event("export", "succeeded"))
    say: Callable[[str], None] = (lambda line: None) if as_json else output.echo
    for line in summary_lines(record):
        say(line)
    if push is not None:
        for line in upload_lines(record, push, public=public):
            say(line)
        record["pushed"] = pushed = push_export(record, push, public=public)
        say(f"Uploaded ({'private' if pushed['private'] else 'public'}): {pushed['url']}")
    if as_json:
        output.print_json(record)
