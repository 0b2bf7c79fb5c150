"""Train, validation and held-out: seeded, by units that never straddle, checked for leaks, frozen by hash.

A unit is drawn by the hash of the seed and its own text, not by its place in the file: the split is the same on every
machine and after the rows are reordered, and rows that are added later move few of the others.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from assistant_builder.atomic_io import file_hash, read_json, read_jsonl, write_jsonl
from assistant_builder.config import DataConfig
from assistant_builder.data.grouping import gives_split, shortage, unit_of, units
from assistant_builder.data.leaks import Leak, find_leaks
from assistant_builder.data.records import SPLITS, Pair, SplitName
from assistant_builder.errors import DataError


@dataclass(frozen=True)
class Split:
    """Three sets of pairs without a unit in common, and how they came to be.

    Attributes:
        train: Pairs to train on, in file order.
        validation: Pairs that choose the checkpoint.
        heldout: Pairs of the test.
        leaks: Held-out questions found outside, removed or not.
        given: Whether the file gave the split.
        cut: The splits that were cut from training because the file did not give them; all but train where it
            gave none.
        config: The settings it was made with.
        sampled_out: Split → pairs left out to keep to ``max_train`` or ``max_heldout``.
        notes: How it was made, in words.
    """

    train: tuple[Pair, ...]
    validation: tuple[Pair, ...]
    heldout: tuple[Pair, ...]
    leaks: tuple[Leak, ...]
    given: bool
    cut: tuple[SplitName, ...]
    config: DataConfig
    sampled_out: dict[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def pairs(self, split: SplitName) -> tuple[Pair, ...]:
        """The pairs of one split."""
        return {"train": self.train, "validation": self.validation, "heldout": self.heldout}[split]

    @property
    def leaks_removed(self) -> int:
        """Held-out pairs taken out since their question stands in training or validation."""
        return sum(leak.removed for leak in self.leaks)

    def hashes(self) -> dict[str, str]:
        """SHA-256 of the bytes of each split file."""
        return {split: hashlib.sha256(_lines(self.pairs(split))).hexdigest() for split in SPLITS}

    def write(self, folder: Path) -> dict[str, str]:
        """Write ``train.jsonl``, ``validation.jsonl`` and ``heldout.jsonl``, each whole or not at all.

        Returns:
            SHA-256 of each file.
        """
        for split in SPLITS:
            write_jsonl(folder / f"{split}.jsonl", (pair.to_record() for pair in self.pairs(split)))
        return {split: file_hash(folder / f"{split}.jsonl") for split in SPLITS}

    def to_record(self) -> dict[str, Any]:
        """What ``split.json`` holds; the hashes freeze the split."""
        grouped = [pair for pair in (*self.train, *self.validation, *self.heldout) if pair.group is not None]
        return {
            "given": self.given,
            "cut": list(self.cut),
            "seed": self.config.seed,
            "heldout_fraction": self.config.heldout_fraction,
            "validation_fraction": self.config.validation_fraction,
            "near_duplicate_threshold": self.config.near_duplicate_threshold,
            "remove_leaks": self.config.remove_leaks,
            "counts": {split: len(self.pairs(split)) for split in SPLITS},
            "turns": {split: sum(pair.turns for pair in self.pairs(split)) for split in SPLITS},
            "sampled_out": self.sampled_out,
            "hashes": self.hashes(),
            "leaks_removed": self.leaks_removed,
            "leaks": [leak.to_record() for leak in self.leaks],
            "units": {
                "kind": "group" if grouped else "question",
                "counts": {split: len(units(self.pairs(split))) for split in SPLITS},
                "ungrouped_rows": sum(map(len, map(self.pairs, SPLITS))) - len(grouped),
                "straddling": sorted(_straddling(self)),
            },
            "clusters": {
                split: len({pair.cluster for pair in self.pairs(split) if pair.cluster is not None}) for split in SPLITS
            },
            "notes": list(self.notes),
        }


def split_pairs(pairs: Sequence[Pair], config: DataConfig) -> Split:
    """Split checked pairs into train, validation and held-out.

    Steps: take the split as given, or draw the held-out units and then the validation units from the rest; remove
    held-out pairs whose question stands outside (``config.remove_leaks``); then keep to ``max_train`` and
    ``max_heldout``. Leaks are judged before sampling, so that the held-out set does not change with ``max_train``.

    Args:
        pairs: ``Findings.usable``.
        config: Fractions, limits, threshold and seed.

    Raises:
        DataError: There are too few units for three splits, or no held-out pair is left once leaks are removed.
    """
    short = shortage(pairs)
    if short:
        raise DataError(short[0], remedy=short[1])
    given = gives_split(pairs)
    if given and any(pair.split is None for pair in pairs):
        raise DataError("some pairs have a split and some have none", remedy="Check the pairs first (check_pairs)")
    sets, cut, notes = _given(pairs, config) if given else _drawn(pairs, config)
    leaks = _judged(sets, config, removing=_removes(config, given and "heldout" not in cut), notes=notes)
    removed = {leak.heldout_row for leak in leaks if leak.removed}
    sets["heldout"] = [pair for pair in sets["heldout"] if pair.row not in removed]
    sampled_out = _sample(sets, config, validation_cut="validation" in cut, notes=notes)
    return Split(
        train=tuple(sets["train"]), validation=tuple(sets["validation"]), heldout=tuple(sets["heldout"]),
        leaks=tuple(leaks), given=given, cut=cut, config=config, sampled_out=sampled_out, notes=tuple(notes),
    )


def load_split(folder: Path, split: SplitName) -> tuple[Pair, ...]:
    """Read one split file of a study, and no other, refusing one that was changed since it was frozen.

    Args:
        folder: The study's ``data`` folder.
        split: Which.

    Raises:
        DataError: The file's hash is not that of ``split.json``.
    """
    path = folder / f"{split}.jsonl"
    frozen = read_json(folder / "split.json")["hashes"][split]
    if not path.is_file() or file_hash(path) != frozen:
        raise DataError(
            "the split was changed after it was frozen" if path.is_file() else "the split file is missing",
            where=str(path), remedy="Restore it, or make the study's data anew with --redo",
        )
    return tuple(Pair.from_record(record, split) for record in read_jsonl(path))


def _lines(pairs: Sequence[Pair]) -> bytes:
    text = "".join(json.dumps(pair.to_record(), ensure_ascii=False, allow_nan=False) + "\n" for pair in pairs)
    return text.encode("utf-8", errors="backslashreplace")


def _straddling(split: Split) -> set[str]:
    """Groups of which rows stand in more than one split, which only a given split can bring about."""
    seen: dict[str, set[str]] = {}
    for name in SPLITS:
        for pair in split.pairs(name):
            if pair.group is not None:
                seen.setdefault(pair.group, set()).add(name)
    return {group for group, names in seen.items() if len(names) > 1}


def _removes(config: DataConfig, given_heldout: bool) -> bool:
    return config.remove_leaks == "always" or (config.remove_leaks == "auto" and not given_heldout)


def _given(
    pairs: Sequence[Pair], config: DataConfig
) -> tuple[dict[SplitName, list[Pair]], tuple[SplitName, ...], list[str]]:
    sets = {split: [pair for pair in pairs if pair.split == split] for split in SPLITS}
    notes = ["the split is that of the file"]
    cut: list[SplitName] = []
    fractions: tuple[tuple[SplitName, float], ...] = (
        ("heldout", config.heldout_fraction), ("validation", config.validation_fraction),
    )
    elsewhere = {unit_of(pair) for pair in pairs if pair.split != "train"}
    for name, fraction in fractions:
        if sets[name]:
            continue
        free = [pair for pair in sets["train"] if unit_of(pair) not in elsewhere]
        spare = sum(not sets[other] for other, _ in fractions if other != name)
        kept = 0 if len(free) < len(sets["train"]) else 1
        chosen, _ = _draw(free, fraction, config.seed, name, leave=spare + kept)
        rows = {pair.row for pair in chosen}
        sets[name], sets["train"] = chosen, [pair for pair in sets["train"] if pair.row not in rows]
        cut.append(name)
        notes.append(f"the file gives no {name} rows; {len(chosen)} were cut from its training rows")
    return sets, tuple(cut), notes


def _drawn(
    pairs: Sequence[Pair], config: DataConfig
) -> tuple[dict[SplitName, list[Pair]], tuple[SplitName, ...], list[str]]:
    heldout, rest = _draw(pairs, config.heldout_fraction, config.seed, "heldout", leave=2)
    validation, train = _draw(rest, config.validation_fraction, config.seed, "validation", leave=1)
    kind = "group" if any(pair.group is not None for pair in pairs) else "question"
    notes = [f"split by {kind}, drawn with seed {config.seed}"]
    return {"train": train, "validation": validation, "heldout": heldout}, ("validation", "heldout"), notes


def _order(names: Sequence[str], seed: int, purpose: str) -> list[str]:
    """Names in the order of the hashes of seed, purpose and name."""

    def key(name: str) -> bytes:
        return hashlib.sha256(f"{seed}\0{purpose}\0{name}".encode(errors="surrogatepass")).digest()

    return sorted(names, key=lambda name: (key(name), name))


def _draw(
    pairs: Sequence[Pair], fraction: float, seed: int, purpose: str, *, leave: int
) -> tuple[list[Pair], list[Pair]]:
    """Draw whole units until as near to the fraction as they come, leaving at least ``leave`` units.

    Returns:
        The drawn pairs and the rest, both in file order; at least one unit is drawn.
    """
    by_unit = units(pairs)
    least = 2 if purpose == "heldout" and len(by_unit) > leave + 1 else 1  # one item alone has no interval
    target = max(least, round(fraction * len(pairs)))
    drawn: set[str] = set()
    count = 0
    for unit in _order(list(by_unit), seed, purpose):
        if len(by_unit) - len(drawn) <= leave:
            break
        if abs(count + len(by_unit[unit]) - target) < abs(count - target):
            drawn.add(unit)
            count += len(by_unit[unit])
    if not drawn:  # every unit is more than twice the target
        drawn.add(min(_order(list(by_unit), seed, purpose), key=lambda unit: len(by_unit[unit])))
    chosen = [pair for pair in pairs if unit_of(pair) in drawn]
    return chosen, [pair for pair in pairs if unit_of(pair) not in drawn]


def _judged(
    sets: dict[SplitName, list[Pair]], config: DataConfig, *, removing: bool, notes: list[str]
) -> list[Leak]:
    leaks = find_leaks(sets["heldout"], sets["train"], sets["validation"], config.near_duplicate_threshold)
    if not leaks:
        return leaks
    if removing and len(leaks) == len(sets["heldout"]):
        first = leaks[0]
        raise DataError(
            f"all {len(leaks)} held-out questions also stand in training or validation (row {first.heldout_row} is "
            f"like row {first.other_row})",
            remedy="Group the rows that belong together (--set data.columns.group=NAME), raise "
            "data.near_duplicate_threshold, or keep them with data.remove_leaks=never",
        )
    done = "removed" if removing else "kept"
    why = "" if removing else (
        ", as data.remove_leaks=never says" if config.remove_leaks == "never" else ", since the file gives the split"
    )
    notes.append(f"{len(leaks)} held-out questions also stand in training or validation; they were {done}{why}")
    return [replace(leak, removed=removing) for leak in leaks]


def _sample(
    sets: dict[SplitName, list[Pair]], config: DataConfig, *, validation_cut: bool, notes: list[str]
) -> dict[str, int]:
    """Keep to the limits, by whole units where they fit; validation keeps its share of a limited training set."""
    share = config.validation_fraction / (1 - config.validation_fraction)
    limits: dict[SplitName, int | None] = {
        "train": config.max_train,
        "validation": max(1, round(config.max_train * share)) if config.max_train and validation_cut else None,
        "heldout": config.max_heldout,
    }
    left_out: dict[str, int] = {}
    for split, limit in limits.items():
        if limit is not None and len(sets[split]) > limit:
            before = len(sets[split])
            sets[split] = _limited(sets[split], limit, config.seed, split)
            left_out[split] = before - len(sets[split])
            notes.append(f"{len(sets[split])} of {before} {split} pairs are used")
    return left_out


def _limited(pairs: Sequence[Pair], limit: int, seed: int, split: str) -> list[Pair]:
    by_unit = units(pairs)
    kept: list[Pair] = []
    for unit in _order(list(by_unit), seed, f"sample {split}"):
        if len(kept) + len(by_unit[unit]) <= limit:
            kept += by_unit[unit]
    if not kept:  # every unit is larger than the limit
        kept = by_unit[_order(list(by_unit), seed, f"sample {split}")[0]][:limit]
    rows = {pair.row for pair in kept}
    return [pair for pair in pairs if pair.row in rows]
