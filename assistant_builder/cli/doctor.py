"""The command ``doctor``."""

from __future__ import annotations

from assistant_builder.cli import output
from assistant_builder.cli.options import Json


def doctor(as_json: Json = False) -> None:
    """Check this machine and the installed packages, and show how to fix problems."""
    from assistant_builder.doctor import diagnose

    report = diagnose()
    if as_json:
        return output.print_json(report)
    output.print_table(
        ["", "check", "found", "remedy"],
        [
            ["✓" if check["ok"] else "✗", check["name"], str(check["value"]), check["remedy"] or ""]
            for check in report["checks"]
        ],
    )
