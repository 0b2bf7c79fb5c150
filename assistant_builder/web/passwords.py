"""Passwords, stored as scrypt hashes, and the rate limit on login attempts."""

from __future__ import annotations

import base64
import hashlib
import hmac
import ipaddress
import json
import os
import secrets
import time
from collections.abc import Callable
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


FREE_ATTEMPTS = 5
MIN_WAIT, MAX_WAIT = 2.0, 900.0
"""Seconds that a client waits after its free attempts; the wait doubles with each further attempt."""
ALL_ATTEMPTS, ALL_SECONDS = 20, 10.0
"""Token bucket over all clients: its size in attempts, and the seconds after which one attempt is added."""
_FORGET_SECONDS = 24 * 3600.0
_MAX_CLIENTS = 10_000


@dataclass
class _Attempts:
    failures: int
    until: float
    last: float


class RateLimiter:
    """Rate limit on login attempts; an attempt counts before its check, so that parallel ones are limited too."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._clients: dict[str, _Attempts] = {}
        self._left, self._filled = float(ALL_ATTEMPTS), clock()

    def attempt(self, address: str) -> float:
        """Request an attempt from an IP address; returns the seconds to wait before the next request.

        0 permits the attempt, which counts as failed until :meth:`succeeded` is called.
        """
        now, client = self._clock(), client_key(address)
        record = self._clients.get(client)
        if record is not None and now - record.last > _FORGET_SECONDS:
            record = None
        if record is not None and now < record.until:
            return record.until - now
        self._left = min(float(ALL_ATTEMPTS), self._left + (now - self._filled) / ALL_SECONDS)
        self._filled = now
        if self._left < 1:
            return (1 - self._left) * ALL_SECONDS
        self._left -= 1
        failures = record.failures + 1 if record is not None else 1
        beyond = failures - FREE_ATTEMPTS
        wait = min(MIN_WAIT * 2.0 ** min(beyond, 30), MAX_WAIT) if beyond >= 0 else 0.0
        self._clients.pop(client, None)  # moves the client to the end of the dict
        self._clients[client] = _Attempts(failures, now + wait, now)
        if len(self._clients) > _MAX_CLIENTS:
            del self._clients[next(iter(self._clients))]
        return 0.0

    def failures(self, address: str) -> int:
        """Attempts of a client since it last succeeded."""
        record = self._clients.get(client_key(address))
        return record.failures if record is not None else 0

    def succeeded(self, address: str) -> None:
        """Reset the count of a client whose password was correct."""
        self._clients.pop(client_key(address), None)
        self._left = min(float(ALL_ATTEMPTS), self._left + 1)


IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


def parse_address(text: str) -> IPAddress | None:
    """An IP address; IPv4 if it is mapped to IPv6, and None if the text is none."""
    try:
        parsed = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return (parsed.ipv4_mapped or parsed) if isinstance(parsed, ipaddress.IPv6Address) else parsed


def client_key(address: str) -> str:
    """Key under which an address is counted; an IPv6 client owns a whole /64 network."""
    parsed = parse_address(address)
    if isinstance(parsed, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return address if parsed is None else str(parsed)
