"""The script of gradio that is served changed finds what gradio's own finds."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import playwright
import pytest

from assistant_builder.ui import frontend

TREE = {"id": 1, "children": [{"id": 2, "children": [{"id": 3}, {"id": 4, "children": []}]}, {"id": 3, "deep": True}]}


def node() -> str:
    """Node.js: that of the machine, or Playwright's."""
    own = Path(playwright.__file__).parent / "driver" / "node"
    return str(own) if own.is_file() else shutil.which("node") or pytest.skip("needs Node.js")


def test_the_installed_gradio_has_one_search_to_replace() -> None:
    name, text = frontend.changed_script()
    assert name and (frontend.ASSETS / name).is_file(), "gradio has changed its search: is it quick enough now?"
    assert text.count("abIndexes=new WeakMap") == 1 and not frontend._SEARCH.search(text)


def test_the_index_finds_what_the_search_finds() -> None:
    path = frontend.ASSETS / frontend.changed_script()[0]
    search = frontend._SEARCH.search(path.read_text(encoding="utf-8"))
    assert search is not None
    indexed = frontend._INDEXED.replace("NAME", "indexed")
    code = f"""{search[0]}
    {indexed}
    const tree = {json.dumps(TREE)}, other = {{id: 9, children: [{{id: 2}}]}};
    for (const root of [tree, other, tree]) for (const id of [1, 2, 3, 4, 5, 9])
      if (indexed(root, id) !== {search["name"]}(root, id)) throw new Error(`${{root.id}}: ${{id}}`);
    other.children.push({{id: 7}});
    if (indexed(other, 7) !== other.children[1]) throw new Error("added later");
    console.log("the same")"""
    done = subprocess.run([node(), "-e", code], capture_output=True, text=True)
    assert done.stdout == "the same\n", done.stderr
