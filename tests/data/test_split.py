"""Splits: units, limits, given splits, leaks and frozen files."""

import hashlib
import json
import random
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assistant_builder.config import DataConfig
from assistant_builder.data import SPLITS, Pair, find_embedding_leaks, load_split, split_pairs
from assistant_builder.data.units import unit_of
from assistant_builder.errors import DataError
from tests.data import samples
from tests.data.samples import words

pair = partial(samples.pair, answer="All questions are wordings of this fact.")


def clean_pairs(count, start=100):
    return [pair(p.row, p.question) for p in samples.clean_pairs(count, start)]


def rows_of(split):
    return {name: [p.row for p in split.pairs(name)] for name in SPLITS}


def test_split_pairs_meets_the_fractions_and_loses_nothing():
    pairs = clean_pairs(200)
    split = split_pairs(pairs, DataConfig())
    assert [len(split.pairs(name)) for name in SPLITS] == [144, 16, 40]
    assert sorted(row for rows in rows_of(split).values() for row in rows) == [p.row for p in pairs]
    assert all(rows == sorted(rows) for rows in rows_of(split).values())
    assert (split.given, split.cut, split.leaks) == (False, ("validation", "heldout"), ())


def test_split_pairs_depends_on_the_seed_and_not_on_the_order():
    pairs = clean_pairs(60)
    first = rows_of(split_pairs(pairs, DataConfig()))
    shuffled = random.Random(1).sample(pairs, len(pairs))
    again = rows_of(split_pairs(shuffled, DataConfig()))
    assert {name: sorted(rows) for name, rows in again.items()} == first
    assert rows_of(split_pairs(pairs, DataConfig(seed=1))) != first


KNOWN = {"train": [1, 3, 4, 5, 7, 8, 10], "validation": [2], "heldout": [6, 9]}


def test_split_pairs_gives_the_same_split_on_every_machine():
    """The expected rows for seed 0 on every platform, with every Python version and hash seed."""
    pairs = [pair(i, f"What is the word for {name}?") for i, name in enumerate("abcdefghij", 1)]
    assert rows_of(split_pairs(pairs, DataConfig())) == KNOWN


ROOT = Path(__file__).parents[2]


@settings(max_examples=40, deadline=None)
@given(
    labels=st.lists(st.one_of(st.none(), st.integers(0, 12).map(str)), min_size=8, max_size=60),
    asked=st.integers(3, 30),
    heldout=st.sampled_from([0.05, 0.2, 0.5, 0.8]),
    validation=st.sampled_from([0.05, 0.1, 0.4]),
    seed=st.integers(0, 5),
)
def test_split_pairs_never_divides_a_unit(labels, asked, heldout, validation, seed):
    pairs = [pair(i, f"{words(6, i % asked)}?", group=label) for i, label in enumerate(labels, 1)]
    config = DataConfig(
        heldout_fraction=heldout, validation_fraction=validation, seed=seed, remove_leaks="never"
    )
    try:
        split = split_pairs(pairs, config)
    except DataError as error:
        assert len({unit_of(p) for p in pairs}) < 3 and error.remedy
        return
    sides = [{unit_of(p) for p in split.pairs(name)} for name in SPLITS]
    assert all(sides) and not (sides[0] & sides[1] or sides[0] & sides[2] or sides[1] & sides[2])
    assert sorted(row for rows in rows_of(split).values() for row in rows) == [p.row for p in pairs]


def test_split_pairs_keeps_a_repeated_question_in_one_split():
    pairs = [pair(2 * i + copy, words(6, i) + "?!"[copy]) for i in range(1, 30) for copy in (0, 1)]
    split = split_pairs(pairs, DataConfig(heldout_fraction=0.3))
    assert split.leaks == () and all(len(split.pairs(name)) % 2 == 0 for name in SPLITS)


def test_split_pairs_may_divide_clusters():
    pairs = [pair(i, words(6, i), cluster=str(i % 3)) for i in range(1, 61)]
    split = split_pairs(pairs, DataConfig())
    assert {p.cluster for p in split.train} == {p.cluster for p in split.heldout} == {"0", "1", "2"}


def test_split_pairs_does_not_exceed_the_fraction_with_large_groups():
    pairs = [pair(i, words(6, i), group="big" if i <= 70 else f"g{i}") for i in range(1, 101)]
    split = split_pairs(pairs, DataConfig())
    assert len(split.heldout) == 20 and "big" in {p.group for p in split.train}
    three = [pair(i, words(6, i), group=f"g{i % 3}") for i in range(1, 31)]
    assert [len(split_pairs(three, DataConfig()).pairs(name)) for name in SPLITS] == [10, 10, 10]


