"""Arguments and options that several commands share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperOption

from assistant_builder.cli import output
from assistant_builder.config import StudyConfig, printable, read_value
from assistant_builder.models.download import needs_embedder_download
from assistant_builder.models.remote_code import allow_code
from assistant_builder.registry import Listed
from assistant_builder.study.addresses import allow_addresses, not_allowed, require_allowed

ApproachName = Annotated[
    str | None,
    typer.Option(
        "--approach",
        help="Which assistant of a study with both approaches: grounded or memory. Default: the one that the "
        "report recommends.",
    ),
]
Json = Annotated[
    bool,
    typer.Option("--json", help="Print one JSON document to standard output and nothing else."),
]
Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the study.")]
Settings = Annotated[
    list[str],
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change a setting, e.g. train.epochs=2. Can be "
        "repeated. 'assistant-builder settings' lists all settings.",
    ),
]
TrustRemoteCode = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code",
        help="Allow this command to run the Python code in the base model's "
        "folder or repository. Read that code first.",
    ),
]
TrustAddress = Annotated[
    list[str],
    typer.Option(
        "--trust-address",
        metavar="ADDRESS",
        help="Allow to connect to this address of a cluster, "
        "store or judge, which comes from a file. Can be repeated. It is remembered.",
    ),
]
_TRUST_KEY = "model.trust_remote_code"


def with_choices(**registries: Mapping[str, Listed]) -> type[TyperCommand]:
    """A command whose options of these names take an entry of a registry; the help lists the entries.

    The registries are read when the help is printed, because reading them imports plugins.
    """

    class Command(TyperCommand):
        def format_help(self, ctx: Any, formatter: Any) -> None:
            for param in self.params:
                registry = registries.get(param.name or "")
                if registry is not None and isinstance(param, TyperOption):
                    entries = [f"{entry.name}: {entry.help}" for entry in registry.values()]
                    param.help = (
                        f"{(param.help or '').partition(':')[0].rstrip('.')}: {'; '.join(entries)}."
                    )
                    param.metavar = "|".join(registry)
            super().format_help(ctx, formatter)

    return Command


class Consent:
    """What the user of a command permits, logged once to standard error.

    ``trust``: the base model's own code; ``addresses``: addresses that come from a file.
    """

    def __init__(self, trust: bool, addresses: Sequence[str] = ()) -> None:
        self._trust = trust
        self._addresses = {address.rstrip("/") for address in addresses}
        self._noted: set[str] = set()

    def __call__(self, config: StudyConfig) -> None:
        """Log the network addresses that a run with these settings contacts, and allow them and the model's code.

        Raises:
            ConfigError: The user does not allow an address.
        """
        for key, what in config.external_addresses.items():
            self.note(f"this run {what} ({key})")
        if needs_embedder_download(config.retrieval.embedder):
            self.note(
                f"this run downloads the sentence embedder {config.retrieval.embedder} from the model hub "
                "(retrieval.embedder)"
            )
        self.connect(config.addresses)
        self.allow(config)

    def connect(self, addresses: Mapping[str, str]) -> None:
        """Ask at a terminal for the addresses of ``{setting: address}`` that the user has not allowed.

        Raises:
            ConfigError: The user does not allow one.
        """
        for key, address in not_allowed(addresses).items():
            if address.rstrip("/") in self._addresses or (
                output.is_terminal()
                and typer.confirm(
                    f"Connect to {printable(address)} ({key})?", default=False, err=True
                )
            ):
                allow_addresses([address])
        require_allowed(addresses)

    def allow(self, config: StudyConfig) -> None:
        """Allow the base model's code if the user permitted it, for a command that contacts no address."""
        if self._trust:
            self.note(
                f"this command may run the Python code of {allow_code(config.model)} (--trust-remote-code)"
            )

    def note(self, line: str) -> None:
        """Log a line once."""
        if line not in self._noted:
            self._noted.add(line)
            output.note(printable(line))


def split_consent(
    settings: list[str], trust: bool, addresses: Sequence[str] = ()
) -> tuple[list[str], Consent]:
    """Separate the permission to run the base model's code from the settings.

    ``--set model.trust_remote_code=true`` has the same effect as ``--trust-remote-code``: it is not saved.
    """
    trusting = [
        text
        for text in settings
        if text.partition("=")[0] == _TRUST_KEY
        and read_value(_TRUST_KEY, text.partition("=")[2]) is True
    ]
    return [text for text in settings if text not in trusting], Consent(
        trust or bool(trusting), addresses
    )


def parse_settings(settings: list[str]) -> dict[str, str]:
    """``["train.epochs=2"]`` → ``{"train.epochs": "2"}``."""
    wrong = [text for text in settings if "=" not in text]
    if wrong:
        raise typer.BadParameter(
            f"{wrong[0]!r} is not KEY=VALUE, e.g. --set train.epochs=2", param_hint="--set"
        )
    return dict(text.split("=", 1) for text in settings)
