"""Comparison of the study with another one on the Results tab."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import gradio as gr
from markupsafe import Markup

from assistant_builder.arms import CELLS
from assistant_builder.errors import AssistantBuilderError
from assistant_builder.i18n import N_, render, t, text_of, tn
from assistant_builder.study import Study, studies_folder
from assistant_builder.ui.evaluate.item_browser import ItemBrowser
from assistant_builder.ui.evaluate.item_filters import (
    comparable_studies,
    parent_study,
    shared_items,
)
from assistant_builder.ui.evaluate.view import intervals
from assistant_builder.ui.html import (
    callout,
    card,
    empty,
    error_callout,
    fragment,
    heading,
    items,
    join,
    table,
)
from assistant_builder.ui.refresh import QUIET, LiveRegion, StudyView
from assistant_builder.ui.study_snapshot import stamp, title_of_study
from evals.report.charts import by_axis, interval_panel
from evals.report.conclusion import TOO_FEW
from evals.report.number_format import in_sentence, shown
from evals.report.verdict import harm_interval
from evals.study_compare.messages import contrast_rows, difference_rows

Record = Mapping[str, Any]
JUDGED = ("Q4", "L16")


def comparison_view(record: Record) -> Markup:
    """Verdicts and warnings of a result of ``evals.study_compare.compare_studies``."""
    a, b = title_of_study(record["a"]), title_of_study(record["b"])
    head = callout(
        "info",
        t("{b} compared with {a}", a=a, b=b),
        tn(
            "{count} test question in both projects. Differences are {b} (B) minus {a} (A). The metric and the margin "
            "of {a} decide.",
            "{count} test questions in both projects. Differences are {b} (B) minus {a} (A). The metric and the margin "
            "of {a} decide.",
            record["shared_items"],
            a=a,
            b=b,
        ),
    )
    none = callout(
        "warn", t("No verdict"), t("The deciding metric was not scored in both projects.")
    )
    verdicts = join(map(_verdict, record["verdicts"])) or none
    caveats = card(t("Caveats"), items(record["warnings"])) if record["warnings"] else Markup("")
    return join([head, verdicts, caveats])


def _verdict(verdict: Record) -> Markup:
    tone, title = (
        {"worse": "bad", "inconclusive": "warn"}.get(verdict["outcome"], "good"),
        t(verdict["outcome"]),
    )
    if tone == "warn":
        title = in_sentence(t(TOO_FEW))
    if tone == "good" and harm_interval(verdict)[1] < 0:
        title = t("better")
    elif tone == "good" and verdict["within_margin_but_worse"]:
        title = t("measurably worse, within the margin")
    return fragment(
        "evaluate.verdict",
        tone,
        f"{t(CELLS[verdict['cell']].label)}: {title}",
        render(text_of(verdict["said"]["sentence"], verdict["sentence"])),
    )


def comparison_tables(record: Record) -> Markup:
    """The differences with their intervals, the differing settings and files, and every figure."""
    differences = difference_rows(record)
    columns = (
        t("Setting or file"),
        *(f"{side.upper()}: {title_of_study(record[side])}" for side in "ab"),
    )
    differing = (
        table(columns, differences)
        if differences
        else fragment("parts.paragraph", t("No recorded setting or file differs."))
    )
    headers = (
        t("Cell"),
        t("Metric"),
        "A",
        "B",
        "B \N{MINUS SIGN} A",
        t("95 % interval"),
        t("p (Holm)"),
    )
    picture = intervals(comparison_panels(record))
    return join(
        [
            card(t("This project minus the other, 95 % intervals"), picture),
            card(t("Differences between the projects"), differing),
            card(t("All metrics"), table(headers, contrast_rows(record), numeric=range(2, 7))),
        ]
    )


def comparison_panels(record: Record) -> list[dict[str, Any]]:
    """Panels of the interval figure: the loss of every cell, then the scores and declines of the two assistants."""
    panels = []
    for rows in by_axis(
        [
            row
            for row in record["contrasts"]
            if row["cell"] in JUDGED or row["metric"] == record["loss"]
        ]
    ):
        rows.sort(
            key=lambda row: JUDGED.index(row["cell"]) if row["cell"] in JUDGED else len(JUDGED)
        )
        margins = [
            verdict["margin"]
            for verdict in record["verdicts"]
            if verdict["metric"] in {row["metric"] for row in rows}
        ]
        drawn = [
            {
                **row,
                "label": f"{row['cell']} · {shown(row['metric']).label}",
                "about": "" if row["higher_is_better"] else t(CELLS[row["cell"]].label),
                "margin": next(iter(margins), None),
            }
            for row in rows
        ]
        panels.append(interval_panel(drawn, t("← better"), t("worse →"), ""))
    return panels


def no_comparison_note(name: str, others: Sequence[str]) -> Markup:
    """A message that no other study can be compared; ``others`` share no held-out question with the study ``name``."""
    remedy = t(
        "Save the settings as a new project on the Train tab, change a setting and run it. Projects are "
        "compared on the test questions that they share."
    )
    if not others:
        return empty(t("No other project has been evaluated yet"), remedy)
    return empty(
        t("No other project has the same test questions as {name}", name=title_of_study(name)),
        f"{excluded_note(others)} {remedy}",
    )


def excluded_note(others: Sequence[str]) -> str:
    """Lists the evaluated studies that cannot be compared; empty without any."""
    if not others:
        return ""
    return t(
        "Not listed, because they share no test question with this project: {names}.",
        names=", ".join(sorted(map(title_of_study, others))),
    )


EMPTY = N_("The project is compared with another one here.")


class CompareStudiesPanel:
    """Components of the comparison; the caller has opened the block that contains them."""

    def __init__(self) -> None:
        self.pair = gr.State(None)
        self.note = gr.HTML(elem_classes="ab-note")
        with gr.Column(visible=False) as self.body:
            with gr.Row(elem_classes="ab-across"):
                self.other = gr.Dropdown(
                    [], label=t("Compare with"), interactive=True, elem_id="ab-other", min_width=240
                )
                self.go = gr.Button(
                    t("Compare"), variant="primary", scale=0, min_width=140, elem_id="ab-compare"
                )
            self.message = gr.HTML(elem_id="ab-comparison")
            with gr.Column(visible=False) as self.result:
                self.tables = gr.HTML()
                gr.HTML(heading(t("Answers that changed")))
                self.browser = ItemBrowser(
                    lambda pair: shared_items(*map(Study.open, pair)) if pair else None,
                    "ab-across-items",
                )

    def sections(self) -> list[LiveRegion]:
        """The regions that are redrawn when the study or the list of studies changes."""
        return [
            LiveRegion(
                "across",
                [self.note, self.body, self.other],
                lambda view: (
                    f"{view.name}:{stamp(sorted(studies_folder().glob('[!.]*/evals/status.json')))}"
                ),
                self._draw,
            ),
            LiveRegion(
                "across-result",
                [self.pair, self.message, self.result],
                lambda view: view.stamp("evals/status.json"),
                lambda view: [None, "", gr.update(visible=False)],
            ),
        ]

    def _draw(self, view: StudyView) -> Sequence[Any]:
        hidden = [gr.update(visible=False), gr.update(choices=[], value=None)]
        if view.study is None:
            return [gr.update(value=empty(t("No project chosen"), t(EMPTY)), visible=True), *hidden]
        if view.study.step("evaluate").state != "succeeded":
            message = empty(
                t("Not evaluated yet"),
                t("A project can be compared with another one after its evaluation."),
            )
            return [gr.update(value=message, visible=True), *hidden]
        name, found, parent = (
            view.study.name,
            comparable_studies(view.study),
            parent_study(view.study),
        )
        others = {other: items for other, items in found.items() if items > 1}
        note = (
            excluded_note(list(found.keys() - others))
            if others
            else no_comparison_note(name, list(found))
        )
        titles = [
            (
                "  ·  ".join(
                    filter(
                        None,
                        (
                            title_of_study(other),
                            tn("{count} shared item", "{count} shared items", items),
                            t("the original") if other == parent else "",
                        ),
                    )
                ),
                other,
            )
            for other, items in others.items()
        ]
        return [
            gr.update(value=note, visible=bool(note)),
            gr.update(visible=bool(others)),
            gr.update(choices=titles, value=next(iter(others), None)),
        ]

    def wire(self, picker: gr.Dropdown) -> None:
        """Connect the components; ``picker`` holds the name of the chosen study."""
        self.go.click(
            self._compare,
            [picker, self.other],
            [
                self.pair,
                self.message,
                self.result,
                self.tables,
                *self.browser.outputs,
                self.go,
            ],
            **QUIET,
        )
        self.browser.wire(self.pair)

    def _compare(self, name: str | None, other: str | None) -> Iterator[list[Any]]:
        from evals.study_compare import compare_studies

        rest = [gr.skip()] * (1 + len(self.browser.outputs))
        hidden = gr.update(visible=False)
        if not name or not other:
            yield [
                None,
                callout("warn", t("Choose a project to compare with")),
                hidden,
                *rest,
                gr.skip(),
            ]
            return
        comparing = t(
            "Comparing {name} with {other}…", name=title_of_study(name), other=title_of_study(other)
        )
        yield [gr.skip(), callout("info", comparing), hidden, *rest, gr.update(interactive=False)]
        try:
            a, b = Study.open(other), Study.open(name)
            record, items = compare_studies(a, b), shared_items(a, b)
        except AssistantBuilderError as error:
            yield [
                None,
                error_callout(error.to_record()),
                hidden,
                *rest,
                gr.update(interactive=True),
            ]
            return
        yield [
            (other, name),
            comparison_view(record),
            gr.update(visible=True),
            comparison_tables(record),
            *self.browser.open_values(items, "different"),
            gr.update(interactive=True),
        ]
