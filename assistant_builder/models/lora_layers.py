"""Linear layers of the arms: storage of frozen weights, one adapter layer for every storage, and merging for export.

The libraries treat 4-bit and 16-bit bases differently (LoRA class, rounding, adapter dtype). Here all arms run the same
adapter code over a base layer whose output has the compute dtype, so that they differ only in the storage of the base.

Weights are merged in float32 and rounded once to float16, the dtype of checkpoints. A quantized base is dequantized
first, because a 4-bit sum would lose most of the trained difference.

Imports torch: only worker processes import this module.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from peft import PeftModel
from peft.tuners.lora.layer import Linear as LoraLinear
from torch import nn
from transformers import PreTrainedModel

from assistant_builder.models.rounding import CACHED_VALUES, can_round, rounded, rounded_bytes
from assistant_builder.quantization import METHODS, method_of
from assistant_builder.quantization.method import child_layers


class FusedGroup(Protocol):
    """Computes adapted layers that share an input together."""

    def output(self, layer: TwinLoraLinear, x: torch.Tensor) -> torch.Tensor:
        """Return the output of ``layer`` for ``x`` [..., in]."""


class _MatmulFromStorage(torch.autograd.Function):
    # ``x @ weight.T`` with the weight cast at use; only the stored weight is saved for the backward pass. Plain
    # autograd would save the cast copies, which doubles the memory of the frozen base.
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        ctx.save_for_backward(weight)
        return F.linear(x, weight.to(x.dtype))

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:  # type: ignore[override]
        (weight,) = ctx.saved_tensors
        return grad @ weight.to(grad.dtype), None


class CastOnUseLinear(nn.Linear):
    """A frozen linear layer with float16 weights that computes in the dtype of its input."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``x @ weight.T + bias`` in the dtype of ``x``; ``x`` is [..., in], the result [..., out]."""
        result = _MatmulFromStorage.apply(x, self.weight)
        return result if self.bias is None else result + self.bias.to(x.dtype)


