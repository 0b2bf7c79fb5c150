"""A data file in words and tables: what was found, the first rows, the rejected ones, the split.

Pairs as a base model is trained on them: the chat template applied, what is learned marked, and their lengths.
"""

from __future__ import annotations

import bisect
import itertools
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from assistant_builder.data import Pair, RejectedRow
from assistant_builder.models.template_preview import Lengths, RenderedSequence, Segment
from assistant_builder.ui.html import Tone, callout, card, cut, error_callout, fold, items, join, table, tiles
from assistant_builder.ui.settings_form import MAPPING_TITLE, ROLE_TITLES, page_words
from evals.report.format import count, percent

SPLIT_TITLES = {"train": "Training", "validation": "Validation", "heldout": "Held-out"}
_TONES: dict[str, Tone] = {"error": "bad", "warning": "warn", "info": "info"}
_MOST_ROWS = 200
_MOST_LISTED = 50
_GOOD_POINTS, _FAIR_POINTS = 5.0, 12.0
"""Differences, in points, up to which a held-out set counts as telling much, and something."""


def findings_view(record: Mapping[str, Any]) -> Markup:
    """The figures and findings of a checked file.

    Args:
        record: ``Findings.to_record()``.
    """
    figures = [
        ("Rows", count(record["rows"]), str(record["format"]).upper()),
        ("Usable pairs", count(record["usable"]), percent(record["usable"] / max(record["rows"], 1), 0)),
        ("Rejected", count(len(record["rejected"])), "with reasons below"),
        ("Exact copies", count(record["exact_duplicates"]), "left out"),
        ("Near-duplicates", count(record["near_duplicates"]), "kept, and watched for leaks"),
        ("Conflicts", count(record["conflicts"]), "one question, several answers"),
    ]
    found = join(_problem(problem) for problem in record.get("problems", ()))
    notes = fold("How the file was read", items(map(page_words, record["notes"]))) if record["notes"] else Markup("")
    return join([tiles(figures), found, _examples(record.get("details", {})), notes])


def _examples(details: Mapping[str, Any]) -> Markup:
    """Rows that repeat or contradict each other, one by one."""
    copies = [(str(entry["row"]), str(entry["of"])) for entry in details.get("exact_duplicates", ())]
    near = [
        (str(entry["row"]), cut(entry["question"], 160), str(entry["of"]), cut(entry["other"], 160),
         percent(entry["similarity"], 0))
        for entry in details.get("near_duplicates", ())
    ]
    conflicts = [
        (cut(entry["text"], 160), ", ".join(map(str, entry["rows"][:12]))) for entry in details.get("conflicts", ())
    ]
    kinds = (
        ("Exact copies", ("Row", "Copy of row"), copies, (0, 1)),
        ("Near-duplicates", ("Row", "Question", "Is like row", "Its question", "Words shared"), near, (0, 2, 4)),
        ("Questions with several answers", ("Question", "Rows"), conflicts, ()),
    )
    return join(
        fold(f"{title}, one by one", table(headers, rows[:_MOST_LISTED], numeric=numeric))
        for title, headers, rows, numeric in kinds
        if rows
    )


def _problem(problem: Mapping[str, Any]) -> Markup:
    rows = _rows(problem.get("rows") or ())
    return Markup('<div class="ab-finding ab-{}"><strong>{}</strong> <span>{}</span>{}</div>').format(
        _TONES[problem["severity"]], page_words(problem["title"]), page_words(problem["detail"]),
        Markup("<small>{}</small>").format(rows) if rows else "",
    )


def _rows(rows: Sequence[int]) -> str:
    if not rows:
        return ""
    shown = ", ".join(map(str, rows[:12]))
    return f"Row{'s' if len(rows) > 1 else ''} {shown}" + (" …" if len(rows) > 12 else "")


def columns_view(columns: Mapping[str, str | None]) -> Markup:
    """Which column plays which role."""
    rows = [(ROLE_TITLES.get(role, role), name) for role, name in columns.items() if name]
    return table(("Role", "Column in the file"), rows)


