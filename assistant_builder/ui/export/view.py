"""Views of exports: recommendation, size, progress, and the result of the verification."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from assistant_builder.arms import ARMS, label
from assistant_builder.export.job import JobRecord
from assistant_builder.export.retrieval_files import SERVING
from assistant_builder.export_formats import EXPORT_FORMATS, Advice, ExportSpec, export_specs
from assistant_builder.ui.evaluate.view import exports_card
from assistant_builder.ui.html import bar, callout, card, code, error_callout, fold, join, table
from evals.report.format import duration, in_sentence, shown, size


def advice_card(advice: Advice, file: str = "") -> Markup:
    """The recommended arm for each format; ``file`` is what the report says of GGUF files."""
    picks = join(Markup("<li>{}: <b>{}</b></li>").format(format.label, label(advice.arm(format)))
                 for format in EXPORT_FORMATS.values())
    shipped = Markup("<p>{}</p>").format(file) if file else ""
    return card("Recommended export", shipped, Markup("<p>{}</p><ul>{}</ul>").format(advice.why, picks))


def quality_card(report: Mapping[str, Any] | None) -> Markup:
    """The quality of the exports compared with the measured assistants; empty before the report."""
    if not report:
        return Markup("")
    metric = shown(report["primary_metric"])
    arms = [ARMS[arm] for arm in dict.fromkeys(row["arm"] for row in report.get("exports") or [])]
    labels: dict[str, list[str]] = {}
    for spec in export_specs():
        if spec.cell is not None:
            labels.setdefault(spec.cell, []).append(spec.export_format.label)
    cells = "; ".join(f"{cell}: {', '.join(found)}" for cell, found in labels.items())
    note = Markup('<p class="ab-note-line">Differences in {} ({}) from the assistant as trained: {}. Formats of this '
                  "tab by cell: {}.</p>").format(
        metric.phrase, metric.unit, ", ".join(f"{arm.cell} for {arm.short}" for arm in arms), cells)
    return exports_card(report, note)


def spec_title(spec: ExportSpec) -> str:
    """``QLoRA (4-bit), adapter``; with the type if the format has several: ``QLoRA (4-bit), GGUF Q8_0``."""
    format = spec.export_format
    return " ".join(filter(None, (f"{label(spec.arm)}, {in_sentence(format.label)}", format.type)))


def ready_panel(spec: ExportSpec, planned: int, advice: Advice, *, grounded: bool = False) -> Markup:
    """Contents and size of an export that is not started; ``grounded``: the assistant reads facts in its prompt."""
    format = spec.export_format
    best = advice.arm(format)
    hint = "" if best == spec.arm else Markup('<p class="ab-note-line">For this format {} is recommended.</p>').format(
        label(best))
    note = f"{text} " if (text := format.note(spec.arm)) else ""
    return card(spec_title(spec), Markup("<p>{}</p><p>{}About <b>{}</b> on disk.</p>").format(
        format.contents, note, size(planned)), hint,
        Markup('<p class="ab-note-line">{}</p>').format(SERVING) if grounded else "")


def running_panel(spec: ExportSpec, record: JobRecord) -> Markup:
    """A running export."""
    return card(f"Exporting {spec_title(spec)}", bar(record.percent / 100, "Export"),
                Markup('<p class="ab-note-line" role="status">{} %: {}</p>').format(record.percent, record.message))


def ended_panel(spec: ExportSpec, record: JobRecord, log: str) -> Markup:
    """An export that failed, was cancelled or was interrupted."""
    tail = fold("End of the log", code(log)) if log else Markup("")
    if record.state == "cancelled":
        return callout("warn", "The export was cancelled", "No files were written.", "Press the button to start again.")
    if record.state == "failed" and record.error:
        return error_callout(record.error) + tail
    message = callout("warn", "The export was interrupted", "Its process ended without a result. The computer was "
                      "restarted, or memory ran out. No incomplete files are left.", "Press the button to start again.")
    return message + tail


def finished_panel(spec: ExportSpec, record: JobRecord, export: Mapping[str, Any] | None, *, current: bool,
                   model_card: str) -> Markup:
    """A finished export, with the result of the verification.

    ``export`` is its ``export.json``, None if its folder is missing; ``current`` says whether it contains the study's
    present adapter.
    """
    if export is None:
        return callout("warn", "The export is missing", f"It was written to {record.target}, which no longer exists.",
                       "Press the button to export again.")
    tone, verdict = {
        "as measured": ("good", "Exported; its scores match the evaluation"),
        "moved": ("warn", "Exported, but some answers score differently than in the evaluation"),
    }.get(export["rescore"]["outcome"], ("warn", "Exported, but not measured"))
    parts: list[str] = []
    if not current:
        parts.append(callout("warn", "The assistant was trained again after this export", "The export contains the "
                             "earlier adapter.", "Export again to get the new one."))
    parts.append(callout(tone, verdict, " ".join(export["sentences"])))  # type: ignore[arg-type]
    files = table(("File", "Size"), [(entry["name"], size(entry["bytes"])) for entry in export["files"]], numeric=(1,))
    has_modelfile = any(entry["name"] == "Modelfile" for entry in export["files"])
    template = "" if export["chat_template"] or not has_modelfile else callout(
        "warn", "The Modelfile has no template", "The chat template of this base model belongs to no known family.",
        "Write the template from chat_template.jinja, as the Modelfile explains.")
    parts += [template, card(
        spec_title(spec),
        Markup('<p>{} in {} files, exported in {}. Folder:</p><pre class="ab-code ab-wrap">{}</pre>').format(
            size(export["bytes"]), len(export["files"]), duration(record.seconds), export["folder"]),
        fold("Files", files), fold("Model card", code(model_card)) if model_card else "",
    )]
    return join(parts)


def command_line(name: str, spec: ExportSpec) -> str:
    """The equivalent command line."""
    type = ["--type", spec.type] if spec.type else []
    return shlex.join(["assistant-builder", "export", name, "--arm", spec.arm, "--format", spec.format, *type, "--to",
                       f"{name}-{spec.name}"])
