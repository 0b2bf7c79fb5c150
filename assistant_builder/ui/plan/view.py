"""A plan in words and tables: which method, why, what each part takes, how long it lasts and what it costs.

The chart of a plan: one training step of each method, stacked part on part, against the memory there is.

A plan as one HTML file that needs nothing beside it: chart, tables and styles.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from assistant_builder.arms import LORA, QLORA, css_variables, label
from assistant_builder.atomic_io import write_text
from assistant_builder.errors import ConfigError
from assistant_builder.planning.advice import Advice, advise, card_comparison, warnings
from assistant_builder.planning.memory import FULL_TUNING, Method
from assistant_builder.planning.plan import Fit, MethodPlan, Plan
from assistant_builder.ui.html import Tone, arm_chip, arm_styles, callout, card, fold, items, join, table
from evals.report.format import count, duration, money, plural, size

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

PARTS = {
    "weights": "Frozen base", "adapters": "Adapters", "gradients": "Gradients", "optimizer": "Optimizer",
    "activations": "Activations", "overhead": "Program",
}
PART_MEANINGS = {
    "weights": "the base as stored: linear layers in 4 or 16 bits, embeddings, norms and head in the compute dtype",
    "adapters": "the trained float32 matrices, rank × (in + out) values for each adapted layer",
    "gradients": "one float32 value for each trained value",
    "optimizer": "AdamW's two moments for each trained value",
    "activations": "what the forward pass keeps for the backward pass, the logits and unpacked weights",
    "overhead": "Python, the libraries and what the allocator holds back; on a GPU CUDA's context",
    "loading": "what loading the base takes more than training, where it does: one more 16-bit tensor, being converted",
}


def title(method: Method) -> str:
    """Name of a method in tables and charts."""
    return "Full fine-tuning" if method == FULL_TUNING else label(method)


def parts_of(plan: Plan) -> dict[str, str]:
    """The parts of the plan's methods with their titles: those of training, and loading where it takes more."""
    loads = any("loading" in method.parts for method in plan.methods.values())
    return {**PARTS, "loading": "Loading"} if loads else PARTS


_FITS: dict[Fit, str] = {"room": "fits with room", "tight": "fits, barely", "no": "does not fit"}
_VERDICTS: dict[str, tuple[Tone, str]] = {
    LORA.name: ("good", "Train LoRA on the 16-bit base"),
    QLORA.name: ("info", "Train QLoRA on the 4-bit base"),
    "neither": ("bad", "This does not fit"),
}


def verdict(plan: Plan, advice: Advice) -> Markup:
    """The recommendation and its reason."""
    tone, found = _VERDICTS[advice.method]
    alone = not plan.config.compares
    both = "" if "no" in (plan.lora.fit, plan.qlora.fit) else (
        "Both arms fit. This study trains one of them, so that it cannot say what 4-bit cost: choose both under Arms, "
        "among the settings of the Train tab." if alone else
        "A study trains both and measures what 4-bit cost; both fit."
    )
    remedy = " ".join(advice.remedies) or both
    return callout(tone, f"{found} on {plan.machine.name}", advice.why, remedy)


def plan_panel(plan: Plan) -> Markup:
    """Everything but the chart: warnings, methods, layers, time and cost, and what was assumed."""
    said = warnings(plan)
    return join([
        card("What to keep in mind", items(said)) if said else "",
        card("One training step, part by part", parts_table(plan),
             fold("What the parts are",
                  items(f"{name}: {PART_MEANINGS[key]}." for key, name in parts_of(plan).items())),
             fold(f"Layer by layer ({plural(len(plan.architecture.modules), 'module')})", layers_table(plan))),
        card("Time and cost", time_table(plan), Markup("<p>{}</p>").format(assumptions(plan))),
        _cards(plan),
    ])


def _cards(plan: Plan) -> Markup:
    """How many cards each method takes, where it is not one for all of them."""
    compared = card_comparison(plan)
    return card("One card or many", cards_table(plan, compared)) if max(compared["needed"].values()) > 1 else Markup("")


def parts_table(plan: Plan) -> Markup:
    """Bytes of each part of the peak, one row a method."""
    parts = parts_of(plan)
    rows = [
        (_chip(name), *(size(method.parts.get(part) or None) for part in parts), _peak(method), _FITS[method.fit])
        for name, method in plan.methods.items()
    ]
    return table(("", *parts.values(), "Peak", ""), rows, numeric=range(1, len(parts) + 2))


def _peak(method: MethodPlan) -> str:
    if method.factor == 1.0:
        return size(method.total_bytes)
    return f"{size(method.total_bytes)} → {size(method.expected_bytes)}"


