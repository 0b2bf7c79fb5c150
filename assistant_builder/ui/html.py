"""The page's vocabulary of HTML: every text that comes from a file is escaped here, once.

Everything returns :class:`markupsafe.Markup`; a plain ``str`` put into it is escaped, so that hostile file content is
shown as the text it is and can neither run nor fetch anything.

How the page looks: system fonts only, so that nothing is fetched from anywhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import gradio as gr
from markupsafe import Markup, escape

from assistant_builder.arms import css_rules, css_variables, label
from assistant_builder.ui.settings_form import page_words

Tone = Literal["info", "good", "warn", "bad"]
STATE_WORDS = {
    "queued": "not run yet",
    "waiting": "waiting",
    "running": "running",
    "succeeded": "done",
    "failed": "failed",
    "cancelled": "paused",
    "lost": "interrupted",
}


def join(parts: Iterable[str]) -> Markup:
    """Put pieces one after the other, escaping those that are plain text."""
    return Markup("").join(parts)


def badge(state: str) -> Markup:
    """A state as a coloured word."""
    return Markup('<span class="ab-badge ab-{}">{}</span>').format(state, STATE_WORDS.get(state, state))


def assistants(count: int) -> str:
    """All assistants of a study in a sentence: ``both assistants``."""
    return "the assistant" if count == 1 else "both assistants" if count == 2 else "all assistants"


def arm_chip(arm: str) -> Markup:
    """The name of an arm in its colour."""
    return Markup('<span class="ab-chip ab-arm-{}">{}</span>').format(arm, label(arm))


def callout(tone: Tone, title: str, body: str = "", remedy: str = "") -> Markup:
    """A message that stands out: what is the case, and what to do about it."""
    role = "alert" if tone == "bad" else "status"
    parts = [Markup("<strong>{}</strong>").format(title)]
    if body:
        parts.append(Markup("<p>{}</p>").format(body))
    if remedy:
        parts.append(Markup('<p class="ab-remedy">{}</p>').format(remedy))
    return Markup('<div class="ab-callout ab-{}" role="{}">{}</div>').format(tone, role, join(parts))


def error_callout(record: Mapping[str, Any]) -> Markup:
    """An ``AssistantBuilderError.to_record()``: what, where, remedy; settings go by their names on the page."""
    where = record.get("where")
    return callout(
        "bad", page_words(str(record["what"])), f"Where: {where}" if where else "",
        page_words(str(record.get("remedy") or "")),
    )


def empty(title: str, body: str) -> Markup:
    """What stands where nothing is yet, and how to get something there."""
    return Markup('<div class="ab-empty"><strong>{}</strong><p>{}</p></div>').format(title, body)


def card(title: str, *body: str) -> Markup:
    """A titled block."""
    return Markup('<section class="ab-card"><h3>{}</h3>{}</section>').format(title, join(body))


def tiles(entries: Iterable[tuple[str, str, str]]) -> Markup:
    """Figures side by side: (label, value, note)."""
    boxes = (
        Markup('<div class="ab-tile"><span>{}</span><b>{}</b><small>{}</small></div>').format(label, value, note)
        for label, value, note in entries
    )
    return Markup('<div class="ab-tiles">{}</div>').format(join(boxes))


def table(headers: Sequence[str], rows: Iterable[Sequence[str]], *, numeric: Iterable[int] = ()) -> Markup:
    """A table.

    Args:
        headers: Column titles.
        rows: Cells in the order of the columns.
        numeric: Positions of the columns that are set flush right.
    """
    right = set(numeric)
    head = join(
        Markup('<th scope="col" class="{}">{}</th>').format("ab-num" if place in right else "", title)
        for place, title in enumerate(headers)
    )
    body = join(
        Markup("<tr>{}</tr>").format(
            join(
                Markup('<td class="{}" dir="auto">{}</td>').format("ab-num" if place in right else "", cell)
                for place, cell in enumerate(row)
            )
        )
        for row in rows
    )
    # Focusable, so that a table wider than the window can be scrolled from the keyboard.
    return Markup(
        '<div class="ab-scroll" tabindex="0"><table class="ab-table"><thead><tr>{}</tr></thead>'
        "<tbody>{}</tbody></table></div>"
    ).format(head, body)


def bar(fraction: float, label: str) -> Markup:
    """A progress bar, ``fraction`` of it full."""
    percent = round(100 * min(max(fraction, 0.0), 1.0), 1)
    return Markup(
        '<div class="ab-bar" role="progressbar" aria-valuemin="0" aria-valuemax="100" aria-valuenow="{}" '
        'aria-label="{}"><i style="width:{}%"></i></div>'
    ).format(percent, label, percent)


def fold(summary: str, body: str, *, opened: bool = False) -> Markup:
    """Content that opens on a click."""
    attribute = Markup(" open") if opened else ""
    return Markup('<details class="ab-fold"{}><summary>{}</summary>{}</details>').format(attribute, summary, body)


def link(url: str, text: str) -> Markup:
    """A page elsewhere, opened beside this one; nothing where the URL is none of a page."""
    if not url.startswith(("http://", "https://")):
        return Markup("")
    return Markup('<a href="{}" target="_blank" rel="noopener noreferrer">{}</a>').format(url, text)


def code(text: str) -> Markup:
    """Text to be copied or read as written."""
    return Markup('<pre class="ab-code">{}</pre>').format(text)


def items(texts: Iterable[str]) -> Markup:
    """A bulleted list."""
    return Markup("<ul>{}</ul>").format(join(Markup("<li>{}</li>").format(text) for text in texts))


def cut(text: str, length: int = 280) -> str:
    """The beginning of a text, with a sign where something is left out."""
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


def toast(what: str, remedy: str = "") -> str:
    """Text of a pop-up message, which gradio would otherwise render as HTML and fetch its images."""
    return str(escape(page_words(f"{what.rstrip('.')}. {remedy}" if remedy else what)))


_STYLES = Path(__file__).parent / "styles"
STYLE_SHEETS = sorted(_STYLES.glob("*.css"), key=lambda path: (path.name != "page.css", path.name))
"""``page.css`` holds what all tabs share and comes first, the others what one tab needs."""
_FONTS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "sans-serif"]
_MONO = ["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace"]


def arm_styles() -> str:
    """The colours of the arms as CSS: ``--arm`` holds that of the arm an element belongs to."""
    return "\n".join([
        f".gradio-container {{ {css_variables()} }}",
        f".dark .gradio-container, .gradio-container.dark {{ {css_variables(dark=True)} }}",
        css_rules(".ab-arm-ARM, .ab-pane.ab-arm-ARM, .ab-said.ab-arm-ARM { --arm: var(--arm-ARM); }"),
    ])


def make_theme() -> gr.themes.Base:
    """The theme; gradio takes it in ``launch()``."""
    return gr.themes.Base(
        primary_hue="indigo", neutral_hue="slate", radius_size="lg", font=_FONTS, font_mono=_MONO
    ).set(
        body_background_fill="#f5f6f9",
        body_background_fill_dark="#0e1117",
        body_text_color_subdued="#59637a",
        body_text_color_subdued_dark="#9aa4b8",
        background_fill_secondary="#ffffff",
        background_fill_secondary_dark="#171b24",
        block_background_fill="#ffffff",
        block_background_fill_dark="#171b24",
        block_border_width="1px",
        block_border_color="#e3e6ec",
        block_border_color_dark="#2a303c",
        block_label_background_fill="transparent",
        block_label_background_fill_dark="transparent",
        block_title_text_weight="600",
        block_title_text_size="13px",
        block_title_text_color="*body_text_color",
        block_title_text_color_dark="*body_text_color",
        block_info_text_size="12px",
        block_info_text_color="*body_text_color_subdued",
        block_info_text_color_dark="*body_text_color_subdued",
        block_label_text_color="*body_text_color_subdued",
        block_padding="10px 12px",
        border_color_primary="#e3e6ec",
        border_color_primary_dark="#2a303c",
        input_background_fill="#ffffff",
        input_background_fill_dark="#0e1117",
        input_border_color="#cfd5df",
        input_border_color_dark="#3a4252",
        input_border_width="1px",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_600",
        button_primary_text_color="#ffffff",
        button_secondary_background_fill="#ffffff",
        button_secondary_background_fill_dark="#222836",
        button_secondary_background_fill_hover="#eef0f5",
        button_secondary_border_color="#cfd5df",
        button_secondary_border_color_dark="#3a4252",
        button_border_width="1px",
        button_large_text_weight="600",
        layout_gap="14px",
        form_gap_width="12px",
    )
