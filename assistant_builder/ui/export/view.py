"""Views of the tab “Use it”: the cards of each use, and exports with size, progress and verification."""

from __future__ import annotations

import contextlib
import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from assistant_builder.arms import ARMS, label
from assistant_builder.export.job import JobRecord
from assistant_builder.export.retrieval_files import QUESTION, SERVING
from assistant_builder.export_formats import EXPORT_FORMATS, Advice, ExportSpec, export_specs
from assistant_builder.i18n import N_, t, tm, translate_formatted
from assistant_builder.serving.endpoint_process import EndpointState
from assistant_builder.serving.widget import PAGE_PATH, PATHS, embedding
from assistant_builder.ui.evaluate.view import exports_card
from assistant_builder.ui.html import (
    bar,
    callout,
    card,
    code,
    copyable,
    error_callout,
    fold,
    join,
    table,
)
from evals.report.conclusion import conclude
from evals.report.format import duration, in_sentence, shown, size


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


def not_ready_warning(report: Mapping[str, Any] | None) -> Markup:
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
    about = ENDPOINT_CARDS[key]
    head = Markup("<h3>{}</h3><p>{}</p>").format(t(about.title), t(about.text))
    if state.phase == "off":
        return head
    if state.phase == "starting":
        return head + Markup('<p class="ab-note-line" role="status">{}</p>').format(t("Starting…"))
    if state.phase == "failed":
        return head + callout(
            "bad",
            t("The assistant does not run"),
            translate_formatted(state.error),
            t("Press the button to start it again."),
        )
    reach = (
        Markup("")
        if local
        else Markup('<p class="ab-note-line">{}</p>').format(
            tm(
                "Only programs on the computer that runs this page reach this address. For others, run there: "
                "<code>assistant-builder serve {name} --host 0.0.0.0</code>, with a key.",
                name=name,
            )
        )
    )
    fields = [(t("Address"), state.url)]
    if key in ("computer", "website") and local:
        head += Markup(
            '<p><a class="ab-button" href="{}" target="_blank" rel="noopener">{}</a></p>'
        ).format(f"{state.url.removesuffix('/v1')}{PAGE_PATH}", t("Open the chat"))
    if key == "computer":
        fields += [(t("Try it in a terminal"), curl_line(state))]
    elif key == "website":
        fields = [
            (t("1. Serve it on a computer that stays on"), widget_command(name)),
            (t("2. Give it an https address (nginx)"), PROXY_LINES),
            (
                t("3. Put this line into the pages"),
                embedding("https://chat.example.com", state.token),
            ),
        ]
        reach = (
            Markup('<p class="ab-note-line">{}</p>').format(
                tm(
                    "With <code>--remember texts</code> the tab “Inbox” lists what visitors ask in vain. Tell them "
                    "that "
                    "questions are kept."
                )
            )
            + reach
        )
    else:
        fields += [(t("Model"), state.model), ("Python", python_lines(state))]
    return head + join(_field(*field) for field in fields) + reach


