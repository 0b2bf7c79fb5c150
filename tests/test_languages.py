"""The catalogs are complete, every visible text goes through them, and a request gets its language."""

import ast
import asyncio
import re
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jinja2
import pytest
from jinja2.ext import babel_extract

from assistant_builder import i18n
from assistant_builder.config import FormatsConfig, StudyConfig
from assistant_builder.config.base import ConfigModel
from assistant_builder.i18n import (
    N_,
    direction,
    localize,
    negotiate,
    percentage,
    t,
    tm,
    tn,
    use_language,
)
from assistant_builder.ui.app import build_app
from assistant_builder.ui.home.view import StudyList, study_list_view, welcome_view
from assistant_builder.ui.refresh import Page
from assistant_builder.ui.study_snapshot import new_study_strip
from evals.report.glossary import messages as report_texts
from evals.report.number_format import count, percent, size
from tests.texts import parts

ROOT = Path(i18n.__file__).parents[2]
Key = tuple[str, str, str]


def sources() -> list[Path]:
    """Every module whose messages are extracted."""
    return [*ROOT.glob("assistant_builder/**/*.py"), *ROOT.glob("evals/**/*.py")]


def templates() -> list[Path]:
    """The templates of the page, and of reports."""
    folders = ("assistant_builder/ui", "evals/report")
    return sorted(path for each in folders for path in (ROOT / each).glob("templates/*.html.j2"))


def extracted() -> set[Key]:
    """(context, message, plural) of every message in the code, and of the docstrings of settings."""
    sections = [StudyConfig, *(type(value) for _, value in StudyConfig())]
    found: set[Key] = {
        ("", field.description, "")
        for section in sections
        if issubclass(section, ConfigModel) and section is not FormatsConfig  # it has N_()
        for field in section.model_fields.values()
        if field.description
    }
    found |= {("", text, "") for text in report_texts()}
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name = (
                node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
            )
            texts = [
                part.value
                for part in node.args[:2]
                if isinstance(part, ast.Constant) and isinstance(part.value, str)
            ]
            if name in ("t", "tm", "m", "N_") and texts and texts[0]:
                found.add(("", texts[0], ""))
            elif name in ("tn", "mn", "tc", "pgettext") and len(texts) == 2:
                found.add(("", *texts) if name in ("tn", "mn") else (*texts, ""))
    for path in templates():
        with path.open("rb") as file:
            for _, name, texts, _ in babel_extract(file, ("t", "tm", "tn", "tc"), [], {}):
                one, many, *_ = (*texts, "") if isinstance(texts, tuple) else (texts, "")
                if not one:  # a text of texts.yaml or of a table of constants
                    continue
                found.add(
                    ("", one, many)
                    if name == "tn"
                    else (one, many, "")
                    if name == "tc"
                    else ("", one, "")
                )
    return found


def test_messages_are_where_the_extraction_finds_them():
    inside = [
        f"{path.name}:{node.lineno}"
        for path in sources()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.JoinedStr)
        for part in ast.walk(node)
        if isinstance(part, ast.Call)
        and isinstance(part.func, ast.Name)
        and part.args
        and part.func.id in ("t", "tm", "tn", "tc", "m", "mn", "N_")
        and isinstance(part.args[0], ast.Constant)
    ]
    assert inside == [], "in an f-string"


def fields(text: str) -> list[str]:
    """Placeholders and tags of a message; only the page's English has two words for a study."""
    found = re.findall(r"%?\{[^}]*\}|<[^>]*>", text)
    return sorted(each for each in found if not re.fullmatch(r"\{[Ss]tud(y|ies)\}", each))


def translations(code: str) -> dict[tuple[str, str, str], list[str]]:
    """The messages of a catalog: (context, message, plural) → its translations; fuzzy ones are left out."""
    found = {}
    for entry in i18n.read_catalog(code):
        one, many = (
            map(str, entry.id) if isinstance(entry.id, list | tuple) else (str(entry.id), "")
        )
        if one and not entry.fuzzy:
            texts = entry.string if isinstance(entry.string, tuple) else (entry.string,)
            found[entry.context or "", one, many] = [text or "" for text in texts]
    return found


