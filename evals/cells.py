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
    from assistant_builder.models.loading import BaseSpec


@dataclass(frozen=True)
class CellSpec:
    """One combination of base and adapter.

    Attributes:
        name: As evaluation names it.
        base: How the frozen base is stored that the adapter is put on.
        adapter: The arm whose adapter is used; None: untuned.
        merged: None: the adapter stays beside the base. ``merged``: merged into it and stored in float16.
            ``quantized``: that quantized to 4 bits.
        meaning: In words.
    """

    name: str
    base: Literal["float16", "4-bit"]
    adapter: Arm | None
    merged: Literal["merged", "quantized"] | None
    meaning: str


CELL_SPECS: dict[str, CellSpec] = {
    spec.name: spec
    for spec in (
        CellSpec("B16", "float16", None, None, "untuned float16 base"),
        CellSpec("L16", "float16", "lora", None, "float16 LoRA, the baseline"),
        CellSpec("Q16", "float16", "qlora", None, "QLoRA's adapter over the float16 base"),
        CellSpec("B4", "4-bit", None, None, "untuned 4-bit base"),
        CellSpec("Q4", "4-bit", "qlora", None, "QLoRA as served"),
        CellSpec("L4", "4-bit", "lora", None, "adapter trained on float16 over the 4-bit base"),
        CellSpec("LM", "float16", "lora", "merged", "LoRA merged into the float16 base"),
        CellSpec("LR", "float16", "lora", "quantized", "LoRA merged into the float16 base, then quantized to 4 bits"),
        CellSpec("QD", "4-bit", "qlora", "merged", "QLoRA merged into its dequantized base"),
        CellSpec("QR", "4-bit", "qlora", "quantized", "QLoRA merged into its dequantized base, then quantized again"),
    )
}
"""In order of loading."""


@dataclass(frozen=True)
class Variant:
    """A cell made from the adapters of one of the study's seeds.

    Attributes:
        cell: The cell.
        seed: Number of the seed, from 1.
    """

    cell: CellSpec
    seed: int = 1

    @property
    def run(self) -> str | None:
        """The training run whose adapter is used: ``lora``, ``qlora-2``; None: untuned."""
        arm = self.cell.adapter
        return arm if arm is None or self.seed == 1 else f"{arm}-{self.seed}"


@dataclass
class LoadedCell:
    """A cell ready to be scored.

    Attributes:
        spec: Which one.
        seed: Number of the seed its adapter was trained with, from 1.
        model: The model with the cell's adapter active, merged, or with none.
        compute_dtype: Dtype of the arithmetic.
        base_bytes: Bytes of the weights as stored, before they are held in the compute dtype; without adapter.
        load_seconds: What loading took; 0 for the cells that share a base loaded before.
    """

    spec: CellSpec
    seed: int
    model: Any
    compute_dtype: str
    base_bytes: int
    load_seconds: float


def load_cells(study: Study, folder: Path, wanted: Sequence[Variant]) -> Iterator[LoadedCell]:
    """Load cells one after the other, those of one base together; each is dropped when the next base is asked for.

    Args:
        study: The study, with the adapters trained.
        folder: The base model's folder.
        wanted: The cells.
    """
    order = list(CELL_SPECS)
    wanted = sorted(wanted, key=lambda variant: (order.index(variant.cell.name), variant.seed))
    for base in ("float16", "4-bit"):
        shared = [variant for variant in wanted if variant.cell.base == base and variant.cell.merged is None]
        if shared:
            yield from _cells_of_base(study, base_of(study, folder, base), shared)
    for variant in wanted:
        if variant.cell.merged is not None:
            yield _merged_cell(study, base_of(study, folder, variant.cell.base), variant)


def base_of(study: Study, folder: Path, base: str) -> BaseSpec:
    """How a base is loaded for scoring.

    Args:
        study: The study.
        folder: The base model's folder.
        base: ``float16`` or ``4-bit``.
    """
    from assistant_builder.models import loading

    model = study.config.model
    storage = "float16" if base == "float16" else model.quant_type
    return loading.base_spec(model, folder, storage, compute_dtype=study.config.eval.compute_dtype)


def load_dequantized_base(study: Study, spec: BaseSpec, runs: Sequence[str]) -> tuple[Any, int]:
    """A base with adapters, both computed from the weights and adapters as trained.

    On a CPU everything is held in the compute dtype, in the 4-bit arm too, so that neither is credited with the speed
    of not casting at every step; the values are those that casting gives.

    Args:
        study: The study.
        spec: How to load it.
        runs: Training runs whose adapters are attached under their names.

    Returns:
        The model and the bytes of the base as stored.
    """
    from assistant_builder.inference.packed_batch import supports_packing
    from assistant_builder.inference.prepacked_linear import cast_adapters, prepack
    from assistant_builder.models import loading
    from assistant_builder.models.lora_layers import dequantize_to_compute_dtype

    dtype = loading.DTYPES[spec.compute_dtype]
    model: Any = loading.load_base(spec)
    stored = loading.model_bytes(model)
    if spec.device == "cpu":
        dequantize_to_compute_dtype(model, dtype)
    for run in runs:
        model = loading.load_adapter(model, study.arm_folder(run) / "adapter", _name(run))
    cast_adapters(model, dtype)
    if supports_packing(model):
        prepack(model, batches=True)
    return model, stored


def _cells_of_base(study: Study, spec: BaseSpec, variants: Sequence[Variant]) -> Iterator[LoadedCell]:
    import time

    from assistant_builder.models import loading

    began = time.monotonic()
    runs = list(dict.fromkeys(variant.run for variant in variants if variant.run))
    model, base_bytes = load_dequantized_base(study, spec, runs)
    seconds = time.monotonic() - began
    for variant in variants:
        with with_adapter(model, variant.run if runs else ""):
            yield LoadedCell(variant.cell, variant.seed, model, spec.compute_dtype, base_bytes, seconds)
        seconds = 0.0
    del model
    loading.release()


def with_adapter(model: Any, run: str | None) -> Any:
    """A context in which the adapter of ``run`` is active; None: no adapter is; "": the model never had any."""
    if run:
        model.set_adapter(_name(run))
    return model.disable_adapter() if run is None else nullcontext()


def _name(run: str) -> str:
    """What PEFT is told: a bare ``lora`` would be part of the names of its own parameters."""
    return f"run-{run}"


def _merged_cell(study: Study, spec: BaseSpec, variant: Variant) -> LoadedCell:
    import time

    from assistant_builder.inference.packed_batch import supports_packing
    from assistant_builder.inference.prepacked_linear import prepack
    from assistant_builder.models import loading
    from assistant_builder.models.lora_layers import dequantize_to_compute_dtype
    from assistant_builder.models.merging import merge, quantize

    loading.release()  # the merged model before this one
    began = time.monotonic()
    dtype = loading.DTYPES[spec.compute_dtype]
    assert variant.run is not None  # only tuned cells are merged
    adapted = loading.load_adapter(loading.load_base(spec), study.arm_folder(variant.run) / "adapter")
    model = merge(adapted)
    if variant.cell.merged == "quantized":
        quantize(model, study.config.model.quant_type, double_quant=spec.double_quant, compute_dtype=dtype)
    base_bytes = loading.model_bytes(model)
    if spec.device == "cpu":
        dequantize_to_compute_dtype(model, dtype)
    if supports_packing(model):
        prepack(model, batches=True)
    seconds = time.monotonic() - began
    return LoadedCell(variant.cell, variant.seed, model, spec.compute_dtype, base_bytes, seconds)
