"""Train one arm on several devices of this machine: a process for each, started and watched by torchrun's own launcher.

The process of the step starts them, and stays who tells how the step ended; the first of them writes what a training
writes. Imports torch inside functions.

FSDP: each device holds a part of every layer, and the devices bring a block together while they compute it.

Checkpoints are those of one device: whole tensors under the same names, so that a training can be carried on by any
number of devices.

Imports torch: only worker processes import this module.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from peft import PeftModel
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils._pytree import tree_map

from assistant_builder.atomic_io import read_json, write_json
from assistant_builder.devices import usable_cores
from assistant_builder.error_translation import translate_error
from assistant_builder.errors import AssistantBuilderError, Cancelled
from assistant_builder.planning.memory import ParallelStrategy
from assistant_builder.planning.plan import Plan
from assistant_builder.redaction import redact_secrets
from assistant_builder.study import Study

_ERROR_FILE = ".rank-error.json"
_WATCH_SECONDS = 0.5
_CANCELLED = "cancelled"


def train_distributed(study: Study, run: str, spread: ParallelStrategy, planned: Plan | None = None) -> list[Path] | None:
    """Train an arm with one process a device.

    Args:
        study: The study, its data prepared.
        run: The training run.
        spread: More than one device.
        planned: The plan that all of them follow; None: each makes its own.

    Returns:
        The files made; None when early stop is on and the arm has to wait for its twin.

    Raises:
        Cancelled: The user asked for it; the last step is kept.
        AssistantBuilderError: A process failed, with what it said.
    """
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    told = study.arm_folder(run) / _ERROR_FILE
    told.unlink(missing_ok=True)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, usable_cores() // spread.devices)))
    launch = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=spread.devices, run_id=f"{study.name}-{run}", max_restarts=0,
        rdzv_backend="c10d", rdzv_endpoint="127.0.0.1:0", local_addr="127.0.0.1", start_method="spawn",
    )
    try:
        ended = elastic_launch(launch, _rank)(str(study.folder), run, spread, planned)
    except ChildFailedError as error:
        if told.exists():
            said = read_json(told)
            raise AssistantBuilderError(said["what"], where=said["where"], remedy=said["remedy"]) from error
        rank, failure = error.get_first_failure()
        raise AssistantBuilderError(
            f"process {rank} of the {spread.devices} that train together ended with code {failure.exitcode}",
            where=f"step train-{run}",
            remedy="Most likely memory ran out: lower train.micro_batch_size or set executor.spread=fsdp. Running "
            "again carries on from the last checkpoint",
        ) from error
    if ended[0] == _CANCELLED:
        raise Cancelled("cancelled on request")
    return None if ended[0] is None else [Path(name) for name in ended[0]]


def _rank(folder: str, run: str, spread: ParallelStrategy, planned: Plan | None) -> list[str] | str | None:
    """What each process does: train its share; the launcher's environment says which it is."""
    threading.Thread(target=_end_with_launcher, args=(os.getppid(),), daemon=True).start()
    from assistant_builder.child_process import configure_libraries
    from assistant_builder.training.train import train_in_process

    configure_libraries()
    study = Study(Path(folder))
    try:
        files = train_in_process(study, run, spread, planned)
        return None if files is None else [str(path) for path in files]
    except Cancelled:
        return _CANCELLED
    except Exception as error:
        _tell(study.arm_folder(run) / _ERROR_FILE, error)
        sys.stderr.write(redact_secrets("".join(traceback.format_exception(error))))
        raise


def _tell(path: Path, error: Exception) -> None:
    """Leave word of what failed first; the others fail because of it."""
    record: dict[str, Any] = translate_error(error).to_record()
    if not path.exists():
        with contextlib.suppress(OSError):
            write_json(path, record)


def _end_with_launcher(launcher: int) -> None:
    """End this process once its launcher is gone: nobody would know that it still writes."""
    while os.getppid() == launcher:
        time.sleep(_WATCH_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)


def start_sharded(device: str, *, on_leader: bool) -> None:
    """Start the process group before the base is loaded, and have transformers load it as FSDP wants it.

    Args:
        device: ``cpu`` or ``cuda``.
        on_leader: Whether the first process alone reads the weights (see ``models.loading.loads_on_leader``).
    """
    PartialState(cpu=device == "cpu", backend="gloo" if device == "cpu" else "nccl")
    os.environ["ACCELERATE_USE_FSDP"] = "true"
    os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = str(on_leader).lower()


def fsdp_settings(model: PeftModel, *, on_leader: bool) -> dict[str, Any]:
    """How transformers' ``fsdp_config`` has to be for a base of any family: a unit for each block of layers.

    Args:
        model: The frozen base with adapters.
        on_leader: Whether the first process alone has read the weights, which are then broadcast.
    """
    blocks = getattr(model.get_base_model(), "_no_split_modules", None) or []
    return {"version": 2, "reshard_after_forward": True, "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
            "transformer_layer_cls_to_wrap": sorted(blocks), "cpu_ram_efficient_loading": on_leader}


def unshard(tree: Any) -> Any:
    """A tree with every sharded tensor put together, on the CPU; all processes have to call it at the same time."""
    return tree_map(lambda leaf: leaf.full_tensor().cpu() if isinstance(leaf, DTensor) else leaf, tree)


def whole_adapters(model: PeftModel) -> dict[str, torch.Tensor]:
    """The trained tensors by name, put together; all processes have to call it at the same time."""
    found: dict[str, torch.Tensor] = unshard({
        name: value.detach() for name, value in model.named_parameters() if value.requires_grad
    })
    return found


def shard_like(value: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """A whole tensor, parted among the processes as the parameter is, where it is and has its shape."""
    if not isinstance(parameter, DTensor) or value.shape != parameter.shape:
        return value
    return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)


def shard_optimizer_state(state: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """An optimizer's whole state, parted among the processes as the parameters are that it belongs to.

    Args:
        state: What ``state_dict`` of an optimizer on one device gives.
        optimizer: The optimizer, over parted parameters in the same order.
    """
    parameters = [value for group in optimizer.param_groups for value in group["params"]]
    moments = {
        place: {name: shard_like(value, parameters[place]) if isinstance(value, torch.Tensor) else value
                for name, value in entry.items()}
        for place, entry in state["state"].items()
    }
    return {**state, "state": moments}
