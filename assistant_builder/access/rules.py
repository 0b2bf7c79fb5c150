"""What the server is told about who may reach it, checked before anything listens."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from assistant_builder.access.hosts import is_loopback
from assistant_builder.access.limits import ConnectionLimits, Limits
from assistant_builder.access.listening import url_of
from assistant_builder.access.passwords import PasswordHash
from assistant_builder.errors import ConfigError


@dataclass(frozen=True)
class Access:
    """Where the page is served, and to whom.

    Attributes:
        host: Address to listen on; the default is reachable from this machine only.
        port: Port to listen on; 0: one that is free.
        user: Who may log in; None: nobody is asked.
        password: The user's password.
        open_to_all: Whether other machines may reach the page without a password.
        allowed_hosts: Further names of the server, such as that of a reverse proxy.
        proxy: Address of a reverse proxy that is believed who its clients are, and whether they speak https.
        certificate: PEM file with the certificate and its chain, to speak https.
        key: PEM file with the certificate's key.
        limits: How much a request may bring.
        connections: How long and how often clients may keep connections waiting.
    """

    host: str = "127.0.0.1"
    port: int = 7860
    user: str | None = None
    password: PasswordHash | None = None
    open_to_all: bool = False
    allowed_hosts: tuple[str, ...] = ()
    proxy: str = ""
    certificate: Path | None = None
    key: Path | None = None
    limits: Limits = field(default_factory=Limits.from_environment)
    connections: ConnectionLimits = ConnectionLimits()

    @property
    def url(self) -> str:
        """Where a person on this machine finds the page."""
        return url_of(self.host, self.port, "https" if self.certificate is not None else "http")

    def check(self) -> list[str]:
        """Refuse what would let in everyone.

        Returns:
            Warnings for the person who starts the server.

        Raises:
            ConfigError: Other machines would reach the page without a password, or the settings do not fit together.
        """
        if (self.certificate is None) != (self.key is None):
            raise ConfigError("a certificate and its key belong together", remedy="Give both --certificate and --key")
        for file in (self.certificate, self.key):
            if file is not None and not file.is_file():
                raise ConfigError("there is no such file", where=str(file), remedy="Correct --certificate and --key")
        if is_loopback(self.host):
            if self.user is not None and self.allowed_hosts and not self.proxy:
                return ["all clients of a reverse proxy on this machine count as one, and one that guesses passwords "
                        "holds up the logins of all; name the proxy with --proxy 127.0.0.1"]
            return []
        if self.user is None:
            if not self.open_to_all:
                raise ConfigError(
                    f"the page would be open to everyone who reaches {self.host}",
                    remedy="Add --auth USER, leave --host at 127.0.0.1, or allow it with --without-password",
                )
            return [f"everyone who reaches {self.host} can read, change and delete every study"]
        if self.certificate is None and not self.proxy:
            return ["password and pages cross the network unencrypted; give --certificate and --key, or put a proxy "
                    "that speaks https in front and name it with --proxy"]
        return []
