"""The ten cells on the first layers of the bundled model, with adapters that change something."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.nn import Linear4bit

from assistant_builder.arms import CELLS, TWIN_CELLS
from assistant_builder.config import StudyConfig
from assistant_builder.inference.prepacked_linear import prepack
from assistant_builder.models.loading import BaseSpec, add_adapter, load_adapter, load_base
from assistant_builder.models.lora_layers import merge, quantize
from assistant_builder.study import Study
from evals.cells import Variant, load_cells
from tests.tiny_models import as_if_trained

pytestmark = pytest.mark.train


@pytest.fixture
def folder(short_base: Path) -> Path:
    return short_base


@pytest.fixture
def study(folder: Path, compute_dtype: str) -> Study:
    """A study whose adapters hold random values; nothing was trained."""
    study = Study.create(StudyConfig(name="cells").with_changes({"train.rank": 4}))
    for seed, arm in enumerate(("lora", "qlora")):
        model = add_adapter(
            load_base(BaseSpec(folder, "float16", True, compute_dtype)), study.config.train, seed
        )
        as_if_trained(model, 0.02, seed).save_pretrained(str(study.arm_folder(arm) / "adapter"))
    return study


def logits_of(model: Any) -> Any:
    with torch.no_grad():
        return model(input_ids=torch.tensor([[1, 500, 900, 77, 4000]])).logits


def all_logits(study: Study, folder: Path, cells: tuple[str, ...] = TWIN_CELLS) -> dict[str, Any]:
    wanted = [Variant(CELLS[name]) for name in cells]
    return {cell.spec.name: logits_of(cell.model) for cell in load_cells(study, folder, wanted)}


def test_cells_share_their_base_and_use_their_own_adapter(study, folder, compute_dtype):
    wanted = [Variant(CELLS[name]) for name in ("B16", "B4", "L16", "Q4", "L4", "Q16")]
    logits, seconds = {}, {}
    for cell in load_cells(study, folder, wanted):
        logits[cell.spec.name], seconds[cell.spec.name] = logits_of(cell.model), cell.load_seconds
    assert list(logits) == ["B16", "L16", "Q16", "B4", "Q4", "L4"]
    assert [name for name, spent in seconds.items() if spent > 0] == ["B16", "B4"]
    for name, storage, arm in (
        ("L16", "float16", "lora"),
        ("Q4", "nf4", "qlora"),
        ("L4", "nf4", "lora"),
        ("Q16", "float16", "qlora"),
        ("B16", "float16", None),
        ("B4", "nf4", None),
    ):
        model = load_base(BaseSpec(folder, storage, True, compute_dtype, hold=True))
        if arm:
            model = load_adapter(model, study.arm_folder(arm) / "adapter")
        prepack(model, batches=True)  # in float32 it sums in another order
        assert torch.equal(logits[name], logits_of(model)), name
    assert len({values.float().numpy().tobytes() for values in logits.values()}) == len(wanted)


@pytest.mark.long
def test_merged_cells_are_what_their_exports_give_back(study, folder, compute_dtype, tmp_path):
    """Save a merged model as a float16 checkpoint, load it as a user would, in 16 and in 4 bits: the same logits."""
    found = all_logits(study, folder, ("LM", "LR", "QD", "QR"))
    for arm, storage, merged, requantized in (
        ("lora", "float16", "LM", "LR"),
        ("qlora", "nf4", "QD", "QR"),
    ):
        base = load_base(BaseSpec(folder, storage, True, compute_dtype))
        model = merge(load_adapter(base, study.arm_folder(arm) / "adapter"))
        export = tmp_path / merged
        shutil.copytree(folder, export)
        tensors = {name: value.to(torch.float16) for name, value in model.state_dict().items()}
        from safetensors.torch import save_file

        save_file(
            {
                name: value.contiguous()
                for name, value in tensors.items()
                if name != "lm_head.weight"
            },
            export / "model.safetensors",
            metadata={"format": "pt"},
        )
        for cell, kind in ((merged, "float16"), (requantized, "nf4")):
            again = load_base(BaseSpec(export, kind, True, compute_dtype, hold=True))
            prepack(again, batches=True)
            assert torch.equal(found[cell], logits_of(again)), cell


@pytest.mark.long
def test_merging_changes_no_more_than_rounding(study, folder):
    """In float32 arithmetic a merged model answers as the adapter beside its base does; quantizing it does not."""
    study.write_config(study.config.with_changes({"eval.compute_dtype": "float32"}))
    logits = all_logits(study, folder)
    scale = float(logits["B16"].std())

    def apart(one: str, other: str) -> float:
        return float((logits[one] - logits[other]).abs().mean()) / scale

    assert apart("LM", "L16") < 2e-3
    assert apart("QD", "Q4") < 2e-3
    for one, other in (("LR", "L16"), ("QR", "QD"), ("L4", "L16"), ("Q16", "Q4"), ("B4", "B16")):
        assert apart(one, other) > 0.02, (one, other)


def test_quantizing_a_merged_qlora_again_puts_nearly_every_weight_back(
    study, folder, compute_dtype
):
    """Its weights start on the 4-bit levels themselves; those of a merged LoRA lie anywhere between two levels."""

    def levels(model: Any) -> Any:
        packed = torch.cat(
            [
                layer.weight.data.flatten()
                for layer in model.modules()
                if isinstance(layer, Linear4bit)
            ]
        )
        return torch.stack([packed >> 4, packed & 15])

    before = levels(load_base(BaseSpec(folder, "nf4", True, compute_dtype)))
    kept = {}
    for arm, storage in (("qlora", "nf4"), ("lora", "float16")):
        base = load_base(BaseSpec(folder, storage, True, compute_dtype))
        model = merge(load_adapter(base, study.arm_folder(arm) / "adapter"))
        quantize(model, "nf4", double_quant=True, compute_dtype=getattr(torch, compute_dtype))
        kept[arm] = float((levels(model) == before).double().mean())
    assert kept["qlora"] > 0.97 > 0.92 > kept["lora"]
