"""Views of the evaluation: its progress, the conclusion, the verdict, the score tables, and the answers."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from markupsafe import Markup

from assistant_builder.arms import CELLS, TWINS_TITLE
from assistant_builder.data.edit import NO_NUMBERS
from assistant_builder.data.types import RowNumbers
from assistant_builder.errors import AssistantBuilderError, ErrorRecord
from assistant_builder.i18n import N_, render, t, tc, tm, tn
from assistant_builder.study import Study
from assistant_builder.study.steps import evaluates
from assistant_builder.ui.evaluate.item_filters import (
    ItemFilter,
    ItemSet,
    Row,
    answer_change,
    degradation,
)
from assistant_builder.ui.html import (
    Tone,
    assistants,
    badge,
    bar,
    callout,
    card,
    code,
    cut,
    empty,
    error_callout,
    fold,
    hint,
    items,
    join,
    report_frame,
    table,
)
from assistant_builder.ui.study_snapshot import Snapshot, first_verdict, step_title
from evals.declaration import EXACT
from evals.metrics import METRICS
from evals.report.brief import Example, examples, misses, risks
from evals.report.charts import interval_panel
from evals.report.conclusion import TOO_FEW, Bar, Conclusion
from evals.report.contrasts import HEADLINE
from evals.report.format import (
    count,
    difference,
    duration,
    export_description,
    interval,
    margin,
    number,
    share_lost,
    shown,
    signed,
    size,
)
from evals.report.glossary import BASELINE_TEXTS
from evals.report.items import marked, word_diff
from evals.report.other_words import is_respelled
from evals.report.own_questions import OwnTexts
from evals.report.render import draw_intervals, render_results
from evals.report.schema import Report
from evals.report.verdict import changed_text

_KEEPS = {"measured": N_("measured itself"), "yes": N_("✓ yes"), "cannot be told": TOO_FEW}


def evaluation_state(snapshot: Snapshot, log: str = "") -> Markup:
    """State of an evaluation that is not finished, with the end of the log of the step that failed."""
    scoring = [each for each in snapshot.steps if evaluates(each.step)]
    shown_states = ("running", "failed", "cancelled", "lost")
    found = (each for state in shown_states for each in scoring if each.state == state)
    record, report = next(found, scoring[-1]), snapshot.step("report")
    if record.state == "running":
        going = [each.step for each in scoring if each.state == "running"]
        return join([first_verdict(snapshot), _progress(snapshot, going)])
    for step in (record, report):
        if step.state == "failed":
            title = step_title(step.step)
            return join(
                [
                    error_callout(step.error or {"what": t("“{title}” failed", title=title)}),
                    fold(t("Log of “{title}”", title=title), code(log)) if log else "",
                    _so_far(snapshot),
                ]
            )
    if record.state in ("cancelled", "lost"):
        title = (
            t("The evaluation was cancelled")
            if record.state == "cancelled"
            else t("The evaluation was interrupted")
        )
        return join(
            [
                callout(
                    "warn",
                    title,
                    t("The scores so far are kept."),
                    t("Press “Resume” to continue with the cell at which it stopped."),
                ),
                _so_far(snapshot),
            ]
        )
    if record.state == "queued" and not snapshot.scores:
        return _not_begun(snapshot)
    if record.state == "succeeded" and snapshot.report is None:
        message = callout(
            "info", t("All cells are scored"), t("The report with the verdict is being written.")
        )
        if report.state == "succeeded":
            message = callout(
                "warn",
                t("The report is of an earlier release"),
                remedy=t("Press “Re-create report” on the Report tab."),
            )
        elif report.state != "running":
            message = callout(
                "warn",
                t("All cells are scored, but the report is missing"),
                remedy=t("Press “Resume” to write the report with the verdict."),
            )
        return join([message, _so_far(snapshot)])
    return Markup("") if snapshot.report else _so_far(snapshot)


def _not_begun(snapshot: Snapshot) -> Markup:
    count = len(snapshot.config.arms)
    who, several = assistants(count), count > 1
    if snapshot.trained and not snapshot.running:
        return empty(
            t("Trained, not evaluated"),
            t(
                "Press “Evaluate now” to score {who} and their untuned bases on the test questions.",
                who=who,
            )
            if several
            else t(
                "Press “Evaluate now” to score the assistant and its untuned base on the test questions."
            ),
        )
    if snapshot.running:
        starts = (
            t("The evaluation starts automatically after {who} are trained.", who=who)
            if several
            else t("The evaluation starts automatically after the assistant is trained.")
        )
        return empty(
            t("Nothing to evaluate yet"),
            " ".join((starts, t("The scores are shown here as they are computed."))),
        )
    train = (
        t("Train {who} on the Train tab.", who=who)
        if several
        else t("Train the assistant on the Train tab.")
    )
    return empty(
        t("Nothing to evaluate yet"),
        " ".join((train, t("The evaluation starts automatically afterwards."))),
    )


def _progress(snapshot: Snapshot, steps: Sequence[str]) -> Markup:
    """Progress of the running scoring steps."""
    going = {
        step: found
        for step in steps
        if (found := snapshot.progress.get(step)) is not None and found.total
    }
    if not going:
        return join([callout("info", t("Evaluating"), t("Loading the models.")), _so_far(snapshot)])
    parts = []
    for step, progress in going.items():
        eta = progress.eta_seconds
        left = "" if eta is None else ", " + t("{time} left", time=duration(eta))
        if (verdict := progress.verdict_seconds) is not None:
            left = ", " + t("first verdict in {time}", time=duration(verdict)) + left
        what = render(progress.text) if progress.message else t("Scoring")
        parts += [
            callout("info", t("Evaluating"), f"{what}: {progress.done} %{left}"),
            bar(progress.done / progress.total, step_title(step)),
        ]
    return join(
        [
            *parts,
            _cell_states(snapshot, [progress.message for progress in going.values()]),
            _so_far(snapshot),
        ]
    )


def _cell_states(snapshot: Snapshot, messages: Sequence[str]) -> Markup:
    """Each cell with its state and scoring time, in the order of the report."""
    current = {cell: what for cell, _, what in (message.partition(": ") for message in messages)}
    rows = []
    for cell in (cell for cell in CELLS if cell in snapshot.config.cells):
        scores = snapshot.scores.get(cell)
        state, note = ("running", current[cell]) if cell in current else ("queued", "")
        if scores is not None:
            state, note = "succeeded", duration(sum((scores.get("seconds") or {}).values()))
        rows.append(
            Markup("<li><b>{}</b><span>{}</span>{}<small>{}</small></li>").format(
                cell, t(CELLS[cell].label), badge(state), note
            )
        )
    return Markup('<ol class="ab-stages" aria-label="{}">{}</ol>').format(t("Cells"), join(rows))


def _so_far(snapshot: Snapshot) -> Markup:
    """The scores that are available before the report."""
    if not snapshot.scores or snapshot.report:
        return Markup("")
    return card(
        t(
            "Scored so far: {scored} of {cells} cells",
            scored=len(snapshot.scores),
            cells=len(snapshot.config.cells),
        ),
        cells_table(snapshot.scores),
    )


_ACTIONS = {
    "chat": N_("Chat with the assistant"),
    "train": N_("Train longer"),
    "data": N_("Add other wordings"),
}
"""Another tab on which the advice of a conclusion is followed → title of the button that opens it."""
_MISSES = 50
"""Number of wrong answers that are listed."""
_SHORT_TEXT = 110
"""Characters of a question or an answer in a list of examples."""


AUDIENCE_TONES: dict[str, Tone] = {"customers": "good", "colleagues": "warn", "nobody": "bad"}


def good_enough_card(report: Report, conclusion: Conclusion) -> Markup:
    """Whether the assistant is good enough: figures, sentences, three answers, a risk, and a button for what to do."""
    tile = Markup('<div class="ab-tile"><b>{} <span>{}</span></b><small>{}</small></div>')
    tiles = join(
        tile.format(figure.value, figure.what, figure.note) for figure in conclusion.figures
    )
    who = conclusion.audience
    said = join(
        [
            Markup("<p><strong>{}</strong></p>").format(who.text),
            *(
                Markup("<p>{}</p>").format(text)
                for text in (" ".join(conclusion.sentences), *conclusion.notes)
            ),
        ]
    )
    button = (
        Markup(
            '<button type="button" class="ab-button ab-primary" data-action="{}">{} →</button>'
        ).format(conclusion.next_tab, t(_ACTIONS[conclusion.next_tab]))
        if conclusion.next_tab in _ACTIONS
        else ""
    )
    note = join(
        Markup('<p class="ab-sentence"><b>{}</b> {}</p>').format(t("Note:"), risk)
        for risk in risks(report, conclusion)[: who.who != "colleagues"]
    )
    return card(
        t("Is it good enough?"),
        Markup('<div class="ab-tiles ab-counts">{}</div>').format(tiles),
        Markup('<div class="ab-callout ab-{}" role="status">{}</div>').format(
            AUDIENCE_TONES[who.who], said
        ),
        bars(conclusion.rival, conclusion.bars) if conclusion.bars else "",
        example_table(examples(report, conclusion)),
        note,
        Markup('<div class="ab-next"><p>{}</p>{}</div>').format(conclusion.action, button),
    )


def bars(title: str, found: Sequence[Bar]) -> Markup:
    """Bars from 0 to 100 %."""
    row = Markup(
        '<div class="ab-arm-{}"><span>{}</span><i><b style="width:{:.1f}%"></b></i><span>{}</span></div>'
    )
    return Markup('<figure class="ab-bars"><figcaption>{}</figcaption>{}</figure>').format(
        title, join(row.format(bar.name, bar.label, 100 * bar.share, bar.text) for bar in found)
    )


def example_table(found: Sequence[Example], numbers: RowNumbers | None = None) -> Markup:
    """Questions with the right answer and the answer of the assistant, and with ``numbers`` their rows in the file."""
    rows = [
        (
            Markup("{} <small>{}</small>").format(
                cut(example.question, _SHORT_TEXT),
                row_text(example.row, numbers) if numbers else "",
            ),
            cut(example.reference, _SHORT_TEXT),
            Markup('{} <span class="ab-kind ab-{}">{}</span>').format(
                cut(example.answer, _SHORT_TEXT), example.tone, example.verdict
            ),
        )
        for example in found
    ]
    headers = (t("Question"), t("Right answer"), t("Answer of the assistant"))
    # a narrow window has no header row: the style sheet writes these before the cells
    labels = "".join(
        f"--ab-{place}: {json.dumps(f'{text} ', ensure_ascii=False)};"
        for place, text in (("second", t("Right answer:")), ("third", t("Assistant:")))
    )
    return (
        Markup('<div class="ab-shown-answers" style="{}">{}</div>').format(
            labels, table(headers, rows)
        )
        if rows
        else Markup("")
    )


def four_bit_card(report: Report, conclusion: Conclusion) -> Markup:
    """How the compact assistant compares, in a sentence; what was changed after scoring is part of it."""
    changed = changed_text(report.verdict.frozen)
    return Markup('<h3>{}</h3><p class="ab-sentence">{}</p><p>{}</p>{}').format(
        t(TWINS_TITLE),
        conclusion.four_bit,
        t(
            "Compact holds the base model in {bits} bits and needs less memory; "
            "Full holds it in 16 bits."
        ),
        Markup('<p class="ab-changed">{}</p>').format(changed) if changed else "",
    )


def misses_card(report: Report, conclusion: Conclusion, numbers: RowNumbers = NO_NUMBERS) -> Markup:
    """The wrong answers, folded; empty without any."""
    found = misses(report, conclusion)
    if not found:
        return Markup("")
    title = (
        tn(
            "{count} question not answered right",
            "{count} questions not answered right",
            len(found),
        )
        if conclusion.metric == EXACT
        else tn(
            "{count} answer far from the right one",
            "{count} answers far from the right ones",
            len(found),
        )
    )
    more = (
        Markup("<p>{}</p>").format(t("The others are listed under “Every answer”."))
        if len(found) > _MISSES
        else ""
    )
    return Markup('<section class="ab-card ab-misses">{}</section>').format(
        fold(title, example_table(found[:_MISSES], numbers) + more)
    )


def own_state_view(
    questions: int, missing: int, *, trained: bool, asking: bool, error: ErrorRecord | None
) -> Markup:
    """Whether anything is tested in the owner's words; ``missing`` of the questions were not asked yet."""
    if not questions:
        return callout(
            "info",
            t("Nothing was tested in other words")
            if trained
            else t("You can write the test while it trains"),
            t(
                "Each answer of your file occurs once, so the program has no other wordings to test the assistant "
                "with. That says nothing against the assistant."
            ),
            t("Type some questions below: it is asked them, and is never trained on them."),
        )
    if error is not None and missing and not asking:
        return error_callout(error)
    kept = tn(
        "{count} question is kept for the test",
        "{count} questions are kept for the test",
        questions,
    )
    if asking:
        return callout("info", t("The questions are being asked…"))
    if not trained:
        return callout("good", kept, t("The assistants are asked as soon as they are trained."))
    if missing:
        return callout(
            "info",
            kept,
            t("They are asked when the run has ended, or if you press “Keep them and ask”."),
        )
    return Markup("")


