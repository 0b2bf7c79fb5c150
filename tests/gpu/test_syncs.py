"""The CPU does not wait for the GPU inside a micro-batch: CUDA itself refuses what would."""

from typing import Any

import pytest
import torch

from assistant_builder.training.trainer import TwinTrainer
from tests.training.test_determinism import trainer

pytestmark = [pytest.mark.gpu, pytest.mark.train]


def test_micro_batches_do_not_wait_for_the_gpu(cuda, tmp_path, monkeypatch):
    step, watched = TwinTrainer.training_step, []

    def without_syncs(self: TwinTrainer, *args: Any, **kwargs: Any) -> Any:
        if self.state.global_step == 0:  # the first step sets up libraries
            return step(self, *args, **kwargs)
        watched.append(self.state.global_step)
        torch.cuda.set_sync_debug_mode("error")
        try:
            return step(self, *args, **kwargs)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(TwinTrainer, "training_step", without_syncs)
    made = trainer(
        tmp_path, "cuda", dtype="bfloat16", **{"train.max_steps": 4, "train.micro_batch_size": 1}
    )
    made.run()
    assert made.state.global_step == 4 and watched == [1, 1, 2, 2, 3, 3]
