"""Loading of base models, adapters and trained assistants.

All storages start from the same float16 weights. Embeddings, norms and the head are cast to the compute dtype in every
arm, so that the arms differ only in the storage of the linear layers.

Imports torch: only worker processes import this module.
"""

from __future__ import annotations

import contextlib
import copy
import gc
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from peft import LoraConfig, PeftModel, get_peft_model, set_peft_model_state_dict
from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForCausalLM, core_model_loading

from assistant_builder.arms import ARMS
from assistant_builder.config import ModelConfig, TrainConfig
from assistant_builder.devices import fastest_dtype, torch_device
from assistant_builder.errors import AssistantBuilderError, ModelError, ResourceError
from assistant_builder.i18n import m
from assistant_builder.models.catalog import resolve
from assistant_builder.models.chat_template import ChatTokenizer
from assistant_builder.models.fetch import fetch
from assistant_builder.models.lora_layers import (
    ADAPTER_LAYERS,
    CastOnUseLinear,
    TwinLoraLinear,
    hold_in_compute_dtype,
    merge,
    round_linear,
)
from assistant_builder.models.remote_code import allows_code
from assistant_builder.quantization import METHODS, QuantizationMethod, method_of
from assistant_builder.study import Study

if TYPE_CHECKING:
    from transformers import PreTrainedModel

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


@dataclass(frozen=True)
class BaseSpec:
    """Options for loading a base."""

    folder: Path
    storage: str  # a name of quantization.METHODS
    double_quant: bool  # quantize the block constants
    compute_dtype: str
    device: str = "cpu"
    hold: bool = False  # hold_in_compute_dtype() after loading
    trust_remote_code: bool = False  # run Python code of the folder
    sharded: bool = False  # FSDP will shard the weights, so they are loaded to main memory


def pick_device() -> str:
    """Return ``cuda`` if a GPU is usable, else ``cpu``."""
    return torch_device()


def resolve_compute_dtype(wanted: str, device: str) -> str:
    """Resolve ``auto`` to bfloat16 if the hardware supports it, else float16 on a GPU and float32 on a CPU."""
    return fastest_dtype(device) if wanted == "auto" else wanted


