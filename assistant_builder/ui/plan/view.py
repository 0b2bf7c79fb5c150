"""Texts, tables and the chart of a plan: the recommended method, and memory, time and cost of each method."""

from __future__ import annotations

from typing import TYPE_CHECKING

from markupsafe import Markup

from assistant_builder.arms import LORA, QLORA, label
from assistant_builder.i18n import N_, localize, t, tn
from assistant_builder.planning.advice import Advice, advise, warnings
from assistant_builder.planning.plan import Fit, MethodPlan, Plan, names_bits
from assistant_builder.ui.html import Tone, arm_chip, callout, fragment, table
from evals.report.number_format import count, duration, money, size

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

PARTS = {
    "weights": N_("Frozen base"),
    "adapters": N_("Adapters"),
    "gradients": N_("Gradients"),
    "optimizer": N_("Optimizer"),
    "activations": N_("Activations"),
    "overhead": N_("Program"),
}


def parts_of(plan: Plan) -> dict[str, str]:
    """Components of the peak memory with their titles; loading only if it needs more than training."""
    loads = any("loading" in method.parts for method in plan.methods.values())
    titles = {key: t(words) for key, words in PARTS.items()}
    return {**titles, "loading": t("Loading")} if loads else titles


_FITS: dict[Fit, str] = {"room": N_("fits"), "tight": N_("barely fits"), "no": N_("does not fit")}
_VERDICTS: dict[str, tuple[Tone, str]] = {
    LORA.name: ("good", N_("Train {assistant}")),
    QLORA.name: ("info", N_("Train {assistant}")),
    "neither": ("bad", N_("This does not fit")),
}


@names_bits
def verdict(plan: Plan, advice: Advice) -> Markup:
    """The recommendation and its reason."""
    tone, found = _VERDICTS[advice.method]
    both = (
        ""
        if "no" in (plan.lora.fit, plan.qlora.fit)
        else (
            t("Both fit; a project trains and compares both.")
            if plan.config.compares
            else t(
                "Both fit. This project trains only one, so it compares nothing: select both under Arms in the "
                "settings of the Train tab."
            )
        )
    )
    remedy = " ".join(map(t, advice.remedies)) or both
    title = t(
        "{verdict} on {machine}",
        verdict=t(found, assistant=label(advice.method)),
        machine=plan.machine.title,
    )
    return callout(tone, title, t(advice.why), remedy)


@names_bits
def plan_panel(plan: Plan) -> Markup:
    """Everything except the chart: warnings, memory, time, cost and assumptions."""
    return fragment(
        "plan.panel",
        warnings=warnings(plan),
        parts=parts_table(plan),
        time=time_table(plan),
        assumptions=assumptions(plan),
    )


def parts_table(plan: Plan) -> Markup:
    """Bytes of each component of the peak, one row per method."""
    parts = parts_of(plan)
    rows = [
        (
            arm_chip(name),
            *(size(method.parts.get(part) or None) for part in parts),
            _peak(method),
            t(_FITS[method.fit]),
        )
        for name, method in plan.methods.items()
    ]
    return table(("", *parts.values(), t("Peak"), ""), rows, numeric=range(1, len(parts) + 2))


def _peak(method: MethodPlan) -> str:
    total = size(method.total_bytes)
    return total if method.factor == 1.0 else f"{total} → {size(method.expected_bytes)}"


def time_table(plan: Plan) -> Markup:
    """Time and cost of each method."""
    price = plan.price_per_hour()
    rows = [
        (
            arm_chip(name),
            count(method.work.steps),
            localize(f"{method.work.flops / 1e15:,.3g}"),
            duration(method.seconds),
            money(method.cost(price)),
            size(method.inference_bytes),
            t("yes") if method.checkpointing else t("no"),
        )
        for name, method in plan.methods.items()
    ]
    return table(
        (
            "",
            t("Steps, at most"),
            t("10¹⁵ operations"),
            t("Training time"),
            t("Cost"),
            t("Memory to chat"),
            t("Recomputes activations"),
        ),
        rows,
        numeric=range(1, 6),
    )


