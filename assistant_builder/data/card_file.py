"""The dataset card of a study as a file that a person may edit: what they wrote outlives a new run of the data step.

``card.md`` is the card. Once it has been edited, what the program generates goes to ``card.generated.md`` instead,
from where it can be taken back.
"""

from __future__ import annotations

import re
from pathlib import Path

from assistant_builder.atomic_io import write_text
from assistant_builder.config.plain_yaml import YamlError, read_yaml
from assistant_builder.errors import DataError

CARD, GENERATED = "card.md", "card.generated.md"
_FRONT_MATTER = re.compile(r"\A---\r?\n(.*?)^---\s*$", re.DOTALL | re.MULTILINE)


def write_generated(folder: Path, text: str) -> None:
    """Write what the data step generated, beside an edited card rather than over it."""
    write_text(folder / (GENERATED if is_edited(folder) else CARD), text)


def is_edited(folder: Path) -> bool:
    """Whether a person has edited the card."""
    return (folder / GENERATED).is_file()


def is_outdated(folder: Path) -> bool:
    """Whether the card was generated anew after a person edited it, so that its figures may be old."""
    if not is_edited(folder):
        return False
    return (folder / GENERATED).stat().st_mtime_ns > (folder / CARD).stat().st_mtime_ns


def save_edited(folder: Path, text: str, generated: str) -> None:
    """Keep an edited card.

    Args:
        folder: The study's ``data`` folder.
        text: The card as edited.
        generated: What the program makes of the data, kept so that it can be taken back.

    Raises:
        DataError: The YAML at its head is broken, so that no hub could read it.
    """
    head = _FRONT_MATTER.match(text)
    try:
        tree = read_yaml(head.group(1)) if head else {}
    except YamlError as error:
        place = f" in line {error.line + 1}" if error.line else ""
        raise DataError(
            f"the part between the two lines --- at the top of the card cannot be read{place}",
            remedy="Write one name: value a line there, values with a colon in quotes",
        ) from error
    if head and not isinstance(tree, dict):
        raise DataError("the part between the two lines --- at the top of the card holds no names with values",
                        remedy="Write one name: value a line there")
    if not is_edited(folder):
        write_text(folder / GENERATED, generated)
    write_text(folder / CARD, text)


def take_generated(folder: Path) -> None:
    """Give up the edits for the card that the program generated last."""
    if is_edited(folder):
        write_text(folder / CARD, (folder / GENERATED).read_text(encoding="utf-8"))
        (folder / GENERATED).unlink()
