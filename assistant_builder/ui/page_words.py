"""Messages that name a setting as the command line does, in the words of the page: the control that sets it."""

from __future__ import annotations

import re

from assistant_builder.ui.options import study_options

ROLE_TITLES = {
    "question": "Question",
    "answer": "Answer",
    "context": "Context",
    "messages": "Conversation",
    "group": "Group, kept together",
    "cluster": "Cluster, one fact",
    "split": "Split",
    "answerable": "Answerable",
    "system": "System prompt",
}
MAPPING_TITLE = "Which column is which"
_KEY = r"(?:data|model|train|eval)\.[a-z][a-z_.]*[a-z]"
_VALUE = r"""=(?:'[^']*'|[^\s,;:)'"]+)"""
_SETTING = re.compile(rf"(?:--set )?({_KEY})({_VALUE})?")
_LISTED = re.compile(rf"--set {_KEY}{_VALUE}(?: --set {_KEY}{_VALUE})+")
_PHRASES = (
    (re.compile(r"carry on with 'assistant-builder run [^']*'"), "open that study at the top of the page"),
    (re.compile(r"(?:[Rr]un the study|[Rr]un it) again with --redo"),
     "tick “Replace results” on the Train tab and press the button there"),
    (re.compile(r"pass --redo to run"), "tick “Replace results” on the Train tab to run"),
    (re.compile(r"Choose another name with --name \S+"), "Choose another name"),
)


def page_words(text: str) -> str:
    """The text with each setting called what the page calls it.

    ``--set data.columns.group=NAME`` becomes “Group, kept together” under “Which column is which”;
    ``train.max_length`` becomes “Longest pair”; ``data.remove_leaks=never`` becomes “Remove leaks” (never).
    """
    for pattern, words in _PHRASES:
        text = pattern.sub(words, text)
    text = _LISTED.sub(lambda match: match.group().replace(" --set ", " and --set "), text)
    under = f"” under “{MAPPING_TITLE}” and “"
    return _SETTING.sub(_named, text).replace(under, "” and “")


def _named(match: re.Match[str]) -> str:
    key, value = match.group(1), (match.group(2) or "").lstrip("=").strip("'")
    title = _title(key)
    if title is None:
        return match.group()
    if match.group(2) == "=''":
        return f"{title} (not used)" if key.startswith("data.columns.") else f"{title} (empty)"
    return title if not value or value.isupper() else f"{title} ({value})"


def _title(key: str) -> str | None:
    if key.startswith("data.columns."):
        role = ROLE_TITLES.get(key.removeprefix("data.columns."))
        return f"“{role}” under “{MAPPING_TITLE}”" if role else None
    option = study_options().get(key)
    return f"“{option.title}”" if option else None
