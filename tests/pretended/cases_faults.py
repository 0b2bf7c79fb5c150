"""Faults put into the product by hand: the pretended card notices each of them, and none without a fault.

Each fault is a change of the source of one function. Several revert a fix of a fault that the GPU path once had.
"""

import inspect
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from assistant_builder.config import TrainConfig
from assistant_builder.inference import batch_scorer, generate, packed_batch, padded_batch
from assistant_builder.models import loading, lora_layers, rounding
from assistant_builder.planning.memory import Batch
from assistant_builder.planning.memory_check import KNOWN_ERROR
from assistant_builder.training import collate, fused_lora, gpu
from assistant_builder.training.trainer import TwinTrainer
from tests.export.tiny import tiny_base
from tests.pretended import cases_peaks, cases_trainer, shapes
from tests.pretended.card import Ledger, pretend_cuda, values_on_the_host
from tests.tiny_models import SIZES, sizes_of

TRAIN = TrainConfig(rank=4, alpha=8, dropout=0.1)


@dataclass(frozen=True)
class Fault:
    """A change of the text of ``name``, an attribute of ``owner``, that ``scenario`` shows."""

    scenario: Callable[[Ledger, Path], list[str]]
    owner: Any
    name: str
    old: str
    new: str


@contextmanager
def put_in(fault: Fault) -> Iterator[None]:
    """The fault in the product, in the context."""
    plain = inspect.getattr_static(fault.owner, fault.name)
    function = getattr(plain, "__func__", plain)
    source = textwrap.dedent(inspect.getsource(function))
    assert source.count(fault.old) == 1, (
        f"{fault.name} has changed: {fault.old!r} is not in it once"
    )
    names = dict(vars(sys.modules[function.__module__]))
    exec(
        compile(
            "from __future__ import annotations\n" + source.replace(fault.old, fault.new),
            "fault",
            "exec",
        ),
        names,
    )
    made = names[fault.name]
    if (
        inspect.isfunction(plain) and plain.__closure__ is None
    ):  # other names of the module stay those of the module
        made = type(plain)(made.__code__, plain.__globals__, made.__name__, made.__defaults__)
        made.__kwdefaults__ = plain.__kwdefaults__
    with mock.patch.object(fault.owner, fault.name, made):
        yield


def _noticed(ledger: Ledger) -> list[str]:
    return [
        *(f"{kind} at {at}" for kind, at in ledger.reads),
        *(f"{name} in float32" for name in ledger.float32_products()),
    ]


def step(ledger: Ledger, _: Path, kind: str = "llama", storage: str = "nf4") -> list[str]:
    """Two steps, of rows of equal and of different lengths."""
    trained = shapes.adapted(
        shapes.base(ledger, sizes_of(kind), storage, torch.bfloat16, kind), TRAIN, torch.bfloat16
    )
    shapes.steps(trained, shapes.batch(3, 40, 20))
    without_mask = ("_scaled_dot_product_flash_attention", torch.bfloat16) in ledger.products
    shapes.steps(trained, shapes.batch(3, 40, 20, equal=False))
    assert {value.device.type for value in trained.parameters()} == {"cuda"}
    return [
        *_noticed(ledger),
        *([] if without_mask else ["no flash attention for rows of equal length"]),
    ]


def clipping_step(ledger: Ledger, folder: Path) -> list[str]:
    """A step of a model that changes the outputs of its layers in place."""
    return step(ledger, folder, "olmo", "float16")


def rounding_step(ledger: Ledger, _: Path) -> list[str]:
    """A step through the rounding of a format."""
    shapes.steps(
        shapes.adapted(
            shapes.base(ledger, SIZES, "float16", torch.bfloat16),
            TRAIN,
            torch.bfloat16,
            rounds="Q4_0",
        ),
        shapes.batch(3, 40, 20),
    )
    return [f"{kind} at {at}" for kind, at in ledger.reads]


def memory_of_a_step(ledger: Ledger, _: Path) -> list[str]:
    """A step at 8B widths against its plan."""
    batch, sizes = (
        Batch(2, 512, 512, 256, padded=True),
        {**cases_peaks.SIZES_8B, "num_hidden_layers": 2},
    )
    seen = cases_peaks.traced(ledger, sizes, "qlora", batch, 256, checkpointing=False)
    predicted = cases_peaks.planned(
        cases_peaks.NAME_8B, "qlora", batch, 256, checkpointing=False, layers=2, card="H100"
    )
    return (
        []
        if seen <= predicted <= (1 + KNOWN_ERROR) * seen
        else [f"planned {predicted}, traced {seen}"]
    )


def hold(ledger: Ledger, _: Path) -> list[str]:
    """Holding the weights of a float16 base."""
    model = shapes.base(
        ledger, {**cases_peaks.SIZES_8B, "num_hidden_layers": 2}, "float16", torch.bfloat16
    )
    before = ledger.start()
    lora_layers.hold_in_compute_dtype(model, torch.bfloat16, "cuda")
    return (
        [f"{ledger.peak - before} bytes more"]
        if ledger.peak - before > cases_peaks.LARGEST // 2
        else []
    )


