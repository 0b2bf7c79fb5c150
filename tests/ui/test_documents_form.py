"""The documents on the Data tab."""

from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import pytest

pytest.importorskip("pypdfium2", reason="needs the extra documents")

from assistant_builder.chat.conversation import Answer
from assistant_builder.data.types import RowNumbers
from assistant_builder.documents.sources import read_files
from assistant_builder.documents.store import Documents
from assistant_builder.study import Study
from assistant_builder.ui.chat.view import sources_view
from assistant_builder.ui.data.documents import DocumentsForm, documents_view
from tests.ui.blocks import inside_blocks


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "guide"
    place.mkdir()
    (place / "pool.md").write_text("# Pool\n\nThe teaching pool of the baths has 31 degrees.\n")
    (place / "shop.txt").write_text("The shop sells goggles.")
    (place / "empty.md").write_text("")
    return place


def change(folder: Path) -> None:
    (folder / "pool.md").write_text("# Pool\n\nThe teaching pool of the baths has 30 degrees.\n")


def test_the_page_reads_documents_and_takes_decisions(folder):
    form, picker, tabs = inside_blocks(lambda: (DocumentsForm(), gr.Dropdown(), gr.Tabs()))
    files = [str(folder / "pool.md"), str(folder / "empty.md")]
    shown = form._read(picker, tabs, None, "My guide", files)
    assert "1 document was read" in shown[form.message] and "empty" in shown[form.message]
    name = shown[picker]["value"]
    study = Study.open(name)
    assert study.title == "My guide" and shown[tabs].selected == "chat"
    change(folder)
    assert form.message in form._read(picker, tabs, name, "", files[:1])
    (waiting,) = Documents(study).undecided
    assert "1 change was decided" in form._decide("drop", name, [waiting.key])
    assert not Documents(study).undecided
    assert "0 changes were decided" in form._decide("drop", name, None)
    assert "there is no document yet" in form._read(picker, tabs, name, "", [])[form.message]


def test_a_website_is_read_from_the_address_that_was_typed(folder, monkeypatch):
    read: list[tuple[str, int]] = []

    def read_site(address, progress, *, most):
        read.append((address, most))
        progress(0, 1, address)
        return SimpleNamespace(
            readings=read_files({address: folder / "pool.md"})[0],
            problems={},
            covers=lambda known: True,
        )

    monkeypatch.setattr("assistant_builder.documents.site.read_site", read_site)
    form, picker, tabs = inside_blocks(lambda: (DocumentsForm(), gr.Dropdown(), gr.Tabs()))
    shown = form._read(picker, tabs, None, "", None, " www.baths.example ", 30)
    assert read == [("www.baths.example", 30)] and "1 document was read" in shown[form.message]
    assert shown[picker]["value"] == "baths-example" and shown[tabs].selected == "chat"
    both = form._read(picker, tabs, None, "", [str(folder / "pool.md")], "www.baths.example")
    assert "Read one after the other" in both[form.message]
    wrong = form._read(picker, tabs, None, "", None, "ftp://baths.example")[form.message]
    assert "is no address of a website" in wrong and "--site" not in wrong


def test_the_page_shows_what_changed_with_what_rests_on_it(folder):
    form, picker, tabs = inside_blocks(lambda: (DocumentsForm(), gr.Dropdown(), gr.Tabs()))
    shown = form._read(picker, tabs, None, "", [str(folder / "pool.md")])
    study = Study.open(shown[picker]["value"])
    change(folder)
    form._read(picker, tabs, study.name, "", [str(folder / "pool.md")])
    view = documents_view(study, Documents(study).undecided)
    assert "not served until you decide" in view
    assert "<del>The teaching pool of the baths has 31 degrees.</del>" in view


def test_a_source_is_the_page_with_its_passage_marked():
    source = {
        "row": None,
        "question": "Pool",
        "answer": "It has 31 degrees.",
        "similarity": 0.8,
        "document": "guide <1>.pdf",
        "page": 4,
        "before": "Welcome. ",
        "passage": "It has 31 degrees.",
        "after": " Bye.",
    }
    shown = sources_view(Answer("It has 31 degrees.", sources=(source,)), RowNumbers())
    assert "Welcome. <mark>It has 31 degrees.</mark> Bye." in shown
    assert "guide &lt;1&gt;.pdf, page 4" in shown
