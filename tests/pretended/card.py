"""A CUDA device that torch only pretends: shapes, dtypes, devices, bytes and host reads of the GPU path, no values.

``FakeTensorMode`` follows every operator without computing it. With the guard of ``guard.cpp`` forward and backward
pass, optimizers and whole training loops run with ``device="cuda"``, the string by which the product branches.

* Operators refuse tensors of different devices and products of different dtypes, as CUDA does.
* :class:`Ledger` records the reads of the host, each with its line, and the bytes on the device: storages in the blocks
  of 512 bytes of CUDA's caching allocator, and what kernels of libraries allocate inside.

Not seen: values, the kernels themselves, fragmentation, and the workspaces of cuBLAS and NCCL.
"""

from __future__ import annotations

import copy
import gc
import sys
import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import bitsandbytes  # noqa: F401 - libraries look for CUDA when they are imported, so all of them come first
import peft  # noqa: F401
import torch
import transformers  # noqa: F401
import trl  # noqa: F401
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves
from transformers.generation.stopping_criteria import MaxLengthCriteria

import assistant_builder.training.trainer  # noqa: F401
from assistant_builder.inference import padded_batch

ROOT = Path(__file__).resolve().parents[2]
BLOCK = 512
"""Bytes to which the caching allocator rounds up (c10/cuda/CUDACachingAllocator.h, ``kMinBlockSize``)."""
ATTENTION = {"_scaled_dot_product_flash_attention", "_scaled_dot_product_efficient_attention"}
PRODUCTS = {"mm", "addmm", "addmm_", "bmm", "baddbmm"}
NO_KERNEL = set(
    "device empty empty_like empty_strided new_empty new_empty_strided detach lift_fresh".split()
)
"""Operators that start no kernel, other than views."""
READS = {"nonzero", "masked_select", "_unique2", "equal"}
"""Operators whose result the host needs before it can go on."""
CARD_24, CARD_80 = 25_300_000_000, 85_000_000_000


