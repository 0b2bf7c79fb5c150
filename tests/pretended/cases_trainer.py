"""The whole loop of TwinTrainer on the pretended card: TRL, transformers, accelerate and the product."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import accelerate.data_loader
import pytest
import torch
from torch.utils._python_dispatch import _disable_current_modes

from assistant_builder.config import StudyConfig
from assistant_builder.models.chat_template import ChatTokenizer
from assistant_builder.models.loading import BaseSpec, add_adapter, load_base
from assistant_builder.models.lora_layers import train_through_rounding
from assistant_builder.training import collate
from assistant_builder.training.trainer import TwinTrainer, _Events
from tests.export.tiny import tiny_base
from tests.pretended.card import Ledger, move, pretend_cuda
from tests.tiny_models import training_run

STEPS, MICRO = 3, 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("trainer") / "base")


@contextmanager
def loop(ledger: Ledger) -> Iterator[list[str]]:
    """What lets the loop run without values: the collator works on the host.

    Yields the parts of the training, and the reads in and between them.
    """
    call, step, end = (
        collate.TrainingCollator.__call__,
        TwinTrainer.training_step,
        TwinTrainer.end_step,
    )
    optimize = _Events.on_step_end
    events: list[str] = []

    def collated(self: Any, rows: Any) -> Any:
        with _disable_current_modes():
            made = call(self, rows)
        return {
            key: ledger.mode.from_tensor(value) if isinstance(value, torch.Tensor) else value
            for key, value in made.items()
        }

    def batches(trainer: Any, iterator: Any, count: int, device: Any) -> Any:
        with _disable_current_modes():
            found = [next(iterator) for _ in range(count)]
        found = [
            {
                key: value.to("cuda:0") if isinstance(value, torch.Tensor) else value
                for key, value in each.items()
            }
            for each in found
        ]
        return found, trainer._get_num_items_in_batch(found, device)

    def named(name: str, function: Any) -> Any:
        def spied(*args: Any, **kwargs: Any) -> Any:
            events.extend(f"between: {kind} {at}" for kind, at in ledger.reads)
            ledger.reads.clear()
            result = function(*args, **kwargs)
            events.append(name)
            events.extend(f"{name}: {kind} {at}" for kind, at in ledger.reads)
            ledger.reads.clear()
            return result

        return spied

    with (
        mock.patch.object(collate.TrainingCollator, "__call__", collated),
        mock.patch.object(TwinTrainer, "get_batch_samples", batches),
        mock.patch.object(accelerate.data_loader, "send_to_device", lambda batch, *_, **__: batch),
        mock.patch.object(TwinTrainer, "_save_checkpoint", lambda *_: None),
        mock.patch.object(TwinTrainer, "training_step", named("micro-batch", step)),
        mock.patch.object(TwinTrainer, "end_step", named("end", end)),
        mock.patch.object(_Events, "on_step_end", named("events", optimize)),
    ):
        yield events


@dataclass(frozen=True)
class Traced:
    """A finished training, and what was seen of it; see :func:`loop`."""

    trainer: TwinTrainer
    events: list[str]
    ledger: Ledger


def trained(
    folder: Path,
    scratch: Path,
    storage: str = "float16",
    dtype: str = "bfloat16",
    rounds: str = "",
    checkpointing: bool = False,
    **changes: Any,
) -> Traced:
    """A training of three steps with two micro-batches each."""
    prompter = ChatTokenizer.load(folder)
    config = StudyConfig().with_changes(
        {
            "train.max_steps": STEPS,
            "train.batch_size": MICRO,
            "train.micro_batch_size": 1,
            "train.rank": 2,
            "train.evaluations": 1,
            **{f"train.{key}": value for key, value in changes.items()},
        }
    )
    model = add_adapter(load_base(BaseSpec(folder, storage, True, dtype)), config.train, 0)
    if rounds:
        train_through_rounding(model, rounds)
    plan = training_run(
        prompter, config.train, scratch, "cuda", gradient_checkpointing=checkpointing
    )
    with (
        pretend_cuda(capability=(7, 5) if dtype == "float16" else (8, 9)) as ledger,
        loop(ledger) as events,
    ):
        trainer = TwinTrainer(move(model, ledger), plan, prompter)
        assert str(trainer.args.device) == "cuda:0"
        ledger.start()
        trainer.run()
    assert trainer.state.global_step == STEPS
    assert {value.device.type for value in model.parameters()} == {"cuda"}
    return Traced(trainer, events, ledger)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"storage": "nf4"},
        {"storage": "nf4", "checkpointing": True},
        {"storage": "nf4", "dtype": "float16"},
        {"kernels": "plain"},
        {"rounds": "Q4_0"},
    ],
    ids=str,
)
def test_a_training_reads_once_a_step(folder, tmp_path, options):
    """Loss, tokens and norm are one copy at the end; in float16 the loss scaler reads whether a gradient overflowed."""
    seen = trained(folder, tmp_path, **options)
    steps = seen.events[seen.events.index("micro-batch") :]
    counted = Counter(steps)
    assert counted["micro-batch"] == STEPS * MICRO
    assert counted["end"] == STEPS
    assert counted["events"] == STEPS
    read = [event for event in steps if ": " in event]
    print("\n".join(dict.fromkeys(read)))
    assert sum(event.startswith("end: tolist") for event in read) == STEPS
    assert not [event for event in read if event.startswith("micro-batch: ")]
    others = [event for event in read if event.startswith("between: ")]
    if options.get("dtype") == "float16":
        assert all("grad_scaler" in event or "trainer" in event for event in others)
    else:
        assert not others
    assert not seen.ledger.float32_products() or options.get("rounds")  # which merges in float32
    assert seen.trainer.args.optim == (
        "adamw_torch" if options.get("dtype") == "float16" else "adamw_torch_fused"
    )
