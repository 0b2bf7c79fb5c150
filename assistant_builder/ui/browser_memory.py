"""What the browser keeps for the page: where, and under which key it is encrypted.

Gradio draws both at random at every start unless it is given them, and then nothing kept survives a restart.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from typing import Any

import gradio as gr

from assistant_builder.study import home


def browser_state(name: str, default: Any) -> gr.BrowserState:
    """A value that the browser keeps across reloads and restarts of the server.

    It is not placed yet: call ``render()`` outside of all tabs, since the browser reads it only where it is shown.

    Args:
        name: What it is; part of the browser's key.
        default: Where the browser has none.
    """
    secret = _secret()
    # Servers with other homes share a browser's storage where they share an address: each has entries of its own.
    place = hashlib.sha256(secret.encode()).hexdigest()[:12]
    return gr.BrowserState(default, storage_key=f"assistant-builder-{name}-{place}", secret=secret, render=False)


def _secret() -> str:
    """The home's secret, made at the first start and readable by its owner alone."""
    path = home() / "browser.key"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return path.read_text(encoding="ascii").strip() or secrets.token_hex(16)
        with os.fdopen(handle, "w", encoding="ascii") as file:
            made = secrets.token_hex(16)
            file.write(made)
        return made
    except OSError:  # a home that cannot be written to: the browser forgets with the next start
        return secrets.token_hex(16)
