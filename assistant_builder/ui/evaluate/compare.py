"""Two studies against each other in words and tables.

The part of the Evaluate tab that sets the study against another one. It wires; views.across draws.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import gradio as gr
from markupsafe import Markup

from assistant_builder.arms import CELLS
from assistant_builder.errors import AssistantBuilderError
from assistant_builder.study import Study, studies_folder
from assistant_builder.ui.evaluate.figures import Panel, Row, contrast_row, interval_figure
from assistant_builder.ui.evaluate.item_browser import ItemBrowser
from assistant_builder.ui.evaluate.item_filters import ItemSet, across_items, comparable, made_from
from assistant_builder.ui.html import Tone, callout, card, empty, error_callout, items, join, table
from assistant_builder.ui.refresh import LiveRegion, StudyView
from assistant_builder.ui.study_snapshot import stamp
from evals.report.format import plural
from evals.report.verdict import harm_interval
from evals.study_compare.messages import contrast_rows, difference_rows, metric_shown

Record = Mapping[str, Any]
JUDGED = ("Q4", "L16")


def comparison_view(record: Record) -> Markup:
    """The verdicts first, then what to keep in mind.

    Args:
        record: What ``evals.study_compare.compare_studies`` returns.
    """
    head = callout(
        "info", f"{record['b']} against {record['a']}",
        f"{plural(record['shared_items'], 'held-out item')} in both. Differences are {record['b']} (B) minus "
        f"{record['a']} (A); the metric and the margin of {record['a']} decide.",
    )
    none = callout("warn", "No verdict", "The metric that decides was not scored in both studies.")
    verdicts = join(_verdict(verdict) for verdict in record["verdicts"]) or none
    caveats = card("What to keep in mind", items(record["warnings"])) if record["warnings"] else Markup("")
    return join([head, verdicts, caveats])


def _verdict(verdict: Record) -> Markup:
    tone, title = _outcome(verdict)
    return Markup('<div class="ab-callout ab-verdict ab-{}" role="status"><strong>{}</strong><p>{}</p></div>').format(
        tone, f"{CELLS[verdict['cell']].label}: {title}", verdict["sentence"])


def _outcome(verdict: Record) -> tuple[Tone, str]:
    if verdict["outcome"] == "worse":
        return "bad", "worse"
    if verdict["outcome"] == "inconclusive":
        return "warn", "cannot be told"
    if harm_interval(verdict)[1] < 0:
        return "good", "better"
    return "good", "measurably worse, within the margin" if verdict["within_margin_but_worse"] else "no worse"


def comparison_tables(record: Record) -> Markup:
    """In what the two differ, and every figure."""
    told = difference_rows(record)
    differing = table(("Setting or file", f"A: {record['a']}", f"B: {record['b']}"), told) if told else Markup(
        "<p>Nothing on record differs.</p>")
    headers = ("Cell", "Metric", "A", "B", "B \N{MINUS SIGN} A", "95 % interval", "p (Holm)")
    return join([
        card("What differs between the studies", differing),
        card("Every figure", table(headers, contrast_rows(record), numeric=range(2, 7))),
    ])


def comparison_panels(record: Record) -> list[Panel]:
    """The differences as rows of a picture: the loss of every cell, then the scores of the two assistants."""
    found = []
    for backwards in (False, True):
        rows = [row for row in record["contrasts"] if row["higher_is_better"] == backwards
                and (row["cell"] in JUDGED or row["metric"] == record["loss"])]
        if not rows:
            continue
        rows.sort(key=lambda row: JUDGED.index(row["cell"]) if row["cell"] in JUDGED else len(JUDGED))
        judged = next((v for v in record["verdicts"] if v["metric"] in {row["metric"] for row in rows}), None)
        how = metric_shown(rows[0]["metric"])
        found.append(Panel(
            tuple(_row(row) for row in rows), "points of 100" if how.unit == "points" else how.unit, backwards,
            judged["margin"] * how.factor if judged else None,
        ))
    return found


def _row(row: Record) -> Row:
    like = "nll_per_token" if row["metric"] == "nll_per_byte" else row["metric"]
    about = "" if row["higher_is_better"] else CELLS[row["cell"]].label
    return contrast_row(row, f"{row['cell']} · {metric_shown(row['metric']).label}", about, like)


def nothing_to_compare(name: str, others: Sequence[str]) -> Markup:
    """Why no other study can be chosen.

    Args:
        name: The study.
        others: The studies that have been evaluated too, none of which shares held-out questions with it.
    """
    how = ("Make one from it on the Train tab (“Save these settings as a new study”), change a setting, and run it: "
           "studies are compared on the held-out questions that both have.")
    if not others:
        return empty("No other study has been evaluated yet", how)
    return empty(f"No other study was asked the same held-out questions as {name}", f"{left_out(others)} {how}")


def left_out(others: Sequence[str]) -> str:
    """Which evaluated studies cannot be chosen and why; empty without any."""
    if not others:
        return ""
    return (f"Not on offer, for {'it shares' if len(others) == 1 else 'they share'} no held-out question with this "
            f"study: {', '.join(sorted(others))}.")


EMPTY = "Here the study is set against another one."


class AcrossPanel:
    """Components of the part; the caller has opened the block that they belong in."""

    def __init__(self) -> None:
        self.pair = gr.State(None)
        self.note = gr.HTML(elem_classes="ab-note")
        with gr.Column(visible=False) as self.body:
            with gr.Row(elem_classes="ab-across"):
                self.other = gr.Dropdown([], label="Compare with", interactive=True, elem_id="ab-other", min_width=240)
                self.go = gr.Button("Compare", variant="primary", scale=0, min_width=140, elem_id="ab-compare")
            self.message = gr.HTML(elem_id="ab-comparison")
            with gr.Column(visible=False) as self.result:
                self.plot = gr.Plot(label="This study minus the other, 95 % intervals", elem_classes="ab-figure")
                self.tables = gr.HTML()
                gr.HTML("<h3>Answers that changed</h3>")
                self.browser = ItemBrowser(_pair_items, "ab-across-items")

    def sections(self) -> list[LiveRegion]:
        """What follows the study, and the list of the others."""
        return [
            LiveRegion("across", [self.note, self.body, self.other], _others_mark, self._draw),
            LiveRegion("across-result", [self.pair, self.message, self.result], _own_mark,
                    lambda look: [None, "", gr.update(visible=False)]),
        ]

    def _draw(self, look: StudyView) -> Sequence[Any]:
        hidden = [gr.update(visible=False), gr.update(choices=[], value=None)]
        if look.study is None:
            return [gr.update(value=empty("No study chosen", EMPTY), visible=True), *hidden]
        state = look.study.step("evaluate").state
        if state != "succeeded":
            said = empty("Not evaluated yet", "A study can be set against another one once it has been evaluated.")
            return [gr.update(value=said, visible=True), *hidden]
        found, parent = comparable(look.study), made_from(look.study)
        others = {name: items for name, items in found.items() if items > 1}
        note = nothing_to_compare(look.study.name, list(found)) if not others else left_out(list(found.keys() - others))
        titles = [(f"{name}  ·  {plural(items, 'item')} in both{'  ·  made from it' if name == parent else ''}", name)
                  for name, items in others.items()]
        return [gr.update(value=note, visible=bool(note)), gr.update(visible=bool(others)),
                gr.update(choices=titles, value=next(iter(others), None))]

    def wire(self, picker: gr.Dropdown) -> None:
        """Connect the components.

        Args:
            picker: Holds the name of the chosen study.
        """
        self.go.click(
            self._compare, [picker, self.other],
            [self.pair, self.message, self.result, self.plot, self.tables, *self.browser.outputs, self.go],
            show_progress="hidden", api_visibility="private",
        )
        self.browser.wire(self.pair)

    def _compare(self, name: str | None, other: str | None) -> Iterator[list[Any]]:
        from evals.study_compare import compare_studies

        rest = [gr.skip()] * (2 + len(self.browser.outputs))
        hidden = gr.update(visible=False)
        if not name or not other:
            yield [None, callout("warn", "Choose a study to compare with"), hidden, *rest, gr.skip()]
            return
        yield [gr.skip(), callout("info", f"Comparing {name} with {other}…", "Item by item, on what both have."),
               hidden, *rest, gr.update(interactive=False)]
        ready = gr.update(interactive=True)
        try:
            a, b = Study.open(other), Study.open(name)
            record, items = compare_studies(a, b), across_items(a, b)
        except AssistantBuilderError as error:
            yield [None, error_callout(error.to_record()), hidden, *rest, ready]
            return
        figure = interval_figure(comparison_panels(record))
        yield [(other, name), comparison_view(record), gr.update(visible=True), figure, comparison_tables(record),
               *self.browser.opened(items, "different"), ready]


def _pair_items(pair: Sequence[str] | None) -> ItemSet | None:
    return across_items(*(Study.open(name) for name in pair)) if pair else None


def _others_mark(look: StudyView) -> str:
    found = sorted(studies_folder().glob("[!.]*/evals/status.json"))
    return f"{look.name}:{len(found)}:{stamp(found)}"


def _own_mark(look: StudyView) -> str:
    return f"{look.name}:{stamp([look.study.status_file('evaluate')])}" if look.study else f"none:{look.name}"
