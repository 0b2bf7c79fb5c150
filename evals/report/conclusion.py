"""The conclusion of a report in a few sentences: whether the assistant is good enough, 4-bit or 16-bit, what to do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from assistant_builder.arms import ARMS, TWINS_TITLE, plain
from assistant_builder.config import PRESET_LABELS
from assistant_builder.errors import StudyError
from assistant_builder.export_formats import advice
from assistant_builder.i18n import N_, m, render, t, tc, tn
from assistant_builder.retrieval.copying import COPY
from assistant_builder.retrieval.own_questions import ASKED
from assistant_builder.study.contents import Entries
from evals.declaration import EXACT, LOSS, OVERLAP, RIGHT_DECLINES
from evals.report import promise
from evals.report.approaches import FACTS, comparing_metric, untaught
from evals.report.audience import (
    NOT_READY,
    Audience,
    audience,
    declined_rightly,
    far_answers,
    in_own_words,
    usable,
)
from evals.report.counts import declined_wrongly, score_text, total, wrong_answers
from evals.report.four_bit import four_bit, own_four_bit, untested_four_bit
from evals.report.next_step import improvement, next_step, own_wordings, test_declining
from evals.report.number_format import (
    SIGNIFICANT,
    capitalised,
    count,
    number,
    percent,
    shown,
)
from evals.report.other_results import NAMES
from evals.report.other_words import asks_other_words, is_respelled
from evals.report.own_questions import decides, own_counts, sentences, share_text
from evals.report.rows import of_contrast, reading_of
from evals.report.schema import OwnCounts, Report
from evals.stats.significance import mcnemar_exact

TOO_FEW = N_("Too few test questions to say")
"""What an inconclusive comparison is called."""


@dataclass(frozen=True)
class Figure:
    """A figure of a conclusion: ``268 of 286``, ``right``, with what it is a part of."""

    value: str
    what: str
    note: str


@dataclass(frozen=True)
class Conclusion:
    """The answers of a report in the order in which they are needed.

    Attributes:
        arm: The recommended arm.
        metric: The metric by which it is judged.
        share: Its share of exactly right answers, or without any its value of that metric, between 0 and 1; None if it
            is judged by the loss, or was not tested.
        tested: Whether it was asked in other words than those of training; else it is not judged.
        ready: Whether nothing speaks against using the assistant: too few right answers, or copying is better.
        audience: Who can be given it.
        copied: Who can be given copied answers, if they are recommended: training is not shown to be better.
        sentences: How good the recommended assistant is, and how it compares with copying.
        figures: The same as figures.
        notes: What limits these figures.
        four_bit: Whether the compact assistant is as good as the full one.
        file: The smallest GGUF file that is no worse, or why none was scored; empty if the settings name no type.
        action: What to do next.
        next_tab: The tab of the page on which that is done.
        commands: The commands for it.
    """

    arm: str
    metric: str
    share: float | None
    tested: bool
    ready: bool
    audience: Audience
    copied: Audience | None
    sentences: tuple[str, ...]
    figures: tuple[Figure, ...]
    notes: tuple[str, ...]
    four_bit: str
    file: str
    action: str
    next_tab: Literal["chat", "train", "data", "evaluate"]
    commands: tuple[str, ...]

    @property
    def good_enough(self) -> str:
        """Who can be given the assistant, and its sentences, as one text."""
        return " ".join((self.audience.text, *self.sentences))

    @property
    def recommended(self) -> str:
        """The recommendation of copied answers; empty without one."""
        return _recommended(self.copied)

    @property
    def lines(self) -> list[str]:
        """The conclusion as lines of text, commands indented."""
        ask, ask_file = t("Is it good enough?"), t("Which file to ship?")
        return [
            f"{ask} {' '.join(filter(None, [self.good_enough, self.recommended, *self.notes]))}",
            f"{t(TWINS_TITLE)} {self.four_bit}",
            *([f"{ask_file} {self.file}"] if self.file else []),
            t("What to do: {action}", action=self.action),
            *(f"  {command}" for command in self.commands),
        ]


def conclude(report: Report) -> Conclusion:
    """The conclusion of a report.

    Raises:
        StudyError: The report has no figures of the recommended assistant, as that of an early release.
    """
    arm = advice(report, report.trained_arms).adapter
    if ARMS[arm].cell not in report.cells:
        raise StudyError(
            m("the report has no figures of {cell}", cell=ARMS[arm].cell),
            where=m("{study} {name}", name=report.study),
            remedy=m("Delete report.json, and run the {study} again: it writes the report again"),
        )
    metrics, metric = (
        report.cells[ARMS[arm].cell]["metrics"],
        comparing_metric(report.primary_metric),
    )
    if metrics.get(metric) is None:
        metric = report.primary_metric
    if decides(report, arm):
        return _in_own_words(report, arm)
    tested = not is_respelled(report)
    rival, outcome = _copying(report, arm, metric) if tested else ("", "")
    too_few = tested and not usable(report, arm, metric, metrics[metric])
    ready = not too_few and outcome != "worse"
    answers = _answers(report, arm, metric) if tested else ""
    declines = _declines(report, arm, tested=tested)
    copied = _copied_audience(report, metric, outcome)
    trained = audience(report, arm, metric, ready=ready)
    lacks = (
        ready
        and not untaught(report)
        and report.approach == "grounded"
        and report.config["train"].get("preset") != "quick"
        and declined_rightly(report, arm)[1] < ASKED
    )
    action, commands = (
        own_wordings(report)
        if not tested
        else test_declining(report)
        if lacks
        else next_step(report, arm, trained, copied)
        if ready
        else improvement(report, learned=not too_few)
    )
    return Conclusion(
        arm=arm,
        metric=metric,
        share=(metrics.get(EXACT) or metrics[metric]) if tested and metric != LOSS else None,
        tested=tested,
        ready=ready,
        audience=trained,
        copied=copied,
        sentences=(
            *filter(None, (answers, declines, rival)),
            *sentences(_own_wordings(report, arm), _who(report, arm)),
            *sentences(_own_wordings(report, COPY), t("Copying an answer")),
        ),
        figures=(
            *_figures(report, arm, metric, tested=tested),
            *_own_figures(_own_wordings(report, arm)),
        ),
        notes=_notes(report, arm),
        four_bit=(
            four_bit(report, copies=copied is not None) if tested else untested_four_bit(report)
        ),
        file=_file(report),
        action=action,
        next_tab=(
            "evaluate"
            if not tested or lacks
            else "data"
            if too_few
            else "chat"
            if ready
            else "train"
        ),
        commands=commands,
    )


def _file(report: Report) -> str:
    return render(
        report.message("formats_sentence" if report.formats_sentence else "formats_skipped")
    )


def _own_wordings(report: Report, assistant: str) -> OwnCounts:
    """The owner's wordings alone: questions to decline count with those of the test."""
    return own_counts(report, assistant).model_copy(update={"unanswered": 0})


