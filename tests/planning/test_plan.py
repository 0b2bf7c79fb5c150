"""Memory, fit, advice and time of a plan against hand-computed figures and invariants."""

import json
import resource
from dataclasses import replace
from typing import Any

import pytest

from assistant_builder.config import StudyConfig
from assistant_builder.errors import ConfigError, ModelError
from assistant_builder.i18n.quantities import format_bytes
from assistant_builder.planning import hardware
from assistant_builder.planning.advice import advise, cards_needed, to_document, warnings
from assistant_builder.planning.hardware import (
    CARDS,
    Machine,
    choose_machine,
    parse_memory,
    this_machine,
)
from assistant_builder.planning.memory import Batch, optimizer_bytes
from assistant_builder.planning.plan import PROCESS_BYTES, Plan, choose_parallelism, plan_study
from assistant_builder.quantization import METHODS
from tests.commands import python


def plan_for(model: str, card: str | Machine = "A100 80 GB", **changes: Any) -> Plan:
    keys = {key.replace("__", "."): value for key, value in changes.items()}
    machine = CARDS[card] if isinstance(card, str) else card
    return plan_study(StudyConfig().with_changes({"model.base": model, **keys}), machine=machine)


def test_block_constants_take_0_127_bits_with_double_quantization():
    for double_quant, bits in ((False, 4.5), (True, 4.127)):
        stored = METHODS["nf4"].weight_bytes(4096, 4096, double_quant=double_quant)
        assert 8 * stored / 4096**2 == pytest.approx(bits, abs=0.001)


def test_adamw_states_take_eight_bytes_and_8_bit_states_about_two():
    assert (
        optimizer_bytes([100_000], "adamw")
        == optimizer_bytes([100_000], "paged_adamw_32bit")
        == 800_000
    )
    assert optimizer_bytes([100_000], "paged_adamw_8bit") / 100_000 == pytest.approx(
        2 + 8 / 256, abs=0.001
    )
    assert optimizer_bytes([100], "paged_adamw_8bit") == 800  # too small to be worth it


def test_only_target_modules_have_adapters():
    plan = plan_for("llama-3-8b", train__target_modules="q_proj, v_proj")
    # peft's 6.8 million
    assert plan.lora.trained_parameters == 32 * 16 * ((4096 + 4096) + (4096 + 1024))
    with pytest.raises(ModelError, match="q_proj"):
        plan_for("llama-3-8b", train__target_modules="wq").qlora  # noqa: B018 - computed at access


@pytest.mark.parametrize(
    ("model", "card", "method"),
    [
        ("llama-3.1-8b-instruct", "A100 80 GB", "lora"),
        ("llama-3.1-8b-instruct", "T4 16 GB", "qlora"),
        ("llama-3.3-70b-instruct", "A100 80 GB", "qlora"),
        ("llama-3.3-70b-instruct", "RTX 4090 24 GB", "neither"),
    ],
)
def test_float16_is_recommended_if_it_fits_comfortably_else_qlora(model, card, method):
    small = {"train__micro_batch_size": 1}
    advice = advise(plan_for(model, card, **small))
    assert advice.method == method and "GB" in advice.why


def test_suggested_changes_make_the_plan_fit():
    plan = plan_for("gemma-2-9b-it", "T4 16 GB", train__gradient_checkpointing="off")
    advice = advise(plan)
    assert advice.method == "neither" and advice.changes and len(advice.remedies) == 3
    assert plan.with_changes(advice.changes).qlora.fit != "no"
    settings = " ".join(f"--set {key}={value}" for key, value in advice.changes.items())
    assert settings in advice.remedies[0]


def test_twins_share_checkpointing_and_the_16_bit_arm_decides():
    forced = plan_for(
        "llama-2-7b",
        "RTX 3090 24 GB",
        train__max_length=2048,
        train__micro_batch_size=4,
        train__batch_size=16,
    )
    assert forced.lora.checkpointing and forced.qlora.checkpointing
    hopeless = plan_for("llama-3.3-70b-instruct", train__micro_batch_size=1, train__max_length=128)
    assert not hopeless.qlora.checkpointing, "the 16-bit arm cannot fit, so the 4-bit arm decides"


def test_warnings_about_unsupported_hardware_features():
    old = plan_for("llama-3.1-8b-instruct", "T4 16 GB")
    assert old.compute_dtype == "float16" and any("65,504" in said for said in warnings(old))
    asked = plan_for("llama-3.1-8b-instruct", "T4 16 GB", model__compute_dtype="bfloat16")
    assert any("does not support bfloat16" in said for said in warnings(asked))
    laptop = Machine("laptop", "cpu", 16 * 10**9, 12 * 10**9, bfloat16=False)
    wide = plan_for("smollm2-360m-instruct", laptop, train__optimizer="paged_adamw_8bit")
    said = " ".join(warnings(wide))
    assert "float32" in said and "needs a CUDA GPU" in said
    slow = plan_for("smollm2-360m-instruct", laptop, model__compute_dtype="float16")
    assert any("ten times slower" in text for text in warnings(slow))


