"""Reading of documents: the example's gold statements, and documents that cannot be read, one sentence each."""

import os
import sys
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("pypdfium2", reason="needs the extra documents")

import docx
import pptx
import pptx.util
import pypdfium2
from fpdf import FPDF

from assistant_builder import limited_process
from assistant_builder.documents import limits, reading
from assistant_builder.documents.changes import changed_statements
from assistant_builder.documents.reading import document_files, named, read_document
from assistant_builder.errors import ConfigError, DataError
from assistant_builder.retrieval.staleness import rests_on
from benchmarks import documents as benchmark
from benchmarks.make_documents import EXAMPLE, write_documents


@pytest.fixture(scope="module")
def read():
    return benchmark._read(EXAMPLE / "documents")


def test_gold_statements_are_indexed_with_the_right_page(read):
    statements = [each for reading in read for each in reading.document.statements]
    assert sum(len(reading.document.pages) for reading in read) == 30
    missing = [
        wanted
        for wanted in benchmark.gold("statements")
        if not any(benchmark.states(each, wanted) for each in statements)
    ]
    assert missing == []


def test_no_statement_has_words_that_its_page_does_not_have(read):
    for each in read:
        for statement in each.document.statements:
            page = each.document.pages[(statement.page or 1) - 1]
            assert benchmark.unsupported(statement, page) == []
            assert page[statement.start : statement.end].strip()


def test_what_surrounds_a_web_page_is_not_read(read):
    text = " ".join(page for each in read for page in each.document.pages)
    for words in ("cookie", "Imprint", "My account", "window.", "Page 3"):
        assert words not in text


def test_ten_edits_flag_the_answers_that_rest_on_them(read, tmp_path):
    texts = {path.name: path.read_text(encoding="utf-8") for path in (EXAMPLE / "text").iterdir()}
    for edit in benchmark.gold("edits"):
        texts[edit["text"]] = texts[edit["text"]].replace(edit["old"], edit["new"])
    write_documents(texts, tmp_path)
    before, after = (
        [each for reading in readings for each in reading.document.statements]
        for readings in (read, benchmark._read(tmp_path))
    )
    changes, added = changed_statements(before, after)
    assert len(changes) == 10 and not added
    affected = {question for edit in benchmark.gold("edits") for question in edit["questions"]}
    flagged = {
        each["question"]
        for each in benchmark.gold("questions")
        if each["answer"]
        and any(rests_on(each["question"], each["answer"], change) for change in changes)
    }
    assert flagged == affected


def test_the_documents_of_the_example_are_those_of_its_texts(tmp_path):
    texts = {path.name: path.read_text(encoding="utf-8") for path in (EXAMPLE / "text").iterdir()}
    write_documents(texts, tmp_path)
    pages = {path.name for path in tmp_path.iterdir()}
    assert pages == {path.name for path in (EXAMPLE / "documents").iterdir()}
    for path in tmp_path.glob("*.html"):
        assert path.read_bytes() == (EXAMPLE / "documents" / path.name).read_bytes()


# other formats, and the details of each


def of(path: Path, content: bytes | str) -> list[str]:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return [each.text for each in read_document(path, path.name).statements]


def test_markdown_and_text_files_are_read(tmp_path):
    markdown = "# Hours\n\nWe open at **nine**.\n\n| Day | Opens |\n|---|---|\n| Monday | 9:00 |\n"
    assert of(tmp_path / "a.md", markdown) == ["We open at nine.", "Monday – Opens: 9:00"]
    text = "Hours\n\nWe open at nine\nand close at five.\n\n- Dogs are welcome"
    path = tmp_path / "a.txt"
    assert of(path, text) == ["We open at nine and close at five.", "Dogs are welcome"]
    (first, _) = read_document(path, "a.txt").statements
    assert first.heading == "Hours" and first.page is None
    assert of(tmp_path / "b.txt", "Schön geöffnet.".encode("cp1252")) == ["Schön geöffnet."]


def test_a_page_says_in_which_encoding_it_is(tmp_path):
    page = '<html><head><meta charset="windows-1252"></head><body><p>Das Café öffnet.</p></body>'
    assert of(tmp_path / "a.html", page.encode("cp1252")) == ["Das Café öffnet."]


def test_pages_of_a_word_document_are_those_of_its_page_breaks(tmp_path):
    document = docx.Document()
    document.add_paragraph("Tickets cost five pounds.")
    document.add_page_break()
    document.add_paragraph("Dogs are welcome.", style="List Bullet")
    document.save(tmp_path / "a.docx")
    found = read_document(tmp_path / "a.docx", "a.docx").statements
    assert [(each.page, each.text) for each in found] == [
        (1, "Tickets cost five pounds."),
        (2, "Dogs are welcome."),
    ]


