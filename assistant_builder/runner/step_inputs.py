"""The command that runs each step of a study, and the inputs from which each step is made."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from assistant_builder import __version__
from assistant_builder.arms import TWINS
from assistant_builder.atomic_io import file_hash, read_json
from assistant_builder.child_process import python_command
from assistant_builder.config import ModelConfig, StudyConfig
from assistant_builder.errors import StudyError
from assistant_builder.models.catalog import resolve
from assistant_builder.models.checkpoint_dir import base_model_hash
from assistant_builder.models.download import fetch
from assistant_builder.models.remote_code import allows_code
from assistant_builder.study import Study
from assistant_builder.study.steps import arm_runs, split_run

_REPORT_ONLY = {"primary_metric", "margin", "bootstrap_resamples", "price_per_hour"}
"""Settings of ``eval`` that change how the report judges scores, but no score."""
_NO_ADAPTER = {"preset", "sample_answers", "allow_low_memory"}
"""Settings of ``train`` that change what is shown or allowed, but no adapter."""


def step_command(study: Study, step: str) -> list[str]:
    """The argument vector that runs a step in a process of its own."""
    if step.startswith("score-"):
        module, *words = "evals", "score", "--part", f"{step.removeprefix('score-')}/{study.config.scorings}"
    else:
        module, *words = {"evaluate": ("evals", "score"), "report": ("evals", "report")}.get(
            step, ("assistant_builder", "step", step)
        )
    return python_command("-m", module, *words, "--study", str(study.folder))


def step_inputs(
    study: Study, step: str, *, config: StudyConfig | None = None, source: Path | None = None
) -> dict[str, Any]:
    """The inputs of a step, flat: setting or file → value or hash.

    Args:
        study: The study.
        step: The step.
        config: Settings to assume instead of the study's own.
        source: Data file to assume instead of the study's own.

    Raises:
        StudyError: An earlier step has not been done.
    """
    config = config or study.config
    common = {"code": __version__}
    if step == "data":
        source = source or study.source
        if source is None:
            raise StudyError("the study's data file is missing", where=str(study.folder / "data"),
                             remedy="Start a new study from the file")
        return {
            **common, "data file": file_hash(source), "model.base": config.model.base,
            "train.max_length": config.train.max_length,
            **_flat("data", config.data, leave_out={"source", "embedding_threshold"}),
        }
    split = _read(study, "data/split.json")["hashes"]
    if step == "data-embed":
        return {**common, **_named(split), "data.embedding_threshold": config.data.embedding_threshold,
                "data.remove_leaks": config.data.remove_leaks}
    if step.startswith("train-"):
        _, seed = split_run(step.removeprefix("train-"))
        plain = {"kernels"} if config.train.kernels == "plain" else set()  # "plain" was the only choice once
        # with early stopping all arms end at the same step, so that adding or removing an arm changes the others
        stops = {"stops with": list(config.arms)} if config.train.early_stopping and config.arms != list(TWINS) else {}
        return {
            **common, "train data": split["train"], "validation data": split["validation"],
            "base model": base_model_identity(config.model), **_flat("model", config.model),
            **_flat("train", config.train, leave_out=_NO_ADAPTER | plain), "train.seed": config.train.seed + seed - 1,
            **stops,
        }
    adapters = {f"{run} adapter": _read(study, f"arms/{run}/summary.json")["adapter_sha256"]
                for run in arm_runs(config.seeds, config.arms)}
    if step == "evaluate":
        return {
            **common, "held-out data": split["heldout"], "embedding leaks": file_hash(study.embedding_file),
            **adapters, "base model": base_model_identity(config.model), **_flat("model", config.model),
            **_flat("eval", config.eval, leave_out=_REPORT_ONLY),
        }
    return {**common, **adapters, **_flat("eval", config.eval),
            **{f"{path.parent.relative_to(study.folder / 'evals')} scores": file_hash(path)
               for path in sorted((study.folder / "evals").rglob("scores.json"))}}


def base_model_identity(model: ModelConfig) -> str:
    """SHA-256 identity of a study's base model, which is downloaded if necessary."""
    ref = resolve(model.base, trust_remote_code=allows_code(model))
    return base_model_hash(fetch(ref, revision=model.revision, trust_remote_code=allows_code(model)))


def _flat(prefix: str, part: BaseModel, leave_out: set[str] | None = None) -> dict[str, Any]:
    values = part.model_dump(mode="json", exclude=leave_out or set())
    return {f"{prefix}.{key}": value for key, value in values.items()}


def _named(split: Mapping[str, str]) -> dict[str, str]:
    return {f"{name} data": digest for name, digest in split.items()}


def _read(study: Study, name: str) -> Any:
    path = study.folder / name
    if not path.is_file():
        raise StudyError(f"{name} is missing", where=str(study.folder), remedy="Run the study again with --redo")
    return read_json(path)
