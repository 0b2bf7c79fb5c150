"""Memory on the pretended card: planned against traced steps at the widths of large models, and every transition.

A transition is what happens between loading and a step or an answer: weights are replaced one after the other, so that
the card needs little more than the model.
"""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from assistant_builder.arms import CELLS
from assistant_builder.config import StudyConfig, TrainConfig
from assistant_builder.inference.batch_scorer import BatchScorer, max_cache_bytes
from assistant_builder.models import loading
from assistant_builder.models.lora_layers import (
    hold_in_compute_dtype,
    merge,
    quantize,
    round_linear,
)
from assistant_builder.planning.memory import Batch
from assistant_builder.planning.memory_check import KNOWN_ERROR, prediction
from assistant_builder.planning.plan import PROCESS_BYTES
from tests.pretended import shapes
from tests.pretended.card import CARD_24, CARD_80, Ledger, pretend_cuda

LAYERS = 2
STORAGE = {"lora": "float16", "qlora": "nf4"}
NAME_8B = "llama-3-8b"
SIZES_8B = shapes.LLAMAS[NAME_8B]
SIZES_4_LAYERS = {**SIZES_8B, "num_hidden_layers": 4}
FLOAT16_8B, NF4_8B = 16_060_000_000, 5_810_000_000
"""Bytes of the two bases."""
PROGRAM = 1_400_000_000
"""Memory of the program in addition to tensors, as measured with Unsloth; the plan assumes 0.7 GB."""
LARGEST = 4 * 14_336 * 4096
"""Bytes of the largest linear weight in float32."""


def planned(
    name: str,
    arm: str,
    batch: Batch,
    answer: int,
    *,
    checkpointing: bool,
    layers: int | None,
    card: str,
) -> int:
    """The planned peak of a step in bytes, without program and loading."""
    train = TrainConfig(
        rank=16,
        alpha=32,
        batch_size=batch.rows,
        micro_batch_size=batch.rows,
        max_length=batch.length,
        gradient_checkpointing="on" if checkpointing else "off",
    )
    config = StudyConfig().with_changes(
        {"train": train.model_dump(), "model.compute_dtype": "bfloat16"}
    )
    parts = prediction(shapes.plan(name, config, batch, answer, card=card, layers=layers), arm)[
        "parts"
    ]
    return sum(value for key, value in parts.items() if key not in ("overhead", "loading"))


def traced(
    ledger: Ledger,
    sizes: dict[str, Any],
    arm: str,
    batch: Batch,
    answer: int,
    *,
    checkpointing: bool,
) -> int:
    """The traced peak of two steps, after loading and holding."""
    model = shapes.base(ledger, sizes, STORAGE[arm], torch.bfloat16)
    train = TrainConfig(rank=16, alpha=32)
    adapted = shapes.adapted(model, train, torch.bfloat16, checkpointing=checkpointing)
    inputs = shapes.batch(batch.rows, batch.length, answer, equal=not batch.padded)
    ledger.start()
    shapes.steps(adapted, inputs, 2)
    return ledger.peak


@pytest.mark.parametrize(
    ("name", "arm", "rows", "length", "checkpointing", "padded"),
    [
        ("llama-2-7b", "lora", 2, 512, False, True),
        ("llama-2-7b", "qlora", 8, 512, True, False),
        (NAME_8B, "lora", 1, 512, False, False),
        (NAME_8B, "qlora", 4, 512, True, False),
        (NAME_8B, "qlora", 2, 512, False, True),
        (NAME_8B, "lora", 2, 2048, True, False),
        ("llama-2-13b", "lora", 4, 512, True, True),
        ("llama-2-13b", "qlora", 2, 512, False, False),
        ("llama-3-70b", "qlora", 1, 512, True, False),
        ("llama-3-70b", "qlora", 4, 1024, True, True),
    ],
)
def test_the_planned_peak_is_the_one_of_the_step(name, arm, rows, length, checkpointing, padded):
    answer = length // 2
    batch = Batch(rows, length, rows * answer, answer, padded=padded)
    with pretend_cuda(CARD_80) as ledger:
        sizes = {**shapes.LLAMAS[name], "num_hidden_layers": LAYERS}
        seen = traced(ledger, sizes, arm, batch, answer, checkpointing=checkpointing)
    predicted = planned(
        name, arm, batch, answer, checkpointing=checkpointing, layers=LAYERS, card="H100"
    )
    print(
        f"{name} {arm} {rows}x{length} {'recomputed' if checkpointing else ''}{' padded' if padded else ''}: "
        f"planned {predicted / 1e9:.2f} GB, traced {seen / 1e9:.2f} GB ({predicted / seen - 1:+.1%})"
    )
    assert predicted == pytest.approx(seen, rel=KNOWN_ERROR)