def test_float32_compute_does_not_change_the_4_bit_weights():
    plain = {"model__allow_float32_compute": True, "train__gradient_checkpointing": "off"}
    half, full = (
        plan_for("llama-3-8b", model__compute_dtype=dtype, **plain)
        for dtype in ("bfloat16", "float32")
    )
    linear = {module.name for module in half.architecture.linear()}
    for (name, _, narrow), (_, _, wide) in zip(half.qlora.layers, full.qlora.layers, strict=True):
        assert wide == narrow if name in linear else wide == 2 * narrow or not narrow
    assert full.qlora.activations.kept > 1.5 * half.qlora.activations.kept


def test_experts_stay_16_bit_with_a_warning():
    plan = plan_for("mixtral-8x7b", "H200 141 GB")
    assert plan.qlora.weights_bytes > 0.95 * plan.lora.weights_bytes
    assert any("fused expert weights" in said for said in warnings(plan))


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("24GB", 24 * 10**9),
        ("24 gib", 24 * 2**30),
        ("16", 16 * 10**9),
        ("0.5TB", 5 * 10**11),
        ("8g", 8 * 10**9),
    ],
)
def test_parsing_of_memory(text, size):
    assert parse_memory(text) == size


@pytest.mark.parametrize("text", ["", "much", "-3GB", "0GB", "12 parsecs"])
def test_invalid_memory_is_refused(text):
    with pytest.raises(ConfigError):
        parse_memory(text)


def test_a_card_is_found_by_a_part_of_its_name():
    assert choose_machine(None, "rtx 4090") is CARDS["RTX 4090 24 GB"]
    assert choose_machine("40GB", "h100").memory_bytes == 40 * 10**9
    assert choose_machine("24GB").device == "cuda"
    with pytest.raises(ConfigError, match="no card"):
        choose_machine(None, "Voodoo 2")


@pytest.mark.parametrize(
    ("name", "card", "share"),
    [
        ("NVIDIA A100-SXM4-80GB", "A100 80 GB", 1),
        ("NVIDIA A100-SXM4-80GB MIG 1g.10gb", "A100 80 GB", 1 / 7),
        ("NVIDIA H100 80GB HBM3 MIG 3g.40gb", "H100 80 GB", 3 / 7),
        ("NVIDIA L40S", "L40S 48 GB", 1),
        ("Tesla V100-SXM2-16GB", "V100 16 GB", 1),
        ("NVIDIA GeForce RTX 4090", "RTX 4090 24 GB", 1),
        ("NVIDIA RTX A1000", None, 0),
        ("NVIDIA L40", None, 0),
        ("NVIDIA T400 4GB", None, 0),
    ],
)
def test_peak_of_a_card_by_driver_name(name, card, share):
    assert hardware._peak_flops(name) == pytest.approx(CARDS[card].flops * share if card else 0.0)


def test_cards_are_counted_with_a_memory_reserve():
    assert cards_needed(70 * 10**9, 80 * 10**9) == 1
    assert cards_needed(160 * 10**9, 80 * 10**9) == 3


def test_time_is_proportional_to_work_and_cost_to_time():
    plan = plan_for("llama-3-8b")
    once = plan.qlora
    thrice = plan.with_changes({"train.epochs": 3 * plan.config.train.epochs}).qlora
    assert once.seconds
    assert thrice.seconds
    assert thrice.seconds == pytest.approx(3 * once.seconds, rel=0.001)
    assert once.cost(2.0) == pytest.approx(once.seconds / 1800)
    plain = plan.with_changes({"train.gradient_checkpointing": "off"}).lora.work.flops
    again = plan.with_changes({"train.gradient_checkpointing": "on"}).lora.work.flops
    assert 1.3 < again / plain < 1.5  # 6N instead of 4N


