"""Train, validation and held-out splits: drawn with a seed by units, checked for leaks, and frozen by their hashes.

A unit (a group, or one question) is drawn by the hash of the seed and its text, not by its position in the file. The
split therefore does not depend on machine and row order, and added rows change few of the others.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from assistant_builder.atomic_io import file_hash, read_json, read_jsonl, write_bytes
from assistant_builder.config import DataConfig
from assistant_builder.data.similarity import NearDuplicateIndex, casefold_normalize
from assistant_builder.data.types import SPLITS, Pair, SplitName, group_by
from assistant_builder.errors import DataError
from assistant_builder.i18n import t, tn

LeakKind = Literal["exact", "near", "embedding"]
_Sets = dict[SplitName, list[Pair]]
_EMBEDDING_BLOCK = 1024


# Units


def unit_of(pair: Pair) -> str:
    """The unit that is never divided between splits: the group, or all rows with the same question."""
    if pair.group is not None:
        return f"group {pair.group}"
    return f"question {casefold_normalize(pair.compared_question)}"


def fact_of(pair: Pair) -> str | None:
    """The fact that a pair is a wording of: its cluster, else its answer; None for declines and conversations."""
    if not pair.answerable or pair.turns != 1:
        return None
    return f"cluster {pair.cluster}" if pair.cluster is not None else f"answer {casefold_normalize(pair.answer)}"


def has_given_split(pairs: Iterable[Pair]) -> bool:
    """Whether the file specifies the split of any row."""
    return any(pair.split is not None for pair in pairs)


def straddling_groups(sides: Iterable[tuple[Pair, object]]) -> list[str]:
    """Groups whose pairs are on several sides, in order of appearance; only a given split can have any."""
    seen: dict[str | None, set[object]] = {}
    for pair, side in sides:
        seen.setdefault(pair.group, set()).add(side)
    return [group for group, found in seen.items() if group is not None and len(found) > 1]


def too_few_units(pairs: Sequence[Pair]) -> tuple[str, str] | None:
    """The problem and its remedy if train, validation and held-out cannot have one unit each, else None."""
    if not pairs:
        return t("no usable pair is left"), t("Check the reasons of the rejected rows, and correct or add rows")
    if has_given_split(pairs):
        return _too_few_given_units(pairs)
    count, grouped = len(group_by(pairs, unit_of)), any(pair.group is not None for pair in pairs)
    if count >= len(SPLITS):
        return None
    if len(pairs) < len(SPLITS):
        return (tn("only {count} usable pair: training, validation and test each need one",
                   "only {count} usable pairs: training, validation and test each need one", len(pairs)),
                t("Add rows: 3 are the minimum, and a conclusive result needs several hundred"))
    few = (tn("the {pairs} usable pairs form only {count} group, and a split needs at least 3",
              "the {pairs} usable pairs form only {count} groups, and a split needs at least 3", count,
              pairs=len(pairs))
           if grouped else
           tn("the {pairs} usable pairs form only {count} question, and a split needs at least 3",
              "the {pairs} usable pairs form only {count} questions, and a split needs at least 3", count,
              pairs=len(pairs)))
    return (
        few,
        t("Map another column as the group (--set data.columns.group=NAME) or none (--set data.columns.group='')")
        if grouped
        else t("Add rows with other questions"),
    )


def _too_few_given_units(pairs: Sequence[Pair]) -> tuple[str, str] | None:
    train = [pair for pair in pairs if pair.split == "train"]
    if not train:
        return t("the given split has no training rows"), t("Mark rows with the split 'train', or remove the split "
                                                            "column")
    absent = [split for split in SPLITS if not any(pair.split == split for pair in pairs)]
    units = group_by(train, unit_of).keys()
    free = units - {unit_of(pair) for pair in pairs if pair.split != "train"}
    if len(free) >= len(absent) and len(units) > len(absent):
        return None
    names = t(" and ").join(absent)
    return (
        tn("the training rows form {count} unit ({free} in no other split), too few to draw {names} from them",
           "the training rows form {count} units ({free} in no other split), too few to draw {names} from them",
           len(units),
           free=len(free), names=names),
        t("Mark rows with the split {names}, or add training rows", names=names),
    )


# Leaks


@dataclass(frozen=True)
class Leak:
    """A held-out question that also occurs in training or validation."""

    heldout_row: int
    other_row: int  # the most similar pair of ``split``
    split: SplitName
    kind: LeakKind  # equal after normalization, word pairs or sentence embeddings
    similarity: float  # 1, Jaccard or cosine similarity, by kind
    heldout_question: str
    other_question: str
    removed: bool = False  # whether the held-out pair was removed

    @classmethod
    def between(cls, heldout: Pair, other: Pair, split: SplitName, kind: LeakKind, similarity: float) -> Leak:
        """The leak of a held-out pair to a pair of another split."""
        return cls(heldout.row, other.row, split, kind, round(similarity, 4), heldout.question, other.question)

    def to_record(self) -> dict[str, Any]:
        """An entry of ``split.json``."""
        return asdict(self)


def find_leaks(heldout: Sequence[Pair], train: Sequence[Pair], validation: Sequence[Pair],
               threshold: float) -> list[Leak]:
    """Find held-out questions in training and validation, exactly and by MinHash; at most one leak for each."""
    others: list[tuple[Pair, SplitName]] = [(pair, "train") for pair in train]
    others += [(pair, "validation") for pair in validation]
    first: dict[str, int] = {}
    for index, (pair, _) in enumerate(others):
        first.setdefault(casefold_normalize(pair.compared_question), index)
    pairs = [*(pair for pair, _ in others), *heldout]
    near = NearDuplicateIndex([pair.compared_question for pair in pairs], threshold)
    for index in sorted(first.values()):
        near.add(index)
    leaks = []
    for index, pair in enumerate(heldout, start=len(others)):
        exact = first.get(casefold_normalize(pair.compared_question))
        match = (exact, 1.0) if exact is not None else near.nearest(index)
        if match is not None:
            leaks.append(Leak.between(pair, *others[match[0]], "near" if exact is None else "exact", match[1]))
    return leaks


def find_embedding_leaks(heldout: Sequence[Pair], outside: Sequence[tuple[Pair, SplitName]],
                         heldout_vectors: NDArray[np.float32], outside_vectors: NDArray[np.float32],
                         threshold: float) -> list[Leak]:
    """Find held-out questions in training and validation by the cosine similarity of sentence embeddings.

    Args:
        heldout: Held-out pairs.
        outside: Training and validation pairs with their split.
        heldout_vectors: L2-normalized embeddings of the held-out ``compared_question``, float32 [len(heldout), d].
        outside_vectors: The same of ``outside``, float32 [len(outside), d].
        threshold: Minimum cosine similarity of a leak.

    Returns:
        The most similar pair for each held-out pair that leaks, in the order of ``heldout``.
    """
    leaks: list[Leak] = []
    if not outside:
        return leaks
    for start in range(0, len(heldout), _EMBEDDING_BLOCK):
        cosines = heldout_vectors[start : start + _EMBEDDING_BLOCK] @ outside_vectors.T
        for offset, nearest in enumerate(cosines.argmax(axis=1).tolist()):
            cosine = float(cosines[offset, nearest])
            if cosine >= threshold:
                other, split = outside[nearest]
                leaks.append(Leak.between(heldout[start + offset], other, split, "embedding", cosine))
    return leaks


# Splits


@dataclass(frozen=True)
class Split:
    """Three disjoint sets of pairs in file order."""

    train: tuple[Pair, ...]
    validation: tuple[Pair, ...]  # selects the checkpoint
    heldout: tuple[Pair, ...]
    leaks: tuple[Leak, ...]  # removed or not
    given: bool  # whether the file specifies the split
    cut: tuple[SplitName, ...]  # drawn, because the file does not specify them
    config: DataConfig
    sampled_out: dict[str, int] = field(default_factory=dict)  # pairs left out by max_train, max_heldout
    notes: tuple[str, ...] = ()  # how the split was made

    def pairs(self, split: SplitName) -> tuple[Pair, ...]:
        """The pairs of one split."""
        return {"train": self.train, "validation": self.validation, "heldout": self.heldout}[split]

    @property
    def leaks_removed(self) -> int:
        """Number of held-out pairs that were removed because of a leak."""
        return sum(leak.removed for leak in self.leaks)

    def hashes(self) -> dict[str, str]:
        """Split → SHA-256 of its file."""
        return {split: hashlib.sha256(_to_jsonl(self.pairs(split))).hexdigest() for split in SPLITS}

    def write(self, folder: Path) -> None:
        """Write ``train.jsonl``, ``validation.jsonl`` and ``heldout.jsonl``, each atomically."""
        for split in SPLITS:
            write_bytes(folder / f"{split}.jsonl", _to_jsonl(self.pairs(split)))

    def to_record(self) -> dict[str, Any]:
        """The content of ``split.json``; the hashes freeze the split."""
        placed = [(pair, split) for split in SPLITS for pair in self.pairs(split)]
        ungrouped = sum(pair.group is None for pair, _ in placed)
        return {
            "given": self.given, "cut": list(self.cut), "seed": self.config.seed,
            "heldout_fraction": self.config.heldout_fraction,
            "validation_fraction": self.config.validation_fraction,
            "near_duplicate_threshold": self.config.near_duplicate_threshold,
            "remove_leaks": self.config.remove_leaks,
            "counts": {split: len(self.pairs(split)) for split in SPLITS},
            "turns": {split: sum(pair.turns for pair in self.pairs(split)) for split in SPLITS},
            "sampled_out": self.sampled_out, "hashes": self.hashes(), "leaks_removed": self.leaks_removed,
            "leaks": [leak.to_record() for leak in self.leaks],
            "units": {"kind": "group" if ungrouped < len(placed) else "question",
                      "counts": {split: len(group_by(self.pairs(split), unit_of)) for split in SPLITS},
                      "ungrouped_rows": ungrouped, "straddling": sorted(straddling_groups(placed))},
            "clusters": {split: len({pair.cluster for pair in self.pairs(split) if pair.cluster is not None})
                         for split in SPLITS},
            "facts": self._fact_counts(), "notes": list(self.notes),
        }


    def _fact_counts(self) -> dict[str, int]:
        """Facts, those with one wording, test questions that have a fact, and those whose fact is in training."""
        facts = _facts([*self.train, *self.validation, *self.heldout])
        taught, test = _facts(self.train), _facts(self.heldout)
        return {"facts": len(facts), "single": sum(number == 1 for number in facts.values()), "test": test.total(),
                "known": sum(number for fact, number in test.items() if fact in taught)}


def _to_jsonl(pairs: Sequence[Pair]) -> bytes:
    text = "".join(json.dumps(pair.to_record(), ensure_ascii=False, allow_nan=False) + "\n" for pair in pairs)
    return text.encode("utf-8", errors="backslashreplace")


def load_split(folder: Path, split: SplitName) -> tuple[Pair, ...]:
    """Read a split file in the ``data`` folder of a study and verify its hash.

    Raises:
        DataError: The file is missing, or its hash differs from that in ``split.json``.
    """
    path = folder / f"{split}.jsonl"
    expected = read_json(folder / "split.json")["hashes"][split]
    if not path.is_file() or file_hash(path) != expected:
        raise DataError(t("the split was changed after it was frozen") if path.is_file() else
                        t("the split file is missing"),
                        where=str(path), remedy=t("Restore the file, or prepare the data again with --redo"))
    return tuple(Pair.from_record(record, split) for record in read_jsonl(path))


def split_pairs(pairs: Sequence[Pair], config: DataConfig) -> Split:
    """Split checked pairs into train, validation and held-out.

    The given split is used, or held-out and then validation units are drawn. Leaks are removed
    (``config.remove_leaks``) before ``max_train`` and ``max_heldout`` apply, so that the held-out set does not depend
    on ``max_train``.

    Raises:
        DataError: There are too few units for three splits, or every held-out pair leaks.
    """
    if problem := too_few_units(pairs):
        raise DataError(problem[0], remedy=problem[1])
    given = has_given_split(pairs)
    if given and any(pair.split is None for pair in pairs):
        raise DataError(t("some pairs have a split and some have none"),
                        remedy=t("Check the pairs first (check_pairs)"))
    sets, cut, notes = _complete_given_split(pairs, config) if given else _draw_split(pairs, config)
    keep_leaks = config.remove_leaks == "never" or (config.remove_leaks == "auto" and given and "heldout" not in cut)
    leaks = _find_and_remove_leaks(sets, config, keep=keep_leaks, notes=notes)
    sampled_out = _apply_limits(sets, config, limit_validation="validation" in cut, notes=notes)
    return Split(train=tuple(sets["train"]), validation=tuple(sets["validation"]), heldout=tuple(sets["heldout"]),
                 leaks=tuple(leaks), given=given, cut=cut, config=config, sampled_out=sampled_out, notes=tuple(notes))


def _complete_given_split(pairs: Sequence[Pair], config: DataConfig) -> tuple[_Sets, tuple[SplitName, ...], list[str]]:
    sets: _Sets = {split: [pair for pair in pairs if pair.split == split] for split in SPLITS}
    notes = [t("the split is given by the file")]
    cut: list[SplitName] = []
    fractions: dict[SplitName, float] = {"heldout": config.heldout_fraction, "validation": config.validation_fraction}
    elsewhere = {unit_of(pair) for pair in pairs if pair.split != "train"}
    for name, fraction in fractions.items():
        if sets[name]:
            continue
        free = [pair for pair in sets["train"] if unit_of(pair) not in elsewhere]
        still_empty = sum(not sets[other] for other in fractions if other != name)
        train_keeps = 0 if len(free) < len(sets["train"]) else 1
        drawn, _ = _draw(free, fraction, config.seed, name, leave=still_empty + train_keeps,
                         elsewhere=_facts(pair for pair in pairs if pair.split != "train"))
        rows = {pair.row for pair in drawn}
        sets[name], sets["train"] = drawn, [pair for pair in sets["train"] if pair.row not in rows]
        cut.append(name)
        notes.append(tn("the file has no {name} rows, so {name} takes {count} row from training",
                        "the file has no {name} rows, so {name} takes {count} rows from training", len(drawn),
                        name=name))
    return sets, tuple(cut), notes


def _draw_split(pairs: Sequence[Pair], config: DataConfig) -> tuple[_Sets, tuple[SplitName, ...], list[str]]:
    heldout, rest = _draw(pairs, config.heldout_fraction, config.seed, "heldout", leave=2)
    validation, train = _draw(rest, config.validation_fraction, config.seed, "validation", leave=1,
                              elsewhere=_facts(heldout))
    grouped = any(pair.group is not None for pair in pairs)
    notes = [t("split by group, drawn with seed {seed}", seed=config.seed) if grouped else
             t("split by question, drawn with seed {seed}", seed=config.seed)]
    return {"train": train, "validation": validation, "heldout": heldout}, ("validation", "heldout"), notes


def _hash_order(units: Iterable[str], seed: int, purpose: str) -> list[str]:
    """Units in the order of the hashes of seed, purpose and unit."""

    def key(unit: str) -> tuple[bytes, str]:
        return hashlib.sha256(f"{seed}\0{purpose}\0{unit}".encode(errors="surrogatepass")).digest(), unit

    return sorted(units, key=key)


def _draw(pairs: Sequence[Pair], fraction: float, seed: int, purpose: str, *, leave: int,
          elsewhere: Collection[str] = ()) -> tuple[list[Pair], list[Pair]]:
    """Draw complete units until their size is as close to the fraction as possible, leaving at least ``leave`` units.

    Units whose facts keep another wording in the rest are drawn first, so that a test asks for answers that training
    has; ``elsewhere`` are the facts of another set that was drawn. Returns the drawn pairs (at least one unit) and the
    rest, both in file order.
    """
    units = group_by(pairs, unit_of)
    order = _reworded_first(units, _hash_order(units, seed, purpose), elsewhere)
    # a single held-out item has no confidence interval
    minimum = 2 if purpose == "heldout" and len(units) > leave + 1 else 1
    target = max(minimum, round(fraction * len(pairs)))
    drawn: set[str] = set()
    count = 0
    for unit in order:
        if len(units) - len(drawn) <= leave:
            break
        if abs(count + len(units[unit]) - target) < abs(count - target):
            drawn.add(unit)
            count += len(units[unit])
    if not drawn:  # every unit is larger than twice the target
        drawn.add(min(order, key=lambda unit: len(units[unit])))
    chosen = [pair for pair in pairs if unit_of(pair) in drawn]
    return chosen, [pair for pair in pairs if unit_of(pair) not in drawn]


def _reworded_first(units: dict[str, list[Pair]], order: list[str], elsewhere: Collection[str]) -> list[str]:
    """``order`` with the units first whose facts keep another wording, and those last that are the only wording left.

    ``elsewhere`` are facts that are drawn already. Units without facts keep their places.
    """
    total = Counter(fact for pairs in units.values() for fact in _facts(pairs))
    left = total.copy()
    ranks: tuple[list[str], list[str], list[str]] = ([], [], [])
    for unit in order:
        facts = _facts(units[unit])
        if facts and all(left[fact] > number for fact, number in facts.items()):
            left.subtract(facts)
            ranks[0].append(unit)
        elif facts:
            needed = any(fact in elsewhere or total[fact] > number for fact, number in facts.items())
            ranks[2 if needed else 1].append(unit)
    moved = iter([unit for rank in ranks for unit in rank])
    return [next(moved) if _facts(units[unit]) else unit for unit in order]


def _facts(pairs: Iterable[Pair]) -> Counter[str]:
    return Counter(fact for pair in pairs if (fact := fact_of(pair)) is not None)


def _find_and_remove_leaks(sets: _Sets, config: DataConfig, *, keep: bool, notes: list[str]) -> list[Leak]:
    leaks = find_leaks(sets["heldout"], sets["train"], sets["validation"], config.near_duplicate_threshold)
    if not leaks:
        return leaks
    summary = tn("{count} test question found in training or validation",
                 "{count} test questions found in training or validation", len(leaks))
    if keep:
        reason = (
            t("as specified by data.remove_leaks=never")
            if config.remove_leaks == "never"
            else t("because the file specifies the split")
        )
        notes.append(t("{summary}: kept, {reason}", summary=summary, reason=reason))
        return leaks
    if len(leaks) == len(sets["heldout"]):
        raise DataError(
            t("every held-out question also occurs in training or validation (row {heldout_row} is similar to row "
              "{other_row})", heldout_row=leaks[0].heldout_row, other_row=leaks[0].other_row),
            remedy=t("Group related rows (--set data.columns.group=NAME), raise data.near_duplicate_threshold, or "
                     "keep them with data.remove_leaks=never"),
        )
    notes.append(t("{summary}: removed", summary=summary))
    removed = {leak.heldout_row for leak in leaks}
    sets["heldout"] = [pair for pair in sets["heldout"] if pair.row not in removed]
    return [replace(leak, removed=True) for leak in leaks]


def _apply_limits(sets: _Sets, config: DataConfig, *, limit_validation: bool, notes: list[str]) -> dict[str, int]:
    """Sample complete units where they fit; validation keeps its share of a limited training set."""
    share = config.validation_fraction / (1 - config.validation_fraction)
    limits: dict[SplitName, int | None] = {
        "train": config.max_train,
        "validation": max(1, round(config.max_train * share)) if config.max_train and limit_validation else None,
        "heldout": config.max_heldout,
    }
    sampled_out: dict[str, int] = {}
    for split, limit in limits.items():
        before = len(sets[split])
        if limit is not None and before > limit:
            sets[split] = _sample_units(sets[split], limit, config.seed, split)
            sampled_out[split] = before - len(sets[split])
            notes.append(t("{sets} of {before} {split} pairs are used", sets=len(sets[split]), before=before,
                           split=split))
    return sampled_out


def _sample_units(pairs: Sequence[Pair], limit: int, seed: int, split: str) -> list[Pair]:
    units = group_by(pairs, unit_of)
    order = _hash_order(units, seed, f"sample {split}")
    kept: list[Pair] = []
    for unit in order:
        if len(kept) + len(units[unit]) <= limit:
            kept += units[unit]
    if not kept:  # every unit is larger than the limit
        kept = units[order[0]][:limit]
    rows = {pair.row for pair in kept}
    return [pair for pair in pairs if pair.row in rows]
