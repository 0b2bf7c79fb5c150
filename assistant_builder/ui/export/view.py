"""Views of the tab “Use it”: the cards of each use, and exports with size, progress and verification."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

from markupsafe import Markup

from assistant_builder.arms import label
from assistant_builder.export.adapter import QUESTION
from assistant_builder.export.job import JobRecord
from assistant_builder.export.retrieval_files import SERVING
from assistant_builder.export_formats import (
    EXPORT_FORMATS,
    Advice,
    ExportSpec,
    Snippet,
    estimated_bytes,
)
from assistant_builder.i18n import N_, render, t, text_of
from assistant_builder.retrieval.copying import COPY
from assistant_builder.serving.endpoint_process import EndpointState
from assistant_builder.serving.visitor_limits import Limits
from assistant_builder.serving.website import Website
from assistant_builder.serving.widget import PAGE_PATH, embedding, site_token
from assistant_builder.study import Study
from assistant_builder.ui.html import callout, card, fragment
from assistant_builder.ui.study_snapshot import report_conclusion
from evals.report.number_format import in_sentence
from evals.report.schema import Report

ENDPOINT_STARTS = {
    "computer": N_("Start"),
    "website": N_("Try it"),
    "programs": N_("Start it and show the address"),
}
"""Card about the endpoint → label of its button."""


def not_ready_warning(report: Report | None, *, trained: bool = True) -> Markup:
    """A warning above the cards unless the report says that the assistant is good enough."""
    conclusion = report_conclusion(report) if report else None
    return fragment("export.warning", report, conclusion, trained)


def website_view(
    website: Website,
    state: EndpointState,
    study: Study,
    *,
    trained: bool,
    customers: bool = True,
    renewed: bool = False,
) -> Markup:
    """How the bubble of a website is served, and the steps that are left to its owner.

    ``customers``: the report finds the trained assistant good enough for them; ``renewed``: an embedder was trained.
    """
    line = embedding(website.address, site_token(study))
    return fragment(
        "export.website",
        website=website,
        state=state,
        error=render(state.error),
        line=line,
        newer=trained and state.arm == COPY,
        customers=customers,
        who=_who_answers(state.arm, renewed=renewed),
        target=f"http://127.0.0.1:{website.port}",
        limits=Limits(),
    )


def _who_answers(arm: str, *, renewed: bool) -> str:
    if arm != COPY:
        return t("Visitors get answers of the trained assistant.")
    if renewed:
        return t(
            "Visitors get copied answers. Training renewed the search, so they may differ from before."
        )
    return t("Visitors get copied answers.")


def endpoint_card(
    key: str, state: EndpointState, name: str, *, local: bool, newer: bool = False
) -> Markup:
    """One of :data:`ENDPOINT_STARTS` in the present state of the endpoint of the study ``name``.

    ``newer``: it copies answers, and an assistant was trained since.
    """
    return fragment(
        "export.endpoint",
        key=key,
        name=name,
        state=state,
        error=render(state.error),
        local=local,
        newer=newer,
        chat=f"{state.url.removesuffix('/v1')}{PAGE_PATH}",
        curl=curl_line(state),
        python=python_lines(state),
    )


def _messages(content: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": content}]


def curl_line(state: EndpointState) -> str:
    """A command that asks the endpoint a question."""
    body = json.dumps({"model": state.model, "messages": _messages(QUESTION)})
    return f"curl {state.url}/chat/completions -H 'Content-Type: application/json' -d {shlex.quote(body)}"


def python_lines(state: EndpointState) -> str:
    """Python that asks the endpoint with the package openai."""
    return f"""from openai import OpenAI

