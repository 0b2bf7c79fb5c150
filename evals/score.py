"""Score the cells, baselines and tasks of a study on its held-out items, through lm-eval."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assistant_builder.arms import ARMS, CELLS
from assistant_builder.atomic_io import file_hash, read_json, write_json
from assistant_builder.data import load_split
from assistant_builder.i18n import N_, t
from assistant_builder.models.catalog import resolve
from assistant_builder.models.chat_template import ChatTokenizer
from assistant_builder.models.checkpoint_dir import read_config
from assistant_builder.models.download import fetch
from assistant_builder.models.remote_code import allows_code
from assistant_builder.quantization import UNQUANTIZED
from assistant_builder.retrieval.answering import reads_conversations
from assistant_builder.retrieval.decline import DeclineRule, Retrieved, decline_sentence
from assistant_builder.study import Study
from assistant_builder.study.containment import path_inside
from assistant_builder.study.limits import answer_limit
from evals.answers import Generated, Given, after_turns, further_prompts, given_answer, looks_of
from evals.baselines import Neighbour, nearest, retrieval_prompt
from evals.cells import LoadedCell, Variant, base_of, load_cells
from evals.declaration import SIMILAR_QUESTIONS, freeze
from evals.decline_rules import copy_rule, fit_rules, found_alone
from evals.metric_resources import MetricResources
from evals.metrics import score_answers
from evals.records import sample_record, write_scores
from evals.stats.similar import similar_questions
from evals.tasks.extra import ExtraTasks
from evals.tasks.general_knowledge import TASK
from evals.tasks.held_out import build_items, heldout_pairs, run_own_tasks, write_tasks
from evals.work_items import EvaluationPlan, ProgressTracker, WorkItem

if TYPE_CHECKING:
    from assistant_builder.retrieval.retriever import Retriever
    from evals.kl_divergence import FidelityRecorder, Observer
    from evals.lm_eval_model import StudyLM

_LONGEST_PROMPT = 2048
"""Maximum tokens of a prompt with retrieved pairs and its reference answer, even if the model's context is longer."""


def score_study(study: Study, *, part: tuple[int, int] | None = None) -> Iterable[Path]:
    """Score what is not scored yet, or one shard of the cells (its number, from 1, and the number of shards).

    Returns:
        All files of scores; none for a shard.

    Raises:
        EvaluationError: No held-out item is left, or a task of the settings cannot be run.
        Cancelled: The user cancelled; finished work items are kept.
    """
    scorings = [_Scoring(view, part) for view in study.views]
    step = "evaluate" if part is None else f"score-{part[0]}"
    clock = ProgressTracker(
        study, sum((Counter(each.planned) for each in scorings), Counter()), step
    )
    return [path for each in scorings for path in each.run(clock)]


