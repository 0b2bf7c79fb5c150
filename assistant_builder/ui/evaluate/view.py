"""The scores of every cell, the differences with their intervals, and the verdict; how far an evaluation is.

Held-out items for reading: the question, the reference, two answers with the differing words marked, the scores.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from markupsafe import Markup

from assistant_builder.arms import CELLS, CellSpec
from assistant_builder.study.steps import StepRecord, evaluates
from assistant_builder.ui.evaluate.item_filters import ItemFilter, ItemSet, harm, relation
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
    items,
    join,
    table,
)
from assistant_builder.ui.study_snapshot import Snapshot, step_title
from evals.metrics import METRICS
from evals.report.format import (
    count,
    difference,
    duration,
    export_description,
    interval,
    number,
    p_value,
    shown,
    signed,
    size,
)
from evals.report.glossary import BASELINE_TEXTS, CellText
from evals.report.items import Diff, Runs, marked, word_diff
from evals.report.load import is_compared
from evals.report.rows_headline import NOT_COMPARED

MINUS = " \N{MINUS SIGN} "
_OUTCOMES: dict[str, tuple[Tone, str]] = {
    "no worse": ("good", "4-bit is no worse"),
    "worse": ("bad", "4-bit is worse"),
    "inconclusive": ("warn", "Cannot be told yet"),
}
_KEEPS = {"measured": "is what was measured", "yes": "✓ yes", "no": "✕ no", "cannot be told": "cannot be told"}


def evaluation_state(snapshot: Snapshot, log: str = "") -> Markup:
    """Where the evaluation stands, unless it is done: not begun, under way, failed, stopped.

    Args:
        snapshot: The study.
        log: The end of the log of the step that failed.
    """
    scoring = [each for each in snapshot.steps if evaluates(each.step)]
    record, report = _telling(scoring), snapshot.step("report")
    if record.state == "running":
        return _progress(snapshot, [each.step for each in scoring if each.state == "running"])
    for step in (record, report):
        if step.state == "failed":
            told = error_callout(step.error or {"what": f"“{step_title(step.step)}” failed"})
            return join([told, fold(f"Log of “{step_title(step.step)}”", code(log)) if log else "",
                         _so_far(snapshot)])
    if record.state in ("cancelled", "lost"):
        title = "The evaluation was cancelled" if record.state == "cancelled" else "The evaluation was interrupted"
        return join([callout("warn", title, "What was scored is kept.",
                             "Press “Carry on”: it goes on with the cell at which it stopped."), _so_far(snapshot)])
    if record.state == "queued" and not snapshot.scores:
        return _not_begun(snapshot)
    if record.state == "succeeded" and snapshot.report is None:
        if report.state == "running":
            return join([callout("info", "All scored", "The report is being written; its verdict comes here."),
                         _so_far(snapshot)])
        return join([callout("warn", "Scored, without a report", remedy="Press “Carry on”: the verdict needs it."),
                     _so_far(snapshot)])
    return Markup("") if snapshot.report else _so_far(snapshot)


def _not_begun(snapshot: Snapshot) -> Markup:
    count = len(snapshot.config.arms)
    who, several = assistants(count), count > 1
    if snapshot.trained and not snapshot.running:
        return empty("Trained, not evaluated", f"Press “Evaluate now”: {who} answer the held-out questions, "
                     "and their untuned bases too." if several else "Press “Evaluate now”: the assistant answers the "
                     "held-out questions, and its untuned base too.")
    if snapshot.running:
        return empty("Nothing to evaluate yet", "The run is under way; the evaluation follows by itself once "
                     f"{who} {'are' if several else 'is'} trained, and its scores come here as "
                     "they are made.")
    return empty("Nothing to evaluate yet", f"Train {who} on the Train tab; "
                 "the evaluation follows by itself.")


def _telling(scoring: Sequence[StepRecord]) -> StepRecord:
    """Of several steps that score at once the one that tells how the evaluation stands: it runs, or it stopped."""
    told = (each for state in ("running", "failed", "cancelled", "lost") for each in scoring if each.state == state)
    return next(told, scoring[-1])


def _progress(snapshot: Snapshot, steps: Sequence[str]) -> Markup:
    """How far the steps are that score now."""
    going = {step: found for step in steps if (found := snapshot.progress.get(step)) is not None and found.total}
    if not going:
        return join([callout("info", "Evaluating", "Loading the models."), _so_far(snapshot)])
    said = []
    for step, progress in going.items():
        left = f", {duration(progress.eta_seconds)} left" if progress.eta_seconds is not None else ""
        said += [callout("info", "Evaluating", f"{progress.message or 'Scoring'}: {progress.done} %{left}"),
                 bar(progress.done / progress.total, step_title(step))]
    return join([*said, _stages(snapshot, [progress.message for progress in going.values()]), _so_far(snapshot)])


def _stages(snapshot: Snapshot, messages: Sequence[str]) -> Markup:
    """Each cell with its state and the time it took, in the order in which reports show them."""
    doing = {cell: what for cell, _, what in (message.partition(": ") for message in messages)}
    rows = []
    for cell in CELLS:
        if cell not in snapshot.config.cells:
            continue
        scores = snapshot.scores.get(cell)
        if scores is not None:
            state, note = "succeeded", duration(sum((scores.get("seconds") or {}).values()))
        elif cell in doing:
            state, note = "running", doing[cell]
        else:
            state, note = "queued", ""
        rows.append(Markup('<li><b>{}</b><span>{}</span>{}<small>{}</small></li>').format(
            cell, CELLS[cell].label, badge(state), note))
    return Markup('<ol class="ab-stages" aria-label="Cells">{}</ol>').format(join(rows))


def _so_far(snapshot: Snapshot) -> Markup:
    """The scores that there are before there is a report."""
    if not snapshot.scores or snapshot.report:
        return Markup("")
    return card(f"Scored so far: {len(snapshot.scores)} of {len(snapshot.config.cells)} cells",
                cells_table(snapshot.scores))


def verdict_callout(report: Mapping[str, Any]) -> Markup:
    """The verdict in one sentence, what else a reader asks first, and what speaks against taking it at its word."""
    tone, title = _OUTCOMES[report["verdict"]["outcome"]] if is_compared(report) else ("info", NOT_COMPARED)
    if report["verdict"].get("within_margin_but_worse"):
        title = "Measurably worse, within the margin"
    summary = report.get("summary") or []
    said = Markup('<div class="ab-callout ab-verdict ab-{}" role="status"><strong>{}</strong><p>{}</p>{}</div>').format(
        tone, title, report.get("sentence") or "", items(summary) if summary else ""
    )
    minded = [Markup("<li><b>Mind:</b> {}</li>").format(entry["text"]) for entry in report.get("warnings", [])
              if entry["level"] == "serious"]
    return join([said, Markup('<ul class="ab-mind">{}</ul>').format(join(minded)) if minded else ""])


def report_tables(report: Mapping[str, Any]) -> Markup:
    """What the pictures show in figures, and what a careful reader must know."""
    return join([
        card("Every cell", cells_table({**report["cells"], **report["baselines"]})),
        card("Differences", contrasts_table(report)),
        exports_card(report),
        _warnings(report),
    ])


def cells_table(scores: Mapping[str, Mapping[str, Any]]) -> Markup:
    """One row a cell, one column a metric that any of them has.

    Args:
        scores: Cell or baseline → its scores.json, or its record of the report.
    """
    columns = [metric for metric in METRICS if any(_figure(found, metric) is not None for found in scores.values())]
    headers = ["Cell", "What it is", "Items", "Perplexity", *(shown(metric).label for metric in columns)]
    texts: dict[str, CellSpec | CellText] = {**CELLS, **BASELINE_TEXTS}
    rows = [
        (
            Markup('<b class="ab-cell">{}</b>').format(cell),
            Markup("<b>{}</b><small>{}</small>").format(texts[cell].label, texts[cell].about) if cell in texts else "",
            count(found["items"]),
            "–" if found.get("perplexity") is None else f"{found['perplexity']:.2f}",
            *("–" if (value := _figure(found, metric)) is None else number(value, metric) for metric in columns),
        )
        for cell, found in scores.items()
    ]
    meanings = (METRICS[metric] for metric in columns)
    legend = fold("What the columns mean", items(f"{m.label}: {m.explanation} {m.blind_spots}" for m in meanings))
    figures = table(headers, rows, numeric=range(2, len(headers)))
    return Markup('<div class="ab-cells">{}</div>{}').format(figures, legend)


def _figure(scores: Mapping[str, Any], metric: str) -> float | None:
    value = scores["nll_per_token"] if metric == "nll_per_token" else scores["metrics"].get(metric)
    return None if value is None else float(value)


def contrasts_table(report: Mapping[str, Any]) -> Markup:
    """Every difference with its 95 % interval: the headline open, the others to be opened."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in report["contrasts"]:
        groups.setdefault(row["name"], []).append(row)
    parts = []
    for place, (name, rows) in enumerate(groups.items()):
        title = f"{name.replace('-', MINUS)}: {rows[0].get('meaning', '')}"
        parts.append(fold(title, _contrast_rows(rows), opened=place == 0))
    return join(parts)


