"""The form of the home screen that compares two models on the user's own questions."""

from __future__ import annotations

import atexit
import os
from pathlib import Path
from typing import Any

import gradio as gr
from markupsafe import Markup

from assistant_builder.atomic_io import read_json
from assistant_builder.errors import AssistantBuilderError, ConfigError
from assistant_builder.i18n import m, render, t
from assistant_builder.ui.html import callout, error_callout, fold, fragment, join, report_frame
from assistant_builder.ui.refresh import QUIET, LiveRegion, StudyView, Updates, Values, is_local
from assistant_builder.ui.study_snapshot import stamp
from assistant_builder.ui.uploads import offer
from evals.model_compare.process import Comparisons, latest_report

COMPARISONS = Comparisons()
"""The comparison that this page runs."""
atexit.register(COMPARISONS.stop)
_HUB_ID, _GGUF_FILE = "HuggingFaceTB/SmolLM2-360M-Instruct", "model-Q4_K_M.gguf"
_LONGEST = 1_000
"""Characters of the name of a model."""
_FILES = [".csv", ".tsv", ".json", ".jsonl", ".xlsx", ".parquet"]


class ModelComparison:
    """Components of the form, created in the open column."""

    def __init__(self) -> None:
        with gr.Accordion(
            t("Compare two models on my questions"), open=False, elem_id="ab-judge"
        ) as self.body:
            gr.HTML(fragment("home.judge"))
            self.file = gr.File(
                label=t("Questions with reference answers"),
                file_types=_FILES,
                height=120,
                elem_id="ab-judge-file",
            )
            with gr.Row():
                self.first = gr.Textbox(
                    label=t("Reference model"),
                    placeholder=_HUB_ID,
                    elem_id="ab-judge-first",
                )
                self.second = gr.Textbox(
                    label=t("Compared with it"),
                    placeholder=_GGUF_FILE,
                    elem_id="ab-judge-second",
                )
            with gr.Row(elem_classes="ab-actions"):
                self.start = gr.Button(t("Compare"), variant="primary", elem_id="ab-judge-start")
                self.stop = gr.Button(t("Stop"), variant="stop", visible=False)
                self.download = gr.DownloadButton(
                    t("Download the report"), size="sm", visible=False
                )
            self.shown = gr.HTML(elem_id="ab-judge-state")

    @property
    def _outputs(self) -> list[Any]:
        return [self.shown, self.start, self.stop, self.download]

    def section(self) -> LiveRegion:
        """The region that follows the comparison."""

        def mark(view: StudyView) -> str:
            if view.name is not None:
                return "hidden"
            latest = latest_report()
            return f"{COMPARISONS.state!r}:{stamp([latest] if latest else [])}"

        return LiveRegion("judge", self._outputs, mark, lambda view: self._draw(view.name))

    def _draw(self, name: str | None = None) -> Updates:
        if name is not None:
            return {}
        state, report = COMPARISONS.state, latest_report()
        running = state.phase == "running"
        page = report.with_name("report.html") if report else None
        return {
            self.shown: comparison_view(),
            self.start: gr.update(visible=not running),
            self.stop: gr.update(visible=running),
            self.download: gr.update(
                value=offer(page, f"{page.parent.name}.html") if page else None,
                visible=page is not None and not running,
            ),
        }

    def wire(self) -> None:
        """Connect the buttons."""
        fields = {self.file, self.first, self.second}

        def begin(values: Values, request: gr.Request) -> Updates:
            return self._begin(values, local=is_local(request))

        self.start.click(begin, fields, self._outputs, **QUIET)
        self.stop.click(self._end, None, self._outputs, **QUIET)

    def _begin(self, values: Values, *, local: bool) -> Updates:
        file = values[self.file]
        words = [(values[field] or "").strip() for field in (self.first, self.second)]
        try:
            if not file or not all(words):
                raise ConfigError(
                    m("the file or a model is missing"),
                    remedy=m("Upload the questions, and name both models"),
                )
            for word in words:
                if len(word) > _LONGEST or not word.isprintable():  # of no command line
                    raise ConfigError(
                        m("a value of this form is of a wrong type"), remedy=m("Reload the page")
                    )
                if not local and _names_a_file(word):
                    raise ConfigError(
                        m("{word} is a file of the computer that runs this page", word=word),
                        remedy=m("Name a hub id or MODEL@URL, or open the page on that computer"),
                    )
            COMPARISONS.start(Path(file), words)
        except AssistantBuilderError as error:
            return {self.shown: error_callout(error.to_record())}
        return self._draw()

    def _end(self) -> Updates:
        COMPARISONS.stop()
        return self._draw()


def _names_a_file(word: str) -> bool:
    """Whether a word names a file or folder of this computer and no address of a model."""
    if "@http://" in word or "@https://" in word:
        return False
    path = Path(os.path.expanduser(word))
    endings = (".gguf", ".json", ".jsonl", ".eval")
    return path.is_absolute() or path.suffix.lower() in endings or os.path.exists(path)


def comparison_view() -> Markup:
    """The state of the comparison, and the verdict of the last one that was finished."""
    state, latest = COMPARISONS.state, latest_report()
    if state.phase == "running":
        said = render(state.text) or t("Its libraries are being loaded")
        return callout("info", t("The models are being compared"), said)
    parts = [error_callout(state.error)] if state.error else []
    if latest is not None:
        parts.append(_verdict(latest))
    return join(parts)


def _verdict(path: Path) -> Markup:
    try:
        report = read_json(path, dict[str, Any])
        page = path.with_name("report.html").read_text(encoding="utf-8", errors="replace")
    except AssistantBuilderError as error:
        return error_callout(error.to_record())
    except OSError:
        return Markup("")
    return join(
        [
            callout(
                "info",
                t("Last comparison: {name}", name=path.parent.name),
                str(report.get("sentence", "")),
            ),
            fold(t("The report"), report_frame(page)),
        ]
    )
