"""HTML fragments of the page, and its style sheets.

The fragments are macros of ``templates/*.html.j2``, where a plain ``str`` is escaped, so that hostile file content is
shown as text and can neither run nor fetch anything.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from markupsafe import Markup, escape

from assistant_builder.arms import css_rules, css_variables, label
from assistant_builder.errors import error_texts
from assistant_builder.i18n import N_, Text, render, t, tc, tm, tn, use_words
from assistant_builder.ui.settings_form import PAGE_WORDS
from evals.report.number_format import count, duration, percent, size

if TYPE_CHECKING:
    from jinja2 import Environment

Tone = Literal["info", "good", "warn", "bad"]
STATE_LABELS = {
    "queued": N_("not run yet"),
    "waiting": N_("waiting"),
    "running": N_("running"),
    "succeeded": N_("done"),
    "failed": N_("failed"),
    "cancelled": N_("paused"),
    "lost": N_("interrupted"),
    "damaged": N_("damaged"),
}


@functools.cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("assistant_builder.ui"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.globals |= {
        "t": t,
        "tn": tn,
        "tc": tc,
        "tm": tm,
        "count": count,
        "duration": duration,
        "size": size,
        "percent": percent,
        "cut": cut,
        "label": label,
        "arm_chip": arm_chip,
        "badge": badge,
        "error_callout": error_callout,
        "state_label": state_label,
    }
    return environment


def fragment(view: str, /, *arguments: Any, **values: Any) -> Markup:
    """The HTML of a macro, ``TEMPLATE.MACRO``: ``fragment("parts.empty", title, body)``."""
    template, _, macro = view.partition(".")
    module = _environment().get_template(f"{template}.html.j2").module
    return Markup(getattr(module, macro)(*arguments, **values))  # noqa: S704 - escaped by jinja


def state_label(state: str) -> str:
    """A state of a study or a step in words."""
    return t(STATE_LABELS[state]) if state in STATE_LABELS else state


def join(parts: Iterable[str]) -> Markup:
    """Concatenate fragments; plain text is escaped."""
    return Markup("").join(parts)


def badge(state: str) -> Markup:
    """A state as a coloured label."""
    return fragment("parts.badge", state, state_label(state))


def arm_chip(arm: str) -> Markup:
    """The name of an arm in its colour."""
    return fragment("parts.chip", arm, label(arm))


def callout(tone: Tone, title: str, body: str = "", remedy: str = "") -> Markup:
    """A highlighted message with its remedy."""
    return fragment("parts.callout", tone, title, body, remedy)


def error_callout(record: Mapping[str, Any]) -> Markup:
    """Show an ``AssistantBuilderError.to_record()`` in the language and the words of the page."""
    with use_words(PAGE_WORDS):
        texts = {key: render(text) for key, text in error_texts(record).items()}
    where = t("Where: {where}", where=texts["where"]) if texts["where"] else ""
    return callout("bad", texts["what"], where, texts["remedy"])


def empty(title: str, body: str) -> Markup:
    """The placeholder of an empty region, with the way to fill it."""
    return fragment("parts.empty", title, body)


def heading(text: str) -> Markup:
    """The title of a group of components."""
    return Markup("<h3>{}</h3>").format(text)


def hint(text: str) -> Markup:
    """An explanation in small text."""
    return fragment("parts.paragraph", text, "ab-note")


def card(title: str, *body: str) -> Markup:
    """A titled block."""
    return fragment("parts.card", title, join(body))


def table(
    headers: Sequence[str], rows: Iterable[Sequence[str]], *, numeric: Collection[int] = ()
) -> Markup:
    """A table; ``numeric`` has the indices of the right-aligned columns."""
    return fragment("parts.table", headers, rows, numeric)


def bar(fraction: float, label: str) -> Markup:
    """A progress bar; ``fraction`` is between 0 and 1."""
    return fragment("parts.bar", float(fraction), label)


def fold(summary: str, body: str) -> Markup:
    """A collapsible section."""
    return fragment("parts.fold", summary, body)


def code(text: str) -> Markup:
    """Preformatted text."""
    return fragment("parts.code", text)


def items(texts: Iterable[str]) -> Markup:
    """A bulleted list."""
    return fragment("parts.items", texts)


def cut(text: str, length: int = 280) -> str:
    """The text truncated to ``length`` characters, with an ellipsis."""
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


def toast(what: Text, remedy: Text = "") -> str:
    """Escaped text of a pop-up message; gradio would render it as HTML and fetch its images."""
    with use_words(PAGE_WORDS):
        shown, advice = render(what), render(remedy)
    return str(escape(f"{shown.rstrip('.')}. {advice}" if advice else shown))


def pop_up_titles() -> dict[str, str]:
    """The title of a pop-up message by its kind; gradio's own are English."""
    return {"error": t("Error"), "warning": t("Warning"), "info": t("Note")}


CLICKS = """element.addEventListener("click", (event) => {
  const button = event.target.closest("[data-action]");
  if (!button || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  const part = document.getElementById(button.dataset.part);
  if (part) part.scrollIntoView({block: "start"});
  else trigger("click", {action: button.dataset.action, name: button.dataset.name});
});"""
"""``js_on_load`` of a ``gr.HTML`` whose buttons and links have ``data-action``: a click event with that action.

With ``data-part``, the id of an element of the page, a click scrolls to it.
"""

FIT_CHARTS = "setTimeout(() => window.dispatchEvent(new Event('resize')), 60);"
"""JavaScript after hidden parts of the page are shown: charts that were drawn while hidden get their width."""

_COPY = (Path(__file__).parent / "scripts" / "copy.js").read_text(encoding="utf-8")


def copy_script() -> str:
    """JavaScript for the ``js_on_load`` of a component with texts of the macro ``copyable``."""
    return _COPY.replace("COPIED", json.dumps(t("Copied"))).replace(
        "NOT_ALLOWED", json.dumps(t("Not allowed"))
    )


def report_frame(page: str) -> Markup:
    """The report in a sandboxed frame, which isolates its styles and runs no scripts.

    A ``srcdoc`` frame resolves ``#section`` against the URL of the app and would load the app into itself, so internal
    links get the frame's own URL. User text cannot contain such a link, because its quotation marks are escaped.
    """
    return fragment("page.report", page.replace('href="#', 'href="about:srcdoc#'))


STYLE_SHEETS = sorted(
    (Path(__file__).parent / "styles").glob("*.css"),
    key=lambda path: (path.name != "page.css", path.name),
)
"""The shared ``page.css`` first, then one style sheet per tab."""


def arm_styles() -> str:
    """The colours of the arms as CSS; ``--arm`` is the colour of the arm that an element belongs to."""
    return "\n".join(
        [
            f".gradio-container {{ {css_variables()} }}",
            f".dark .gradio-container, .gradio-container.dark {{ {css_variables(dark=True)} }}",
            css_rules(
                ".ab-arm-ARM, .ab-pane.ab-arm-ARM, .ab-said.ab-arm-ARM { --arm: var(--arm-ARM); }"
            ),
        ]
    )