def _contrast_rows(rows: list[Mapping[str, Any]]) -> Markup:
    cells = [
        (
            shown(row["metric"]).label,
            difference(row["delta"], row["metric"], row),
            interval(row, row["metric"]),
            p_value(row.get("p_value_holm", row["p_value"])),
            count(row["n"]),
        )
        for row in rows
    ]
    return table(("Metric", "Difference", "95 % interval", "p (Holm)", "n"), cells, numeric=(1, 2, 3, 4))


def exports_card(report: Mapping[str, Any]) -> Markup:
    """Which export keeps the quality that was measured."""
    found = report.get("exports") or []
    if all(row["keeps"] == "measured" for row in found):
        return Markup("")
    rows = [
        (
            Markup('<b class="ab-cell">{}</b>').format(row["cell"]), export_description(row), size(row.get("bytes")),
            number(row["figure"], row["metric"]),
            "–" if row["delta"] is None else f"{difference(row['delta'], row['metric'], row)} "
            f"({interval(row, row['metric'])})",
            _KEEPS.get(row["keeps"], row["keeps"]),
        )
        for row in found
    ]
    metric = shown(found[0]["metric"]).label
    headers = ("Cell", "How it is served", "Weights", metric, "Difference from what was measured", "Keeps it?")
    figures = Markup('<div class="ab-cells">{}</div>').format(table(headers, rows, numeric=(2, 3, 4)))
    return card("Which export keeps the quality you measured", figures)


