"""The exception hierarchy. Every error states what is wrong, where, and the remedy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from assistant_builder.i18n import ByPlace, Message, Text, as_in_files, m, render, text_of
from assistant_builder.redaction import redact_secrets, terminal_text

if TYPE_CHECKING:
    from assistant_builder.error_record import ErrorRecord


class AssistantBuilderError(Exception):
    """An error for the user: what is wrong, with the value; where (file, row, setting or step); and the remedy."""

    def __init__(self, what: Text, *, where: Text = "", remedy: Text = "") -> None:
        self.what, self.where, self.remedy = (_redacted(text) for text in (what, where, remedy))
        super().__init__(self.what)

    @property
    def line(self) -> Text:
        """``where: what. remedy`` as one message."""
        head = m("{where}: {what}", where=self.where, what=self.what) if self.where else self.what
        return m("{what}. {remedy}", what=head, remedy=self.remedy) if self.remedy else head

    def __str__(self) -> str:
        """One line for a terminal: ``where: what. remedy``."""
        what, where, remedy = map(render, (self.what, self.where, self.remedy))
        head = f"{where}: {what}" if where else what
        line = f"{head.rstrip('.')}. {remedy}" if remedy else head
        return terminal_text(" ".join(line.split()))

    def to_record(self) -> ErrorRecord:
        """The error as a record in status files and ``--json`` output, in English."""
        texts = {"what": self.what, "where": self.where, "remedy": self.remedy}
        with as_in_files():
            record: ErrorRecord = {
                "type": type(self).__name__,
                "what": render(self.what),
                "where": render(self.where),
                "remedy": render(self.remedy),
            }
        messages = {
            key: text.to_record() for key, text in texts.items() if isinstance(text, Message)
        }
        if messages:
            record["messages"] = messages
        return record


def error_texts(record: Mapping[str, Any], *, where: Text = "") -> dict[str, Text]:
    """The arguments ``what``, ``where`` and ``remedy`` of the error with this record; ``where`` if it has none."""
    messages = record.get("messages")
    if not isinstance(messages, Mapping):
        messages = {}
    texts = {
        key: text_of(messages.get(key), record.get(key)) for key in ("what", "where", "remedy")
    }
    return texts | {"where": texts["where"] or where}


def _redacted(text: Text) -> Text:
    return text.map(redact_secrets) if isinstance(text, Message) else redact_secrets(text)


_START_ANEW = ByPlace(
    m("start a new study with --name NEW"), m("start a new project with another name")
)
CHOOSE_NAME = ByPlace(m("Choose another name with --name NEW"), m("Choose another name"))
"""What to do where a study with the name exists."""


def install_command(extra: str) -> str:
    """How one of the package's extras is installed; the package is on no index."""
    return f"pip install -e '.[{extra}]' in the clone of Assistant Builder"


class ConfigError(AssistantBuilderError):
    """A setting is missing, unknown or out of bounds."""


class DataError(AssistantBuilderError):
    """A data file cannot be read, or too little of it can be used."""


class StudyError(AssistantBuilderError):
    """A study is missing, exists already, is locked, or its folder is damaged."""


class ChangedInputsError(StudyError):
    """The inputs of a finished step have changed; ``changes`` has one line per input, ``key: old -> new``."""

    def __init__(self, step: str, changes: list[str], name: str) -> None:
        self.step = step
        self.changes = changes
        super().__init__(
            m(
                "step {step!r} was finished with other inputs ({changes})",
                step=step,
                changes="; ".join(changes),
            ),
            where=m("{study} {name}", name=name),
            remedy=m(
                "Keep the old result and {start_anew}, or {with_redo} to run this step and all later steps again",
                start_anew=_START_ANEW,
            ),
        )


class StoreError(AssistantBuilderError):
    """A store cannot be reached, refuses the credentials, or holds another study."""


class ModelError(AssistantBuilderError):
    """A base model or embedder is unknown, unreachable, refused or damaged."""


class HubError(AssistantBuilderError):
    """The model hub cannot be reached, or refuses an upload."""


class ResourceError(AssistantBuilderError):
    """Memory or disk space is insufficient."""


class EvaluationError(AssistantBuilderError):
    """An evaluation cannot be run as configured."""


class Cancelled(AssistantBuilderError):  # noqa: N818 - a state, not a failure
    """The user stopped the run."""
