"""The dataset card and the card file of a study."""

import json

import pytest
import yaml
from markdown_it import MarkdownIt

from assistant_builder.config import DataConfig
from assistant_builder.data import dataset_card, prepare_dataset
from assistant_builder.data.card import (
    fenced,
    inline,
)
from tests.data.samples import ROWS, WordCounter, jsonl, words


def test_a_card_that_an_earlier_release_let_a_user_edit_is_kept(write, tmp_path):
    source, folder = write("a.jsonl", jsonl(ROWS)), tmp_path / "data"
    prepare_dataset(source, DataConfig(), folder=folder)
    (folder / "card.md").rename(folder / "card.generated.md")
    (folder / "card.md").write_text("my card")
    prepare_dataset(source, DataConfig(seed=3), folder=folder)
    assert (folder / "card.md").read_text() == "my card"
    assert "seed 3" in (folder / "card.generated.md").read_text()


NASTY = '``` | </td><script>alert(1)</script> | # Head\n---\n"""{{x}} [a](http://b) \\| `tick` ![i](x.png)'


def nasty_card(write, title="T"):
    content = [
        {"question": f"{NASTY} {words(5, i)}", "answer": NASTY, "a|b`": "x"} for i in range(12)
    ]
    content.append({"question": NASTY, "answer": "", "split": f"x{NASTY}", "a|b`": "y"})
    done = prepare_dataset(write("na`me|.jsonl", jsonl(content)), DataConfig())
    return dataset_card(done.findings, done.split, title=title), done


def test_dataset_card_front_matter_is_yaml_of_the_hub(write):
    card, _ = nasty_card(write, title='A: "title" # with\nsigns')
    head = yaml.safe_load(card.split("---\n")[1])
    assert head["pretty_name"] == 'A: "title" # with signs'
    assert head["size_categories"] == "n<1K"
    assert head["license"] == "unknown"
    assert "language" not in head
    assert head["task_categories"] == ["question-answering", "text-generation"]
    assert [entry["split"] for entry in head["configs"][0]["data_files"]] == [
        "train",
        "validation",
        "test",
    ]


def test_dataset_card_confines_text_to_cells_and_blocks(write):
    card, done = nasty_card(write)
    body = card.split("---\n", 2)[2]
    tokens = MarkdownIt("commonmark", {"html": True}).enable("table").parse(body)
    kinds = [token.type for token in tokens]
    assert "html_block" not in kinds and "hr" not in kinds
    inner = [child.type for token in tokens if token.children for child in token.children]
    assert not {"html_inline", "image", "link_open"} & set(inner)
    headings = [
        tokens[place + 1].content for place, kind in enumerate(kinds) if kind == "heading_open"
    ]
    assert (
        headings
        == "T | Contents | Splits | Findings | Rejected rows | Examples from training".split(" | ")
    )
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


def records(count):
    return [
        {"question": words(7, i) + "?", "answer": words(4, -i), "topic": str(i % 5)}
        for i in range(count)
    ]


def test_dataset_card_contains_no_held_out_text(write):
    rows = [
        {**row, "split": "train" if place % 4 else "test"} for place, row in enumerate(records(60))
    ]
    done = prepare_dataset(write("a.jsonl", jsonl(rows)), DataConfig(), tokenizer=WordCounter())
    card = dataset_card(done.findings, done.split, title="T")
    assert len(done.split.heldout) == 15
    assert not any(p.question in card or p.answer in card for p in done.split.heldout)
    assert done.split.hashes()["heldout"] in card and "Total tokens" in card


def test_inline_and_fenced_escape_markdown():
    assert inline("a | b\n<c>") == "a \\| b &lt;c&gt;"
    assert inline("x" * 500).endswith("…") and len(inline("x" * 500)) == 300
    assert fenced("a ````` b").startswith("``````\n")


@pytest.mark.parametrize(("count", "size"), [(999, "n<1K"), (1000, "1K<n<10K")])
def test_dataset_card_has_the_size_category(write, count, size):
    done = prepare_dataset(write("a.jsonl", jsonl(records(count))), DataConfig())
    assert f"size_categories: {size}" in dataset_card(done.findings, done.split, title="T")