def test_plan_command_prints_one_json_document_without_torch():
    code = (
        "import sys; from assistant_builder.cli import app\n"
        "try: app(['plan', 'llama-3.3-70b-instruct', '--memory', '80GB', '--json'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'gradio', 'plotly', 'pandas', 'scipy.stats'}\n"
        "assert not sys.modules.keys() & heavy, 'heavy'\n"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    document = json.loads(python("-c", code).stdout)
    assert {"model", "parameters", "methods", "recommendation"} <= document.keys()
    assert set(document["methods"]) == {"qlora", "lora"}
    assert document["recommendation"]["method"] == "qlora"
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime - before.ru_utime < 3  # processor time: what else runs does not count


def test_a_cpu_dequantizes_weights_only_if_they_fit():
    def on_a_cpu(gigabytes: int) -> Plan:
        size = gigabytes * 10**9
        machine = replace(
            this_machine(), device="cpu", memory_bytes=size, free_bytes=size, bfloat16=True
        )
        return plan_for("qwen3-8b", machine)

    roomy, tight = on_a_cpu(100), on_a_cpu(14)
    assert roomy.lora.dequantized and roomy.qlora.dequantized
    assert roomy.qlora.weights_bytes < roomy.qlora.activations.dequantized
    assert roomy.qlora.total_bytes == pytest.approx(roomy.lora.total_bytes, rel=0.01)
    assert tight.lora.fit == "no" != tight.qlora.fit
    assert not tight.qlora.dequantized
    assert not tight.lora.dequantized
    assert not plan_for("qwen3-8b", "A100 80 GB").qlora.dequantized


def head_of(plan: Plan, supervised: int) -> int:
    """Bytes of the head for one row of 2,048 tokens with so many supervised positions at its end."""
    return replace(plan, largest=Batch(1, 2048, supervised, supervised)).lora.activations.head


@pytest.mark.parametrize("model", ["llama-3.1-8b-instruct", "gemma-3-4b-it"])
def test_loss_memory_of_a_gpu_counts_the_rows_of_a_float32_chunk(model):
    plan = plan_for(model)
    assert plan.machine.device == "cuda"
    vocabulary, hidden = plan.architecture.vocabulary, plan.architecture.hidden
    # bytes of a supervised position: two copies, and its row of the last norm
    logits = 2 * 2 * vocabulary + 2 * hidden
    for supervised in (100, 512):  # one chunk: three times float32
        assert head_of(plan, supervised) - head_of(plan, supervised - 1) == logits + 12 * vocabulary
    # a second chunk takes the place of the first
    assert head_of(plan, 1024) - head_of(plan, 512) == 512 * logits


def test_loading_needs_the_stored_base_and_one_16_bit_tensor():
    plan = plan_for("llama-3.1-8b-instruct")
    embedding = 2 * 128_256 * 4096
    for method in (plan.qlora, plan.lora):
        assert method.loading_bytes == PROCESS_BYTES["cuda"] + method.weights_bytes + embedding
        assert method.loading_host_bytes == 0 and "loading" not in method.parts
    # nothing is cast, and so the largest 4-bit one counts
    half = plan.with_changes({"model.compute_dtype": "float16"})
    assert (
        half.qlora.loading_bytes
        == PROCESS_BYTES["cuda"] + half.qlora.weights_bytes + 2 * 4096 * 14_336
    )
    assert half.lora.loading_bytes == PROCESS_BYTES["cuda"] + half.lora.weights_bytes


def test_loading_determines_the_peak_if_training_needs_less():
    tiny = {
        "train__max_length": 32,
        "train__micro_batch_size": 1,
        "train__rank": 1,
        "train__target_modules": "q_proj",
    }
    document = to_document(plan_for("gemma-3-1b-it", **tiny))
    qlora = document["methods"]["qlora"]
    trained = sum(
        qlora[f"{part}_bytes"]
        for part in ("weights", "adapter", "gradient", "optimizer", "activation", "overhead")
    )
    assert qlora["total_bytes"] == qlora["loading_bytes"] > trained
    plan = plan_for("gemma-3-1b-it", **tiny)
    assert sum(plan.qlora.parts.values()) == plan.qlora.total_bytes
    assert plan.qlora.parts["loading"] > 0


def test_sharded_loading_needs_main_memory_for_the_base():
    alone = plan_for("llama-3.3-70b-instruct")
    plan = replace(alone, shards=4)
    for before, method, copies in ((alone.qlora, plan.qlora, 4), (alone.lora, plan.lora, 1)):
        assert (
            copies * before.weights_bytes
            < method.loading_host_bytes
            < (copies + 0.5) * before.weights_bytes
        )
        assert method.loading_bytes < before.loading_bytes
    said = next(text for text in warnings(plan) if "main memory" in text)
    assert "the 4 processes" in said and format_bytes(plan.qlora.loading_host_bytes) in said
    assert not any("main memory" in text for text in warnings(alone))


def test_advice_if_only_qlora_fits_names_a_card_and_the_setting_for_qlora_alone():
    config = StudyConfig().with_changes({"model.base": "llama-3-70b"})
    plan = plan_study(config, machine=choose_machine("80GB"))
    said = advise(plan)
    assert said.method == "qlora"
    assert any("fits the float16 twin" in text for text in said.remedies)
    assert any("--set arms=qlora" in text for text in said.remedies)
    card = next(card for card in CARDS.values() if any(card.name in text for text in said.remedies))
    assert replace(plan, machine=card).lora.fit != "no"


def test_a_study_of_one_arm_is_planned_for_that_arm_alone():
    plan = plan_for("llama-3.3-70b-instruct", arms=["qlora"])
    assert [method.method for method in plan.arms] == ["qlora"]
    card = replace(plan, machine=CARDS["A100 80 GB"])
    assert choose_parallelism(card, 2).kind == "ddp"
    assert choose_parallelism(card.with_changes({"arms": ["lora", "qlora"]}), 2).kind == "fsdp"
