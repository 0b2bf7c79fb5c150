"""Passwords, kept as scrypt hashes, and the rate limit on attempts to log in."""

from __future__ import annotations

import base64
import hashlib
import hmac
import ipaddress
import json
import os
import secrets
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from assistant_builder.atomic_io import read_json
from assistant_builder.errors import ConfigError
from assistant_builder.study import home

PASSWORD_VARIABLE = "ASSISTANT_BUILDER_PASSWORD"
MIN_LENGTH = 8
"""Characters of a password worth storing."""
_LOG_N, _R, _P = 15, 8, 3
"""2^15 · 8 · 128 bytes = 32 MiB and three passes: OWASP's "Password Storage" cheat sheet, its scrypt row for 32 MiB."""
_MAX_MEMORY = 64 * 2**20


@dataclass(frozen=True)
class PasswordHash:
    """What is kept of a password.

    Attributes:
        log_n: Binary logarithm of scrypt's N.
        r: scrypt's block size.
        p: scrypt's parallelization.
        salt: 16 random bytes.
        digest: 32 bytes.
    """

    log_n: int
    r: int
    p: int
    salt: bytes
    digest: bytes

    @classmethod
    def of(cls, password: str) -> PasswordHash:
        """Hash a password with a new salt."""
        salt = secrets.token_bytes(16)
        return cls(_LOG_N, _R, _P, salt, _scrypt(password, salt, _LOG_N, _R, _P))

    def matches(self, password: str) -> bool:
        """Whether it is the password; takes as long for a wrong one."""
        tried = _scrypt(password, self.salt, self.log_n, self.r, self.p)
        return hmac.compare_digest(tried, self.digest)

    def to_text(self) -> str:
        """One line, ``scrypt$15$8$3$salt$digest``."""
        salt, digest = (base64.b64encode(part).decode("ascii") for part in (self.salt, self.digest))
        return f"scrypt${self.log_n}${self.r}${self.p}${salt}${digest}"

    @classmethod
    def from_text(cls, text: str) -> PasswordHash:
        """The reverse of :meth:`to_text`.

        Raises:
            ValueError: The text is no such line, or its cost is out of bounds.
        """
        name, log_n, r, p, salt, digest = text.split("$")
        found = cls(int(log_n), int(r), int(p), base64.b64decode(salt, validate=True),
                    base64.b64decode(digest, validate=True))
        if name != "scrypt" or not (10 <= found.log_n <= 15 and 1 <= found.r <= 8 and 1 <= found.p <= 8):
            raise ValueError("not a scrypt hash of bearable cost")
        if len(found.salt) < 8 or len(found.digest) != 32:
            raise ValueError("salt or digest are too short")
        return found


def _scrypt(password: str, salt: bytes, log_n: int, r: int, p: int) -> bytes:
    given = password.encode("utf-8", errors="surrogatepass")
    return hashlib.scrypt(given, salt=salt, n=2**log_n, r=r, p=p, maxmem=_MAX_MEMORY, dklen=32)


def password_file() -> Path:
    """``passwords.json`` of the home: user → hash, readable by its owner alone."""
    return home() / "passwords.json"


def store_password(user: str, password: str) -> Path:
    """Keep the hash of a user's password in :func:`password_file`.

    Raises:
        ConfigError: The password is too short, or the file is damaged or cannot be written.
    """
    if len(password) < MIN_LENGTH:
        raise ConfigError(f"the password has {len(password)} characters",
                          remedy=f"Take at least {MIN_LENGTH}; four random words are easy to keep in mind")
    path = password_file()
    known = _read_file(path) if path.exists() else {}
    content = json.dumps({**known, user: PasswordHash.of(password).to_text()}, ensure_ascii=False, indent=2) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".passwords.")  # readable by its owner alone
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise ConfigError(f"the password cannot be stored: {error.strerror}", where=str(path),
                          remedy="Free space, or set ASSISTANT_BUILDER_HOME to a folder you may write to") from error
    return path


