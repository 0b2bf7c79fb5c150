"""GGUF files: reading their headers with bounds, and quantizing a 16-bit file to the types of llama.cpp.

Which type a tensor gets follows llama.cpp's ``llama-quantize`` without an importance matrix (``src/llama-quant.cpp``:
``tensor_allows_quantization``, ``llama_tensor_get_type_impl``, ``tensor_type_fallback``) with one exception: where it
takes Q6_K for the output matrix of a file that is no K-quant, Q8_0 is taken, because the package ``gguf`` cannot write
K-quants. llama.cpp itself takes Q8_0 there if the width of the model is not a multiple of 256.

A K-quant file is written with the package ``libgguf`` (:mod:`assistant_builder.quantization.k_quants`), or without it
by llama.cpp, if that is installed (:func:`quantize`).
"""

from __future__ import annotations

import math
import mmap
import shutil
import struct
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assistant_builder.child_process import (
    compute_environment,
    run_program,
    without_secrets,
)
from assistant_builder.errors import ConfigError, ModelError, install_command
from assistant_builder.i18n import Text, m
from assistant_builder.quantization import k_quants
from assistant_builder.quantization.gguf_types import GGUF_TYPES

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Importance = Mapping[str, "NDArray[Any]"]
"""Name of a matrix → weight of each column, shape ``[columns]``: the mean square of what it is multiplied by."""
Report = Callable[[float, Text], None]
"""Progress callback: fraction done and current activity; an exception from it cancels the work."""
FALLBACK_TYPE = "F16"
"""Type of a matrix whose rows are no multiple of the block of any other type that it could have."""
_OUTPUT_TYPE = "Q8_0"
_PROGRAM = "llama-quantize"  # of llama.cpp
# parts of the names of matrices that are not quantized
_KEPT = """
_norm.weight ffn_gate_inp.weight altup laurel per_layer_model_proj ssm_conv1d shortconv.conv.weight
indexer.k_proj.weight indexer.q_proj.weight time_mix_first.weight time_mix_w0.weight time_mix_w1.weight
time_mix_w2.weight time_mix_v0.weight time_mix_v1.weight time_mix_v2.weight time_mix_a0.weight time_mix_a1.weight
time_mix_a2.weight time_mix_g1.weight time_mix_g2.weight time_mix_decay_w1.weight time_mix_decay_w2.weight
time_mix_lerp_fused.weight attn_rel_b.weight position_embd token_types.weight
""".split()
# matrices that are stored as Q8_0 in a model with eight experts, of whose size they are a small share
_ATTENTION_OF_EXPERTS = ("attn_v.weight", "attn_qkv.weight", "attn_kv_b.weight", "attn_k.weight")


# reading


@dataclass(frozen=True)
class GgufTensor:
    """A tensor of a GGUF file."""

    name: str
    shape: tuple[int, ...]  # as in PyTorch, [rows, columns] for a matrix
    type: str  # name of its GGML type
    bytes: int


@dataclass(frozen=True)
class GgufFile:
    """The header of a GGUF file, whose tensors are inside of the file."""

    path: Path
    metadata: Mapping[str, Any]  # without arrays
    tensors: tuple[GgufTensor, ...]

    @property
    def tensor_types(self) -> dict[str, int]:
        """Number of tensors of each GGML type, the most frequent first."""
        return dict(Counter(tensor.type for tensor in self.tensors).most_common())

    @property
    def architecture(self) -> str:
        """llama.cpp's name of the architecture."""
        return str(self.metadata["general.architecture"])


def read_gguf(path: Path) -> GgufFile:
    """Read the header of a GGUF file; no value in it is used before it is checked against the size of the file.

    Raises:
        ModelError: The file is not a GGUF file of version 2 or 3, or it is truncated or malformed.
    """
    try:
        if path.exists() and not path.is_file():  # a pipe would wait
            raise _Malformed("it is no regular file")
        with path.open("rb") as file:
            if not path.stat().st_size:
                raise _Malformed("it is empty")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _Header(data).read(path)
    except _Malformed as error:
        raise ModelError(
            m("not a usable GGUF file: {error}", error=error),
            where=str(path),
            remedy=m("Export it again, or download it again"),
        ) from None
    except OSError as error:
        raise ModelError(
            m("the file cannot be read: {reason}", reason=error.strerror or error),
            where=str(path),
            remedy=m("Name a GGUF file that you may read"),
        ) from error