client = OpenAI(base_url={state.url!r}, api_key="none")
reply = client.chat.completions.create(model={state.model!r}, messages={_messages(QUESTION)!r})
print(reply.choices[0].message.content)"""


def job_card(
    key: str,
    study: Study,
    spec: ExportSpec,
    record: JobRecord | None,
    export: Mapping[str, Any] | None,
    log: str,
    *,
    local: bool,
) -> Markup:
    """The card ``ollama`` or ``folder``, which writes an export of the recommended assistant."""
    modelfile = f"{export['folder']}/Modelfile" if export and local else t("Modelfile")
    model = shlex.quote(study.name)
    commands = f"ollama create {model} -f {shlex.quote(modelfile)}\nollama run {model}"
    state = Markup("")
    if record is not None and record.state == "running":
        state = fragment("export.progress", record)
    elif record is not None:
        state = ended_panel(spec, record, log, local=local)
    return fragment(
        f"export.{key}",
        kind=spec_title(spec),
        planned=estimated_bytes(study, spec),
        facts=t(SERVING) if study.config.grounded else "",
        state=state,
        export=export,
        commands=commands,
        local=local,
    )


def advice_card(advice: Advice, file: str = "") -> Markup:
    """The recommended arm for each format; ``file`` is what the report says of GGUF files."""
    picks = [(t(format.label), label(advice.arm(format))) for format in EXPORT_FORMATS.values()]
    return fragment("export.advice", file, t(advice.why), picks)


def spec_title(spec: ExportSpec) -> str:
    """``QLoRA (4-bit), adapter``; with the type if the format has several: ``QLoRA (4-bit), GGUF Q8_0``."""
    format = spec.export_format
    return " ".join(
        filter(None, (f"{label(spec.arm)}, {in_sentence(t(format.label))}", format.type))
    )


def ready_panel(
    spec: ExportSpec, planned: int, advice: Advice, *, grounded: bool = False
) -> Markup:
    """Contents and size of an export that is not started; ``grounded``: the assistant reads facts in its prompt."""
    format = spec.export_format
    best = advice.arm(format)
    return fragment(
        "export.ready",
        spec_title(spec),
        t(format.contents),
        t(format.note(spec.arm)),
        planned,
        "" if best == spec.arm else label(best),
        t(SERVING) if grounded else "",
    )


def running_panel(spec: ExportSpec, record: JobRecord) -> Markup:
    """A running export."""
    title = t("Exporting {title}", title=spec_title(spec))
    return card(title, fragment("export.progress", record))


def ended_panel(spec: ExportSpec, record: JobRecord, log: str, *, local: bool = True) -> Markup:
    """An export that failed, was cancelled or was interrupted; without paths unless ``local``."""
    error = record.error and (record.error if local else {**record.error, "where": ""})
    return fragment("export.ended", record.state, error, log)


def finished_panel(
    spec: ExportSpec,
    record: JobRecord,
    export: Mapping[str, Any] | None,
    *,
    current: bool,
    model_card: str,
    local: bool = True,
) -> Markup:
    """A finished export, with the result of the verification.

    ``export`` is its ``export.json``, None if its folder is missing; ``current`` says whether it contains the study's
    present adapter. The path of its folder is shown if ``local``.
    """
    if export is None:
        where = (
            t("It was written to {folder}, which no longer exists.", folder=record.target)
            if local
            else t("Its folder no longer exists.")
        )
        return callout(
            "warn", t("The export is missing"), where, t("Press the button to export again.")
        )
    tone, verdict = {
        "as measured": ("good", t("Exported; its scores match the evaluation")),
        "moved": ("warn", t("Exported, but some answers score differently than in the evaluation")),
    }.get(export["rescore"]["outcome"], ("warn", t("Exported, but not measured")))
    modelfile = any(entry["name"] == "Modelfile" for entry in export["files"])
    return fragment(
        "export.finished",
        title=spec_title(spec),
        tone=tone,
        verdict=verdict,
        sentences=" ".join(
            render(text_of(record, text))
            for text, record in zip_longest(export["sentences"], export.get("said", ()))
        ),
        export=export,
        seconds=record.seconds,
        current=current,
        template_missing=modelfile and not export["chat_template"],
        model_card=model_card,
        local=local,
    )


def ways_to_use(snippets: Sequence[Snippet], command: str) -> Markup:
    """How a finished export is loaded, and the command line of the export."""
    return fragment("export.ways", [(t(each.title), each.text) for each in snippets], command)


def command_line(name: str, spec: ExportSpec) -> str:
    """The equivalent command line."""
    options = {"--arm": spec.arm, "--format": spec.format, "--type": spec.type}
    words = [word for option, value in options.items() if value for word in (option, value)]
    target = f"{name}-{spec.name}"
    return shlex.join(["assistant-builder", "export", name, *words, "--to", target])
