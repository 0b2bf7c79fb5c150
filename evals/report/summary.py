"""The first answers of a report after its verdict: perplexity, right answers, refusals, and whether tuning helped."""

from __future__ import annotations

from assistant_builder.arms import ARMS, CELLS, headline_arms
from assistant_builder.i18n import Message, Text, joined, m, mn, render
from evals.report import format as fmt
from evals.report.load import BASELINE, CANDIDATE, served_cells, tuned_cells
from evals.report.other_results import NAMES
from evals.report.other_words import is_respelled
from evals.report.schema import Report


def summary(report: Report) -> list[Text]:
    """The first answers after the verdict: perplexity, right answers, refusals, and whether tuning helped."""
    cells = report.cells
    lines: list[Text] = []
    change, seeds = report.verdict.perplexity_change, report.seeds
    if change:
        shares = {"change": change["share"], "low": change["ci"][0], "high": change["ci"][1]}
        lines.append(
            m(
                "In perplexity: {lora} for 16-bit LoRA, {qlora} for QLoRA, {change} ({low} to {high}).",
                lora=perplexity_of(cells[BASELINE]["perplexity"]),
                qlora=perplexity_of(cells[CANDIDATE]["perplexity"]),
                **{name: fmt.share_of(share, plus=True) for name, share in shares.items()},
            )
        )
    return [
        *lines,
        *_right_answers(report),
        *_declining(report),
        *_tuning(report),
        *_untuned(report),
        *([seeds.message("sentence")] if seeds["count"] > 1 else []),
    ]


def perplexity_of(perplexity: float) -> Message:
    """A perplexity with about three digits, as a value of messages."""
    return Message("{value:.2f}" if perplexity < 100 else "{value:,.0f}", {"value": perplexity})


def number_of(perplexity: float) -> str:
    """:func:`perplexity_of` in the current language."""
    return render(perplexity_of(perplexity))


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


def _untuned(report: Report) -> list[Message]:
    """A line if tuning beats every untuned baseline on all metrics; otherwise there is a warning instead."""
    found = report.beats_untuned
    if not found or any(record["not_beaten"] or record["worse"] for record in found):
        return []
    rivals = fmt.both_of(
        [NAMES[name] for name in dict.fromkeys(record["baseline"] for record in found)]
    )
    arms = len(report.trained_arms)
    if arms == 1:
        return [m("The assistant clearly beats {rivals} by every measure.", rivals=rivals)]
    if arms == 2:
        return [m("Both assistants clearly beat {rivals} by every measure.", rivals=rivals)]
    return [m("All assistants clearly beat {rivals} by every measure.", rivals=rivals)]


def _of(share: float, total: int) -> Message:
    return m(
        "{part:,} of {whole:,} ({share})",
        part=round(share * total),
        whole=total,
        share=fmt.share_of(share),
    )


def _tuning(report: Report) -> list[Message]:
    cells = report.cells
    scored = {row["name"] for row in report.contrasts if row["metric"] == "nll_per_token"}
    changes = [
        m(
            "of {arm} from {before} to {after}",
            arm=arm.short,
            before=fmt.value_of(cells[arm.untuned_cell]["nll_per_token"], "nll_per_token"),
            after=fmt.value_of(cells[arm.cell]["nll_per_token"], "nll_per_token"),
        )
        for arm in ARMS.values()
        if f"{arm.cell}-{arm.untuned_cell}" in scored
    ]
    if not changes:
        return []
    return [m("Tuning took the loss (nats per token) {changes}.", changes=changes)]