class Ledger(TorchDispatchMode):
    """What a program does on the pretended device.

    Attributes:
        now: Bytes in use.
        peak: The most bytes in use since :meth:`start`.
        at_peak: The operator that reached the peak.
        products: Matrix products and attentions by operator and dtype.
        kernels: Operators that start a kernel, by name.
        copies: Copies between devices, by direction.
        reads: Reads by the host, (operator, place).
        truth: What the host reads where it reads a boolean.
    """

    mode: FakeTensorMode

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.at_peak, self.truth = "", False
        self.products: Counter[tuple[str, torch.dtype]] = Counter()
        self.kernels: Counter[str] = Counter()
        self.copies: Counter[str] = Counter()
        self.reads: list[tuple[str, str]] = []
        self._known: dict[int, Any] = {}
        self._sizes: dict[int, int] = {}

    def start(self) -> int:
        """Begin a new phase: forget the peak and what was counted; returns the bytes in use."""
        gc.collect()
        self.peak, self.at_peak = self.now, ""
        for counted in (self.products, self.kernels, self.copies):
            counted.clear()
        self.reads.clear()
        return self.now

    def float32_products(self) -> list[str]:
        """Names of the products in float32."""
        return sorted({name for name, dtype in self.products if dtype == torch.float32})

    def see(self, tensor: torch.Tensor, name: str = "") -> None:
        """Count the storage of a tensor, once."""
        if tensor.device.type != "cuda":
            return
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return

        def gone(_: Any, key: int = key) -> None:
            self.now -= self._sizes.pop(key, 0)
            self._known.pop(key, None)

        self._known[key] = weakref.ref(storage, gone)
        self.resized(storage, name)

    def resized(self, storage: Any, name: str = "resize_") -> None:
        """Count a storage with its present size."""
        if storage._cdata in self._known:
            size = -(-storage.nbytes() // BLOCK) * BLOCK
            self.now += size - self._sizes.get(storage._cdata, 0)
            self._sizes[storage._cdata] = size
            self._high(0, name)

    def _high(self, extra: int, name: str) -> None:
        if self.now + extra > self.peak:
            self.peak, self.at_peak = self.now + extra, name

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        tensors = [each for each in tree_leaves((args, kwargs)) if isinstance(each, torch.Tensor)]
        used = any(each.device.type == "cuda" for each in tensors)
        if used and name in ("_local_scalar_dense", "is_nonzero"):
            self.reads.append((name, place()))
            dtype = tensors[0].dtype
            return self.truth if dtype == torch.bool else 1.0 if dtype.is_floating_point else 0
        by_mask = name in ("index", "index_put", "index_put_") and any(
            each is not None and each.dtype in (torch.bool, torch.uint8) for each in args[1]
        )
        if used and (by_mask or name in READS):
            self.reads.append((name, place()))
            if name == "nonzero":  # as if all were set
                return torch.empty(
                    tensors[0].numel(), tensors[0].dim(), dtype=torch.long, device="cuda"
                )
        if used and name in PRODUCTS and "dtype" not in func._overloadname:
            dtypes = {each.dtype for each in tensors}
            if len(dtypes) > 1:
                raise RuntimeError(f"{name} of {sorted(map(str, dtypes))}")
        if used and name == "int8_vectorwise_quant" and len(args) > 1 and args[1]:
            self.reads.append((name, place()))  # of the columns with outliers: as if there were one
            result = (*func(args[0], 0.0)[:2], torch.empty(1, dtype=torch.long, device="cuda"))
        elif used and name == "int8_mixed_scaled_mm":  # bitsandbytes/backends/default/ops.py
            inputs, columns = args[0], args[5]
            result = (
                torch.ops.bitsandbytes.int8_scaled_mm(*args[1:5], dtype=inputs.dtype),
                inputs[:, columns],
            )
        elif name == "exponential_":  # fake tensors accept no generator
            result = args[0]
        else:
            result = func(*args, **kwargs)
        results = [each for each in tree_leaves(result) if isinstance(each, torch.Tensor)]
        there = any(each.device.type == "cuda" for each in results)
        if (used or there) and not func.is_view and name not in NO_KERNEL:
            self.kernels[name] += 1
        if used and name in PRODUCTS | ATTENTION | set(
            "linear matmul gemm_4bit int8_linear_matmul".split()
        ):
            self.products.update(
                (name, each.dtype) for each in tensors[: 2 if name in PRODUCTS else 1]
            )
        if name in ("_to_copy", "copy_") and tensors and results:
            source = tensors[-1] if name == "copy_" else tensors[0]
            if results[0].device.type != source.device.type:
                self.copies[f"{source.device.type} to {results[0].device.type}"] += 1
        for each in results:
            self.see(each, name)
        if extra := _inside(name, args):
            self._high(extra, f"inside {name}")
        return result


def place() -> str:
    """The line of the product that is computed, and the innermost line of a library."""
    frame: Any = sys._getframe(2)
    inner = ""
    while frame is not None:
        name = frame.f_code.co_filename
        if "/torch/" not in name and name != __file__:
            own = name.startswith((f"{ROOT}/assistant_builder/", f"{ROOT}/evals/"))
            short = name.rpartition("site-packages/")[2].removeprefix(f"{ROOT}/")
            at = f"{short}:{frame.f_code.co_name}"
            inner = inner or at
            if own:
                return at if at == inner else f"{at} via {inner}"
        frame = frame.f_back
    return inner


def _inside(name: str, args: Any) -> int:
    """Bytes that a kernel of a library allocates while it runs, from its Python source."""
    if (
        name == "gemm_4bit"
    ):  # bitsandbytes/backends/cuda/ops.py: for many rows the whole weight is dequantized
        rows, (outputs, inputs) = args[0].numel() // args[0].shape[-1], args[2][:2]
        if rows > 64:
            return args[0].element_size() * outputs * inputs + 8 * outputs * inputs // args[4]
    return 0


_torch_attention = torch.nn.functional.scaled_dot_product_attention


def _cuda_attention(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """``scaled_dot_product_attention`` as CUDA dispatches it: flash without a mask, memory-efficient with one.

    It is replaced by name, because autograd recomputes in another thread, where torch's function modes are not active.
    """
    if query.device.type != "cuda":
        return _torch_attention(
            query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
        )
    assert (
        query.device
        == key.device
        == value.device
        == (query.device if attn_mask is None else attn_mask.device)
    )
    assert query.dtype == key.dtype == value.dtype and not (is_causal and attn_mask is not None)
    if enable_gqa:
        key, value = (
            each.repeat_interleave(query.shape[1] // each.shape[1], 1) for each in (key, value)
        )
    if attn_mask is None and query.dtype != torch.float32:
        return torch.ops.aten._scaled_dot_product_flash_attention(
            query, key, value, dropout_p, is_causal, False, scale=scale
        )[0]
    if attn_mask is not None:
        assert attn_mask.dtype in (torch.bool, query.dtype), (
            f"mask {attn_mask.dtype}, query {query.dtype}"
        )
        if attn_mask.dtype == torch.bool:
            zeros = torch.zeros_like(attn_mask, dtype=query.dtype)
            attn_mask = zeros.masked_fill_(attn_mask.logical_not(), float("-inf"))
        attn_mask = attn_mask.expand(*query.shape[:3], key.shape[2])
    return torch.ops.aten._scaled_dot_product_efficient_attention(
        query, key, value, attn_mask, True, dropout_p, is_causal, scale=scale
    )[0]


def _apply(self: Any, function: Any, recurse: bool = True) -> Any:
    """``nn.Module._apply`` for pretended tensors, which torch can swap only while nothing refers to them."""
    if recurse:
        for child in self.children():
            child._apply(function)
    for key, value in self._parameters.items():
        if value is not None:
            with torch.no_grad():
                fresh = function(value)
            if (fresh.device, fresh.dtype) != (value.device, value.dtype):
                self._parameters[key] = torch.nn.Parameter(fresh, value.requires_grad)
    for key, value in self._buffers.items():
        if value is not None:
            self._buffers[key] = function(value)
    return self


class _Nothing:
    """A stream or an event."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self.device, self.stream_id = torch.device("cuda:0"), 0

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: self

    def __bool__(self) -> bool:  # is_capturing()
        return False

    def __enter__(self) -> _Nothing:
        return self

    def __exit__(self, *_: Any) -> None:
        pass


def _set_data(tensor: torch.Tensor, value: torch.Tensor) -> None:
    """``tensor.data = value``; torch itself lets it move a parameter to another device without an error."""
    if tensor.device != value.device:
        raise RuntimeError(f"a tensor on {tensor.device} is given data on {value.device}")
    torch.Tensor.data.__set__(tensor, value)


@contextmanager
def pretend_cuda(
    memory: int = CARD_24, capability: tuple[int, int] = (8, 9), cards: int = 1
) -> Iterator[Ledger]:
    """Cards of this memory and compute capability, in the context; the process uses the first."""
    ledger = Ledger()
    properties = SimpleNamespace(
        name="Pretended",
        uuid="",
        total_memory=memory,
        major=capability[0],
        minor=capability[1],
        multi_processor_count=128,
    )
    cuda = {
        "is_available": lambda: True,
        "device_count": lambda: cards,
        "current_device": lambda: 0,
        "is_initialized": lambda: True,
        "set_device": lambda device: None,
        "get_device_properties": lambda device=None: properties,
        "get_device_capability": lambda device=None: capability,
        "get_arch_list": lambda: [],
        "is_bf16_supported": lambda including_emulation=True: capability >= (8, 0),
        "mem_get_info": lambda device=None: (memory - ledger.now, memory),
        "memory_allocated": lambda device=None: ledger.now,
        "max_memory_allocated": lambda device=None: ledger.peak,
        "memory_reserved": lambda device=None: ledger.now,
        "empty_cache": lambda: None,
        "reset_peak_memory_stats": lambda device=None: setattr(ledger, "peak", ledger.now),
        "synchronize": lambda device=None: None,
        "manual_seed_all": lambda seed: None,
        "manual_seed": lambda seed: None,
        "Stream": _Nothing,
        "Event": _Nothing,
        "stream": lambda stream: _Nothing(),
        "current_stream": lambda device=None: _Nothing(),
        "default_stream": lambda device=None: _Nothing(),
        "get_rng_state": lambda device="cuda": torch.zeros(16, dtype=torch.uint8),
        "set_rng_state": lambda state, device="cuda": None,
        "get_device_name": lambda device=None: "Pretended",
    }
    import bitsandbytes.functional as bnb

    mode = FakeTensorMode(allow_non_fake_inputs=False)
    table = mode.from_tensor(bnb.create_dynamic_map())  # a table of constants, made from values
    resize = torch.UntypedStorage.resize_

    def resized(storage: Any, size: int) -> Any:  # FSDP frees gathered weights in this way
        found = resize(storage, size)
        ledger.resized(storage)
        return found

    def listed(tensor: torch.Tensor) -> Any:
        if tensor.device.type == "cuda":
            ledger.reads.append(("tolist", place()))
        value: Any = 1.0 if tensor.dtype.is_floating_point else 0
        for size in reversed(tensor.shape):
            value = [value] * size
        return value

    with ExitStack() as stack:
        patch = stack.enter_context
        patch(mock.patch.object(FakeTensorMode, "avoid_device_init", property(lambda self: True)))
        torch._C._ensureCUDADeviceGuardSet()
        patch(mode)
        patch(mock.patch.dict(bnb.name2qmap, {"dynamic": table}))
        for name, value in cuda.items():
            patch(mock.patch.object(torch.cuda, name, value))
        patch(mock.patch.object(torch.nn.Module, "_apply", _apply))
        patch(mock.patch.object(torch.accelerator, "current_stream", lambda *_: _Nothing()))
        patch(mock.patch.object(torch.Tensor, "pin_memory", lambda tensor, *_: tensor))
        patch(mock.patch.object(FakeTensor, "tolist", listed))  # its own reads values one by one
        patch(
            mock.patch.object(
                FakeTensor, "data", property(torch.Tensor.data.__get__, _set_data), create=True
            )
        )
        patch(mock.patch.object(torch.UntypedStorage, "resize_", resized))
        patch(
            mock.patch.object(torch.nn.functional, "scaled_dot_product_attention", _cuda_attention)
        )
        patch(ledger)
        ledger.mode = mode
        yield ledger


@contextmanager
def values_on_the_host(ledger: Ledger) -> Iterator[None]:
    """In the context padded batches keep their values on the CPU, and ``generate`` ends with the longest answer.

    Positions of the loss depend on values, and without values no answer is known to be finished.
    """
    pad, find, longest = (
        padded_batch.LeftPadding.__call__,
        padded_batch.supervised_columns,
        MaxLengthCriteria.__call__,
    )
    real: dict[int, Any] = {}
    ends: list[bool] = []

    def last(self: Any, input_ids: torch.Tensor, *given: Any, **more: Any) -> Any:
        ends[:] = [input_ids.shape[1] >= self.max_length]
        return longest(self, input_ids, *given, **more)

    def unfinished(*_: Any, **__: Any) -> bool:
        done, ends[:] = ends == [True], []
        return not done

    def padded(self: Any, rows: Any) -> Any:
        with _disable_current_modes():
            batch = pad(self, rows)
        made = {name: ledger.mode.from_tensor(value) for name, value in batch.items()}
        real[id(made)] = batch, made
        return made

    def found(inputs: Any) -> Any:
        with _disable_current_modes():
            columns = find(real[id(inputs)][0])
        return tuple(map(ledger.mode.from_tensor, columns))

    with (
        mock.patch.object(padded_batch.LeftPadding, "__call__", padded),
        mock.patch.object(padded_batch, "supervised_columns", found),
        mock.patch.object(MaxLengthCriteria, "__call__", last),
        mock.patch.object(transformers.GenerationMixin, "_has_unfinished_sequences", unfinished),
    ):
        yield


def move(model: Any, ledger: Ledger, moved: dict[int, Any] | None = None) -> Any:
    """The model with all its tensors replaced by pretended ones on the device, states of 4-bit weights included.

    ``moved`` are tensors that have been replaced, by the identity of the original; tied ones stay tied.
    """
    known = {} if moved is None else moved

    def there(value: torch.Tensor) -> torch.Tensor:
        if value.device.type == "cuda":
            return value
        if id(value) not in known:
            fresh = torch.empty(value.shape, dtype=value.dtype, device="cuda")
            ledger.see(fresh)
            if isinstance(value, torch.nn.Parameter):
                fresh = torch.nn.Parameter(fresh, requires_grad=value.requires_grad)
            # the original is kept: its identity could be given to another one
            known[id(value)] = (fresh, value)
        return known[id(value)][0]

    for layer in model.modules():
        for name, value in list(layer._parameters.items()):
            if value is not None:
                fresh = layer._parameters[name] = there(value)
                state = getattr(value, "quant_state", None)
                if state is not None and fresh is not value:
                    layer.quant_state = fresh.quant_state = _move_state(state, there)
                    fresh.bnb_quantized = True
        for name, value in list(layer._buffers.items()):
            if value is not None:
                layer._buffers[name] = there(value)
    return model


def _move_state(state: Any, there: Any) -> Any:
    """A quantization state of bitsandbytes on the device."""
    found = copy.copy(state)
    for name in ("absmax", "code", "offset"):
        if getattr(found, name, None) is not None:
            setattr(found, name, there(getattr(found, name)))
    if found.state2 is not None:
        found.state2 = _move_state(found.state2, there)
    return found
