"""The cells, combinations of base and adapter, and their loading; torch is imported inside functions."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assistant_builder.arms import CELLS, FOUR_BIT, LORA, QLORA, CellSpec
from assistant_builder.quantization import UNQUANTIZED
from assistant_builder.study import Study
from assistant_builder.study.steps import run_of

if TYPE_CHECKING:
    from assistant_builder.models.loading import BaseSpec


_L16, _Q4 = LORA.cell, QLORA.cell
FIDELITY_PAIRS = (("B16", "B4"), (_L16, "L4"), ("Q16", _Q4), (_L16, _Q4))
"""Cells whose next-token distributions are compared, the reference first: three pairs with the same adapter, and one
that includes training. The references are loaded before the candidates."""


def fidelity_pairs(cells: Iterable[str]) -> list[tuple[str, str]]:
    """The pairs of :data:`FIDELITY_PAIRS` whose cells are all scored."""
    scored = set(cells)
    return [pair for pair in FIDELITY_PAIRS if set(pair) <= scored]


def in_order_of_loading(cells: Iterable[CellSpec]) -> list[CellSpec]:
    """Cells as they are loaded: those of one base together, float16 first, then those merged into a base."""
    bases = list(dict.fromkeys((UNQUANTIZED, FOUR_BIT, *(cell.base for cell in CELLS.values()))))
    names = list(CELLS)
    return sorted(
        cells,
        key=lambda cell: (cell.merged is not None, bases.index(cell.base), names.index(cell.name)),
    )


@dataclass(frozen=True)
class Variant:
    """A cell with the adapters of one of the study's seeds, numbered from 1."""

    cell: CellSpec
    seed: int = 1

    @property
    def run(self) -> str | None:
        """The training run whose adapter is used: ``lora``, ``qlora-2``; None: untuned."""
        arm = self.cell.adapter
        return arm and run_of(arm, self.seed)


@dataclass
class LoadedCell:
    """A cell ready to be scored; its model has the adapter active or merged, or none.

    Attributes:
        base_bytes: Bytes of the weights as stored, without the adapter, before they are dequantized.
        load_seconds: Loading time; 0 for a cell that shares a loaded base.
    """

    spec: CellSpec
    seed: int
    model: Any
    compute_dtype: str
    base_bytes: int
    load_seconds: float


def load_cells(study: Study, folder: Path, wanted: Sequence[Variant]) -> Iterator[LoadedCell]:
    """Load cells one after the other, those of one base together; a base is released before the next one is loaded.

    For that the caller must keep no reference to a cell, nor to what holds its model, when it asks for the next one.
    """
    from assistant_builder.models import loading

    order = in_order_of_loading({variant.cell for variant in wanted})
    wanted = sorted(wanted, key=lambda variant: (order.index(variant.cell), variant.seed))
    for base in dict.fromkeys(cell.base for cell in order if cell.merged is None):
        shared = [each for each in wanted if (each.cell.base, each.cell.merged) == (base, None)]
        yield from _cells_of_base(study, base_of(study, folder, base), shared)
    for variant in wanted:
        if variant.cell.merged is not None:
            yield _merged_cell(study, base_of(study, folder, variant.cell.base), variant)
            loading.free_memory()


def base_of(study: Study, folder: Path, base: str) -> BaseSpec:
    """The loading options of a base for scoring."""
    from assistant_builder.models import loading

    model = study.config.model
    storage = model.quant_type if base == FOUR_BIT else base
    return loading.base_spec(model, folder, storage, compute_dtype=study.config.eval.compute_dtype)


def load_dequantized_base(study: Study, spec: BaseSpec, runs: Sequence[str]) -> tuple[Any, int]:
    """Load a base with the adapters of training runs, attached under their names, in the precision of their training.

    Weights are held in the compute dtype, on a CPU those of every arm, so that repeated casts do not distort the
    timing. The values are the same as with a cast at every step.

    Returns:
        The model, and the bytes of the base as stored.
    """
    from assistant_builder.inference.prepacked_linear import cast_adapters
    from assistant_builder.models import loading
    from assistant_builder.models.lora_layers import hold_in_compute_dtype

    dtype = loading.DTYPES[spec.compute_dtype]
    model: Any = loading.load_base(spec)
    stored = loading.model_bytes(model)
    hold_in_compute_dtype(model, dtype, spec.device)
    for run in runs:
        model = loading.load_adapter(model, study.arm_folder(run) / "adapter", _name(run))
    cast_adapters(model, dtype)
    pack(model)
    return model, stored


def pack(model: Any) -> None:
    """Pack the weights of a model for scoring, if its attention supports packed batches."""
    from assistant_builder.inference.packed_batch import supports_packing
    from assistant_builder.inference.prepacked_linear import prepack

    if supports_packing(model):
        prepack(model, batches=True)


def _cells_of_base(
    study: Study, spec: BaseSpec, variants: Sequence[Variant]
) -> Iterator[LoadedCell]:
    from assistant_builder.models import loading

    began = time.monotonic()
    runs = list(dict.fromkeys(variant.run for variant in variants if variant.run))
    model, base_bytes = load_dequantized_base(study, spec, runs)
    seconds = time.monotonic() - began
    for variant in variants:
        with with_adapter(model, variant.run if runs else ""):
            yield LoadedCell(
                variant.cell, variant.seed, model, spec.compute_dtype, base_bytes, seconds
            )
        seconds = 0.0
    del model
    loading.free_memory()


def with_adapter(model: Any, run: str | None) -> Any:
    """A context in which the adapter of ``run`` is active; None disables all adapters, "" is a model without any."""
    if run:
        model.set_adapter(_name(run))
    return model.disable_adapter() if run is None else nullcontext()


def _name(run: str) -> str:
    """The adapter name for PEFT; a bare ``lora`` would be part of the names of PEFT's own parameters."""
    return f"run-{run}"


def _merged_cell(study: Study, spec: BaseSpec, variant: Variant) -> LoadedCell:
    from assistant_builder.models import loading
    from assistant_builder.models.lora_layers import (
        hold_in_compute_dtype,
        merge,
        quantize,
        round_linear,
    )

    began = time.monotonic()
    dtype = loading.DTYPES[spec.compute_dtype]
    assert variant.run is not None  # only tuned cells are merged
    adapter = study.arm_folder(variant.run) / "adapter"
    model = merge(loading.load_adapter(loading.load_base(spec), adapter))
    if variant.cell.merged == "quantized":
        kind, double = study.config.model.quant_type, spec.double_quant
        quantize(model, kind, double_quant=double, compute_dtype=dtype)
    base_bytes = loading.model_bytes(model)
    if variant.cell.merged == "rounded":
        base_bytes -= round_linear(model, study.config.train.qat_type, dtype)
    hold_in_compute_dtype(model, dtype, spec.device)
    pack(model)
    seconds = time.monotonic() - began
    return LoadedCell(variant.cell, variant.seed, model, spec.compute_dtype, base_bytes, seconds)