def interval_key(report: Mapping[str, Any]) -> str:
    """How the interval pictures are read."""
    if not is_compared(report):
        return ("A line is where the true difference between the tuned assistant and the untuned base probably lies; "
                "right of zero the tuned one is worse. ▶ clearly worse, ◀ clearly better, ● cannot be told from no "
                "difference.")
    how, margin = shown(report["primary_metric"]), report["verdict"]["margin"]
    allowed = f"{margin * how.factor:.3g} {how.unit}"
    return (f"A line is where the true difference probably lies; right of zero is worse. ▶ clearly worse, ◀ clearly "
            f"better, ● cannot be told from no difference. Green, up to the dashed line: the {allowed} of "
            f"{how.phrase} that the study allows.")


def power_sentence(report: Mapping[str, Any]) -> str:
    """What this evaluation could have seen, by the metric of the verdict; empty where that is not known."""
    row = next((row for row in report.get("power") or [] if row["metric"] == report["primary_metric"]), None)
    if row is None or row.get("detectable") is None:
        return ""
    how = shown(row["metric"])
    smallest = f"{row['detectable'] * how.factor:.2g} {how.unit}"
    return (f"With {count(row['n'])} items ({count(row['units'])} independent {row['unit']}) this evaluation would "
            f"usually see a true difference of {smallest} or more in {how.phrase}.")