@pytest.mark.parametrize("arm", list(STORAGE))
def test_both_arms_of_an_8b_train_on_24_gb(arm):
    """The settings that the plan chooses for a card of 24 GB, with all layers, and from loading to the second step."""
    length, answer = 512, 256
    batch = Batch(1, length, answer, answer)
    config = StudyConfig().with_changes(
        {"train.max_length": length, "train.micro_batch_size": 1, "model.compute_dtype": "bfloat16"}
    )
    made = shapes.plan(NAME_8B, config, batch, answer)
    assert made.methods[arm].fit != "no"
    with pretend_cuda() as ledger:
        model = shapes.base(ledger, SIZES_8B, STORAGE[arm], torch.bfloat16)
        stored = ledger.start()
        adapted = shapes.adapted(
            model, config.train, torch.bfloat16, checkpointing=made.methods[arm].checkpointing
        )
        held = ledger.peak
        shapes.steps(adapted, shapes.batch(1, length, answer), 2)
        peak = ledger.peak
    predicted = made.methods[arm].total_bytes - PROCESS_BYTES["cuda"]
    print(
        f"8B {arm}: loaded {stored / 1e9:.1f} GB, held {held / 1e9:.1f} GB, peak {peak / 1e9:.1f} GB, planned "
        f"{predicted / 1e9:.1f} GB, with the program {(peak + PROGRAM) / 1e9:.1f} GB"
    )
    assert stored == pytest.approx(FLOAT16_8B if arm == "lora" else NF4_8B, rel=0.02)
    assert peak + PROGRAM < 24e9
    assert predicted == pytest.approx(peak, rel=KNOWN_ERROR)


def test_holding_merging_and_rounding_need_few_weights_more_than_the_model():
    """From loading a float16 base of 8B widths to the rounded model that is served.

    What is needed in addition to the model does not depend on the number of layers, so that four show it.
    """
    needed = {}
    with pretend_cuda() as ledger:
        adapted = loading.add_adapter(
            shapes.base(ledger, SIZES_4_LAYERS, "float16", torch.bfloat16), TrainConfig(), 0
        )
        before = ledger.start()
        hold_in_compute_dtype(adapted, torch.bfloat16, "cuda")
        needed["hold"] = ledger.peak - before
        del adapted
        adapted = loading.add_adapter(
            shapes.base(ledger, SIZES_4_LAYERS, "float16", torch.bfloat16), TrainConfig(), 0
        )
        before = ledger.start()
        merged = merge(adapted)
        del adapted
        needed["merge"] = ledger.peak - before
        before = ledger.start()
        round_linear(merged, "Q4_0", torch.bfloat16)
        needed["round"] = ledger.peak - before
        assert ledger.start() <= before
    print({name: f"{size / 1e9:.2f} GB" for name, size in needed.items()})
    assert needed["hold"] <= LARGEST // 2
    assert needed["merge"] <= 4 * LARGEST
    assert needed["round"] <= 8 * LARGEST  # the head in float16, and its parts in float32
    assert FLOAT16_8B + max(needed.values()) + PROGRAM < 24e9


def test_merging_a_quantized_base_and_quantizing_it_again_need_the_float16_model():
    with (
        pretend_cuda() as ledger,
        mock.patch(
            "assistant_builder.quantization.bitsandbytes._BitsAndBytes4Bit.quantize",
            lambda self, layer, **_: shapes.quantized(layer, "nf4", torch.bfloat16),
        ),
    ):
        adapted = loading.add_adapter(
            shapes.base(ledger, SIZES_4_LAYERS, "nf4", torch.bfloat16), TrainConfig(), 0
        )
        before = ledger.start()
        merged = merge(adapted)
        del adapted
        merging, wide = ledger.peak, ledger.start()
        quantize(merged, "nf4", double_quant=True, compute_dtype=torch.bfloat16)
        quantizing, after = ledger.peak, ledger.start()
    print(
        f"merge of NF4: {merging - wide} bytes in addition to the float16 model, quantize: {quantizing - wide}"
    )
    assert max(merging, quantizing) - wide <= 4 * LARGEST
    assert after <= before < wide


