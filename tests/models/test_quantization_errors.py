"""What fails while a base is quantized is named: memory and libraries of a machine are not the fault of the files."""

from typing import Any

import pytest
import torch
from transformers.integrations.bitsandbytes import Bnb4bitQuantize

from assistant_builder.errors import AssistantBuilderError, ModelError, ResourceError
from assistant_builder.models.loading import BaseSpec, load_base
from tests.export.tiny import tiny_base

pytestmark = pytest.mark.train


@pytest.mark.parametrize(
    ("error", "kind", "what", "remedy"),
    [
        (
            torch.OutOfMemoryError("CUDA out of memory"),
            ResourceError,
            "not enough memory",
            "smaller base",
        ),
        (
            RuntimeError("libcusparse.so.12: cannot open shared object file"),
            AssistantBuilderError,
            "NF4 on this machine: libcusparse.so.12",
            "doctor",
        ),
    ],
)
def test_the_machine_is_named_if_it_cannot_quantize(
    error, kind, what, remedy, tmp_path, monkeypatch
):
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr("bitsandbytes.functional.quantize_4bit", fail)
    with pytest.raises(kind, match=what) as caught:
        load_base(BaseSpec(tiny_base(tmp_path / "base"), "nf4", True, "float32"))
    assert remedy in str(caught.value.remedy) and caught.value.__cause__ is error


def test_a_weight_that_cannot_be_quantized_is_an_error_of_the_model(tmp_path, monkeypatch):
    def fail(*_: Any, **__: Any) -> None:
        raise ValueError("a strange weight")

    monkeypatch.setattr(Bnb4bitQuantize, "convert", fail)
    with pytest.raises(ModelError, match="a strange weight"):
        load_base(BaseSpec(tiny_base(tmp_path / "base"), "nf4", True, "float32"))
