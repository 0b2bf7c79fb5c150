"""The page in several languages: what gradio sends once, and the language in which events run."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import gradio as gr

from assistant_builder.error_translation import translate_error
from assistant_builder.errors import AssistantBuilderError, StudyError
from assistant_builder.i18n import (
    ENGLISH,
    language,
    languages,
    m,
    negotiate,
    t,
    use_language,
    use_words,
)
from assistant_builder.quantization import texts_of
from assistant_builder.study import Study
from assistant_builder.ui.gradio_internals import event_values
from assistant_builder.ui.html import Markup, fragment, pop_up_titles, toast
from assistant_builder.ui.settings_form import PAGE_WORDS

_log = logging.getLogger(__name__)
CHOOSE = """element.addEventListener("change", (event) => {
  const url = new URL(window.location);
  url.searchParams.set("lang", event.target.value);
  window.location.assign(url);
});"""
"""``js_on_load`` of :func:`language_choice`: opens the page in the chosen language."""


def event_error(error: BaseException) -> gr.Error:
    """An error of an event as a message with its remedy; only errors that no user can remedy are logged."""
    if isinstance(error, AssistantBuilderError | OSError | MemoryError):
        translated = translate_error(error)
        text = toast(translated.what, translated.remedy)
    else:
        _log.error("the page failed", exc_info=error)
        text = toast(
            t("the page failed: {error!r}", error=error),
            t("The terminal that runs the page shows more"),
        )
    return gr.Error(text, print_exception=False, title=pop_up_titles()["error"])


class _EventValues(dict[str, Any]):
    """What a browser sends about an event; entries that it did not send are None."""

    def __contains__(self, name: object) -> bool:
        return True

    def __missing__(self, name: str) -> None:
        return None


class TranslatedBlocks(gr.Blocks):
    """Blocks that are sent in the language of the browser, and whose events run in it.

    Gradio builds components once, and its ``I18n`` translates labels in the browser by the browser's language alone,
    without counts and without a choice. Here they are built once for each language; of the further builds only the
    properties and scripts are kept, and components, events and state are those of the first one.

    Attributes:
        picker: The component whose value is the name of the chosen study, or None.
    """

    def __init__(self, **options: Any) -> None:
        self._english: Any = {}
        self._translated: dict[str, tuple[list[Any], list[Any]]] = {}
        self.picker: Any = None
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
            "components": [
                {**part, "props": props}
                for part, props in zip(own["components"], properties, strict=True)
            ],
            "dependencies": [
                {**part, "js": script}
                for part, script in zip(own["dependencies"], scripts, strict=True)
            ],
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
                self._translated[code] = (
                    [part["props"] for part in built["components"]],
                    [part.get("js") for part in built["dependencies"]],
                )

    async def process_api(self, block_fn: Any, inputs: Any, *args: Any, **options: Any) -> Any:
        """Run an event in the language that its request asks for, with texts for the storage of the chosen study."""
        request = options.get("request")
        code = (
            negotiate(request.headers.get("accept-language", ""))
            if isinstance(request, gr.Request)
            else language()
        )
        event = options.get("event_data")
        if event is not None:
            options["event_data"] = gr.EventData(event.target, _EventValues(event_values(event)))
        with use_language(code), use_words(PAGE_WORDS), self._texts_of_study(block_fn, inputs):
            return await super().process_api(block_fn, inputs, *args, **options)

    async def preprocess_data(self, block_fn: Any, inputs: Any, *args: Any, **options: Any) -> Any:
        """Check the values of an event; those that its components cannot have are refused without a traceback."""
        try:
            given = [
                "" if value is None and isinstance(part, gr.Textbox) else value
                for part, value in zip(block_fn.inputs, inputs, strict=False)
            ]
            return await super().preprocess_data(block_fn, given, *args, **options)
        except (AssistantBuilderError, OSError, MemoryError) as error:
            raise event_error(error) from error
        except Exception as error:
            refusal = StudyError(
                m("a value of this form is of a wrong type"), remedy=m("Reload the page")
            )
            raise event_error(refusal) from error

    async def call_function(self, block_fn: Any, *args: Any, **options: Any) -> Any:
        """Run the function of an event; every error of it becomes a message."""
        try:
            return await super().call_function(block_fn, *args, **options)
        except gr.Error:
            raise
        except Exception as error:
            raise event_error(error) from error

    def _texts_of_study(self, block_fn: Any, inputs: Any) -> AbstractContextManager[None]:
        """Texts that name the bits of the study that ``picker``, an input of the event, has chosen."""
        event = self.fns.get(block_fn) if isinstance(block_fn, int) else block_fn
        parts = () if event is None else zip(event.inputs, inputs, strict=False)
        name = next((value for part, value in parts if part is self.picker), None)
        if not isinstance(name, str) or not name:
            return nullcontext()
        try:
            return texts_of(Study.open(name).config.model.quant_type)
        except AssistantBuilderError:  # the event says why
            return nullcontext()


def language_choice() -> Markup:
    """The list of languages, each in its own name, with the current one chosen."""
    return fragment("page.languages", languages(), language())
