"""How the page looks: system fonts only, so that nothing is fetched from anywhere."""

from __future__ import annotations

from pathlib import Path

import gradio as gr

_STYLES = Path(__file__).parent / "styles"
STYLE_SHEETS = sorted(_STYLES.glob("*.css"), key=lambda path: (path.name != "page.css", path.name))
"""``page.css`` holds what all tabs share and comes first, the others what one tab needs."""
_FONTS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "sans-serif"]
_MONO = ["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace"]


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