class TwinLoraLinear(LoraLinear):
    """LoRA over any storage with float32 parameters; it computes in the dtype of its input."""

    group: FusedGroup | None = None  # set where layers that share an input are computed together
    rounding: RoundedWeight | None = None  # set in training through the rounding of a format

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Return base(x) + scaling · B(A(dropout(x))); ``x`` is [..., in], the result [..., out]."""
        if self.group is not None and not self.disable_adapters:
            return self.group.output(self, x)
        if self.rounding is not None and not self.disable_adapters:
            return self._through_rounding(self.rounding, x)
        result = self.base_layer(x)
        if self.disable_adapters or self.merged:
            return result
        for name in self.active_adapters:
            if name in self.lora_A:
                dropped = self.lora_dropout[name](x)
                hidden = F.linear(dropped, self.lora_A[name].weight.to(x.dtype))
                weight = self.lora_B[name].weight.to(x.dtype)
                result = result + F.linear(hidden, weight) * self.scaling[name]
        return result

    def _through_rounding(self, rounding: RoundedWeight, x: torch.Tensor) -> torch.Tensor:
        # Q(W + scaling · BA) x, plus what dropout changes in the adapter's share. The gradient passes the rounding
        # unchanged (straight-through estimator, Bengio et al. 2013, arXiv 1308.3432), so that A and B get the
        # gradient of LoRA, and the input that of the rounded weight.
        down, up = (part["default"].weight.to(x.dtype) for part in (self.lora_A, self.lora_B))
        scaling = self.scaling["default"]
        dropped = F.linear(F.linear(self.lora_dropout["default"](x), down), up)
        plain = F.linear(F.linear(x, down.detach()), up.detach())
        result = F.linear(x, rounding.values(self, x.dtype)) + (dropped - plain) * scaling
        return result if self.base_layer.bias is None else result + self.base_layer.bias.to(x.dtype)


class RoundedWeight:
    """The weight of a layer with its adapter, merged and rounded to a format, which changes with the adapter alone."""

    def __init__(self, kind: str) -> None:
        self.kind = kind  # of :data:`assistant_builder.models.rounding.FORMATS`
        self._values: torch.Tensor | None = None
        self._state: tuple[object, ...] = ()

    @torch.no_grad()
    def values(
        self, layer: TwinLoraLinear, dtype: torch.dtype, out: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The rounded weight in ``dtype``, [out, in]; it is written to ``out`` if that is given."""
        adapter = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        state = tuple((each.data_ptr(), each._version) for each in adapter)
        known = self._values
        if out is None and known is not None and known.dtype == dtype:
            out = known
        elif out is None:
            shape, device = layer.base_layer.weight.shape, adapter[0].device
            out = torch.empty(shape, dtype=dtype, device=device)
        if known is None or known.data_ptr() != out.data_ptr() or self._state != state:
            for rows in self._parts(out):
                _rounded_or_16_bit(merged_weight(layer, rows), self.kind, out[rows])
            self._values, self._state = out, state
        return out

    def _parts(self, weight: torch.Tensor) -> list[slice]:
        # parts of the rows whose intermediate results stay in the cache of a core; blocks of NF4 span rows
        rows, columns = weight.shape
        whole = weight.device.type != "cpu" or self.kind == "NF4"
        step = rows if whole else max(1, CACHED_VALUES // columns)
        return [slice(start, start + step) for start in range(0, rows, step)]


def merged_weight(layer: TwinLoraLinear, rows: slice = slice(None)) -> torch.Tensor:
    """Rows of a layer's weight with its adapter as a merged checkpoint has them: summed in float32, then float16."""
    base, method = layer.base_layer, method_of(layer.base_layer)
    if method.quantizes:
        weight = method.dequantize(base, torch.float32)[rows]
    else:
        weight = base.weight.data[rows].to(torch.float32, copy=True)
    if "default" in layer.lora_A:
        up = layer.lora_B["default"].weight[rows].float()
        weight += layer.scaling["default"] * (up @ layer.lora_A["default"].weight.float())
    return weight.to(torch.float16)


def _rounded_or_16_bit(weight: torch.Tensor, kind: str, out: torch.Tensor) -> torch.Tensor:
    # unchanged if the format cannot hold its rows
    return rounded(weight, kind, out) if can_round(weight.shape[-1], kind) else out.copy_(weight)


def train_through_rounding(model: PeftModel, kind: str) -> None:
    """Let the adapters of a float16 base be trained through the rounding of a format, and round its embeddings."""
    for layer in model.modules():
        if isinstance(layer, TwinLoraLinear):
            layer.rounding = RoundedWeight(kind)
    _round_embeddings(model.get_base_model(), kind)


@torch.no_grad()
def _round_embeddings(model: PreTrainedModel, kind: str) -> None:
    # as a GGUF file of a lossy type has them; other formats keep them in 16 bits. The matrix of the output is Q8_0
    # (:func:`assistant_builder.quantization.gguf.tensor_type`)
    if kind == "NF4":
        return
    embeddings = model.get_input_embeddings().weight.data
    head = model.get_output_embeddings().weight.data
    if embeddings is not head and embeddings.data_ptr() != head.data_ptr():
        _rounded_or_16_bit(embeddings.half(), kind, embeddings)
    _rounded_or_16_bit(head.half(), "Q8_0", head)


@torch.no_grad()
def round_linear(model: PreTrainedModel, kind: str, dtype: torch.dtype) -> int:
    """Replace the float16 linear layers of a merged model by plain ones in the compute dtype, rounded to a format.

    Returns:
        Bytes by which the layers are smaller in a file of the format than in float16.
    """
    saved = 0
    for parent, name, layer in child_layers(model):
        if isinstance(layer, CastOnUseLinear):
            weight = layer.weight.data
            values = _rounded_or_16_bit(weight, kind, torch.empty_like(weight, dtype=dtype))
            setattr(parent, name, _plain(layer, values))
            saved += weight.nbytes - rounded_bytes(*weight.shape, kind)
    _round_embeddings(model, kind)
    return saved


ADAPTER_LAYERS: dict[type[nn.Module], type[nn.Module]] = {nn.Linear: TwinLoraLinear}
"""Adapter layer by base layer; the layers of quantization methods are subclasses of ``nn.Linear``."""


def computed_weight(layer: nn.Linear) -> torch.Tensor:
    """Return the [out, in] weight of a frozen linear layer of any storage, not yet in the compute dtype."""
    return method_of(layer).dequantize(layer)


def dequantize_to_compute_dtype(
    model: nn.Module, dtype: torch.dtype, *, quantized: bool = True, training: bool = False
) -> None:
    """Replace every frozen float16 linear layer, and unless excluded every quantized one, by a plain one in ``dtype``.

    The results equal those of casting at every step. In evaluation and chat on a CPU all arms or none do this, because
    casting would distort the comparison of their speed. The memory that quantized storage saves is then in use. Layers
    that are trained through a rounding keep their float16 weights, from which they are rounded.

    Layers that round their inputs are left as they are, because a plain one would compute something else. They are
    replaced only for ``training`` on a CPU, where bitsandbytes does not round the inputs either.
    """
    for parent, name, layer in child_layers(
        model, skip=lambda parent: getattr(parent, "rounding", None) is not None
    ):
        method = method_of(layer)
        if not isinstance(layer, CastOnUseLinear) and not (quantized and method.quantizes):
            continue
        if method.rounds_inputs and not training:
            continue
        setattr(parent, name, _plain(layer, computed_weight(layer).to(dtype)))


def _plain(layer: nn.Linear, weight: torch.Tensor) -> nn.Linear:
    plain = _with_weight(nn.Linear, layer, weight)
    if layer.bias is not None:
        plain.bias = nn.Parameter(layer.bias.data.to(weight.dtype), requires_grad=False)
    return plain


def _with_weight(kind: type[nn.Linear], layer: nn.Linear, weight: torch.Tensor) -> nn.Linear:
    shape = layer.in_features, layer.out_features
    made = kind(*shape, bias=False, device="meta", dtype=weight.dtype)
    made.weight = nn.Parameter(weight, requires_grad=False)
    return made.train(layer.training)


def hold_in_compute_dtype(model: nn.Module, dtype: torch.dtype, device: str) -> None:
    """Hold frozen weights in the compute dtype instead of casting them at every use.

    A CPU holds all of them. A GPU holds those of float16 layers, whose size does not change: otherwise it would read
    each weight three times for one product, and the 16-bit arm could be slower than the 4-bit one.
    """
    if device == "cpu":
        dequantize_to_compute_dtype(model, dtype)
    elif dtype.itemsize <= torch.float16.itemsize:
        dequantize_to_compute_dtype(model, dtype, quantized=False)


def merge(adapted: PeftModel) -> PreTrainedModel:
    """Merge an adapter into its base, which is modified, with float16 linear layers; other adapters are removed."""
    model: PreTrainedModel = adapted.get_base_model()
    for parent, child, layer in child_layers(
        model, skip=lambda parent: isinstance(parent, TwinLoraLinear)
    ):
        if isinstance(layer, TwinLoraLinear):
            setattr(parent, child, _stored(layer.base_layer, merged_weight(layer)))
        elif method_of(layer).quantizes:
            weight = method_of(layer).dequantize(layer, torch.float32)
            setattr(parent, child, _stored(layer, weight))
    return model


def quantize(
    model: PreTrainedModel, quant_type: str, *, double_quant: bool, compute_dtype: torch.dtype
) -> None:
    """Quantize the float16 linear layers of a merged model in place, as loading its checkpoint would."""
    method = METHODS[quant_type]
    for parent, child, layer in child_layers(model):
        if isinstance(layer, CastOnUseLinear):
            how = {"double_quant": double_quant, "compute_dtype": compute_dtype}
            setattr(parent, child, method.quantize(layer, **how))


def _stored(layer: nn.Linear, weight: torch.Tensor) -> nn.Linear:
    merged = _with_weight(CastOnUseLinear, layer, weight.to(torch.float16))
    merged.bias = layer.bias
    return merged