def own_answers_view(texts: OwnTexts, numbers: RowNumbers) -> Markup:
    """The answers to the owner's questions side by side, and their counts."""
    cell = Markup('<td data-label="{}:" dir="auto">{}</td>')
    answer = Markup('{} <span class="ab-kind ab-{}">{}</span>')
    rows = [
        Markup("<tr>{}</tr>").format(
            join(
                cell.format(column, content)
                for column, content in zip(
                    texts.columns,
                    (
                        Markup("{} <small>{}</small>").format(
                            line.question, row_text(line.row, numbers) if line.row else ""
                        ),
                        line.expected,
                        *(
                            answer.format(cut(each.text), each.tone, each.verdict)
                            for each in line.answers
                        ),
                    ),
                    strict=True,
                )
            )
        )
        for line in texts.rows
    ]
    heads = join(Markup("<th>{}</th>").format(column) for column in texts.columns)
    return card(
        texts.title,
        join(Markup("<p>{}</p>").format(line) for line in texts.lines),
        Markup(
            '<div class="ab-own-answers ab-scroll"><table class="ab-table">'
            "<thead><tr>{}</tr></thead><tbody>{}</tbody></table></div>"
        ).format(heads, join(rows)),
        hint(texts.about),
    )


def specialists_title(report: Report | None) -> str:
    """Title of the folded part, with the number of serious warnings in it."""
    serious = sum(entry.level == "serious" for entry in (report.warnings if report else ()))
    return (
        tn("For specialists ({count} warning)", "For specialists ({count} warnings)", serious)
        if serious
        else t("For specialists")
    )


