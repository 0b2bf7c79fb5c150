"""What a user can export from the study, and whether it keeps the quality that was measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from assistant_builder.config import Arm
from evals.compare import Comparison, Verdict
from evals.report.contrasts import Comparisons
from evals.report.reading import UNTUNED


@dataclass(frozen=True)
class Export:
    """One way to take an assistant out of the study.

    Attributes:
        cell: The cell that stands for it.
        arm: Whose adapter it is.
        measured: The cell whose quality the report judged.
        adapter_apart: Whether the adapter is served beside the base, and so adds to its bytes.
        how: What the user exports and serves.
    """

    cell: str
    arm: Arm
    measured: str
    adapter_apart: bool
    how: str


EXPORTS = (
    Export("Q4", "qlora", "Q4", True, "QLoRA's adapter, served on the base in 4 bits as in training."),
    Export("Q16", "qlora", "Q4", True, "QLoRA's adapter, served on the full 16-bit base."),
    Export("QD", "qlora", "Q4", False, "QLoRA's adapter merged into the base it was trained on (4-bit weights "
           "widened to 16 bits), served in 16 bits."),
    Export("QR", "qlora", "Q4", False, "QLoRA's adapter merged into the base it was trained on, the result quantized "
           "to 4 bits again for serving. The merged weights lie close to the 4-bit levels they came from, so rounding "
           "them again can undo the merge."),
    Export("L16", "lora", "L16", True, "LoRA's adapter, served on the 16-bit base as in training."),
    Export("L4", "lora", "L16", True, "LoRA's adapter, served on the base in 4 bits."),
    Export("LM", "lora", "L16", False, "LoRA's adapter merged into the 16-bit base, served in 16 bits."),
    Export("LR", "lora", "L16", False, "LoRA's adapter merged into the 16-bit base, the result quantized to 4 bits for "
           "serving."),
)
_KEEPS: dict[Verdict, str] = {"no worse": "yes", "worse": "no", "inconclusive": "cannot be told"}


def exports(
    compared: Comparisons, cells: Mapping[str, Mapping[str, Any]], summaries: Mapping[str, Mapping[str, Any]],
    primary: str, margin: float,
) -> list[dict[str, Any]]:
    """Every export that was scored, beside the cell that was measured.

    Args:
        compared: All comparisons.
        cells: The report's cells, with ``base_bytes`` where on record.
        summaries: ``summary.json`` by arm, for the adapter's bytes.
        primary: Metric of the verdict.
        margin: Largest harm that counts as kept.

    Returns:
        Records as in the report; ``keeps`` is the verdict's own rule against the measured cell, ``lost_share`` the harm
        as a share of what tuning had gained (``None`` where that is unknown or nothing), ``bytes`` the weights as
        served, the adapter included where it stays apart.
    """
    found = []
    for export in EXPORTS:
        if export.cell not in cells:
            continue
        cell, result = cells[export.cell], compared.get((f"{export.cell}-{export.measured}", primary))
        own = export.cell == export.measured
        found.append({
            "cell": export.cell, "arm": export.arm, "measured": export.measured, "how": export.how,
            "label": cell["label"], "bytes": _bytes(export, cell, summaries), "metric": primary, "margin": margin,
            "figure": cell["metrics"].get(primary),
            "delta": result.delta if result else None,
            "ci_low": result.ci_low if result else None, "ci_high": result.ci_high if result else None,
            "keeps": "measured" if own else _KEEPS[result.verdict] if result else "cannot be told",
            "lost_share": _lost_share(export, result, cells, primary) if result else None,
            "exact_match": cell["metrics"].get("exact_match"),
        })
    return found


def _lost_share(
    export: Export, result: Comparison, cells: Mapping[str, Mapping[str, Any]], primary: str
) -> float | None:
    untuned, tuned = (cells[name]["metrics"].get(primary) if name in cells else None
                      for name in (UNTUNED[export.arm], export.measured))
    if untuned is None or tuned is None:
        return None
    gained = tuned - untuned if result.higher_is_better else untuned - tuned
    return result.harm[0] / gained if gained > 0 else None


def _bytes(export: Export, cell: Mapping[str, Any], summaries: Mapping[str, Mapping[str, Any]]) -> int | None:
    base = cell.get("base_bytes")
    if base is None or not export.adapter_apart:
        return base
    adapter = summaries.get(export.arm, {}).get("adapter_bytes")
    return None if adapter is None else base + adapter