def rejected_view(rejected: Sequence[RejectedRow], of: int) -> Markup:
    """Every row that is left out, with its reason and what stood there."""
    if not rejected:
        return Markup("")
    rows = [
        (str(entry.row), page_words(entry.reason), cut(_cells(entry.record), 160)) for entry in rejected[:_MOST_ROWS]
    ]
    title = f"{count(len(rejected))} of {count(of)} rows left out"
    body = table(("Row", "Why", "What stands there"), rows, numeric=(0,))
    if len(rejected) > _MOST_ROWS:
        body += Markup("<p>The first {} are shown; the download has all of them.</p>").format(_MOST_ROWS)
    return card(title, body)


def _cells(record: Any) -> str:
    """What stood in a row, without the signs of the file's format."""
    if record is None:
        return ""
    if isinstance(record, dict) and isinstance(record.get("messages"), list):  # a pair that was read, and then left out
        texts = [turn["content"] for turn in record["messages"] if isinstance(turn, dict) and turn.get("content")]
        return " · ".join(map(str, texts))
    if isinstance(record, dict):
        return " · ".join(f"{name}: {_cells(value)}" for name, value in record.items() if value not in (None, ""))
    return record if isinstance(record, str) else json.dumps(record, ensure_ascii=False)


def split_view(record: Mapping[str, Any], power: Mapping[str, Any] | None) -> Markup:
    """Sizes of the three sets, how they were made, and what the held-out set can show.

    Args:
        record: ``Split.to_record()``.
        power: ``evals.stats.power.Power.to_record()`` of the held-out set.
    """
    counts = record["counts"]
    total = max(sum(counts.values()), 1)
    parts = join(
        Markup('<i class="ab-split-{}" style="flex:{}" title="{}"></i>').format(name, number, SPLIT_TITLES[name])
        for name, number in counts.items()
    )
    figures = [
        (SPLIT_TITLES[name], count(number), _share_of(record, name, number, total)) for name, number in counts.items()
    ]
    said = [page_words(note[:1].upper() + note[1:]) for note in record.get("notes", ())]
    told = ", ".join(f"{SPLIT_TITLES[name]} {count(number)}" for name, number in counts.items())
    return join([
        Markup('<div class="ab-split" role="img" aria-label="Sizes of the sets: {}">{}</div>').format(told, parts),
        tiles(figures), power_view(power) if power is not None else "", items(said) if said else "",
    ])


def power_view(power: Mapping[str, Any]) -> Markup:
    """What a held-out set of this size can show, in everyday words; the statistician's sentence opens on a click.

    Args:
        power: ``evals.stats.power.Power.to_record()``.
    """
    from evals.stats.power import power_sentence

    points = 100 * power["minimum_detectable"]
    tone: Tone = "good" if points <= _GOOD_POINTS else "info" if points <= _FAIR_POINTS else "warn"
    whole = count(max(1, round(points)))
    title = f"The test can show a difference of about {whole} right answers in a hundred"
    if points >= 100:
        title = "The test is too small to show any difference"
    body = (
        f"The {count(power['items'])} held-out questions are kept from training and asked afterwards, to find out "
        "whether 4-bit made the assistant worse. A smaller difference than this would go unnoticed."
    )
    remedy = "" if tone == "good" else (
        f"To notice {count(100 * power['target'])} in a hundred, some {count(_rounded(power['items_needed']))} "
        "held-out questions would be needed: add pairs, or raise “Held-out share”."
    )
    reckoned = fold("How this is reckoned", Markup("<p>{}</p>").format(power_sentence(power)))
    return callout(tone, title, body, remedy) + reckoned


def _rounded(number: float) -> float:
    """To two digits, for a number that is an estimate."""
    return float(f"{number:.2g}")


def _share_of(record: Mapping[str, Any], name: str, number: int, total: int) -> str:
    clusters = record.get("clusters", {}).get(name)
    return percent(number / total, 0) + (f", {count(clusters)} clusters" if clusters else "")


