"""The grammar of Ollama's Modelfiles, as ``ParseFile`` and ``unquote`` of its ``parser/parser.go`` have it."""

_COMMANDS = tuple(
    """
    from license template system adapter draft renderer parser parameter message requires
""".split()
)
_BREAKS, _SPACES = "\r\n", " \t"


def parse(text: str) -> list[tuple[str, str]]:
    """Name and value of every command, parameters under their own names.

    Raises:
        ValueError: Ollama refuses the file.
    """
    found: list[tuple[str, str]] = []
    state, name, buffer = "nothing", "", ""
    for character in text:
        if state == "nothing":
            if character == "#":
                state = "comment"
            elif character not in _BREAKS + _SPACES:
                state, buffer = "name", character
        elif state == "comment":
            state = "nothing" if character in _BREAKS else state
        elif state == "name":
            if character in _SPACES:
                name = buffer.lower()
                if name not in _COMMANDS:
                    raise ValueError(f"{buffer!r} is not a command")
                state, buffer = ("parameter" if name == "parameter" else "value"), ""
            elif not (character.isascii() and character.isalpha()):
                raise ValueError(f"{buffer + character!r} is not a command")
            else:
                buffer += character
        elif state == "parameter":
            if character in _SPACES:
                state, name, buffer = "value", buffer, ""
            elif not (character.isascii() and character.isalnum() or character == "_"):
                raise ValueError(f"{buffer + character!r} is not a parameter")
            else:
                buffer += character
        else:
            value = _unquoted(buffer)
            if character in _BREAKS and value is not None:
                found.append((name, value))
                state, buffer = "nothing", ""
            elif character in _BREAKS + _SPACES or character.isprintable():
                buffer += character
    if state == "value":
        value = _unquoted(buffer)
        if value is None:
            raise ValueError("the last value does not end")
        found.append((name, value))
    elif state not in ("nothing", "comment"):
        raise ValueError("the file ends within a command")
    return found


def _unquoted(buffer: str) -> str | None:
    """The value; None where its end is still to come."""
    text = buffer.strip()
    for quotes in ('"""', '"'):
        if text.startswith(quotes):
            ended = len(text) >= 2 * len(quotes) and text.endswith(quotes)
            return text[len(quotes) : -len(quotes)] if ended else None
    return text