def declaration_note(study: Study) -> Markup:
    """Metric, margins and claim of the verdict before its report; empty if they cannot be told from the data."""
    from evals.report.verdict import explain_study

    try:
        return callout("info", t("How the verdict is reached"), explain_study(study))
    except (AssistantBuilderError, OSError, KeyError):
        return Markup("")  # the Data and Train tabs report a damaged split


def cells_table(scores: Mapping[str, Mapping[str, Any]]) -> Markup:
    """A table with a row for each cell and a column for each metric that any of them has.

    ``scores`` has the scores.json of cells or baselines, or their records of the report.
    """
    columns = [
        metric
        for metric in METRICS
        if any(_figure(found, metric) is not None for found in scores.values())
    ]
    headers = [
        t("Cell"),
        t("Description"),
        t("Items"),
        t("Perplexity"),
        *(shown(metric).label for metric in columns),
    ]
    texts = {name: (t(cell.label), render(cell.about)) for name, cell in CELLS.items()}
    texts |= {name: (str(label), str(about)) for name, (label, about) in BASELINE_TEXTS.items()}
    rows = [
        (
            Markup('<b class="ab-cell">{}</b>').format(cell),
            Markup("<b>{}</b><small>{}</small>").format(*texts[cell]) if cell in texts else "",
            count(found["items"]),
            "–" if found.get("perplexity") is None else f"{found['perplexity']:.2f}",
            *(_number_or_dash(_figure(found, metric), metric) for metric in columns),
        )
        for cell, found in scores.items()
    ]
    meanings = (METRICS[metric] for metric in columns)
    legend = fold(
        t("Meaning of the columns"),
        items(f"{m.label}: {m.explanation} {m.blind_spots}" for m in meanings),
    )
    figures = table(headers, rows, numeric=range(2, len(headers)))
    return Markup('<div class="ab-cells">{}</div>{}').format(figures, legend)


