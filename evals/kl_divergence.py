"""Fidelity: KL divergence of one model's next-token distributions from those of its 16-bit counterpart.

The 4-bit and the 16-bit base are loaded at once and compared batch by batch over the full vocabulary; logits are not
stored. GGUF files are compared one after the other with stored distributions of few items. The module imports torch,
so only worker processes import it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from safetensors import safe_open

from assistant_builder.arms import CELLS, FOUR_BIT, LORA, QLORA, TWINS
from assistant_builder.atomic_io import read_json, write_json, write_jsonl
from assistant_builder.error_translation import ran_out_of_memory
from assistant_builder.errors import ResourceError
from assistant_builder.inference.batch_scorer import Tokens
from assistant_builder.models import loading
from assistant_builder.models.chat_template import ChatTokenizer
from assistant_builder.quantization import UNQUANTIZED
from assistant_builder.study import Study
from evals.cells import base_of, in_order_of_loading, load_dequantized_base, with_adapter
from evals.lm_eval_model import reader
from evals.work_items import ProgressTracker

PAIRS: tuple[tuple[str, str], ...] = (("B16", "B4"), (LORA.cell, "L4"), ("Q16", QLORA.cell), (LORA.cell, QLORA.cell))
"""Reference and candidate: three pairs with the same adapter, and one that includes training."""
_MEMORY_RESERVE = 1.3
_KEPT_BYTES = 512_000_000
"""Most memory for the distributions of :class:`ReferenceDistributions`."""
_STORED_BYTES = (16 + 4.127) / 8
"""Bytes of a parameter on a GPU in both bases: float16, and NF4 with double quantization."""


def compare_bases(study: Study, folder: Path, prompter: ChatTokenizer, items: Sequence[Mapping[str, Any]],
                  clock: ProgressTracker, inputs: Mapping[str, Any]) -> None:
    """Write ``fidelity.jsonl`` and ``fidelity.json`` for the pairs whose cells the study scores.

    ``clock`` counts items of the kind ``fidelity``; ``inputs`` are those of the record.
    """
    began = time.monotonic()
    evals = study.evals_folder
    pairs = [pair for pair in PAIRS if set(pair) <= set(study.config.eval.cells)]
    specs = {base: base_of(study, folder, base) for base in (UNQUANTIZED, FOUR_BIT)}
    ids = [prompter.split_ids(item["prompt"], item["target"]) for item in items]
    parts: dict[int, list[dict[tuple[str, str], np.ndarray]]] = {}
    models: dict[str, Any] = {}
    skipped = ""
    try:
        _check_memory(specs["float16"])
        models = {base: load_dequantized_base(study, spec, TWINS)[0] for base, spec in specs.items()}
        for index, part, whole in _compare(models, prompter, ids, study.config.eval.batch_size, pairs):
            parts.setdefault(index, []).append(part)
            clock.tick("fidelity", whole)
    except Exception as error:
        if not (isinstance(error, ResourceError) or ran_out_of_memory(error)):
            raise
        skipped = error.what if isinstance(error, ResourceError) else "memory ran out"
    if skipped:
        models.clear()
        loading.free_memory()  # after the handler, whose error references the models
        write_json(evals / "fidelity.json", {"pairs": [], "skipped": f"both bases are needed at once: {skipped}",
                                             "inputs": dict(inputs)})
        return
    tables = {index: {pair: np.concatenate([part[pair] for part in parts[index]]) for pair in pairs}
              for index in sorted(parts)}
    write_jsonl(evals / "fidelity.jsonl", [_line(items[index], table) for index, table in tables.items()])
    write_json(evals / "fidelity.json", {
        "pairs": [_summary(pair, np.concatenate([table[pair] for table in tables.values()])) for pair in pairs],
        "skipped": None,
        "compute_dtype": specs["float16"].compute_dtype, "seconds": time.monotonic() - began, "inputs": dict(inputs),
    })


def _check_memory(spec: loading.BaseSpec) -> None:
    """Raise a ResourceError if both bases do not fit into the free memory, because swapping would look like a hang."""
    parameters = _parameters(spec.folder)
    if spec.device == "cpu":  # both are in the compute dtype
        needed = int(2 * parameters * loading.DTYPES[spec.compute_dtype].itemsize * _MEMORY_RESERVE)
        free = psutil.virtual_memory().available
    else:
        needed = int(parameters * _STORED_BYTES * _MEMORY_RESERVE)
        loading.free_memory()  # memory of the cells
        free, _ = torch.cuda.mem_get_info()
    if needed > free:
        raise ResourceError(f"that takes about {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free",
                            remedy="Close other programs, or set eval.fidelity=false")


def _parameters(folder: Path) -> int:
    """The number of parameters in a folder, for any storage."""
    index = folder / "model.safetensors.index.json"
    shards = set(read_json(index)["weight_map"].values()) if index.is_file() else None
    total = 0
    for path in folder.glob("*.safetensors"):
        if shards is None or path.name in shards:
            with safe_open(path, framework="pt") as file:
                total += sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    return total


@torch.no_grad()
def _compare(models: Mapping[str, Any], prompter: ChatTokenizer, sequences: Sequence[Tokens], size: int,
             pairs: Sequence[tuple[str, str]]) -> Iterator[tuple[int, dict[tuple[str, str], np.ndarray], float]]:
    """Compare the models pass by pass.

    Yields:
        The index of a sequence; for each pair a table [tokens, 3] of KL(reference ‖ candidate) in nats, same top token,
        and increase of the loss; and the share of the sequence's tokens in it.
    """
    # cells on the float16 base come first, so that few distributions are in memory at a time
    wanted = {CELLS[name] for pair in pairs for name in pair}
    names = [cell.name for cell in in_order_of_loading(wanted)]
    cells = {name: reader(models[CELLS[name].base], prompter, size).passes(sequences) for name in names}
    while True:
        known: dict[str, torch.Tensor] = {}
        found: dict[tuple[str, str], np.ndarray] = {}
        read = None
        for name in names:
            spec = CELLS[name]
            with with_adapter(models[spec.base], spec.adapter):
                read = next(cells[name], None)
            if read is None:
                return
            known[name] = torch.log_softmax(read.logits, dim=-1)
            for pair in pairs:
                if pair[1] == name:
                    found[pair] = _table(known[pair[0]], known[name], read.targets)
            if spec.base == "4-bit":
                del known[name]
        if read is None:
            return
        ends = np.cumsum(read.counts)[:-1]
        divided = {pair: np.split(table, ends) for pair, table in found.items()}
        for place, index in enumerate(read.sequences):
            yield (index, {pair: tables[place] for pair, tables in divided.items()},
                   read.counts[place] / len(sequences[index][1]))


def _line(item: Mapping[str, Any], tables: Mapping[tuple[str, str], np.ndarray]) -> dict[str, Any]:
    return {
        "item": item["item"], "tokens": item["tokens"], "pairs": {
            _name(pair): {
                "kl_mean": float(table[:, 0].mean()), "kl_max": float(table[:, 0].max()),
                "top1_agreement": float(table[:, 1].mean()), "delta_nll": float(table[:, 2].sum()),
            }
            for pair, table in tables.items()
        },
    }


def _table(reference: torch.Tensor, candidate: torch.Tensor, targets: torch.Tensor) -> np.ndarray:
    divergence = (reference.exp() * (reference - candidate)).sum(dim=-1).clamp(min=0)
    same = reference.argmax(dim=-1) == candidate.argmax(dim=-1)
    at = targets.unsqueeze(1)
    rise = (reference.gather(1, at).double() - candidate.gather(1, at).double()).squeeze(1)
    return torch.stack([divergence.double(), same.double(), rise], dim=1).cpu().numpy()


class ReferenceDistributions:
    """Next-token distributions of one model on reference answers, with which other models are compared.

    They are kept in main memory, so that the models need not be loaded at once.

    Args:
        model: The reference.
        prompter: Tokenizer of the base.
        items: Items with ``prompt`` and ``target``. They are reduced, from the end, until the distributions take at
            most 512 MB, but not to none.
        size: Maximum batch size.
    """

    def __init__(self, model: Any, prompter: ChatTokenizer, items: Sequence[Mapping[str, Any]], size: int) -> None:
        self._prompter, self._size = prompter, size
        sequences = [prompter.split_ids(item["prompt"], item["target"]) for item in items]
        values = np.cumsum([len(target) for _, target in sequences]) * len(prompter.tokenizer)
        self._sequences = sequences[: max(1, int(np.searchsorted(values, _KEPT_BYTES / 4, side="right")))]
        parts: list[list[torch.Tensor]] = [[] for _ in self._sequences]
        for index, found in self._distributions(model):
            parts[index].append(found)
        self._known = [each[0] if len(each) == 1 else torch.cat(each) for each in parts]

    @property
    def items(self) -> int:
        """The number of items that are compared."""
        return len(self._sequences)

    def mean_kl(self, model: Any) -> float:
        """Mean KL(reference ‖ model) over the tokens of the reference answers, in nats per token."""
        found, places = 0.0, [0] * self.items
        for index, distributions in self._distributions(model):
            start, end = places[index], places[index] + len(distributions)
            reference, places[index] = self._known[index][start:end], end
            found += float((reference.exp() * (reference - distributions)).sum(dim=-1).clamp(min=0).double().sum())
        return found / sum(places)

    @torch.no_grad()
    def _distributions(self, model: Any) -> Iterator[tuple[int, torch.Tensor]]:
        """Index of a sequence and log-probabilities [tokens, vocabulary] of its next tokens, in their order."""
        for read in reader(model, self._prompter, self._size).passes(self._sequences):
            for index, logits in zip(read.sequences, read.logits.split(read.counts), strict=True):
                yield index, torch.log_softmax(logits, dim=-1).cpu()


def _name(pair: tuple[str, str]) -> str:
    return f"{pair[1]}-{pair[0]}"


def _summary(pair: tuple[str, str], table: np.ndarray) -> dict[str, Any]:
    divergence = table[:, 0]
    return {"name": _name(pair), "reference": pair[0], "candidate": pair[1], "tokens": len(table),
            "kl_mean": float(divergence.mean()), "kl_median": float(np.median(divergence)),
            "kl_p99": float(np.quantile(divergence, 0.99)), "kl_max": float(divergence.max()),
            "top1_agreement": float(table[:, 1].mean()), "delta_nll": float(table[:, 2].mean())}
