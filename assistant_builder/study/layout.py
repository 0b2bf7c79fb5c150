"""The layout of a study folder: its settings, the approach through which it is seen, and where its files are."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any, Literal, Self

from assistant_builder.atomic_io import read_json, write_text
from assistant_builder.config import BEFORE_APPROACHES, Approach, StudyConfig, load_config
from assistant_builder.errors import AssistantBuilderError, ConfigError
from assistant_builder.i18n import m
from assistant_builder.study.containment import check_folder
from assistant_builder.study.contents import ArmSummary, ReportChoice
from assistant_builder.study.steps import SUFFIXES, approach_of_run, steps_of, suffix_of

_STATUS_FILES: dict[str, str] = {
    "data": "data/status.json",
    "data-embed": "data/embed.status.json",
    "evaluate": "evals/status.json",
    "formats": "evals/formats.status.json",
    "report": "report.status.json",
}


def home() -> Path:
    """The folder of ``studies/`` and ``models/``, read from the environment at every call."""
    folder = Path(
        os.environ.get("ASSISTANT_BUILDER_HOME") or Path.home() / ".assistant-builder"
    ).expanduser()
    return folder.absolute()  # lm-eval loads and runs tasks in another working directory


def run_marker() -> Path:
    """File that a run touches when it begins, so that idle processes of the chat free their memory."""
    return home() / "queue" / "started"


def studies_folder() -> Path:
    """The folder that contains the study folders."""
    return home() / "studies"


class StudyLayout:
    """The files of a study, as seen through one of its approaches."""

    def __init__(self, folder: Path, approach: Approach | None = None) -> None:
        self.folder = folder
        self.approach: Approach | None = approach
        self._suffix = "" if approach is None else suffix_of(approach, self._settings.approaches)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StudyLayout) and (self.folder, self.approach) == (
            other.folder,
            other.approach,
        )

    def __hash__(self) -> int:
        return hash((self.folder, self.approach))

    def of_approach(self, approach: Approach) -> Self:
        """The study as seen through one of its approaches.

        Raises:
            ConfigError: The study does not have it.
        """
        known = self._settings.approaches
        if approach not in known:
            raise ConfigError(
                m(
                    "the {study} has only the {known} approach and not {approach}",
                    known=known[0],
                    approach=approach,
                ),
                where=m("{study} {name}", name=self.name),
                remedy=m(
                    "Train it with 'assistant-builder run {name} --set approaches={value}'",
                    name=self.name,
                    value=",".join([*known, approach]),
                ),
            )
        return type(self)(self.folder, approach)

    def of_choice(self, approach: Approach | None) -> Self:
        """The study as seen through an approach, or through the recommended one if none is chosen.

        Raises:
            ConfigError: The study does not have it.
        """
        return self.recommended if approach is None else self.of_approach(approach)

    def of_run(self, run: str) -> Self:
        """The study as seen through the approach of a training run."""
        return type(self)(self.folder, approach_of_run(run, self._settings.approaches))

    @property
    def views(self) -> list[Self]:
        """The study as seen through each of its approaches, the main one first."""
        return [type(self)(self.folder, approach) for approach in self._settings.approaches]

    @property
    def recommended(self) -> Self:
        """The study as seen through the approach that its report recommends; before there is one, the main approach."""
        known, path = self._settings.approaches, self.folder / "report.json"
        found = None
        if len(known) > 1 and path.is_file():
            found = read_json(path, ReportChoice).get("recommended_approach")
        return type(self)(self.folder, found if found in known else known[0])

    @property
    def name(self) -> str:
        """Name of the study and of its folder."""
        return self.folder.name

    @property
    def title(self) -> str:
        """What people call the study; its name if it has no title or its settings are damaged."""
        try:
            return self._settings.shown_name
        except AssistantBuilderError:
            return self.name

    @property
    def config(self) -> StudyConfig:
        """The validated config, read from ``study.yaml`` again whenever the file has changed."""
        return (
            self._settings if self.approach is None else self._settings.of_approach(self.approach)
        )

    @property
    def _settings(self) -> StudyConfig:
        path = self.folder / "study.yaml"
        check_folder(self.folder)  # whatever is done with a study begins with its settings
        try:
            status = path.stat()
        except OSError:
            return load_config(path, absent=BEFORE_APPROACHES)  # its error says what is wrong
        return _read_settings(path, status.st_mtime_ns, status.st_size, status.st_ino)

    def write_config(self, config: StudyConfig) -> None:
        """Replace ``study.yaml``; seen through one approach, the study keeps the other one."""
        if self.approach is not None:
            config = config.model_copy(update={"approaches": self._settings.approaches})
        write_text(self.folder / "study.yaml", config.to_yaml())

    @property
    def source(self) -> Path | None:
        """The study's own copy of the data file."""
        return next(iter(sorted((self.folder / "data").glob("source.*"))), None)

    def split_file(self, split: Literal["train", "validation", "heldout", "rejected"]) -> Path:
        """``data/<split>.jsonl``; nothing reads ``heldout`` before the evaluation."""
        return self.folder / "data" / f"{split}.jsonl"

    @property
    def embedding_file(self) -> Path:
        """``data/embedding.json``: held-out questions that leak into training by their embeddings."""
        return self.folder / "data" / "embedding.json"

    @property
    def retrieval_folder(self) -> Path:
        """``retrieval/``: the index of the training pairs and its recall; missing in studies of 0.1."""
        return self.folder / "retrieval"

    @property
    def embedder_folder(self) -> Path:
        """``embedder/``: the sentence embedder of the index, if it was trained on the study's questions."""
        return self.folder / "embedder"

    def arm_folder(self, run: str) -> Path:
        """``arms/<run>``: config.json status.json metrics.jsonl log.txt checkpoints/ adapter/."""
        return self.folder / "arms" / self._own(run)

    def arm_summary(self, run: str) -> dict[str, Any]:
        """``arms/<run>/summary.json``: what the training was and took."""
        summary: dict[str, Any] = read_json(self.arm_folder(run) / "summary.json", ArmSummary)
        return summary

    def _own(self, name: str) -> str:
        return name if name.endswith(tuple(SUFFIXES.values())) else name + self._suffix

    @property
    def evals_folder(self) -> Path:
        """``evals/``: all scores; ``evals+memory/`` if that is not the main approach."""
        return self.folder / f"evals{self._suffix}"

    @property
    def formats_folder(self) -> Path:
        """``formats``: the GGUF files that the study is scored and served with."""
        return self.folder / f"formats{self._suffix}"

    @property
    def format_scores_folder(self) -> Path:
        """``evals/formats``: scores of the GGUF files, in a folder for each."""
        return self.evals_folder / "formats"

    def export_folder(self, name: str) -> Path:
        """``exports/<name>``: an export that the page made."""
        return self.folder / "exports" / f"{name}{self._suffix}"

    @property
    def report_file(self) -> Path:
        """``report.json``: the report of this approach, which is the main file for the recommended one."""
        if self.approach is None or self.recommended.approach == self.approach:
            return self.folder / "report.json"
        return self.folder / f"report{SUFFIXES[self.approach]}.json"

    def cell_folder(self, cell: str, *, seed: int = 1) -> Path:
        """``evals/<cell>``, for later seeds ``evals/seeds/<seed>/<cell>``: samples.jsonl scores.json."""
        folder = self.evals_folder
        return folder / cell if seed == 1 else folder / "seeds" / str(seed) / cell

    @property
    def steps(self) -> tuple[str, ...]:
        """The steps of this study in execution order."""
        return steps_of(self._settings)

    @property
    def shards(self) -> tuple[str, ...]:
        """The shards of the evaluation that a cluster scores in parallel: ``score-1``, …; empty without a cluster.

        They are not steps of the study: the evaluation validates their files, and ignores them after it has succeeded.
        """
        return tuple(f"score-{shard}" for shard in range(1, self.config.evaluation_shards + 1))

    @property
    def serves_corrections(self) -> bool:
        """Whether corrections are served at once: facts are looked up by its assistants, or before training copied."""
        trained = any((self.arm_folder(arm) / "summary.json").is_file() for arm in self.config.arms)
        return self.config.grounded or not trained

    @property
    def corrections_file(self) -> Path:
        """``corrections.jsonl``: answers that were corrected, in the chat or the inbox."""
        return self.folder / "corrections.jsonl"

    def status_file(self, step: str) -> Path:
        """The status file of a step."""
        if step.startswith("train-"):
            return self.arm_folder(step.removeprefix("train-")) / "status.json"
        return self.folder / (_STATUS_FILES.get(step) or f"evals/{step}.status.json")

    def step_folder(self, step: str) -> Path:
        """The folder of the step's status file."""
        return self.status_file(step).parent

    def log_file(self, step: str) -> Path:
        """Standard output and error of the step's process."""
        folder = self.step_folder(step)
        return folder / ("log.txt" if step.startswith("train-") else f"{step}.log.txt")

    def lease_file(self, step: str) -> Path:
        """The lease of the cluster node that runs the step."""
        return self.step_folder(step) / f"{step}.lease.json"


@functools.lru_cache(maxsize=64)
def _read_settings(path: Path, *status: int) -> StudyConfig:
    """The settings of a file; parsing YAML takes milliseconds, and the page needs them dozens of times a second.

    The name is that of the folder: with another one, changes of this study would be made to the other study.
    """
    return load_config(path, absent=BEFORE_APPROACHES).model_copy(update={"name": path.parent.name})
