"""Preparation of a data file: what is written to the study's data folder."""

import pytest

from assistant_builder.atomic_io import file_hash, read_json, read_jsonl
from assistant_builder.config import DataConfig
from assistant_builder.data import load_split, prepare_dataset
from assistant_builder.errors import DataError
from tests.commands import ROOT
from tests.data.samples import WordCounter, jsonl, words

FILES = set(
    """
    train.jsonl validation.jsonl heldout.jsonl rejected.jsonl findings.json card.md split.json
""".split()
)


def records(count):
    return [
        {"question": words(7, i) + "?", "answer": words(4, -(i // 2)), "topic": str(i % 5)}
        for i in range(count)
    ]


def test_prepare_dataset_writes_consistent_files(write, tmp_path):
    content = [*records(40), {"question": "", "answer": "x", "topic": "1"}, records(1)[0]]
    folder = tmp_path / "data"
    done = prepare_dataset(
        write("a.jsonl", jsonl(content)),
        DataConfig(columns={"group": "topic"}),
        tokenizer=WordCounter(),
        max_length=64,
        folder=folder,
        title="My pairs",
    )
    assert {path.name for path in folder.iterdir()} == FILES
    split = read_json(folder / "split.json")
    assert split["hashes"] == {
        n: file_hash(folder / f"{n}.jsonl") for n in ("train", "validation", "heldout")
    }
    assert split["units"]["kind"] == "group" and sum(split["counts"].values()) == 40
    assert [p.row for p in load_split(folder, "heldout")] == [p.row for p in done.split.heldout]
    assert read_json(folder / "findings.json")["usable"] == 40
    left_out = read_jsonl(folder / "rejected.jsonl")
    assert [(r["row"], r["reason"]) for r in left_out] == [
        (41, "the question is empty"),
        (42, "an exact duplicate of row 1"),
    ]
    assert left_out[0]["record"] == {"question": "", "answer": "x", "topic": "1"}


def test_prepare_dataset_writes_split_json_last(write, tmp_path, monkeypatch):
    from assistant_builder.data import card, prepare, split

    written = []

    def spied(original):
        return lambda path, content: (written.append(path.name), original(path, content))

    writers = (
        (prepare, "write_json"),
        (prepare, "write_jsonl"),
        (card, "write_text"),
        (split, "write_bytes"),
    )
    for module, name in writers:
        monkeypatch.setattr(module, name, spied(getattr(module, name)))
    prepare_dataset(write("a.jsonl", jsonl(records(20))), DataConfig(), folder=tmp_path / "data")
    assert written[-1] == "split.json"


@pytest.mark.parametrize(
    ("content", "config"),
    [
        ("", {}),
        ("x,y\n1,2\n", {}),
        (jsonl(records(1)), {}),
        (jsonl(records(20)), {"columns": {"group": "absent"}}),
        (
            jsonl([{"question": f"{words(9, 0)} {'so ' * i}", "answer": "x"} for i in range(9)]),
            {"near_duplicate_threshold": 0.4},
        ),
    ],
)
def test_prepare_dataset_writes_nothing_if_a_study_cannot_start(write, tmp_path, content, config):
    folder = tmp_path / "data"
    with pytest.raises(DataError) as caught:
        prepare_dataset(write("a.data", content), DataConfig(**config), folder=folder)
    assert not folder.exists() and str(caught.value.remedy)
    assert "\n" not in str(caught.value) and "a.data: " in str(caught.value)


def test_prepare_dataset_without_folder_writes_nothing(write, tmp_path):
    path = write("a.jsonl", jsonl(records(20)))
    before = set(tmp_path.rglob("*"))
    assert prepare_dataset(path, DataConfig()).findings.can_start()
    assert set(tmp_path.rglob("*")) == before


def test_prepare_dataset_writes_identical_bytes_for_identical_input(write, tmp_path):
    path = write("a.jsonl", jsonl(records(50)))
    for name in ("one", "two"):
        prepare_dataset(path, DataConfig(max_train=20), folder=tmp_path / name, title="T")
    for name in FILES:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


SHIPPED = ROOT / "datasets_cards"


# bundled datasets
def test_prepare_dataset_keeps_the_split_of_the_ferry_dataset():
    done = prepare_dataset(SHIPPED / "ostrel-sound-ferries" / "data.jsonl", DataConfig())
    record = done.findings.to_record()
    assert (record["rejected"], record["exact_duplicates"], record["conflicts"]) == ([], 0, 0)
    assert done.split.given and done.split.cut == ()
    clusters = {
        name: {p.cluster for p in done.split.pairs(name) if p.answerable}
        for name in ("train", "heldout")
    }
    assert len(clusters["heldout"]) >= 40 and clusters["heldout"] <= clusters["train"]
    assert any(not p.answerable for p in done.split.heldout)


def test_prepare_dataset_splits_the_library_dataset_by_group():
    done = prepare_dataset(SHIPPED / "thimble-row-library" / "data.csv", DataConfig())
    assert done.findings.rejected == () and not done.split.given
    sides = [
        {p.group for p in done.split.pairs(name)} for name in ("train", "validation", "heldout")
    ]
    assert sum(map(len, sides)) == len(set.union(*sides)) == 8
