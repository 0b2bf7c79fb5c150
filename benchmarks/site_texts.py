"""A hook of mkdocs: the built site also has each page as Markdown, and ``llms.txt`` with what each page is about.

``PAGE.md`` beside ``PAGE.html`` is the source of the page, with included files in place of their snippets.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

_SNIPPET = re.compile(r'^--8<-- "(?P<path>[^"]+)"$', re.MULTILINE)


def on_post_build(config: Any) -> None:
    """Write the texts into the folder of the site."""
    site, source = Path(config["site_dir"]), Path(config["docs_dir"])
    lines = [f"# {config['site_name']}", "", f"> {config['site_description']}"]
    for section in config["nav"]:
        ((title, entries),) = section.items()
        lines += ["", f"## {title}", ""]
        for entry in entries:
            name = entry if isinstance(entry, str) else next(iter(entry.values()))
            text = (source / name).read_text(encoding="utf-8")
            (site / name).write_text(_SNIPPET.sub(_included, text), encoding="utf-8")
            lines.append(f"- [{heading(text)}]({name}): {beginning(text)}")
    (site / "llms.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _included(snippet: re.Match[str]) -> str:
    root = Path(__file__).resolve().parents[1]
    return (root / snippet["path"]).read_text(encoding="utf-8").rstrip()


def heading(text: str) -> str:
    """The title of a page."""
    return text.partition("\n")[0].removeprefix("# ")


def beginning(text: str) -> str:
    """The first sentence of a page, without marks of Markdown."""
    paragraph = next(
        (part for part in text.split("\n\n")[1:] if re.match(r"(?!```)[\w*`\[]", part)),
        heading(text),
    )
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)|[*`]", r"\1", " ".join(paragraph.split()))
    return re.split(r"(?<=[.:?]) (?=[A-Z“])", plain)[0]
