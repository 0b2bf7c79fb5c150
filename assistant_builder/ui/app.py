"""The page as a whole: a study chosen on top, five tabs under it, and a timer that follows the study's files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr
from starlette.middleware import Middleware

from assistant_builder.chat.client import WorkerPool
from assistant_builder.study import Study
from assistant_builder.ui.chat_tab import ChatTab
from assistant_builder.ui.data_tab import DataTab
from assistant_builder.ui.evaluate_tab import EvaluateTab
from assistant_builder.ui.policy import StayAtHome
from assistant_builder.ui.report_tab import ReportTab
from assistant_builder.ui.sections import Look, Section, refresh
from assistant_builder.ui.snapshots import state_of
from assistant_builder.ui.theme import STYLE_SHEETS, make_theme
from assistant_builder.ui.train_tab import TrainTab
from assistant_builder.ui.views.study import damaged, no_study, picker_label, study_strip

TABS = ("data", "train", "evaluate", "chat", "report")
POLL_SECONDS = 1.0
LIST_SECONDS = 5.0
LARGEST_UPLOAD = "500mb"
_BRAND = """<div class="ab-brand"><svg viewBox="0 0 40 40" aria-hidden="true"><rect x="2" y="2" width="36" height="36"
rx="9"/><path d="M11 27V13l9 9 9-9v14"/></svg><div><h1>Assistant Builder</h1><p>One dataset, two assistants: 4-bit QLoRA
and its 16-bit twin, measured against each other.</p></div></div>"""
_REMEMBER = """(name) => {{ if (!window.abArrived) return; const url = new URL(window.location);
url.searchParams.set("{key}", {value}); window.history.replaceState(null, "", url); }}"""
_ARRIVED = "() => { window.abArrived = true; }"
"""Until the page has read its address, the tab that opens first must not write itself into it."""


def studies() -> list[tuple[str, str]]:
    """Every study with its state, the last changed first, as choices of the picker."""
    return [(picker_label(study.name, state_of(study)), study.name) for study in Study.all()]


def build_app(pool: WorkerPool | None = None) -> gr.Blocks:
    """Build the page; :func:`launch` serves it.

    Args:
        pool: Starts the chat's worker process; by default the one that loads the models.
    """
    pool = pool or WorkerPool()
    with gr.Blocks(title="Assistant Builder", analytics_enabled=False, delete_cache=(3600, 86_400)) as demo:
        with gr.Row(elem_id="ab-top"):
            gr.HTML(_BRAND)
            picker = gr.Dropdown(
                studies(), value=None, label="Study", interactive=True, min_width=260, elem_id="ab-picker"
            )
            new = gr.Button("New study", size="sm", min_width=110, scale=0, elem_id="ab-new")
        strip = gr.HTML(no_study(), elem_id="ab-strip")
        with gr.Tabs(elem_id="ab-tabs") as tabs:
            opened = {name: gr.Tab(name.capitalize(), id=name) for name in TABS}
            with opened["data"]:
                data = DataTab()
            with opened["train"]:
                train = TrainTab()
            with opened["evaluate"]:
                evaluate = EvaluateTab()
            with opened["chat"]:
                chat = ChatTab(pool)
            with opened["report"]:
                report = ReportTab()
        sections = [Section("strip", [strip], lambda look: look.mark, _draw_strip)]
        for tab in (data, train, evaluate, chat, report):
            sections += tab.sections()
        for tab in (data, train, evaluate, chat):
            tab.wire(picker, tabs)
        _follow(demo, picker, new, tabs, opened, sections)
    return demo


def _draw_strip(look: Look) -> Sequence[Any]:
    if look.study is not None and look.snapshot is not None:
        return [study_strip(look.snapshot)]
    return [damaged(look.name or "", look.error) if look.error else no_study()]


def _follow(
    demo: gr.Blocks, picker: gr.Dropdown, new: gr.Button, tabs: gr.Tabs, opened: dict[str, gr.Tab],
    sections: list[Section],
) -> None:
    """Keep everything up to date with the chosen study, and the choice in the address of the page."""
    seen = gr.State({})
    outputs = [seen, *(output for section in sections for output in section.outputs)]

    def follow(name: str | None, marks: dict[str, str]) -> list[Any]:
        return refresh(sections, name, marks)

    def arrive(request: gr.Request) -> list[Any]:
        choices = studies()
        name = chosen(request.query_params.get("study"), [name for _, name in choices])
        tab = request.query_params.get("tab")
        return [
            gr.update(choices=choices, value=name), gr.Tabs(selected=tab if tab in TABS else "data"),
            *refresh(sections, name, {}),
        ]

    # Not queued: the queue keeps a record of every event, and the timers make one a second.
    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "queue": False}
    demo.load(arrive, None, [picker, tabs, *outputs], **quiet).then(None, None, None, js=_ARRIVED)
    picker.change(follow, [picker, seen], outputs, trigger_mode="always_last", **quiet)
    picker.change(None, picker, None, js=_REMEMBER.format(key="study", value='name ?? ""'))
    gr.Timer(POLL_SECONDS).tick(follow, [picker, seen], outputs, **quiet)
    gr.Timer(LIST_SECONDS).tick(lambda name: gr.update(choices=studies(), value=name), picker, picker, **quiet)
    new.click(lambda: (gr.update(value=None), gr.Tabs(selected="data")), None, [picker, tabs], **quiet)
    for name, tab in opened.items():
        tab.select(None, None, None, js=_REMEMBER.format(key="tab", value=f'"{name}"'))


def chosen(asked: str | None, names: Sequence[str]) -> str | None:
    """The study that the page opens on.

    Args:
        asked: ``study`` of the page's address; empty for a new study, None where it does not say.
        names: The studies, the last changed first.
    """
    if asked is not None:
        return asked if asked in names else None
    return names[0] if names else None


def launch(host: str = "127.0.0.1", port: int = 7860, auth: tuple[str, str] | None = None) -> None:
    """Serve the page until it is interrupted.

    Args:
        host: Address to bind to; the default is reachable from this machine only.
        port: Port.
        auth: User and password, where more than this machine can reach it.
    """
    serve(build_app(), host, port, auth)


def serve(
    demo: gr.Blocks, host: str, port: int, auth: tuple[str, str] | None = None, *, block: bool = True
) -> None:
    """Serve a built page; see :func:`launch`.

    Args:
        demo: The page.
        host: As in :func:`launch`.
        port: As in :func:`launch`.
        auth: As in :func:`launch`.
        block: Return when it is interrupted; else at once, and serve from threads.
    """
    if block:
        print(f"Assistant Builder is at http://{host}:{port} (Ctrl-C ends the page; runs go on)", flush=True)
    demo.queue(default_concurrency_limit=8).launch(
        server_name=host,
        server_port=port,
        auth=auth,
        prevent_thread_lock=not block,
        theme=make_theme(),
        css_paths=STYLE_SHEETS,
        app_kwargs={"middleware": [Middleware(StayAtHome)]},
        footer_links=[],
        quiet=True,
        max_file_size=LARGEST_UPLOAD,
        ssr_mode=False,
        share=False,
        show_error=False,
        enable_monitoring=False,
        run_history=False,
        mcp_server=False,
        pwa=False,
    )
