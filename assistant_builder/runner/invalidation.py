"""Inputs of steps, detection of stale steps, and errors of steps that failed.

A finished step is stale if an input differs from the recorded one, or if one of its files differs from the recorded
hash, so that a damaged adapter is never scored.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from assistant_builder import __version__
from assistant_builder.arms import ARMS
from assistant_builder.atomic_io import file_hash, read_json
from assistant_builder.config import (
    MICRO_BATCH,
    ModelConfig,
    RetrievalConfig,
    StudyConfig,
    TrainConfig,
)
from assistant_builder.documents.questions import trained_file
from assistant_builder.errors import (
    AssistantBuilderError,
    Cancelled,
    ChangedInputsError,
    StudyError,
    error_texts,
)
from assistant_builder.i18n import m, mn
from assistant_builder.models.catalog import resolve
from assistant_builder.models.checkpoint_dir import base_model_hash
from assistant_builder.models.fetch import fetch
from assistant_builder.models.gguf_convert import extra_installed
from assistant_builder.models.remote_code import allows_code
from assistant_builder.retrieval.decline import FILE as RULE
from assistant_builder.study import Study
from assistant_builder.study.containment import path_inside
from assistant_builder.study.contents import ArmSummary, Split
from assistant_builder.study.steps import (
    FORMATS,
    StepRecord,
    approach_of_run,
    arm_runs,
    changed_inputs,
    continued_run,
    evaluates,
    needed_before,
    split_run,
    steps_of,
    suffix_of,
)

_MEMORY_SIGNALS = (-signal.SIGABRT, -9)
"""A library that cannot allocate memory aborts the process; the operating system kills it with signal 9."""
_REPORT_ONLY = set(
    "primary_metric margin second_margin decline_margin right_decline_margin estimand bootstrap_resamples "
    "price_per_hour".split()
)
"""Settings of ``eval`` that change the interpretation of scores, but no score."""
_NO_ADAPTER = {"preset", "sample_answers", "allow_low_memory", "kernels"}
"""Settings of ``train`` that change no adapter."""


def first_stale_step(
    study: Study, *, redo: bool, config: StudyConfig | None = None, source: Path | None = None
) -> str | None:
    """The first finished step whose inputs changed or whose files are damaged; None without one.

    ``config`` and ``source`` replace the study's settings and data file. With ``redo``, no error is raised.

    Raises:
        ChangedInputsError: The inputs of a finished step changed.
        StudyError: Files or the status file of a step are damaged.
    """
    pending: set[str] = set()
    wanted = config or study.config
    steps = steps_of(wanted)
    for step in steps:
        if pending.intersection(needed_before(step, steps)):
            return None
        try:
            record = study.step(step)
        except StudyError:
            if redo:
                return step
            raise
        if record.state != "succeeded" or _can_do_more(record):
            pending.add(step)
            continue
        # a report is rendered again in seconds
        damaged = damaged_outputs(study, record) if step != "report" else []
        if damaged and not redo:
            raise StudyError(
                mn(
                    "{file}, written by step {step!r}, is damaged, changed or missing",
                    "{file} and {more} more, written by step {step!r}, are damaged, changed or missing",
                    len(damaged),
                    file=damaged[0],
                    more=len(damaged) - 1,
                    step=step,
                ),
                where=m("{study} {name}", name=study.name),
                remedy=m(
                    "Restore the file from a copy, or {with_redo} to run this step and all later ones again"
                ),
            )
        if damaged:
            return step
        changes = changed_inputs(
            record.inputs, step_inputs(study, step, config=config, source=source)
        )
        if changes and not redo:
            raise ChangedInputsError(step, changes, study.name)
        if changes:
            return step
    return None


def _can_do_more(record: StepRecord) -> bool:
    """Whether a step was skipped because something was not installed that is installed now."""
    return record.skipped and extra_installed()


def delete_stale_steps(study: Study, redo: bool) -> None:
    """Delete the outputs of the first stale step and all later ones; raise for stale steps unless ``redo`` is on.

    With ``redo``, all outputs of a finished study without stale steps are deleted.
    """
    step = first_stale_step(study, redo=redo)
    if step is not None:
        # scores record their own inputs, so they are deleted only if they are damaged
        damaged = evaluates(step) and bool(damaged_outputs(study, study.step(step)))
        _delete_from(study, step, scores=damaged)
    elif redo and study.state == "succeeded":
        _delete_from(study, study.steps[0], scores=True)


def _delete_from(study: Study, step: str, *, scores: bool) -> None:
    for later in reversed(study.steps[study.steps.index(step) :]):
        study.delete_step_outputs(later, scores=scores)


def delete_unreadable_steps(study: Study) -> None:
    """Delete the outputs of steps whose status files are unreadable, so that they start from the beginning."""
    for step in reversed(study.steps):
        try:
            study.step(step)
        except StudyError:
            study.delete_step_outputs(step)


def queue_if_stale(study: Study, step: str) -> bool:
    """Queue a step unless it runs or is up to date, and delete outputs of other inputs; False if it is up to date."""
    record = study.step(step)
    if record.state == "running":
        return True
    inputs = step_inputs(study, step)
    changed = bool(changed_inputs(record.inputs, inputs))
    if (
        record.state == "succeeded"
        and not changed
        and not damaged_outputs(study, record)
        and not _can_do_more(record)
    ):
        return False
    if record.inputs and changed:
        study.delete_step_outputs(step, scores=False)
        if step == "evaluate":  # its first report is of the other inputs
            study.delete_step_outputs("report")
        record = StepRecord(step)
    study.write_step(replace(record, state="queued", inputs=inputs))
    return True


def raise_for_step_result(study: Study, step: str, returncode: int | None) -> None:
    """Raise the error of a step whose process has ended, unless it succeeded or waits for the other arm.

    ``returncode`` is None if an earlier run started the process.
    """
    record = study.step(step)
    if record.state == "cancelled" or (study.cancel_requested and record.state != "succeeded"):
        study.write_step(replace(record, state="cancelled"))
        raise Cancelled(
            m("cancelled on request"),
            where=m("step {step}", step=step),
            remedy=m("Resume with 'assistant-builder run {name}'", name=study.name),
        )
    if record.state == "failed" and record.error is not None:
        raise AssistantBuilderError(**error_texts(record.error, where=f"step {step}"))
    if record.state == "succeeded" or (record.state == "queued" and returncode == 0):
        return
    if returncode is None:
        what = m("its process, started by an earlier run, exited without reporting a result")
    elif returncode < 0:
        what = m("its process was ended by signal {value}", value=-returncode)
    else:
        what = m(
            "its process exited with code {returncode} without reporting a result",
            returncode=returncode,
        )
    remedy = m("Run again to resume; the log is {log_file}", log_file=study.log_file(step))
    if returncode in _MEMORY_SIGNALS:
        remedy = m(
            "Most likely memory ran out: lower {train.micro_batch_size} or {eval.batch_size}. {remedy}",
            remedy=remedy,
        )
    error = AssistantBuilderError(what, where=m("step {step}", step=step), remedy=remedy)
    study.write_step(replace(record, state="failed", error=error.to_record()))
    raise error


def damaged_outputs(study: Study, record: StepRecord) -> list[str]:
    """Paths below the study folder of files that a finished step made and that are missing or changed."""
    return [
        name for name, digest in record.outputs.items() if _hash_of(study.folder, name) != digest
    ]


def _hash_of(folder: Path, name: str) -> str | None:
    try:
        path = path_inside(folder, name)
        status = path.stat()
        return _cached_hash(path, (status.st_size, status.st_ctime_ns, status.st_ino))
    except (OSError, StudyError):
        return None


@lru_cache(maxsize=4096)
def _cached_hash(path: Path, stamp: tuple[int, int, int]) -> str:
    """SHA-256 of a file; ``stamp`` identifies its version, so that an unchanged file is read only once.

    The stamp contains the change time instead of the modification time, because programs cannot set it.
    """
    return file_hash(path)


# The inputs of each step


def step_inputs(
    study: Study, step: str, *, config: StudyConfig | None = None, source: Path | None = None
) -> dict[str, Any]:
    """The inputs of a step (dotted setting or name of a file → value or hash), which earlier steps must have made.

    ``config`` and ``source`` replace the study's settings and data file.
    """
    config = config or study.config
    common = {"code": __version__}
    if step == "data":
        source = source or study.source
        if source is None:
            raise StudyError(
                m("the {study}'s data file is missing"),
                where=str(study.folder / "data"),
                remedy=m("Start a new {study} from the file"),
            )
        return {
            **common,
            "data file": file_hash(source),
            "model.base": config.model.base,
            "train.max_length": config.train.max_length,
            **_flat("data", config.data, leave_out={"source", "embedding_threshold"}),
        }
    split = _read(study, "data/split.json", Split)["hashes"]
    if step == "data-embed":
        hashes = {f"{name} data": digest for name, digest in split.items()}
        other, statements = config.retrieval.embedder, trained_file(study)
        if statements.is_file():
            hashes["statements"] = file_hash(statements)
        return {
            **common,
            **hashes,
            "data.embedding_threshold": config.data.embedding_threshold,
            "data.remove_leaks": config.data.remove_leaks,
            **({"retrieval.embedder": other} if other else {}),
            **({"retrieval.train_embedder": True} if config.trains_embedder else {}),
        }
    if step.startswith("train-"):
        return common | _training_inputs(study, step.removeprefix("train-"), config, split)
    adapters = _adapters(study, config, config.seeds)
    if step == "evaluate":
        return {
            **common,
            "held-out data": split["heldout"],
            "embedding leaks": file_hash(study.embedding_file),
            **_grounding(study, config),
            **adapters,
            "base model": base_model_identity(config.model),
            **_flat("model", config.model),
            **_flat("eval", config.eval, leave_out=_REPORT_ONLY),
        }
    types: dict[str, Any] = {"formats.types": config.formats.types} if config.formats.types else {}
    if types and config.weighs_columns:  # not recorded where it is off, as by earlier versions
        types |= {"formats.importance": True}
    if types and config.formats.arms != "auto":  # nor this one
        types |= {"formats.arms": config.formats.arms}
    if step == FORMATS:
        return {**common, **types, **_format_inputs(study, config)}
    scores = {
        f"{path.parent.relative_to(folder)}{suffix} scores": file_hash(path)
        for suffix in _suffixes(config)
        for folder in (study.folder / f"evals{suffix}",)
        for path in sorted(folder.rglob("scores.json"))
    }
    most, default = config.retrieval.most_wrong, RetrievalConfig.model_fields["most_wrong"].default
    promise = {"retrieval.most_wrong": most} if config.grounded and most != default else {}
    return {**common, **types, **adapters, **promise, **_flat("eval", config.eval), **scores}


def _training_inputs(
    study: Study, run: str, config: StudyConfig, split: Mapping[str, str]
) -> dict[str, Any]:
    config = config.of_approach(approach_of_run(run, config.approaches))
    arm, seed = split_run(run)
    plain = set() if ARMS[arm].rounds else {"qat_type"}
    # unknown to earlier versions, and without effect on arms that look nothing up
    default = TrainConfig.model_fields["stop_loss"].default
    if not config.grounded or config.train.stop_loss == default:
        plain.add("stop_loss")
    inputs = {
        "train data": split["train"],
        "validation data": split["validation"],
        "base model": base_model_identity(config.model),
        **_flat("model", config.model),
        **_flat("train", config.train, leave_out=_NO_ADAPTER | plain),
        # earlier versions had no empty setting; what a GPU chose is kept (training.micro_batch)
        "train.micro_batch_size": config.train.micro_batch_size or MICRO_BATCH,
        **_grounding(study, config, {"false_declines", "final_index"}),
        "train.seed": config.train.seed + seed - 1,
    }
    before = continued_run(run, config.arms)
    if before is not None:
        inputs[f"{before} adapter"] = _adapter_hash(study, before)
    return inputs


def _suffixes(config: StudyConfig) -> list[str]:
    return [suffix_of(approach, config.approaches) for approach in config.approaches]


def _adapters(study: Study, config: StudyConfig, seeds: int = 1) -> dict[str, str]:
    return {
        f"{run}{suffix} adapter": _adapter_hash(study, run + suffix)
        for suffix in _suffixes(config)
        for run in arm_runs(seeds, config.arms)
    }


def _adapter_hash(study: Study, run: str) -> str:
    digest: str = _read(study, f"arms/{run}/summary.json", ArmSummary)["adapter_sha256"]
    return digest


def _format_inputs(study: Study, config: StudyConfig) -> dict[str, Any]:
    """The inputs of the scores of GGUF files, which are of one of the approaches and of the first seed."""
    files: dict[str, Path] = {}
    for suffix in _suffixes(config):
        files[f"held-out items{suffix}"] = study.folder / f"evals{suffix}" / "tasks" / "items.jsonl"
        for arm in config.arms:
            files[f"{arm}{suffix} rule"] = study.folder / "arms" / f"{arm}{suffix}" / RULE
    scoring = ("max_new_tokens", "similarity", "compute_dtype")
    return {
        **_adapters(study, config),
        "base model": base_model_identity(config.model),
        **_flat("model", config.model),
        **{f"eval.{key}": getattr(config.eval, key) for key in scoring},
        **{name: file_hash(path) for name, path in files.items() if path.is_file()},
    }


def _grounding(
    study: Study, config: StudyConfig, leave_out: set[str] | None = None
) -> dict[str, Any]:
    """The inputs of a step that writes facts into prompts, which serving does not change; empty without facts."""
    if "grounded" not in config.approaches:
        return {}
    unread = {"sources_in_endpoint", "greeting", "suggestions", "examples"}
    unread |= {"most_wrong", "keep_promise", "if_broken"}
    unread |= leave_out or set()
    return {
        "approaches": config.approaches,
        **_flat("retrieval", config.retrieval, unread),
        **{
            f"{path.name} of the index": file_hash(path)
            for path in sorted(study.retrieval_folder.glob("*"))
            if path.is_file()
        },
    }


def base_model_identity(model: ModelConfig) -> str:
    """Hash of the base model, which is downloaded if necessary."""
    ref = resolve(model.base, trust_remote_code=allows_code(model))
    return base_model_hash(
        fetch(ref, revision=model.revision, trust_remote_code=allows_code(model))
    )


def _flat(prefix: str, section: BaseModel, leave_out: set[str] | None = None) -> dict[str, Any]:
    values = section.model_dump(mode="json", exclude=leave_out or set())
    return {f"{prefix}.{key}": value for key, value in values.items()}


def _read(study: Study, name: str, content: Any) -> Any:
    path = study.folder / name
    if not path.is_file():
        raise StudyError(
            m("{name} is missing", name=name), where=str(study.folder), remedy=m("{Redo}")
        )
    return read_json(path, content)
