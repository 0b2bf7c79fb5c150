"""Questions of the owner on the Results tab: typed while it trains or later, asked at once, answers side by side."""

from __future__ import annotations

import csv
import functools
import io
from collections.abc import Sequence
from typing import Any

import gradio as gr

from assistant_builder.chat.client import WorkerPool
from assistant_builder.chat.own_questions import OwnQuestionAsker, renew_report
from assistant_builder.data import Pair, load_split
from assistant_builder.data.prepare import row_numbers
from assistant_builder.data.wordings import parse_wordings
from assistant_builder.i18n import N_, m, t
from assistant_builder.retrieval.own_questions import (
    ASKED,
    answers_file,
    assistants,
    facts_to_word,
    questions_file,
    questions_of,
    read_questions,
    save_questions,
    suggested_questions,
    takes_own_questions,
    takes_wordings,
    trained_arms,
    unasked,
    wording_of,
)
from assistant_builder.study import Study
from assistant_builder.study.contents import OwnQuestion
from assistant_builder.ui.evaluate.view import own_answers_view, own_state_view
from assistant_builder.ui.html import hint
from assistant_builder.ui.refresh import (
    QUIET,
    LiveRegion,
    StudyView,
    Updates,
    inform,
)
from assistant_builder.ui.study_snapshot import stamp, state_of
from evals.report.build import write_report
from evals.report.own_questions import own_questions, texts_of_questions
from evals.report.schema import OwnQuestions

_ABOUT = N_(
    "Tick questions that your file does not answer, or type others. They show how often the assistants answer what "
    "they should decline, and are never trained on."
)
_ABOUT_WORDINGS = N_(
    "Write beside each question how a visitor would ask it, without looking at the words of your file. These are the "
    "facts that are most easily confused with others. A few are enough; the assistants are never trained on them."
)


@functools.lru_cache(maxsize=4)
def _asker(pool: WorkerPool) -> OwnQuestionAsker:
    """One for the pages of all languages, which share the pool."""
    return OwnQuestionAsker(pool, lambda study: renew_report(study, write_report))


