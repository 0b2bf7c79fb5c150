"""The cards of the tab “Use it”: an endpoint on this computer, Ollama, a website, other programs, and a folder."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr

from assistant_builder.errors import AssistantBuilderError, ConfigError
from assistant_builder.export.export import read_export
from assistant_builder.export.job import ZIP_LIMIT, ExportJob
from assistant_builder.export_formats import ExportSpec, advice, shipped_file
from assistant_builder.i18n import N_, m, t
from assistant_builder.retrieval.copying import COPY
from assistant_builder.retrieval.promise import promised_threshold
from assistant_builder.serving.endpoint_process import Endpoints, EndpointState, Websites
from assistant_builder.serving.website import Website
from assistant_builder.study import Study
from assistant_builder.study.versions import root_of, served_version
from assistant_builder.ui.export.view import (
    ENDPOINT_STARTS,
    endpoint_card,
    job_card,
    not_ready_warning,
    website_view,
)
from assistant_builder.ui.html import copy_script, error_callout
from assistant_builder.ui.refresh import QUIET, LiveRegion, StudyView, Updates, is_local
from assistant_builder.ui.study_snapshot import (
    answering_arms,
    audience_of_copies,
    log_tail,
    report_conclusion,
    stamp,
    study_report,
)
from assistant_builder.ui.uploads import offer
from evals.report.number_format import size


class EndpointCards:
    """Cards that start the endpoint of the recommended assistant and show how programs reach it.

    They share one endpoint. A card is open once its own button was pressed; the endpoint ends with the last open card.
    """

    def __init__(self, endpoints: Endpoints) -> None:
        self._endpoints = endpoints
        self._open: dict[str, set[str]] = {}  # study → cards
        self._shown: dict[str, gr.HTML] = {}
        self._starts: dict[str, gr.Button] = {}
        self._stops: dict[str, gr.Button] = {}

    def place(self, key: str, more: Callable[[], object] = lambda: None) -> None:
        """Place one of :data:`ENDPOINT_STARTS`, and ``more`` below it."""
        with gr.Column(elem_classes="ab-use-card", elem_id=f"ab-use-{key}"):
            self._shown[key] = gr.HTML(js_on_load=copy_script())
            self._starts[key] = gr.Button(
                t(ENDPOINT_STARTS[key]), variant="primary", elem_id=f"ab-use-{key}-start"
            )
            self._stops[key] = gr.Button(
                t("Stop"), variant="stop", visible=False, elem_id=f"ab-use-{key}-stop"
            )
            more()

    @property
    def outputs(self) -> list[Any]:
        """The components that :meth:`updates` sets."""
        return [*self._shown.values(), *self._starts.values(), *self._stops.values()]

    def section(self) -> LiveRegion:
        """The region that follows the endpoint."""
        return LiveRegion(
            "use-endpoint",
            self.outputs,
            lambda view: (
                f"{view.name}:{self._endpoints.state(view.name)}:{self._opened(view.name)}:{self._newer(view.name)}"
            ),
            lambda view: self.updates(view.name, local=view.local),
        )

    def _newer(self, name: str | None) -> bool:
        """Whether the endpoint copies answers, and an assistant was trained since that is shown to be better."""
        if self._endpoints.state(name).arm != COPY:
            return False
        try:
            return answering_assistant(Study.open(name or "").recommended) != COPY
        except AssistantBuilderError:  # deleted while its endpoint runs
            return False

    def _opened(self, name: str | None) -> list[str]:
        return sorted(self._open.get(name or "", ()))

    def updates(self, name: str | None, *, local: bool) -> Updates:
        """Show the state of the endpoint; ``local``: the browser is on the computer that runs the page."""
        state, opened = self._endpoints.state(name), self._opened(name)
        busy = opened if state.phase in ("starting", "running") else []
        closed, newer = EndpointState(), self._newer(name)
        return {
            **{
                card: endpoint_card(
                    key, state if key in opened else closed, name or "", local=local, newer=newer
                )
                for key, card in self._shown.items()
            },
            **{each: gr.update(visible=key not in busy) for key, each in self._starts.items()},
            **{each: gr.update(visible=key in busy) for key, each in self._stops.items()},
        }

    def wire(self, picker: gr.Dropdown) -> None:
        """Connect the buttons."""
        for key, button in self._starts.items():
            button.click(_of_card(self._start, key), picker, self.outputs, **QUIET)
        for key, button in self._stops.items():
            button.click(_of_card(self._end, key), picker, self.outputs, **QUIET)

    def _start(self, key: str, name: str | None, request: gr.Request) -> Updates:
        study = Study.open(name or "").recommended
        if self._endpoints.state(name).phase in ("starting", "running"):
            self._open.setdefault(name or "", set()).add(key)
        else:
            self._open[name or ""] = {key}
            self._endpoints.start(study, answering_assistant(study))
        return self.updates(name, local=is_local(request))

    def _end(self, key: str, name: str | None, request: gr.Request) -> Updates:
        opened = self._open.setdefault(name or "", set())
        opened.discard(key)
        if not opened:
            self._endpoints.stop(name or "")
        return self.updates(name, local=is_local(request))


def _of_card(
    act: Callable[[str, str | None, gr.Request], Updates], key: str
) -> Callable[[str | None, gr.Request], Updates]:
    def clicked(name: str | None, request: gr.Request) -> Updates:  # gradio reads the annotations
        return act(key, name, request)

    return clicked


def answering_assistant(study: Study, mode: str = "") -> str:
    """Who answers: ``mode`` copy or tuned, by default what the report recommends; before training, answers are copied.

    Returns:
        The recommended arm, or :data:`COPY`.
    """
    if not answering_arms(study) or mode == "copy" or (not mode and audience_of_copies(study)):
        return COPY
    return advice(study_report(study), study.config.arms).adapter


WEBSITES = Websites()
"""The bubbles on websites that this page serves."""


def resume_websites() -> None:
    """Serve the bubbles that were published on this computer, and were served when the page ended."""
    for study in Study.all():
        with contextlib.suppress(AssistantBuilderError):  # a damaged study, which the list shows
            website = Website.of(study)
            if website.is_published(study):
                version = served_version(study).recommended
                who = website.served or website.mode  # training changes nothing by itself
                WEBSITES.start(study, answering_assistant(version, who))


_SITE, _CHAT = "https://www.example.com", "https://chat.example.com"
_HELP = "help@example.com"


_TO_THE_LINE = """() => {
  const steps = document.getElementById("ab-website");
  const show = (tries) => {
    if (document.querySelector("#ab-website-refused .ab-callout")) return;
    if (steps.querySelector(".ab-callout")) steps.scrollIntoView({ block: "center" });
    else if (tries) setTimeout(show, 250, tries - 1);
  };
  show(40);
}"""
"""Shows the steps that are left, once the region above the form has them."""
_ANYWAY = N_("Put it on the website although no test shows that it is ready for customers")


def for_customers(study: Study, assistant: str) -> bool:
    """Whether the report of a study says that customers can be given an arm, or copied answers."""
    report = study_report(study) if answering_arms(study) else None
    conclusion = report_conclusion(report) if report else None
    if conclusion is None:
        return False
    audience = conclusion.copied if assistant == COPY else conclusion.audience
    return audience is not None and audience.who == "customers"


class WebsiteForm:
    """The fields with which a bubble is put on a website, without a terminal."""

    def __init__(self, websites: Websites) -> None:
        self._websites = websites

    def place(self) -> None:
        """Place the components."""
        self._shown = gr.HTML(js_on_load=copy_script(), elem_id="ab-website")
        with gr.Accordion(t("My website, and the address of the chat"), open=False) as self._fold:
            self._title = gr.Textbox(
                label=t("Name in the bubble"), max_length=80, elem_id="ab-website-title"
            )
            self._origin = gr.Textbox(
                label=t("Your website"),
                placeholder=_SITE,
                elem_id="ab-website-origin",
            )
            self._address = gr.Textbox(
                label=t("Address of the chat"),
                placeholder=_CHAT,
                info=t(
                    "An https address of your own, for example chat. before that of your website. How it leads to this "
                    "computer is said after the next button."
                ),
                elem_id="ab-website-address",
            )
            self._contact = gr.Textbox(
                label=t("Whom visitors can ask instead"),
                placeholder=_HELP,
                info=t("It is shown where the assistant declines."),
                max_length=200,
                elem_id="ab-website-contact",
            )
            self._examples = gr.Textbox(
                label=t("Example questions, one per line"),
                info=t(
                    "Visitors can click them. Without any, three short ones of your data are shown."
                ),
                lines=3,
                elem_id="ab-website-examples",
            )
            self._remember = gr.Checkbox(
                label=t("Keep what visitors ask, for the Inbox"),
                info=t("Without it the Inbox stays empty. The bubble tells visitors."),
                elem_id="ab-website-remember",
            )
            self._mode = gr.Radio(
                [(t("Copied answers"), "copy"), (t("The trained assistant"), "tuned")],
                label=t("Who answers"),
                visible=False,
                elem_id="ab-website-mode",
            )
            self._promise = gr.Checkbox(
                label=t("Keep the promise of the report"),
                info=t("It then declines more often; the report says how often."),
                elem_id="ab-website-promise",
            )
            self._anyway = gr.Checkbox(label=t(_ANYWAY), visible=False, elem_id="ab-website-anyway")
            self._start = gr.Button(t("Put it on my website"), elem_id="ab-website-start")
            self._end = gr.Button(
                t("Take it off"), variant="stop", visible=False, elem_id="ab-website-end"
            )
            self._refused = gr.HTML(elem_id="ab-website-refused")

    @property
    def _fields(self) -> list[Any]:
        plain = [self._title, self._origin, self._address, self._contact, self._examples]
        return [*plain, self._remember, self._mode, self._promise, self._anyway]

    @property
    def outputs(self) -> list[Any]:
        """The components that the region sets."""
        return [self._shown, self._fold, *self._fields, self._start, self._end]

    def section(self) -> LiveRegion:
        """The region that follows the settings and the process."""

        def mark(view: StudyView) -> str:
            root = root_of(view.study) if view.study else None
            reports = [each.folder / "report.json" for each in (root, view.study) if each]
            settings = stamp([root.folder / "website.json", *reports]) if root else ""
            return f"{view.name}:{view.trained}:{settings}:{self._websites.state(root.name if root else None)}"

        return LiveRegion("use-website", self.outputs, mark, self._draw)

    def _draw(self, view: StudyView) -> Updates:
        if view.study is None:
            return {self._shown: ""}
        root = root_of(view.study)
        try:
            website, version = Website.of(root), served_version(root).recommended
            assistant = answering_assistant(version, website.mode)
            promised = promised_threshold(version, assistant) is not None
            published = website.is_published(root)
        except AssistantBuilderError as error:
            return {self._shown: error_callout(error.to_record())}
        state = self._websites.state(root.name)
        on = state.phase in ("starting", "running")
        again = t("Serve it again with these values") if on else t("Put it on my website")
        good, trained = for_customers(version, assistant), bool(answering_arms(version))
        # a tick for another assistant says nothing
        same = state.arm == assistant if on else not trained
        return {
            self._shown: website_view(
                website,
                state,
                root,
                trained=assistant != COPY,
                customers=good,
                renewed=trained and version.config.trains_embedder,
            )
            if website.port
            else "",
            self._title: website.title or root.title,
            self._origin: website.origin,
            self._address: website.address,
            self._contact: website.contact,
            self._examples: "\n".join(version.config.retrieval.examples),
            self._remember: website.remember,
            self._promise: gr.update(value=version.config.retrieval.keep_promise, visible=promised),
            self._mode: gr.update(
                value="copy" if assistant == COPY else "tuned",
                info=t("The report recommends copied answers.")
                if answering_assistant(version) == COPY
                else t("The report recommends the trained assistant."),
                visible=trained,
            ),
            self._anyway: gr.update(value=(on or published) and same, visible=not good),
            self._start: again,
            self._end: gr.update(visible=on or published),
        }

    def wire(self, picker: gr.Dropdown) -> None:
        """Connect the buttons; the region redraws the form."""
        published = self._start.click(
            self._publish, [picker, *self._fields], self._refused, **QUIET
        )
        published.then(None, None, None, js=_TO_THE_LINE)
        self._end.click(self._withdraw, picker, self._refused, **QUIET)

    def _publish(self, name: str | None, *fields: Any) -> Any:
        study = root_of(Study.open(name or ""))
        title, origin, address, contact, examples, remember, mode, promise, anyway = fields
        try:
            version = served_version(study).recommended
            recommended = answering_assistant(version)
            chosen = answering_assistant(version, mode or "")
            website = replace(
                Website.of(study),
                title=title or "",
                origin=origin or "",
                address=address or "",
                contact=contact or "",
                remember=remember is True,
                mode="" if chosen == recommended else mode or "",
                served="copy" if chosen == COPY else "tuned",
            ).checked()
            if not (anyway is True or for_customers(version, chosen)):
                raise ConfigError(
                    m("no test shows yet that the assistant is ready for customers"),
                    remedy=m("Make it better, or tick “{anyway}”", anyway=m(_ANYWAY)),
                )
            changes = {
                "retrieval.keep_promise": promise is True,
                "retrieval.examples": [
                    line for line in (examples or "").splitlines() if line.strip()
                ],
            }
            if (changed := version.config.with_changes(changes)) != version.config:
                version.write_config(changed)
            self._websites.publish(study, website, chosen)
        except AssistantBuilderError as error:
            return error_callout(error.to_record())
        return ""

    def _withdraw(self, name: str | None) -> str:
        self._websites.withdraw(root_of(Study.open(name or "")))
        return ""


class JobCard:
    """A card that writes an export of the recommended assistant."""

    def __init__(self, key: str, start: str, spec_of: Callable[[Study], ExportSpec]) -> None:
        self._key, self._start_label, self._spec_of = key, start, spec_of
        with gr.Column(elem_classes="ab-use-card", elem_id=f"ab-use-{key}") as self._card:
            self._shown = gr.HTML(js_on_load=copy_script())
            self._download = gr.DownloadButton(t("Download"), variant="primary", visible=False)
            self._start = gr.Button(t(start), variant="primary", elem_id=f"ab-use-{key}-start")
            self._cancel = gr.Button(t("Cancel"), variant="stop", visible=False)

    @property
    def _outputs(self) -> list[Any]:
        return [self._shown, self._download, self._start, self._cancel, self._card]

    def section(self) -> LiveRegion:
        """The region that follows the export."""

        def mark(view: StudyView) -> str:
            if view.served is None or not view.trained:
                return f"{view.name}:nothing"
            job = ExportJob(view.served, self._spec_of(view.served))
            return (
                f"{view.stamp(job.status_file, 'report.json')}:{job.running}:{job.cancel_requested}"
            )

        return LiveRegion(
            f"use-{self._key}",
            self._outputs,
            mark,
            lambda view: self._updates(view.served if view.trained else None, local=view.local),
        )

    def _updates(self, study: Study | None, *, local: bool) -> Updates:
        if study is None:
            hidden = dict.fromkeys(self._outputs, gr.update(visible=False))
            return {**hidden, self._shown: ""}
        spec = self._spec_of(study)
        job = ExportJob(study, spec)
        record = job.record()
        export = (
            read_export(Path(record.target)) if record and record.state == "succeeded" else None
        )
        log = log_tail(job.log_file) if local else ""
        card = job_card(self._key, study, spec, record, export, log, local=local)
        start = t("Write it again") if export else t(self._start_label)
        return {
            self._shown: card,
            self._download: download_update(job, export),
            **job_buttons(job, self._start, self._cancel, start, written=bool(export)),
            self._card: gr.update(visible=True),
        }

    def wire(self, picker: gr.Dropdown) -> None:
        """Connect the buttons."""
        self._start.click(self._begin, picker, self._outputs, **QUIET)
        self._cancel.click(self._end, picker, self._cancel, **QUIET)

    def _begin(self, name: str | None, request: gr.Request) -> Updates:
        study = Study.open(name or "").recommended
        ExportJob(study, self._spec_of(study)).start(with_data=False)
        return self._updates(study, local=is_local(request))

    def _end(self, name: str | None) -> dict[str, Any]:
        study = Study.open(name or "").recommended
        ExportJob(study, self._spec_of(study)).request_cancel()
        return gr.update(value=t("Cancelling…"))


class UseCards:
    """All cards, and a warning above them if the assistant is not good enough."""

    def __init__(self, endpoints: Endpoints) -> None:
        self.warning = gr.HTML(elem_id="ab-use-warning")
        self.endpoint, self.website = EndpointCards(endpoints), WebsiteForm(WEBSITES)
        with gr.Row(elem_classes="ab-use"):
            with gr.Column(min_width=440):
                self.endpoint.place("website", self.website.place)
                self.endpoint.place("computer")
                self.endpoint.place("programs")
            with gr.Column(min_width=440):
                self.jobs = [JobCard("ollama", N_("Write the file for Ollama"), _ollama_spec)]
                self.jobs.append(JobCard("folder", N_("Make the folder"), _folder_spec))

    def sections(self) -> list[LiveRegion]:
        """The regions that follow the study."""
        return [
            LiveRegion(
                "use-warning",
                [self.warning],
                lambda view: f"{view.trained}:{view.stamp('report.json')}",
                self._draw_warning,
            ),
            self.endpoint.section(),
            self.website.section(),
            *(job.section() for job in self.jobs),
        ]

    def _draw_warning(self, view: StudyView) -> Updates:
        study = view.served
        if study is None:
            return {self.warning: ""}
        report = study_report(study) if view.trained else None
        return {self.warning: not_ready_warning(report, trained=view.trained)}

    def wire(self, picker: gr.Dropdown) -> None:
        """Connect the cards."""
        self.endpoint.wire(picker)
        self.website.wire(picker)
        for job in self.jobs:
            job.wire(picker)


def _ollama_spec(study: Study) -> ExportSpec:
    return shipped_file(study_report(study), study.config.arms)


def _folder_spec(study: Study) -> ExportSpec:
    """The recommended assistant as a complete model, which needs no other files."""
    return ExportSpec(advice(study_report(study), study.config.arms).merged, "merged")


def job_buttons(
    job: ExportJob, start: gr.Button, cancel: gr.Button, label: str, *, written: bool
) -> Updates:
    """The buttons that start an export, with this label, and cancel it."""
    record = job.record()
    busy = record is not None and record.state == "running"
    variant = "secondary" if written else "primary"
    cancelling = t("Cancelling…") if job.cancel_requested else t("Cancel")
    return {
        start: gr.update(visible=not busy, interactive=True, value=label, variant=variant),
        cancel: gr.update(visible=busy, value=cancelling),
    }


def download_update(job: ExportJob, export: dict[str, Any] | None) -> dict[str, Any]:
    """The download button of an export: its archive, if it has one."""
    path = job.archive
    if export is not None and export["archive"]:
        path = Path(export["folder"]) / Path(export["archive"]).name
    if (
        export is None
        or not path.is_file()
        or path.stat().st_size > 2 * ZIP_LIMIT  # of somebody else: a copy is offered
        or Path(export["folder"]) not in (path.parent, job.files)
    ):
        return gr.update(value=None, visible=False)
    return gr.update(
        value=offer(path, path.name),
        visible=True,
        label=t("Download .zip ({st_size})", st_size=size(path.stat().st_size)),
    )