def _figure(scores: Mapping[str, Any], metric: str) -> float | None:
    value = scores["nll_per_token"] if metric == "nll_per_token" else scores["metrics"].get(metric)
    return None if value is None else float(value)


def exports_card(report: Report, note: str = "") -> Markup:
    """The exports compared with the cells that were measured; empty if every export is a measured cell."""
    found = report.exports or []
    if all(row["keeps"] == "measured" for row in found):
        return Markup("")
    rows = [
        (
            Markup('<b class="ab-cell">{}</b>').format(row["cell"]),
            export_description(row),
            size(row.get("bytes")),
            number(row["figure"], row["metric"]),
            "–"
            if row["delta"] is None
            else f"{difference(row['delta'], row['metric'], row)} ({interval(row, row['metric'])})",
            t(_KEEPS.get(row["keeps"], "")) or t("✕ loses {share}", share=share_lost(row)),
        )
        for row in found
    ]
    metric = shown(found[0]["metric"]).label
    headers = (
        t("Cell"),
        t("How it is served"),
        t("Weights"),
        metric,
        t("Difference from the measured cell"),
        t("Keeps quality?"),
    )
    figures = Markup('<div class="ab-cells">{}</div>').format(
        table(headers, rows, numeric=(2, 3, 4))
    )
    return card(t("Which export keeps the measured quality"), figures, note)


