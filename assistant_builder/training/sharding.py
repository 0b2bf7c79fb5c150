"""FSDP: each device holds a part of every layer, and the devices bring a block together while they compute it.

Checkpoints are those of one device: whole tensors under the same names, so that a training can be carried on by any
number of devices.

Imports torch: only worker processes import this module.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
from accelerate import PartialState
from peft import PeftModel
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils._pytree import tree_map


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


def whole(tree: Any) -> Any:
    """A tree with every sharded tensor put together, on the CPU; all processes have to call it at the same time."""
    return tree_map(lambda leaf: leaf.full_tensor().cpu() if isinstance(leaf, DTensor) else leaf, tree)


def whole_adapters(model: PeftModel) -> dict[str, torch.Tensor]:
    """The trained tensors by name, put together; all processes have to call it at the same time."""
    found: dict[str, torch.Tensor] = whole({
        name: value.detach() for name, value in model.named_parameters() if value.requires_grad
    })
    return found


def like(value: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """A whole tensor, parted among the processes as the parameter is, where it is and has its shape."""
    if not isinstance(parameter, DTensor) or value.shape != parameter.shape:
        return value
    return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)


def parted_state(state: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """An optimizer's whole state, parted among the processes as the parameters are that it belongs to.

    Args:
        state: What ``state_dict`` of an optimizer on one device gives.
        optimizer: The optimizer, over parted parameters in the same order.
    """
    parameters = [value for group in optimizer.param_groups for value in group["params"]]
    moments = {
        place: {name: like(value, parameters[place]) if isinstance(value, torch.Tensor) else value
                for name, value in entry.items()}
        for place, entry in state["state"].items()
    }
    return {**state, "state": moments}