@pytest.mark.parametrize("code", ["de", "es", "fr"])
def test_every_message_has_a_translation_with_the_same_placeholders(code):
    catalog = translations(code)
    assert extracted() - catalog.keys() == set(), "run: python -m benchmarks.catalogs"
    assert catalog.keys() - extracted() == set(), "obsolete, run: python -m benchmarks.catalogs"
    for (_, one, many), translated in catalog.items():
        assert len(translated) == (2 if many else 1) and all(translated), one
        for source, text in zip((one, many), translated, strict=False):
            assert fields(text) == fields(source), source
            assert (source[:1].isspace(), source[-1:].isspace()) == (
                text[:1].isspace(),
                text[-1:].isspace(),
            ), source


@pytest.mark.parametrize(
    ("header", "code"),
    [
        ("", "en"),
        ("de-DE,de;q=0.9,en;q=0.8", "de"),
        ("de-AT", "de"),
        ("pt-BR,es;q=0.7,en;q=0.3", "es"),
        ("fr;q=0.2, es;q=0.9", "es"),
        ("nl, *;q=0.5", "en"),
        ("fr;q=0, de;q=0.1", "de"),
        ("en-GB,de", "en"),
        ("de;q=high,fr", "fr"),
        (";;;,,", "en"),
    ],
)
def test_the_language_with_the_highest_weight_is_negotiated(header, code):
    assert negotiate(header) == code


def test_messages_and_numbers_are_in_the_language_of_the_context():
    assert t("Cancel") == "Cancel" and percent(0.965) == "96.5%" and direction() == "ltr"
    with use_language("de"):
        assert t("Cancel") == "Abbrechen"
        assert percent(0.965) == "96,5\xa0%"
        assert count(1234567) == "1.234.567"
        assert size(2.69e6) == "2,69 MB"
        assert tn("{count} question", "{count} questions", 1200) == "1.200 Fragen"
        assert (
            tm("About <b>{size}</b> on disk.", size="<i>")
            == "Etwa <b>&lt;i&gt;</b> auf der Festplatte."
        )
        assert t("") == ""
        with use_language("fr"):
            assert tn("{count} question", "{count} questions", 0) == "0 question"
            assert localize("1,234.5") == "1\u202f234,5"
    assert t("Cancel") == "Cancel" and percentage("5") == "5%"


# What is visible goes through the catalog

SHOWN = set(
    """
    Button DownloadButton Tab Accordion HTML Markdown Info Warning Error callout card empty fold
    heading hint toast table tiles needs_study copyable link bar
""".split()
)
"""Functions whose texts are visible."""
KEYWORDS = {"label", "info", "placeholder", "title", "remedy", "desc"}
ALLOWED = set(
    parts(
        """
    Linde | Refresh | Return | Data drawn | a-z 0-9 . _ - | http://127.0.0.1:8000/v1 | URL
    """
    )
)
"""Names, formats, and labels of components that nobody sees."""
NAMES = {"Assistant Builder", "GB", "Holm", "KL", "Python", "QLoRA", "Tmp", "kB"}


