"""The whole way from a file into a study's data folder, and the card."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from markdown_it import MarkdownIt

from assistant_builder.atomic_io import file_hash, read_json, read_jsonl
from assistant_builder.config import DataConfig
from assistant_builder.data import dataset_card, load_split, prepare
from assistant_builder.data.card import fenced, inline
from assistant_builder.errors import DataError
from tests.data.making_data import Counter, jsonl, words

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "datasets_cards"
FILES = {"train.jsonl", "validation.jsonl", "heldout.jsonl", "rejected.jsonl", "findings.json", "card.md", "split.json"}


def records(count):
    return [{"question": words(7, i) + "?", "answer": words(4, -i), "topic": str(i % 5)} for i in range(count)]


def test_everything_is_written_and_agrees(write, tmp_path):
    content = [*records(40), {"question": "", "answer": "x", "topic": "1"}, records(1)[0]]
    folder = tmp_path / "data"
    done = prepare(write("a.jsonl", jsonl(content)), DataConfig(columns={"group": "topic"}), tokenizer=Counter(),
                   max_length=64, folder=folder, title="My pairs")  # fmt: skip
    assert {path.name for path in folder.iterdir()} == FILES
    split = read_json(folder / "split.json")
    assert split["hashes"] == {n: file_hash(folder / f"{n}.jsonl") for n in ("train", "validation", "heldout")}
    assert split["units"]["kind"] == "group" and sum(split["counts"].values()) == 40
    assert [p.row for p in load_split(folder, "heldout")] == [p.row for p in done.split.heldout]
    assert read_json(folder / "findings.json")["usable"] == 40
    left_out = read_jsonl(folder / "rejected.jsonl")
    assert [(r["row"], r["reason"]) for r in left_out] == [
        (41, "the question is empty"), (42, "an exact duplicate of row 1"),
    ]  # fmt: skip
    assert left_out[0]["record"] == {"question": "", "answer": "x", "topic": "1"}


def test_split_json_is_written_last(write, tmp_path, monkeypatch):
    from assistant_builder.data import card_file, preparing

    written = []

    def spied(original):
        return lambda path, content: (written.append(path.name), original(path, content))

    for module, name in ((preparing, "write_json"), (preparing, "write_jsonl"), (card_file, "write_text")):
        monkeypatch.setattr(module, name, spied(getattr(module, name)))
    prepare(write("a.jsonl", jsonl(records(20))), DataConfig(), folder=tmp_path / "data")
    assert written[-1] == "split.json"


@pytest.mark.parametrize(
    ("content", "config"),
    [
        ("", {}),
        ("x,y\n1,2\n", {}),
        (jsonl(records(1)), {}),
        (jsonl(records(20)), {"columns": {"group": "absent"}}),
        (jsonl([{"question": f"{words(9, 0)} {'so ' * i}", "answer": f"x {i}"} for i in range(9)]),
         {"near_duplicate_threshold": 0.4}),
    ],
)
def test_nothing_is_written_when_it_cannot_start(write, tmp_path, content, config):
    folder = tmp_path / "data"
    with pytest.raises(DataError) as caught:
        prepare(write("a.data", content), DataConfig(**config), folder=folder)
    assert not folder.exists() and caught.value.remedy
    assert "\n" not in str(caught.value) and "a.data: " in str(caught.value)


def test_without_a_folder_nothing_is_written(write, tmp_path):
    path = write("a.jsonl", jsonl(records(20)))
    before = set(tmp_path.rglob("*"))
    assert prepare(path, DataConfig()).findings.can_start()
    assert set(tmp_path.rglob("*")) == before


def test_same_input_gives_the_same_bytes(write, tmp_path):
    path = write("a.jsonl", jsonl(records(50)))
    for name in ("one", "two"):
        prepare(path, DataConfig(max_train=20), folder=tmp_path / name, title="T")
    for name in FILES:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_importing_needs_no_torch_and_little_else():
    heavy = ("torch", "transformers", "datasets", "pandas", "scipy", "pyarrow", "openpyxl")
    code = f"import sys, assistant_builder.data; print([name for name in {heavy} if name in sys.modules])"
    printed = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert printed.stdout.strip() == "[]"


# shipped data


def test_shipped_ferry_data_keeps_its_split():
    done = prepare(SHIPPED / "ostrel-sound-ferries" / "data.jsonl", DataConfig())
    record = done.findings.to_record()
    assert (record["rejected"], record["exact_duplicates"], record["conflicts"]) == ([], 0, 0)
    assert done.split.given and done.split.cut == ()
    clusters = {name: {p.cluster for p in done.split.pairs(name) if p.answerable} for name in ("train", "heldout")}
    assert len(clusters["heldout"]) >= 40 and clusters["heldout"] <= clusters["train"]
    assert any(not p.answerable for p in done.split.heldout)


def test_shipped_library_data_is_split_by_group():
    done = prepare(SHIPPED / "thimble-row-library" / "data.csv", DataConfig())
    assert done.findings.rejected == () and not done.split.given
    sides = [{p.group for p in done.split.pairs(name)} for name in ("train", "validation", "heldout")]
    assert sum(map(len, sides)) == len(set.union(*sides)) == 8


# the card

NASTY = '``` | </td><script>alert(1)</script> | # Head\n---\n"""{{x}} [a](http://b) \\| `tick` ![i](x.png)'


def nasty_card(write, title="T"):
    content = [{"question": f"{NASTY} {words(5, i)}", "answer": NASTY, "a|b`": "x"} for i in range(12)]
    content.append({"question": NASTY, "answer": "", "split": f"x{NASTY}", "a|b`": "y"})
    done = prepare(write("na`me|.jsonl", jsonl(content)), DataConfig())
    return dataset_card(done.findings, done.split, title=title), done


def test_front_matter_is_yaml_as_on_the_hub(write):
    card, _ = nasty_card(write, title='A: "title" # with\nsigns')
    head = yaml.safe_load(card.split("---\n")[1])
    assert head["pretty_name"] == 'A: "title" # with signs'
    assert head["size_categories"] == "n<1K" and head["license"] == "unknown" and "language" not in head
    assert head["task_categories"] == ["question-answering", "text-generation"]
    assert [entry["split"] for entry in head["configs"][0]["data_files"]] == ["train", "validation", "test"]


def test_text_of_the_file_stays_in_its_cell_or_block(write):
    card, done = nasty_card(write)
    body = card.split("---\n", 2)[2]
    tokens = MarkdownIt("commonmark", {"html": True}).enable("table").parse(body)
    kinds = [token.type for token in tokens]
    assert "html_block" not in kinds and "hr" not in kinds
    inner = [child.type for token in tokens if token.children for child in token.children]
    assert not {"html_inline", "image", "link_open"} & set(inner)
    headings = [tokens[place + 1].content for place, kind in enumerate(kinds) if kind == "heading_open"]
    assert headings == ["T", "Contents", "Splits", "Findings", "Rejected rows", "Examples from training"]
    fences = [json.loads(token.content) for token in tokens if token.type == "fence"]
    assert [f["row"] for f in fences] == [p.row for p in done.split.train[:3]]
    widths = []  # every row of a table has as many cells as its head
    for token in tokens:
        if token.type == "table_open":
            widths.append([])
        elif token.type == "tr_open":
            widths[-1].append(0)
        elif token.type in ("td_open", "th_open"):
            widths[-1][-1] += 1
    assert len(widths) == 4 and all(len(set(table)) == 1 for table in widths)


def test_card_shows_no_held_out_text(write):
    done = prepare(write("a.jsonl", jsonl(records(60))), DataConfig(), tokenizer=Counter())
    card = dataset_card(done.findings, done.split, title="T")
    assert not any(p.question in card or p.answer in card for p in done.split.heldout)
    assert done.split.hashes()["heldout"] in card and "Tokens in all" in card


def test_escapes():
    assert inline("a | b\n<c>") == "a \\| b &lt;c&gt;"
    assert inline("x" * 500).endswith("…") and len(inline("x" * 500)) == 300
    assert fenced("a ````` b").startswith("``````\n")


@pytest.mark.parametrize(("count", "size"), [(999, "n<1K"), (1000, "1K<n<10K")])
def test_size_categories(write, count, size):
    done = prepare(write("a.jsonl", jsonl(records(count))), DataConfig())
    assert f"size_categories: {size}" in dataset_card(done.findings, done.split, title="T")