def _in_own_words(report: Report, arm: str) -> Conclusion:
    """The conclusion where nothing but the wordings of the owner was asked in other words."""
    own, copies = in_own_words(report, arm), in_own_words(report, COPY)
    share = own.right / own.wordings
    ready, copied = share >= NOT_READY, _own_copied_audience(report, arm)
    trained = audience(report, arm, EXACT, ready=ready)
    action, commands = (
        next_step(report, arm, trained, copied) if ready else improvement(report, learned=False)
    )
    return Conclusion(
        arm=arm,
        metric=EXACT,
        share=share,
        tested=True,
        ready=ready,
        audience=trained,
        copied=copied,
        sentences=(
            *sentences(own, _who(report, arm)),
            *(sentences(copies, t("Copying an answer")) if copies.wordings else ()),
        ),
        figures=tuple(_own_figures(own)),
        notes=_notes(report, arm),
        four_bit=own_four_bit(report),
        file=_file(report),
        action=action,
        next_tab="chat" if ready else "data",
        commands=commands,
    )


def _own_copied_audience(report: Report, arm: str) -> Audience | None:
    """Who can be given copied answers; None where the arm is shown to be better on the owner's questions."""
    copies = own_counts(report, COPY)
    if not copies.wordings or report.own_questions is None:
        return None
    pairs = [(row["right"][arm], row["right"][COPY]) for row in report.own_questions.questions]
    gained, lost = pairs.count((True, False)), pairs.count((False, True))
    if gained > lost and mcnemar_exact(gained, lost) <= SIGNIFICANT:
        return None
    return audience(report, COPY, EXACT, ready=copies.right / copies.wordings >= NOT_READY)


