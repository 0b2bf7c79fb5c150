"""Load the base of either arm, attach adapters, and say what was loaded.

Both storages start from the same float16 weights; embeddings, norms and the head are cast to the compute dtype in both,
so that the arms differ in the linear layers' storage and in nothing else.

Imports torch: only worker processes import this module.

Trained assistants, loaded to answer: the base of their arm, and their adapter over it.

Imports torch: only worker processes import this module.
"""

from __future__ import annotations

import copy
import gc
import os
import re
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers
from torch import nn
from transformers import AutoModelForCausalLM

from assistant_builder.arms import ARMS
from assistant_builder.config import ModelConfig, TrainConfig
from assistant_builder.devices import multiplies_bfloat16, torch_device
from assistant_builder.errors import ConfigError, ModelError, ResourceError
from assistant_builder.models.catalog import resolve
from assistant_builder.models.chat_template import ChatTokenizer
from assistant_builder.models.download import fetch
from assistant_builder.models.lora_layers import (
    ADAPTER_LAYERS,
    CastOnUseLinear,
    TwinLoraLinear,
    dequantize_to_compute_dtype,
)
from assistant_builder.models.remote_code import allows_code
from assistant_builder.quantization import METHODS, method_of
from assistant_builder.study import Study

if TYPE_CHECKING:
    from transformers import PreTrainedModel

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


@dataclass(frozen=True)
class BaseSpec:
    """How to load a base.

    Attributes:
        folder: Local folder with config.json, tokenizer and safetensors.
        storage: How the linear layers of the frozen base are stored: a name of ``quantization.METHODS``.
        double_quant: Whether the block constants of a quantized base are quantized too.
        compute_dtype: ``bfloat16``, ``float16`` or ``float32``.
        device: ``cpu`` or ``cuda``.
        hold: Keep the linear weights in the compute dtype after loading (see layers.hold_in_compute_dtype).
        trust_remote_code: Run Python code that the folder brings along.
        parted: Whether FSDP will shard the weights. They are then loaded into main memory, from which ``fully_shard``
            moves one block at a time to the device.
    """

    folder: Path
    storage: str
    double_quant: bool
    compute_dtype: str
    device: str = "cpu"
    hold: bool = False
    trust_remote_code: bool = False
    sharded: bool = False


def pick_device() -> str:
    """``cuda`` where a GPU is usable, else ``cpu``."""
    return torch_device()


def resolve_compute_dtype(wanted: str, device: str) -> str:
    """Turn ``auto`` into bfloat16 where the hardware has it, else float16 on a GPU and float32 on a CPU."""
    if wanted != "auto":
        return wanted
    if device == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
    return "bfloat16" if multiplies_bfloat16() else "float32"


def base_spec(model: ModelConfig, folder: Path, storage: str, *, compute_dtype: str | None = None) -> BaseSpec:
    """The spec of one arm's base on this machine.

    Args:
        model: The study's model part.
        folder: Where the base lies.
        storage: How its linear layers are stored.
        compute_dtype: Another compute dtype than the study's (for scoring); None or ``auto``: the study's.
    """
    device = pick_device()
    wanted = model.compute_dtype if compute_dtype in (None, "auto") else compute_dtype
    return BaseSpec(
        folder=folder,
        storage=storage,
        double_quant=model.double_quant,
        compute_dtype=resolve_compute_dtype(wanted, device),
        device=device,
        trust_remote_code=allows_code(model),
    )


def load_base(spec: BaseSpec) -> PreTrainedModel:
    """Load a frozen base in evaluation mode.

    Raises:
        ConfigError: The base has to be sharded, and its storage does not allow it.
        ModelError: The folder holds no loadable causal language model.
        ResourceError: Memory does not suffice.
    """
    dtype, method = DTYPES[spec.compute_dtype], METHODS[spec.storage]
    if spec.sharded and not method.shardable:
        raise ConfigError(
            f"a base stored as {method.name} cannot be sharded", where="executor.spread",
            remedy="Set executor.spread=ddp, or executor.devices=1",
        )
    if spec.device == "cuda":  # cuBLAS may add partial sums in 16 bits by default; 4-bit kernels do without cuBLAS
        torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
        torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    read = partial(
        AutoModelForCausalLM.from_pretrained, spec.folder, device_map={"": _place(spec)}, dtype=torch.float16,
        use_safetensors=True, trust_remote_code=spec.trust_remote_code, local_files_only=True,
    )
    try:
        model = method.load(read, double_quant=spec.double_quant, compute_dtype=dtype, device=spec.device,
                            sharded=spec.sharded)
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise ResourceError(
            "memory does not suffice to load the base model", where=str(spec.folder),
            remedy="Close other programs or choose a smaller base model",
        ) from error
    except torch.AcceleratorError:  # the GPU's fault, not the files'
        raise
    except Exception as error:  # SafetensorError, TypeError …: what transformers makes of files made to mislead it
        raise ModelError(
            f"not loadable as a causal language model: {error}", where=str(spec.folder),
            remedy="Choose a model whose config.json names a ForCausalLM architecture and that ships safetensors",
        ) from error
    model.requires_grad_(False)
    _cast_all_but_linear(model, dtype)
    if spec.hold:
        dequantize_to_compute_dtype(model, dtype)
    return model.eval()