class Arms:
    """Replaces what reads models from files: a base is made on the card, and adapters are new ones."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.before: list[int] = []  # bytes in use when each base was loaded

    def load_base(self, spec: loading.BaseSpec) -> Any:
        gc.collect()
        self.before.append(self.ledger.now)
        model = shapes.base(self.ledger, SIZES_4_LAYERS, spec.storage, torch.bfloat16)
        if spec.hold:
            hold_in_compute_dtype(model, torch.bfloat16, "cuda")
        return model

    @staticmethod
    def load_adapter(model: Any, folder: Path, name: str = "default") -> Any:
        made = (
            model
            if hasattr(model, "peft_config")
            else loading.add_adapter(model, TrainConfig(rank=16), 0).eval()
        )
        if name not in made.peft_config:
            made.add_adapter(name, made.peft_config["default"])
        return made

    def __enter__(self) -> Arms:
        self._patches = [
            mock.patch.object(loading, "load_base", self.load_base),
            mock.patch.object(loading, "load_adapter", self.load_adapter),
        ]
        for patch in self._patches:
            patch.start()
        return self

    def __exit__(self, *_: object) -> None:
        for patch in self._patches:
            patch.stop()


def test_the_evaluation_has_one_base_on_the_card(tmp_path):
    """The float16 base, the 4-bit base and a merged model, with questions that are scored and answered."""
    from evals.cells import Variant, load_cells

    study = mock.MagicMock(config=StudyConfig().with_changes({"eval.compute_dtype": "bfloat16"}))
    study.arm_folder = lambda run: tmp_path / run
    questions = [(list(range(5, 205)), list(range(9, 60)))]
    with pretend_cuda() as ledger, Arms(ledger) as arms:
        for cell in load_cells(
            study, tmp_path, [Variant(CELLS[name]) for name in ("L16", "Q4", "LM")]
        ):
            scorer = BatchScorer(cell.model, 0, [2], 16)
            scorer.run(
                questions, max_new_tokens=1, on_scores=lambda _: None, on_answers=lambda _: None
            )
            del cell, scorer
        assert arms.before == [0] * 3


def test_chat_and_server_hold_both_assistants_of_an_8b_on_24_gb(tmp_path):
    """Both assistants, and the base that shares the weights of one; the layers that are not traced are added."""
    from assistant_builder.inference.packed_batch import bytes_per_token
    from assistant_builder.inference.session import ChatSession

    config = StudyConfig().with_changes({"model.compute_dtype": "bfloat16", "approaches": "memory"})
    study = mock.MagicMock(config=config)
    layers, tokens = SIZES_8B["num_hidden_layers"] // SIZES_4_LAYERS["num_hidden_layers"], 1024
    with (
        pretend_cuda() as ledger,
        Arms(ledger),
        mock.patch.object(
            loading,
            "load_arm",
            lambda study, arm, hold: (
                Arms.load_adapter(
                    loading.load_base(
                        loading.BaseSpec(
                            tmp_path, STORAGE[arm], True, "bfloat16", "cuda", hold=hold
                        )
                    ),
                    tmp_path,
                ),
                None,
            ),
        ),
        mock.patch.object(ChatSession, "_look_up", lambda *_: None),
    ):
        session = ChatSession(study)
        sizes = []
        for speaker in ("lora", "qlora", "base"):
            session.load(speaker)
            sizes.append(ledger.start())
        model = session._loaded["qlora"][0]
        stored = sum(
            loading.model_bytes(session._loaded[arm][0].get_base_model()) for arm in STORAGE
        )
        held = ledger.start()
        shapes.answer(model, tokens, 2)
        cache = bytes_per_token(model) * (tokens + 256)
        whole = (
            FLOAT16_8B
            + NF4_8B
            + layers * (held - stored)
            + ledger.peak
            - held
            + (layers - 1) * cache
        )
    print(
        f"chat with both: {whole / 1e9:.1f} GB, "
        f"{(whole - FLOAT16_8B - NF4_8B) / 1e9:.1f} GB of it no weights"
    )
    assert sizes[2] - sizes[1] < LARGEST / 100
    assert whole + PROGRAM < 24e9


def test_the_cache_of_answers_follows_the_free_memory():
    with pretend_cuda(CARD_80) as ledger:
        assert max_cache_bytes(torch.device("cuda")) == 39 << 30
        taken = torch.empty(60 << 30, dtype=torch.uint8, device="cuda")
        ledger.see(taken)
        assert max_cache_bytes(torch.device("cuda")) == 9 << 30
    with pretend_cuda(1 << 30):
        assert max_cache_bytes(torch.device("cuda")) == 1 << 30
    assert max_cache_bytes(torch.device("cpu")) == 1 << 30
    assert CARD_24 < CARD_80