def _own_figures(own: OwnCounts) -> Iterator[Figure]:
    for part, whole, what, interval in (
        (own.right, own.wordings, t("right on your own wordings"), own.right_ci),
        (own.declined, own.unanswered, t("declined rightly"), own.declined_ci),
    ):
        if whole:
            value = t("{part} of {whole}", part=count(part), whole=count(whole))
            yield Figure(value, what, share_text(interval))


def _who(report: Report, arm: str) -> str:
    """The trained assistant, with what sets it apart from the others."""
    ways = {
        row["name"].endswith(FACTS)
        for row in report.approaches
        if row["name"] in (arm, arm + FACTS)
    }
    named = [
        *([plain(arm)] if len(report.trained_arms) > 1 else []),
        *(
            [{"grounded": t("with facts looked up"), "memory": t("from memory")}[report.approach]]
            if len(ways) > 1
            else []
        ),
    ]
    return (
        t("The trained assistant ({which})", which=", ".join(named))
        if named
        else t("The assistant")
    )


def _answers(report: Report, arm: str, metric: str) -> str:
    """How good the answers of an assistant are."""
    metrics, who = report.cells[ARMS[arm].cell]["metrics"], _who(report, arm)
    asked = total(report, metric)
    if asks_other_words(report) and metrics.get(EXACT) is not None:
        own = total(report, EXACT)
        right = count(round(metrics[EXACT] * own))
        if metric == EXACT:
            return tn(
                "{who} was right on {right} of your {count} other wording.",
                "{who} was right on {right} of your {count} other wordings.",
                own,
                who=who,
                right=right,
            )
        return tn(
            "{who} was exactly right on {right} of your {count} other wording, and reached {metric} {value}.",
            "{who} was exactly right on {right} of your {count} other wordings, and reached {metric} {value}.",
            own,
            who=who,
            right=right,
            metric=shown(metric).phrase,
            value=_of_hundred(metrics[metric], metric),
        )
    if metric == EXACT:
        right = round(metrics[metric] * total(report, metric))
        return tn(
            "{who} answered {right} of {count} new question right ({share}).",
            "{who} answered {right} of {count} new questions right ({share}).",
            asked,
            who=who,
            right=count(right),
            share=percent(metrics[metric]),
        )
    text = tn(
        "{who} reached {metric} {value} on {count} new question",
        "{who} reached {metric} {value} on {count} new questions",
        asked,
        who=who,
        metric=shown(metric).phrase,
        value=_of_hundred(metrics[metric], metric),
    )
    if metrics.get(EXACT) is None:
        return f"{text}."
    right = round(metrics[EXACT] * total(report, EXACT))
    exact = (
        tn("{count} answer is exactly right.", "{count} answers are exactly right.", right)
        if right
        else t("no answer is exactly right.")
    )
    return f"{text}; {exact}"


def _of_hundred(value: float | None, metric: str) -> str:
    """The value of a metric, with the best one if it is a score of 0 to 100."""
    text = number(value, metric)
    return (
        t("{value} of 100", value=text)
        if shown(metric).factor == 100 and not shown(metric).suffix
        else text
    )


