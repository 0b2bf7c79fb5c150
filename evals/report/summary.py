"""The first answers of a report after its verdict: how many are right, and how many questions were declined."""

from __future__ import annotations

from assistant_builder.arms import ARMS, CELLS, headline_arms
from assistant_builder.i18n import Message, Text, joined, m, mn
from evals.report import format as fmt
from evals.report.load import served_cells, tuned_cells
from evals.report.other_words import is_respelled
from evals.report.schema import Report


def summary(report: Report) -> list[Text]:
    """The first answers after the verdict: right answers, and refusals."""
    return [*_right_answers(report), *_declining(report)]


def _short(cell: str) -> str:
    """What sentences call the assistant of a cell."""
    return ARMS[CELLS[cell].adapter or ""].short


def _right_answers(report: Report) -> list[Message]:
    if is_respelled(report):  # they are no test of the assistants
        return []
    cells, tuned = report.cells, served_cells(report.trained_arms)
    share = {name: cell["metrics"].get("exact_match") for name, cell in cells.items()}
    if any(share.get(name) is None for name in tuned):
        return [m("Exact match, the share of completely right answers, was not scored.")]
    total = next(
        (row["n"] for row in report.contrasts if row["metric"] == "exact_match"),
        len(report.items),
    )
    listed = [
        Message("{arm} {score}", {"arm": _short(name), "score": _of(share[name], total)})
        for name in tuned
    ]
    untuned = ARMS[headline_arms(report.trained_arms)[0]].untuned_cell
    if share.get(untuned) is not None:
        listed.append(m("the untuned base {score}", score=_of(share[untuned], total)))
    text = m("Exactly right answers: {listed}.", listed=listed)
    flips = report.flips
    if not flips:
        return [text]
    asked = {row["item"] for row in report.items if row["answerable"]}
    lost, gained = (
        sum(flip["item"] in asked for flip in flips[kind]) for kind in ("lost", "gained")
    )
    differing = mn(
        "{count} question right only under LoRA, {gained:,} only under QLoRA.",
        "{count} questions right only under LoRA, {gained:,} only under QLoRA.",
        lost,
        gained=gained,
    )
    return [joined([text, differing])]


def _declining(report: Report) -> list[Message]:
    cells = report.declining.cells if report.declining else {}
    tuned = tuned_cells(report.trained_arms)
    if not set(tuned) <= cells.keys() or not cells[tuned[0]]["unanswerable_items"]:
        return []
    first, last = cells[tuned[0]], cells[tuned[-1]]
    values = {
        "arm": _short(tuned[0]),
        "answerable": first["answerable_items"],
        "declined": first["declined"],
        "falsely": first["false_declines"],
        "other_declined": last["declined"],
        "other_falsely": last["false_declines"],
    }
    if len(tuned) == 1:
        return [
            mn(
                "Of {count} question that should be declined, {arm} declined {declined:,}; of the {answerable:,} that "
                "should be answered, it declined {falsely:,}.",
                "Of {count} questions that should be declined, {arm} declined {declined:,}; of the {answerable:,} that "
                "should be answered, it declined {falsely:,}.",
                first["unanswerable_items"],
                **values,
            )
        ]
    return [
        mn(
            "Of {count} question that should be declined, 16-bit LoRA declined {declined:,} and QLoRA "
            "{other_declined:,}; of the {answerable:,} that should be answered, they declined {falsely:,} and "
            "{other_falsely:,}.",
            "Of {count} questions that should be declined, 16-bit LoRA declined {declined:,} and QLoRA "
            "{other_declined:,}; of the {answerable:,} that should be answered, they declined {falsely:,} and "
            "{other_falsely:,}.",
            first["unanswerable_items"],
            **values,
        )
    ]


def _of(share: float, total: int) -> Message:
    return m(
        "{part:,} of {whole:,} ({share})",
        part=round(share * total),
        whole=total,
        share=fmt.share_of(share),
    )
