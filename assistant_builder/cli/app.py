"""The commands ``app`` and ``password``."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from assistant_builder.cli import output
from assistant_builder.errors import ConfigError

if TYPE_CHECKING:
    from assistant_builder.web.passwords import PasswordHash


def open_app(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.", min=0, max=65535)] = 7860,
    auth: Annotated[
        str | None,
        typer.Option(
            metavar="USER",
            help="Require a login as this user. The password comes "
            "from ASSISTANT_BUILDER_PASSWORD, from 'assistant-builder password', or "
            "from a prompt.",
        ),
    ] = None,
    without_password: Annotated[
        bool,
        typer.Option(
            "--without-password",
            help="Let everyone who can connect open the "
            "page, without a password and without the token.",
        ),
    ] = False,
    allow_host: Annotated[
        list[str],
        typer.Option(metavar="NAME", help="Additional host name of this server. Can be repeated."),
    ] = [],  # noqa: B006 - typer never changes it
    proxy: Annotated[
        str,
        typer.Option(
            metavar="ADDRESS",
            help="Address of a reverse proxy whose forwarded headers are trusted.",
        ),
    ] = "",
    certificate: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Serve HTTPS with this certificate (PEM).")
    ] = None,
    key: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Private key of the certificate (PEM).")
    ] = None,
) -> None:
    """Start the web app.

    The printed address ends with a token that is new at each start. The page opens only with it, or with --auth.
    """
    from assistant_builder.web.access import Access
    from assistant_builder.web.passwords import PASSWORD_VARIABLE, take_secret

    given = take_secret(PASSWORD_VARIABLE)
    access = Access(
        host, port, auth, None, without_password, tuple(allow_host), proxy, certificate, key
    )
    access.check()
    if auth is not None:
        access = replace(access, password=_find_password(auth, given))
    from assistant_builder.ui.app import launch

    launch(access)


def _find_password(user: str, given: str | None) -> PasswordHash:
    """The password of the user: from the environment, the password file, or a prompt."""
    from assistant_builder.web.passwords import PASSWORD_VARIABLE, PasswordHash, stored_password

    if given is not None:
        return PasswordHash.of(given)
    stored = stored_password(user)
    if stored is not None:
        return stored
    if not sys.stdin.isatty():
        raise ConfigError(
            f"there is no password for {user!r}",
            remedy=f"Set {PASSWORD_VARIABLE}, or store one with "
            f"'assistant-builder password {user}'",
        )
    return PasswordHash.of(typer.prompt("Password", hide_input=True))


def save_password(
    user: Annotated[str, typer.Argument(metavar="USER", help="Name of the user.")],
) -> None:
    """Store a password for 'app --auth USER'.

    The file contains a hash of the password and is readable only by you.
    """
    from assistant_builder.web.passwords import PASSWORD_VARIABLE, store_password, take_secret

    given = take_secret(PASSWORD_VARIABLE) or typer.prompt(
        "Password", hide_input=True, confirmation_prompt=True
    )
    output.echo(
        f"The password is stored in {store_password(user, given)}. Start the app with 'assistant-builder app "
        f"--auth {user}'."
    )