def _declines(report: Report, arm: str, *, tested: bool) -> str:
    """How many questions an assistant declined wrongly, if it was tested, and rightly; empty without answers."""
    falsely, (rightly, unknown) = declined_wrongly(report, arm), declined_rightly(report, arm)
    if falsely is None and (tested or not unknown):
        return ""
    wrongly = {"wrongly": falsely or tc("questions", "none")}
    text = (
        t("It declined {wrongly} of them.", **wrongly)
        if untaught(report)
        else (t("It declined {wrongly} of them wrongly.", **wrongly))
    )
    if not unknown:
        return text if tested else ""
    if not tested or asks_other_words(report):
        rest = tn(
            "It declined {rightly} of {count} question that your file does not answer.",
            "It declined {rightly} of {count} questions that your file does not answer.",
            unknown,
            rightly=rightly or tc("questions", "none"),
        )
        return f"{text} {rest}" if tested else rest
    return (
        text
        + " "
        + tn(
            "Of {count} other question, which it should decline, it declined {rightly}.",
            "Of {count} other questions, which it should decline, it declined {rightly}.",
            unknown,
            rightly=rightly or tc("questions", "none"),
        )
    )


def _figures(report: Report, arm: str, metric: str, *, tested: bool) -> Iterator[Figure]:
    """How good the answers of an assistant are, in figures; of one that was not tested, its right declines alone."""
    metrics, asked = report.cells[ARMS[arm].cell]["metrics"], total(report, metric)
    falsely, (rightly, unknown) = declined_wrongly(report, arm), declined_rightly(report, arm)
    if not tested:
        metrics, metric, falsely = {}, EXACT, None
    if metric != EXACT and not metrics.get(EXACT):
        questions = tn("{count} test question", "{count} test questions", asked)
        shared = t("words in common with the right answers, {questions}", questions=questions)
        note = shared if metric == OVERLAP else questions
        yield Figure(_of_hundred(metrics[metric], metric), shown(metric).phrase, note)
    if metrics.get(EXACT) is not None:
        exact = total(report, EXACT)
        right = count(round(metrics[EXACT] * exact))
        yield Figure(
            t("{part} of {whole}", part=right, whole=count(exact)),
            t("right") if metric == EXACT else t("exactly right"),
            (
                t("{share} of your other wordings", share=percent(metrics[EXACT]))
                if asks_other_words(report)
                else t("{share} of the test questions", share=percent(metrics[EXACT]))
            ),
        )
        if metric == EXACT:
            yield Figure(count(wrong_answers(report, arm)), t("wrong"), t("of those it answered"))
    if metric not in (EXACT, LOSS):
        far = t("far from the right answer, or other numbers")
        yield Figure(count(far_answers(report, arm, metric)), t("wrong"), far)
    if falsely is not None:
        yield (
            Figure(count(falsely), tc("answer", "declined"), t("of the test questions"))
            if untaught(report)
            else (Figure(count(falsely), t("declined wrongly"), t("questions it should answer")))
        )
    if unknown:
        own = own_counts(report, arm).unanswered
        yield Figure(
            t("{part} of {whole}", part=count(rightly), whole=count(unknown)),
            t("declined rightly"),
            t("questions it should decline, {count} of them your own", count=count(own))
            if own
            else t("questions it should decline"),
        )


_BY_READING = {"worse": "worse", "better": "better"}


def _copied(report: Report) -> Entries | None:
    """The figures of copying; with approaches those of the grounded one, which declines by a rule of its own."""
    found = next((row for row in report.approaches if row["name"] == "copy"), None)
    return found or report.baselines.get("copy")


