"""Score the cells, baselines and tasks of a study on its held-out items, through lm-eval."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assistant_builder.arms import ARMS, CELLS
from assistant_builder.atomic_io import file_hash, write_json
from assistant_builder.data import Pair, load_split
from assistant_builder.i18n import Text, m, render
from assistant_builder.models.base_model import fetch_base
from assistant_builder.models.chat_template import ChatTokenizer
from assistant_builder.models.checkpoint_dir import read_config
from assistant_builder.quantization import UNQUANTIZED
from assistant_builder.retrieval.answering import reads_conversations
from assistant_builder.retrieval.decline import (
    DeclineRule,
    Retrieved,
    decline_sentence,
    found_alone,
)
from assistant_builder.study import Study
from assistant_builder.study.containment import path_inside
from assistant_builder.study.limits import answer_limit
from evals.answers import (
    AFTER_TURNS,
    Generated,
    after_turns,
    further_prompts,
    given_answer,
    looks_of,
)
from evals.baselines import Neighbour, nearest, retrieval_prompt, served_similarities
from evals.cells import LoadedCell, Variant, base_of, load_cells
from evals.declaration import SIMILAR_QUESTIONS, freeze
from evals.decline_rules import copy_rule, fit_rules
from evals.metric_resources import MetricResources
from evals.metrics import score_answers
from evals.records import sample_record, write_scores
from evals.report.load import served_cells
from evals.stats.similar import similar_questions
from evals.tasks.extra import ExtraTasks
from evals.tasks.general_knowledge import TASK
from evals.tasks.held_out import build_items, heldout_pairs, run_own_tasks, write_tasks
from evals.work_items import EvaluationPlan, ProgressTracker, WorkItem, is_done

if TYPE_CHECKING:
    from assistant_builder.retrieval.retriever import Retriever
    from evals.kl_divergence import FidelityRecorder
    from evals.lm_eval_model import Observer, StudyLM

_LONGEST_PROMPT = 2048
"""Maximum tokens of a prompt with retrieved pairs and its reference answer, even if the model's context is longer."""


def score_study(
    study: Study,
    *,
    part: tuple[int, int] | None = None,
    on_headline: Callable[[], None] = lambda: None,
) -> Iterable[Path]:
    """Score what is not scored yet, or one shard of the cells (its number, from 1, and the number of shards).

    What the verdict rests on is scored first, in all approaches; then ``on_headline`` is called, except for a shard.

    Returns:
        All files of scores; none for a shard.

    Raises:
        EvaluationError: No held-out item is left, or a task of the settings cannot be run.
        Cancelled: The user cancelled; finished work items are kept.
    """
    scorings = [_Scoring(view, part) for view in study.views]
    step = "evaluate" if part is None else f"score-{part[0]}"
    planned, first = (
        sum(map(Counter, amounts), Counter())
        for amounts in ([each.planned for each in scorings], [each.first for each in scorings])
    )
    clock = ProgressTracker(study, planned, step, first)
    with ExitStack() as recorders:
        for each in scorings:
            each.score_headline(clock, recorders)
        if part is None:
            clock.set_message(m("Writing the first report"))
            on_headline()
            clock.verdict_reached()
        return [path for each in scorings for path in each.score_rest()]


