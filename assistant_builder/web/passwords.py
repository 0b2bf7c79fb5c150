"""Passwords, stored as scrypt hashes."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from assistant_builder.atomic_io import read_json, write_bytes
from assistant_builder.errors import ConfigError
from assistant_builder.i18n import m
from assistant_builder.redaction import PASSWORD
from assistant_builder.study import home

PASSWORD_VARIABLE = PASSWORD
MIN_LENGTH = 8
"""Characters of the shortest password that can be stored."""
_LOG_N, _R, _P = 15, 8, 3
"""2^15 · 8 · 128 bytes = 32 MiB and three passes: OWASP's "Password Storage" cheat sheet, its scrypt row for 32 MiB."""
_MAX_MEMORY = 64 * 2**20


@dataclass(frozen=True)
class PasswordHash:
    """A scrypt hash of a password."""

    log_n: int  # binary logarithm of scrypt's N
    r: int
    p: int
    salt: bytes  # 16 random bytes
    digest: bytes  # 32 bytes

    @classmethod
    def of(cls, password: str) -> PasswordHash:
        """Hash a password with a new salt."""
        salt = secrets.token_bytes(16)
        return cls(_LOG_N, _R, _P, salt, _scrypt(password, salt, _LOG_N, _R, _P))

    def matches(self, password: str) -> bool:
        """Whether the password is correct, compared in constant time."""
        tried = _scrypt(password, self.salt, self.log_n, self.r, self.p)
        return hmac.compare_digest(tried, self.digest)

    def to_text(self) -> str:
        """One line, ``scrypt$15$8$3$salt$digest``."""
        salt, digest = (base64.b64encode(part).decode("ascii") for part in (self.salt, self.digest))
        return f"scrypt${self.log_n}${self.r}${self.p}${salt}${digest}"

    @classmethod
    def from_text(cls, text: str) -> PasswordHash:
        """Parse a line of :meth:`to_text`; raises ValueError if it is malformed or its cost is out of bounds."""
        name, log_n, r, p, salt, digest = text.split("$")
        found = cls(
            int(log_n),
            int(r),
            int(p),
            base64.b64decode(salt, validate=True),
            base64.b64decode(digest, validate=True),
        )
        if name != "scrypt" or not (
            10 <= found.log_n <= 15 and 1 <= found.r <= 8 and 1 <= found.p <= 8
        ):
            raise ValueError("not a scrypt hash of acceptable cost")
        if len(found.salt) < 8 or len(found.digest) != 32:
            raise ValueError("the salt or the digest is too short")
        return found


def _scrypt(password: str, salt: bytes, log_n: int, r: int, p: int) -> bytes:
    content = password.encode("utf-8", errors="surrogatepass")
    return hashlib.scrypt(content, salt=salt, n=2**log_n, r=r, p=p, maxmem=_MAX_MEMORY, dklen=32)


def password_file() -> Path:
    """``passwords.json`` in the home folder: user → hash, readable only by its owner."""
    return home() / "passwords.json"


def store_password(user: str, password: str) -> Path:
    """Store the hash of a user's password; raises ConfigError if it is too short or the file cannot be used."""
    if len(password) < MIN_LENGTH:
        raise ConfigError(
            m("the password has {password} characters", password=len(password)),
            remedy=m(
                "Use at least {min_length}; four random words are easy to remember",
                min_length=MIN_LENGTH,
            ),
        )
    path = password_file()
    known = _read_file(path) if path.exists() else {}
    content = (
        json.dumps(
            {**known, user: PasswordHash.of(password).to_text()}, ensure_ascii=False, indent=2
        )
        + "\n"
    )
    try:
        write_bytes(path, content.encode("utf-8"), mode=0o600)
    except OSError as error:
        raise ConfigError(
            m("the password cannot be stored: {strerror}", strerror=error.strerror),
            where=str(path),
            remedy=m("Free space, or set ASSISTANT_BUILDER_HOME to a folder you may write to"),
        ) from error
    return path


def stored_password(user: str) -> PasswordHash | None:
    """The stored hash of a user's password, or None; ConfigError if others can read the file or it is damaged."""
    path = password_file()
    if not path.exists():
        return None
    _check_private(path, path.stat().st_mode)
    text = _read_file(path).get(user)
    try:
        return PasswordHash.from_text(text) if text is not None else None
    except ValueError as error:
        raise _damaged_file_error(path, user) from error


def _check_private(path: Path, mode: int) -> None:
    if os.name == "posix" and mode & 0o077:
        raise ConfigError(
            m("other users of this machine can read the file"),
            where=str(path),
            remedy=m("Run chmod 600 {path}", path=path),
        )


def _read_file(path: Path) -> dict[str, str]:
    tree = read_json(path)
    if not isinstance(tree, dict) or not all(isinstance(text, str) for text in tree.values()):
        raise _damaged_file_error(path, "USER")
    return tree


def _damaged_file_error(path: Path, user: str) -> ConfigError:
    return ConfigError(
        m("the stored passwords are damaged"),
        where=str(path),
        remedy=m(
            "Remove the file and store them again with 'assistant-builder password {user}'",
            user=user,
        ),
    )


def take_secret(variable: str) -> str | None:
    """Read a secret from an environment variable, or from the file that ``<variable>_FILE`` names.

    The variable is removed from the environment, so that child processes do not inherit it. Until this process and its
    parents end, it can still be read from their ``/proc/PID/environ``; a file avoids that.

    Raises:
        ConfigError: The file cannot be read, or other users of this machine can read it.
    """
    secret, file = os.environ.pop(variable, ""), os.environ.get(f"{variable}_FILE", "")
    if secret or not file:
        return secret or None
    try:
        mode, text = Path(file).stat().st_mode, Path(file).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ConfigError(
            m("the file cannot be read: {value}", value=getattr(error, "strerror", None) or error),
            where=file,
            remedy=m("Correct {variable}_FILE", variable=variable),
        ) from error
    _check_private(Path(file), mode)
    return text.rstrip("\r\n") or None