def leaks_view(leaks: Sequence[Mapping[str, Any]], removed: int) -> Markup:
    """Held-out questions that also stand in training or validation."""
    if not leaks:
        return Markup("")
    kinds = {"exact": "the same", "near": "nearly the same words", "embedding": "the same meaning"}
    rows = [
        (
            f"{leak['heldout_row']}: {cut(leak['heldout_question'], 160)}",
            f"{leak['other_row']}: {cut(leak['other_question'], 160)}",
            f"{kinds[leak['kind']]}, {'removed' if leak['removed'] else 'kept'}",
        )
        for leak in leaks[:_MOST_LISTED]
    ]
    one = len(leaks) == 1
    what = f"{'question' if one else 'questions'} of the test {'stands' if one else 'stand'} in training too"
    done = f"{count(removed)} removed from the test" if removed else "kept in the test"
    note = Markup(
        "<p>A question that was learned by heart says nothing about what the assistant can do with a new one.</p>"
    )
    body = fold(
        "One by one", table(("Row of the test", "Is like row of training", "How"), rows), opened=len(rows) <= 5
    )
    return card(f"{count(len(leaks))} {what}, {done}", note, body)


def study_data_view(
    findings: Mapping[str, Any] | None, split: Mapping[str, Any] | None, power: Mapping[str, Any] | None,
    rejected: Sequence[RejectedRow], leaks: Sequence[Mapping[str, Any]] = (),
) -> Markup:
    """What the Data tab tells of a study's data.

    Args:
        findings: data/findings.json.
        split: data/split.json.
        power: See :func:`power_view`.
        rejected: The rows left out.
        leaks: Of split.json, and those found by meaning.
    """
    parts: Iterable[str] = (
        card("What was found", findings_view(findings)) if findings else "",
        card("How it is split", split_view(split, power)) if split else "",
        leaks_view(leaks, sum(leak["removed"] for leak in leaks)),
        rejected_view(rejected, findings["rows"] if findings else len(rejected)),
        card("Columns", columns_view(findings["columns"])) if findings else "",
    )
    return join(parts)


def unreadable_view(error: Mapping[str, Any], columns: Sequence[str], peek: Sequence[Sequence[str]] = ()) -> Markup:
    """Why no study can be made from the file, with the columns that it has and its first rows.

    Args:
        error: ``AssistantBuilderError.to_record()``.
        columns: The file's columns.
        peek: The cells of the first rows.
    """
    if not columns:
        return error_callout(error)
    rows = [[cut(cell, 120) for cell in row] for row in peek]
    return error_callout(error) + card(
        "The first rows of the file", Markup("<p>Say which column is which under “{}”.</p>").format(MAPPING_TITLE),
        table(columns, rows),
    )


def brief_view(record: Mapping[str, Any] | None) -> Markup:
    """One line under the upload: whether a study can be made.

    Args:
        record: ``Findings.to_record()``; None where the file cannot be read.
    """
    if record is None:
        return Markup(
            '<p class="ab-brief ab-bad" role="status">This cannot be used yet: <a href="#ab-found">see why</a></p>'
        )
    tone, said = "good", f"{count(record['usable'])} of {count(record['rows'])} rows can be used"
    if not record["can_start"]:
        tone, said = "bad", f"{said}, too few for a study"
    elif record["usable"] < record["rows"]:
        tone = "warn"
    return Markup('<p class="ab-brief ab-{}" role="status">{}</p>').format(tone, said)


_LONGEST_SHOWN = 4_000
_BARS = 24
_STEPS = (1, 2, 2.5, 5, 10)
_TURNS = {"system": "System prompt", "user": "Question", "assistant": "Answer"}


def prompted_view(pairs: Sequence[Pair], rendered: Sequence[Sequence[RenderedSequence]], model: str, max_length: int) -> Markup:
    """The first rows as the model is trained on them.

    Args:
        pairs: The rows.
        rendered: The training sequences of each.
        model: Name of the base model.
        max_length: Tokens after which training cuts.
    """
    rows = join(
        _row(pair, sequence, max_length) for pair, found in zip(pairs, rendered, strict=True) for sequence in found
    )
    text = Markup(
        "<p>Your rows in the form that <b>{}</b> is trained on. Words in small frames are marks of its chat template; "
        "you need not write them.</p>"
    ).format(model)
    any_cut = any(sequence.tokens > max_length for found in rendered for sequence in found)
    return card("As the model will see them", text, _legend(any_cut), rows)


def _legend(any_cut: bool) -> Markup:
    entries = [
        Markup("<li><mark class='ab-learned'>Underlined</mark> what the assistant learns to write</li>"),
        Markup("<li><span>Plain</span> what it is given to read</li>"),
    ]
    if any_cut:
        entries.append(Markup("<li><del class='ab-cut'>Struck out</del> cut off, too long to be read</li>"))
    return Markup('<ul class="ab-legend" aria-label="Legend">{}</ul>').format(join(entries))


