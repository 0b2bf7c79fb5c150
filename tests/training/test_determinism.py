"""A GPU's training steps ask torch for deterministic algorithms; no document promises equal bytes of a GPU.

What a GPU would do is shown on the CPU, with a plan that names the GPU: torch's switch is the same for both.
"""

import logging
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from assistant_builder.child_process import configure_libraries
from assistant_builder.config import StudyConfig
from assistant_builder.models.chat_template import ChatTokenizer
from assistant_builder.models.loading import BaseSpec, add_adapter, load_base
from assistant_builder.training.trainer import TwinTrainer
from tests.export.tiny import tiny_base
from tests.tiny_models import training_run

STEPS = 2


def trainer(
    folder: Path,
    device: str,
    *,
    storage: str = "float16",
    dtype: str = "float32",
    dequantize: bool = False,
    **changes: Any,
) -> TwinTrainer:
    """A trainer of a tiny model on four pairs of different lengths."""
    base = tiny_base(folder / "base")
    prompter = ChatTokenizer.load(base)
    config = StudyConfig().with_changes(
        {
            "train.max_steps": STEPS,
            "train.batch_size": 2,
            "train.micro_batch_size": 2,
            "train.rank": 2,
            "train.evaluations": 1,
            **changes,
        }
    )
    where = device if torch.cuda.is_available() else "cpu"
    model = add_adapter(load_base(BaseSpec(base, storage, True, dtype, where)), config.train, 0)
    plan = training_run(prompter, config.train, folder, device, dequantize=dequantize)
    return TwinTrainer(model, plan, prompter)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether deterministic algorithms were asked for, at each micro-batch."""
    seen: list[bool] = []
    compute_loss = TwinTrainer.compute_loss

    def spied(self: TwinTrainer, *args: Any, **kwargs: Any) -> Any:
        seen.append(
            torch.are_deterministic_algorithms_enabled()
            and not torch.is_deterministic_algorithms_warn_only_enabled()
        )
        return compute_loss(self, *args, **kwargs)

    monkeypatch.setattr(TwinTrainer, "compute_loss", spied)
    return seen


@pytest.mark.filterwarnings("ignore:'pin_memory' argument is set:UserWarning")
@pytest.mark.parametrize(("device", "expected"), [("cuda", True), ("cpu", False)])
def test_a_gpus_steps_are_deterministic(tmp_path, asked, device, expected):
    made = trainer(tmp_path, device)
    made.run()
    assert asked == [expected] * STEPS
    # validation and samples may do what they like
    assert not torch.are_deterministic_algorithms_enabled()
    assert made.state.global_step == STEPS


@pytest.mark.filterwarnings("ignore:'pin_memory' argument is set:UserWarning")
def test_a_model_without_deterministic_algorithms_is_trained(tmp_path, asked, caplog):
    made = trainer(tmp_path, "cuda")

    def put(*_: Any) -> None:
        # torch has no deterministic algorithm for it
        torch.zeros(4).put_(torch.tensor([0]), torch.ones(1))

    made.model.get_input_embeddings().register_forward_hook(put)
    with caplog.at_level(logging.WARNING):
        made.run()
    assert asked == [False] * STEPS
    assert "Training without deterministic algorithms" in caplog.text and "put_" in caplog.text
    assert all(value.grad is None for value in made.model.parameters())


def test_another_failure_is_not_mistaken_for_missing_algorithms(tmp_path):
    made = trainer(tmp_path, "cuda")

    def fail(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    made.model.get_input_embeddings().register_forward_hook(fail)
    with pytest.raises(torch.OutOfMemoryError):
        made.run()
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize(("own", "expected"), [(None, ":4096:8"), (":16:8", ":16:8")])
def test_cublas_is_set_before_cuda_starts(monkeypatch, own, expected):
    monkeypatch.setattr(os, "environ", {"CUBLAS_WORKSPACE_CONFIG": own} if own else {})
    configure_libraries()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == expected
