"""A training step on a GPU reads values from it once: the CPU does not wait inside or between micro-batches.

What the step would read is recorded on the CPU, with a plan that names the GPU. The collator is left out, because it
works on the CPU.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from transformers import AutoConfig, AutoModelForCausalLM

from assistant_builder.atomic_io import read_jsonl
from assistant_builder.models import loading
from assistant_builder.models.lora_layers import train_through_rounding
from assistant_builder.training import collate
from assistant_builder.training.cpu_kernels import FusedLoraGroup
from assistant_builder.training.gpu import ATTENTION, apply_gpu_kernels
from assistant_builder.training.trainer import TwinTrainer, _Events
from tests.tiny_models import sizes_of
from tests.training import test_determinism
from tests.training.test_cpu_kernels import batch
from tests.training.test_determinism import trainer

pytestmark = [
    pytest.mark.train,
    pytest.mark.filterwarnings("ignore:'pin_memory' argument is set:UserWarning"),
]
READS = set(
    """
    _local_scalar_dense nonzero masked_select equal is_nonzero unique_dim _unique2
""".split()
)


class Recorder(TorchDispatchMode):
    """Records the operations whose result the CPU needs before it can go on; other events are added by tests."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        by_mask = name in ("index", "index_put", "index_put_") and any(
            each is not None and each.dtype in (torch.bool, torch.uint8) for each in args[1]
        )
        if name in READS or by_mask:
            self.events.append(name)
        return func(*args, **(kwargs or {}))

    @contextmanager
    def named(self, name: str) -> Iterator[None]:
        self.events.append(f"{name} begins")
        yield
        self.events.append(f"{name} ends")


def test_the_recorder_sees_what_a_gpu_would_wait_for():
    x, mask = torch.arange(4.0), torch.tensor([True, False, True, False])
    reads = {
        "item": lambda: x[0].item(),
        "int": lambda: int(x.sum()),
        "bool": lambda: bool(mask.all()),
        "nonzero": lambda: mask.nonzero(),
        "mask": lambda: x[mask],
        "assigned": lambda: x.index_put_((mask,), x[0]),
        "select": lambda: x.masked_select(mask),
    }
    for name, read in reads.items():
        with Recorder() as recorder:
            read()
        assert recorder.events, name
    with Recorder() as recorder:
        torch.where(mask, x, 0).sum().add_(x[torch.tensor([1, 2])].mean())
    assert not recorder.events


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    """Records the steps of a training, with their parts named; the collator is not on the GPU."""
    recorder = Recorder()

    def spy(owner: Any, method: str, name: str) -> None:
        plain = getattr(owner, method)

        def spied(*args: Any, **kwargs: Any) -> Any:
            with recorder.named(name):
                return plain(*args, **kwargs)

        monkeypatch.setattr(owner, method, spied)

    def on_the_cpu(owner: Any, method: str) -> None:
        plain = getattr(owner, method)

        def quiet(*args: Any, **kwargs: Any) -> Any:
            with _disable_current_modes():
                return plain(*args, **kwargs)

        monkeypatch.setattr(owner, method, quiet)

    spy(TwinTrainer, "training_step", "micro-batch")
    spy(TwinTrainer, "end_step", "end")
    to_list = torch.Tensor.tolist  # of a tensor on the CPU it is no operation
    monkeypatch.setattr(
        torch.Tensor, "tolist", lambda self: recorder.events.append("tolist") or to_list(self)
    )
    on_the_cpu(collate.TrainingCollator, "__call__")
    for name in ("validation_loss", "_save_checkpoint"):
        on_the_cpu(TwinTrainer, name)
    begin, end = _Events.on_step_begin, _Events.on_step_end

    def on_step_begin(self: Any, args: Any, state: Any, control: Any, **more: Any) -> None:
        begin(self, args, state, control, **more)
        recorder.events.append("step begins")

    def on_step_end(self: Any, args: Any, state: Any, control: Any, **more: Any) -> Any:
        result = end(self, args, state, control, **more)
        recorder.events.append("step ends")
        return result

    monkeypatch.setattr(_Events, "on_step_begin", on_step_begin)
    monkeypatch.setattr(_Events, "on_step_end", on_step_end)
    return recorder


@pytest.mark.parametrize(
    ("storage", "changes"),
    [
        ("float16", {}),
        ("nf4", {}),
        ("nf4", {"train.dropout": 0.0, "train.batch_size": 4}),
        ("nf4", {"train.batch_size": 1, "train.micro_batch_size": 1}),  # one row, without padding
    ],
)
def test_a_step_reads_from_the_gpu_once_at_its_end(tmp_path, recorder, storage, changes):
    made = trainer(
        tmp_path,
        "cuda",
        storage=storage,
        **{"train.max_steps": 3, "train.micro_batch_size": 1, **changes},
    )
    with recorder:
        made.run()
    events, steps = recorder.events[recorder.events.index("step begins") :], []
    for event in events:
        if event == "step begins":
            steps.append([])
        steps[-1].append(event)
    micro = made.args.gradient_accumulation_steps
    # loss, tokens and norm are one tensor: one copy
    expected = [
        "step begins",
        *["micro-batch begins", "micro-batch ends"] * micro,
        "end begins",
        "tolist",
        "end ends",
        "step ends",
    ]
    assert steps[0] == steps[1] == expected
    assert steps[2][: len(expected) - 1] == expected[:-1]  # then it validates


