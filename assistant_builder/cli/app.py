"""The commands ``app`` and ``password``."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from assistant_builder.cli import output
from assistant_builder.cli.options import documented
from assistant_builder.errors import ConfigError
from assistant_builder.i18n import m

if TYPE_CHECKING:
    from assistant_builder.web.passwords import PasswordHash


@documented()
def open_app(
    *,
    host: str = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535)] = 7860,
    auth: str | None = None,
    without_password: bool = False,
    allow_host: list[str] = [],
    proxy: str = "",
    certificate: Path | None = None,
    key: Path | None = None,
) -> None:
    """Start the web app.

    The printed address ends with a token that is new at each start. The page opens only with it, or with --auth.

    Args:
        host: Address to listen on.
        port: Port to listen on.
        auth (USER): Require a login as this user. The password comes from ASSISTANT_BUILDER_PASSWORD, from
            'assistant-builder password', or from a prompt.
        without_password: Let everyone who can connect open the page, without a password and without the token.
        allow_host (NAME): Additional host name of this server. Can be repeated.
        proxy (ADDRESS): Address of a reverse proxy whose forwarded headers are trusted.
        certificate (FILE): Serve HTTPS with this certificate (PEM).
        key (FILE): Private key of the certificate (PEM).
    """
    from assistant_builder.web.access import Access
    from assistant_builder.web.passwords import PASSWORD_VARIABLE, take_secret

    secret = take_secret(PASSWORD_VARIABLE)
    access = Access(
        host, port, auth, None, without_password, tuple(allow_host), proxy, certificate, key
    )
    access.check()
    if auth is not None:
        access = replace(access, password=_find_password(auth, secret))
    from assistant_builder.ui.app import launch

    launch(access)


def _find_password(user: str, secret: str | None) -> PasswordHash:
    """The password of the user: from the environment, the password file, or a prompt."""
    from assistant_builder.web.passwords import PASSWORD_VARIABLE, PasswordHash, stored_password

    if secret is not None:
        return PasswordHash.of(secret)
    stored = stored_password(user)
    if stored is not None:
        return stored
    if not sys.stdin.isatty():
        raise ConfigError(
            m("there is no password for {user!r}", user=user),
            remedy=m(
                "Set {password_variable}, or store one with 'assistant-builder password {user}'",
                password_variable=PASSWORD_VARIABLE,
                user=user,
            ),
        )
    return PasswordHash.of(typer.prompt("Password", hide_input=True))


@documented()
def save_password(user: str) -> None:
    """Store a password for 'app --auth USER'.

    The file contains a hash of the password and is readable only by you.

    Args:
        user (USER): Name of the user.
    """
    from assistant_builder.web.passwords import PASSWORD_VARIABLE, store_password, take_secret

    secret = take_secret(PASSWORD_VARIABLE) or typer.prompt(
        "Password", hide_input=True, confirmation_prompt=True
    )
    output.echo(
        f"The password is stored in {store_password(user, secret)}. Start the app with 'assistant-builder app "
        f"--auth {user}'."
    )
