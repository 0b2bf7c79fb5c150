"""One export from beginning to end: weights, tokenizer, score again, card, archive; then put in its place, whole."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

from assistant_builder import __version__
from assistant_builder.atomic_io import read_json, read_jsonl, write_json
from assistant_builder.chat.ask import context_tokens, default_system_prompt
from assistant_builder.data.card import inline
from assistant_builder.errors import AssistantBuilderError, ResourceError
from assistant_builder.models.catalog import resolve
from assistant_builder.models.chat_template import ChatTokenizer, asks_for_date
from assistant_builder.models.checkpoint_dir import context_length
from assistant_builder.models.download import fetch
from assistant_builder.models.remote_code import allows_code
from assistant_builder.study import Study
from evals.export import weights
from evals.export.card import DATA_CARD, model_card, rescore_sentences, shareable_data_card, title
from evals.export.folders import RECORD, describe_files, put_whole
from evals.export.kinds import Kind, base_name, planned_bytes, require_trained
from evals.export.ollama import left_out, modelfile, recognise
from evals.export.rescore import Rescore, measured, rescore
from evals.export.snippets import Snippet, Subject, loading_document, snippets

VERSION = 1
Report = Callable[[int, str], None]
"""Told how much of a hundred is done, and what is being done; may raise Cancelled."""
_LOADED, _WRITTEN, _READ_BACK, _SCORED = 10, 35, 45, 90


def write_export(
    study: Study, kind: Kind, target: Path, *, force: bool, sample: int, report: Report, archive: Path | None = None
) -> dict[str, Any]:
    """Export one arm.

    Args:
        study: A study with this arm trained.
        kind: Which arm in which form.
        target: The folder to make.
        force: Whether files there may be replaced.
        sample: Held-out items to score again.
        report: Told of the progress.
        archive: A zip file to write as well; an adapter always has one in its folder.

    Returns:
        What ``export.json`` says, with ``folder`` and ``archive``.

    Raises:
        StudyError: The arm is not trained, or the folder cannot be written.
        ModelError: The base cannot be had, or the merged weights do not fit float16.
        EvaluationError: What was written is not what was measured.
        ResourceError: Memory or disk does not suffice.
        Cancelled: On request; nothing is left behind.
    """
    require_trained(study, kind)
    needed = planned_bytes(study, kind)
    with put_whole(target, force=force, needed=needed) as scratch:
        try:
            record = _fill(study, kind, scratch, sample, report)
        except Exception as error:
            if "No space left" in str(error):  # safetensors has an error of its own
                raise ResourceError("the disk is full; nothing was written", where=str(target),
                                    remedy="Free disk space, or name a folder on another disk") from error
            raise
        name = f"{study.name}-{kind.name}"
        zipped = None
        if kind.format == "adapter":
            zipped = f"{name}.zip"
            _zip(scratch, scratch / zipped, name)
        write_json(scratch / RECORD, {**record, "archive": zipped, "files": describe_files(scratch)})
    if archive is not None:
        report(95, "Packing the download")
        _zip(target, archive, name)
    return read_export(target) or {}


def _fill(study: Study, kind: Kind, folder: Path, sample: int, report: Report) -> dict[str, Any]:
    model = study.config.model
    report(0, "Looking for the base model")
    ref = resolve(model.base, trust_remote_code=allows_code(model))
    base = fetch(ref, revision=model.revision, trust_remote_code=allows_code(model))
    prompter = ChatTokenizer.load(base, study.keep_template_date())
    system = default_system_prompt(study)
    match = recognise(prompter, system)
    report(_LOADED, "Merging adapter and base" if kind.format == "merged" else "Copying the adapter")
    shared, _ = base_name(study)
    notes: list[str] = []
    if kind.format == "merged":
        weights.write_merged(study, kind, base, folder)
        weights.write_generation_config(base, folder, prompter)
        varied = not system and _own_systems(study)
        (folder / "Modelfile").write_text(
            modelfile(match, prompter, system=system, title=title(study, kind), varied=varied), encoding="utf-8",
            newline="\n",
        )
        notes = left_out(match, prompter, system)
    else:
        weights.copy_adapter(study, kind, folder, base=shared, revision=model.revision)
    weights.copy_tokenizer(base, folder, prompter, adds_bos=match.adds_bos if match else None)
    report(_WRITTEN, "Loading what was written")

    def tick(done: int, total: int) -> None:
        report(_READ_BACK + (_SCORED - _READ_BACK) * done // total, f"Scoring it again: {done} of {total} items")

    found = rescore(study, kind, base, folder, sample=sample, tick=tick)
    report(_SCORED, "Writing the model card")
    dated = study.template_date if asks_for_date(prompter.tokenizer.chat_template) else None
    return _describe(study, kind, folder, found, template=match.family.name if match else None, notes=notes,
                     dated=dated)


def _describe(
    study: Study, kind: Kind, folder: Path, found: Rescore, *, template: str | None, notes: list[str],
    dated: date | None,
) -> dict[str, Any]:
    """Write the texts; what ``export.json`` says of them. ``dated`` is the date that the chat template writes."""
    path = study.folder / "report.json"
    summary = read_json(path) if path.is_file() else None
    ways = ways_to_load(study, kind, folder=".", base=base_name(study)[0])
    card = model_card(study, kind, summary, found, ways, template_date=dated)
    (folder / "README.md").write_text(card, encoding="utf-8")
    hints = ["Run these in the folder of the export, or put its path for the dot."]
    if kind.format == "adapter":
        hints.append("Where the base comes from, and how to get the very weights that were measured, says README.md. "
                     "Ollama and most other programs want one whole model: export the merged form for them.")
    (folder / "LOADING.md").write_text(
        loading_document(ways, [*hints, *map(inline, notes)], f"How to load {title(study, kind)}"), encoding="utf-8"
    )
    data_card = study.folder / "data" / "card.md"
    described = data_card.read_text(encoding="utf-8") if data_card.is_file() else "# Data\n\nNot described.\n"
    (folder / DATA_CARD).write_text(shareable_data_card(described), encoding="utf-8")
    return {
        "version": VERSION, "study": study.name, "arm": kind.arm, "format": kind.format, "cell": kind.cell,
        "assistant_builder": __version__, "base_model": base_name(study)[0],
        "adapter_sha256": read_json(study.arm_folder(kind.arm) / "summary.json")["adapter_sha256"],
        "chat_template": template, "rescore": found.to_record(), "sentences": [*rescore_sentences(found), *notes],
    }


def ways_to_load(study: Study, kind: Kind, *, folder: str, base: str) -> list[Snippet]:
    """How to load an export.

    Args:
        study: The study.
        kind: What was exported.
        folder: Where it lies.
        base: Name or folder of the base.
    """
    config = study.config
    known = measured(study, kind)
    dtype = str(known.scores["compute_dtype"]) if known else read_json(
        study.arm_folder(kind.arm) / "summary.json")["compute_dtype"]
    return snippets(Subject(
        kind=kind, folder=folder, base=base, name=study.name, system=default_system_prompt(study), model=config.model,
        compute_dtype=dtype, longest=config.eval.max_new_tokens, rank=config.train.rank,
        context=context_tokens([config], _model_context(study)),
    ))


def _model_context(study: Study) -> int:
    """Tokens that the base reads: what its folder says, or the catalog; else at least what the study needs of it."""
    model = study.config.model
    ref = resolve(model.base, trust_remote_code=allows_code(model))
    folder = base_name(study)[1]
    if folder is not None and (folder / "config.json").is_file():
        return context_length(folder)
    return ref.entry.context_length if ref.entry else study.config.train.max_length


def read_export(folder: Path) -> dict[str, Any] | None:
    """``export.json`` of a folder, with where it lies; None where there is no whole export."""
    path = folder / RECORD
    if not path.is_file():
        return None
    try:
        record = read_json(path)
    except AssistantBuilderError:
        return None
    return {**record, "folder": str(folder), "bytes": sum(entry["bytes"] for entry in record["files"])}


def _own_systems(study: Study) -> bool:
    records = read_jsonl(study.split_file("train"))
    return any(turn["role"] == "system" for record in records for turn in record["messages"])


def _zip(folder: Path, archive: Path, name: str) -> None:
    """Pack a folder, its files below ``name/``; weights hardly compress, so nothing is."""
    temporary = archive.with_name(f".{archive.name}.part")
    try:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as file:
            for path in sorted(folder.iterdir()):
                if path.is_file() and not path.name.startswith(".") and path.suffix != ".zip":
                    file.write(path, f"{name}/{path.name}")
        shutil.move(temporary, archive)
    finally:
        temporary.unlink(missing_ok=True)
