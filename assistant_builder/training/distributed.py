"""Training of one arm on several devices of this machine: one process per device, started by torchrun's launcher.

The launching process reports the result of the step; rank 0 writes the files of the training. With FSDP each device
holds a shard of every layer. Checkpoints contain unsharded tensors under the same names as those of one device, so that
a training can be resumed on any number of devices.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from peft import PeftModel
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils._pytree import tree_map

from assistant_builder.atomic_io import read_json, write_json
from assistant_builder.child_process import usable_cores
from assistant_builder.error_record import ErrorRecord
from assistant_builder.error_translation import translate_error
from assistant_builder.errors import AssistantBuilderError, Cancelled, error_texts
from assistant_builder.i18n import m
from assistant_builder.planning.memory import ParallelStrategy
from assistant_builder.planning.plan import Plan
from assistant_builder.redaction import redact_secrets
from assistant_builder.study import Study
from assistant_builder.training.micro_batch import MicroBatchTooLarge

_ERROR_FILE = ".rank-error.json"
_WATCH_SECONDS = 0.5
_CANCELLED = "cancelled"
_TOO_LARGE = "micro-batch too large"
COLLECTIVE_SECONDS = 7200
"""How long a process waits for the others; NCCL's own limit is 10 minutes, in which rank 0 alone may not read a 70B."""
Work = Callable[[Study, str, ParallelStrategy, "Plan | None"], Iterable[Path] | None]
"""The share of one process in a training. It is pickled by its name, so that it has to be a function of a module."""


def train_distributed(
    work: Work, study: Study, run: str, spread: ParallelStrategy, planned: Plan | None = None
) -> list[Path] | None:
    """Train an arm with one process per device.

    Each process runs ``work``, which is :func:`assistant_builder.training.train.train_in_process`, with the same plan;
    without one, each computes its own.

    Returns:
        The written files; None if the arm has to wait for another one.

    Raises:
        Cancelled: The user cancelled; a checkpoint of the last step exists.
        MicroBatchTooLarge: The largest micro-batch does not fit the memory of a GPU.
        AssistantBuilderError: A process failed; the error is the one that it reported.
    """
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    error_file = study.arm_folder(run) / _ERROR_FILE
    error_file.unlink(missing_ok=True)
    # the environment of a step may have the threads of the whole container
    share, given = max(1, usable_cores() // spread.devices), os.environ.get("OMP_NUM_THREADS", "")
    os.environ["OMP_NUM_THREADS"] = str(min(share, int(given)) if given.isdecimal() else share)
    launch = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=spread.devices,
        run_id=f"{study.name}-{run}",
        max_restarts=0,
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        local_addr="127.0.0.1",
        start_method="spawn",
    )
    try:
        results = elastic_launch(launch, _train_rank)(work, str(study.folder), run, spread, planned)
    except ChildFailedError as error:
        if error_file.exists():
            record = read_json(error_file, ErrorRecord)
            raise AssistantBuilderError(**error_texts(record)) from error
        rank, failure = error.get_first_failure()
        raise AssistantBuilderError(
            m(
                "training process {rank} of {devices} exited with code {exitcode}",
                rank=rank,
                devices=spread.devices,
                exitcode=failure.exitcode,
            ),
            where=m("step train-{run}", run=run),
            remedy=m(
                "The likely cause is too little memory: lower {train.micro_batch_size} or set executor.spread=fsdp. "
                "The next run resumes from the last checkpoint"
            ),
        ) from error
    if results[0] == _CANCELLED:
        raise Cancelled(m("cancelled on request"))
    if results[0] == _TOO_LARGE:
        raise MicroBatchTooLarge
    return None if results[0] is None else [Path(name) for name in results[0]]


def _train_rank(
    work: Work, folder: str, run: str, spread: ParallelStrategy, planned: Plan | None
) -> list[str] | str | None:
    threading.Thread(target=_exit_with_launcher, args=(os.getppid(),), daemon=True).start()
    from assistant_builder.child_process import configure_libraries

    configure_libraries()
    study = Study(Path(folder))
    try:
        files = work(study, run, spread, planned)
        return None if files is None else [str(path) for path in files]
    except Cancelled:
        return _CANCELLED
    except MicroBatchTooLarge:
        return _TOO_LARGE
    except Exception as error:
        path = study.arm_folder(run) / _ERROR_FILE
        if not path.exists():  # the failures of the other processes are its consequences
            with contextlib.suppress(OSError):
                write_json(path, translate_error(error).to_record())
        sys.stderr.write(redact_secrets("".join(traceback.format_exception(error))))
        raise


def _exit_with_launcher(launcher: int) -> None:
    # kill this process when its launcher has exited, because it would continue to write unnoticed
    while os.getppid() == launcher:
        time.sleep(_WATCH_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)


def start_fsdp(device: str, *, on_leader: bool) -> None:
    """Start the process group before the base is loaded, and configure how transformers loads it for FSDP.

    ``on_leader``: only rank 0 reads the weights (see ``models.loading.loads_on_main_process``).
    """
    PartialState(
        cpu=device == "cpu",
        backend="gloo" if device == "cpu" else "nccl",
        timeout=timedelta(seconds=COLLECTIVE_SECONDS),
    )
    os.environ["ACCELERATE_USE_FSDP"] = "true"
    os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = str(on_leader).lower()


def fsdp_settings(model: PeftModel, *, on_leader: bool) -> dict[str, Any]:
    """The ``fsdp_config`` of transformers, with one FSDP unit per transformer block."""
    blocks = getattr(model.get_base_model(), "_no_split_modules", None) or []
    return {
        "version": 2,
        "reshard_after_forward": True,
        "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
        "transformer_layer_cls_to_wrap": sorted(blocks),
        "cpu_ram_efficient_loading": on_leader,
    }


def unshard(tree: Any) -> Any:
    """A tree with all sharded tensors gathered on the CPU; a collective call."""
    return tree_map(
        lambda leaf: leaf.full_tensor().cpu() if isinstance(leaf, DTensor) else leaf, tree
    )


def unsharded_adapters(model: PeftModel) -> dict[str, torch.Tensor]:
    """The trained tensors by name, gathered on the CPU; a collective call."""
    trained = ((name, each) for name, each in model.named_parameters() if each.requires_grad)
    return unshard({name: value.detach() for name, value in trained})


def shard_like(value: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """A full tensor, sharded like the parameter if that is sharded and has the same shape."""
    if not isinstance(parameter, DTensor) or value.shape != parameter.shape:
        return value
    mesh, placements = parameter.device_mesh, parameter.placements
    return distribute_tensor(value.to(parameter.device), mesh, placements)


def shard_optimizer_state(
    state: Mapping[str, Any], optimizer: torch.optim.Optimizer
) -> dict[str, Any]:
    """The full state of an optimizer, sharded like its parameters, which are in the same order."""
    parameters = [value for group in optimizer.param_groups for value in group["params"]]

    def sharded(value: Any, parameter: torch.Tensor) -> Any:
        return shard_like(value, parameter) if isinstance(value, torch.Tensor) else value

    moments = {
        index: {name: sharded(value, parameters[index]) for name, value in entry.items()}
        for index, entry in state["state"].items()
    }
    return {**state, "state": moments}
