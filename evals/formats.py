"""The step ``formats``: write the GGUF files of a study's assistants and score each on every held-out item.

A file is scored as it will be served: prompts are compared token by token, llama.cpp itself answers, and the rule of
the assistant declines. The loss of the reference answers and the KL divergence from the 16-bit assistant are those of
the dequantized weights in PyTorch, because llama.cpp's server has no log-probabilities of prompts. The scores have the
records of cells, in ``evals/formats/ARM-TYPE/``.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from assistant_builder import __version__
from assistant_builder.arms import ARMS, CELLS
from assistant_builder.atomic_io import file_hash, read_json, write_json
from assistant_builder.data import Message, load_split
from assistant_builder.errors import EvaluationError, ModelError, install_command
from assistant_builder.export.gguf import GgufFiles, heldout_prompts
from assistant_builder.i18n import Text, m
from assistant_builder.inference.llamacpp import Completion, LlamaServer, check_prompts
from assistant_builder.models.base_model import fetch_base
from assistant_builder.models.chat_template import ChatTokenizer
from assistant_builder.models.gguf_convert import EXTRA, ensure_converter, extra_installed
from assistant_builder.quantization import UNQUANTIZED
from assistant_builder.retrieval.decline import (
    FILE,
    FIRST_TOKENS,
    decline_sentence,
    rule_of,
)
from assistant_builder.study import Study
from assistant_builder.study.limits import answer_limit
from assistant_builder.study.steps import FORMATS
from evals.answers import Generated, further_prompts, given_answer, looks_of
from evals.declaration import freeze
from evals.metric_resources import MetricResources
from evals.metrics import score_answers
from evals.records import sample_record, write_scores
from evals.report.approaches import add_approaches
from evals.report.build import build_report
from evals.report.formats import SKIPPED
from evals.report.load import tuned_cells
from evals.work_items import ProgressTracker, evenly_spaced

if TYPE_CHECKING:
    from evals.kl_divergence import ReferenceDistributions
    from evals.lm_eval_model import ReferenceScore

SLOTS = 4  # answers that llama.cpp generates at a time, as in serve
TIMED = 12  # items that are answered first and one at a time, by whose answers speed is measured
KL_ITEMS = 32
"""Most items, evenly spread, on which the KL divergence is computed, because both models read them."""
_WRITING = "writing"
_ANSWERS = "file answers"


def missing_extra() -> str:
    """What to install, in one sentence."""
    return f"No GGUF file was written and scored, because the extra gguf is not installed: {install_command(EXTRA)}"


def score_formats(study: Study) -> list[Path]:
    """Write and score the files of the recommended approach that are not scored yet.

    Returns:
        All files of their scores; none if this machine lacks what writes those that are missing, so that a later run
        tries again.

    Raises:
        EvaluationError: A file's tokenizer or chat template differs from the study's.
        ModelError: llama.cpp cannot load a file, or its process ended; files that were scored before are kept.
        Cancelled: The user cancelled; scored files are kept.
    """
    view = recommended(study)
    scoring = _FormatScoring(view)
    for path in (
        *scoring.obsolete(),
        *(
            other.format_scores_folder
            for other in study.views
            if other.approach != view.approach and other.format_scores_folder.is_dir()
        ),
    ):
        shutil.rmtree(path)
    reason, again = "", False
    if scoring.pending:
        if not extra_installed():
            reason, again = missing_extra(), True
        else:
            try:
                ensure_converter()
            except ModelError as error:
                reason, again = f"No GGUF file was written and scored: {error}", True
    skipped = view.format_scores_folder / SKIPPED
    if not reason:
        reason = scoring.run()
    if reason:
        write_json(skipped, {"reason": reason})
    else:
        skipped.unlink(missing_ok=True)
    if again:
        return []
    return sorted(path for path in view.format_scores_folder.rglob("*.json*") if path.is_file())


def recommended(study: Study) -> Study:
    """The study as seen through the approach that its report will recommend."""
    views = study.views
    if len(views) == 1:
        return views[0]
    return study.of_approach(
        add_approaches(study, {view.config.approaches[0]: build_report(view) for view in views})
    )


def format_folder(study: Study, arm: str, type: str) -> Path:
    """Folder with the scores of a file."""
    return study.format_scores_folder / f"{arm}-{type}"


@dataclass(frozen=True)
class _Answers:
    """The answers of a file to the prompts of all items, in order, and of their other looks, and what they cost."""

    prompts: list[str]
    completions: list[Completion]
    cost: dict[str, Any]


@dataclass(frozen=True)
class _Likelihoods:
    """What the dequantized weights of a file say of the reference answers, if transformers can read the file."""

    targets: list[ReferenceScore | None]  # the score of each item's answer
    kl: float | None = None  # mean divergence from the reference, in nats per token
    kl_items: int = 0  # number of items of that mean


class _FormatScoring:
    def __init__(self, study: Study) -> None:
        self._study, self._config = study, study.config
        self._resources = MetricResources()
        tasks = study.evals_folder / "tasks" / "items.jsonl"
        if not tasks.is_file():
            raise EvaluationError(
                m("the evaluation has left no held-out items"),
                where=str(tasks),
                remedy=m("Run 'assistant-builder run {name} --redo'", name=study.name),
            )
        self._conversations: dict[str, Sequence[Message]] = {}
        self._items: list[dict[str, Any]] = []
        for item, messages in heldout_prompts(study):
            self._items.append(item)
            self._conversations[str(item["item"])] = messages
        self._common = {
            "code": __version__,
            "items": file_hash(tasks),
            "compute_dtype": self._config.eval.compute_dtype,
            "similarity": self._config.eval.similarity,
            "max_new_tokens": answer_limit(self._study),
        }
        self.pending = {
            arm: found
            for arm in self._config.arms
            if (
                found := [
                    type for type in self._config.file_types(arm) if not self._done(arm, type)
                ]
            )
        }

    def obsolete(self) -> list[Path]:
        """Folders of files that the settings no longer name."""
        wanted = {
            f"{arm}-{type}" for arm in self._config.arms for type in self._config.file_types(arm)
        }
        return [
            path for path in self._study.format_scores_folder.glob("*/") if path.name not in wanted
        ]

    def _inputs(self, arm: str, type: str) -> dict[str, Any]:
        rule = self._study.arm_folder(arm) / FILE
        return {
            **self._common,
            "type": type,
            **GgufFiles(self._study, arm).inputs(),
            "rule": file_hash(rule) if rule.is_file() else None,
        }

    def _done(self, arm: str, type: str) -> bool:
        path = format_folder(self._study, arm, type) / "scores.json"
        return path.is_file() and read_json(path).get("inputs") == self._inputs(arm, type)

    def run(self) -> str:
        """Score the pending files; returns why files are missing, if llama.cpp's converter refused the model."""
        if not self.pending:
            return ""
        freeze(self._study)
        count, embeds = sum(map(len, self.pending.values())), self._config.eval.similarity
        items = len(self._items)
        self._likelihood = "long likelihood" if self._config.grounded else "likelihood"
        self._clock = ProgressTracker(
            self._study,
            {
                _WRITING: len(self.pending),
                _ANSWERS: count * items,
                self._likelihood: count * items,
                "similarity": count * items * embeds,
                "fidelity": (count + 1) * len(self._read),
            },
            FORMATS,
        )
        for arm, types in self.pending.items():
            try:
                self._write(arm, types)
            except ModelError as error:
                return f"The GGUF files of {arm} could not be written: {error}"
            for type in types:
                self._score(arm, type)
        return ""

    def _write(self, arm: str, types: Sequence[str]) -> None:
        reached = 0.0
        self._clock.set_message(
            m("{cell}: writing {types}", cell=m(ARMS[arm].label), types=", ".join(types))
        )

        def report(fraction: float, message: Text) -> None:
            nonlocal reached
            self._clock.tick(_WRITING, max(0.0, fraction - reached))
            reached = max(reached, fraction)

        GgufFiles(self._study, arm).ensure(types, report)
        report(1.0, "")

    def _score(self, arm: str, type: str) -> None:
        files = GgufFiles(self._study, arm)
        title = m("{assistant}, {type}", assistant=m(ARMS[arm].label), type=type)
        file = files.record(type)
        assert file is not None  # it was just written
        answers = self._answer(files.path(type), title)
        rule = rule_of(self._study.arm_folder(arm) / FILE) if self._config.grounded else None
        generated = {
            prompt: Generated(
                self._prompter.decode(completion.ids),
                self._prompter.decode(completion.ids[:FIRST_TOKENS]),
                completion.logprobs,
            )
            for prompt, completion in zip(answers.prompts, answers.completions, strict=True)
        }
        finishes = {
            prompt: completion.finish
            for prompt, completion in zip(answers.prompts, answers.completions, strict=True)
        }
        given = [
            given_answer(looks_of(item), item["question"], rule, generated, self._given)
            for item in self._items
        ]
        texts = [answer.text for answer in given]
        self._clock.set_message(
            m("{cell}: scoring the reference answers with the dequantized weights", cell=title)
        )
        began = time.monotonic()
        likelihoods = self._likelihoods(files.path(type))
        seconds = time.monotonic() - began
        self._clock.set_message(m("{cell}: similarity of answer and reference", cell=title))
        scores = score_answers(
            texts,
            [item["reference"] for item in self._items],
            self._resources,
            embedder=self._config.eval.similarity,
        )
        samples = [
            sample_record(item, answer=text, target=target, scores=found, taught=self._taught)
            for item, text, target, found in zip(
                self._items, texts, likelihoods.targets, scores, strict=True
            )
        ]
        for sample, answer in zip(samples, given, strict=True):
            sample |= {
                "finish": finishes[answer.prompt]
                if sample["answer"] == answer.generated
                else "stop",
                **({} if rule is None else answer.to_record()),
            }
        if self._config.eval.similarity:
            self._clock.tick("similarity", len(texts))
        write_scores(
            format_folder(self._study, arm, type),
            samples,
            {
                "arm": arm,
                "type": type,
                "file": files.path(type).name,
                **{key: file[key] for key in ("bytes", "sha256", "tensor_types")},
                "prompts_checked": len(self._items),
                "kl": likelihoods.kl,
                "kl_items": likelihoods.kl_items,
                **answers.cost,
                "compute_dtype": self._dtype,
                "seconds": {"nll": seconds, **answers.cost["seconds"]},
            },
            self._inputs(arm, type),
        )

    def _answer(self, path: Path, title: Text) -> _Answers:
        limit = answer_limit(self._study)
        texts = [*(item["prompt"] for item in self._items), *further_prompts(self._items)]
        prompts = [self._prompter.split_ids(text, "")[0] for text in texts]
        options: dict[str, Any] = {
            "stop_ids": self._prompter.stop_ids,
            "logprobs": self._config.grounded,
        }
        timed = evenly_spaced(range(len(self._items)), TIMED)
        found: dict[int, Completion] = {}
        self._clock.set_message(m("{cell}: loading the file in llama.cpp", cell=title))
        with LlamaServer(path, context=max(map(len, prompts)) + limit + 1, slots=SLOTS) as server:
            self._clock.set_message(m("{cell}: comparing tokens with the project's", cell=title))
            try:
                check_prompts(server, self._prompter, self._conversations)
            except EvaluationError as error:
                raise EvaluationError(
                    error.what,
                    where=error.where,
                    remedy=m(
                        "The {study} is complete without its GGUF files: 'assistant-builder run {name} --set "
                        "formats.types=[]'",
                        name=self._study.name,
                    ),
                ) from error
            self._clock.set_message(
                m("{cell}: answering the test questions with llama.cpp", cell=title)
            )
            began = time.monotonic()
            for place in timed:
                found[place] = server.complete(prompts[place], limit, **options)
                self._clock.tick(_ANSWERS, 1)
            rest = [place for place in range(len(prompts)) if place not in found]
            answers = server.complete_all([prompts[place] for place in rest], limit, **options)
            for place, completion in answers:
                found[rest[place]] = completion
                self._clock.tick(_ANSWERS, 1)
            cost = {
                "load_seconds": server.load_seconds,
                "resident_bytes": server.resident_bytes,
                "slots": SLOTS,
                "first_token_seconds": median(found[place].first_token_seconds for place in timed),
                "tokens_per_second": median(found[place].tokens_per_second for place in timed),
                "seconds": {"generate": time.monotonic() - began},
            }
        return _Answers(texts, [found[place] for place in range(len(texts))], cost)

    def _likelihoods(self, path: Path) -> _Likelihoods:
        from assistant_builder.models import loading
        from assistant_builder.models.gguf_convert import load_dequantized
        from evals.cells import base_of, pack
        from evals.lm_eval_model import StudyLM

        spec = base_of(self._study, self._base, UNQUANTIZED)
        self._dtype = spec.compute_dtype
        reference = (
            self._reference
        )  # loaded and released first, so that one model is in memory at a time
        loading.free_memory()
        model = load_dequantized(path, self._base, dtype=loading.DTYPES[spec.compute_dtype])
        if model is None:
            self._clock.tick(self._likelihood, len(self._items))
            self._clock.tick("fidelity", reference.items)
            return _Likelihoods([None] * len(self._items))
        model = model.to(spec.device).eval()
        pack(model)
        lm = StudyLM(
            model,
            self._prompter,
            own_tasks=(),
            batch_size=self._config.eval.batch_size,
            max_new_tokens=0,
            tick=lambda kind, items: self._clock.tick(
                self._likelihood, items if kind == "likelihood" else 0
            ),
        )
        targets = lm.score_targets([(item["prompt"], item["target"]) for item in self._items])
        divergence = reference.mean_kl(model)
        self._clock.tick("fidelity", reference.items)
        return _Likelihoods([*targets], divergence, reference.items)

    @cached_property
    def _read(self) -> list[dict[str, Any]]:
        return evenly_spaced(
            [item for item in self._items if item["answerable"]] or self._items, KL_ITEMS
        )

    @cached_property
    def _reference(self) -> ReferenceDistributions:
        """The distributions of the assistant that all files are compared with, see :mod:`evals.report.formats`."""
        from evals.cells import Variant, load_cells
        from evals.kl_divergence import ReferenceDistributions

        cell = CELLS[tuned_cells(self._config.arms)[0]]
        (found,) = [
            ReferenceDistributions(
                loaded.model, self._prompter, self._read, self._config.eval.batch_size
            )
            for loaded in load_cells(self._study, self._base, [Variant(cell)])
        ]
        self._clock.tick("fidelity", found.items)
        return found

    @cached_property
    def _base(self) -> Path:
        return fetch_base(self._config.model)

    @cached_property
    def _prompter(self) -> ChatTokenizer:
        return ChatTokenizer.load(self._base, self._study.record_template_date())

    @cached_property
    def _given(self) -> list[str]:
        return sorted(
            {
                pair.answer
                for pair in load_split(self._study.folder / "data", "train")
                if not pair.answerable
            }
        )

    @cached_property
    def _taught(self) -> set[str]:
        training = load_split(self._study.folder / "data", "train")
        return {
            *self._given,
            *(item["reference"] for item in self._items if not item["answerable"]),
            *([decline_sentence(training)] if self._config.grounded else []),
        }