def loads_on_leader(spec: BaseSpec) -> bool:
    """Whether the first process alone reads the weights, and accelerate broadcasts them while it shards the model.

    accelerate (1.15, ``fsdp2_prepare_model``) cannot do it for quantized weights: every process loads those.
    """
    return spec.sharded and not METHODS[spec.storage].quantizes


def _place(spec: BaseSpec) -> str | int:
    """Where this process loads the weights: its own GPU, or main memory where FSDP will shard them."""
    if loads_on_leader(spec) and os.environ.get("LOCAL_RANK", "0") != "0":
        return "meta"
    if spec.sharded or spec.device == "cpu":
        return "cpu"
    return torch.cuda.current_device()


def _cast_all_but_linear(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Cast embeddings, norms, biases and head to ``dtype``; leave each frozen linear weight as it is stored."""
    head = model.get_output_embeddings()
    for layer in model.modules():
        if method_of(layer).quantizes:
            continue
        if type(layer) is nn.Linear and layer is not head:
            if layer.weight.dtype != dtype:
                layer.__class__ = CastOnUseLinear
            continue
        for parameter in layer.parameters(recurse=False):
            parameter.data = parameter.data.to(dtype)
        for key, buffer in layer.named_buffers(recurse=False):
            if buffer.is_floating_point() and "inv_freq" not in key:  # rotary frequencies stay float32
                setattr(layer, key, buffer.to(dtype))
    model.config.dtype = dtype


def lora_config(train: TrainConfig, model: PreTrainedModel) -> LoraConfig:
    """PEFT's config of the study's adapters, with one adapter layer for either storage.

    Args:
        train: The settings.
        model: The base. Layers outside of its text decoder (a vision tower, say) get no adapter: text never passes
            through them, so they would get no gradient, which DDP refuses.
    """
    names = [name.strip() for name in train.target_modules.split(",") if name.strip()]
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=train.rank,
        lora_alpha=train.alpha,
        lora_dropout=train.dropout,
        target_modules="all-linear" if names == ["all-linear"] else names,
        exclude_modules=_outside_decoder(model),
    )
    config._register_custom_module(ADAPTER_LAYERS)
    return config


def _outside_decoder(model: PreTrainedModel) -> str | None:
    """A pattern of the modules outside of text decoder and head; None where no linear layer is outside of them."""
    names = {module: name for name, module in model.named_modules()}
    decoder, head = names[model.get_decoder()], names.get(model.get_output_embeddings(), "")
    inside = re.compile(rf"(?:{re.escape(decoder)}\..*|{re.escape(head)})")
    outside = [name for module, name in names.items() if isinstance(module, nn.Linear) and not inside.fullmatch(name)]
    return f"(?!{inside.pattern}$).*" if decoder and outside else None


def add_adapter(model: PreTrainedModel, train: TrainConfig, seed: int) -> PeftModel:
    """Attach freshly initialised float32 adapters; the same seed gives the same values over either storage and device.

    Raises:
        ModelError: No layer of the base has one of the target names, or one of them takes no adapter.
    """
    try:
        adapted = get_peft_model(model, _exclude_fused_experts(lora_config(train, model), model))
    except ValueError as error:
        if "not found" not in str(error):
            raise ModelError(
                f"train.target_modules={train.target_modules!r} takes no adapters: {error}",
                remedy="Use 'all-linear', which leaves fused experts as they are",
            ) from error
        linear = sorted({name.rsplit(".", 1)[-1] for name, layer in model.named_modules()
                         if isinstance(layer, nn.Linear)})
        raise ModelError(
            f"train.target_modules={train.target_modules!r} matches no layer of the base",
            remedy=f"Use 'all-linear' or some of: {', '.join(linear)}",
        ) from error
    for layer in adapted.modules():
        if isinstance(layer, TwinLoraLinear):
            for part in (layer.lora_A, layer.lora_B):
                if part["default"].weight.is_meta:  # over weights that another process has read
                    part.to_empty(device="cpu")  # accelerate tells the optimizer's parameters apart by their address
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    # PEFT has rounded the values to the dtype of the base's weights, which differs between the arms: draw them anew.
    torch.manual_seed(seed)
    for layer in adapted.modules():
        if isinstance(layer, TwinLoraLinear):
            # on the CPU: a GPU draws other numbers, and where weights are sharded the arms are loaded differently
            down = layer.lora_A["default"]
            weight = down.weight
            down.weight = nn.Parameter(torch.empty_like(weight, device="cpu"))
            layer.reset_lora_parameters("default", True)
            weight.data.copy_(down.weight.data)
            down.weight = weight
    return adapted


def _exclude_fused_experts(config: LoraConfig, model: PreTrainedModel) -> LoraConfig:
    """The config with 'all-linear' kept to linear layers, where a mixture's experts are fused weights.

    PEFT means the experts by it too, as they once were linear layers, and refuses adapters there together with dropout:
    no mixture could be trained with default settings. Both arms leave the experts as they are, as the plan says.
    """
    if config.target_modules != "all-linear":
        return config
    meant = copy.deepcopy(config)
    convert_peft_config_for_transformers(meant, model, None)
    if meant.target_parameters:
        config.target_modules = meant.target_modules
    return config


def load_adapter(model: PreTrainedModel, folder: Path, name: str = "default") -> PeftModel:
    """Attach a trained adapter for inference.

    Args:
        model: The base, or a PeftModel that holds other adapters already.
        folder: Folder with adapter_config.json and adapter_model.safetensors.
        name: Name under which ``set_adapter`` finds it.

    Raises:
        ModelError: The adapter is missing or does not fit the base.
    """
    if not (folder / "adapter_model.safetensors").is_file():
        raise ModelError("there is no trained adapter", where=str(folder), remedy="Train the study first")
    try:
        config = LoraConfig.from_pretrained(str(folder))
        config._register_custom_module(ADAPTER_LAYERS)
        if isinstance(model, PeftModel):
            model.load_adapter(str(folder), name, peft_config=config)
            adapted = model
        else:
            adapted = PeftModel.from_pretrained(model, str(folder), adapter_name=name, config=config)
    except (torch.AcceleratorError, torch.OutOfMemoryError, MemoryError):  # no fault of the files
        raise
    except Exception as error:  # SafetensorError, TypeError …: what PEFT makes of files made to mislead it
        raise ModelError(
            f"the adapter does not fit the base: {error}", where=str(folder),
            remedy="Train the study again with --redo",
        ) from error
    return adapted.eval()


def count_parameters(model: nn.Module) -> int:
    """Parameters of the model, tied ones once, a quantized weight counted by the values it represents."""
    sizes: dict[int, int] = {}
    for layer in model.modules():
        for name, parameter in layer.named_parameters(recurse=False):
            quantized = name == "weight" and method_of(layer).quantizes
            sizes[id(parameter)] = layer.in_features * layer.out_features if quantized else parameter.numel()
    return sum(sizes.values())


def model_bytes(model: nn.Module) -> int:
    """Bytes of all parameters as stored, tied ones once."""
    seen: set[int] = set()
    total = 0
    for layer in model.modules():
        weights = [parameter for parameter in layer.parameters(recurse=False) if id(parameter) not in seen]
        if weights:
            seen.update(map(id, weights))
            total += method_of(layer).stored_bytes(layer)
    return total


def release() -> None:
    """Give memory of dropped models back."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def load_arm(study: Study, arm: str, *, hold: bool = True) -> tuple[PeftModel, ChatTokenizer]:
    """Load a trained assistant for inference.

    Args:
        study: A study with this arm trained.
        arm: Name of an arm.
        hold: On a CPU, keep the weights in the compute dtype, so that both arms answer at the speed of the arithmetic.

    Raises:
        ModelError: The arm is not trained, or its base cannot be had.
    """
    adapter = study.arm_folder(arm) / "adapter"
    if not adapter.is_dir():
        raise ModelError(f"the {arm} assistant is not trained yet", where=f"study {study.name}",
                         remedy=f"Train it with 'assistant-builder run {study.name}'")
    spec = arm_spec(study, arm, hold=hold)
    return load_adapter(load_base(spec), adapter), ChatTokenizer.load(spec.folder, study.template_date)


def arm_spec(study: Study, arm: str, *, hold: bool) -> BaseSpec:
    """The spec of the base that an assistant answers on; equal ones are the same base.

    Args:
        study: The study.
        arm: Name of an arm.
        hold: See :func:`load_arm`.

    Raises:
        ModelError: The base cannot be had.
    """
    model = study.config.model
    ref = resolve(model.base, trust_remote_code=allows_code(model))
    folder = fetch(ref, revision=model.revision, trust_remote_code=allows_code(model))
    spec = base_spec(model, folder, ARMS[arm].base_storage(model.quant_type))
    return replace(
        spec, hold=hold and spec.device == "cpu",
        double_quant=spec.double_quant and METHODS[spec.storage].quantizes,
    )
