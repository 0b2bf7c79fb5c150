"""Removes secrets from texts, and escapes characters that would change how a terminal shows them."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from string import ascii_uppercase

API_KEY, PASSWORD = "ASSISTANT_BUILDER_API_KEY", "ASSISTANT_BUILDER_PASSWORD"
JUDGE_KEY, DRAFT_KEY = "ASSISTANT_BUILDER_JUDGE_KEY", "ASSISTANT_BUILDER_DRAFT_KEY"
KEY_PASSWORD = "ASSISTANT_BUILDER_KEY_PASSWORD"  # of the key that signs a bundle
CANDIDATE_KEY = "ASSISTANT_BUILDER_KEY_"
"""Of the endpoint of a judged model, with its letter at the end."""
SECRET_VARIABLES = (
    API_KEY,
    PASSWORD,
    JUDGE_KEY,
    DRAFT_KEY,
    KEY_PASSWORD,
    *(CANDIDATE_KEY + letter for letter in ascii_uppercase),
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "FSSPEC_S3_SECRET",
    "FSSPEC_S3_TOKEN",
    "AZURE_STORAGE_ACCOUNT_KEY",
    "AZURE_STORAGE_SAS_TOKEN",
    "AZURE_STORAGE_CONNECTION_STRING",
    "AZURE_STORAGE_CLIENT_SECRET",
)
"""Environment variables with secrets, those of the product by the names that its modules import from here."""
MASK = "[hidden]"
_HUB_TOKEN = re.compile(r"\b(?:hf|api_org)_[A-Za-z0-9]{16,}")
_MIN_LENGTH = 6
"""Shorter values may be ordinary words, and masking every occurrence would reveal them."""


def redact_secrets(text: str) -> str:
    """Mask secrets from the environment and the Hugging Face token file, and everything that looks like a hub token."""
    for token in _known_secrets():
        text = text.replace(token, MASK)
    return _HUB_TOKEN.sub(MASK, text)


def _known_secrets() -> Iterator[str]:
    yield from (
        value
        for name in SECRET_VARIABLES
        if len(value := os.environ.get(name, "").strip()) >= _MIN_LENGTH
    )
    file = (
        os.environ.get("HF_TOKEN_PATH")
        or Path(os.environ.get("HF_HOME") or "~/.cache/huggingface") / "token"
    )
    try:
        token = Path(file).expanduser().read_text(encoding="utf-8").strip()
    except (OSError, ValueError, RuntimeError):
        return
    if len(token) >= _MIN_LENGTH:
        yield token


_ESCAPES = {
    **{code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in "\t\n"},  # ESC → ␛
    0x7F: "\u2421",
    **dict.fromkeys(range(0x80, 0xA0), "\ufffd"),
}


def escape_control_characters(text: str) -> str:
    """Replace control characters except tabs and newlines with visible symbols."""
    return text.translate(_ESCAPES)


_INVISIBLE = re.compile(
    "[\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff\U000e0000-\U000e007f]"
)
"""Marks and overrides of the direction of text, line separators, tags, and halves of surrogate pairs."""


def terminal_text(text: str) -> str:
    """A text of somebody else for a terminal: nothing in it moves, hides or reorders what is shown."""
    return _INVISIBLE.sub(_escaped, escape_control_characters(text))


def terminal_json(text: str) -> str:
    """:func:`terminal_text` for a JSON document, which has the same content afterwards."""
    return re.sub("[\x7f-\x9f]", _escaped, _INVISIBLE.sub(_escaped, text))


def _escaped(found: re.Match[str]) -> str:
    """The character as JSON escapes it."""
    return json.dumps(found[0])[1:-1]
