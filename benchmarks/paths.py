"""Paths that benchmarks share: the checkout, the demo's dataset, a temporary home folder; and the end of a log file."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FERRIES = ROOT / "datasets_cards" / "ostrel-sound-ferries" / "data.jsonl"


def log_end(text: str, join: str = " ") -> str:
    """The last five lines of a log, for the error of a process."""
    return join.join(text.splitlines()[-5:])


@contextmanager
def temporary_home() -> Iterator[Path]:
    """An empty home folder of Assistant Builder, until the context ends."""
    before = os.environ.get("ASSISTANT_BUILDER_HOME")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["ASSISTANT_BUILDER_HOME"] = folder
        try:
            yield Path(folder)
        finally:
            os.environ.pop("ASSISTANT_BUILDER_HOME")
            if before is not None:
                os.environ["ASSISTANT_BUILDER_HOME"] = before