def answers(ledger: Ledger, _: Path) -> list[str]:
    """Scores of packed and padded batches, and an answer of the chat: one read and no copy for a token."""
    made = loading.add_adapter(shapes.base(ledger, SIZES, "nf4", torch.bfloat16), TRAIN, 0)
    model = shapes.ready_to_answer(made)
    with values_on_the_host(ledger):
        for scorer in (batch_scorer.BatchScorer, batch_scorer.PaddedBatchScorer):
            scorer(model, 0, [2], 8).run(
                [(list(range(5, 25)), list(range(9, 14)))],
                max_new_tokens=2,
                on_scores=lambda _: None,
                on_answers=lambda _: None,
            )
    counts = []
    for length in (4, 8):
        ledger.start()
        shapes.answer(model, 20, length)
        counts.append((len(ledger.reads), ledger.copies["cpu to cuda"]))
    (reads, copies), (more_reads, more_copies) = counts
    return [
        *(["a token is read more than once"] if more_reads - reads > 4 else []),
        *(["tokens are copied to the card"] if more_copies != copies else []),
        *(f"{name} in float32" for name in ledger.float32_products()),
    ]


def cache(ledger: Ledger, _: Path) -> list[str]:
    """The memory of the KV cache on a card that has room."""
    found = batch_scorer.max_cache_bytes(torch.device("cuda"))
    return [] if found > 10 * batch_scorer.MAX_CACHE_BYTES else [f"{found} bytes of cache"]


def loop(ledger: Ledger, folder: Path) -> list[str]:
    """The loop of a whole training; it makes a card of its own."""
    raise NotImplementedError


FAULTS = {
    "adapters are not cast": Fault(
        step,
        fused_lora.GpuLoraGroup,
        "cast_adapters",
        "[each.to(dtype) for each in parameters[:count]]",
        "parameters[:count]",
    ),
    "adapters stay on the CPU": Fault(step, loading, "add_adapter", "down.weight = weight", "pass"),
    "the loss is read": Fault(
        step, collate, "summed_nll", "return loss", "return loss if float(loss) < 1e9 else loss"
    ),
    "rows of equal length have a mask": Fault(
        step, gpu, "_mask_without_sync", "attention_mask is not None and _padded.get()", "True"
    ),
    "a weight is dequantized to float32": Fault(
        step,
        fused_lora.SharedInputLora,
        "backward",
        "group.base_weight(layer, grad.dtype)",
        "group.base_weight(layer, torch.float32)",
    ),
    "outputs are views": Fault(
        clipping_step, fused_lora.SharedInputLora, "forward", "result.data", "result"
    ),
    "rounding reads ties": Fault(
        rounding_step, rounding, "_largest", 'x.device.type != "cpu"', "False"
    ),
    "weights are kept for the backward pass": Fault(
        memory_of_a_step,
        fused_lora.SharedInputLora,
        "forward",
        "ctx.set_materialize_grads(False)",
        "ctx.set_materialize_grads(False)\n    ctx.all = [group.base_weight(each, x.dtype) for each in group.layers]",
    ),
    "replaced weights stay in memory": Fault(
        hold,
        lora_layers,
        "child_layers",
        "for parent, name in places:\n        yield parent, name, getattr(parent, name)",
        "yield from [(parent, name, getattr(parent, name)) for parent, name in places]",
    ),
    "a range has no device": Fault(
        answers, packed_batch.PackedBatch, "mask", ", device=self.query_positions.device", ""
    ),
    "a mask is float32": Fault(
        answers, packed_batch.PackedBatch, "mask", "dtype=dtype", "dtype=torch.float32"
    ),
    "a batch is not moved": Fault(
        answers, batch_scorer, "supervised_logits", "inputs[name].to(model.device)", "inputs[name]"
    ),
    "tokens are copied to the card": Fault(
        answers, generate, "_generate_packed", "if step is None:", "if True:"
    ),
    "the certainty is another read": Fault(
        answers,
        generate,
        "_generate_packed",
        "certainties.append(sure)",
        "certainties.append(float(certainty))",
    ),
    "the cache is small on every card": Fault(
        cache, batch_scorer, "max_cache_bytes", 'device.type != "cuda"', "True"
    ),
    "the loss of each micro-batch is read": Fault(
        loop,
        TwinTrainer,
        "compute_loss",
        "loss.detach().double()",
        "loss.detach().double() + loss.item()",
    ),
}


@pytest.mark.parametrize(
    "scenario",
    list(dict.fromkeys(fault.scenario for fault in FAULTS.values()))[:-1],
    ids=lambda scenario: scenario.__name__,
)
def test_without_a_fault_nothing_is_noticed(scenario, tmp_path):
    with pretend_cuda(cases_peaks.CARD_80) as ledger:
        assert not scenario(ledger, tmp_path)


@pytest.mark.parametrize(
    "name", [name for name, fault in FAULTS.items() if fault.scenario is not loop]
)
def test_a_fault_is_noticed(name, tmp_path):
    with pretend_cuda(cases_peaks.CARD_80) as ledger, put_in(FAULTS[name]):
        try:
            found = FAULTS[name].scenario(ledger, tmp_path)
        except (RuntimeError, AssertionError) as error:
            found = [f"{type(error).__name__}: {str(error)[:200]}"]
    print(f"{name}: {found[:2]}")
    assert found


@pytest.mark.parametrize("name", [name for name, fault in FAULTS.items() if fault.scenario is loop])
def test_a_fault_of_the_loop_is_noticed(name, tmp_path):
    with put_in(FAULTS[name]):
        seen = cases_trainer.trained(tiny_base(tmp_path / "base"), tmp_path)
    assert [event for event in seen.events if event.startswith("micro-batch: ")]


def test_there_are_twelve():
    assert len(FAULTS) >= 12 and padded_batch.supervised_logits is batch_scorer.supervised_logits
