"""Fresh adapters have the same values whatever device their base is on."""

from typing import Any

import pytest
import torch
import torch._lazy.ts_backend

from assistant_builder.config import StudyConfig
from assistant_builder.models.loading import add_adapter, load_adapter
from tests.tiny_models import small_llama


def adapted(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """The adapters' first matrices, and what was drawn for them last, as it was drawn."""
    drawn: list[torch.Tensor] = []
    draw = torch.nn.init.kaiming_uniform_

    def spied(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        found = draw(tensor, *args, **kwargs)
        drawn.append(found.detach().clone())
        return found

    with torch.device(device):
        base = small_llama()
    with monkeypatch.context() as patch:
        patch.setattr(torch.nn.init, "kaiming_uniform_", spied)
        model = add_adapter(base, StudyConfig().train, 7)
    held = [value for name, value in model.named_parameters() if "lora_A" in name]
    return held, drawn[-len(held) :]


def test_they_are_drawn_on_the_cpu(monkeypatch):
    """Lazy tensors stand for a GPU, which draws others from the same seed."""
    torch._lazy.ts_backend.init()
    here, drawn_here = adapted("cpu", monkeypatch)
    there, drawn_there = adapted("lazy", monkeypatch)
    assert {value.device.type for value in there} == {"lazy"}
    assert {value.device.type for value in drawn_there} == {"cpu"}
    for one, drawn, other, drawn_other in zip(here, drawn_here, there, drawn_there, strict=True):
        assert torch.equal(one, drawn)
        assert torch.equal(one, drawn_other)
        assert torch.equal(one, other.cpu())


def test_they_have_values_over_a_base_that_another_process_has_read(monkeypatch):
    here, _ = adapted("cpu", monkeypatch)
    there, _ = adapted("meta", monkeypatch)
    assert all(torch.equal(one, other) for one, other in zip(here, there, strict=True))


def test_trained_values_are_read_to_the_device_of_the_base(tmp_path, monkeypatch):
    """Not to a GPU that PEFT finds and the product does not use, which is named by meta."""
    base = small_llama()
    trained = add_adapter(base, StudyConfig().train, 7)
    trained.save_pretrained(str(tmp_path))
    wanted = [value.clone() for name, value in trained.named_parameters() if "lora_A" in name]
    monkeypatch.setattr("peft.peft_model.infer_device", lambda: "meta")
    model = load_adapter(trained.unload(), tmp_path, "one")
    load_adapter(model, tmp_path, "other")
    for adapter in ("one", "other"):
        found = [value for name, value in model.named_parameters() if f"lora_A.{adapter}" in name]
        assert len(found) == len(wanted) and all(map(torch.equal, found, wanted))