def verdict_picture(report: Report) -> Markup:
    """The difference in the metric of the verdict with the margin, and its key; empty without a comparison."""
    metric, verdict = report.primary_metric, report.verdict
    rows = [
        {**row, "about": "", "note": "", "primary": False, "margin": verdict.margin}
        | {"label": t("Right answers") if metric == EXACT else shown(metric).label}
        for row in report.contrasts
        if report.compares
        and not is_respelled(report)
        and row["name"] == HEADLINE
        and row["metric"] == metric
    ]
    if not rows:
        return Markup("")
    key = t(
        "Up to the dashed line, {margin}, it counts as no worse.",
        margin=margin(metric, verdict.margin),
    )
    return intervals(
        [interval_panel(rows, t("← better"), t("worse →"), t("Compact minus full, 95 % interval"))]
    ) + Markup('<p class="ab-note">{}</p>').format(key)


def intervals(panels: Sequence[dict[str, Any]]) -> Markup:
    """Differences with their intervals, drawn as in the report."""
    return Markup('<div class="ab-intervals">{}</div>').format(draw_intervals(panels))


def report_pending() -> Markup:
    """What stands in for the verdict before there is a report."""
    return empty(
        t("The verdict is part of the report"),
        t(
            "The report is written automatically after all cells are scored. The answers "
            "are available already."
        ),
    )


