"""Addresses that the user allows the program to contact: of a cluster, a store or a judge.

A ``study.yaml``, a study folder and a store can come from others, so an address in them permits nothing. Addresses that
the user typed or allowed are remembered in the home folder, outside all studies.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path

from assistant_builder.atomic_io import write_bytes
from assistant_builder.config import printable
from assistant_builder.errors import ConfigError
from assistant_builder.i18n import m
from assistant_builder.study.layout import home

VARIABLE = "ASSISTANT_BUILDER_TRUSTED_ADDRESSES"
"""JSON list of further addresses that this process may contact, for steps on cluster nodes with another home."""


def addresses_file() -> Path:
    """The file of allowed addresses, a JSON list that only its owner can write."""
    return home() / "addresses.json"


def allow_addresses(addresses: Iterable[str]) -> None:
    """Remember addresses that the user typed or allowed."""
    known = _remembered()
    if new := {_normal(address) for address in addresses} - known:
        content = json.dumps(sorted(known | new), ensure_ascii=False, indent=2) + "\n"
        write_bytes(addresses_file(), content.encode(), mode=0o600)


def not_allowed(addresses: Mapping[str, str]) -> dict[str, str]:
    """Those of ``{setting: address}`` that leave this machine and that the user has not allowed."""
    allowed = _remembered() | _list_of(os.environ.get(VARIABLE, "[]"))
    return {
        key: address
        for key, address in addresses.items()
        if not _is_of_this_machine(key, address) and _normal(address) not in allowed
    }


def require_allowed(addresses: Mapping[str, str]) -> None:
    """Raise ConfigError for the first of ``{setting: address}`` that the user has not allowed."""
    for key, address in not_allowed(addresses).items():
        shown = printable(address)
        raise ConfigError(
            m(
                "{address} comes from a file, and you have not allowed to connect to it",
                address=shown,
            ),
            where=key,
            remedy=m(
                "If you know it, allow it with --trust-address {address}, or on the Train tab",
                address=shlex.quote(shown),
            ),
        )


def address_environment(addresses: Mapping[str, str]) -> dict[str, str]:
    """The variable that allows the same addresses to processes on cluster nodes."""
    refused = not_allowed(addresses)
    return {
        VARIABLE: json.dumps([address for key, address in addresses.items() if key not in refused])
    }


def _is_of_this_machine(key: str, address: str) -> bool:
    """Whether it is the cluster of which this machine is a node, a new one here, or a store in this process."""
    return (key, address) in (("executor.address", "auto"), ("executor.address", "local")) or (
        key == "executor.store" and address.startswith("memory://")
    )


def _remembered() -> frozenset[str]:
    path = addresses_file()
    try:
        if os.name == "posix" and path.stat().st_mode & 0o022:
            return frozenset()
        return _list_of(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return frozenset()


def _list_of(text: str) -> frozenset[str]:
    try:
        names = json.loads(text)
    except (ValueError, RecursionError):
        return frozenset()
    names = names if isinstance(names, list) else []
    return frozenset(_normal(name) for name in names if isinstance(name, str))


def _normal(address: str) -> str:
    return address.rstrip("/")