class _Scoring:
    clock: ProgressTracker
    recorder: FidelityRecorder | None

    def __init__(self, study: Study, part: tuple[int, int] | None) -> None:
        self.study, self.config = study, study.config.eval
        self.base = fetch_base(study.config.model)
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
        self.first = self.plan.planned_first(len(self.items))
        self.resources = MetricResources()

    def score_headline(self, clock: ProgressTracker, recorders: ExitStack) -> None:
        """Score what the verdict rests on, after the rule for declining; cells of one base together."""
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
                    m("{run}: deciding on validation questions when to decline", run=run)
                ),
            )
        recorder = self._recorder()
        self.recorder = recorder and recorders.enter_context(recorder)
        self._score_cells(self.plan.headline, [piece.variant for piece in self.plan.headline])
        if self.plan.copy:
            self._copy()
        if self.plan.whole and self.config.similarity:
            self._group_questions()

    def score_rest(self) -> list[Path]:
        """Score the further cells, tasks and next-token distributions; returns all files of scores."""
        self._score_cells(
            [piece for piece in self.plan.pieces if piece not in self.plan.headline],
            self.plan.variants(),
            behind=True,
        )
        if self.recorder is not None:
            self.recorder.write(self.plan.fidelity_inputs)
        if self.plan.judges:
            from evals.judge.pairwise import judge_study

            self.clock.set_message(m("The judge compares the answers"))
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

        return write_final_index(self.study, self._held_out, embedder_of_study(self.study))

    @property
    def _held_out(self) -> list[Pair]:
        return [*load_split(self.study.folder / "data", "validation"), *heldout_pairs(self.study)]

    def _group_questions(self) -> None:
        path = self.plan.evals / SIMILAR_QUESTIONS
        inputs = {"items": file_hash(self.tasks.folder / "items.jsonl")}
        if not is_done(path, inputs):
            names = [item["item"] for item in self.items]
            vectors = self.resources.embedder.encode([item["question"] for item in self.items])
            groups = dict(zip(names, similar_questions(vectors), strict=True))
            write_json(path, {"inputs": inputs, "groups": groups})

    def _score_cells(
        self, pieces: Sequence[WorkItem], variants: Sequence[Variant], *, behind: bool = False
    ) -> None:
        """Score pieces; ``behind`` the headline also the tasks, and the cells that are read again."""
        recorder = self.recorder
        for cell in load_cells(self.study, self.base, variants):
            variant = Variant(cell.spec, cell.seed)
            observer = recorder.observer(cell.spec.name) if recorder and cell.seed == 1 else None
            for piece in pieces:
                if piece.variant == variant:
                    self._score(piece, cell, observer if piece.kind == "cell" else None)
            if behind and observer is not None and variant in self.plan.read_again:
                self.clock.set_message(
                    m("{cell}: next-token distributions", cell=m(cell.spec.label))
                )
                self._lm(
                    cell, self.config.batch_size, lambda kind: "fidelity", observer=observer
                ).read([(item["prompt"], item["target"]) for item in self.items], answers=False)
            for name, task in self.plan.tasks if behind else ():
                if (name, 1) == (cell.spec.name, cell.seed):
                    self.clock.set_message(
                        m("{cell}: task {task}", cell=m(cell.spec.label), task=task)
                    )
                    lm = self._lm(cell, self.config.batch_size, fixed_blocks=False)
                    folder, inputs = self.plan.task_folder(name), self.plan.task_inputs(name)
                    self.extra.run(task, lm, folder, inputs, self.config.seed)
                    # requests that lm-eval deduplicated
                    self.clock.tick("documents", self.extra.documents[task] - lm.documents)
                    del lm  # like the cell
            del cell  # otherwise its memory stays in use while the next base is loaded

    def _recorder(self) -> FidelityRecorder | None:
        """The comparison of next-token distributions, of the questions that have an answer; None if none is due."""
        if not self.plan.fidelity:
            return None
        from evals.kl_divergence import FidelityRecorder

        asked = [item for item in self.items if item["answerable"]] or self.items
        spec = base_of(self.study, self.base, UNQUANTIZED)
        return FidelityRecorder(
            self.study, self.prompter, asked, spec.compute_dtype, self.plan.order
        )

    def _score(self, piece: WorkItem, cell: LoadedCell, observer: Observer | None) -> None:
        kinds: dict[str, Text] = {
            "cell": m(cell.spec.label),
            "noise": m("{cell} with another batch size", cell=m(cell.spec.label)),
            "retrieval": m("Untuned base with retrieved pairs"),
        }
        title = kinds[piece.kind]
        if cell.seed > 1:
            title = m("{title}, seed {seed}", title=title, seed=cell.seed)
        long = "long " if self.plan.long(piece) else ""
        lm = self._lm(
            cell,
            piece.batch_size,
            lambda kind: long + kind,
            fixed_blocks=piece.kind != "noise",
            observer=observer,
        )
        seconds = {"load": cell.load_seconds}
        prompts = [item["prompt"] for item in self.items]
        details: list[dict[str, Any]] = [{} for _ in self.items]
        rule, conversation = None, {}
        if piece.kind == "retrieval":
            self.clock.set_message(m("{cell}: searching for the pairs", cell=title))
            prompts, details = self._retrieval_prompts()
        self.clock.set_message(
            m("{cell}: scoring the reference answers and answering the test questions", cell=title)
        )
        if piece.kind == "retrieval":
            pairs = [(text, item["target"]) for text, item in zip(prompts, self.items, strict=True)]
            lm.read(pairs, answers=True)
            targets, texts = [lm.targets[pair] for pair in pairs], lm.answer(prompts)
        else:
            targets, texts = run_own_tasks(lm, self.tasks, self.items, self.config.seed)
            rule = self.rules.get(str(piece.variant.run))
        seconds |= lm.seconds
        if rule is not None:
            lm.answer(
                further_prompts(self.items, AFTER_TURNS if self._in_conversation(piece) else ())
            )
            generated = {
                prompt: Generated(text, *lm.beginnings[prompt])
                for prompt, text in lm.answers.items()
            }
            given = [
                given_answer(looks_of(item), item["question"], rule, generated, self.refusals)
                for item in self.items
            ]
            texts, prompts = [answer.text for answer in given], [answer.prompt for answer in given]
            details = [answer.to_record() for answer in given]
        self.clock.set_message(m("{cell}: similarity of answer and reference", cell=title))
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
            | detail
            for item, text, target, found, prompt, detail in zip(
                self.items, texts, targets, scores, prompts, details, strict=True
            )
        ]
        if rule is not None and self._in_conversation(piece):
            conversation = {
                "conversation": after_turns(self.items, samples, rule, generated, self.refusals)
            }
        write_scores(
            piece.folder,
            samples,
            {
                "cell": cell.spec.name,
                "meaning": render(title if piece.kind != "cell" else cell.spec.about),
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
            self.plan.inputs(piece),
        )

    def _in_conversation(self, piece: WorkItem) -> bool:
        """Whether the questions are asked after unrelated turns, too: of the cells of which the report says it."""
        return piece.kind == "cell" and piece.variant in [
            Variant(CELLS[cell]) for cell in served_cells(self.study.config.arms)
        ]

    def _copy(self) -> None:
        self.clock.set_message(m("Copying the nearest training answers"))
        rule = None
        if self.retriever is None:
            meaning = "the answer of the nearest training question"
            texts = [near[0].answer for near in self._neighbours]
            details = [{"neighbours": [near[0].to_record()]} for near in self._neighbours]
        else:
            meaning = "the answer of the best fact that was found"
            rule = copy_rule(self.study, self.retriever)
            texts, details = self._best_facts(rule)
        samples = [
            sample_record(item, answer=text, target=None, scores=found, taught=self.taught) | detail
            for item, text, found, detail in zip(
                self.items, texts, self._model_scores(texts), details, strict=True
            )
        ]
        record: dict[str, Any] = {
            "cell": "copy",
            "meaning": meaning,
            "base": None,
            "adapter": None,
            **({} if rule is None else {"thresholds": rule.thresholds}),
        }
        write_scores(self.plan.baseline("copy"), samples, record, self.plan.copy_inputs)

    def _best_facts(self, rule: DeclineRule) -> tuple[list[str], list[dict[str, Any]]]:
        assert self.retriever is not None
        added = self._held_out if self.study.config.retrieval.final_index else []
        alike = served_similarities(self.items, self.retriever, added)
        texts, details = [], []
        for item, served in zip(self.items, alike, strict=True):
            confidence = rule.confidence(found_alone(Retrieved(**item["evidence"])))
            text = item["sources"][0]["answer"] if item["sources"] else ""
            texts.append(text if text and confidence >= rule.threshold else rule.sentence)
            details.append(
                {"generated": text, "confidence": confidence, "served_similarity": served}
            )
        return texts, details

    def _lm(
        self,
        cell: LoadedCell,
        batch_size: int,
        counted: Callable[[str], str] = str,
        *,
        fixed_blocks: bool = True,
        observer: Observer | None = None,
    ) -> StudyLM:
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
        references = [item["reference"] for item in self.items]
        scores = score_answers(answers, references, self.resources, embedder=self.config.similarity)
        if self.config.similarity:
            self.clock.tick("similarity", len(answers))
        return scores

    @cached_property
    def _neighbours(self) -> list[list[Neighbour]]:
        training = load_split(self.study.folder / "data", "train")
        return nearest([item["question"] for item in self.items], training, self.resources.embedder)

    def _retrieval_prompts(self) -> tuple[list[str], list[dict[str, Any]]]:
        context = read_config(self.base).get("max_position_embeddings")
        longest = min(context, _LONGEST_PROMPT) if isinstance(context, int) else _LONGEST_PROMPT
        found = [
            retrieval_prompt(item, near, self.prompter, longest - answer_limit(self.study))
            for item, near in zip(self.items, self._neighbours, strict=True)
        ]
        return [prompt for prompt, _ in found], [
            {"neighbours": [near.to_record() for near in pairs]} for _, pairs in found
        ]
