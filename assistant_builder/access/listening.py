"""A socket of our own to serve from, and in plain words why there is none."""

from __future__ import annotations

import errno
import socket
import sys

from assistant_builder.errors import ConfigError


def url_of(host: str, port: int, scheme: str = "http") -> str:
    """The address under which a server is found, ``http://127.0.0.1:8000``."""
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; connections wait in it until the server is ready.

    Args:
        host: A name or address of this machine.
        port: 0: one that is free.

    Raises:
        ConfigError: The port is taken or not ours to take, or the host is not of this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise _no_address(host) from error
    try:
        if sys.platform != "win32":  # where it would let two servers share a port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(2048)
    except (OSError, OverflowError) as error:
        listener.close()
        raise _refused(host, port, error) from error
    return listener


def _refused(host: str, port: int, error: OSError | OverflowError) -> ConfigError:
    number = getattr(error, "errno", None)
    if number == errno.EADDRINUSE:
        return ConfigError(f"port {port} is in use", where=url_of(host, port),
                           remedy=f"Another Assistant Builder may be open there; else take --port {port + 1}")
    if number == errno.EACCES:
        return ConfigError(f"port {port} is not for every user", remedy="Take a --port above 1023")
    if number == errno.EADDRNOTAVAIL:
        return _no_address(host)
    return ConfigError(f"cannot listen at {host} port {port}: {error}", remedy="Choose another --host or --port")


def _no_address(host: str) -> ConfigError:
    return ConfigError(f"{host!r} is no address of this machine", where="--host",
                       remedy="Leave --host at 127.0.0.1, or give an address of this machine")
