"""The arms differ in how the frozen base is stored, and in nothing else; on the real NF4 model."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.nn import Linear4bit

from assistant_builder.config import StudyConfig
from assistant_builder.inference.padded_batch import LeftPadding, supervised_logits
from assistant_builder.models.chat_template import Example
from assistant_builder.models.loading import (
    BaseSpec,
    add_adapter,
    load_base,
    model_bytes,
)
from assistant_builder.models.lora_layers import (
    CastOnUseLinear,
    dequantize_to_compute_dtype,
    hold_in_compute_dtype,
    train_through_rounding,
)
from assistant_builder.training.collate import to_dataset
from assistant_builder.training.sft_config import twin
from tests.export.tiny import tiny_base

pytestmark = pytest.mark.train


def test_twin_replaces_one_field():
    arms = twin(StudyConfig().with_changes({"train.rank": 8}))
    lora, qlora = (arms[arm].model_dump() for arm in ("lora", "qlora"))
    assert {key for key in lora if lora[key] != qlora[key]} == {"base_storage"}
    assert (lora["base_storage"], qlora["base_storage"]) == ("float16", "nf4")
    assert list(arms) == ["lora", "qlora"]


@pytest.fixture(scope="module")
def adapted(model_cache: Path, compute_dtype: str) -> Iterator[dict[str, Any]]:
    """Both arms' real models with fresh adapters, as training starts with them."""
    train = StudyConfig().train
    folder = model_cache / "models" / "smollm2-135m-instruct"
    yield {
        arm: add_adapter(
            load_base(BaseSpec(folder, settings.base_storage, True, compute_dtype)),
            train,
            train.seed,
        )
        for arm, settings in twin(StudyConfig()).items()
    }


def batch() -> Any:
    return torch.arange(40, dtype=torch.long).reshape(2, 20) * 311 % 49_000


def gradients(model: Any) -> Any:
    torch.manual_seed(7)
    model.zero_grad()
    model.train()
    model(input_ids=batch(), labels=batch()).loss.backward()
    return torch.cat(
        [value.grad.flatten() for value in model.parameters() if value.grad is not None]
    )


@pytest.mark.long
def test_only_the_storage_of_the_linear_layers_differs(adapted):
    lora, qlora = (dict(adapted[arm].named_modules()) for arm in ("lora", "qlora"))
    assert lora.keys() == qlora.keys()
    stored = {name for name, layer in qlora.items() if isinstance(layer, Linear4bit)}
    assert len(stored) == 30 * 7  # every linear layer of the default base, and not the head
    for name, layer in lora.items():
        if name in stored:
            assert type(layer) is CastOnUseLinear and layer.weight.dtype == torch.float16
            state = qlora[name].weight.quant_state
            assert state.quant_type == "nf4" and state.nested and state.shape == layer.weight.shape
        else:
            assert type(layer) is type(qlora[name])
            own, other = (
                dict(module[name].named_parameters(recurse=False)) for module in (lora, qlora)
            )
            assert own.keys() == other.keys()
            for key, value in own.items():
                assert value.dtype == other[key].dtype and torch.equal(value, other[key]), (
                    f"{name}.{key}"
                )
                assert value.requires_grad == other[key].requires_grad


def test_adapters_start_equal_and_in_float32(adapted):
    trained = [
        {n: p for n, p in adapted[arm].named_parameters() if p.requires_grad}
        for arm in ("lora", "qlora")
    ]
    assert trained[0].keys() == trained[1].keys() and len(trained[0]) == 2 * 30 * 7
    for name, value in trained[0].items():
        assert value.dtype == torch.float32 and torch.equal(value, trained[1][name])


def test_every_module_has_the_same_output_dtype(adapted, compute_dtype):
    found: dict[str, dict[str, Any]] = {}
    for arm, model in adapted.items():
        dtypes: dict[str, Any] = {}
        hooks = [
            module.register_forward_hook(
                lambda _, __, out, name=name, into=dtypes: into.update(
                    {name: getattr(out, "dtype", None)}
                )
            )
            for name, module in model.named_modules()
        ]
        with torch.no_grad():
            model.eval()(input_ids=batch())
        for hook in hooks:
            hook.remove()
        found[arm] = dtypes
    assert found["lora"] == found["qlora"]
    tensors = {dtype for dtype in found["lora"].values() if dtype is not None}
    assert tensors == {getattr(torch, compute_dtype)}


