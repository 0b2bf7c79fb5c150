"""The page in several languages: what gradio sends once, and the language in which events run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr

from assistant_builder.i18n import ENGLISH, language, languages, negotiate, t, use_language
from assistant_builder.ui.html import Markup, join

CHOOSE = """element.addEventListener("change", (event) => {
  const url = new URL(window.location);
  url.searchParams.set("lang", event.target.value);
  window.location.assign(url);
});"""
"""``js_on_load`` of :func:`language_choice`: opens the page in the chosen language."""


class TranslatedBlocks(gr.Blocks):
    """Blocks that are sent in the language of the browser, and whose events run in it.

    Gradio builds components once, and its ``I18n`` translates labels in the browser by the browser's language alone,
    without counts and without a choice. Here they are built once for each language; of the further builds only the
    properties and scripts are kept, and components, events and state are those of the first one.
    """

    def __init__(self, **options: Any) -> None:
        self._english: Any = {}
        self._translated: dict[str, tuple[list[Any], list[Any]]] = {}
        super().__init__(**options)

    @property
    def config(self) -> Any:
        """Gradio's description of the page, in the current language."""
        if language() not in self._translated:
            return self._english
        properties, scripts = self._translated[language()]
        own = self._english
        return {
            **own,
            "components": [{**part, "props": props} for part, props in zip(own["components"], properties, strict=True)],
            "dependencies": [{**part, "js": script} for part, script in zip(own["dependencies"], scripts, strict=True)],
        }

    @config.setter
    def config(self, config: Any) -> None:
        self._english = config

    def translate(self, build: Callable[[], gr.Blocks]) -> None:
        """Add all further languages; ``build`` builds the same components in the current language."""
        for code in languages():
            if code != ENGLISH:
                with use_language(code):
                    built = build().config
                self._translated[code] = ([part["props"] for part in built["components"]],
                                          [part.get("js") for part in built["dependencies"]])

    async def process_api(self, *args: Any, **options: Any) -> Any:
        """Run an event in the language that its request asks for."""
        request = options.get("request")
        code = negotiate(request.headers.get("accept-language", "")) if isinstance(request, gr.Request) else language()
        with use_language(code):
            return await super().process_api(*args, **options)


def language_choice() -> Markup:
    """The list of languages, each in its own name, with the current one chosen."""
    option = Markup('<option value="{}" lang="{}"{}>{}</option>')
    options = join(option.format(code, code, Markup(" selected") if code == language() else "", name)
                   for code, name in languages().items())
    return Markup('<select aria-label="{}" translate="no">{}</select>').format(t("Language"), options)