def stored_password(user: str) -> PasswordHash | None:
    """The hash kept for a user, None where there is none.

    Raises:
        ConfigError: Others can read the file, or it is damaged.
    """
    path = password_file()
    if not path.exists():
        return None
    if os.name == "posix" and path.stat().st_mode & 0o077:
        raise ConfigError("others on this machine can read the stored passwords", where=str(path),
                          remedy=f"Take it from them: chmod 600 {path}")
    text = _read_file(path).get(user)
    try:
        return PasswordHash.from_text(text) if text is not None else None
    except ValueError as error:
        raise _damaged_file_error(path, user) from error


def _read_file(path: Path) -> dict[str, str]:
    tree = read_json(path)
    if not isinstance(tree, dict) or not all(isinstance(text, str) for text in tree.values()):
        raise _damaged_file_error(path, "USER")
    return tree


def _damaged_file_error(path: Path, user: str) -> ConfigError:
    return ConfigError("the stored passwords are damaged", where=str(path),
                       remedy=f"Remove the file and store them anew with 'assistant-builder password {user}'")


def take_password() -> str | None:
    """The password of :data:`VARIABLE`; see :func:`take_secret`."""
    return take_secret(PASSWORD_VARIABLE)


def take_secret(variable: str) -> str | None:
    """What a variable holds, or the file that the variable of the same name with ``_FILE`` names.

    The variable is taken out of the environment, so that no process started later inherits it. Those who may read
    ``/proc/PID/environ`` of this process or of its parents still find it there, until they end; not so with a file.

    Args:
        variable: Its name.

    Raises:
        ConfigError: The file cannot be read, or others on this machine can read it too.
    """
    given, named = os.environ.pop(variable, ""), os.environ.get(f"{variable}_FILE", "")
    if given or not named:
        return given or None
    try:
        mode, text = Path(named).stat().st_mode, Path(named).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ConfigError(f"the file cannot be read: {getattr(error, 'strerror', None) or error}", where=named,
                          remedy=f"Correct {variable}_FILE") from error
    if os.name == "posix" and mode & 0o077:
        raise ConfigError("others on this machine can read the file", where=named,
                          remedy=f"Take it from them: chmod 600 {named}")
    return text.rstrip("\r\n") or None


FREE_ATTEMPTS = 5
FIRST_WAIT, LONGEST_WAIT = 2.0, 900.0
"""Seconds a client waits after its free attempts; doubled with each further one."""
ALL_ATTEMPTS, ALL_SECONDS = 20, 10.0
"""Attempts of all clients together that may come at once, and the seconds after which one more may."""
_FORGET_SECONDS = 24 * 3600.0
_MAX_CLIENTS = 10_000


@dataclass
class _Attempts:
    failures: int
    until: float
    last: float


class RateLimiter:
    """Counts attempts before they are judged, so that many at once are no way around it.

    Args:
        clock: Seconds, never going backwards.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._clients: dict[str, _Attempts] = {}
        self._left, self._filled = float(ALL_ATTEMPTS), clock()

    def attempt(self, address: str) -> float:
        """Ask to try a password.

        Args:
            address: Where the client is.

        Returns:
            Seconds to wait before it is asked again; 0: the attempt may be made, and is counted as failed until
            :meth:`succeeded` says otherwise.
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
        wait = min(FIRST_WAIT * 2.0 ** min(beyond, 30), LONGEST_WAIT) if beyond >= 0 else 0.0
        self._clients.pop(client, None)  # the last to try is the last in the dict
        self._clients[client] = _Attempts(failures, now + wait, now)
        if len(self._clients) > _MAX_CLIENTS:
            del self._clients[next(iter(self._clients))]
        return 0.0

    def failures(self, address: str) -> int:
        """Attempts of a client since it last succeeded."""
        record = self._clients.get(client_key(address))
        return record.failures if record is not None else 0

    def succeeded(self, address: str) -> None:
        """The attempt was made with the right password."""
        self._clients.pop(client_key(address), None)
        self._left = min(float(ALL_ATTEMPTS), self._left + 1)


def client_key(address: str) -> str:
    """Whom an address counts for: one IPv6 client owns a whole /64."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return str(parsed)