def results_frame(report: Report) -> Markup:
    """The report's own sections about the verdict and its figures, in a frame like that of the Report tab."""
    return report_frame(render_results(report))


Marks = Literal["each other", "the reference", "nothing"]
PER_PAGE = 10
_MAX_CHARACTERS = 4000
"""Characters of a text that are shown; the report's JSON has the complete text."""
_KINDS = {
    "lost": ("bad", N_("✕ correct → wrong")),
    "gained": ("good", N_("✓ wrong → correct")),
    "different": ("warn", N_("≠ different wording")),
    "same": ("quiet", N_("= same answer")),
    "not generated": ("quiet", N_("scored by loss only")),
}


def items_view(
    items: ItemSet, rows: Sequence[Row], query: ItemFilter, marks: Marks, page: int
) -> Markup:
    """One page of items.

    Args:
        items: All items.
        rows: The selected items.
        query: Selection, with the two cells that are compared.
        marks: The text that the words of an answer are compared with.
        page: The page, from 1.
    """
    if not rows:
        return empty(t("No matching items"), t("Choose “All items”, or change the search."))
    part = rows[(page - 1) * PER_PAGE : page * PER_PAGE]
    return join([_key(marks), *(item_view(items, row, query, marks) for row in part)])


def _key(marks: Marks) -> Markup:
    """What the marks in the answers mean."""
    if marks == "nothing":
        return Markup("")
    text = (
        tm("<mark class='ab-own'>Underlined</mark> words are not in the other answer.")
        if marks == "each other"
        else tm(
            "<ins class='ab-added'>Underlined</ins> words are in the answer only, <del class='ab-missing'>struck "
            "out</del> words are in the reference only."
        )
    )
    return Markup('<p class="ab-key">{}</p>').format(text)


def item_view(items: ItemSet, row: Row, query: ItemFilter, marks: Marks) -> Markup:
    """One item; see :func:`items_view` for the arguments."""
    tone, words = _KINDS[answer_change(row, query.first, query.second)]
    words = t(words)
    place = (
        row_text(row["row"], items.numbers),
        t("turn {turn}", turn=row["turn"] + 1) if row["turn"] else "",
    )
    notes = [
        ", ".join(filter(None, place)),
        *([t("cluster {cluster}", cluster=cut(str(row["cluster"]), 40))] if row["cluster"] else []),
        *([] if row["answerable"] else [t("should be declined")]),
    ]
    sides = join(
        _answer_side(items, row, query, cell, marks) for cell in (query.first, query.second)
    )
    earlier = join(
        Markup('<p dir="auto"><b>{}</b> {}</p>').format(message["role"], _short(message["content"]))
        for message in row["context"]
    )
    scores = join(_score(row, query, metric) for metric in items.metrics)
    return Markup(
        '<article class="ab-item"><header><small>{}</small><span class="ab-kind ab-{}">{}</span></header>{}'
        '<p class="ab-asked" dir="auto">{}</p>'
        '<div class="ab-item-reference"><span>{}</span><p dir="auto">{}</p></div>'
        '<div class="ab-sides">{}</div>{}</article>'
    ).format(
        " · ".join(filter(None, notes)),
        tone,
        words,
        fold(t("Earlier in the conversation"), earlier) if earlier else "",
        _short(row["question"]),
        t("Reference"),
        _short(row["reference"]),
        sides,
        Markup('<dl class="ab-scores">{}</dl>').format(scores) if scores else "",
    )


def row_text(row: int | None, numbers: RowNumbers) -> str:
    """Where an item comes from, as the user counts the rows of the data file; empty if that is not known."""
    return "" if row is None else t("Row {row}", row=numbers.shown(row))


