"""One date for every prompt of a study, where its chat template writes today's.

Templates such as those of Llama 3.2, Granite and SmolLM3 call ``strftime_now``, a global function that transformers
(``utils/chat_template_utils.py``) answers with the current day. Prompts of training, scoring and chat would then differ
from day to day. The function cannot be passed to ``apply_chat_template``: transformers 5 replaces callables among its
arguments by a placeholder. So the template is given a macro of the same name, which every renderer of Jinja prefers to
the global function.

A template that takes the date from the variable ``date_string`` needs nothing: the variable is never set here, so that
it writes its own fixed default (Llama 3.1), or calls ``strftime_now`` for it (Llama 3.2).
"""

from __future__ import annotations

from datetime import date, datetime, time

_FUNCTION = "strftime_now"
_DIRECTIVES = (*"aAbBcCdDeFgGhHIjklmMnpPrRsStTuUVwWxXyYzZ", *("-" + letter for letter in "deHIjmMSUVWy"))
"""What follows the percent sign in ``strftime`` of glibc, without padding in the second part."""
_PERCENT = "\ue000"
"""Takes the place of an escaped percent sign while the directives are replaced."""
_HEAD = "{% macro strftime_now(format) %}"


def asks_for_date(template: object) -> bool:
    """Whether a chat template, or one of several by name, asks for today's date."""
    if isinstance(template, dict):
        return any(asks_for_date(one) for one in template.values())
    return isinstance(template, str) and _FUNCTION in template


def with_date(template: str, day: date) -> str:
    """A chat template that writes ``day`` where it asks for today's date; any other template as it is.

    Args:
        template: Jinja, rendered with ``trim_blocks`` as transformers does: the line break after the macro is not text.
        day: The day; its time is midnight.
    """
    if not asks_for_date(template) or template.startswith(_HEAD):
        return template
    moment = datetime.combine(day, time())
    written = [(f"%{directive}", moment.strftime(f"%{directive}")) for directive in _DIRECTIVES]
    steps = [("%%", _PERCENT), *written, (_PERCENT, "%")]
    chain = "".join(f"|replace({_quoted(old)}, {_quoted(new)})" for old, new in steps)
    return f"{_HEAD}{{{{ format{chain} }}}}{{% endmacro %}}\n{template}"


def _quoted(text: str) -> str:
    """As a string literal of Jinja."""
    escapes = {"\\": "\\\\", "'": "\\'", "\n": "\\n", "\t": "\\t"}
    return "'" + "".join(escapes.get(character, character) for character in text) + "'"