def layers_table(plan: Plan) -> Markup:
    """Every module with its parameters and its bytes under each method; equal blocks are shown once."""
    rows = []
    for name, many, parameters, sizes in layer_rows(plan):
        rows.append((name, str(many), count(parameters), *(size(stored) for stored in sizes)))
    total = [size(method.weights_bytes) for method in plan.methods.values()]
    rows.append(("All", "", count(plan.architecture.parameters), *total))
    return table(("Module", "×", "Parameters of one", *(title(name) for name in plan.methods)), rows,
                 numeric=range(1, 3 + len(plan.methods)))


def layer_rows(plan: Plan) -> Iterable[tuple[str, int, int, tuple[int, ...]]]:
    """(name, how often, parameters of one, bytes of one under each method), block numbers left out."""
    merged: dict[tuple[str, int], tuple[int, tuple[int, ...]]] = {}
    columns = [method.layers for method in plan.methods.values()]
    for entries in zip(*columns, strict=True):
        name, parameters, _ = entries[0]
        if not parameters:
            continue
        pattern = ".".join("*" if part.isdigit() else part for part in name.split("."))
        many, _ = merged.get((pattern, parameters), (0, ()))
        merged[pattern, parameters] = (many + 1, tuple(stored for _, _, stored in entries))
    for (pattern, parameters), (many, sizes) in merged.items():
        yield pattern, many, parameters, sizes


def time_table(plan: Plan) -> Markup:
    """How long each method takes and what it costs."""
    price = plan.price_per_hour()
    rows = [
        (_chip(name), count(method.work.steps), f"{method.work.flops / 1e15:,.3g}", duration(method.seconds),
         money(method.cost(price)), size(method.inference_bytes), "yes" if method.checkpointing else "no")
        for name, method in plan.methods.items()
    ]
    return table(("", "Steps", "10¹⁵ operations", "Time", "Cost", "Memory to chat", "Recomputes activations"), rows,
                 numeric=range(1, 6))


def assumptions(plan: Plan) -> str:
    """What the figures rest on."""
    lengths, batch = plan.lengths, plan.batch
    data = (f"{plural(plan.pairs, 'pair')} of {lengths.mean:,.0f} tokens on average, the longest {batch.length:,}, "
            f"{batch.rows} at once, rank {plan.config.train.rank}, {plan.compute_dtype} arithmetic.")
    guessed = " Lengths are assumed, as no data is known." if lengths.assumed else ""
    runs = plan.measured_runs.runs
    if not plan.machine.is_local and not plan.machine.flops:
        learnt = " Only the memory of this GPU is known, so its time is not: name a card of the catalog for that."
    elif not plan.machine.is_local:
        learnt = " Speed: the share of the card's peak that such trainers reach; prices are list prices, change them."
    elif plan.measured:
        learnt = " Time is extrapolated from the steps this study has made."
    elif runs:
        learnt = f" Speed and peak are corrected by {plural(runs, 'finished run')} on this machine ({_factors(plan)})."
    else:
        learnt = " No run has finished on this machine yet: the time may be off by a factor of two."
    return data + guessed + learnt


def _factors(plan: Plan) -> str:
    return ", ".join(f"{title(name)} peak × {plan.methods[name].factor:.2f}" for name in plan.methods
                     if name != FULL_TUNING)


def cards_table(plan: Plan, compared: Mapping[str, Any]) -> Markup:
    """How many 80 GB cards each method takes, and what an hour of them costs.

    Args:
        plan: The plan.
        compared: See :func:`~assistant_builder.planning.advice.card_comparison`.
    """
    cheapest = min(compared["price_of_hour"].values())
    rows = [
        (_chip(name), f"{compared['needed'][name]} × {compared['card']}", money(compared["price_of_hour"][name]),
         f"{compared['price_of_hour'][name] / cheapest:.0f} ×", duration(compared["seconds_on_one"][name])
         if compared["needed"][name] == 1 else "–")
        for name in plan.methods
    ]
    note = ("An hour of n cards costs n hours of one; any other ratio comes from different prices. This trainer uses "
            "one card.")
    return join([table(("", "Cards", "US$ an hour", "Ratio", "Time on one"), rows, numeric=(2, 3, 4)),
                 Markup("<p>{}</p>").format(note)])


def _chip(name: str) -> Markup:
    return Markup('<span class="ab-chip ab-arm-full">{}</span>').format(title(name)) if name == FULL_TUNING else (
        arm_chip(name)
    )


