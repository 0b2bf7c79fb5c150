"""Two studies against each other in words and tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from assistant_builder.ui.interval_figures import Panel, Row, contrast_row
from assistant_builder.ui.markup import Tone, callout, card, empty, items, join, table
from evals.across.wording import contrast_rows, difference_rows, metric_shown
from evals.report.background import CELL_TEXTS
from evals.report.sentences import harm_interval
from evals.report.wording import plural

Record = Mapping[str, Any]
JUDGED = ("Q4", "L16")


def comparison_view(record: Record) -> Markup:
    """The verdicts first, then what to keep in mind.

    Args:
        record: What ``evals.across.compare_studies`` returns.
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
        tone, f"{CELL_TEXTS[verdict['cell']].label}: {title}", verdict["sentence"])


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
    about = "" if row["higher_is_better"] else CELL_TEXTS[row["cell"]].label
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