def _copying(report: Report, arm: str, metric: str) -> tuple[str, str]:
    """How the assistant compares with copying an answer, and the outcome for it; empty if that was not scored."""
    cell, found = _copied(report), None
    if cell is None or cell["metrics"].get(metric) is None:
        return "", ""
    if report.approach:
        name = f"{arm}{FACTS if report['approach'] == 'grounded' else ''}-copy"
        found = next((row for row in report.approach_comparisons if row["name"] == name), None)
        outcome, rival = found["outcome"] if found else "", t("copying the best fact")
    else:
        found = next(iter(of_contrast(report, f"{ARMS[arm].cell}-copy", metric)), None)
        outcome, rival = (
            _BY_READING.get(reading_of(found), "inconclusive") if found else "",
            render(NAMES["copy"]),
        )
    score = score_text(report, cell, metric)
    copied = (
        t("{score} right", score=score) if metric == EXACT else f"{shown(metric).phrase} {score}"
    )
    exact = cell["metrics"].get(EXACT)
    if metric != EXACT and exact is not None:
        asked = total(report, EXACT)
        copied += t(
            "; exactly right: {right} of {asked}", right=count(round(exact * asked)), asked=asked
        )
    share, (rightly, unknown) = cell["metrics"].get(RIGHT_DECLINES), declined_rightly(report, COPY)
    if (
        share is not None
    ):  # of the approach that declines by a rule, whose answers the items may lack
        own, tested = own_counts(report, COPY), total(report, RIGHT_DECLINES)
        rightly, unknown = own.declined + round(share * tested), own.unanswered + tested
    if unknown:
        copied += t(
            "; declined rightly: {right} of {asked}", right=count(rightly), asked=count(unknown)
        )
    texts = {
        "better": t("That is better than {rival} ({copied}).", rival=rival, copied=copied),
        "no worse": t("That is no worse than {rival} ({copied}).", rival=rival, copied=copied),
        "worse": t("{rival} is better ({copied}).", rival=capitalised(rival), copied=copied),
        "inconclusive": t(
            "Too few test questions to say whether {rival} ({copied}) is better or worse.",
            rival=rival,
            copied=copied,
        ),
    }
    return texts.get(outcome, ""), outcome


def _copied_audience(report: Report, metric: str, outcome: str) -> Audience | None:
    """Who can be given copied answers; None where training is shown to be better, or they were not scored."""
    if (
        outcome in ("", "better")
        or untaught(report)
        or not any("copied" in e for e in report.items)
    ):
        return None
    cell = _copied(report)
    ready = cell is not None and usable(report, COPY, metric, cell["metrics"].get(metric, 0.0))
    return audience(report, COPY, metric, ready=ready)


def _recommended(copied: Audience | None) -> str:
    if copied is None:
        return ""
    return {
        "customers": t(
            "Copied answers are recommended, since training is not shown to be better; customers can be given them."
        ),
        "colleagues": t(
            "Copied answers are recommended, since training is not shown to be better; they, too, are for colleagues."
        ),
        "nobody": t(
            "Copied answers would do as well, since training is not shown to be better, but are not ready either."
        ),
    }[copied.who]


def _notes(report: Report, arm: str) -> tuple[str, ...]:
    notes = [promised] if (promised := promise.sentence(report, arm)) else []
    if untaught(report):
        taught = report.taught
        notes.append(
            t(
                "Of the {items} test questions, {covered} have an answer that the training data has, too.",
                covered=taught["covered"],
                items=count(taught["items"]),
            )
            if taught["covered"]
            else t(
                "None of the {items} test questions has an answer that the training data has, too.",
                items=count(taught["items"]),
            )
        )
        notes.append(
            t(
                "The figures are therefore mostly about subjects that the assistant was not taught, where "
                "declining counts as wrong. To test what it was taught, add other wordings of the questions."
            )
        )
    if report.config["train"].get("preset") == "quick":
        notes.append(
            t(
                "It was trained with the preset “{preset}”, which tests the workflow. Train with “{better}” "
                "before you decide.",
                preset=t(PRESET_LABELS["quick"][0]),
                better=t(PRESET_LABELS["balanced"][0]),
            )
        )
    added = report.added_answers
    if added:
        notes.append(
            tn(
                "These figures were measured before the last {count} answer, that of a validation or test "
                "question, was added to what the assistant looks up.",
                "These figures were measured before the last {count} answers, those of validation and test "
                "questions, were added to what the assistant looks up.",
                added,
            )
        )
    return tuple(notes)
