"""Pairs as a base model is trained on them: the chat template applied, what is learned marked, and their lengths."""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Sequence

from markupsafe import Markup

from assistant_builder.data import Pair
from assistant_builder.models.preview import Lengths, Rendered, Segment
from assistant_builder.ui.markup import callout, card, fold, join, table, tiles
from evals.report.wording import count, percent

_LONGEST_SHOWN = 4_000
_BARS = 24
_STEPS = (1, 2, 2.5, 5, 10)
_TURNS = {"system": "System prompt", "user": "Question", "assistant": "Answer"}


def prompted_view(pairs: Sequence[Pair], rendered: Sequence[Sequence[Rendered]], model: str, max_length: int) -> Markup:
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


def _row(pair: Pair, sequence: Rendered, max_length: int) -> Markup:
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

