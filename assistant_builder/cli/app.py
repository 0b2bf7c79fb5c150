"""Commands of the page: open it, and keep the password that it asks for."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from assistant_builder.errors import ConfigError

if TYPE_CHECKING:
    from assistant_builder.web.passwords import PasswordHash


def open_app(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.", min=0, max=65535)] = 7860,
    auth: Annotated[str | None, typer.Option(metavar="USER", help="Ask for this user; the password comes from "
                                             "ASSISTANT_BUILDER_PASSWORD, from 'assistant-builder password', or is "
                                             "asked for.")] = None,
    without_password: Annotated[bool, typer.Option("--without-password", help="Let everyone in who reaches --host.")]
    = False,
    allow_host: Annotated[list[str], typer.Option(metavar="NAME", help="A further name of this server; may be given "
                                                  "several times.")] = [],  # noqa: B006 - typer never changes it
    proxy: Annotated[str, typer.Option(metavar="ADDRESS", help="A reverse proxy in front; what it says of its clients "
                                       "is believed.")] = "",
    certificate: Annotated[Path | None, typer.Option(metavar="FILE", help="Speak https with this certificate (PEM).")]
    = None,
    key: Annotated[Path | None, typer.Option(metavar="FILE", help="The certificate's key (PEM).")] = None,
) -> None:
    """Open the page."""
    from assistant_builder.web.access import Access
    from assistant_builder.web.passwords import take_password

    given = take_password()
    access = Access(host, port, auth, None, without_password, tuple(allow_host), proxy, certificate, key)
    access.check()
    if auth is not None:
        access = replace(access, password=_password_of(auth, given))
    from assistant_builder.ui.app import launch

    launch(access)


def _password_of(user: str, given: str | None) -> PasswordHash:
    """The user's password: from the environment, else as it is stored, else as it is typed."""
    from assistant_builder.web.passwords import PASSWORD_VARIABLE, PasswordHash, stored_password

    if given is not None:
        return PasswordHash.of(given)
    stored = stored_password(user)
    if stored is not None:
        return stored
    if not sys.stdin.isatty():
        raise ConfigError(f"there is no password for {user!r}", remedy=f"Set {PASSWORD_VARIABLE}, or store one with "
                          f"'assistant-builder password {user}'")
    return PasswordHash.of(typer.prompt("Password", hide_input=True))


def save_password(user: Annotated[str, typer.Argument(metavar="USER", help="Who logs in with it.")]) -> None:
    """Store a password for 'app --auth USER', as a hash that only you can read."""
    from assistant_builder.web.passwords import store_password, take_password

    given = take_password() or typer.prompt("Password", hide_input=True, confirmation_prompt=True)
    typer.echo(f"Stored in {store_password(user, given)}; 'assistant-builder app --auth {user}' asks for it.")