def base_spec(
    model: ModelConfig, folder: Path, storage: str, *, compute_dtype: str | None = None
) -> BaseSpec:
    """Return the options for loading one arm's base on this machine; scoring can override the compute dtype."""
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
        ConfigError: The storage of a sharded base does not support sharding.
        ModelError: The folder does not contain a loadable causal language model.
        ResourceError: There is not enough memory.
        AssistantBuilderError: This machine cannot quantize the base.
    """
    dtype, method = DTYPES[spec.compute_dtype], METHODS[spec.storage]
    if spec.sharded and (error := method.sharding_error()):
        raise error
    if spec.device == "cuda":  # cuBLAS reduces partial sums in 16 bits by default
        torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
        torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    read = partial(
        AutoModelForCausalLM.from_pretrained,
        spec.folder,
        device_map={"": _load_device(spec)},
        dtype=torch.float16,
        use_safetensors=True,
        trust_remote_code=spec.trust_remote_code,
        local_files_only=True,
    )
    try:
        with _conversion_errors_raised():
            model = method.load(
                read,
                double_quant=spec.double_quant,
                compute_dtype=dtype,
                device=spec.device,
                sharded=spec.sharded,
            )
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise ResourceError(
            m("there is not enough memory to load the base model"),
            where=str(spec.folder),
            remedy=m("Close other programs or choose a smaller base model"),
        ) from error
    except torch.AcceleratorError:  # not caused by the files
        raise
    except Exception as error:  # malicious files can cause any exception in transformers
        if method.quantizes:
            _check_method(method, spec.device)
        raise ModelError(
            m("not loadable as a causal language model: {error}", error=error),
            where=str(spec.folder),
            remedy=m(
                "Choose a model with a ForCausalLM architecture in config.json and safetensors weights"
            ),
        ) from error
    model.requires_grad_(False)
    _cast_all_but_linear(model, dtype)
    if spec.hold:
        hold_in_compute_dtype(model, dtype, spec.device)
    return model.eval()


@contextlib.contextmanager
def _conversion_errors_raised() -> Iterator[None]:
    # raise the exceptions of quantizing a weight. transformers (5.24) logs them, goes on with the next weight, and
    # raises an error that does not name them.
    logged = core_model_loading.log_conversion_errors
    core_model_loading.log_conversion_errors = lambda *_, **__: contextlib.nullcontext()
    try:
        yield
    finally:
        core_model_loading.log_conversion_errors = logged


def _check_method(method: QuantizationMethod, device: str) -> None:
    try:
        method.check(device)
    except Exception as error:  # libraries raise different errors
        raise AssistantBuilderError(
            m(
                "weights cannot be quantized to {label} on this machine: {error}",
                label=method.label,
                error=error,
            ),
            where=f"device {device}",
            remedy=m("Run 'assistant-builder doctor', and install the packages that it names"),
        ) from error


def loads_on_main_process(spec: BaseSpec) -> bool:
    """Return whether only the main process reads the weights, which accelerate then broadcasts and shards.

    accelerate (1.15, ``fsdp2_prepare_model``) does not support it for quantized weights, which every process loads.
    """
    return spec.sharded and not METHODS[spec.storage].quantizes


def _load_device(spec: BaseSpec) -> str | int:
    if loads_on_main_process(spec) and os.environ.get("LOCAL_RANK", "0") != "0":
        return "meta"
    if spec.sharded or spec.device == "cpu":
        return "cpu"
    return torch.cuda.current_device()


def _cast_all_but_linear(model: PreTrainedModel, dtype: torch.dtype) -> None:
    # cast embeddings, norms, biases and head to ``dtype``; keep the storage of frozen linear weights
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
            rotary = "inv_freq" in key  # these frequencies stay float32
            if buffer.is_floating_point() and not rotary:
                setattr(layer, key, buffer.to(dtype))
    model.config.dtype = dtype


def _lora_config(train: TrainConfig, model: PreTrainedModel) -> LoraConfig:
    # the same adapter layer for every storage; layers outside of the text decoder, such as a vision tower, have no
    # adapter: they would get no gradient from text, which DDP does not allow
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
    # a pattern for modules outside of text decoder and head; None if there are no linear layers outside
    names = {module: name for name, module in model.named_modules()}
    decoder, head = names[model.get_decoder()], names.get(model.get_output_embeddings(), "")
    inside = re.compile(rf"(?:{re.escape(decoder)}\..*|{re.escape(head)})")
    linear = (name for module, name in names.items() if isinstance(module, nn.Linear))
    outside = any(not inside.fullmatch(name) for name in linear)
    return f"(?!{inside.pattern}$).*" if decoder and outside else None


def add_adapter(model: PreTrainedModel, train: TrainConfig, seed: int) -> PeftModel:
    """Attach new float32 adapters, whose values depend on the seed and not on storage and device.

    Raises:
        ModelError: No layer has one of the target names, or a layer does not support adapters.
    """
    try:
        adapted = get_peft_model(model, _exclude_fused_experts(_lora_config(train, model), model))
    except ValueError as error:
        if "not found" not in str(error):
            raise ModelError(
                m(
                    "layers of train.target_modules={target_modules!r} do not support adapters: {error}",
                    target_modules=train.target_modules,
                    error=error,
                ),
                remedy=m("Use 'all-linear', which excludes fused experts"),
            ) from error
        linear = (name for name, each in model.named_modules() if isinstance(each, nn.Linear))
        names = sorted({name.rsplit(".", 1)[-1] for name in linear})
        raise ModelError(
            m(
                "train.target_modules={target_modules!r} matches no layer of the base",
                target_modules=train.target_modules,
            ),
            remedy=m("Use 'all-linear' or some of: {names}", names=", ".join(names)),
        ) from error
    for layer in adapted.modules():
        if isinstance(layer, TwinLoraLinear):
            for part in (layer.lora_A, layer.lora_B):
                if part["default"].weight.is_meta:  # the main process has the values
                    # accelerate identifies the optimizer's parameters by address
                    part.to_empty(device="cpu")
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    # PEFT rounds the values to the dtype of the base's weights, which differs between the arms: initialize again
    torch.manual_seed(seed)
    for layer in adapted.modules():
        if isinstance(layer, TwinLoraLinear):
            # on the CPU, because GPUs generate other numbers and sharded arms are loaded to different devices
            down = layer.lora_A["default"]
            weight = down.weight
            down.weight = nn.Parameter(torch.empty_like(weight, device="cpu"))
            layer.reset_lora_parameters("default", True)
            weight.data.copy_(down.weight.data)
            down.weight = weight
    return adapted


def start_from(adapted: PeftModel, folder: Path) -> None:
    """Give new adapters the values of trained ones of the same shapes.

    Raises:
        ModelError: The trained adapter is missing or does not fit.
    """
    path = folder / "adapter_model.safetensors"
    if not path.is_file():
        raise ModelError(
            m("there is no trained adapter to start from"),
            where=str(folder),
            remedy=m("Train the {study} first"),
        )
    try:
        outcome = set_peft_model_state_dict(adapted, load_file(path))
    except Exception as error:  # malicious files can cause any exception in PEFT
        raise ModelError(
            m("the adapter does not fit the base: {error}", error=error),
            where=str(folder),
            remedy=m("Train the {study} again with --redo"),
        ) from error
    if outcome.unexpected_keys:
        raise ModelError(
            m("the adapter has other layers than this one"),
            where=str(folder),
            remedy=m("Train the {study} again with --redo"),
        )


def _exclude_fused_experts(config: LoraConfig, model: PreTrainedModel) -> LoraConfig:
    # config with 'all-linear' restricted to linear layers, without the fused experts of a mixture. PEFT does not
    # support dropout there, so that no mixture could be trained with default settings.
    if config.target_modules != "all-linear":
        return config
    converted = copy.deepcopy(config)
    convert_peft_config_for_transformers(converted, model, None)
    if converted.target_parameters:
        config.target_modules = converted.target_modules
    return config


_PLAIN_NAME = re.compile(r"[\w.]+")
_OF_EXPERTS = re.compile(r"\.\*\\\.[\w\\.]+")
"""The patterns that PEFT writes for the fused experts of a mixture: a name of which the dots are escaped."""
_MAX_RANK = 1024
"""That of ``train.rank``."""


def _config_of(folder: Path, base: PreTrainedModel) -> LoraConfig:
    # the settings that training writes; others would replicate layers, change the base, take any memory, or match
    # names by a pattern without end
    file = LoraConfig.from_pretrained(str(folder))
    names, parameters = file.target_modules, file.target_parameters or ()
    patterns = [*file.rank_pattern, *file.alpha_pattern]
    if not (
        isinstance(names, set | list)
        and all(map(_PLAIN_NAME.fullmatch, (*names, *parameters)))
        and all(map(_OF_EXPERTS.fullmatch, patterns))
    ):
        raise ValueError("its layers are not given by their names")
    fused = (rank / 4 for rank in file.rank_pattern.values())  # up to so many matrices in one
    if not all(0 < rank <= _MAX_RANK for rank in (file.r, *fused)):
        raise ValueError(f"its rank is not between 1 and {_MAX_RANK}")
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=file.r,
        lora_alpha=file.lora_alpha,
        lora_dropout=file.lora_dropout,
        target_modules=names,
        exclude_modules=_outside_decoder(base),
        target_parameters=file.target_parameters,
        rank_pattern=file.rank_pattern,
        alpha_pattern=file.alpha_pattern,
        base_model_name_or_path=file.base_model_name_or_path,
        inference_mode=True,
    )
    config._register_custom_module(ADAPTER_LAYERS)
    return config


def load_adapter(model: PreTrainedModel, folder: Path, name: str = "default") -> PeftModel:
    """Attach a trained adapter for inference to a base, or to a PeftModel with other adapters.

    Raises:
        ModelError: The adapter is missing or does not fit the base.
    """
    if not (folder / "adapter_model.safetensors").is_file():
        raise ModelError(
            m("there is no trained adapter"), where=str(folder), remedy=m("Train the {study} first")
        )
    try:
        base = model.get_base_model() if isinstance(model, PeftModel) else model
        config = _config_of(folder, base)
        # PEFT would read to any GPU, also of Apple or Intel
        device = {"torch_device": str(next(model.parameters()).device)}
        if isinstance(model, PeftModel):
            model.load_adapter(str(folder), name, peft_config=config, **device)
            adapted = model
        else:
            adapted = PeftModel.from_pretrained(model, str(folder), name, config=config, **device)
    except (torch.AcceleratorError, torch.OutOfMemoryError, MemoryError):  # not caused by the files
        raise
    except Exception as error:  # malicious files can cause any exception in PEFT
        raise ModelError(
            m("the adapter does not fit the base: {error}", error=error),
            where=str(folder),
            remedy=m("Train the {study} again with --redo"),
        ) from error
    return adapted.eval()


def count_parameters(model: nn.Module) -> int:
    """Return the number of parameters; tied ones count once, quantized ones by their original number of values."""
    sizes: dict[int, int] = {}
    for layer in model.modules():
        for name, parameter in layer.named_parameters(recurse=False):
            quantized = name == "weight" and method_of(layer).quantizes
            size = layer.in_features * layer.out_features if quantized else parameter.numel()
            sizes[id(parameter)] = size
    return sum(sizes.values())


def model_bytes(model: nn.Module) -> int:
    """Return the bytes of all parameters as stored; tied ones count once."""
    seen: set[int] = set()
    total = 0
    for layer in model.modules():
        weights = set(map(id, layer.parameters(recurse=False))) - seen
        if weights:
            seen |= weights
            total += method_of(layer).stored_bytes(layer)
    return total


def free_memory() -> None:
    """Release the memory of deleted models."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def load_arm(
    study: Study, arm: str, *, hold: bool = True
) -> tuple[PeftModel | PreTrainedModel, ChatTokenizer]:
    """Load a trained assistant for inference: a base with its adapter, or merged and rounded if it is served rounded.

    With ``hold`` weights are held in the compute dtype; on a CPU all arms then answer at the same speed.

    Raises:
        ModelError: The arm is not trained, or its base is not available.
    """
    adapter = study.arm_folder(arm) / "adapter"
    if not adapter.is_dir():
        raise ModelError(
            m("the {arm} assistant is not trained yet", arm=arm),
            where=m("{study} {name}", name=study.name),
            remedy=m("Train it with 'assistant-builder run {name}'", name=study.name),
        )
    spec = arm_spec(study, arm, hold=hold)
    prompter = ChatTokenizer.load(spec.folder, study.template_date)
    if not ARMS[arm].rounds:
        return load_adapter(load_base(spec), adapter), prompter
    model = merge(load_adapter(load_base(replace(spec, hold=False)), adapter))
    round_linear(model, study.config.train.qat_type, DTYPES[spec.compute_dtype])
    return model.eval(), prompter


def arm_spec(study: Study, arm: str, *, hold: bool) -> BaseSpec:
    """Return the options for loading an assistant's base; equal options describe the same base."""
    model = study.config.model
    ref = resolve(model.base, trust_remote_code=allows_code(model))
    folder = fetch(ref, revision=model.revision, trust_remote_code=allows_code(model))
    spec = base_spec(model, folder, ARMS[arm].base_storage(model.quant_type))
    double = spec.double_quant and METHODS[spec.storage].quantizes
    return replace(spec, hold=hold, double_quant=double)