def _answer_side(items: ItemSet, row: Row, query: ItemFilter, cell: str, marks: Marks) -> Markup:
    answer = row["answers"].get(cell)
    if answer:
        text = Markup('<p class="ab-said" dir="auto">{}</p>').format(
            _marked(row, query, cell, marks)
        )
    else:
        text = Markup('<p class="ab-none">{}</p>').format(
            t("No answer was generated.") if answer is None else t("The answer is empty.")
        )
    declined = Markup("")
    if row["declined"].get(cell):
        declined = Markup('<span class="ab-kind ab-quiet">{}</span>').format(
            tc("answer", "declined")
        )
    match = row["metrics"].get(cell, {}).get("exact_match")
    verdict = (
        Markup("")
        if match is None or answer is None
        else Markup('<span class="ab-kind ab-{}">{}</span>').format(
            *(("good", t("✓ correct")) if match == 1 else ("bad", t("✕ no exact match")))
        )
    )
    spec = CELLS.get(cell.rpartition(":")[2])
    return Markup('<section class="ab-side {}"><header><b>{}</b>{}{}</header>{}</section>').format(
        f"ab-arm-{spec.adapter}" if spec and spec.adapter else "",
        items.cells.get(cell, cell),
        verdict,
        declined,
        text,
    )


def _marked(row: Row, query: ItemFilter, cell: str, marks: Marks) -> Markup:
    answer = _short(row["answers"][cell])
    if marks == "the reference":
        tags = {
            "first": Markup('<del class="ab-missing">{}</del>'),
            "second": Markup('<ins class="ab-added">{}</ins>'),
        }
        found = word_diff(_short(row["reference"]), answer)
        return join(tags[side].format(text) if side in tags else text for text, side in found)
    other = row["answers"].get(query.second if cell == query.first else query.first)
    if marks == "each other" and other is not None:
        own = Markup('<mark class="ab-own">{}</mark>')
        return join(
            own.format(text) if changed else text
            for text, changed in marked(answer, _short(other))[0]
        )
    return Markup("{}").format(answer)


def _score(row: Row, query: ItemFilter, metric: str) -> Markup:
    """A metric of both answers with its difference; equal values are shown once."""
    first, second = (
        row["metrics"].get(cell, {}).get(metric) for cell in (query.first, query.second)
    )
    if first is None and second is None:
        return Markup("")
    form, worse = shown(metric), degradation(row, query.first, query.second, metric)
    values, change = (
        f"{_number_or_dash(first, metric)} → {_number_or_dash(second, metric)}",
        Markup(""),
    )
    if worse is not None:
        if round(worse * form.factor, form.decimals) == 0:
            values = _number_or_dash(first, metric)
        else:
            tone, words = ("bad", t("▼ worse")) if worse > 0 else ("good", t("▲ better"))
            change = Markup(' <span class="ab-moved ab-{}">{} {}</span>').format(
                tone, signed((second - first) * form.factor, form.decimals), words
            )
    return Markup("<div><dt>{}</dt><dd>{}{}</dd></div>").format(form.label, values, change)


def _number_or_dash(value: float | None, metric: str) -> str:
    return "–" if value is None else number(value, metric)


def _short(text: str) -> str:
    return cut(text, _MAX_CHARACTERS)


def pager_text(total: int, page: int) -> str:
    """Range of the items on a page: ``11–20 of 57``."""
    if not total:
        return t("None")
    return t(
        "{first}–{last} of {total}",
        first=count((page - 1) * PER_PAGE + 1),
        last=count(min(page * PER_PAGE, total)),
        total=count(total),
    )


def pages(total: int) -> int:
    """Number of pages of ``total`` items, at least one."""
    return max(1, -(-total // PER_PAGE))


def metric_choices(metrics: Iterable[str]) -> list[tuple[str, str]]:
    """Choices of a dropdown of metrics."""
    return [(shown(metric).label, metric) for metric in metrics]
