"""Fresh adapters have the same values whatever device their base is on."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from assistant_builder.config import StudyConfig
from assistant_builder.models.loading import add_adapter

SIZES = {"vocab_size": 128, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
         "num_attention_heads": 4, "num_key_value_heads": 2}


def adapted(device: str, monkeypatch: pytest.MonkeyPatch) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """The adapters' first matrices, and what was drawn for them last, as it was drawn."""
    drawn: list[torch.Tensor] = []
    draw = torch.nn.init.kaiming_uniform_

    def spied(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        found = draw(tensor, *args, **kwargs)
        drawn.append(found.detach().clone())
        return found

    with torch.device(device):
        base = LlamaForCausalLM(LlamaConfig(**SIZES))
    with monkeypatch.context() as patch:
        patch.setattr(torch.nn.init, "kaiming_uniform_", spied)
        model = add_adapter(base, StudyConfig().train, 7)
    held = [value for name, value in model.named_parameters() if "lora_A" in name]
    return held, drawn[-len(held) :]


def test_they_are_drawn_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The meta device stands for a GPU, which draws others from the same seed."""
    here, drawn_here = adapted("cpu", monkeypatch)
    there, drawn_there = adapted("meta", monkeypatch)
    assert {value.device.type for value in there} == {"meta"}
    assert all(torch.equal(one, other) for one, other in zip(here, drawn_here, strict=True))
    assert {value.device.type for value in drawn_there} == {"cpu"}
    assert all(torch.equal(one, other) for one, other in zip(drawn_here, drawn_there, strict=True))
