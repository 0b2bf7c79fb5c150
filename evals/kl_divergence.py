"""Fidelity: KL divergence of one model's next-token distributions from those of its 16-bit counterpart.

Cells are compared over the full vocabulary while they are scored. GGUF files are compared one after the other with
stored distributions of few items. The module imports torch, so only worker processes import it.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import accumulate
from typing import Any, BinaryIO, Self

import numpy as np
import torch

from assistant_builder.atomic_io import write_json, write_jsonl
from assistant_builder.inference.batch_scorer import ScoredChunk
from assistant_builder.models import loading
from assistant_builder.models.chat_template import ChatTokenizer
from assistant_builder.study import Study
from evals.cells import fidelity_pairs
from evals.lm_eval_model import Observer, PromptAndTarget, reader
from evals.work_items import evenly_spaced

_STORED_BYTES = 8_000_000_000
"""Most disk space for the logits of the references; at most a quarter of what is free is used."""
_KEPT_BYTES = 512_000_000
"""Most memory for the distributions of :class:`ReferenceDistributions`."""


class FidelityRecorder:
    """Compares the next-token distributions of the cells while they are scored, one model in memory at a time.

    The logits of the cell of a pair that is scored first are kept in unnamed files in the folder of the scores until
    the context ends.

    Args:
        study: Its cells are compared, see :data:`evals.cells.FIDELITY_PAIRS`.
        prompter: Tokenizer of the base.
        items: Items with ``item``, ``prompt``, ``target`` and ``tokens``. If the disk lacks space for all, evenly
            spaced ones are compared.
        compute_dtype: That of the cells.
        order: The names of the cells in the order in which they are scored.
    """

    def __init__(
        self,
        study: Study,
        prompter: ChatTokenizer,
        items: Sequence[Mapping[str, Any]],
        compute_dtype: str,
        order: Sequence[str],
    ) -> None:
        self._evals, self._compute_dtype = study.evals_folder, compute_dtype
        self._dtype, self._vocabulary = loading.DTYPES[compute_dtype], 0
        self._pairs = fidelity_pairs(study.config.eval.cells)
        self.cells = {name for pair in self._pairs for name in pair}
        self._files: dict[str, BinaryIO] = {}
        self._skipped, self._seconds = "", 0.0
        targets = {key: len(prompter.split_ids(*key)[1]) for key in map(_key, items)}
        self._first = {pair: min(pair, key=order.index) for pair in self._pairs}
        stored = len(set(self._first.values()))
        row_bytes = len(prompter.tokenizer) * self._dtype.itemsize * stored
        needed = sum(targets.values()) * row_bytes
        limit = min(_STORED_BYTES, shutil.disk_usage(self._evals).free // 4)
        count = min(len(items), len(items) * limit // max(needed, 1))
        if not count:
            self._skipped = f"the logits of one answer take {needed / max(len(items), 1) / 1e9:.1f} GB of disk space"
        self._items = evenly_spaced(items, count)
        self._keys = list(map(_key, self._items))
        keys = list(dict.fromkeys(self._keys))
        rows = accumulate((targets[key] for key in keys), initial=0)
        self._start = dict(zip(keys, rows, strict=False))
        self._tables: dict[tuple[str, str], dict[PromptAndTarget, list[np.ndarray]]] = {
            pair: {} for pair in self._pairs
        }

    def __enter__(self) -> Self:
        """The recorder, which closes its files at the end of the context."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the files."""
        for file in self._files.values():
            file.close()

    def observer(self, cell: str) -> Observer | None:
        """The callback for the passes of a cell; None if it is in no pair."""
        if cell not in self.cells or self._skipped:
            return None
        return partial(self._observe, cell, {})

    @torch.no_grad()
    def _observe(
        self,
        cell: str,
        seen: dict[PromptAndTarget, int],
        asked: Sequence[PromptAndTarget],
        read: ScoredChunk,
        likely: torch.Tensor,
    ) -> None:
        """Keep or compare the rows of a pass; ``seen`` counts those of earlier passes by sequence."""
        began = time.monotonic()
        end = 0
        for index, count in zip(read.sequences, read.counts, strict=True):
            key, begin, end = asked[index], end, end + count
            if key not in self._start or not count or self._skipped:
                continue
            row, seen[key] = self._start[key] + seen.get(key, 0), seen.get(key, 0) + count
            try:
                if cell in self._first.values():
                    self._store(cell, row, read.logits[begin:end])
            except OSError as error:
                self._skipped = f"the logits could not be stored: {error.strerror}"
            for pair, first in self._first.items():
                if cell in pair and cell != first:
                    stored = torch.log_softmax(self._stored(first, row, count).to(likely), dim=-1)
                    both = {first: stored, cell: likely[begin:end]}
                    rows = _table(both[pair[0]], both[pair[1]], read.targets[begin:end])
                    self._tables[pair].setdefault(key, []).append(rows)
        self._seconds += time.monotonic() - began

    def _store(self, cell: str, row: int, logits: torch.Tensor) -> None:
        self._vocabulary = logits.shape[1]
        if cell not in self._files:
            self._files[cell] = tempfile.TemporaryFile(dir=self._evals)
        file = self._files[cell]
        file.seek(row * self._vocabulary * self._dtype.itemsize)
        file.write(logits.to("cpu", self._dtype).contiguous().view(torch.uint8).numpy().tobytes())

    def _stored(self, cell: str, row: int, count: int) -> torch.Tensor:
        file, size = self._files[cell], self._vocabulary * self._dtype.itemsize
        file.seek(row * size)
        return torch.frombuffer(bytearray(file.read(count * size)), dtype=self._dtype).view(
            count, self._vocabulary
        )

    def write(self, inputs: Mapping[str, Any]) -> None:
        """Write ``fidelity.jsonl`` and ``fidelity.json``, whose record has ``inputs``."""
        record: dict[str, Any] = {"pairs": [], "skipped": self._skipped}
        if not self._skipped:
            tables = {
                pair: [np.concatenate(parts[key]) for key in self._keys]
                for pair, parts in self._tables.items()
            }
            lines = [
                {
                    "item": item["item"],
                    "tokens": item["tokens"],
                    "pairs": {
                        _name(pair): _of_item(table[place]) for pair, table in tables.items()
                    },
                }
                for place, item in enumerate(self._items)
            ]
            write_jsonl(self._evals / "fidelity.jsonl", lines)
            record = {
                "pairs": [_summary(pair, np.concatenate(table)) for pair, table in tables.items()],
                "skipped": None,
                "compute_dtype": self._compute_dtype,
                "seconds": self._seconds,
            }
        write_json(self._evals / "fidelity.json", {**record, "inputs": dict(inputs)})


