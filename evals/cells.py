"""The cells: which base under which adapter, loaded so that cells of one base share it.

Imports torch inside functions: only worker processes call them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from assistant_builder.config import Arm
from assistant_builder.study import Study

if TYPE_CHECKING:
    from assistant_builder.training.twin import Storage


@dataclass(frozen=True)
class CellSpec:
    """One combination of base and adapter.

    Attributes:
        name: As evaluation names it.
        base: How the frozen base is stored.
        adapter: The arm whose adapter is used; None: untuned.
        meaning: In words.
    """

    name: str
    base: Literal["float16", "4-bit"]
    adapter: Arm | None
    meaning: str


CELL_SPECS: dict[str, CellSpec] = {
    spec.name: spec
    for spec in (
        CellSpec("B16", "float16", None, "untuned float16 base"),
        CellSpec("B4", "4-bit", None, "untuned 4-bit base"),
        CellSpec("L16", "float16", "lora", "float16 LoRA, the baseline"),
        CellSpec("Q4", "4-bit", "qlora", "QLoRA as served"),
        CellSpec("L4", "4-bit", "lora", "adapter trained on float16 over the 4-bit base"),
        CellSpec("Q16", "float16", "qlora", "QLoRA's adapter over the float16 base"),
    )
}


@dataclass
class LoadedCell:
    """A cell ready to be scored.

    Attributes:
        spec: Which one.
        model: The base with the cell's adapter active, or with none.
        compute_dtype: Dtype of the arithmetic.
        base_bytes: Bytes of the base as stored, before it is held in the compute dtype.
        load_seconds: What loading its base took; 0 for the cells that share a base loaded before.
    """

    spec: CellSpec
    model: Any
    compute_dtype: str
    base_bytes: int
    load_seconds: float


def load_cells(study: Study, folder: Path, cells: Sequence[str]) -> Iterator[LoadedCell]:
    """Load cells one after the other, those of one base together; each is dropped when the next base is asked for.

    Args:
        study: The study, with both adapters trained.
        folder: The base model's folder.
        cells: Names of cells.
    """
    for base in ("float16", "4-bit"):
        wanted = [CELL_SPECS[cell] for cell in CELL_SPECS if cell in cells and CELL_SPECS[cell].base == base]
        if wanted:
            yield from _cells_of_base(study, folder, "float16" if base == "float16" else study.config.model.quant_type,
                                      wanted)


def _cells_of_base(study: Study, folder: Path, storage: Storage, specs: Sequence[CellSpec]) -> Iterator[LoadedCell]:
    import time

    from assistant_builder.models import loading
    from assistant_builder.models.layers import hold_in_compute_dtype

    began = time.monotonic()
    config = study.config
    spec = loading.base_spec(config.model, folder, storage, compute_dtype=config.eval.compute_dtype)
    model: Any = loading.load_base(spec)
    base_bytes = loading.model_bytes(model)
    if spec.device == "cpu":
        # Both bases, so that neither is credited with the speed of not casting at every step.
        hold_in_compute_dtype(model, loading.DTYPES[spec.compute_dtype])
    for arm in sorted({cell.adapter for cell in specs if cell.adapter}):
        model = loading.load_adapter(model, study.arm_folder(arm) / "adapter", arm)
    seconds = time.monotonic() - began
    for cell in specs:
        tuned = any(other.adapter for other in specs)
        if cell.adapter:
            model.set_adapter(cell.adapter)
        with model.disable_adapter() if tuned and not cell.adapter else nullcontext():
            yield LoadedCell(cell, model, spec.compute_dtype, base_bytes, seconds)
        seconds = 0.0
    del model
    loading.release()
