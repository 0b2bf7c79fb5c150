"""The ways of building the assistant, side by side on the same items: looking up, the untuned base, and the arms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from assistant_builder.arms import ARMS, LORA, QLORA, TWINS
from evals.declaration import FALSE_DECLINES, RIGHT_DECLINES

NAMES = {"copy": "Copying the best fact", "base+facts": "Untuned base with facts",
         **{arm: f"{ARMS[arm].short} from memory" for arm in TWINS},
         **{f"{arm}+facts": f"{ARMS[arm].short} with facts" for arm in TWINS}}
"""Name in ``report.json`` → label."""


def approaches(report: Mapping[str, Any], *, grounded: bool) -> list[dict[str, Any]]:
    """Figures of each approach that was scored, over the items of the headline; ``verdict`` is about 4-bit storage."""
    cells, baselines = report["cells"], report["baselines"]
    untuned = cells.get(LORA.untuned_cell) if grounded else baselines.get("retrieval")
    found = {"copy": baselines.get("copy"), "base+facts": untuned,
             **{f"{arm.name}{'+facts' if grounded else ''}": cells.get(arm.cell) for arm in (LORA, QLORA)}}
    return [{"name": name, "label": NAMES[name], "items": record["items"], "metrics": record["metrics"],
             "declined_rightly": record["metrics"].get(RIGHT_DECLINES),
             "declined_falsely": record["metrics"].get(FALSE_DECLINES),
             "verdict": report["verdict"]["outcome"] if name.startswith(QLORA.name) else None}
            for name, record in found.items() if record is not None]