def _row(pair: Pair, sequence: RenderedSequence, max_length: int) -> Markup:
    facts = f"{count(sequence.tokens)} tokens, {count(sequence.learned)} of them learned"
    if sequence.tokens > max_length:
        facts += f", cut after {count(max_length)}"
    if not sequence.learned:
        facts += ": nothing is left to learn from, so training leaves the row out"
    return Markup(
        '<figure class="ab-seen"><figcaption>Row {} <span>· {}</span></figcaption>'
        '<div class="ab-seen-text" tabindex="0" role="group" aria-label="Row {} as the model sees it">{}</div></figure>'
    ).format(pair.row, facts, pair.row, join(_runs(sequence.segments)))


def _runs(segments: Sequence[Segment]) -> list[Markup]:
    tags = {"given": ("span", "given"), "learned": ("mark", "learned"), "cut": ("del", "cut")}
    parts = []
    for part, run in itertools.groupby(segments, lambda segment: segment.part):
        tag, name = tags[part]
        inner = join(_control(segment.text) if segment.control else _shortened(segment.text) for segment in run)
        parts.append(Markup('<{} class="ab-{}">{}</{}>').format(tag, name, inner, tag))
    return parts


def _control(text: str) -> Markup:
    return Markup('<bdi class="ab-control">{}</bdi>').format(text)