def literals(node: ast.expr) -> Iterator[str]:
    """The literal texts of an argument, without those of calls in it."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.JoinedStr):
        yield "".join(part.value for part in node.values if isinstance(part, ast.Constant))
    elif isinstance(node, ast.IfExp):
        yield from (*literals(node.body), *literals(node.orelse))
    elif isinstance(node, ast.BoolOp | ast.Tuple | ast.List):
        for part in node.values if isinstance(node, ast.BoolOp) else node.elts:
            yield from literals(part)


def is_words(text: str) -> bool:
    """Whether a text has words for readers, and is no name of a tone or a state."""
    plain = re.sub(r"<[^>]*>|&\w+;|\{[^}]*\}", " ", text).strip()
    return (
        bool(re.search(r"[A-Za-z]{2,}", plain))
        and not re.fullmatch(r"[a-z_.-]+", plain)
        and plain not in ALLOWED | NAMES
    )


def unwrapped(path: Path) -> Iterator[str]:
    """Visible literal texts of a module that do not go through the catalog."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
        found = [
            text
            for keyword in node.keywords
            if keyword.arg in KEYWORDS and name not in ("Tab", "Blocks")
            for text in literals(keyword.value)
        ]
        if name in SHOWN:
            found += [text for part in node.args for text in literals(part)]
        if name == "Markup":
            # the file of a plan is in English
            found += [
                text
                for part in node.args
                for text in literals(part)
                if ">" in text and not text.startswith("<!doctype")
            ]
        yield from (
            f"{path.relative_to(ROOT)}:{node.lineno}: {text}" for text in found if is_words(text)
        )


def test_no_visible_text_of_the_page_bypasses_the_catalog():
    pages = [
        path
        for path in (ROOT / "assistant_builder" / "ui").rglob("*.py")
        if path.name != "server.py"
    ]
    assert [line for path in pages for line in unwrapped(path)] == []


ATTRIBUTES = re.compile(r"""(?:aria-label|title|placeholder|alt)="([^"{]*)\"""")


def unwrapped_in_template(source: str) -> list[str]:
    """Visible literal texts of a template that do not go through the catalog."""
    tree = jinja2.Environment(autoescape=True).parse(source)
    translated = {
        id(text)
        for call in tree.find_all(jinja2.nodes.Call)
        if isinstance(call.node, jinja2.nodes.Name) and call.node.name in ("t", "tn", "tm", "tc")
        for text in call.find_all(jinja2.nodes.Const)
    }
    values = [
        node.value
        for node in tree.find_all(jinja2.nodes.Const)
        if isinstance(node.value, str) and id(node) not in translated
    ]
    html = "".join(node.data for node in tree.find_all(jinja2.nodes.TemplateData))
    texts = [*re.findall(r">([^<>]*)<", f">{html}<"), *ATTRIBUTES.findall(html), *values]
    return [
        text
        for text in texts
        if is_words(text) and not re.fullmatch(r"[a-z_. -]+|.*\.j2|https?://", text)
    ]


def test_no_visible_text_of_the_templates_bypasses_the_catalog():
    assert templates()
    for path in templates():
        source = path.read_text(encoding="utf-8")
        assert unwrapped_in_template(source) == [], path.name
    bypassing = '<p title="Hello you">Save it {{ t("Fine") }}</p>{{ card("Not fine") }}'
    assert unwrapped_in_template(bypassing) == ["Save it ", "Hello you", "Not fine"]


ENGLISH_WORDS = re.compile(
    r"(?<!--)\b(the|and|with|your|which|New|Upload|Train|Evaluate|Next|Ask|Choose|Press|Nothing|"
    r"Cancel|Download|Settings|Memory|Question|Answer|Row|Rows|Start|Stop|Create|Delete|Corrections)\b"
)
"""Words of headings, buttons and sentences that are none in German."""


MARKUP = re.compile(r"<(select|style|code|pre)\b.*?</\1>|<[^>]*>", re.DOTALL)


def texts_of(config: dict[str, Any]) -> Iterator[str]:
    """The visible texts of the page as gradio describes it."""
    for component in config["components"]:
        props = component["props"]
        for name in (
            "label",
            "info",
            "placeholder",
            "title",
            *(() if "choices" in props else ("value",)),
        ):
            text = props.get(name)
            if isinstance(text, str) and props.get("visible") != "hidden":
                yield " ".join(MARKUP.sub(" ", text).split())
        for choice in props.get("choices") or ():
            yield str(choice[0] if isinstance(choice, list | tuple) else choice)