def plan_text(plan: Plan) -> tuple[list[str], list[list[str]], list[str]]:
    """The plan for a terminal: columns and rows of a table, and the lines under it."""
    price, advice = plan.price_per_hour(), advise(plan)
    methods = plan.methods
    columns = ["", *(title(name) for name in methods)]
    rows = [[name, *(size(method.parts.get(part) or None) for method in methods.values())]
            for part, name in parts_of(plan).items()]
    rows += [
        ["Peak", *(_peak(method) for method in methods.values())],
        ["", *(_FITS[method.fit] for method in methods.values())],
        ["Time", *(duration(method.seconds) for method in methods.values())],
        ["Cost", *(money(method.cost(price)) for method in methods.values())],
    ]
    lines = [
        f"{plan.model}: {count(plan.architecture.parameters)} parameters. {plan.machine.name}: "
        f"{size(plan.memory_bytes)} free.",
        f"Recommended: {advice.method}. {advice.why}", *advice.remedies,
        *(f"Note: {said}" for said in warnings(plan)), assumptions(plan),
    ]
    return columns, rows, lines


PART_COLORS = {
    "weights": "#4477aa", "adapters": "#ee6677", "gradients": "#ccbb44", "optimizer": "#228833",
    "activations": "#66ccee", "overhead": "#aa9fb1", "loading": "#bbbbbb",
}
"""Paul Tol's bright scheme: told apart by every common kind of colour vision, on white and on black."""
_GREY, _LINE = "#7b8494", "#c2410c"
_BEYOND = 1.6
"""Full fine-tuning is drawn while it needs at most this many times what the rest of the chart does; else it would
squeeze what matters."""


def plan_figure(plan: Plan) -> Figure:
    """Stacked bars of the arms, and of full fine-tuning where it does not dwarf them, with the memory as a line.

    Args:
        plan: The plan.
    """
    import plotly.graph_objects as go

    reach = max(plan.memory_bytes, plan.lora.total_bytes)
    shown = {name: method for name, method in plan.methods.items()
             if name != FULL_TUNING or method.total_bytes <= _BEYOND * reach}
    labels = [title(name) for name in shown]
    figure = go.Figure()
    for part, words in parts_of(plan).items():
        values = [method.parts.get(part, 0) for method in shown.values()]
        figure.add_bar(
            y=labels, x=[value / 1e9 for value in values], name=words, orientation="h",
            marker={"color": PART_COLORS[part]}, customdata=[size(value) for value in values],
            hovertemplate="%{customdata}",
        )
    peaks = [method.total_bytes for method in shown.values()]
    for name, peak in zip(labels, peaks, strict=True):
        figure.add_annotation(y=name, x=peak / 1e9, text=f"<b>{size(peak)}</b>", showarrow=False, xanchor="left",
                              xshift=6)
    figure.add_vline(
        x=plan.memory_bytes / 1e9, line={"color": _LINE, "width": 2, "dash": "dash"},
        annotation={"text": f"{size(plan.memory_bytes)} {'free' if plan.machine.is_local else 'of memory'}",
                    "font": {"color": _LINE}}, annotation_position="top",
    )
    top = max(*peaks, plan.memory_bytes) / 1e9
    figure.update_layout(
        barmode="stack", template="none", height=130 + 62 * len(shown), margin={"l": 120, "r": 24, "t": 34, "b": 84},
        paper_bgcolor="rgba(0,0,0,0)", plot_bgcolor="rgba(0,0,0,0)", bargap=0.35, hovermode="y unified",
        font={"family": "system-ui, sans-serif", "size": 13, "color": _GREY},
        legend={"orientation": "h", "yanchor": "top", "y": -0.24, "x": 0, "traceorder": "normal"},
    )
    figure.update_xaxes(range=[0, top * 1.14], ticksuffix=" GB", gridcolor="rgba(123,132,148,0.2)", zeroline=False)
    figure.update_yaxes(autorange="reversed", linecolor="rgba(123,132,148,0.4)", ticks="")
    return figure


_STYLES = Path(__file__).parents[1] / "styles"
_PAGE = Markup("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Plan for {title}</title><style>{style}</style></head>
<body class="gradio-container ab-plan-file"><main><h1 dir="auto">Plan for {title}</h1><p>{about}</p>
{verdict}<section class="ab-card"><h3>Memory of one training step</h3>{chart}</section>{panel}</main></body></html>
""")


def write_plan_file(plan: Plan, path: Path) -> None:
    """Write a plan as a self-contained HTML file.

    Raises:
        ConfigError: The file cannot be written.
    """
    chart = Markup(plan_figure(plan).to_html(full_html=False, include_plotlyjs=True, config={"displaylogo": False}))
    style = Markup("\n".join((_STYLES / name).read_text(encoding="utf-8") for name in ("page.css", "plan.css")))
    style += Markup(
        f"\n{arm_styles()}\n@media (prefers-color-scheme: dark) {{ .ab-plan-file {{ {css_variables(dark=True)} }} }}")
    about = f"{count(plan.architecture.parameters)} parameters, on {plan.machine.name}."
    page = _PAGE.format(title=plan.model, style=style, about=about, verdict=verdict(plan, advise(plan)), chart=chart,
                        panel=plan_panel(plan))
    try:
        write_text(path, page)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}", where="--html",
                          remedy="Name a file in a folder that you may write to") from error
