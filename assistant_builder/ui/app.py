"""Build the page: the home screen, the tabs of the selected study, and the events that keep both up to date."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import gradio as gr

from assistant_builder.chat.client import WorkerPool
from assistant_builder.devices import driver_present
from assistant_builder.errors import AssistantBuilderError
from assistant_builder.forking import CHAT, Preloaded
from assistant_builder.i18n import ENGLISH, N_, language, t, use_language
from assistant_builder.retrieval.own_questions import takes_own_questions
from assistant_builder.study.admin import purge_deleted
from assistant_builder.ui.chat.tab import ChatTab, can_answer
from assistant_builder.ui.data.tab import DataTab
from assistant_builder.ui.evaluate.tab import EvaluateTab
from assistant_builder.ui.export.tab import ExportTab
from assistant_builder.ui.export.use import resume_websites
from assistant_builder.ui.home.tab import NEW_STUDY, HomeScreen
from assistant_builder.ui.home.view import PROMISE, list_studies
from assistant_builder.ui.html import FIT_CHARTS, callout, fragment
from assistant_builder.ui.inbox.tab import InboxTab, has_inbox
from assistant_builder.ui.languages import CHOOSE, TranslatedBlocks, language_choice
from assistant_builder.ui.plan.tab import PlanTab
from assistant_builder.ui.refresh import (
    POLL_SCRIPT,
    QUIET,
    REFRESH_BUTTON_ID,
    STORE_VERSION_SCRIPT,
    LiveRegion,
    Page,
    StudyView,
    Updates,
    is_local,
    refresh,
)
from assistant_builder.ui.report.tab import ReportTab
from assistant_builder.ui.server import serve_page
from assistant_builder.ui.study_snapshot import (
    damaged_strip,
    new_study_strip,
    picker_label,
    report_conclusion,
    study_report,
    study_strip,
)
from assistant_builder.ui.tabs import TABS, Tab, TabContent
from assistant_builder.ui.train.tab import TrainTab
from assistant_builder.ui.uploads import uploads_folder
from assistant_builder.web.access import Access

LIST_SECONDS = 5.0
_OPEN_TAB = """element.addEventListener("click", (event) => {
  const tab = event.target.closest("button[data-tab]")?.dataset.tab;
  if (tab) document.querySelector(`#ab-tabs [role="tab"][data-tab-id="${tab}"]`)?.click();
});"""
_RETURN_ID = "ab-return"
_ADDRESS_SCRIPT = (
    (Path(__file__).parent / "scripts" / "address.js")
    .read_text(encoding="utf-8")
    .replace("RETURN_ID", _RETURN_ID)
)


def study_choices() -> list[tuple[str, str]]:
    """(label, name) of a new study and of every study, the last changed first."""
    entries = list_studies().entries
    return [
        (t("New project…"), NEW_STUDY),
        *((picker_label(entry.title, entry.state), entry.name) for entry in entries),
    ]


def build_app(pool: WorkerPool | None = None) -> Page:
    """Build the page; ``pool`` starts the worker processes of the chat, by default those that load the models."""
    pool = pool or WorkerPool()
    uploads_folder()
    purge_deleted()
    resume_websites()
    with use_language(ENGLISH):
        demo, sections = _build(pool)
    return Page(demo, sections, lambda: _build(pool)[0])


def _build(pool: WorkerPool) -> tuple[TranslatedBlocks, list[LiveRegion]]:
    """Build the page in the current language, and return its regions as well."""
    with TranslatedBlocks(
        title="Assistant Builder", analytics_enabled=False, delete_cache=(3600, 86_400)
    ) as demo:
        with gr.Row(elem_id="ab-top"):
            gr.HTML(fragment("page.brand", t(PROMISE)))
            home_button = gr.Button(
                t("All projects"),
                size="sm",
                min_width=110,
                scale=0,
                visible=False,
                elem_id="ab-home",
            )
            picker = gr.Dropdown(
                study_choices(),
                value=None,
                label=t("Project"),
                show_label=False,
                container=False,
                interactive=True,
                min_width=160,
                visible=False,
                elem_id="ab-picker",
            )
            demo.picker = picker
            session = gr.HTML(visible=False, elem_id="ab-session")
            gr.HTML(language_choice(), js_on_load=CHOOSE, elem_id="ab-language")
        with gr.Column(elem_id="ab-overview") as overview:
            notice = gr.HTML(visible=False, elem_id="ab-notice")
            home = HomeScreen()
        with gr.Column(visible=False, elem_id="ab-study") as study:
            strip = gr.HTML(new_study_strip(), js_on_load=_OPEN_TAB, elem_id="ab-strip")
            with gr.Tabs(elem_id="ab-tabs", overflow_behavior="wrap") as tabs:
                steps = StudyTabs(pool)
        sections = [
            LiveRegion(
                "frame", [overview, study, picker, home_button, notice], _frame_mark, _draw_frame
            ),
            LiveRegion("strip", [strip], lambda look: look.mark, _draw_strip),
            *home.sections(),
            *steps.sections(),
        ]
        home.wire(picker, tabs)
        steps.wire(picker, tabs)
        _follow(demo, picker, home_button, tabs, [*steps.items.values()], notice, sections)
        demo.load(_session, None, session, queue=False, **QUIET)
    return demo, sections


def _session(request: gr.Request) -> Any:
    """The name of the user with a logout button; nothing without a login."""
    if not request.username:
        return gr.skip()
    return gr.update(value=fragment("page.session", request.username), visible=True)


class StudyTabs:
    """The tabs of :data:`TABS`, each with a button that opens the next one."""

    def __init__(self, pool: WorkerPool) -> None:
        entries = list(TABS.values())
        self.items = {entry.name: gr.Tab(entry.title, id=entry.name) for entry in entries}
        self.tabs: dict[str, TabContent] = {}
        self.next_buttons: list[tuple[str, gr.Button]] = []  # each with the tab that it opens
        for place, entry in enumerate(entries, start=1):
            following = next((later for later in entries[place:] if not later.optional), None)
            with self.items[entry.name]:
                self.tabs[entry.name] = entry.build(pool)
                if following:
                    with gr.Row(elem_classes="ab-onward"):
                        self.next_buttons.append(
                            (
                                following.name,
                                gr.Button(
                                    t("Next: {title} →", title=following.title),
                                    visible=False,
                                    elem_id=f"ab-after-{entry.name}",
                                ),
                            )
                        )

    def sections(self) -> list[LiveRegion]:
        """Regions that follow the selected study."""
        outputs = [*self.items.values(), *(button for _, button in self.next_buttons)]
        found = [LiveRegion("steps", outputs, _steps_mark, self._draw)]
        for tab in self.tabs.values():
            found += tab.sections()
        return found

    def _draw(self, look: StudyView) -> Updates:
        ready = ready_steps(look)
        return {
            **{
                tab: gr.update(interactive=name in ready, label=TABS[name].shown_title(look))
                for name, tab in self.items.items()
            },
            **{button: gr.update(visible=name in ready) for name, button in self.next_buttons},
        }

    def wire(self, picker: gr.Dropdown, tabs: gr.Tabs) -> None:
        """Connect the events of the tabs and of the buttons between them."""
        for tab in self.tabs.values():
            tab.wire(picker, tabs)
        for name, button in self.next_buttons:
            button.click(partial(gr.Tabs, selected=name), None, tabs, queue=False, **QUIET)
        for name, opened in self.items.items():
            opened.select(
                None,
                None,
                None,
                js=f"() => {{ window.abAddress?.showTab('{name}'); {FIT_CHARTS} }}",
            )


def ready_steps(look: StudyView) -> set[str]:
    """Names of the tabs that can be opened for the study."""
    return {tab.name for tab in TABS.values() if tab.ready(look)}


def _steps_mark(look: StudyView) -> str:
    ready = ready_steps(look)
    return " ".join(tab.shown_title(look) for tab in TABS.values() if tab.name in ready)


def _is_done(step: str) -> Callable[[StudyView], bool]:
    def done(look: StudyView) -> bool:
        try:
            return look.study is not None and look.study.step(step).state == "succeeded"
        except AssistantBuilderError:
            return False

    return done


def _takes_questions(look: StudyView) -> bool:
    try:
        return look.study is not None and takes_own_questions(look.study)
    except AssistantBuilderError:
        return False


def _has_report(look: StudyView) -> bool:
    return look.study is not None and (look.study.folder / "report.html").is_file()


DATA_TAB = Tab(
    "data", lambda pool: DataTab(), label=N_("Data"), ready=lambda look: True, done=_is_done("data")
)
PLAN_TAB = Tab("plan", lambda pool: PlanTab(), label=N_("Plan"), optional=True)
TRAIN_TAB = Tab("train", lambda pool: TrainTab(), label=N_("Train"), done=lambda look: look.trained)
EVALUATE_TAB = Tab(
    "evaluate",
    EvaluateTab,
    label=N_("Results"),
    ready=lambda look: look.trained or _has_report(look) or _takes_questions(look),
    done=_is_done("evaluate"),
)
CHAT_TAB = Tab("chat", ChatTab, label=N_("Chat"), ready=can_answer)
REPORT_TAB = Tab(
    "report", lambda pool: ReportTab(), label=N_("Report"), ready=_has_report, done=_has_report
)
EXPORT_TAB = Tab("export", lambda pool: ExportTab(), ready=can_answer, label=N_("Use it"))
INBOX_TAB = Tab("inbox", lambda pool: InboxTab(), ready=has_inbox, label=N_("Inbox"))


@lru_cache(maxsize=8)
def _choices_text(tick: int, language: str) -> str:
    """:func:`study_choices` as text, read once per :data:`LIST_SECONDS` for all browser windows of a language."""
    return repr(study_choices())


def _frame_mark(look: StudyView) -> str:
    return (
        "home"
        if look.name is None
        else _choices_text(int(time.monotonic() / LIST_SECONDS), language())
    )


def _draw_frame(look: StudyView) -> Sequence[Any]:
    if look.name is None:
        return [gr.update(visible=True), *[gr.update(visible=False)] * 3, gr.skip()]
    return [
        gr.update(visible=False),
        gr.update(visible=True),
        gr.update(visible=True, choices=study_choices()),
        gr.update(visible=True),
        gr.update(visible=False),
    ]


def _draw_strip(look: StudyView) -> Sequence[Any]:
    if look.study is not None and look.snapshot is not None:
        report = study_report(look.study)
        return [study_strip(look.snapshot, report_conclusion(report) if report else None)]
    return [damaged_strip(look.name or "", look.error) if look.error else new_study_strip()]


def _follow(
    demo: gr.Blocks,
    picker: gr.Dropdown,
    home_button: gr.Button,
    tabs: gr.Tabs,
    items: list[gr.Tab],
    notice: gr.HTML,
    sections: list[LiveRegion],
) -> None:
    """Redraw the regions when the selected study changes, and keep the address of the page in step with it."""
    # The browser window stores the versions that it shows: responses in the wrong order are corrected by the next poll.
    seen = gr.Textbox("", visible="hidden")
    outputs = [seen, *(output for section in sections for output in section.outputs)]
    address, opened_tab = gr.Textbox("", visible="hidden"), gr.Textbox("", visible="hidden")
    place = [picker, tabs, notice, opened_tab]

    def follow(name: str | None, versions: str, request: gr.Request) -> list[Any]:
        if not versions:  # the page has not read its URL yet
            return [gr.skip()] * len(outputs)
        return refresh(sections, name, versions, local=is_local(request))

    def arrive(request: gr.Request) -> list[Any]:
        name, opened = _opened(request.query_params)
        return [*refresh(sections, name, "", local=is_local(request)), *opened]

    def come_back(address: Any) -> list[Any]:
        return _opened(dict(parse_qsl(str(address).removeprefix("?"), keep_blank_values=True)))[1]

    # Not queued: the queue records every event, and a running study causes one per second.
    # By default gradio sets the status of every output at each state of an event, and each takes a walk through all
    # components. The tabs need it: of several that one event disables, gradio 6.31 disables only the last.
    quiet = {**QUIET, "queue": False, "show_progress_on": [seen, *items]}
    refresh_button = gr.Button("Refresh", visible="hidden", elem_id=REFRESH_BUTTON_ID)
    return_button = gr.Button("Return", visible="hidden", elem_id=_RETURN_ID)
    titles = json.dumps(
        {"": t("New project"), **{tab.name: tab.title for tab in TABS.values()}}, ensure_ascii=False
    )
    # Before the page has read its URL, the tab that opens first must not write itself into it.
    demo.load(arrive, None, [*outputs, *place], **quiet).then(
        None, [picker, opened_tab], None, js=_ADDRESS_SCRIPT.replace("TITLES", titles)
    ).then(None, None, None, js=POLL_SCRIPT)
    seen.change(None, seen, None, js=STORE_VERSION_SCRIPT)
    picker.change(follow, [picker, seen], outputs, trigger_mode="always_last", **quiet)
    picker.change(None, picker, None, js="(name) => window.abAddress?.show(name)")
    refresh_button.click(follow, [picker, seen], outputs, **quiet)
    return_button.click(
        come_back,
        address,
        place,
        js="() => [window.location.search]",
        trigger_mode="always_last",
        **quiet,
    ).then(
        None, [picker, opened_tab], None, js="(name, tab) => window.abAddress.arrived(name, tab)"
    )
    home_button.click(lambda: gr.update(value=None), None, picker, **quiet)


def _opened(address: Mapping[str, str]) -> tuple[str | None, list[Any]]:
    """The study that an address names, and updates of picker, tabs, notice on the home screen, and name of the tab."""
    offered, requested = study_choices(), address.get("study")
    name = requested if requested in [name for _, name in offered] else None
    missing = requested is not None and name is None
    notice = (
        callout(
            "warn",
            t("There is no project “{requested}”", requested=requested),
            t("It was renamed or deleted, or the address is wrong."),
            t("Choose one of the projects below."),
        )
        if missing
        else ""
    )
    opened = address.get("tab", "")
    tab = opened if opened in ready_steps(StudyView(name)) else "data"
    return name, [
        gr.update(choices=offered, value=name),
        gr.Tabs(selected=tab),
        gr.update(value=notice, visible=missing),
        tab,
    ]


def launch(access: Access) -> None:
    """Build and serve the page until it is interrupted; the libraries of the chat are imported meanwhile."""
    preloaded = Preloaded.where_safe(CHAT, gpu_driver=driver_present())
    serve_page(lambda: build_app(WorkerPool(preloaded=preloaded)), access)
