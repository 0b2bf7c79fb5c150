"""The documents: their links, and that the files, commands, settings and packages they name exist."""

import pkgutil
import re
from pathlib import Path

import pytest
import typer

from assistant_builder.cli import app
from assistant_builder.config import option_fields
from assistant_builder.registry import Registry

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
PAGES = [
    README,
    *(
        page
        for pattern in ("C*.md", "docs/*.md", "datasets_cards/*/*.md")
        for page in sorted(ROOT.glob(pattern))
    ),
]
CURRENT = [page for page in PAGES if page.name != "CHANGELOG.md"]
"""The pages that describe the present state only."""
SOURCES = ["", "tests", "assistant_builder", "assistant_builder/planning", "tests/gpu"]
"""Folders to which the paths in documents are relative."""


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def prose(page: Path) -> str:
    return re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)


def anchors(page: Path) -> set[str]:
    """Anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_relative_links_lead_to_files_and_headings(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        path, _, anchor = target.partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), target


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_no_merge_conflict_is_left(page):
    assert not re.findall(
        r"^(?:<{7} .*|={7}|>{7} .*)$", page.read_text(encoding="utf-8"), re.MULTILINE
    )


@pytest.mark.parametrize("page", CURRENT, ids=name_of)
def test_named_source_files_exist(page):
    for path in re.findall(r"`((?:[\w.]+/)*\w+\.py)`", prose(page)):
        assert any((ROOT / folder / path).is_file() for folder in SOURCES), path


@pytest.mark.parametrize("page", CURRENT, ids=name_of)
def test_named_commands_and_settings_exist(page):
    text = page.read_text(encoding="utf-8")
    for module in re.findall(
        r"python (?:-P )?-m ((?:assistant_builder|evals|benchmarks|tests)[\w.]*\w)", text
    ):
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), module
    targets = set(
        re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    )
    assert set(re.findall(r"`make ([a-z-]+)", text)) <= targets
    commands = typer.main.get_command(app).commands
    assert set(re.findall(r"(?:^|`)assistant-builder ([a-z]+)", text, re.MULTILINE)) <= set(
        commands
    )
    settings = option_fields().keys() | {"executor"}
    for key in re.findall(r"--set '?([a-z][\w.]*)=", text):
        assert key in settings or key.startswith("data.columns."), key


@pytest.mark.parametrize("page", CURRENT, ids=name_of)
def test_named_options_exist(page):
    group = typer.main.get_command(app)
    commands = {
        **group.commands,
        **{f"data {name}": command for name, command in group.commands["data"].commands.items()},
    }
    text = page.read_text(encoding="utf-8").replace("\\\n", "")
    called = re.findall(
        rf"(?:assistant-builder |`)({'|'.join(sorted(commands, reverse=True))})\b([^`\n#|>;&]*)",
        text,
    )
    for name, words in called:
        known = {
            option
            for parameter in commands[name].params
            for option in (*parameter.opts, *parameter.secondary_opts)
        } | {"--help"}
        assert set(re.findall(r"(?<!\S)--[a-z][a-z-]*", words)) <= known, (name, words)


def test_registries_in_the_table_exist():
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    names = re.findall(r"^\| `([\w.]+\.[A-Z_]+)` \|", text, re.MULTILINE)
    assert len(names) >= 6
    assert all(isinstance(pkgutil.resolve_name(name), Registry) for name in names)


def test_readme_has_at_most_900_words_and_120_columns():
    text = README.read_text(encoding="utf-8")
    assert len(text.split()) <= 900
    assert [line for line in text.splitlines() if len(line) > 120 and line[0] != "|"] == []


def test_the_tree_lists_every_package():
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    block = next(block for block in text.split("```") if block.startswith("\napp.py"))
    listed: set[str] = set()
    for indent, name in re.findall(r"^( *)([\w.]+)/? ", block, re.MULTILINE):
        if not indent:
            parent = name
        listed.add(f"{parent}/{name}" if indent else name)
    packages = {
        str(path.parent.relative_to(ROOT))
        for package in ("assistant_builder", "evals")
        for path in ROOT.glob(f"{package}/*/__init__.py")
    }
    folders = {
        path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith(".")
    }
    assert packages == {name for name in listed if "/" in name}
    assert (
        {"app.py", *folders - {"build", "dist"}}
        >= listed - packages
        >= {"app.py", "assistant_builder", "evals"}
    )


CLAIM = re.compile(r"(?i)byte for byte|byte-identical|same bytes")


@pytest.mark.parametrize("page", CURRENT, ids=name_of)
def test_equal_bytes_are_guaranteed_on_cpus_only(page):
    # paragraphs, and rows of tables
    blocks = re.split(r"\n\n|\n(?=\|)", page.read_text(encoding="utf-8"))
    for block in blocks:
        if CLAIM.search(block):
            assert re.search(r"\bCPUs?\b", block), block


def test_reliability_states_the_restriction_before_its_table():
    before, _, table = (
        (ROOT / "docs/reliability.md").read_text(encoding="utf-8").partition("| guarantee |")
    )
    assert CLAIM.search(table) and "Byte-identical results are guaranteed on CPUs only" in before