def _key(item: Mapping[str, Any]) -> PromptAndTarget:
    return item["prompt"], item["target"]


def _of_item(table: np.ndarray) -> dict[str, float]:
    return {
        "kl_mean": float(table[:, 0].mean()),
        "kl_max": float(table[:, 0].max()),
        "top1_agreement": float(table[:, 1].mean()),
        "delta_nll": float(table[:, 2].sum()),
    }


def _table(reference: torch.Tensor, candidate: torch.Tensor, targets: torch.Tensor) -> np.ndarray:
    """KL(reference ‖ candidate) in nats, same top token, and increase of the loss, for each row of log-probabilities.

    Returns:
        float64 [rows, 3].
    """
    divergence = _divergence(reference, candidate)
    same = reference.argmax(dim=-1) == candidate.argmax(dim=-1)
    at = targets.unsqueeze(1)
    rise = (reference.gather(1, at).double() - candidate.gather(1, at).double()).squeeze(1)
    return torch.stack([divergence.double(), same.double(), rise], dim=1).cpu().numpy()


def _divergence(reference: torch.Tensor, candidate: torch.Tensor) -> torch.Tensor:
    return (reference.exp() * (reference - candidate)).sum(dim=-1).clamp(min=0)


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

    def __init__(
        self, model: Any, prompter: ChatTokenizer, items: Sequence[Mapping[str, Any]], size: int
    ) -> None:
        self._prompter, self._size = prompter, size
        sequences = [prompter.split_ids(item["prompt"], item["target"]) for item in items]
        values = np.cumsum([len(target) for _, target in sequences]) * len(prompter.tokenizer)
        self._sequences = sequences[
            : max(1, int(np.searchsorted(values, _KEPT_BYTES / 4, side="right")))
        ]
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
            found += float(_divergence(reference, distributions).double().sum())
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
    return {
        "name": _name(pair),
        "reference": pair[0],
        "candidate": pair[1],
        "tokens": len(table),
        "kl_mean": float(divergence.mean()),
        "kl_median": float(np.median(divergence)),
        "kl_p99": float(np.quantile(divergence, 0.99)),
        "kl_max": float(divergence.max()),
        "top1_agreement": float(table[:, 1].mean()),
        "delta_nll": float(table[:, 2].mean()),
    }
