"""The commands ``bundle`` and ``verify``."""

from __future__ import annotations

import os
from pathlib import Path

from assistant_builder.atomic_io import write_text
from assistant_builder.cli import output
from assistant_builder.cli.options import Json, Name, documented
from assistant_builder.i18n import m
from assistant_builder.redaction import KEY_PASSWORD as PASSWORD


@documented(password=PASSWORD)
def bundle(
    name: Name,
    *,
    to: Path,
    private: bool = False,
    key: Path | None = None,
    auditor: Path | None = None,
) -> None:
    """Write a finished study, or a comparison of models, as one file that others can check with 'verify'.

    Args:
        to (FILE): The file.
        private: Replace questions, references and answers by salted hashes.
        key (FILE): Sign it with this Ed25519 private key in PEM; its password is read from {password}.
        auditor (FILE): Also write the fields of the EU AI Act's Annex IV and Articles 10, 12 and 15 as Markdown.
    """
    from evals.bundle.auditor import auditor_markdown
    from evals.bundle.container import read_bundle
    from evals.bundle.write import write_bundle

    password = os.environ.get(PASSWORD)
    path = write_bundle(
        name, to, private=private, key=key, password=password.encode() if password else None
    )
    values, seal = read_bundle(path)
    if auditor is not None:
        write_text(auditor, auditor_markdown(name, values["auditor"]))
    if values["sbom"] is None:
        output.note(
            "The bundle has no bill of materials, because the extra audit is not installed."
        )
    output.echo(f"{path} {seal['sha256']}")


@documented()
def verify(bundle: Path, *, public_key: Path | None = None, as_json: Json = False) -> None:
    """Check a bundle: recompute its verdict from the scores of the items, without a model.

    Args:
        bundle (BUNDLE): The file.
        public_key (FILE): Require a signature by this Ed25519 public key in PEM.
    """
    from evals.bundle.container import Refused
    from evals.bundle.verify import verify as check

    try:
        found = check(bundle, public_key)
    except Refused as refused:
        if as_json:
            output.print_json({"holds": False, "place": refused.place, "reason": refused.reason})
        output.fail_with(
            1,
            m(
                "{bundle} does not hold: {place}: {reason}",
                bundle=bundle.name,
                place=refused.place,
                reason=refused.reason,
            ),
        )
    if as_json:
        output.print_json({"holds": True, **found})
        return
    checked = found["checked"]
    output.echo(
        f"{bundle.name} holds: {checked['verdicts']} verdicts, {checked['claims']} differences and "
        f"{checked['figures']} figures follow from the scores of {checked['items']} items "
        f"({found['seconds']:.1f} s)."
    )
    for verdict in found["verdicts"]:
        figures = {key: f"{verdict[key]:.4g}" for key in ("delta", "ci_low", "ci_high", "margin")}
        output.echo(
            f"{verdict['place']}: {verdict['outcome']}, computed on {verdict['n']} items: {verdict['metric']} "
            "{delta} ({ci_low} to {ci_high}), margin {margin}".format(**figures)
        )
        output.echo(f"in the words of its author: {verdict['sentence']}")
    output.echo(f"signature: {found['signature']}")
