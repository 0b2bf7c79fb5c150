"""As much of Go's text/template as our Modelfiles use, so that a template can be rendered as Ollama would."""

import re
from collections.abc import Sequence
from typing import Any

Turns = Sequence[tuple[str, str]]
Node = tuple[Any, ...]


def render(template: str, messages: Turns) -> str:
    """What Ollama makes of ``.Messages``; its ``.System`` holds the contents of all system messages."""
    parts = re.split(r"\{\{ (.*?) \}\}", template, flags=re.DOTALL)
    assert "{{" not in "".join(parts), "a form that this renderer does not know"
    nodes, rest = _parse(parts, 0)
    assert rest == len(parts)
    system = "\n\n".join(text for role, text in messages if role == "system")
    return _run(nodes, {"system": system, "messages": list(messages), "at": None})


def _parse(parts: list[str], place: int) -> tuple[list[Node], int]:
    """Nodes up to ``end`` or ``else``; even places are text, odd ones actions."""
    nodes: list[Node] = []
    while place < len(parts):
        word = parts[place]
        if place % 2 == 0:
            nodes.append(("text", word))
        elif word == "end" or word.startswith("else"):
            return nodes, place
        elif word.startswith("range "):
            assert word == "range $i, $m := .Messages"
            body, place = _parse(parts, place + 1)
            nodes.append(("range", body))
        elif word.startswith("if "):
            branches = []
            while True:
                body, end = _parse(parts, place + 1)
                branches.append((word.removeprefix("else ").removeprefix("if "), body))
                place, word = end, parts[end]
                if word == "end":
                    break
            nodes.append(("if", branches))
        else:
            nodes.append(("value", word))
        place += 1
    return nodes, place


def _run(nodes: list[Node], state: dict[str, Any]) -> str:
    out = []
    for kind, what in nodes:
        if kind == "text":
            out.append(what)
        elif kind == "range":
            out += [_run(what, {**state, "at": place}) for place in range(len(state["messages"]))]
        elif kind == "if":
            out += next(([_run(body, state)] for test, body in what if _holds(test, state)), [])
        else:
            assert what in (".Content", "$.System")
            out.append(state["system"] if what == "$.System" else state["messages"][state["at"]][1])
    return "".join(out)


def _holds(test: str, state: dict[str, Any]) -> bool:
    role = re.fullmatch(r'eq \.Role "(\w+)"', test)
    if role:
        return bool(state["messages"][state["at"]][0] == role[1])
    where = re.fullmatch(r"and \$\.System \((.*)\)", test)
    assert where, test
    here = {
        "le $i 1": state["at"] <= 1,
        "eq (len (slice $.Messages $i)) 1": state["at"] == len(state["messages"]) - 1,
    }[where[1]]
    return bool(state["system"]) and here