def test_split_pairs_needs_three_pairs():
    assert [len(split_pairs(clean_pairs(3), DataConfig()).pairs(name)) for name in SPLITS] == [
        1,
        1,
        1,
    ]
    assert [len(split_pairs(clean_pairs(5), DataConfig()).pairs(name)) for name in SPLITS] == [
        2,
        1,
        2,
    ]
    with pytest.raises(DataError, match="only 2 usable pairs"):
        split_pairs(clean_pairs(2), DataConfig())


# limits
def test_split_pairs_with_limits_keeps_groups_and_the_held_out_set():
    pairs = [pair(i, words(6, i), group=f"g{i // 4}") for i in range(400)]
    split = split_pairs(pairs, DataConfig(max_train=50, max_heldout=30))
    assert (len(split.train), len(split.heldout)) == (48, 28)
    assert len(split.validation) in range(1, 7)
    assert all(sum(p.group == q.group for q in split.train) == 4 for p in split.train)
    other = split_pairs(pairs, DataConfig(max_train=100, max_heldout=30))
    assert rows_of(other)["heldout"] == rows_of(split)["heldout"]
    assert set(rows_of(split)["train"]) < set(rows_of(other)["train"])
    assert split.sampled_out["train"] + len(split.train) == 288
    assert any("48 of 288 train pairs are used" in str(note) for note in split.notes)


def test_split_pairs_cuts_a_group_larger_than_the_limit():
    pairs = [pair(i, words(6, i), group=f"g{i // 10}") for i in range(60)]
    assert len(split_pairs(pairs, DataConfig(max_train=3)).train) == 3


# a given split
def given_split(*names):
    return [pair(i, words(6, i), split=name) for i, name in enumerate(names, 1)]


def test_split_pairs_uses_a_given_split_unchanged():
    names = ["heldout"] * 3 + ["train"] * 20 + ["validation"] * 2
    split = split_pairs(given_split(*names), DataConfig(heldout_fraction=0.5))
    assert rows_of(split) == {
        "heldout": [1, 2, 3],
        "train": list(range(4, 24)),
        "validation": [24, 25],
    }
    assert split.given and split.cut == () and split.to_record()["given"] is True


def test_split_pairs_draws_what_a_given_split_lacks():
    split = split_pairs(given_split(*["train"] * 20, *["heldout"] * 4), DataConfig())
    assert [len(split.pairs(name)) for name in SPLITS] == [18, 2, 4]
    assert split.cut == ("validation",)
    assert "the file has no validation rows, so validation takes 2 rows from training" in map(
        str, split.notes
    )
    split = split_pairs(given_split(*["train"] * 20, *["validation"] * 4), DataConfig())
    assert [len(split.pairs(name)) for name in SPLITS] == [16, 4, 4] and split.cut == ("heldout",)
    split = split_pairs(given_split(*["train"] * 20), DataConfig())
    assert [len(split.pairs(name)) for name in SPLITS] == [14, 2, 4]
    assert split.cut == ("heldout", "validation")


def test_split_pairs_draws_no_group_of_the_given_splits():
    pairs = [pair(i, words(6, i), group=f"g{i % 6}", split="train") for i in range(60)]
    pairs += [pair(60 + i, words(6, 60 + i), group=f"g{i % 3}", split="heldout") for i in range(6)]
    for seed in range(6):
        split = split_pairs(pairs, DataConfig(seed=seed))
        inside = {p.group for p in split.validation}
        assert not inside & {p.group for p in split.train}
        assert not inside & {p.group for p in split.heldout}
    assert split.to_record()["units"]["straddling"] == ["g0", "g1", "g2"]


def test_split_pairs_refuses_a_partly_given_split():
    with pytest.raises(DataError, match="some have none"):
        split_pairs([*given_split("train", "train", "train"), pair(9, "a b")], DataConfig())


QUESTION = "Which of the six boats carries bicycles on a market day in June{}?"


# leaks
def leaking():
    """Held-out row 1 repeats row 11 exactly, row 2 is similar to row 21 (validation), row 3 does not leak."""
    pairs = [
        pair(1, QUESTION.format("").upper(), split="heldout"),
        pair(
            2, "When does the tea hut by the north pier open on Sunday mornings?", split="heldout"
        ),
        pair(3, words(6, 3), split="heldout"),
        pair(11, QUESTION.format(""), split="train"),
        pair(
            21,
            "When does the tea hut by the north pier open on Sunday mornings, then?",
            split="validation",
        ),
    ]
    return pairs + [pair(30 + i, words(6, 30 + i), split="train") for i in range(5)]