class OwnQuestionsPanel:
    """Components of the panel."""

    def __init__(self, pool: WorkerPool) -> None:
        self.asker = _asker(pool)
        with gr.Column(visible=False, elem_id="ab-own") as self.body:
            self.state = gr.HTML(elem_id="ab-own-state")
            self.answers = gr.HTML(elem_id="ab-own-answers")
            with gr.Accordion(
                t("Test it in your own words"), open=True, elem_id="ab-own-form"
            ) as self.form:
                self.about = gr.HTML()
                with gr.Column(elem_classes="ab-own-wordings"):
                    self.wordings = [
                        gr.Textbox(
                            label=t("Question"),
                            info=" ",
                            placeholder=t("The same in your own words"),
                            max_lines=3,
                            visible=False,
                            elem_id=f"ab-own-wording-{place}",
                        )
                        for place in range(ASKED)
                    ]
                self.pasted = gr.Textbox(
                    label=t("Other questions, with their answers"),
                    info=t(
                        "One per line, copied from two columns of a spreadsheet: how a visitor would ask it, and the "
                        "answer, the question or the row number of your file."
                    ),
                    lines=2,
                    max_lines=12,
                    elem_id="ab-own-pasted",
                )
                self.unanswered = gr.CheckboxGroup(
                    label=t("Questions that your file does not answer"),
                    info=t(
                        "Tick those that it really does not answer. A good assistant declines them."
                    ),
                    elem_id="ab-own-unanswered",
                )
                self.others = gr.Textbox(
                    label=t("Others that it does not answer, one per line"),
                    lines=2,
                    max_lines=8,
                    elem_id="ab-own-others",
                )
                self.save = gr.Button(
                    t("Keep them and ask"), variant="primary", elem_id="ab-own-save"
                )
            # a change of this text starts the questions; an invisible component causes no change event
            self.waiting = gr.Textbox("", show_label=False, elem_classes="ab-offstage")

    def sections(self) -> list[LiveRegion]:
        """The regions that follow the study; what is typed is redrawn only after it was saved."""
        return [
            LiveRegion(
                "evaluate-own",
                [
                    self.body,
                    self.form,
                    self.about,
                    *self.wordings,
                    self.pasted,
                    self.unanswered,
                    self.others,
                ],
                lambda view: (
                    f"{_takes(view)}:{_stamp(view, 'data/split.json', 'retrieval/index.json')}"
                ),
                self._draw_form,
            ),
            LiveRegion(
                "evaluate-own-answers",
                [self.state, self.answers, self.waiting],
                self._mark,
                self._draw_answers,
            ),
        ]

    def _mark(self, view: StudyView) -> str:
        study, served = view.study, view.served
        if study is None or served is None or not _takes(view):
            return "none"
        arms = [served.arm_folder(arm) / "summary.json" for arm in study.config.arms]
        busy = f"{self.asker.is_asking(study)}:{self.asker.error(study) is not None}"
        return f"{state_of(study)}:{busy}:{_stamp(view, answers_file(study), *arms)}"

    def _draw_form(self, view: StudyView) -> Updates:
        study = view.study
        if study is None or not _takes(view):
            return {self.body: gr.update(visible=False)}
        asked, facts, reword = read_questions(study), _facts(study), takes_wordings(study)
        given, others = _divided(asked, facts)
        numbers = row_numbers(study.folder / "data")
        boxes: Updates = dict.fromkeys(self.wordings, gr.update(visible=False, value=""))
        for box, pair in zip(self.wordings, facts, strict=False):
            row = t("row {row}", row=numbers.shown(pair.row))
            boxes[box] = gr.update(
                visible=True,
                label=pair.question,
                # gradio would make links of [text](address)
                info=f"{pair.answer} ({row})".replace("](", "]\N{ZERO WIDTH SPACE}("),
                value=given.get(pair.row, ""),
            )
        own = [each.question for each in asked if each.row is None]
        suggested = suggested_questions(load_split(study.folder / "data", "train"))
        return {
            self.body: gr.update(visible=True),
            self.form: gr.update(
                open=not asked,
                label=t("Test it in your own words")
                if reword
                else t("Test it with more questions"),
            ),
            self.about: hint(t(_ABOUT_WORDINGS if reword else _ABOUT)),
            **boxes,
            self.pasted: _lines(others),
            self.unanswered: gr.update(choices=list(dict.fromkeys([*suggested, *own])), value=own),
            self.others: "",
        }

    def _draw_answers(self, view: StudyView) -> Sequence[Any]:
        study, served = view.study, view.served
        if study is None or served is None or not _takes(view):
            return ["", "", ""]
        asked, arms = read_questions(study), assistants(served)
        complete = view.trained and study.state != "running"
        missing, found = unasked(served), own_questions(served)
        texts = texts_of_questions(OwnQuestions.model_validate(found), arms) if found else None
        state = own_state_view(
            len(asked),
            len(missing),
            trained=bool(trained_arms(served)),
            asking=self.asker.is_asking(study),
            error=self.asker.error(study),
            reword=takes_wordings(study),
        )
        # a run plans with the memory, of which copied answers need little
        unheard = len(missing if complete else unasked(served, copies=True))
        waiting = f"{study.name}:{unheard}:{'all' if complete else 'copies'}" if unheard else ""
        numbers = row_numbers(study.folder / "data")
        return [state, own_answers_view(texts, numbers) if texts and texts.arms else "", waiting]

    def wire(self, picker: gr.Dropdown) -> None:
        """Connect the components."""
        inputs = [picker, self.unanswered, self.others, self.pasted, *self.wordings]
        self.save.click(self._save, inputs, None, **QUIET)
        self.waiting.change(self._begin, self.waiting, None, queue=False, **QUIET)

    def _save(
        self,
        name: str | None,
        unanswered: Sequence[str],
        others: str,
        pasted: str,
        *wordings: str,
    ) -> None:
        study = Study.open(name or "")
        facts = _facts(study)
        questions = [
            *(wording_of(pair, text or "") for pair, text in zip(facts, wordings, strict=False)),
            *(
                questions_of(study, parse_wordings(pasted), where=m("the questions with answers"))
                if pasted.strip()
                else ()
            ),
            *(OwnQuestion(" ".join(each.split())) for each in (*unanswered, *others.splitlines())),
        ]
        if not save_questions(study, questions):
            inform(t("Nothing was typed or ticked."))
        self.asker.start(study)

    def _begin(self, waiting: str) -> None:
        name, _, rest = (waiting or "").partition(":")
        if rest:
            self.asker.start(Study.open(name), copies=rest.endswith(":copies"))


def _divided(
    questions: Sequence[OwnQuestion], facts: Sequence[Pair]
) -> tuple[dict[int, str], list[OwnQuestion]]:
    """Row of a fact that is asked for → its first wording, and the other wordings."""
    given: dict[int, str] = {}
    others = []
    for each in questions:
        if each.row in given or each.row not in {pair.row for pair in facts}:
            others.append(each)
        else:
            given[each.row] = each.question
    return given, [each for each in others if each.row is not None]


def _lines(wordings: Sequence[OwnQuestion]) -> str:
    """Wordings as lines of two columns, as they are pasted."""
    out = io.StringIO()
    csv.writer(out, delimiter="\t", lineterminator="\n").writerows(
        (each.question, each.known) for each in wordings
    )
    return out.getvalue()


def _takes(view: StudyView) -> bool:
    return view.study is not None and takes_own_questions(view.study)


def _stamp(view: StudyView, *files: Any) -> str:
    return view.stamp(questions_file(view.study), *files) if view.study else ""


def _facts(study: Study) -> list[Pair]:
    """:func:`facts_to_word`, computed once for each split; none where the test has enough other wordings."""
    if not takes_wordings(study):
        return []
    files = (study.split_file("train"), study.folder / "data" / "split.json")
    return _facts_of(study, stamp(files))


@functools.lru_cache(maxsize=8)
def _facts_of(study: Study, seen: str) -> list[Pair]:
    return facts_to_word(study)
