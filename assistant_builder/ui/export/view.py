"""Views of the tab “Use it”: the cards of each use, and exports with size, progress and verification."""

from __future__ import annotations

import contextlib
import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from markupsafe import Markup

from assistant_builder.arms import ARMS, label
from assistant_builder.export.adapter import QUESTION
from assistant_builder.export.job import JobRecord
from assistant_builder.export.retrieval_files import SERVING
from assistant_builder.export_formats import EXPORT_FORMATS, Advice, ExportSpec, export_specs
from assistant_builder.i18n import N_, render, t, text_of, tm
from assistant_builder.serving.endpoint_process import EndpointState
from assistant_builder.serving.widget import PAGE_PATH, PATHS, embedding
from assistant_builder.ui.evaluate.view import exports_card
from assistant_builder.ui.html import (
    callout,
    card,
    fragment,
)
from evals.report.conclusion import conclude
from evals.report.format import in_sentence, shown, size
from evals.report.schema import Report


@dataclass(frozen=True)
class EndpointCard:
    """A card about the endpoint: title, what it is for, and the label of its button."""

    title: str
    text: str
    start: str


ENDPOINT_CARDS = {
    "computer": EndpointCard(
        N_("On this computer"),
        N_(
            "Programs on the computer that runs this page ask the assistant. "
            "It stops when Assistant Builder is closed."
        ),
        N_("Start"),
    ),
    "website": EndpointCard(
        N_("On a website"),
        N_(
            "A chat bubble for every page. Try it here first; for visitors, a computer that stays "
            "on has to serve it."
        ),
        N_("Try it and show the steps"),
    ),
    "programs": EndpointCard(
        N_("In Slack, Teams and other programs"),
        N_(
            "Every program for the API of OpenAI works with it: it needs an address and the name "
            "of the model. This computer has to stay on."
        ),
        N_("Start it and show the address"),
    ),
}


def not_ready_warning(report: Report | None) -> Markup:
    """A warning above the cards unless the report says that the assistant is good enough."""
    if not report:
        return callout(
            "warn",
            t("Not measured yet"),
            t("Nobody knows how good the answers are."),
            t("Let the project run to its end before others use the assistant."),
        )
    with contextlib.suppress(KeyError, TypeError):  # the report of an earlier release
        found = conclude(report)
        if not found.ready:
            return callout("warn", t("Not good enough yet"), found.good_enough, found.action)
        if found.audience.who == "colleagues":
            return callout("info", t("Before others use it"), found.audience.text)
    return Markup("")


def endpoint_card(key: str, state: EndpointState, name: str, *, local: bool) -> Markup:
    """One of :data:`ENDPOINT_CARDS` in the present state of the endpoint of the study ``name``."""
    about, notes = ENDPOINT_CARDS[key], []
    fields, chat = [(t("Address"), state.url)], ""
    if key in ("computer", "website") and local:
        chat = f"{state.url.removesuffix('/v1')}{PAGE_PATH}"
    if key == "computer":
        fields.append((t("Try it in a terminal"), curl_line(state)))
    elif key == "website":
        fields = [
            (t("1. Serve it on a computer that stays on"), widget_command(name)),
            (t("2. Give it an https address (nginx)"), PROXY_LINES),
            (
                t("3. Put this line into the pages"),
                embedding("https://chat.example.com", state.token),
            ),
        ]
        notes.append(
            tm(
                "With <code>--remember texts</code> the tab “Inbox” lists what visitors ask in vain. Tell them "
                "that "
                "questions are kept."
            )
        )
    else:
        fields += [(t("Model"), state.model), ("Python", python_lines(state))]
    if not local:
        notes.append(
            tm(
                "Only programs on the computer that runs this page reach this address. For others, run there: "
                "<code>assistant-builder serve {name} --host 0.0.0.0</code>, with a key.",
                name=name,
            )
        )
    title, error = t(about.title), render(state.error)
    return fragment(
        "export.endpoint", title, t(about.text), state.phase, error, chat, fields, notes
    )