def _shortened(text: str) -> str:
    if len(text) <= _LONGEST_SHOWN:
        return text
    left_out = f"\n[… {count(len(text) - _LONGEST_SHOWN)} characters are not shown here, but are used …]\n"
    return text[: _LONGEST_SHOWN * 3 // 4] + left_out + text[-_LONGEST_SHOWN // 4 :]


def plain_view(pairs: Sequence[Pair], model: str) -> Markup:
    """The first rows turn by turn, for want of the model's template.

    Args:
        pairs: The rows.
        model: Name of the base model, which is not on this machine.
    """
    rows = join(
        Markup('<figure class="ab-seen"><figcaption>Row {}</figcaption>{}</figure>').format(
            pair.row,
            join(
                Markup('<div class="ab-seen-turn"><b>{}</b><div class="ab-seen-text">{}</div></div>').format(
                    _TURNS[message.role],
                    Markup('<mark class="ab-learned">{}</mark>' if message.role == "assistant" else "{}").format(
                        _shortened(message.content)
                    ),
                )
                for message in pair.messages
            ),
        )
        for pair in pairs
    )
    note = callout(
        "info", f"The files of {model} are not on this machine yet",
        "They are fetched when the study first runs. Until then the rows are shown turn by turn, without the marks of "
        "the model's chat template and without their lengths.",
    )
    return card("As the model will see them", note, _legend(any_cut=False), rows)


def lengths_view(lengths: Lengths, answer_limit: int) -> Markup:
    """How long the pairs are, with the line after which training cuts.

    Args:
        lengths: As measured.
        answer_limit: Tokens that an assistant may generate (``eval.max_new_tokens``).
    """
    if not lengths.tokens:
        return Markup("")
    measured, limit = len(lengths.tokens), lengths.max_length
    part = measured < lengths.pairs
    tokens, answers = sorted(lengths.tokens), sorted(lengths.answers)
    long_answers = sum(number > answer_limit for number in answers)
    cut_note = "none is left out" if not lengths.dropped else f"{count(lengths.dropped)} of them left out"
    figures = [
        ("Middle length", count(tokens[measured // 2]), "tokens, half are longer"),
        ("95 % are below", count(_quantile(tokens, 0.95)), "tokens"),
        ("Longest", count(tokens[-1]), "tokens"),
        ("Cut", count(lengths.cut), f"longer than {count(limit)}: {cut_note}" if lengths.cut else "none is too long"),
        ("Answers", count(answers[measured // 2]), f"tokens in the middle, at most {count(answers[-1])}"),
    ]
    notes = [_told(lengths)]
    if long_answers:
        notes.append(
            f"{count(long_answers)} answers ({percent(long_answers / measured, 0)}) are longer than the "
            f"{count(answer_limit)} tokens that an assistant may write when it is tested or asked; raise "
            "“Longest answer” in the training settings if that matters."
        )
    said = join(Markup("<p>{}</p>").format(note) for note in notes)
    if part:
        said += Markup("<p>Measured on {} of the {} pairs, evenly spaced over the file.</p>").format(
            count(measured), count(lengths.pairs)
        )
    return card("How long the pairs are", tiles(figures), _histogram(tokens, limit), said)


def _told(lengths: Lengths) -> str:
    limit, measured = lengths.max_length, len(lengths.tokens)
    meaning = "A token is a piece of a word, about four letters of English and fewer in most other languages."
    if not lengths.cut:
        return f"Every pair fits into the {count(limit)} tokens that training reads of a pair. {meaning}"
    share = percent(lengths.cut / measured, 1 if lengths.cut * 100 < measured else 0)
    lost = (
        f" Of these, {count(lengths.dropped)} are left out of training, for their question alone fills it."
        if lengths.dropped else ""
    )
    return (
        f"{count(lengths.cut)} pairs ({share}) are longer than the {count(limit)} tokens that training reads of a "
        f"pair: the end of their answer is cut.{lost} Shorten them, or raise “Longest pair” in the training settings, "
        f"which costs memory. {meaning}"
    )


def _quantile(ordered: Sequence[int], share: float) -> int:
    return ordered[min(len(ordered) - 1, math.ceil(len(ordered) * share) - 1)]


def bins(ordered: Sequence[int], limit: int) -> list[tuple[int, int | None, int]]:
    """Bars of a histogram: (from, to, pairs); the last one is open (None) where a few pairs are far longer than most.

    Args:
        ordered: Lengths in ascending order.
        limit: One of the bars begins just behind it, where it lies within them.
    """
    top = max(_quantile(ordered, 0.99), min(limit, ordered[-1]))
    width: float = _nice(top / _BARS)
    if limit <= top:
        width = limit / max(1, round(limit / width))
    edges = [round(place * width) for place in range(math.ceil(top / width) + 1)]
    numbers = [0] * len(edges)
    for length in ordered:
        numbers[max(0, bisect.bisect_left(edges, length) - 1)] += 1
    bars: list[tuple[int, int | None, int]] = [
        (low + 1, high, number) for (low, high), number in zip(itertools.pairwise(edges), numbers, strict=False)
    ]
    return [*bars, (edges[-1] + 1, None, numbers[-1])] if numbers[-1] else bars


def _nice(width: float) -> int:
    scale = 10 ** math.floor(math.log10(max(width, 1)))
    return max(1, math.ceil(next(step * scale for step in _STEPS if step * scale >= width)))


def _histogram(ordered: Sequence[int], limit: int) -> Markup:
    bars = bins(ordered, limit)
    most = max(number for _, _, number in bars)
    drawn = join(
        Markup('<i class="{}" style="height:{:.1f}%" title="{}: {} pairs"></i>').format(
            "ab-over" if low > limit else "", 100 * number / most if not number else max(1.5, 100 * number / most),
            _range(low, high), count(number),
        )
        for low, high, number in bars
    )
    within = next((place for place, (low, _, _) in enumerate(bars) if low > limit), None)
    line = Markup("")
    if within is not None:
        at = 100 * within / len(bars)
        side = "ab-left" if at > 60 else ""
        line = Markup('<b class="ab-limit {}" style="inset-inline-start:{:.2f}%"><span>cut after {}</span></b>').format(
            side, at, count(limit)
        )
    ends = [count(1), count(bars[len(bars) // 2][0]), "more" if bars[-1][1] is None else count(bars[-1][1])]
    axis = join(Markup("<span>{}</span>").format(text) for text in ends)
    said = table(
        ("Tokens", "Pairs"), [(_range(low, high), count(number)) for low, high, number in bars if number],
        numeric=(0, 1),
    )
    label = f"Histogram of tokens a pair: {count(len(ordered))} pairs, the tallest bar has {count(most)}"
    return Markup(
        '<div class="ab-hist" role="img" aria-label="{}"><div class="ab-hist-bars">{}{}</div>'
        '<div class="ab-hist-axis">{}</div></div>{}'
    ).format(label, drawn, line, axis, fold("The same as a table", said))


def _range(low: int, high: int | None) -> str:
    return f"{count(low)} and more" if high is None else f"{count(low)} to {count(high)}"
