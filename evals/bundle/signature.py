"""Signatures of bundles: Ed25519 by the package ``cryptography``, which only signing and checking need."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evals.bundle.container import Refused

ALGORITHM = "ed25519"
UNSIGNED, UNCHECKED = "none", "not checked: the package cryptography is not installed"
MAX_KEY_BYTES = 100_000


class KeyProblem(Exception):
    """Why a key cannot be used."""


def sign(digest: str, key: Path, password: bytes | None = None) -> dict[str, str]:
    """The signature of the digest of a bundle, with an Ed25519 private key in PEM.

    Raises:
        KeyProblem: The package is missing, or the file is no such key.
    """
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    except ImportError as error:
        raise KeyProblem("the package cryptography is not installed") from error
    try:
        private = serialization.load_pem_private_key(key.read_bytes()[:MAX_KEY_BYTES], password)
    except (OSError, ValueError, TypeError) as error:
        raise KeyProblem(str(error)[:200]) from error
    if not isinstance(private, Ed25519PrivateKey):
        raise KeyProblem("it is no Ed25519 key")
    raw = serialization.Encoding.Raw, serialization.PublicFormat.Raw
    return {
        "algorithm": ALGORITHM,
        "public_key": base64.b64encode(private.public_key().public_bytes(*raw)).decode(),
        "value": base64.b64encode(private.sign(digest.encode())).decode(),
    }


def check_signature(seal: Mapping[str, Any], public_key: Path | None) -> str:
    """Check the signature of a seal.

    Args:
        seal: The seal.
        public_key: The key that must have signed, in PEM; None: the one in the seal, which shows that the file was not
            changed after it was signed, but not by whom.

    Returns:
        The public key in base64, :data:`UNSIGNED`, or :data:`UNCHECKED`.

    Raises:
        Refused: It is missing where a key is required, or does not hold.
    """
    signature = seal["signature"]
    if signature is None:
        if public_key is not None:
            raise Refused("signature", "it is not signed")
        return UNSIGNED
    keys = {"algorithm", "public_key", "value"}
    if not isinstance(signature, dict) or signature.keys() != keys:
        raise Refused("signature", "it has other keys than expected")
    if signature["algorithm"] != ALGORITHM:
        raise Refused("signature", "its algorithm is not known")
    try:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    except ImportError as error:
        if public_key is not None:
            raise Refused("signature", UNCHECKED) from error
        return UNCHECKED
    try:
        own = base64.b64decode(signature["public_key"], validate=True)
        if base64.b64encode(own).decode() != signature["public_key"]:
            raise ValueError("another text of the same key")
        value = base64.b64decode(signature["value"], validate=True)
        if base64.b64encode(value).decode() != signature["value"]:
            raise ValueError("another text of the same signature")
        Ed25519PublicKey.from_public_bytes(own).verify(value, seal["sha256"].encode())
    except (InvalidSignature, ValueError, TypeError) as error:
        raise Refused("signature", "it is not that of the file") from error
    if public_key is not None:
        try:
            wanted: Any = serialization.load_pem_public_key(public_key.read_bytes()[:MAX_KEY_BYTES])
            raw = serialization.Encoding.Raw, serialization.PublicFormat.Raw
            other = wanted.public_bytes(*raw)
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise Refused("public key", "it cannot be read as an Ed25519 key") from error
        if other != own:
            raise Refused("signature", "another key signed it")
    return str(signature["public_key"])
