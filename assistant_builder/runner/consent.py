"""What the user permits for one run: the Python code of a base model, and addresses that come from a file."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping

from assistant_builder.config import StudyConfig, printable
from assistant_builder.models.fetch import needs_embedder_download
from assistant_builder.models.remote_code import allow_code
from assistant_builder.study.addresses import allow_addresses, not_allowed, require_allowed

_log = logging.getLogger(__name__)


class Consent:
    """What the user permits; called with the settings of a study before anything is contacted.

    Args:
        trust: Whether the base model's own code may run.
        addresses: Allowed addresses, which are remembered.
        note: Receives each line about what a run contacts, once.
        confirm: Asks the user a question; by default nobody can be asked.
    """

    def __init__(
        self,
        trust: bool = False,
        addresses: Iterable[str] = (),
        note: Callable[[str], None] = _log.warning,
        confirm: Callable[[str], bool] = lambda question: False,
    ) -> None:
        self._trust = trust
        self._addresses = {address.rstrip("/") for address in addresses}
        self._note, self._confirm = note, confirm
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
        """Ask for the addresses of ``{setting: address}`` that the user has not allowed.

        Raises:
            ConfigError: The user does not allow one.
        """
        for key, address in not_allowed(addresses).items():
            if address.rstrip("/") in self._addresses or self._confirm(
                f"Connect to {printable(address)} ({key})?"
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
            self._note(printable(line))
