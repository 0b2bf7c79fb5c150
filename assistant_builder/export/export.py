"""One export from beginning to end: weights, tokenizer, verification, card, archive, then the move to its folder."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any, Required

from typing_extensions import TypedDict

from assistant_builder import __version__
from assistant_builder.atomic_io import read_json, write_json
from assistant_builder.chat.ask import context_tokens, default_system_prompt
from assistant_builder.data.card import fenced, inline
from assistant_builder.errors import AssistantBuilderError, ResourceError
from assistant_builder.export.adapter import copy_tokenizer
from assistant_builder.export.atomic_dir import RECORD, atomic_directory, describe_files
from assistant_builder.export.card import (
    DATA_CARD,
    model_card,
    rescore_sentences,
    shareable_data_card,
    title,
)
from assistant_builder.export.gguf import uses_importance
from assistant_builder.export.ollama import match_family
from assistant_builder.export.retrieval_files import (
    FOLDER,
    check_with_data,
    embedder_source,
    grounding_notes,
    index_bytes,
    python_snippet,
    write_retrieval,
)
from assistant_builder.export.verify import Rescore, load_measured, rescore
from assistant_builder.export_formats import (
    ExportSource,
    ExportSpec,
    LoadingContext,
    Snippet,
    base_name,
    require_trained,
)
from assistant_builder.i18n import Text, m, written
from assistant_builder.models.base_model import base_ref, fetch_base
from assistant_builder.models.bundled import EMBEDDER_HUB_ID
from assistant_builder.models.chat_template import ChatTokenizer, asks_for_date
from assistant_builder.models.checkpoint_dir import context_length
from assistant_builder.quantization import texts_of
from assistant_builder.study import Study
from assistant_builder.study.limits import answer_limit, pair_limit
from evals.report import schema

VERSION = 1
Report = Callable[[int, Text], None]
"""Progress callback: percent done and current activity; may raise Cancelled."""
_LOADED, _WRITTEN, _READ_BACK, _SCORED = 10, 35, 45, 90


def write_export(
    study: Study,
    spec: ExportSpec,
    target: Path,
    *,
    force: bool,
    sample: int,
    report: Report,
    archive: str | Path | None = None,
    with_data: bool = False,
) -> dict[str, Any]:
    """Export one arm to the folder ``target``, and to the zip file ``archive``; returns :func:`read_export` of it.

    ``force``: files in the folder may be replaced; ``sample``: number of held-out items to score again; ``with_data``:
    the export of a grounded assistant contains its index, and with it the pairs of the study.

    Raises:
        StudyError: The arm is not trained, the folder cannot be written, or index or rule are damaged.
        ConfigError: There is no index to export.
        ModelError: The base is not available, or the weights do not fit the format.
        EvaluationError: The written model does not score as the evaluation measured.
        ResourceError: Memory or disk does not suffice.
        Cancelled: The user cancelled the export; no files remain.
    """
    summary = require_trained(study, spec)
    spec.export_format.check()
    check_with_data(study, with_data=with_data)
    needed = (
        spec.export_format.estimated_bytes(summary)
        + spec.export_format.working_bytes(summary)
        + (2 * index_bytes(study) if with_data else 0)
    )
    with atomic_directory(target, force=force, needed=needed) as scratch:
        try:
            with texts_of(study.config.model.quant_type):
                record = _write_files(study, spec, scratch, sample, report, with_data=with_data)
        except Exception as error:
            if "No space left" in str(error):  # safetensors has an error of its own
                raise ResourceError(
                    m("the disk is full; nothing was written"),
                    where=str(target),
                    remedy=m("Free disk space, or name a folder on another disk"),
                ) from error
            raise
        name = f"{study.name}-{spec.name}"
        zipped = f"{name}.zip" if spec.export_format.zipped else None
        if zipped:
            _zip(scratch, scratch / zipped, name)
        write_json(
            scratch / RECORD, {**record, "archive": zipped, "files": describe_files(scratch)}
        )
    if archive is not None:
        report(95, m("Packing the download"))
        _zip(target, Path(archive), name)
    return read_export(target) or {}


def _write_files(
    study: Study,
    spec: ExportSpec,
    folder: Path,
    sample: int,
    report: Report,
    *,
    with_data: bool,
) -> dict[str, Any]:
    report(0, m("Looking for the base model"))
    importance = uses_importance(study, spec)
    base = fetch_base(study.config.model)
    prompter = ChatTokenizer.load(base, study.record_template_date())
    system = default_system_prompt(study)
    match = match_family(prompter, system)
    report(_LOADED, spec.export_format.activity)

    def write_report(fraction: float, message: Text) -> None:
        report(_LOADED + round((_WRITTEN - _LOADED) * fraction), message)

    names = title(study, spec), base, base_name(study)[0]
    source = ExportSource(
        study, spec.arm, *names, prompter, system, sample, write_report, importance
    )
    notes = spec.export_format.write(source, folder)
    copy_tokenizer(base, folder, prompter, adds_bos=match.adds_bos if match else None)
    if with_data:
        write_retrieval(study, spec.arm, folder, prompter, context_length(base))
    notes += grounding_notes(study, with_data=with_data)
    report(_WRITTEN, m("Loading what was written"))

    def tick(done: int, total: int) -> None:
        report(
            _READ_BACK + (_SCORED - _READ_BACK) * done // total,
            m("Scoring it again: {done} of {total} items", done=done, total=total),
        )

    found = rescore(study, spec, base, folder, sample=sample, tick=tick)
    report(_SCORED, m("Writing the model card"))
    dated = study.template_date if asks_for_date(prompter.tokenizer.chat_template) else None
    record = _write_documents(
        study,
        spec,
        folder,
        found,
        template=match.family.name if match else None,
        notes=notes,
        dated=dated,
        with_data=with_data,
    )
    return {
        **record,
        **spec.export_format.record(folder),
        **({"importance": True} if importance else {}),
    }


def _write_documents(
    study: Study,
    spec: ExportSpec,
    folder: Path,
    found: Rescore,
    *,
    template: str | None,
    notes: Sequence[Text],
    dated: date | None,
    with_data: bool,
) -> dict[str, Any]:
    """Write cards and LOADING.md; return their part of ``export.json``. ``dated``: the date in the chat template."""
    path = study.report_file
    summary = schema.Report.load(path) if path.is_file() else None
    ways = loading_snippets(study, spec, folder=".", base=base_name(study)[0], with_data=with_data)
    card = model_card(study, spec, summary, found, ways, template_date=dated, with_data=with_data)
    (folder / "README.md").write_text(card, encoding="utf-8")
    hints = ["Run these in the folder of the export, or put its path for the dot."]
    if spec.export_format.needs_base:
        hints.append(
            "README.md says where the base comes from and how to get the same weights as were measured. "
            "Ollama and most other programs need one complete model: export with --format merged for them."
        )
    paragraphs = [
        f"# How to load {title(study, spec)}",
        *hints,
        *(inline(written(note)[0]) for note in notes),
        *(f"## {way.title}\n\n{fenced(way.text, way.language)}" for way in ways),
    ]
    (folder / "LOADING.md").write_text("\n\n".join(paragraphs) + "\n", encoding="utf-8")
    data_card = study.folder / "data" / "card.md"
    described = "# Data\n\nNot described.\n"
    if data_card.is_file():
        described = data_card.read_text(encoding="utf-8")
    (folder / DATA_CARD).write_text(shareable_data_card(described), encoding="utf-8")
    said = [written(sentence) for sentence in (*rescore_sentences(found), *notes)]
    return {
        "version": VERSION,
        "study": study.name,
        "arm": spec.arm,
        "format": spec.format,
        "cell": spec.cell_in(study.config.model.quant_type),
        "assistant_builder": __version__,
        "base_model": base_name(study)[0],
        "adapter_sha256": study.arm_summary(spec.arm)["adapter_sha256"],
        **({"with_data": with_data} if study.config.grounded else {}),
        "chat_template": template,
        "rescore": asdict(found),
        "sentences": [text for text, _ in said],
        "said": [record for _, record in said],
    }


def loading_snippets(
    study: Study,
    spec: ExportSpec,
    *,
    folder: str,
    base: str,
    with_data: bool = False,
    embedder: str | None = None,
) -> list[Snippet]:
    """The ways to load an export in ``folder`` on ``base``, the name or folder of the base model.

    ``with_data``: the export contains the index; ``embedder``: folder of all-MiniLM-L6-v2, if it is not downloaded
    from the hub.
    """
    config = study.config
    ref = base_ref(config.model)
    local = base_name(study)[1]
    if local is not None and (local / "config.json").is_file():
        limit = context_length(local)
    else:
        limit = ref.entry.context_length if ref.entry else pair_limit(study)
    known = load_measured(study, spec)
    dtype = (known.scores if known else study.arm_summary(spec.arm))["compute_dtype"]
    context = LoadingContext(
        arm=spec.arm,
        folder=folder,
        base=base,
        name=study.name,
        system=default_system_prompt(study),
        model=config.model,
        compute_dtype=dtype,
        max_new_tokens=answer_limit(study),
        rank=config.train.rank,
        context=context_tokens(study, limit),
    )
    model = spec.export_format.model_lines(context) if with_data else []
    snippets = spec.export_format.snippets(context)
    if model:
        source = embedder_source(study, f"{folder}/{FOLDER}")
        if embedder and source == EMBEDDER_HUB_ID:
            source = embedder
        snippets.insert(0, python_snippet(folder, source, model, context.system))
    return snippets


class _Rescored(TypedDict):
    outcome: str


class _ExportedFile(TypedDict):
    name: str
    bytes: int


class ExportRecord(TypedDict, total=False):
    """``export.json``; what a file lacks is missed where it is used."""

    study: str
    arm: str
    format: str
    adapter_sha256: str
    chat_template: str | None
    rescore: _Rescored
    sentences: list[str]
    said: list[dict[str, Any] | None]  # records of these messages
    archive: str | None
    files: Required[list[_ExportedFile]]
    type: str
    cell: str | None
    with_data: bool


def read_export(folder: Path) -> dict[str, Any] | None:
    """``export.json`` of a folder, with the folder's path; None if there is no complete export."""
    path = folder / RECORD
    if not path.is_file():
        return None
    try:
        record = read_json(path, ExportRecord)
    except AssistantBuilderError:
        return None
    return {
        **record,
        "folder": str(folder),
        "bytes": sum(entry["bytes"] for entry in record["files"]),
    }


def _zip(folder: Path, archive: Path, name: str) -> None:
    """Zip a folder, its files below ``name/``, without compression: weights hardly compress."""
    temporary = archive.with_name(f".{archive.name}.part")
    try:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as file:
            for path in sorted(folder.rglob("*")):
                if path.is_file() and not path.name.startswith(".") and path.suffix != ".zip":
                    file.write(path, f"{name}/{path.relative_to(folder).as_posix()}")
        shutil.move(temporary, archive)
    finally:
        temporary.unlink(missing_ok=True)
