"""On a Mac: its builds of torch have no oneDNN, its GPU is there but not used, and nothing fails for either."""

import platform
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from assistant_builder import doctor
from assistant_builder.inference.prepacked_linear import PrepackedLinear, prepack
from assistant_builder.models import embedding, loading
from assistant_builder.planning.hardware import this_machine


@pytest.fixture(autouse=True)
def mac(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    # its operators are registered with oneDNN alone
    monkeypatch.setattr(torch.ops, "mkldnn", SimpleNamespace())
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)


def test_it_computes_on_its_processor_in_float32():
    assert loading.pick_device() == "cpu"
    assert loading.resolve_compute_dtype("auto", "cpu") == "float32"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_layers_that_cannot_be_packed_stay_as_they_are(dtype):
    model = nn.Sequential(nn.Linear(8, 8, dtype=dtype))
    prepack(model, batches=True)
    assert type(model[0]) is nn.Linear and not isinstance(model[0], PrepackedLinear)
    assert model(torch.ones(1, 8, dtype=dtype)).shape == (1, 8)


def test_the_embedder_computes_where_training_does(monkeypatch):
    import sentence_transformers

    asked: list[Any] = []
    monkeypatch.setattr(
        sentence_transformers, "SentenceTransformer", lambda folder, **given: asked.append(given)
    )
    embedding.Embedder(Path("/nowhere"))
    assert asked[0]["device"] == "cpu"  # left to itself it takes a Mac's GPU


def test_doctor_and_planner_do_not_use_an_apple_gpu(monkeypatch):
    answer = '{"found": {"gpus": [], "build": "", "problem": ""}, "device": "cpu", '
    answer += '"computes": "a Mac (cpu), float32", "quantization": {"nf4": ""}}'
    monkeypatch.setattr(
        subprocess, "run", lambda *_, **__: SimpleNamespace(stdout=answer, stderr="")
    )
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    gpu, _, backend, *_ = doctor._torch()
    assert gpu.ok
    assert gpu.value == (
        "Apple GPUs are not used, since 4-bit training on them is untested; models run on the CPU"
    )
    assert backend.value == "bitsandbytes works on the CPU"
    here = this_machine()
    assert here.device == "cpu" and here.compute_dtype == "float32"