class _Scoring:
    """The evaluation of one approach."""

    clock: ProgressTracker

    def __init__(self, study: Study, part: tuple[int, int] | None) -> None:
        self.study, self.config = study, study.config.eval
        model = study.config.model
        ref = resolve(model.base, trust_remote_code=allows_code(model))
        self.base = fetch(ref, revision=model.revision, trust_remote_code=allows_code(model))
        self.prompter = ChatTokenizer.load(self.base, study.record_template_date())
        self.retriever: Retriever | None = None
        if study.config.grounded:
            from assistant_builder.retrieval.retriever import Retriever

            self.retriever = Retriever.load(study, self.prompter, served=False)
        training = load_split(study.folder / "data", "train")
        self.items = build_items(
            heldout_pairs(study),
            self.prompter,
            self.retriever,
            training=training,
            conversations=reads_conversations(study),
        )
        self.tasks = write_tasks(study, self.items)
        self.refusals = sorted({pair.answer for pair in training if not pair.answerable})
        self.taught = (
            set(self.refusals)
            | {item["reference"] for item in self.items if not item["answerable"]}
            | ({decline_sentence(training)} if self.retriever else set())
        )
        self.rules: dict[str, DeclineRule | None] = {}
        names = [*([TASK] if self.config.retention else []), *self.config.tasks]
        self.extra = ExtraTasks(list(dict.fromkeys(names)))
        self.plan = EvaluationPlan(
            study, self.base, self.tasks.folder / "items.jsonl", self.extra.names, part
        )
        self.planned = self.plan.planned(len(self.items), self.extra.documents)
        self.resources = MetricResources()

    def run(self, clock: ProgressTracker) -> list[Path]:
        """Run the plan, cells of one base together."""
        self.clock = clock
        freeze(self.study)
        for path in self.plan.obsolete_results():
            path = path_inside(self.study.folder, path.relative_to(self.study.folder).as_posix())
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        if self.retriever is not None:
            served = [
                Variant(CELLS[ARMS[arm].cell], seed)
                for arm in self.study.config.arms
                for seed in range(1, self.study.config.seeds + 1)
            ]
            self.rules = fit_rules(
                self.study,
                self.base,
                self.prompter,
                self.retriever,
                served,
                lambda run: self.clock.set_message(
                    N_("{run}: deciding on validation questions when to decline").format(run=run)
                ),
            )
        with self._recorder() or nullcontext() as recorder:
            self._score_cells(recorder)
        if self.plan.copy:
            self._copy()
        if self.plan.whole and self.config.similarity:
            self._group_questions()
        if self.plan.judges:
            from evals.judge.pairwise import judge_study

            self.clock.set_message(N_("The judge compares the answers"))
            judged = 0

            def on_progress(done: int, total: int) -> None:
                nonlocal judged
                self.clock.tick("judgements", done - judged)
                judged = done

            judge_study(self.study, on_progress=on_progress)
        return [*self.plan.score_files(), *self._final_index()]

    def _final_index(self) -> list[Path]:
        """The index that the assistant is served with, which nothing that is scored reads."""
        if self.retriever is None or not self.plan.whole:
            return []
        from assistant_builder.retrieval.build import write_final_index
        from assistant_builder.retrieval.train_embedder import embedder_of_study

        pairs = [*load_split(self.study.folder / "data", "validation"), *heldout_pairs(self.study)]
        return write_final_index(self.study, pairs, embedder_of_study(self.study))

    def _group_questions(self) -> None:
        """Groups of similar questions, by which the report checks whether the differences are correlated."""
        path, inputs = (
            self.plan.evals / SIMILAR_QUESTIONS,
            {"items": file_hash(self.tasks.folder / "items.jsonl")},
        )
        if not path.exists() or read_json(path).get("inputs") != inputs:
            groups = similar_questions(
                self.resources.embedder.encode([item["question"] for item in self.items])
            )
            write_json(
                path,
                {
                    "inputs": inputs,
                    "groups": {
                        item["item"]: group for item, group in zip(self.items, groups, strict=True)
                    },
                },
            )

    def _score_cells(self, recorder: FidelityRecorder | None) -> None:
        """Score the pieces of the plan, and read the cells again that are scored but not compared."""
        for cell in load_cells(self.study, self.base, self.plan.variants()):
            variant = Variant(cell.spec, cell.seed)
            observer = (
                recorder.observer(cell.spec.name)
                if recorder is not None and cell.seed == 1
                else None
            )
            for piece in self.plan.pieces:
                if piece.variant == variant:
                    self._score(piece, cell, observer if piece.kind == "cell" else None)
            if observer is not None and variant in self.plan.read_again:
                self.clock.set_message(
                    N_("{cell}: next-token distributions").format(cell=cell.spec.name)
                )
                self._lm(
                    cell, self.config.batch_size, lambda kind: "fidelity", observer=observer
                ).read([(item["prompt"], item["target"]) for item in self.items], answers=False)
            for name, task in self.plan.tasks:
                if (name, 1) == (cell.spec.name, cell.seed):
                    self.clock.set_message(N_("{cell}: task {task}").format(cell=name, task=task))
                    lm = self._lm(cell, self.config.batch_size, fixed_blocks=False)
                    self.extra.run(
                        task,
                        lm,
                        self.plan.task_folder(name),
                        self.plan.task_inputs(name),
                        self.config.seed,
                    )
                    # requests that lm-eval deduplicated
                    self.clock.tick("documents", self.extra.documents[task] - lm.documents)
                    del lm  # like the cell
            del cell  # otherwise its memory stays in use while the next base is loaded
        if recorder is not None:
            recorder.write(self.plan.fidelity_inputs)

    def _recorder(self) -> FidelityRecorder | None:
        """The comparison of next-token distributions, of the questions that have an answer; None if none is due."""
        if not self.plan.fidelity:
            return None
        from evals.kl_divergence import FidelityRecorder

        asked = [item for item in self.items if item["answerable"]] or self.items
        spec = base_of(self.study, self.base, UNQUANTIZED)
        return FidelityRecorder(self.study, self.prompter, asked, spec.compute_dtype)

    def _score(self, piece: WorkItem, cell: LoadedCell, observer: Observer | None) -> None:
        title = {
            "cell": cell.spec.name,
            "noise": N_("{cell} with another batch size").format(cell=cell.spec.name),
            "retrieval": N_("Untuned base with retrieved pairs"),
        }[piece.kind] + (f", seed {cell.seed}" if cell.seed > 1 else "")
        long = "long " if self.plan.long(piece) else ""
        lm = self._lm(
            cell,
            piece.batch_size,
            lambda kind: long + kind,
            fixed_blocks=piece.kind != "noise",
            observer=observer,
        )
        seconds = {"load": cell.load_seconds}
        neighbours = None
        if piece.kind == "retrieval":
            self.clock.set_message(N_("{cell}: searching for the pairs").format(cell=title))
            prompts, neighbours = self._retrieval_prompts()

        self.clock.set_message(
            N_("{cell}: scoring the reference answers and answering the test questions").format(
                cell=title
            )
        )
        if neighbours is None:
            prompts = [item["prompt"] for item in self.items]
            targets, texts = run_own_tasks(lm, self.tasks, self.items, self.config.seed)
        else:
            pairs = [(text, item["target"]) for text, item in zip(prompts, self.items, strict=True)]
            lm.read(pairs, answers=True)
            targets, texts = [lm.targets[pair] for pair in pairs], lm.answer(prompts)
        seconds |= lm.seconds
        rule = (
            self.rules.get(str(Variant(cell.spec, cell.seed).run)) if neighbours is None else None
        )
        given: list[Given] = []
        if rule is not None:
            lm.answer(further_prompts(self.items))
            generated = {
                prompt: Generated(text, *lm.beginnings[prompt])
                for prompt, text in lm.answers.items()
            }
            given = [
                given_answer(looks_of(item), item["question"], rule, generated, self.refusals)
                for item in self.items
            ]
            texts, prompts = [answer.text for answer in given], [answer.prompt for answer in given]
        self.clock.set_message(N_("{cell}: similarity of answer and reference").format(cell=title))
        began = time.monotonic()
        scores = self._model_scores(texts)
        seconds["similarity"] = time.monotonic() - began
        samples = [
            sample_record(
                item,
                answer=text,
                target=target,
                scores=found,
                taught=self.taught,
                finish=lm.finishes[prompt] if text == lm.answers[prompt] else "stop",
            )
            for item, text, target, found, prompt in zip(
                self.items, texts, targets, scores, prompts, strict=True
            )
        ]
        for sample, answer in zip(samples, given, strict=bool(given)):
            sample |= {
                "generated": answer.generated,
                "confidence": answer.confidence,
                "sources": list(answer.sources),
            }
        conversation = (
            {}
            if rule is None
            else {"conversation": after_turns(self.items, samples, rule, generated, self.refusals)}
        )
        self._write(
            piece.folder,
            samples,
            neighbours,
            self.plan.inputs(piece),
            {
                "cell": cell.spec.name,
                "meaning": title if piece.kind != "cell" else t(cell.spec.about),
                "base": cell.spec.base,
                "adapter": cell.spec.adapter,
                "merged": cell.spec.merged,
                "seed": cell.seed,
                "compute_dtype": cell.compute_dtype,
                "base_bytes": cell.base_bytes,
                "batch_size": piece.batch_size,
                "seconds": seconds,
                **conversation,
            },
        )

    def _copy(self) -> None:
        self.clock.set_message(N_("Copying the nearest training answers"))
        if self.retriever is not None:
            self._copy_facts()
            return
        texts = [near[0].answer for near in self._neighbours]
        samples = [
            sample_record(item, answer=text, target=None, scores=found, taught=self.taught)
            for item, text, found in zip(self.items, texts, self._model_scores(texts), strict=True)
        ]
        copied = [near[:1] for near in self._neighbours]
        self._write(
            self.plan.baseline("copy"),
            samples,
            copied,
            self.plan.copy_inputs,
            {
                "cell": "copy",
                "meaning": "the answer of the nearest training question",
                "base": None,
                "adapter": None,
            },
        )

    def _copy_facts(self) -> None:
        """The answer of the best fact of the same search, unless its own rule declines."""
        assert self.retriever is not None
        rule = copy_rule(self.study, self.retriever)
        sure = [rule.confidence(found_alone(Retrieved(**item["evidence"]))) for item in self.items]
        copied = [item["sources"][0]["answer"] if item["sources"] else "" for item in self.items]
        texts = [
            rule.sentence if confidence < rule.threshold or not text else text
            for confidence, text in zip(sure, copied, strict=True)
        ]
        samples = [
            {
                **sample_record(item, answer=text, target=None, scores=found, taught=self.taught),
                "generated": first,
                "confidence": confidence,
            }
            for item, text, found, first, confidence in zip(
                self.items, texts, self._model_scores(texts), copied, sure, strict=True
            )
        ]
        self._write(
            self.plan.baseline("copy"),
            samples,
            None,
            self.plan.copy_inputs,
            {
                "cell": "copy",
                "meaning": "the answer of the best fact that was found",
                "base": None,
                "adapter": None,
            },
        )

    def _write(
        self,
        folder: Path,
        samples: list[dict[str, Any]],
        neighbours: Sequence[Sequence[Neighbour]] | None,
        inputs: dict[str, Any],
        record: dict[str, Any],
    ) -> None:
        for sample, near in zip(samples, neighbours or (), strict=neighbours is not None):
            sample["neighbours"] = [neighbour.to_record() for neighbour in near]
        write_scores(folder, samples, record, inputs)

    def _lm(
        self,
        cell: LoadedCell,
        batch_size: int,
        counted: Callable[[str], str] = str,
        *,
        fixed_blocks: bool = True,
        observer: Observer | None = None,
    ) -> StudyLM:
        """A cell for lm-eval; ``counted`` is the kind of work that a kind of its progress counts for."""
        from evals.lm_eval_model import StudyLM

        return StudyLM(
            cell.model,
            self.prompter,
            own_tasks=(self.tasks.nll, self.tasks.generation),
            batch_size=batch_size,
            max_new_tokens=answer_limit(self.study),
            fixed_blocks=fixed_blocks,
            answering=True,
            certain=bool(self.rules),
            observer=observer,
            tick=lambda kind, items: self.clock.tick(counted(kind), items),
        )

    def _model_scores(self, answers: Sequence[str]) -> list[dict[str, float]]:
        """The metrics that need a model, in item order; the references are embedded once."""
        references = [item["reference"] for item in self.items]
        scores = score_answers(answers, references, self.resources, embedder=self.config.similarity)
        if self.config.similarity:
            self.clock.tick("similarity", len(answers))
        return scores

    @cached_property
    def _neighbours(self) -> list[list[Neighbour]]:
        training = load_split(self.study.folder / "data", "train")
        return nearest([item["question"] for item in self.items], training, self.resources.embedder)

    def _retrieval_prompts(self) -> tuple[list[str], list[list[Neighbour]]]:
        context = read_config(self.base).get("max_position_embeddings")
        longest = min(context, _LONGEST_PROMPT) if isinstance(context, int) else _LONGEST_PROMPT
        found = [
            retrieval_prompt(item, near, self.prompter, longest - answer_limit(self.study))
            for item, near in zip(self.items, self._neighbours, strict=True)
        ]
        return [prompt for prompt, _ in found], [kept for _, kept in found]