def _warnings(report: Mapping[str, Any]) -> Markup:
    """The lesser ones; the serious stand under the verdict."""
    said = [entry["text"] for entry in report.get("warnings", []) if entry["level"] != "serious"]
    return card("What to keep in mind", items(said)) if said else Markup("")


Row = Mapping[str, Any]
Marks = Literal["each other", "the reference", "nothing"]
PER_PAGE = 10
_LONGEST = 4000
"""Characters of one text shown; the report's JSON holds the whole."""
_KINDS = {
    "lost": ("bad", "✕ right → wrong"),
    "gained": ("good", "✓ wrong → right"),
    "different": ("warn", "≠ worded otherwise"),
    "same": ("quiet", "= same answer"),
    "not generated": ("quiet", "scored by loss only"),
}


def items_view(items: ItemSet, rows: Sequence[Row], wish: ItemFilter, marks: Marks, page: int) -> Markup:
    """One page of items.

    Args:
        items: Where they are from.
        rows: All that were chosen.
        wish: What was wished for.
        marks: What the answers' words are compared with.
        page: The page, from 1.
    """
    if not rows:
        return empty("No item is like that", "Choose “All items”, or search for something else.")
    part = rows[(page - 1) * PER_PAGE : page * PER_PAGE]
    key = _key(marks)
    return join([key, *(item_view(items, row, wish, marks) for row in part)])


def _key(marks: Marks) -> Markup:
    if marks == "nothing":
        return Markup("")
    if marks == "the reference":
        return Markup(
            '<p class="ab-key"><ins class="ab-added">underlined</ins> words are the answer’s own, '
            '<del class="ab-missing">struck out</del> words of the reference are missing from it.</p>'
        )
    return Markup('<p class="ab-key"><mark class="ab-own">Underlined</mark> words are not in the other answer.</p>')


def item_view(items: ItemSet, row: Row, wish: ItemFilter, marks: Marks) -> Markup:
    """One item.

    Args:
        items: Where it is from.
        row: The item.
        wish: Which two cells are compared.
        marks: What the answers' words are compared with.
    """
    kind = relation(row, wish.first, wish.second)
    tone, words = _KINDS[kind]
    place = f"Row {row['row']}" + (f", turn {row['turn'] + 1}" if row["turn"] else "")
    notes = [place, *([f"cluster {cut(str(row['cluster']), 40)}"] if row["cluster"] else []),
             *([] if row["answerable"] else ["should be declined"])]
    sides = join(_side(items, row, wish, cell, marks) for cell in (wish.first, wish.second))
    return Markup(
        '<article class="ab-item"><header><small>{}</small><span class="ab-kind ab-{}">{}</span></header>{}'
        '<p class="ab-asked" dir="auto">{}</p>'
        '<div class="ab-item-reference"><span>Reference</span><p dir="auto">{}</p></div>'
        '<div class="ab-sides">{}</div>{}</article>'
    ).format(
        " · ".join(notes), tone, words, _context(row), _short(row["question"]), _short(row["reference"]), sides,
        _scores(items, row, wish),
    )


def _context(row: Row) -> Markup:
    """The turns before a later turn's question."""
    if not row["context"]:
        return Markup("")
    said = join(Markup('<p dir="auto"><b>{}</b> {}</p>').format(message["role"], _short(message["content"]))
                for message in row["context"])
    return Markup('<details class="ab-fold"><summary>Earlier in the conversation</summary>{}</details>').format(said)


