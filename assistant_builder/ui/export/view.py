"""Exports: which to take, how large it will be, how far it is, and what scoring it again found."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from assistant_builder.ui.html import ARM_TITLES, bar, callout, card, code, error_callout, fold, join, table
from evals.export.job import JobRecord
from evals.export.kinds import FORMATS, Advice, Format, Kind
from evals.report.format import difference, duration, interval, share_lost, shown, size

FORMAT_TITLES: dict[Format, str] = {
    "adapter": "Adapter: the trained part alone, small, to be put on its base model",
    "merged": "Whole model: adapter and base in one, for Ollama, vLLM and transformers",
}
_KEEPS = {"measured": "measured itself", "yes": "keeps it", "cannot be told": "cannot be told"}
_CONTENTS: dict[Format, str] = {
    "adapter": "Adapter weights and settings, tokenizer and chat template, a model card with the study's numbers, and "
    "how to load it; as a folder and as one zip.",
    "merged": "16-bit safetensors of the whole model, tokenizer and chat template, a Modelfile for Ollama, a model "
    "card with the study's numbers, and how to load it.",
}


def advice_card(advice: Advice) -> Markup:
    """Which export to take."""
    picks = join(
        Markup("<li>{}: <b>{}</b></li>").format(
            FORMAT_TITLES[format].partition(":")[0], ARM_TITLES[getattr(advice, format)]
        ) for format in FORMATS
    )
    return card("Which one to take", Markup("<p>{}</p><ul>{}</ul>").format(advice.why, picks))


def keeping_card(report: Mapping[str, Any] | None) -> Markup:
    """Which export keeps the quality that was measured; nothing before the report."""
    found = (report or {}).get("exports") or []
    if not report or all(row["keeps"] == "measured" for row in found):
        return Markup("")
    rows = [_export_row(row) for row in report["exports"]]
    headers = ("Export", "What it is", "Keeps the quality?", "Difference", "95 % interval", "Weights")
    metric = shown(report["primary_metric"])
    note = Markup('<p class="ab-note-line">Differences in {} ({}), each against the assistant that was judged: Q4 for '
                  "QLoRA, L16 for LoRA. Exported here are Q4 and L16 (adapters), QD and LM (whole models).</p>").format(
        metric.phrase, metric.unit)
    return card("Which export keeps the quality you measured", table(headers, rows, numeric=(3, 4, 5)), note)


def _export_row(row: Mapping[str, Any]) -> tuple[str, ...]:
    own, kept = row["delta"] is None, _KEEPS.get(row["keeps"]) or f"loses {share_lost(row)}"
    return (
        Markup('<b class="ab-cell">{}</b>').format(row["cell"]), row["how"], kept,
        "–" if own else difference(row["delta"], row["metric"], row),
        "–" if own else interval(row, row["metric"]), size(row["bytes"]),
    )


def kind_title(kind: Kind) -> str:
    """``QLoRA · 4-bit, adapter``."""
    return f"{ARM_TITLES[kind.arm]}, {'adapter' if kind.format == 'adapter' else 'whole model'}"


def ready_panel(kind: Kind, planned: int, advice: Advice) -> Markup:
    """Before the export: what will be in it."""
    best = getattr(advice, kind.format)
    hint = "" if best == kind.arm else Markup('<p class="ab-note-line">For this form {} is recommended.</p>').format(
        ARM_TITLES[best])
    merged = kind.format == "merged" and kind.arm == "qlora"
    how = ("Merged into the 4-bit base it was trained on, widened to 16 bits: into the original weights it would be "
           "another assistant than the one measured. ") if merged else ""
    return card(kind_title(kind), Markup("<p>{}</p><p>{}About <b>{}</b> on disk.</p>").format(
        _CONTENTS[kind.format], how, size(planned)), hint)


def running_panel(kind: Kind, record: JobRecord) -> Markup:
    """While its process works."""
    return card(f"Exporting {kind_title(kind)}", bar(record.percent / 100, "Export"),
                Markup('<p class="ab-note-line" role="status">{} %: {}</p>').format(record.percent, record.message))


def ended_panel(kind: Kind, record: JobRecord, log: str) -> Markup:
    """An export that did not come to its end."""
    tail = fold("End of its log", code(log)) if log else Markup("")
    if record.state == "cancelled":
        return callout("warn", "The export was cancelled", "Nothing was written.", "Press the button to start again.")
    if record.state == "failed" and record.error:
        return join([error_callout(record.error), tail])
    return join([callout("warn", "The export was interrupted", "Its process is gone: the computer was restarted, or "
                         "memory ran out.", "Press the button to start it again; nothing half-written is left."), tail])


def finished_panel(
    kind: Kind, record: JobRecord, export: Mapping[str, Any] | None, *, current: bool, model_card: str
) -> Markup:
    """A finished export, with what scoring it again found.

    Args:
        kind: Which.
        record: Its job.
        export: Its ``export.json``; None where its folder is gone.
        current: Whether it holds the adapter that the study has now.
        model_card: Text of its README.md.
    """
    if export is None:
        return callout("warn", "The export is gone", f"It was written to {record.target}, where it no longer is.",
                       "Press the button to make it again.")
    tone, verdict = {
        "as measured": ("good", "Exported, and it is what was measured"),
        "moved": ("warn", "Exported, but some answers score otherwise than measured"),
    }.get(export["rescore"]["outcome"], ("warn", "Exported, but never measured"))
    parts: list[str] = []
    if not current:
        parts.append(callout("warn", "The assistant was trained again since", "This export holds the earlier one.",
                             "Export again to take the new one."))
    parts.append(callout(tone, verdict, " ".join(export["sentences"])))  # type: ignore[arg-type]
    files = table(("File", "Size"), [(entry["name"], size(entry["bytes"])) for entry in export["files"]], numeric=(1,))
    template = "" if kind.format == "adapter" or export["chat_template"] else callout(
        "warn", "The Modelfile has no template", "The prompts of this base model belong to no family known here.",
        "Write the template after chat_template.jinja, as the Modelfile says.")
    parts += [template, card(
        kind_title(kind),
        Markup('<p>{} in {} files, made in {}. On disk:</p><pre class="ab-code ab-wrap">{}</pre>').format(
            size(export["bytes"]), len(export["files"]), duration(record.seconds), export["folder"]),
        fold("Files", files), fold("Model card", code(model_card)) if model_card else "",
    )]
    return join(parts)


def command_line(name: str, kind: Kind) -> str:
    """What does the same in a terminal."""
    return shlex.join(["assistant-builder", "export", name, "--arm", kind.arm, "--format", kind.format, "--to",
                       f"{name}-{kind.name}"])
