"""report.html and report.md: self-contained, well-formed, and deaf to whatever the data file holds."""

import re
from html.parser import HTMLParser

import pytest
from markdown_it import MarkdownIt

from assistant_builder.study import Study
from evals.declaration import freeze
from evals.report.audience import Audience
from evals.report.build import build_report
from evals.report.conclusion import conclude
from evals.report.render import render_html, render_markdown
from tests.evals.report.synthetic_study import Recipe, write_study
from tests.texts import parts
from tests.typed_report import as_report

VOID = {"meta", "br", "link", "input"}
HOSTILE = (
    "<script>alert(1)</script><img src=x onerror=alert(2)> </p></article> &lt; {{ 7*7 }} {% raw %} "
    "[click](https://evil.example) ![](https://evil.example/x.png) https://evil.example www.evil.example a@b.example "
    "`code` **bold** | cell |\n# heading\n1. list\n- list\n$x$ ~~gone~~ \\* שלום \u202e"
)


class Page(HTMLParser):
    """Collects tags and attributes, and complains where they do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> inside {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.fixture
def hostile() -> Study:
    return write_study(Recipe(question=HOSTILE, answer=HOSTILE, metrics=("token_f1",)))


@pytest.mark.parametrize("kind", ["study", "full", "hostile"])
def test_the_page_runs_and_fetches_nothing(kind, request):
    html = render_html(as_report(build_report(request.getfixturevalue(kind))))
    page = Page(html)
    policy = next(
        attrs["content"]
        for tag, attrs in page.tags
        if attrs.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy is not None and policy.startswith("default-src 'none'; style-src 'unsafe-inline'")
    forbidden = set("script img iframe object embed link form base video audio image use".split())
    assert not forbidden & {tag for tag, _ in page.tags}
    for tag, attrs in page.tags:
        assert not [
            key
            for key in attrs
            if key.startswith("on") or key in ("src", "srcset", "style", "action")
        ], tag
        assert (attrs.get("href") or "#").startswith("#")
    style = html[html.index("<style>") : html.index("</style>")]
    assert "url(" not in style and "@import" not in style


def test_links_inside_the_page_lead_somewhere(report):
    page = Page(render_html(as_report(report)))
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    links = {str(attrs["href"]).removeprefix("#") for tag, attrs in page.tags if tag == "a"}
    assert links <= set(ids)
    sections = {attrs["id"] for tag, attrs in page.tags if tag in ("section", "h2")}
    assert len(sections) > 25 and sections <= links


def test_conclusion_verdict_meaning_action_and_three_warnings_come_first(report):
    report["warnings"] = [
        {"code": "not_better_than_copy", "level": "serious", "text": "Copying is as good."},
        {"code": "compute_dtype", "level": "note", "text": "Computed in bfloat16."},
        {"code": "base_requantized", "level": "serious", "text": "The base was 4-bit."},
        {"code": "twins_differ", "level": "serious", "text": "They are no twins."},
        {"code": "leaks_left", "level": "serious", "text": "Questions leak."},
    ]
    html = render_html(as_report(report))
    shown = [
        html.index(text)
        for text in parts(
            """
            Is the assistant good enough? | class="sentence" | What did 4-bit cost?
            class="outcome" | What it means | <dt>What to do | They are no twins. | Questions leak.
            The base was 4-bit. | <summary>2 more warnings</summary> | Copying is as good.
            Computed in bfloat16. | class="tiles"
            """
        )
    ]
    assert shown == sorted(shown)
    assert report["verdict"]["action"] in "".join(Page(html).text)
    conclusion, markdown = conclude(as_report(report)), render_markdown(as_report(report))
    for text in ("".join(Page(html).text), markdown):
        assert text.index(conclusion.good_enough[:40]) < text.index(conclusion.four_bit[:40])
        assert conclusion.action in text
    first, rest = markdown.split("### Limitations and warnings")
    assert first.count("**Warning:**") == 3
    assert (
        first.index("They are no twins.")
        < first.index("2 more warnings")
        < first.index("Copying is as good.")
    )
    assert (
        rest.index("They are no twins.")
        < rest.index("Copying is as good.")
        < rest.index("Computed in bfloat16.")
    )


def test_title_and_rows_are_those_that_the_user_knows(report):
    report["config"]["title"] = "Krumm & Linde Bäckerei"
    report["data"]["leaks"]["listed"] = [
        {
            "heldout_question": "Open today?",
            "heldout_row": 3,
            "other_question": "Open?",
            "other_row": 9,
            "split": "train",
            "kind": "near",
            "similarity": 0.9,
            "removed": True,
        }
    ]
    plain = "".join(Page(render_html(as_report(report))).text)
    report["data"]["row_numbers"] = {"note": "", "starts": [[1, 700]]}
    counted = "".join(Page(render_html(as_report(report))).text)
    assert "Project Krumm & Linde Bäckerei" in plain
    assert "How good the assistant is: Krumm & Linde Bäckerei" in plain
    rows = [int(row) for row in re.findall(r"\brow (\d+)", plain)]
    assert {3, 9} <= {*rows}
    assert [int(row) for row in re.findall(r"\brow (\d+)", counted)] == [700 + row for row in rows]
    assert render_markdown(as_report(report)).startswith("Project **Krumm &amp; Linde Bäckerei**")


def test_a_change_after_scoring_is_shown_at_the_verdict(study):
    freeze(study)
    study.write_config(study.config.with_changes({"eval.margin": 0.08}))
    report = build_report(study)
    said = "Changed after scoring and not applied: margin, was 0.03 nats per token, now 0.08 nats per token."
    html, markdown = render_html(as_report(report)), render_markdown(as_report(report))
    assert html.index(said) < html.index("What to do") < html.index("<details")
    assert markdown.index(f"**{said}**") < markdown.index("What to do: ")


def test_both_answers_and_the_reference_are_on_the_page(report):
    text = "".join(Page(render_html(as_report(report))).text)
    flip = report["flips"]["lost"][0]
    for shown in (
        flip["question"],
        flip["reference"],
        flip["answers"]["L16"],
        flip["answers"]["Q4"],
    ):
        assert shown in text
    assert report["sentence"] in text
    assert report["provenance"]["base_model"]["sha256"] in text
    assert "8 more are not on this page" in text


@pytest.mark.parametrize("render", [render_html, render_markdown])
def test_page_and_markdown_show_the_same_numbers(render, report_of_ten):
    text = render(as_report(report_of_ten))
    for cell in report_of_ten["cells"].values():
        assert f"{cell['nll_per_token']:.3f}" in text
        assert f"{100 * cell['metrics']['exact_match']:.1f}%" in text
    for row in report_of_ten["contrasts"]:
        if row["metric"] == "nll_per_token":
            assert f"{row['delta']:+.3f}".replace("-", "−") in text


def test_markdown_of_hostile_text_forms_no_markup(hostile):
    markdown = render_markdown(as_report(build_report(hostile)))
    html = (
        MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(markdown)
    )
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    tags = set(re.findall(r"<([a-z0-9]+)", html))
    assert tags <= set(
        "h1 h2 h3 h4 p ul ol li table thead tbody tr th td strong br blockquote".split()
    )
    assert "href" not in html
    assert not re.search(r"(?<!\\)https?://|(?<!\\)www\.", markdown.replace("https\\://", ""))


@pytest.mark.parametrize("kind", ["study", "full"])
def test_markdown_tables_hold_together(kind, request):
    markdown = render_markdown(as_report(build_report(request.getfixturevalue(kind))))
    html = MarkdownIt("commonmark").enable("table").render(markdown)
    assert html.count("<table>") == len(re.findall(r"^\| ---", markdown, re.M)) > 12
    assert "| ---" not in html
    assert not re.search(r"<p>\|", html), "a row outside its table"


@pytest.mark.parametrize(
    ("who", "tone"),
    [("customers", "no-worse"), ("colleagues", "inconclusive"), ("nobody", "worse")],
)
def test_the_conclusion_is_green_only_where_customers_may_ask(who, tone, study, monkeypatch):
    audience = Audience(who, "Said.")
    monkeypatch.setattr("evals.report.conclusion.audience", lambda *_, **__: audience)
    page = Page(render_html(as_report(build_report(study))))
    assert [attrs["class"] for _, attrs in page.tags if "verdict " in (attrs.get("class") or "")][
        0
    ] == f"verdict {tone}"
