"""The record of an error; apart from the errors, which need no other library."""

from typing import Any

from typing_extensions import TypedDict


class ErrorRecord(TypedDict, total=False):
    """An error in a status file and in ``--json`` output; ``messages`` has those of its texts that are messages."""

    type: str
    what: str
    where: str
    remedy: str
    messages: dict[str, Any]
