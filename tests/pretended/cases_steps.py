"""Training steps, scoring, answers, merging and rounding of every family over every storage, on the pretended card."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import _disable_current_modes
from trl import SFTConfig, SFTTrainer

from assistant_builder.config import TrainConfig
from assistant_builder.data.types import Message, Pair
from assistant_builder.inference.batch_scorer import BatchScorer, PaddedBatchScorer
from assistant_builder.inference.packed_batch import supports_packing
from assistant_builder.models.chat_template import ChatTokenizer
from assistant_builder.models.lora_layers import merge, round_linear
from assistant_builder.quantization import METHODS
from assistant_builder.training.collate import summed_nll, to_dataset
from tests.export.tiny import tiny_base
from tests.pretended import shapes
from tests.pretended.card import pretend_cuda, values_on_the_host
from tests.tiny_models import FAMILIES, SIZES, sizes_of

STORAGES = list(METHODS)
DTYPES = (torch.bfloat16, torch.float16)
PAIRS = [
    (kind, storage, DTYPES[(row + column) % 2])
    for row, kind in enumerate(FAMILIES)
    for column, storage in enumerate(STORAGES)
]
"""Every family with every storage; compute dtypes alternate, so that each occurs with each of both."""
ONE_EACH = [PAIRS[row * len(STORAGES) + row % len(STORAGES)] for row in range(len(FAMILIES))]
SEQUENCES = [(list(range(5, 5 + count)), list(range(9, 14))) for count in (12, 20, 31)]


def test_the_pairs_have_every_family_storage_and_dtype_with_each_other():
    for first, second in ((0, 1), (0, 2), (1, 2)):
        values = [{pair[place] for pair in PAIRS} for place in (first, second)]
        assert len({(pair[first], pair[second]) for pair in PAIRS}) == len(values[0]) * len(
            values[1]
        )


@pytest.mark.parametrize(("kind", "storage", "dtype"), PAIRS, ids=str)
def test_a_step_stays_on_the_card_in_its_dtype_and_reads_nothing(kind, storage, dtype):
    with pretend_cuda(capability=shapes.CAPABILITIES[dtype]) as ledger:
        model = shapes.base(ledger, sizes_of(kind), storage, dtype, kind)
        ledger.start()
        trained = shapes.adapted(model, TrainConfig(rank=4, alpha=8, dropout=0.1), dtype)
        shapes.steps(
            trained, shapes.batch(3, 40, 20, equal=PAIRS.index((kind, storage, dtype)) % 3 == 0)
        )
        assert {value.device.type for value in trained.parameters()} == {"cuda"}
        # LLM.int8 looks for outliers in its inputs, for which the host waits
        assert not [
            read for read in ledger.reads if storage != "int8" or "bitsandbytes" not in read[1]
        ]
        assert not ledger.float32_products()


@pytest.mark.parametrize(("kind", "storage", "dtype"), ONE_EACH, ids=str)
def test_scores_answers_and_merged_weights_stay_on_the_card(kind, storage, dtype):
    with pretend_cuda(capability=shapes.CAPABILITIES[dtype]) as ledger, values_on_the_host(ledger):
        model = shapes.base(ledger, sizes_of(kind), storage, dtype, kind)
        trained = shapes.ready_to_answer(shapes.adapted(model, TrainConfig(rank=4, alpha=8), dtype))
        ledger.start()
        for scorer in (PaddedBatchScorer, *([BatchScorer] if supports_packing(trained) else [])):
            scored: dict[int, Any] = {}
            answers: dict[int, list[int]] = {}
            scorer(trained, 0, [2], 8).run(
                SEQUENCES, max_new_tokens=3, on_scores=scored.update, on_answers=answers.update
            )
            assert {chosen.device.type for chosen, _ in scored.values()} == {"cuda"}
            assert set(scored) == set(answers) == set(range(len(SEQUENCES)))
        if (
            scorer is BatchScorer
        ):  # else transformers generates in a thread, where pretended tensors are unknown
            assert len(shapes.answer(trained, 20, 2)) == 2
        assert not ledger.float32_products()
        merged = merge(trained)
        round_linear(merged, "Q4_0", dtype)
        assert {value.device.type for value in merged.parameters()} == {"cuda"}


@pytest.mark.parametrize(
    ("kind", "kernels"),
    [
        ("Q8_0", "fused"),
        ("Q5_1", "fused"),
        ("Q4_1", "plain"),
        ("Q4_0", "fused"),
        ("Q4_0", "plain"),
        ("NF4", "fused"),
    ],
)
def test_training_through_rounding_reads_nothing(kind, kernels):
    with pretend_cuda() as ledger:
        model = shapes.base(ledger, SIZES, "float16", torch.bfloat16)
        trained = shapes.adapted(
            model, TrainConfig(rank=4), torch.bfloat16, rounds=kind, kernels=kernels
        )
        ledger.start()
        shapes.steps(trained, shapes.batch(3, 40, 20, equal=kernels == "fused"), 2)
        assert not ledger.reads


@pytest.mark.parametrize("storage", ["float16", "nf4"])
def test_a_sampled_answer_stays_on_the_card(storage):
    with pretend_cuda() as ledger:
        model = shapes.base(ledger, SIZES, storage, torch.bfloat16)
        trained = shapes.ready_to_answer(shapes.adapted(model, TrainConfig(rank=4), torch.bfloat16))
        assert len(shapes.answer(trained, 20, 2, temperature=0.7, top_p=0.9, seed=1)) == 2


def micro_batch(storage: str, kernels: str, scratch: Path) -> tuple[int, int]:
    """Kernels and reads of a micro-batch of three equal rows; ``trl``: of TRL's trainer with its defaults."""
    with pretend_cuda() as ledger:
        train = TrainConfig(rank=4, dropout=0.1)
        model = shapes.base(ledger, SIZES, storage, torch.bfloat16)
        plain = "plain" if kernels == "trl" else kernels
        trained = shapes.adapted(model, train, torch.bfloat16, kernels=plain)
        inputs = shapes.batch(3, 40, 20)
        if kernels != "trl":
            ledger.start()
            summed_nll(trained, inputs).backward()
            return ledger.kernels.total(), len(ledger.reads)
        with _disable_current_modes():
            prompter = ChatTokenizer.load(tiny_base(scratch / "base"))
            pair = Pair(1, (Message("user", "Which?"), Message("assistant", "This one.")))
            rows = to_dataset(prompter.examples(pair))
        arguments = SFTConfig(
            str(scratch),
            bf16=True,
            gradient_checkpointing=False,
            dataset_kwargs={"skip_prepare_dataset": True},
            report_to=[],
        )
        trainer = SFTTrainer(
            trained, arguments, train_dataset=rows, processing_class=prompter.tokenizer
        )
        own = {key: inputs[key] for key in ("input_ids", "labels")}
        own["attention_mask"] = torch.ones_like(own["input_ids"])
        ledger.truth = True
        ledger.start()
        trainer.training_step(trained, own, torch.tensor(60, device="cuda"))
        return ledger.kernels.total(), len(ledger.reads)


@pytest.mark.parametrize("storage", ["float16", "nf4"])
def test_a_micro_batch_starts_fewer_kernels_than_trl_and_reads_nothing(storage, tmp_path):
    counts = {each: micro_batch(storage, each, tmp_path) for each in ("fused", "plain", "trl")}
    print(f"kernels and reads of a micro-batch of two layers, {storage}: {counts}")
    assert counts["fused"][0] < counts["plain"][0] < counts["trl"][0]
    assert counts["fused"][1] == counts["plain"][1] == 0 < counts["trl"][1]