def _messages(content: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": content}]


def curl_line(state: EndpointState) -> str:
    """A command that asks the endpoint a question."""
    body = json.dumps({"model": state.model, "messages": _messages(QUESTION)})
    return f"curl {state.url}/chat/completions -H 'Content-Type: application/json' -d {shlex.quote(body)}"


def widget_command(name: str) -> str:
    """The command that serves the widget for a website on a computer of its owner."""
    return (
        f"assistant-builder serve {shlex.quote(name)} --widget --allow-origin https://www.example.com "
        "--allow-host chat.example.com --proxy 127.0.0.1 --contact help@example.com"
    )


PROXY_LINES = (
    """server {
  listen 443 ssl;
  server_name chat.example.com;
  ssl_certificate /etc/letsencrypt/live/chat.example.com/fullchain.pem;
  ssl_certificate_key /etc/letsencrypt/live/chat.example.com/privkey.pem;
  proxy_set_header Host $host;
  proxy_set_header X-Forwarded-For $remote_addr;
  proxy_buffering off;
  proxy_read_timeout 600s;
"""
    + "".join(
        f"  location = {path} {{ proxy_pass http://127.0.0.1:8000{path}; }}\n"
        for path in sorted(PATHS)
    )
    + """\
  location / { return 404; }
}"""
)
"""Lines of nginx that give the command of :func:`widget_command` an https address."""


def python_lines(state: EndpointState) -> str:
    """Python that asks the endpoint with the package openai."""
    return f"""from openai import OpenAI

client = OpenAI(base_url={state.url!r}, api_key="none")
reply = client.chat.completions.create(model={state.model!r}, messages={_messages(QUESTION)!r})
print(reply.choices[0].message.content)"""


def ollama_card(
    name: str,
    spec: ExportSpec,
    record: JobRecord | None,
    export: Mapping[str, Any] | None,
    *,
    planned: int,
    local: bool,
    grounded: bool,
    log: str,
) -> Markup:
    """The card of Ollama: writes a GGUF file and shows the two commands that run it."""
    head = fragment(
        "export.head",
        t("In Ollama"),
        t(
            "One file ({kind}, about {size}) that runs on any laptop with Ollama. This computer is not "
            "needed for it.",
            kind=spec_title(spec),
            size=size(planned),
        ),
    )
    if grounded:
        head += callout("warn", t("It will not know your facts there"), t(SERVING))
    if export is None:
        return head + _job_state(spec, record, local=local, log=log)
    modelfile = f"{export['folder']}/Modelfile" if local else t("Modelfile")
    model = shlex.quote(name)
    commands = f"ollama create {model} -f {shlex.quote(modelfile)}\nollama run {model}"
    where = t("Download the file, unpack it, and run these commands in its folder:")
    if not local:
        head += fragment("parts.paragraph", where)
    return head + fragment("export.field", t("In a terminal"), commands)


def folder_card(
    name: str,
    spec: ExportSpec,
    record: JobRecord | None,
    export: Mapping[str, Any] | None,
    *,
    planned: int,
    local: bool,
    grounded: bool,
    log: str,
) -> Markup:
    """The card of the folder for IT: the complete model with its card."""
    facts = (
        t(
            "Its facts are not in it: tick “Include the facts” under “All assistants and formats” to add "
            "them."
        )
        if grounded
        else ""
    )
    about = t(
        "The model ({kind}, about {size}) for a server of your own, how to load it, and a card with what was "
        "measured.",
        kind=spec_title(spec),
        size=size(planned),
    )
    head = fragment("export.head", t("As a folder for IT"), f"{about} {facts}")
    if export is None:
        return head + _job_state(spec, record, local=local, log=log)
    files = t("{size} in {number} files.", size=size(export["bytes"]), number=len(export["files"]))
    head += fragment("parts.paragraph", files)
    return head + (fragment("export.field", t("Folder"), export["folder"]) if local else "")


def _job_state(spec: ExportSpec, record: JobRecord | None, *, local: bool, log: str) -> Markup:
    """The state of an export that is not finished."""
    if record is None:
        return Markup("")
    if record.state == "running":
        return fragment("export.progress", record)
    if record.state == "succeeded":
        return callout(
            "warn",
            t("The files are missing"),
            t("They were moved or deleted."),
            t("Press the button again."),
        )
    return ended_panel(spec, record, log, local=local)


def advice_card(advice: Advice, file: str = "") -> Markup:
    """The recommended arm for each format; ``file`` is what the report says of GGUF files."""
    picks = [(t(format.label), label(advice.arm(format))) for format in EXPORT_FORMATS.values()]
    return fragment("export.advice", file, t(advice.why), picks)


def quality_card(report: Report | None) -> Markup:
    """The quality of the exports compared with the measured assistants; empty before the report."""
    if not report:
        return Markup("")
    metric = shown(report.primary_metric)
    arms = [ARMS[arm] for arm in dict.fromkeys(row["arm"] for row in report.exports or [])]
    labels: dict[str, list[str]] = {}
    for spec in export_specs():
        if (cell := spec.cell_in(report.config["model"]["quant_type"])) is not None:
            labels.setdefault(cell, []).append(t(spec.export_format.label))
    cells = "; ".join(f"{cell}: {', '.join(found)}" for cell, found in labels.items())
    trained = ", ".join(
        t("{cell} for {assistant}", cell=arm.cell, assistant=arm.short) for arm in arms
    )
    note = t(
        "Differences in {metric} ({unit}) from the assistant as trained: {trained}. Formats of this tab by cell: "
        "{cells}.",
        metric=metric.phrase,
        unit=metric.unit,
        trained=trained,
        cells=cells,
    )
    return exports_card(report, fragment("parts.paragraph", note, "ab-note-line"))


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


def command_line(name: str, spec: ExportSpec) -> str:
    """The equivalent command line."""
    options = {"--arm": spec.arm, "--format": spec.format, "--type": spec.type}
    words = [word for option, value in options.items() if value for word in (option, value)]
    target = f"{name}-{spec.name}"
    return shlex.join(["assistant-builder", "export", name, *words, "--to", target])