def built() -> Page:
    """The page in all languages, built in an event loop; without one, gradio opens loops that it never closes."""

    async def build() -> Page:
        page = build_app()
        page.demo.translate(page.build)
        return page

    return asyncio.run(build())


@pytest.fixture(scope="module")
def german(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Gradio's description of the page in German."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ASSISTANT_BUILDER_HOME", str(tmp_path_factory.mktemp("home")))
        page = built()
        with use_language("de"):
            yield page.demo.config


def test_a_german_page_has_no_english_headings(german):
    with use_language("de"):
        studies = study_list_view(StudyList((), None, ()), 0.0)
        drawn = [str(welcome_view(True)), str(new_study_strip()), str(studies)]
    shown = [*texts_of(german), *drawn]
    assert {"Training", "Auswertung", "Verwenden", "Projekt anlegen"} <= {text for text in shown}
    assert [text for text in shown if ENGLISH_WORDS.search(text)] == []


def test_the_languages_share_components_events_and_values(german):
    """Only texts differ, so that one set of components and events serves all languages."""
    with use_language("en"):
        english = built().demo.config
    pairs = zip(english["components"], german["components"], strict=True)
    assert [one["type"] for one, _ in pairs] == [part["type"] for part in german["components"]]
    assert [event["targets"][0][1] for event in english["dependencies"]] == [
        event["targets"][0][1] for event in german["dependencies"]
    ]
    for one, other in zip(english["components"], german["components"], strict=True):
        if one["type"] in ("dropdown", "radio", "checkboxgroup"):
            assert [choice[1] for choice in one["props"]["choices"]] == [
                choice[1] for choice in other["props"]["choices"]
            ], "the values of choices are no texts"
            assert one["props"].get("value") == other["props"].get("value")
        assert one["props"].get("elem_id") == other["props"].get("elem_id")


# Right to left


def test_style_sheets_name_no_side():
    """Left and right are start and end, so that a right-to-left page is mirrored."""
    sided = re.compile(
        r"(margin|padding|border|inset)-(left|right)\b|text-align: (left|right)|float: |[{;] *(left|right):"
    )
    package = ROOT / "assistant_builder"
    sheets = [*(package / "ui" / "styles").glob("*.css"), package / "web" / "login_page.css"]
    assert [
        f"{sheet.name}: {line}"
        for sheet in sheets
        for line in sheet.read_text(encoding="utf-8").splitlines()
        if sided.search(line)
    ] == []


def values_of(call: ast.Call) -> set[str] | None:
    """The names of the values of a message; None if they are not written there."""
    names = {keyword.arg for keyword in call.keywords}
    return None if None in names or not names else {str(name) for name in names}


def test_every_placeholder_has_a_value():
    known = {"count", "bits", "study", "studies", "redo", "with_redo"}
    without = [
        f"{path.name}:{call.lineno}: {name}"
        for path in sources()
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name)
        if call.func.id in ("t", "tm", "tn", "tc", "m", "mn") and (given := values_of(call))
        for text in call.args
        if isinstance(text, ast.Constant) and isinstance(text.value, str)
        for _, name, _, _ in string.Formatter().parse(text.value)
        if name and "." not in name and name[:1].lower() + name[1:] not in given | known
    ]
    assert without == []


def test_placeholders_are_named():
    unnamed = [
        message
        for _, message, _ in extracted()
        for _, name, _, _ in string.Formatter().parse(message)
        if name is not None
        and "%{" not in message
        and not re.fullmatch(r"[a-z]\w*", name)
        and not re.fullmatch(
            r"[Ss]tud(y|ies)|[Rr]edo|(--set )?(data|model|train|eval|retrieval)\..*", name
        )
        and not (name.startswith('"date"') or name.strip() == "")
    ]
    assert unnamed == []
    assert N_("x") == "x"