def assumptions(plan: Plan) -> str:
    """The assumptions behind the figures."""
    lengths, batch = plan.lengths, plan.batch
    parts = [
        tn(
            "{count} pair of {mean:,.0f} tokens on average, the longest {longest:,}, {rows} at once, rank {rank}, "
            "{dtype} arithmetic.",
            "{count} pairs of {mean:,.0f} tokens on average, the longest {longest:,}, {rows} at once, "
            "rank {rank}, {dtype} arithmetic.",
            plan.pairs,
            mean=lengths.mean,
            longest=batch.length,
            rows=batch.rows,
            rank=plan.config.train.rank,
            dtype=plan.compute_dtype,
        )
    ]
    if lengths.assumed:
        parts.append(t("Lengths are assumed, because there is no data."))
    runs = plan.measured_runs.runs
    if not plan.machine.is_local and not plan.machine.flops:
        learnt = t(
            "Only the memory of this GPU is known, so its time is not: choose a card of the catalog for a time."
        )
    elif not plan.machine.is_local:
        learnt = t(
            "Speed: the usual share of the card's peak throughput. Prices are list prices; you can change them."
        )
    elif runs:
        factors = ", ".join(
            t("{method} peak × {factor:.2f}", method=label(name), factor=method.factor)
            for name, method in plan.methods.items()
        )
        learnt = tn(
            "Speed and peak are corrected by {count} finished run on this machine ({factors}).",
            "Speed and peak are corrected by {count} finished runs on this machine ({factors}).",
            runs,
            factors=factors,
        )
    else:
        learnt = t(
            "No run has finished on this machine yet: the time may be off by a factor of two."
        )
    if plan.measured:
        parts.append(t("Time is extrapolated from the finished steps of this project."))
    if runs or not plan.measured:
        parts.append(learnt)
    return " ".join([*parts, t("Tests and report are not in it: the tab Train says both.")])


@names_bits
def plan_text(plan: Plan) -> tuple[list[str], list[list[str]], list[str]]:
    """The plan for a terminal: columns and rows of a table, and the lines below it."""
    price, advice = plan.price_per_hour(), advise(plan)
    methods = plan.methods
    columns = ["", *(label(name) for name in methods)]
    rows = [
        [name, *(size(method.parts.get(part) or None) for method in methods.values())]
        for part, name in parts_of(plan).items()
    ]
    rows += [
        [t("Peak"), *(_peak(method) for method in methods.values())],
        ["", *(t(_FITS[method.fit]) for method in methods.values())],
        [t("Training time"), *(duration(method.seconds) for method in methods.values())],
        [t("Cost"), *(money(method.cost(price)) for method in methods.values())],
    ]
    lines = [  # the command line is English
        f"{plan.model}: {count(plan.architecture.parameters)} parameters. {plan.machine.name}: "
        f"{size(plan.memory_bytes)} free.",
        f"Recommended: {advice.method}. {advice.why}",
        *advice.remedies,
        *(f"Note: {warning}" for warning in warnings(plan)),
        assumptions(plan),
    ]
    return columns, rows, lines


PART_COLORS = {
    "weights": "#4477aa",
    "adapters": "#ee6677",
    "gradients": "#ccbb44",
    "optimizer": "#228833",
    "activations": "#66ccee",
    "overhead": "#aa9fb1",
    "loading": "#bbbbbb",
}
"""Paul Tol's bright scheme: distinguishable with every common colour vision deficiency, on white and on black."""
_GREY, _LINE = "#7b8494", "#c2410c"


@names_bits
def plan_figure(plan: Plan) -> Figure:
    """Stacked memory bars of the methods, with the available memory as a line."""
    import plotly.graph_objects as go

    shown = plan.methods
    labels = [label(name) for name in shown]
    figure = go.Figure()
    for part, words in parts_of(plan).items():
        values = [method.parts.get(part, 0) * method.factor for method in shown.values()]
        figure.add_bar(
            y=labels,
            x=[value / 1e9 for value in values],
            name=words,
            orientation="h",
            marker={"color": PART_COLORS[part]},
            customdata=[size(value) for value in values],
            hovertemplate="%{customdata}",
        )
    peaks = [method.expected_bytes for method in shown.values()]
    for name, peak in zip(labels, peaks, strict=True):
        figure.add_annotation(
            y=name,
            x=peak / 1e9,
            text=f"<b>{size(peak)}</b>",
            showarrow=False,
            xanchor="left",
            xshift=6,
        )
    figure.add_vline(
        x=plan.memory_bytes / 1e9,
        line={"color": _LINE, "width": 2, "dash": "dash"},
        annotation={
            "text": t("{size} free", size=size(plan.memory_bytes))
            if plan.machine.is_local
            else t("{size} of memory", size=size(plan.memory_bytes)),
            "font": {"color": _LINE},
        },
        annotation_position="top",
    )
    top = max(*peaks, plan.memory_bytes) / 1e9
    figure.update_layout(
        barmode="stack",
        template="none",
        height=130 + 62 * len(shown),
        margin={"l": 24, "r": 24, "t": 34, "b": 84},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        bargap=0.35,
        hovermode="y unified",
        font={"family": "system-ui, sans-serif", "size": 13, "color": _GREY},
        legend={"orientation": "h", "yanchor": "top", "y": -0.24, "x": 0, "traceorder": "normal"},
    )
    figure.update_xaxes(
        range=[0, top * 1.14], ticksuffix=" GB", gridcolor="rgba(123,132,148,0.2)", zeroline=False
    )
    figure.update_yaxes(
        autorange="reversed", automargin=True, linecolor="rgba(123,132,148,0.4)", ticks=""
    )
    return figure
