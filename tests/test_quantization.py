"""The registry of quantization methods, and a method that a module outside the product registers."""

import sys
from pathlib import Path

import pytest

from assistant_builder import doctor, registry
from assistant_builder.atomic_io import read_json
from assistant_builder.config import StudyConfig
from assistant_builder.devices import device_name
from assistant_builder.errors import ConfigError
from assistant_builder.export.adapter import ADAPTER
from assistant_builder.export_formats import LoadingContext
from assistant_builder.planning.memory_check import require_device
from assistant_builder.quantization import METHODS, method_of, quantizing
from assistant_builder.ui.settings_form import study_options
from tests.commands import FEW_SCORES, QUICK, record_of, set_words, with_plugin
from tests.export.tiny import tiny_base
from tests.synthetic_study import SMALL

PLUGIN = '''
"""Weights rounded to 8 bits, each row with a float32 scale."""

import functools

from assistant_builder.quantization import METHODS, QuantizationMethod


@functools.cache
def layer_class():
    import torch

    class Int8Linear(torch.nn.Linear):
        def forward(self, x):
            bias = None if self.bias is None else self.bias.to(x.dtype)
            return torch.nn.functional.linear(x, METHODS["int8_rows"].dequantize(self, x.dtype), bias)

    return Int8Linear


class Int8Rows(QuantizationMethod):
    def weight_bytes(self, outputs, inputs, *, double_quant):
        return outputs * inputs + 4 * outputs

    def quantize(self, layer, *, double_quant, compute_dtype):
        import torch

        weight = layer.weight.data.float()
        scale = weight.abs().amax(1, keepdim=True).clamp(min=1e-12) / 127
        made = layer_class()(layer.in_features, layer.out_features, bias=False, device="meta")
        made.weight = torch.nn.Parameter((weight / scale).round().to(torch.int8), requires_grad=False)
        made.register_buffer("scale", scale, persistent=False)
        made.bias = layer.bias
        return self.marked(made).train(layer.training)

    def dequantize(self, layer, dtype=None):
        weight = layer.weight.data.float() * layer.scale
        return weight if dtype is None else weight.to(dtype)


METHODS.register(Int8Rows(name="int8_rows", label="INT8 by rows", bits=8))
'''


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A method ``int8_rows``, registered in this process and in those that it starts."""
    for name, value in with_plugin(tmp_path / "plugins", "int8_plugin", PLUGIN).items():
        monkeypatch.setenv(name, value)
    monkeypatch.syspath_prepend(str(tmp_path / "plugins"))
    monkeypatch.setattr(registry, "_loaded", set())
    monkeypatch.setattr(METHODS, "_entries", dict(METHODS._entries))
    monkeypatch.delitem(sys.modules, "int8_plugin", raising=False)


def test_methods_that_quantize_are_the_choices_of_a_study():
    assert list(METHODS) == ["float16", "nf4", "fp4", "int8"]
    assert list(quantizing()) == ["nf4", "fp4", "int8"]
    option = study_options()["model.quant_type"]
    assert option.kind == "choice"
    assert option.choices == ("nf4", "fp4", "int8")
    assert option.default == "nf4"
    for name in (
        "float16",
        "int8_rows",
    ):  # the former does not quantize, the latter is not registered here
        with pytest.raises(ConfigError, match=f"model.quant_type='{name}'.*nf4, fp4, int8"):
            StudyConfig().with_changes({"model.quant_type": name})


@pytest.mark.usefixtures("plugin")
def test_a_method_from_outside_is_a_choice_of_configuration_and_form():
    config = StudyConfig().with_changes({"model.quant_type": "int8_rows"})
    assert config.model.quant_type == "int8_rows"
    assert study_options()["model.quant_type"].choices == ("nf4", "fp4", "int8", "int8_rows")


@pytest.mark.usefixtures("plugin")
def test_the_planner_counts_the_bytes_of_a_method_from_outside():
    plan = record_of("plan smollm2-135m-instruct --set model.quant_type=int8_rows")
    layers = {layer["name"]: layer["bytes"] for layer in plan["methods"]["qlora"]["layers"]}
    assert layers["model.layers.0.mlp.up_proj"] == 1536 * 576 + 4 * 1536
    wide = {layer["name"]: layer["bytes"] for layer in plan["methods"]["lora"]["layers"]}
    assert wide["model.layers.0.mlp.up_proj"] == 2 * 1536 * 576


@pytest.mark.usefixtures("plugin")
def test_loading_instructions_name_a_storage_that_transformers_cannot_make():
    def lines(quant_type: str) -> str:
        model = StudyConfig().with_changes({"model.quant_type": quant_type}).model
        (python,) = ADAPTER.snippets(
            LoadingContext(
                arm="qlora",
                folder="out",
                base="owner/base",
                name="study",
                system="",
                model=model,
                compute_dtype="bfloat16",
                max_new_tokens=8,
                rank=16,
                context=256,
            )
        )
        return python.text

    assert "stored as INT8 by rows" in lines("int8_rows")
    assert "quantization_config" not in lines("int8_rows")
    assert (
        'BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="fp4", bnb_4bit_use_double_quant=True, '
        'bnb_4bit_compute_dtype="bfloat16")'
    ) in lines("fp4")
    assert "quantization_config=BitsAndBytesConfig(load_in_8bit=True))" in lines("int8")


def test_a_method_that_needs_a_gpu_is_refused_without_one(monkeypatch):
    gpu_only = type(METHODS["nf4"])(name="nf4", label="NF4", bits=4, needs_gpu=True)
    monkeypatch.setattr(METHODS, "_entries", {**METHODS._entries, "nf4": gpu_only})
    with pytest.raises(ConfigError, match="stored as nf4 needs a GPU"):
        require_device(StudyConfig(), "cpu")
    require_device(StudyConfig(), "cuda")
    require_device(StudyConfig().with_changes({"arms": ["lora"]}), "cpu")
    assert doctor._quantization("nf4", None, "the processor").value == "needs a GPU"


@pytest.mark.train
@pytest.mark.usefixtures("plugin")
def test_a_base_of_a_method_from_outside_is_loaded_as_planned(tmp_path):
    import torch

    from assistant_builder.models.loading import (
        BaseSpec,
        add_adapter,
        count_parameters,
        load_base,
        model_bytes,
    )
    from assistant_builder.models.lora_layers import dequantize_to_compute_dtype, merge, quantize
    from assistant_builder.planning.plan import plan_study

    folder = tiny_base(tmp_path / "base")
    spec = BaseSpec(folder, "int8_rows", True, "float32")
    model, plain = load_base(spec), load_base(BaseSpec(folder, "float16", True, "float32"))
    quantized = [layer for layer in model.modules() if method_of(layer).name == "int8_rows"]
    assert len(quantized) == 14 and all(layer.weight.dtype == torch.int8 for layer in quantized)
    assert count_parameters(model) == count_parameters(plain)
    config = StudyConfig().with_changes(
        {
            "model.base": str(folder),
            "model.quant_type": "int8_rows",
            "model.compute_dtype": "float32",
            "model.allow_float32_compute": True,
        }
    )
    assert model_bytes(model) == plan_study(config).qlora.weights_bytes
    ids = torch.arange(24).reshape(2, 12)
    with torch.no_grad():
        found, exact = model(input_ids=ids).logits, plain(input_ids=ids).logits
        assert 0 < (found - exact).abs().max() < 0.1 * exact.abs().max()
        # an adapter that adds nothing yet
        requantized = merge(add_adapter(load_base(spec), config.train, 0))
        assert not any(method_of(layer).quantizes for layer in requantized.modules())
        quantize(requantized, "int8_rows", double_quant=True, compute_dtype=torch.float32)
        assert model_bytes(requantized) == model_bytes(model)
        assert torch.allclose(
            requantized(input_ids=ids).logits, found, atol=0.02 * float(exact.abs().max())
        )
        dequantize_to_compute_dtype(model, torch.float32)
        assert torch.equal(model(input_ids=ids).logits, found)
    with pytest.raises(ConfigError, match="stored as int8_rows cannot be sharded"):
        load_base(BaseSpec(folder, "int8_rows", True, "float32", sharded=True))


@pytest.mark.train
@pytest.mark.usefixtures("plugin", "bundled_models")
@pytest.mark.slow
def test_a_study_trains_scores_and_exports_over_a_base_of_a_method_from_outside(tmp_path):
    settings = {
        **QUICK,
        **FEW_SCORES,
        "model.base": tiny_base(tmp_path / "base"),
        "model.quant_type": "int8_rows",
        "approaches": "grounded",
        "arms": "qlora",
        "eval.cells": "Q4",
    }
    document = record_of(f"run {SMALL} --name rows", *set_words(settings))
    assert document["state"] == "succeeded"
    folder = Path(document["folder"])
    trained = read_json(folder / "arms" / "qlora" / "summary.json")
    assert trained["base_storage"] == "int8_rows" and trained["steps"] == 2
    assert trained["base_bytes"] == trained["predicted"]["base_bytes"]
    report = read_json(folder / "report.json")
    assert set(report["cells"]) == {"Q4"}
    # said in the log, with the training and in the report
    computed_on = device_name(trained["device"])
    assert trained["device_name"] == report["resources"]["qlora"]["device_name"] == computed_on
    assert f"Training qlora on {computed_on} (" in (
        folder / "arms" / "qlora" / "log.txt"
    ).read_text(encoding="utf-8")
    exported = record_of("export rows --arm qlora --format adapter --to", tmp_path / "out")
    assert exported["rescore"]["outcome"] == "as measured"