class _Malformed(Exception):
    """What is wrong with a file."""


# format of each type of a value
_SCALARS = dict(enumerate(("<B", "<b", "<H", "<h", "<I", "<i", "<f", "<?")))
_SCALARS |= {10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9
_MAX_DIMENSIONS, _MAX_NESTING, _MAX_ALIGNMENT, _MAX_NAME = 4, 3, 1 << 20, 1 << 16
# bytes of the shortest metadata value and of the shortest tensor entry, by which their counts are bounded
_SMALLEST_ENTRY = {"value": 8 + 4 + 1, "tensor": 8 + 4 + 4 + 8}


class _Header:
    def __init__(self, data: mmap.mmap) -> None:
        self._data, self._place = data, 0

    def read(self, path: Path) -> GgufFile:
        if self._take(4) != b"GGUF":
            raise _Malformed("it does not begin with GGUF")
        version = self._scalar("<I")
        if version not in (2, 3):
            raise _Malformed(f"it has version {version}, and 2 and 3 are known")
        tensors, values = self._count("tensor"), self._count("value")
        metadata: dict[str, Any] = {}
        for _ in range(values):
            key = self._string(_MAX_NAME)
            if key in metadata:
                raise _Malformed(f"the key {key!r:.80} occurs twice")
            metadata[key] = self._value(self._scalar("<I"), 0)
        if not isinstance(metadata.get("general.architecture"), str):
            raise _Malformed("it names no architecture")
        alignment = metadata.get("general.alignment", 32)
        known = isinstance(alignment, int) and 0 < alignment <= _MAX_ALIGNMENT
        if not known or alignment & (alignment - 1):
            raise _Malformed(f"its alignment is {alignment!r:.80}")
        entries = [self._tensor() for _ in range(tensors)]
        if len({tensor.name for tensor, _ in entries}) < len(entries):
            raise _Malformed("two tensors have one name")
        start = -(-self._place // alignment) * alignment
        for tensor, offset in entries:
            if offset % alignment or start + offset + tensor.bytes > len(self._data):
                raise _Malformed(
                    f"it is truncated: {tensor.name!r:.80} ends at byte {start + offset + tensor.bytes:,} "
                    f"of {len(self._data):,}"
                )
        return GgufFile(
            path,
            {key: value for key, value in metadata.items() if value is not None},
            tuple(tensor for tensor, _ in entries),
        )

    def _take(self, size: int) -> bytes:
        self._skip(size)
        return self._data[self._place - size : self._place]

    def _scalar(self, code: str) -> Any:
        return struct.unpack(code, self._take(struct.calcsize(code)))[0]

    def _count(self, kind: str) -> int:
        count = int(self._scalar("<Q"))
        if count * _SMALLEST_ENTRY[kind] > len(self._data):
            raise _Malformed(f"it claims to have {count:,} {kind} entries")
        return count

    def _string(self, most: int | None = None) -> str:
        size = int(self._scalar("<Q"))
        if most is not None and size > most:
            raise _Malformed(f"a name has {size:,} bytes")
        return self._take(size).decode("utf-8", errors="replace")

    def _value(self, kind: int, depth: int) -> Any:
        # A value; None for an array, which is skipped
        if kind in _SCALARS:
            return self._scalar(_SCALARS[kind])
        if kind == _STRING:
            return self._string()
        if kind != _ARRAY or depth == _MAX_NESTING:
            raise _Malformed(f"a value has the unknown type {kind}")
        of, count = self._scalar("<I"), int(self._scalar("<Q"))
        if of in _SCALARS:
            self._skip(count * struct.calcsize(_SCALARS[of]))
        else:
            if count * 8 > len(self._data):
                raise _Malformed(f"an array claims to have {count:,} values")
            for _ in range(count):
                if of == _STRING:
                    self._skip(int(self._scalar("<Q")))
                else:
                    self._value(of, depth + 1)
        return None

    def _skip(self, size: int) -> None:
        if size > len(self._data) - self._place:
            raise _Malformed("it ends within its header")
        self._place += size

    def _tensor(self) -> tuple[GgufTensor, int]:
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

        name, dimensions = self._string(_MAX_NAME), self._scalar("<I")
        if not 0 < dimensions <= _MAX_DIMENSIONS:
            raise _Malformed(f"{name!r:.80} has {dimensions} dimensions")
        sizes = [int(self._scalar("<Q")) for _ in range(dimensions)]
        kind, offset = self._scalar("<I"), int(self._scalar("<Q"))
        try:
            block, stored = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
        except (KeyError, ValueError):
            raise _Malformed(f"{name!r:.80} has the unknown type {kind}") from None
        if sizes[0] % block:
            raise _Malformed(
                f"the rows of {name!r:.80} have {sizes[0]:,} values, no multiple of {block}"
            )
        size, kind = math.prod(sizes) // block * stored, GGMLQuantizationType(kind).name
        return GgufTensor(name, tuple(reversed(sizes)), kind, size), offset


# quantizing


def tensor_type(
    tensor: GgufTensor, wanted: str, *, tied: bool, experts: int, layers: int = 0
) -> str:
    """The GGML type of a tensor in a file of the type ``wanted``.

    Args:
        tensor: The tensor in the 16-bit file.
        wanted: Name of the file's type.
        tied: Whether the output matrix is the embedding matrix.
        experts: Number of experts in a layer; 0 without.
        layers: Number of layers.
    """
    name = tensor.name
    if tensor.type != "F16" or len(tensor.shape) < 2:
        return tensor.type
    if wanted == "BF16":
        return "BF16"
    if not name.endswith("weight") or any(part in name for part in _KEPT):
        return tensor.type
    if GGUF_TYPES[wanted].k_quant:
        return k_quants.k_type(
            name, tensor.shape[-1], wanted, k_quants.Model(layers, experts, tied)
        )
    head = name == "output.weight" or (tied and name == "token_embd.weight")
    attention = experts == 8 and name.endswith(_ATTENTION_OF_EXPERTS)
    if tensor.shape[-1] % 32:
        return FALLBACK_TYPE
    return _OUTPUT_TYPE if head or attention else wanted


def quantize(
    source: Path,
    target: Path,
    type: str,
    report: Report = lambda fraction, message: None,
    *,
    importance: Importance | None = None,
) -> GgufFile:
    """Write a GGUF file of a type from one in float16; an unfinished file is removed.

    Args:
        source: File with matrices in float16, as :func:`assistant_builder.models.gguf_convert.convert_checkpoint`
            writes it.
        target: The file to write.
        type: A name of :data:`GGUF_TYPES`.
        report: Progress callback.
        importance: Weights of the columns of matrices, by which their block scales are chosen; other matrices, and
            files of a type that takes none, are written without.

    Raises:
        ConfigError: The type does not exist, or only llama.cpp writes it and it is not installed.
        ModelError: The source is damaged, or llama.cpp failed.
    """
    if type not in GGUF_TYPES:
        raise ConfigError(
            m("{type!r} is not one of {gguf_types}", type=type, gguf_types=", ".join(GGUF_TYPES)),
            where="--type",
        )
    read_gguf(source)
    try:
        if GGUF_TYPES[type].k_quant and not k_quants.is_installed():
            _with_llama_cpp(source, target, type, report)
        else:
            _with_numpy(source, target, type, report, importance or {})
        return read_gguf(target)
    except BaseException:
        target.unlink(missing_ok=True)
        raise


def _with_numpy(
    source: Path, target: Path, type: str, report: Report, importance: Importance
) -> None:
    import numpy as np
    from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter, quant_shape_to_byte_shape

    known = read_gguf(source)
    tied = all(tensor.name != "output.weight" for tensor in known.tensors)
    experts = int(known.metadata.get(f"{known.architecture}.expert_count", 0))
    layers = int(known.metadata.get(f"{known.architecture}.block_count", 0))
    chosen = {
        tensor.name: tensor_type(tensor, type, tied=tied, experts=experts, layers=layers)
        for tensor in known.tensors
    }
    reader = GGUFReader(source)
    writer = GGUFWriter(target, known.architecture)
    try:
        _copy_metadata(reader, writer, GGUF_TYPES[type].file_type)
        for tensor in reader.tensors:
            kind = GGMLQuantizationType[chosen[tensor.name]]
            data = tensor.data
            shape, dtype, size = data.shape, data.dtype, data.nbytes
            if kind != tensor.tensor_type:
                shape, dtype = quant_shape_to_byte_shape(shape, kind), np.dtype(np.uint8)
                size = math.prod(shape)
            writer.add_tensor_info(tensor.name, shape, dtype, size, kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for done, tensor in enumerate(reader.tensors):
            report(done / len(reader.tensors), m("Quantizing to {type}", type=type))
            weights = importance.get(tensor.name)
            writer.write_tensor_data(_stored(tensor, chosen[tensor.name], weights))
    finally:
        writer.close()


def _copy_metadata(reader: Any, writer: Any, file_type: int) -> None:
    from gguf import GGUFValueType, Keys

    own = {Keys.General.ARCHITECTURE, Keys.General.FILE_TYPE, Keys.General.QUANTIZATION_VERSION}
    for field in reader.fields.values():
        if field.name in own or field.name.startswith("GGUF."):
            continue
        kind = field.types[0]
        inner = field.types[-1] if kind == GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), kind, sub_type=inner)
    writer.add_file_type(file_type)
    writer.add_quantization_version(_QUANTIZATION_VERSION)


_QUANTIZATION_VERSION = 2  # ``GGML_QNT_VERSION`` in ggml.h
# values that are quantized at a time, so that a large matrix needs little memory besides the file
_GROUP_VALUES = 1 << 24
_BY_LIBGGUF = ("Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q5_0", "IQ4_NL")  # parts of K-quant files
_SEARCHED_VALUES = 1 << 20  # the same for a search of scales, which has more intermediate results


def _stored(tensor: Any, kind: str, weights: NDArray[Any] | None) -> NDArray[Any]:
    # the data of a float16 tensor in another type; ``weights`` are those of its columns
    import numpy as np
    from gguf import GGMLQuantizationType, quantize

    from assistant_builder.quantization.weighted_blocks import WEIGHTED_TYPES, quantize_weighted

    wanted = GGMLQuantizationType[kind]
    values: NDArray[np.float16] = tensor.data
    if wanted == tensor.tensor_type:
        return values
    rows = values.reshape(-1, values.shape[-1])
    if weights is not None and len(weights) != rows.shape[-1]:
        weights = None
    if kind in _BY_LIBGGUF:
        group, convert = _GROUP_VALUES, lambda part: k_quants.quantize_rows(part, kind, weights)
    elif weights is not None and kind in WEIGHTED_TYPES:
        group, convert = _SEARCHED_VALUES, lambda part: quantize_weighted(part, kind, weights)
    else:
        group, convert = _GROUP_VALUES, lambda part: quantize(part, wanted)
    step = max(1, group // rows.shape[-1])
    parts = (rows[start : start + step] for start in range(0, len(rows), step))
    joined: NDArray[Any] = np.concatenate([convert(part.astype(np.float32)) for part in parts])
    return joined.view(np.uint8).reshape(*values.shape[:-1], -1)


def require_writer(type: str, where: str = "--type") -> None:
    """Check that a type can be written here; ``where`` is the option or setting that names it.

    Raises:
        ConfigError: Only llama.cpp writes it, and it is not installed.
    """
    if GGUF_TYPES[type].k_quant and not k_quants.is_installed() and shutil.which(_PROGRAM) is None:
        own = ", ".join(each.name for each in GGUF_TYPES.values() if not each.k_quant)
        raise ConfigError(
            m(
                "{type} needs the package {package}, which is not installed, and neither is llama.cpp",
                type=type,
                package=k_quants.PACKAGE,
            ),
            where=where,
            remedy=m(
                "Install it with {install_command}, or choose one of {own}",
                own=own,
                install_command=install_command("gguf"),
            ),
        )


def _with_llama_cpp(source: Path, target: Path, type: str, report: Report) -> None:
    require_writer(type)
    command = [str(shutil.which(_PROGRAM)), str(source), str(target), type]
    expected = source.stat().st_size * GGUF_TYPES[type].bits / 16

    def poll() -> None:
        done = target.stat().st_size if target.is_file() else 0
        report(min(done / expected, 1.0), m("Quantizing to {type} with llama.cpp", type=type))

    code, last = run_program(command, without_secrets(compute_environment()), poll)
    if code:
        raise ModelError(
            m(
                "llama.cpp could not quantize to {type}: {reason}",
                type=type,
                reason=last or m("exit code {code}", code=code),
            ),
            where=str(source),
            remedy=m("Choose another --type, or install another version of llama.cpp"),
        )
