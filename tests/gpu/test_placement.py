"""Placement of models by the processes of a training: one card each, and with FSDP no complete model on a card."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from assistant_builder.atomic_io import read_json, write_json
from assistant_builder.planning.memory import ParallelStrategy
from assistant_builder.study import Study
from assistant_builder.training.distributed import train_distributed
from assistant_builder.training.train import train_in_process
from tests.gpu.conftest import ARMS, DEVICE, ON_THE_CPU, TOLERANCE, copy_of, events, new_study, step

pytestmark = [pytest.mark.gpu, pytest.mark.train]
BUNDLED = "smollm2-135m-instruct"


def watched(entry: Callable[..., Any], folder: str, *words: Any) -> Any:
    """What a process of the training does, with a note of what lay where as soon as its base was loaded.

    Args:
        entry: What the launcher would have run.
        folder: Where the note is written, one file a process.
        words: For ``entry``.
    """
    import torch

    from assistant_builder.models import loading

    load_base = loading.load_base

    def noted(spec: Any) -> Any:
        model = load_base(spec)
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        write_json(
            Path(folder) / f"rank-{os.environ['RANK']}.json",
            {
                "rank": int(os.environ["RANK"]),
                "local_rank": int(os.environ["LOCAL_RANK"]),
                "devices": sorted({str(value.device) for value in model.parameters()}),
                "model_bytes": loading.model_bytes(model),
                "allocated": [torch.cuda.memory_allocated(card) for card in range(count)],
                "peak": [torch.cuda.max_memory_allocated(card) for card in range(count)],
            },
        )
        return model

    loading.load_base = noted
    return entry(*words)


def train(study: Study, arm: str, spread: ParallelStrategy, folder: Path) -> list[dict[str, Any]]:
    """Train on several processes by the product's own launcher; the notes of all, by rank."""
    from torch.distributed.launcher import api

    folder.mkdir(parents=True)
    with pytest.MonkeyPatch.context() as patch:
        launch = api.elastic_launch
        patch.setattr(
            api,
            "elastic_launch",
            lambda config, entry: partial(launch(config, watched), entry, str(folder)),
        )
        train_distributed(train_in_process, study, arm, spread)
    return sorted(
        (read_json(path) for path in folder.glob("rank-*.json")), key=lambda note: note["rank"]
    )


@pytest.mark.timeout(600)
@pytest.mark.usefixtures("two_devices")
@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
@pytest.mark.parametrize("arm", ARMS)
def test_every_process_uses_its_own_card(arm, kind, base, bundled_models, tmp_path, tell):
    """Uses the bundled base, because with four layers an unsharded block is as large as the model."""
    alone = new_study("alone", BUNDLED if DEVICE == "cuda" else base)
    shared = copy_of(alone, tmp_path / "shared")
    step(alone, f"train-{arm}")
    notes = train(shared, arm, ParallelStrategy(kind, 2), tmp_path / "notes")
    assert [note["local_rank"] for note in notes] == [0, 1]
    summary = read_json(shared.arm_folder(arm) / "summary.json")
    assert (summary["devices"], summary["spread"], summary["device"]) == (2, kind, DEVICE)
    for note in notes:
        if (
            DEVICE == "cpu"
        ):  # of weights that are to be sharded other processes may have but the shapes
            assert set(note["devices"]) <= ({"cpu"} if kind == "ddp" else {"cpu", "meta"})
            continue
        own, others = (
            note["local_rank"],
            [card for card in range(len(note["peak"])) if card != note["local_rank"]],
        )
        assert all(not note["peak"][card] for card in others), (
            f"rank {own} took memory of another card: {note}"
        )
        tell(
            f"{arm} by {kind}, rank {own}: {note['allocated'][own] / 1e6:.0f} MB on its card after loading, at most "
            f"{note['peak'][own] / 1e6:.0f} MB meanwhile; the base has {note['model_bytes'] / 1e6:.0f} MB"
        )
        if kind == "ddp":
            assert note["devices"] == [f"cuda:{own}"]
            assert note["allocated"][own] >= note["model_bytes"]
        else:
            assert note["peak"][own] < note["model_bytes"], "the whole model lay on one card"
    one, two = ([event["loss"] for event in events(study, arm)] for study in (alone, shared))
    assert two == pytest.approx(one, abs=TOLERANCE[summary["compute_dtype"]])


@pytest.mark.usefixtures("cuda", "two_devices")
@pytest.mark.parametrize("arm", ARMS)
def test_one_device_on_a_machine_with_two(base, tmp_path, arm):
    """A single process that sees two cards uses one of them without DataParallel."""
    study = new_study("one", base)
    hidden = copy_of(study, tmp_path / "hidden")
    step(study, f"train-{arm}")
    step(hidden, f"train-{arm}", CUDA_VISIBLE_DEVICES="0")
    summary = read_json(study.arm_folder(arm) / "summary.json")
    assert (summary["devices"], summary["device"]) == (1, "cuda")
    seen, alone = (
        [(event["tokens"], event["loss"]) for event in events(found, arm)]
        for found in (study, hidden)
    )
    assert [tokens for tokens, _ in seen] == [tokens for tokens, _ in alone]
    assert [loss for _, loss in seen] == pytest.approx(
        [loss for _, loss in alone], abs=TOLERANCE[summary["compute_dtype"]]
    )


def test_hidden_cards_are_not_used(base):
    """An empty CUDA_VISIBLE_DEVICES selects the CPU in plan and training."""
    study = new_study("hidden", base, train__max_steps=2, model__compute_dtype="float32")
    step(study, "train-qlora", **ON_THE_CPU)
    summary = read_json(study.arm_folder("qlora") / "summary.json")
    assert (summary["device"], summary["held"]) == ("cpu", True)
