"""The state of a paged optimizer is paged again after a resume."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.train
LARGE = (400, 300)
"""Shape of a parameter whose state is paged; bitsandbytes leaves those of fewer than 100,000 values alone."""


@pytest.fixture
def allocated(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every paged tensor, with memory of the CPU in place of CUDA's."""
    import bitsandbytes.functional as functional
    from bitsandbytes.optim.optimizer import Optimizer8bit

    made: list[Any] = []

    def get_paged(*shape: int, dtype: Any, device: Any) -> Any:
        buffer = torch.empty(shape, dtype=dtype)
        buffer.is_paged, buffer.page_deviceid = True, 0
        made.append(buffer)
        return buffer

    def get_state_buffer(self: Any, parameter: Any, dtype: Any = torch.float32) -> Any:
        """As bitsandbytes' own does on a GPU."""
        if parameter.numel() < 1e5:
            return torch.zeros_like(parameter, dtype=dtype)
        buffer = functional.get_paged(*parameter.shape, dtype=dtype, device=parameter.device)
        self.page_mng.paged_tensors.append(buffer.fill_(0))
        return buffer

    monkeypatch.setattr(functional, "get_paged", get_paged)
    monkeypatch.setattr(functional, "prefetch_tensor", lambda tensor, to_cpu=False: None)
    monkeypatch.setattr(Optimizer8bit, "get_state_buffer", get_state_buffer)
    monkeypatch.setattr(functional.GlobalPageManager.get_instance(), "paged_tensors", [])
    return made


def parameters() -> list[Any]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in (LARGE, (8, 8))
    ]


def made(bits: int, values: list[Any]) -> Any:
    """An optimizer in accelerate's wrapper, whose constructor would want an accelerator."""
    from accelerate.optimizer import AcceleratedOptimizer
    from bitsandbytes.optim import AdamW

    wrapper: Any = AcceleratedOptimizer.__new__(AcceleratedOptimizer)
    wrapper.optimizer = AdamW(values, lr=0.1, optim_bits=bits, is_paged=True)
    wrapper.accelerator_state = SimpleNamespace(distributed_type=None)
    return wrapper


def step(optimizer: Any, values: list[Any], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for value in values:
        value.grad = torch.randn(value.shape, generator=generator)
    optimizer.optimizer.step()


def resumed(optimizer: Any, folder: Path) -> None:
    """Restore an optimizer as the trainer does."""
    from assistant_builder.training.trainer import TwinTrainer

    schedule = torch.optim.lr_scheduler.ConstantLR(torch.optim.SGD(parameters()))
    torch.save(schedule.state_dict(), folder / "scheduler.pt")
    trainer: Any = SimpleNamespace(optimizer=optimizer, lr_scheduler=schedule)
    TwinTrainer._load_optimizer_and_scheduler(trainer, str(folder))


@pytest.mark.parametrize("bits", [32, 8])
def test_the_state_is_paged_again_and_the_next_steps_are_the_same(bits, allocated, tmp_path):
    before = parameters()
    optimizer = made(bits, before)
    for seed in range(2):
        step(optimizer, before, seed)
    torch.save(optimizer.optimizer.state_dict(), tmp_path / "optimizer.pt")
    after = [torch.nn.Parameter(value.detach().clone()) for value in before]
    again = made(bits, after)
    allocated.clear()
    resumed(again, tmp_path)
    large, small = (again.optimizer.state[value] for value in after)
    assert [getattr(large[name], "is_paged", False) for name in ("state1", "state2")] == [
        True,
        True,
    ]
    assert {id(buffer) for buffer in allocated} == {id(large["state1"]), id(large["state2"])}
    kept = {id(buffer) for buffer in again.optimizer.page_mng.paged_tensors}
    assert {id(large["state1"]), id(large["state2"])} <= kept
    assert not hasattr(small["state1"], "is_paged")
    for seed in range(2, 4):
        step(optimizer, before, seed)
        step(again, after, seed)
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


def test_an_optimizer_that_is_not_paged_is_restored_as_before(tmp_path):
    before, after = parameters(), parameters()
    optimizer, again = (torch.optim.AdamW(values) for values in (before, after))
    for value in before:
        value.grad = torch.ones_like(value)
    optimizer.step()
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    resumed(again, tmp_path)
    for one, other in zip(before, after, strict=True):
        assert torch.equal(optimizer.state[one]["exp_avg"], again.state[other]["exp_avg"])