def test_the_values_of_a_step_are_one_copy_from_the_gpu(tmp_path):
    made = trainer(tmp_path, "cpu")
    made._counted, made._grad_norm = (
        torch.tensor([0.1, 7.0], dtype=torch.float64),
        torch.tensor(0.3),
    )
    assert made.end_step() == (0.1, 7, float(torch.tensor(0.3)))


@pytest.mark.parametrize("optimizer", ["fused", "bitsandbytes"])
@pytest.mark.parametrize("rounds", [False, True])
def test_steps_use_the_adapters_of_the_last_step(tmp_path, monkeypatch, optimizer, rounds):
    """Optimizers of GPUs write to the parameters without a new version, by which casts and rounded weights are kept."""
    if rounds:

        def add_adapter(*given: Any) -> Any:
            model = loading.add_adapter(*given)
            train_through_rounding(model, "Q8_0")
            return model

        monkeypatch.setattr(test_determinism, "add_adapter", add_adapter)
    if optimizer == "bitsandbytes":
        import bitsandbytes

        monkeypatch.setattr(
            TwinTrainer,
            "create_optimizer",
            lambda self, *_: (
                setattr(
                    self,
                    "optimizer",
                    bitsandbytes.optim.AdamW32bit(
                        [value for value in self.model.parameters() if value.requires_grad],
                        lr=0.003,
                    ),
                )
                or self.optimizer
            ),
        )
    losses = {}
    for kernels in ("fused", "plain"):
        made = trainer(
            tmp_path / kernels,
            "cuda",
            **{
                "train.max_steps": 6,
                "train.dropout": 0.0,
                "train.kernels": kernels,
                "train.learning_rate": 0.003,
            },
        )
        made.run()
        losses[kernels] = [
            event["loss"]
            for event in read_jsonl(tmp_path / kernels / "metrics.jsonl")
            if event["event"] == "step"
        ]
    if not rounds:  # each step of the plain layers casts the parameters themselves
        assert losses["fused"] == pytest.approx(losses["plain"], rel=1e-4)
    made = trainer(tmp_path / "again", "cuda", **{"train.max_steps": 6, "train.dropout": 0.0})
    fresh = [value for value in made.model.parameters() if value.requires_grad]
    before = [value._version for value in fresh]
    made.run()
    assert all(value._version >= old + 6 for value, old in zip(fresh, before, strict=True))
    assert losses["fused"][-1] < losses["fused"][0]


def test_on_a_cpu_every_step_uses_the_adapters_of_the_last(tmp_path, monkeypatch):
    """The fused weights are written once a step, with the losses of writing them at every use."""
    written = FusedLoraGroup.adapters_changed
    losses = {}
    for when, changed in (
        ("once", written),
        ("always", lambda *_: True),
        ("never", lambda *_: False),
    ):
        monkeypatch.setattr(FusedLoraGroup, "adapters_changed", changed)
        trainer(
            tmp_path / when,
            "cpu",
            dequantize=True,
            **{"train.max_steps": 4, "train.learning_rate": 0.003},
        ).run()
        losses[when] = [
            event["loss"]
            for event in read_jsonl(tmp_path / when / "metrics.jsonl")
            if event["event"] == "step"
        ]
    assert losses["once"] == losses["always"] != losses["never"]


@pytest.mark.parametrize("kind", ["llama", "gemma3_text"])  # and with windows
@pytest.mark.parametrize("lengths", [(12, 20, 19), (24, 24, 24), (40,)])
def test_masks_without_reads_are_those_of_transformers(kind, lengths):
    torch.manual_seed(0)
    model: Any = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(kind, **sizes_of(kind))
    ).eval()
    model.get_base_model = lambda: model
    masks: list[Any] = []
    layer = model.model.layers[0].self_attn
    layer.register_forward_pre_hook(
        lambda _, args, given: masks.append(given["attention_mask"]), with_kwargs=True
    )
    inputs = batch(lengths)
    with torch.no_grad():
        wanted = collate.summed_nll(model, inputs)
        apply_gpu_kernels(model, "fused", sharded=True)
        assert model.config._attn_implementation == ATTENTION
        with Recorder() as recorder:
            found = collate.summed_nll(model, inputs)
    assert not recorder.events
    assert torch.equal(found, wanted)
    assert (masks[0] is None) == (masks[1] is None) and (masks[0] is None or torch.equal(*masks))