def _field(title: str, text: str) -> Markup:
    return Markup("<h4>{}</h4>{}").format(title, copyable(text, title))


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
    head = Markup("<h3>{}</h3><p>{}</p>").format(
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
    where = (
        ""
        if local
        else Markup("<p>{}</p>").format(
            t("Download the file, unpack it, and run these commands in its folder:")
        )
    )
    return head + where + _field(t("In a terminal"), commands)


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
    head = Markup("<h3>{}</h3><p>{} {}</p>").format(t("As a folder for IT"), about, facts)
    if export is None:
        return head + _job_state(spec, record, local=local, log=log)
    where = _field(t("Folder"), export["folder"]) if local else Markup("")
    return (
        head
        + Markup("<p>{}</p>").format(
            t("{size} in {number} files.", size=size(export["bytes"]), number=len(export["files"]))
        )
        + where
    )


def _job_state(spec: ExportSpec, record: JobRecord | None, *, local: bool, log: str) -> Markup:
    """The state of an export that is not finished."""
    if record is None:
        return Markup("")
    if record.state == "running":
        return Markup('{}<p class="ab-note-line" role="status">{} %: {}</p>').format(
            bar(record.percent / 100, t("Export")),
            record.percent,
            translate_formatted(record.message),
        )
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
    picks = join(
        Markup("<li>{}: <b>{}</b></li>").format(t(format.label), label(advice.arm(format)))
        for format in EXPORT_FORMATS.values()
    )
    shipped = Markup("<p>{}</p>").format(file) if file else ""
    return card(
        t("Recommended export"),
        shipped,
        Markup("<p>{}</p><ul>{}</ul>").format(t(advice.why), picks),
    )


def quality_card(report: Mapping[str, Any] | None) -> Markup:
    """The quality of the exports compared with the measured assistants; empty before the report."""
    if not report:
        return Markup("")
    metric = shown(report["primary_metric"])
    arms = [ARMS[arm] for arm in dict.fromkeys(row["arm"] for row in report.get("exports") or [])]
    labels: dict[str, list[str]] = {}
    for spec in export_specs():
        if (cell := spec.cell_in(report["config"]["model"]["quant_type"])) is not None:
            labels.setdefault(cell, []).append(t(spec.export_format.label))
    cells = "; ".join(f"{cell}: {', '.join(found)}" for cell, found in labels.items())
    trained = ", ".join(
        t("{cell} for {assistant}", cell=arm.cell, assistant=arm.short) for arm in arms
    )
    note = Markup('<p class="ab-note-line">{}</p>').format(
        t(
            "Differences in {metric} ({unit}) from the assistant as trained: {trained}. Formats of this tab by cell: "
            "{cells}.",
            metric=metric.phrase,
            unit=metric.unit,
            trained=trained,
            cells=cells,
        )
    )
    return exports_card(report, note)


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
    hint = (
        ""
        if best == spec.arm
        else Markup('<p class="ab-note-line">{}</p>').format(
            t("For this format {assistant} is recommended.", assistant=label(best))
        )
    )
    note = t(format.note(spec.arm))
    return card(
        spec_title(spec),
        Markup("<p>{}</p><p>{} {}</p>").format(
            t(format.contents), note, tm("About <b>{size}</b> on disk.", size=size(planned))
        ),
        hint,
        Markup('<p class="ab-note-line">{}</p>').format(t(SERVING)) if grounded else "",
    )


def running_panel(spec: ExportSpec, record: JobRecord) -> Markup:
    """A running export."""
    return card(
        t("Exporting {title}", title=spec_title(spec)),
        bar(record.percent / 100, t("Export")),
        Markup('<p class="ab-note-line" role="status">{} %: {}</p>').format(
            record.percent, translate_formatted(record.message)
        ),
    )


def ended_panel(spec: ExportSpec, record: JobRecord, log: str, *, local: bool = True) -> Markup:
    """An export that failed, was cancelled or was interrupted; without paths unless ``local``."""
    tail = fold(t("End of the log"), code(log)) if log else Markup("")
    if record.state == "cancelled":
        return callout(
            "warn",
            t("The export was cancelled"),
            t("No files were written."),
            t("Press the button to start again."),
        )
    if record.state == "failed" and record.error:
        return error_callout(record.error if local else {**record.error, "where": ""}) + tail
    message = callout(
        "warn",
        t("The export was interrupted"),
        t(
            "Its process ended without a result. The computer was restarted, or memory ran out. No "
            "incomplete files are left."
        ),
        t("Press the button to start again."),
    )
    return message + tail


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
    parts: list[str] = []
    if not current:
        parts.append(
            callout(
                "warn",
                t("The assistant was trained again after this export"),
                t("The export contains the earlier adapter."),
                t("Export again to get the new one."),
            )
        )
    said = " ".join(map(translate_formatted, export["sentences"]))
    parts.append(callout(tone, verdict, said))  # type: ignore[arg-type]
    files = table(
        (t("File"), t("Size")),
        [(entry["name"], size(entry["bytes"])) for entry in export["files"]],
        numeric=(1,),
    )
    has_modelfile = any(entry["name"] == "Modelfile" for entry in export["files"])
    template = (
        ""
        if export["chat_template"] or not has_modelfile
        else callout(
            "warn",
            t("The Modelfile has no template"),
            t("The chat template of this base model belongs to no known family."),
            t("Write the template from chat_template.jinja, as the Modelfile explains."),
        )
    )
    parts += [
        template,
        card(
            spec_title(spec),
            Markup("<p>{}</p>").format(
                t(
                    "{size} in {number} files, exported in {time}.",
                    size=size(export["bytes"]),
                    number=len(export["files"]),
                    time=duration(record.seconds),
                )
            ),
            Markup('<p>{}</p><pre class="ab-code ab-wrap">{}</pre>').format(
                t("Folder:"), export["folder"]
            )
            if local
            else "",
            fold(t("Files"), files),
            fold(t("Model card"), code(model_card)) if model_card else "",
        ),
    ]
    return join(parts)


def command_line(name: str, spec: ExportSpec) -> str:
    """The equivalent command line."""
    type = ["--type", spec.type] if spec.type else []
    return shlex.join(
        [
            "assistant-builder",
            "export",
            name,
            "--arm",
            spec.arm,
            "--format",
            spec.format,
            *type,
            "--to",
            f"{name}-{spec.name}",
        ]
    )