def slides(path: Path) -> None:
    show = pptx.Presentation()
    show.core_properties.title = "Tour"
    first = show.slides.add_slide(show.slide_layouts[1])
    first.shapes.title.text = "Opening hours"
    first.placeholders[1].text = "Tuesday: 10:00\nThe desk closes at noon."
    first.notes_slide.notes_text_frame.text = "Smile at the audience now."
    hidden = show.slides.add_slide(show.slide_layouts[1])
    hidden.shapes.title.text = "Old prices"
    hidden.placeholders[1].text = "The tour costs two pounds."
    hidden.element.set("show", "0")
    third = show.slides.add_slide(show.slide_layouts[5])
    third.shapes.title.text = "Fees"
    size = pptx.util.Inches(2)
    table = third.shapes.add_table(2, 2, size, size, size, size).table
    for place, text in enumerate(("Machine", "Fee", "Lathe", "£36")):
        table.cell(place // 2, place % 2).text = text
    group = third.shapes.add_group_shape()
    group.shapes.add_textbox(0, 0, size, size).text_frame.text = "Fees include a drink."
    show.save(str(path))


def test_slides_are_pages_with_their_titles_points_and_tables(tmp_path):
    slides(tmp_path / "a.pptx")
    found = read_document(tmp_path / "a.pptx", "a.pptx")
    assert found.title == "Tour"
    assert [(each.page, each.heading, each.text) for each in found.statements] == [
        (1, "Opening hours", "Tuesday: 10:00"),
        (1, "Opening hours", "The desk closes at noon."),
        (3, "Fees", "Fees include a drink."),
        (3, "Fees", "Lathe – Fee: £36"),
    ]
    # the content decides, not the name
    (tmp_path / "a.pptx").rename(tmp_path / "b.docx")
    assert len(read_document(tmp_path / "b.docx", "b.docx").statements) == 4


def many_slides(path: Path) -> None:
    show = pptx.Presentation()
    listed = show.slides._sldIdLst
    slide = show.slides.add_slide(show.slide_layouts[6])
    for _ in range(1_000):
        entry = listed._add_sldId()
        entry.rId = show.part.relate_to(slide.part, "slide")
    show.save(str(path))


def empty_slides(path: Path) -> None:
    show = pptx.Presentation()
    show.slides.add_slide(show.slide_layouts[6])
    show.save(str(path))


def test_words_divided_at_the_end_of_a_line_are_made_whole(tmp_path):
    pdf = FPDF()
    pdf.add_page()
    pdf.set_font("helvetica", size=10)
    for line in ("The workshop lends screw-", "drivers and e-bikes for", "two days at a time."):
        pdf.cell(0, 5, line, new_x="LMARGIN", new_y="NEXT")
    pdf.output(str(tmp_path / "a.pdf"))
    (found,) = read_document(tmp_path / "a.pdf", "a.pdf").statements
    assert found.text == "The workshop lends screwdrivers and e-bikes for two days at a time."


# documents that cannot be read


def scanned(path: Path) -> None:
    pdf = FPDF()
    for _ in range(3):
        pdf.add_page()
        pdf.rect(10, 10, 100, 100, style="F")
    pdf.output(str(path))


def with_password(path: Path) -> None:
    pdf = FPDF()
    pdf.add_page()
    pdf.set_font("helvetica", size=10)
    pdf.cell(0, 5, "Tickets cost five pounds.")
    pdf.set_encryption("owner", "user")
    pdf.output(str(path))


def long(path: Path) -> None:
    document = pypdfium2.PdfDocument.new()
    for _ in range(2_000):
        document.new_page(100, 100)
    document.save(str(path))


def bomb(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("[Content_Types].xml", "<Types/>")
        with archive.open("word/document.xml", "w", force_zip64=True) as member:
            for _ in range(80):
                member.write(b" " * 2**20)


def script(path: Path) -> None:
    path.write_text("<html><body><div id=app></div><script src=a.js></script></body></html>")


@pytest.mark.parametrize(
    ("name", "write", "said"),
    [
        ("a.pdf", scanned, "it was scanned"),
        ("a.pdf", with_password, "the document has a password"),
        ("a.pdf", long, "the document has 2,000 pages, more than 1,000"),
        ("a.docx", bomb, "more than 64 MiB once decompressed"),
        ("a.html", script, "a script writes it in the browser"),
        (
            "a.pdf",
            lambda path: path.write_bytes(b"%PDF-1.7 and nothing"),
            "the PDF document is damaged",
        ),
        ("a.pdf", lambda path: path.write_text("Hello"), "this is no PDF document"),
        ("a.docx", lambda path: path.write_bytes(b"PK\x03\x04 broken"), "or it is damaged"),
        ("a.pptx", lambda path: path.write_bytes(b"PK\x03\x04 broken"), "or it is damaged"),
        ("a.pptx", lambda path: path.write_text("Hello"), "no Word or PowerPoint document"),
        ("a.pptx", bomb, "more than 64 MiB once decompressed"),
        ("a.pptx", empty_slides, "the document has no text"),
        ("a.pptx", many_slides, "the document has 1,001 pages, more than 1,000"),
        ("a.txt", lambda path: path.write_bytes(b" \n "), "the document is empty"),
        ("a.md", lambda path: path.write_text("# Title"), "the document has no text"),
        ("a.html", lambda path: None, "no such file"),
    ],
)
def test_what_cannot_be_read_is_said_in_one_sentence_with_a_remedy(tmp_path, name, write, said):
    write(tmp_path / name)
    with pytest.raises(DataError) as caught:
        read_document(tmp_path / name, "folder/" + name)
    message = str(caught.value)
    assert said in message and "folder/" + name in message and "\n" not in message
    assert caught.value.remedy and "Traceback" not in message
    # and the process reads the next one
    assert of(tmp_path / "next.txt", "We open at nine.") == ["We open at nine."]


def test_entities_of_a_word_document_are_not_expanded(tmp_path):
    source, target = tmp_path / "a.docx", tmp_path / "b.docx"
    document = docx.Document()
    document.add_paragraph("Tickets cost five pounds.")
    document.save(source)
    entities = "".join(
        f'<!ENTITY a{n} "{f"&a{n - 1};" * 10 if n else "x" * 99}">' for n in range(9)
    )
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for member in old.infolist():
            data = old.read(member)
            if member.filename == "word/document.xml":
                head, _, rest = data.partition(b"?>")
                data = head + b"?><!DOCTYPE x [" + entities.encode() + b"]>" + rest
                data = data.replace(b"five", b"&a8;")
            new.writestr(member, data)
    try:
        found = read_document(target, "b.docx").statements
    except DataError:
        return
    assert sum(len(each.text) for each in found) < 10_000


@pytest.mark.parametrize(
    "page",
    [
        f"<h1>{'h ' * 500}</h1>" + "<p>a b</p>" * 500,
        "<p>We open at nine.</p>" + "".join(f"<a href=x{n}>" for n in range(3_000)),
        "<p>a b</p>" * 3_000,
    ],
)
def test_what_is_kept_of_a_document_counts_whatever_it_is(tmp_path, page):
    """Headings are kept with each statement, so that a small page could fill the memory."""
    (tmp_path / "a.html").write_text(f"<title>{'t' * 100_000}</title>{page}")
    document = read_document(tmp_path / "a.html", "a.html")
    assert document.size > 250_000 and len(document.title) == limits.MAX_TITLE


def test_links_of_a_page_are_bounded(tmp_path):
    links = "".join(f"<a href=x{n % 30_000}>" for n in range(60_000))
    (tmp_path / "a.html").write_text(f"<p>We open at nine.</p>{links}")
    assert len(read_document(tmp_path / "a.html", "a.html").links) == limits.MAX_LINKS


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_the_name_of_a_file_that_is_no_text_is_written_as_text(tmp_path):
    (tmp_path / "a\nb.md").write_text("We open at nine.")
    with open(os.fsencode(tmp_path) + b"/\xff.md", "wb") as file:
        file.write(b"Tea is free.")
    assert list(named(document_files(tmp_path), tmp_path)) == ["a b.md", "\\udcff.md"]


def test_a_reading_that_takes_too_long_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(reading._process, "_seconds", 0.0)
    monkeypatch.setattr(limited_process, "SECONDS_PER_MIB", 0.0)
    path = tmp_path / "slow.md"
    path.write_text("word " * 2**20)
    with pytest.raises(DataError, match="takes longer than 0 seconds"):
        read_document(path, "slow.md")


def test_without_the_extra_one_sentence_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "PACKAGES", ("pypdfium2", "no_such_package"))
    with pytest.raises(ConfigError) as caught:
        read_document(tmp_path / "a.pdf", "a.pdf")
    assert "(no_such_package)" in str(caught.value)
    assert "pip install -e '.[documents]'" in str(caught.value.remedy)


def test_the_documents_of_a_folder_are_named_by_their_paths(tmp_path, monkeypatch):
    for name in ("b/one.md", "b/.hidden.md", "a.pdf", "~$a.docx", "rows.csv", ".git/x.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / "link.md").symlink_to(tmp_path / "b/one.md")
    assert list(named(document_files(tmp_path), tmp_path)) == ["a.pdf", "b/one.md"]
    with pytest.raises(ConfigError, match="two documents are named one.md"):
        named([tmp_path / "b/one.md", tmp_path / "c/one.md"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="has no documents"):
        document_files(tmp_path / "empty")
    monkeypatch.setattr(reading, "MAX_DOCUMENTS", 1)
    with pytest.raises(ConfigError, match="more than 1 documents"):
        document_files(tmp_path)


def test_pages_are_limited_in_other_formats_too(monkeypatch):
    monkeypatch.setattr(limits, "MAX_PAGES", 2)
    with pytest.raises(DataError, match="3 pages, more than 2"):
        limits.check_pages(3)
