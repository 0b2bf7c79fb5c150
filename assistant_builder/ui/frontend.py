"""One function of gradio's frontend is served changed: without it every page load costs seconds of a core.

Gradio 6.31 searches its tree of components, through a proxy for each, for every value and every progress display that
an event sets. An event of the page sets hundreds of them among a thousand components. The function that is served
instead keeps an index of each tree. The tree must keep its components: a page with ``gr.render`` would need the search.
"""

from __future__ import annotations

import re
from pathlib import Path

import gradio as gr

ASSETS = Path(gr.__file__).parent / "templates" / "frontend" / "assets"
_SEARCH = re.compile(
    r"function (?P<name>[\w$]+)\(e,t\)\{if\(e\.id===t\)return e;if\(e\.children\)for\(let n of e\.children\)"
    r"\{let e=(?P=name)\(n,t\);if\(e\)return e\}return null\}"
)
_INDEXED = """let abIndexes=new WeakMap;function NAME(e,t){
let found=abIndexes.get(e);
if(!found?.has(t)){
const add=node=>{found.has(node.id)||found.set(node.id,node);
if(node.children)for(const child of node.children)add(child)};
abIndexes.set(e,found=new Map);add(e)}
return found.get(t)??null}"""


def changed_script() -> tuple[str, str]:
    """Name and text of the script that is served changed; two empty texts for a gradio that does without the search."""
    for path in sorted(ASSETS.glob("core-*.js")):
        text, count = _SEARCH.subn(lambda search: _INDEXED.replace("NAME", search["name"]),
                                   path.read_text(encoding="utf-8"))
        if count == 1:
            return path.name, text
    return "", ""