def _side(items: ItemSet, row: Row, wish: ItemFilter, cell: str, marks: Marks) -> Markup:
    answer = row["answers"].get(cell)
    if answer is None:
        text = Markup('<p class="ab-none">No answer was generated.</p>')
    elif not answer:
        text = Markup('<p class="ab-none">The answer is empty.</p>')
    else:
        text = Markup('<p class="ab-said" dir="auto">{}</p>').format(_marked(row, wish, cell, marks))
    declined = Markup('<span class="ab-kind ab-quiet">declined</span>') if row["declined"].get(cell) else Markup("")
    right = row["metrics"].get(cell, {}).get("exact_match")
    verdict = Markup("") if right is None or answer is None else Markup('<span class="ab-kind ab-{}">{}</span>').format(
        *(("good", "✓ right") if right == 1 else ("bad", "✕ not exact")))
    return Markup('<section class="{}"><header><b>{}</b>{}{}</header>{}</section>').format(
        "ab-side " + _arm_class(cell), items.cells.get(cell, cell), verdict, declined, text)


def _arm_class(cell: str) -> str:
    found = CELLS.get(cell.rpartition(":")[2])
    return f"ab-arm-{found.adapter}" if found and found.adapter else ""


def _marked(row: Row, wish: ItemFilter, cell: str, marks: Marks) -> Markup:
    answer = _short(row["answers"][cell])
    if marks == "the reference":
        return reference_marks(word_diff(_short(row["reference"]), answer))
    other = row["answers"].get(wish.second if cell == wish.first else wish.first)
    if marks == "each other" and other is not None:
        return own_marks(marked(answer, _short(other))[0])
    return Markup("{}").format(answer)


def own_marks(runs: Runs) -> Markup:
    """An answer with the words marked that another answer lacks."""
    return join(Markup('<mark class="ab-own">{}</mark>').format(text) if changed else text for text, changed in runs)


def reference_marks(found: Diff) -> Markup:
    """An answer with its own words underlined, and what it lacks of the reference struck out where that belongs."""
    tags = {"first": Markup('<del class="ab-missing">{}</del>'), "second": Markup('<ins class="ab-added">{}</ins>')}
    return join(tags[side].format(text) if side in tags else text for text, side in found)


def _scores(items: ItemSet, row: Row, wish: ItemFilter) -> Markup:
    """Each metric of both answers, once where they are equal; else with the difference, by sign and arrow."""
    lines = join(_score(row, wish, metric) for metric in items.metrics)
    return Markup('<dl class="ab-scores">{}</dl>').format(lines) if lines else Markup("")


def _score(row: Row, wish: ItemFilter, metric: str) -> Markup:
    first, second = (row["metrics"].get(cell, {}).get(metric) for cell in (wish.first, wish.second))
    if first is None and second is None:
        return Markup("")
    how, worse = shown(metric), harm(row, wish.first, wish.second, metric)
    told, moved = f"{_answer_figure(first, metric)} → {_answer_figure(second, metric)}", Markup("")
    if worse is not None:
        if round(worse * how.factor, how.decimals) == 0:
            told = _answer_figure(first, metric)
        else:
            tone, words = ("bad", "▼ worse") if worse > 0 else ("good", "▲ better")
            moved = Markup(' <span class="ab-moved ab-{}">{} {}</span>').format(
                tone, signed((second - first) * how.factor, how.decimals), words)
    return Markup("<div><dt>{}</dt><dd>{}{}</dd></div>").format(how.label, told, moved)


def _answer_figure(value: float | None, metric: str) -> str:
    return "–" if value is None else number(value, metric)


def _short(text: str) -> str:
    return cut(text, _LONGEST)


def pager_text(total: int, page: int) -> str:
    """Which items are shown: ``11–20 of 57``."""
    if not total:
        return "None"
    return f"{(page - 1) * PER_PAGE + 1:,}–{min(page * PER_PAGE, total):,} of {total:,}"


def pages(total: int) -> int:
    """How many pages ``total`` items fill, one at least."""
    return max(1, -(-total // PER_PAGE))


def cell_choices(items: ItemSet) -> list[tuple[str, str]]:
    """The cells as choices of a dropdown."""
    return [(title, cell) for cell, title in items.cells.items()]


def metric_choices(metrics: Iterable[str]) -> list[tuple[str, str]]:
    """Metrics as choices of a dropdown."""
    return [(shown(metric).label, metric) for metric in metrics]