@pytest.mark.parametrize("arm", ["lora", "qlora"])
def test_gradients_after_an_evaluation_equal_those_before(adapted, arm):
    model = adapted[arm]
    before = gradients(model)
    with torch.no_grad():
        model.eval()(input_ids=batch())
    assert before.norm() > 0 and torch.equal(before, gradients(model))


@pytest.mark.parametrize("arm", ["lora", "qlora"])
def test_weights_in_the_compute_dtype_change_no_bit(model_cache, compute_dtype, arm):
    folder = model_cache / "models" / "smollm2-135m-instruct"
    storage = twin(StudyConfig())[arm].base_storage
    model = add_adapter(
        load_base(BaseSpec(folder, storage, True, compute_dtype)), StudyConfig().train, 0
    )
    cast = gradients(model)
    with torch.no_grad():
        logits = model.eval()(input_ids=batch()).logits
    dequantize_to_compute_dtype(model, getattr(torch, compute_dtype))
    with torch.no_grad():
        assert torch.equal(logits, model.eval()(input_ids=batch()).logits)
    assert torch.equal(cast, gradients(model))


def test_a_gpu_holds_float16_weights_and_no_others(tmp_path):
    """Their bytes do not change; 4-bit weights, and those that a format is rounded from, stay as they are."""
    base, train = tiny_base(tmp_path / "base"), StudyConfig().train

    def held(
        storage: str, dtype: torch.dtype, *, rounds: bool = False
    ) -> tuple[set[torch.dtype], bool]:
        model = add_adapter(load_base(BaseSpec(base, storage, True, "bfloat16")), train, 0)
        if rounds:
            train_through_rounding(model, "Q8_0")
        before, cast = (
            model_bytes(model),
            sum(isinstance(layer, CastOnUseLinear) for layer in model.modules()),
        )
        with torch.no_grad():
            logits = model(input_ids=torch.arange(8)[None]).logits
            hold_in_compute_dtype(model, dtype, "cuda")
            assert dtype != torch.bfloat16 or torch.equal(
                model(input_ids=torch.arange(8)[None]).logits, logits
            )
        assert model_bytes(model) == before
        frozen = {
            value.dtype for name, value in model.named_parameters() if "proj.base_layer" in name
        }
        return frozen, sum(isinstance(layer, CastOnUseLinear) for layer in model.modules()) < cast

    assert held("float16", torch.bfloat16) == ({torch.bfloat16}, True)
    assert held("nf4", torch.bfloat16) == ({torch.uint8}, False)
    assert held("float16", torch.float32) == ({torch.float16}, False)  # would be twice as large
    assert held("float16", torch.bfloat16, rounds=True) == ({torch.float16}, False)


def test_loss_over_supervised_positions_equals_the_plain_loss(model_cache):
    folder = model_cache / "models" / "smollm2-135m-instruct"
    model = load_base(BaseSpec(folder, "float16", True, "float32"))
    examples = [
        Example(
            tuple(range(100, 100 + length)),
            tuple(place >= length - answer for place in range(length)),
        )
        for length, answer in ((12, 4), (20, 9))
    ]
    with torch.no_grad():
        inputs = LeftPadding(2)(list(to_dataset(examples)))
        logits, targets = supervised_logits(model, inputs)
        ours = torch.nn.functional.cross_entropy(logits, targets, reduction="sum")
        plain = torch.tensor(0.0)
        for example in examples:
            ids = torch.tensor([example.input_ids])
            labels = torch.tensor(
                [[t if s else -100 for t, s in zip(*vars(example).values(), strict=True)]]
            )
            plain += model(input_ids=ids, labels=labels).loss * sum(example.supervised)
    assert len(targets) == 13
    assert ours.item() == pytest.approx(plain.item(), rel=1e-5)
