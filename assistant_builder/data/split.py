"""Train, validation and held-out splits: drawn with a seed by units, checked for leaks, and frozen by their hashes.

Where most answers occur once, no fact is held out, see :mod:`assistant_builder.data.one_wording`.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from assistant_builder.atomic_io import file_hash, json_lines, read_json, read_jsonl, write_bytes
from assistant_builder.config import DataConfig
from assistant_builder.data.leaks import Leak, find_leaks
from assistant_builder.data.one_wording import add_respelled, draw_wordings, leave_few_wordings
from assistant_builder.data.types import SPLITS, Pair, SplitName, group_by
from assistant_builder.data.units import (
    answers_occur_once,
    count_facts,
    draw,
    has_given_split,
    sample_units,
    straddling_groups,
    too_few_units,
    unit_of,
)
from assistant_builder.errors import DataError
from assistant_builder.i18n import Text, m, mn, written
from assistant_builder.study.contents import PairLine
from assistant_builder.study.contents import Split as SplitFile

_Sets = dict[SplitName, list[Pair]]


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
    # pairs left out by max_train, max_heldout
    sampled_out: dict[str, int] = field(default_factory=dict)
    notes: tuple[Text, ...] = ()  # how the split was made

    def pairs(self, split: SplitName) -> tuple[Pair, ...]:
        """The pairs of one split."""
        pairs: tuple[Pair, ...] = getattr(self, split)
        return pairs

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
        everything = [(pair, split) for split in SPLITS for pair in self.pairs(split)]
        placed = [(pair, split) for pair, split in everything if pair.respelled is None]
        respelled = Counter(split for pair, split in everything if pair.respelled is not None)
        ungrouped = sum(pair.group is None for pair, _ in placed)
        notes = list(map(written, self.notes))
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
                "kind": "group" if ungrouped < len(placed) else "question",
                "counts": {split: len(group_by(self.pairs(split), unit_of)) for split in SPLITS},
                "ungrouped_rows": ungrouped,
                "straddling": sorted(straddling_groups(placed)),
            },
            "clusters": {
                split: len({pair.cluster for pair in self.pairs(split) if pair.cluster is not None})
                for split in SPLITS
            },
            "facts": self._fact_counts(),
            **({"respelled": dict(respelled)} if respelled else {}),
            "notes": [text for text, _ in notes],
            "said": [said for _, said in notes],
        }

    @property
    def copies(self) -> tuple[tuple[int, int], ...]:
        """Rows of the respelled pairs, and the rows of the file that they are copies of."""
        pairs = (*self.train, *self.validation, *self.heldout)
        return tuple((pair.row, pair.respelled) for pair in pairs if pair.respelled is not None)

    def _fact_counts(self) -> dict[str, int]:
        """Facts, those with one wording, test questions that have a fact, and those whose fact is in training."""
        facts = count_facts([*self.train, *self.validation, *self.heldout])
        taught, test = count_facts(self.train), count_facts(self.heldout)
        return {
            "facts": len(facts),
            "single": sum(number == 1 for number in facts.values()),
            "test": test.total(),
            "known": sum(number for fact, number in test.items() if fact in taught),
        }


def _to_jsonl(pairs: Sequence[Pair]) -> bytes:
    text = json_lines(pair.to_record() for pair in pairs)
    return text.encode("utf-8", errors="backslashreplace")


def load_split(folder: Path, split: SplitName) -> tuple[Pair, ...]:
    """Read a split file in the ``data`` folder of a study and verify its hash.

    Raises:
        DataError: The file is missing, or its hash differs from that in ``split.json``.
    """
    path = folder / f"{split}.jsonl"
    expected = read_json(folder / "split.json", SplitFile)["hashes"][split]
    if not path.is_file() or file_hash(path) != expected:
        raise DataError(
            m("the split was changed after it was frozen")
            if path.is_file()
            else m("the split file is missing"),
            where=str(path),
            remedy=m("Restore the file, or prepare the data again with --redo"),
        )
    return tuple(Pair.from_record(record, split) for record in read_jsonl(path, PairLine))


def split_pairs(pairs: Sequence[Pair], config: DataConfig, rows: int = 0) -> Split:
    """Split checked pairs into train, validation and held-out.

    The given split is used, or held-out and then validation units are drawn. Leaks are removed
    (``config.remove_leaks``) before ``max_train`` and ``max_heldout`` apply, so that the held-out set does not depend
    on ``max_train``. ``rows`` is the number of rows of the file, which respelled pairs follow.

    Raises:
        DataError: There are too few units for three splits, or every held-out pair leaks.
    """
    if problem := too_few_units(pairs):
        raise DataError(problem[0], remedy=problem[1])
    given = has_given_split(pairs)
    if given and any(pair.split is None for pair in pairs):
        raise DataError(
            m("some pairs have a split and some have none"),
            remedy=m("Check the pairs first (check_pairs)"),
        )
    once = answers_occur_once(pair for pair in pairs if pair.split in (None, "train"))
    sets, cut, notes = (_complete_given_split if given else _draw_split)(pairs, config, once=once)
    keep_leaks = config.remove_leaks == "never" or (
        config.remove_leaks == "auto" and given and "heldout" not in cut
    )
    leaks = _find_and_remove_leaks(sets, config, keep=keep_leaks, once=once, notes=notes)
    sampled_out = _apply_limits(sets, config, limit_validation="validation" in cut, notes=notes)
    if once and cut:
        last = max(rows, *(pair.row for pair in pairs))
        notes += _complete_single_wordings(sets, config, cut, last + 1)
    train, validation, heldout = (tuple(sets[split]) for split in SPLITS)
    found, said = tuple(leaks), tuple(notes)
    return Split(train, validation, heldout, found, given, cut, config, sampled_out, said)


def _complete_given_split(
    pairs: Sequence[Pair], config: DataConfig, *, once: bool
) -> tuple[_Sets, tuple[SplitName, ...], list[Text]]:
    sets: _Sets = {split: [pair for pair in pairs if pair.split == split] for split in SPLITS}
    notes: list[Text] = [m("the split is given by the file")]
    cut: list[SplitName] = []
    fractions: dict[SplitName, float] = {
        "heldout": config.heldout_fraction,
        "validation": config.validation_fraction,
    }
    elsewhere = {unit_of(pair) for pair in pairs if pair.split != "train"}
    for name, fraction in fractions.items():
        if sets[name]:
            continue
        cut.append(name)
        if once:  # what the file calls training is trained; respelled questions are added later
            continue
        free = [pair for pair in sets["train"] if unit_of(pair) not in elsewhere]
        still_empty = sum(not sets[other] for other in fractions if other != name)
        train_keeps = 0 if len(free) < len(sets["train"]) else 1
        leave = still_empty + train_keeps
        others = count_facts(pair for pair in pairs if pair.split != "train")
        drawn, _ = draw(free, fraction, config.seed, name, leave=leave, elsewhere=others)
        rows = {pair.row for pair in drawn}
        sets[name], sets["train"] = drawn, [pair for pair in sets["train"] if pair.row not in rows]
        note = mn(
            "the file has no {name} rows, so {name} takes {count} row from training",
            "the file has no {name} rows, so {name} takes {count} rows from training",
            len(drawn),
            name=name,
        )
        notes.append(note)
    return sets, tuple(cut), notes


def _draw_split(
    pairs: Sequence[Pair], config: DataConfig, *, once: bool
) -> tuple[_Sets, tuple[SplitName, ...], list[Text]]:
    if once:
        heldout, rest = draw_wordings(pairs, config, "heldout")
        validation, train = draw_wordings(rest, config, "validation")
    else:
        heldout, rest = draw(pairs, config.heldout_fraction, config.seed, "heldout", leave=2)
        share, facts = config.validation_fraction, count_facts(heldout)
        validation, train = draw(rest, share, config.seed, "validation", leave=1, elsewhere=facts)
    grouped = any(pair.group is not None for pair in pairs)
    notes: list[Text] = [
        m("split by group, drawn with seed {seed}", seed=config.seed)
        if grouped
        else m("split by question, drawn with seed {seed}", seed=config.seed)
    ]
    sets: _Sets = {"train": train, "validation": validation, "heldout": heldout}
    return sets, ("validation", "heldout"), notes


def _complete_single_wordings(
    sets: _Sets, config: DataConfig, cut: Sequence[SplitName], first_row: int
) -> list[Text]:
    """Add respelled questions where test or validation have no other wordings; returns notes."""
    if "heldout" in cut:
        leave_few_wordings(sets, config)
    names: list[SplitName] = ["heldout", "validation"] if "validation" in cut else ["heldout"]
    add_respelled(sets, config, names, first_row)
    asked, validated = (
        sum(pair.respelled is not None for pair in sets[name]) for name in ("heldout", "validation")
    )
    test = mn(
        "the test asks {count} question of the file, respelled",
        "the test asks {count} questions of the file, respelled",
        asked,
    )
    validation = mn(
        "validation asks {count} question of the file, respelled",
        "validation asks {count} questions of the file, respelled",
        validated,
    )
    return [
        m("most answers occur once, so each of them stays in training"),
        *([test] if asked else []),
        *([validation] if validated else []),
    ]


def _find_and_remove_leaks(
    sets: _Sets, config: DataConfig, *, keep: bool, once: bool, notes: list[Text]
) -> list[Leak]:
    leaks = find_leaks(
        sets["heldout"], sets["train"], sets["validation"], config.near_duplicate_threshold
    )
    if not leaks:
        return leaks
    summary = mn(
        "{count} test question found in training or validation",
        "{count} test questions found in training or validation",
        len(leaks),
    )
    if keep:
        reason = (
            m("as specified by {data.remove_leaks=never}")
            if config.remove_leaks == "never"
            else m("because the file specifies the split")
        )
        notes.append(m("{summary}: kept, {reason}", summary=summary, reason=reason))
        return leaks
    if len(leaks) == len(sets["heldout"]) and not once:  # else the test gets other questions
        raise DataError(
            m(
                "every held-out question also occurs in training or validation (row {heldout_row} is similar to row "
                "{other_row})",
                heldout_row=leaks[0].heldout_row,
                other_row=leaks[0].other_row,
            ),
            remedy=m(
                "Group related rows ({--set data.columns.group=NAME}), raise {data.near_duplicate_threshold}, or keep "
                "them with {data.remove_leaks=never}"
            ),
        )
    notes.append(m("{summary}: removed", summary=summary))
    removed = {leak.heldout_row for leak in leaks}
    sets["heldout"] = [pair for pair in sets["heldout"] if pair.row not in removed]
    return [replace(leak, removed=True) for leak in leaks]


def _apply_limits(
    sets: _Sets, config: DataConfig, *, limit_validation: bool, notes: list[Text]
) -> dict[str, int]:
    """Sample complete units where they fit; validation keeps its share of a limited training set."""
    share = config.validation_fraction / (1 - config.validation_fraction)
    limits: dict[SplitName, int | None] = {"train": config.max_train, "validation": None}
    if config.max_train and limit_validation:
        limits["validation"] = max(1, round(config.max_train * share))
    limits["heldout"] = config.max_heldout
    sampled_out: dict[str, int] = {}
    for split, limit in limits.items():
        before = len(sets[split])
        if limit is not None and before > limit:
            sets[split] = sample_units(sets[split], limit, config.seed, split)
            sampled_out[split] = before - len(sets[split])
            notes.append(
                m(
                    "{sets} of {before} {split} pairs are used",
                    sets=len(sets[split]),
                    before=before,
                    split=split,
                )
            )
    return sampled_out