@pytest.mark.parametrize(
    ("remove", "rows"), [("auto", [1, 2, 3]), ("never", [1, 2, 3]), ("always", [3])]
)
def test_split_pairs_removes_leaks_of_a_given_split_only_on_request(remove, rows):
    split = split_pairs(leaking(), DataConfig(remove_leaks=remove))
    assert [p.row for p in split.heldout] == rows
    exact, near = split.leaks
    assert exact.heldout_row == 1
    assert exact.other_row == 11
    assert exact.split == "train"
    assert exact.kind == "exact"
    assert near.heldout_row == 2
    assert near.other_row == 21
    assert near.split == "validation"
    assert near.kind == "near"
    assert near.similarity == pytest.approx(12 / 13, abs=1e-3)
    assert near.removed is (remove == "always")
    record = split.to_record()
    assert record["leaks_removed"] == (2 if remove == "always" else 0)
    assert record["leaks"][0]["other_question"] == QUESTION.format("")
    assert record["remove_leaks"] == remove
    assert any("2 test questions found in" in str(note) for note in split.notes)


def drawn_leaks():
    """Pairs in which every second question is similar to the one before, but belongs to another unit."""
    pairs = []
    for i in range(40):
        base = words(14, i)
        pairs += [pair(2 * i + 1, base + "?"), pair(2 * i + 2, base + " indeed?")]
    return pairs + clean_pairs(40, start=1000)


def test_split_pairs_removes_leaks_of_a_drawn_split():
    split = split_pairs(drawn_leaks(), DataConfig())
    assert split.leaks and all(leak.removed and leak.kind == "near" for leak in split.leaks)
    removed = {leak.heldout_row for leak in split.leaks}
    assert not removed & set(rows_of(split)["heldout"])
    assert len(split.heldout) + len(removed) == 24
    kept = split_pairs(drawn_leaks(), DataConfig(remove_leaks="never"))
    assert len(kept.heldout) == 24 and kept.leaks_removed == 0 and len(kept.leaks) == len(removed)


def test_split_pairs_raises_if_every_held_out_pair_leaks():
    pairs = [pair(i, f"{QUESTION.format('')} {'so ' * i}") for i in range(1, 20)]
    with pytest.raises(
        DataError,
        match="every held-out question.*data.columns.group=NAME.*near_duplicate_threshold",
    ):
        split_pairs(pairs, DataConfig(near_duplicate_threshold=0.5))
    assert (
        len(
            split_pairs(
                pairs, DataConfig(near_duplicate_threshold=0.5, remove_leaks="never")
            ).heldout
        )
        == 4
    )


def test_split_pairs_does_not_report_equal_answers_as_leak():
    pairs = [pair(i, words(6, i)) for i in range(1, 30)]
    assert split_pairs(pairs, DataConfig()).leaks == ()


def test_find_embedding_leaks_returns_the_nearest_pair():
    rng = np.random.default_rng(0)
    outside = rng.normal(size=(3000, 8)).astype(np.float32)
    outside /= np.linalg.norm(outside, axis=1, keepdims=True)
    heldout = outside[[5, 2999]].copy()
    heldout[1] = -heldout[1]
    others = [(pair(i, f"q {i}"), "train" if i < 2000 else "validation") for i in range(3000)]
    (leak,) = find_embedding_leaks(
        [pair(9001, "x"), pair(9002, "y")], others, heldout, outside, 0.99
    )
    assert leak.heldout_row == 9001
    assert leak.other_row == 5
    assert leak.split == "train"
    assert leak.kind == "embedding"
    assert find_embedding_leaks([pair(1, "x")], [], heldout[:1], outside[:0], 0.9) == []


# frozen files
def test_split_hashes_equal_those_of_the_files(tmp_path):
    odd = [
        pair(1, "Does é \u2028 stay?"),
        pair(2, 'And "this" \\ too?', cluster="ä"),
        pair(3, "\ud83d?", group="g"),
    ]
    split = split_pairs([*odd, *clean_pairs(30)], DataConfig())
    split.write(tmp_path)
    for name in SPLITS:
        content = (tmp_path / f"{name}.jsonl").read_bytes()
        assert hashlib.sha256(content).hexdigest() == split.hashes()[name]
        lines = [json.loads(line) for line in content.decode().split("\n")[:-1]]
        assert [Pair.from_record(line) for line in lines] == [
            Pair(p.row, p.messages, p.group, p.cluster, None, p.answerable)
            for p in split.pairs(name)
        ]
        assert list(lines[0]) == ["row", "messages", "group", "cluster", "answerable"]


def test_load_split_refuses_changed_and_missing_files(tmp_path):
    split = split_pairs(clean_pairs(30), DataConfig())
    split.write(tmp_path)
    (tmp_path / "split.json").write_text(json.dumps(split.to_record()))
    assert [p.row for p in load_split(tmp_path, "train")] == rows_of(split)["train"]
    assert load_split(tmp_path, "heldout")[0].split == "heldout"
    path = tmp_path / "train.jsonl"
    path.write_text(path.read_text() + "\n")
    with pytest.raises(DataError, match="changed after it was frozen"):
        load_split(tmp_path, "train")
    path.unlink()
    with pytest.raises(DataError, match="missing"):
        load_split(tmp_path, "train")
