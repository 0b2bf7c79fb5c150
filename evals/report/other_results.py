"""Results in addition to the held-out scores: the preference of a judge, blind votes, and the untuned baselines."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from scipy.optimize import brentq
from typing_extensions import TypedDict

from assistant_builder.arms import ARMS, LORA, QLORA
from assistant_builder.atomic_io import read_json, read_jsonl
from assistant_builder.chat.feedback import (
    counted_votes,
    log_evidence,
    model_of,
    read_votes,
    tally,
    tally_message,
)
from assistant_builder.i18n import Message, Text, joined, m, mn
from assistant_builder.study import Study
from assistant_builder.study.contents import Entries
from evals.judge.pairwise import JudgeLine, preference
from evals.metrics import metric_of
from evals.report.contrasts import (
    clearly_better,
    clearly_worse,
    clusters_of,
)
from evals.report.load import BASELINE, Cell
from evals.report.number_format import SIGNIFICANT, enumerated, share_of, shown, value_of
from evals.report.schema import Report


class _JudgeFile(TypedDict):
    model: str
    items: int
    failures: int
    disagreements: int


def judged(study: Study, cells: Mapping[str, Cell]) -> dict[str, Any] | None:
    """``evals/judge.json`` with the preference for QLoRA, its interval and its test; ``None`` without a judge."""
    path, config = study.evals_folder / "judge.json", study.config.eval
    if not study.config.compares or not config.judge_url or not path.exists():
        return None
    items = cells[BASELINE].by_item
    lines = [
        line
        for line in read_jsonl(path.with_suffix(".jsonl"), JudgeLine)
        if str(line["item"]) in items
    ]
    clusters = clusters_of([items[str(line["item"])] for line in lines])
    found = preference([line["outcome"] for line in lines], clusters=clusters, seed=config.seed)
    record = {**read_json(path, _JudgeFile), **found}
    return {**record, "sentence": _judged_sentence(record)}


def _judged_sentence(record: Mapping[str, Any]) -> Message:
    items = mn("{count} item", "{count} items", record["items"])
    if record["preference"] is None:
        return m(
            "The judge {model} gave no usable verdict on {items}.",
            model=record["model"],
            items=items,
        )
    sentences = [
        m(
            "The judge {model} saw {items} in both orders. It preferred QLoRA on {wins:,} and 16-bit LoRA on "
            "{losses:,}, and neither on {ties:,} (on {disagreements:,} of these the two orders disagreed).",
            **{key: record[key] for key in ("model", "wins", "losses", "ties", "disagreements")},
            items=mn("{count} item", "{count} items", record["n"]),
        )
    ]
    if record["failures"]:
        sentences.append(
            mn(
                "{count} failed item is not counted.",
                "{count} failed items are not counted.",
                record["failures"],
            )
        )
    share = share_of(record["preference"])
    if record["ci"] is None:
        sentences.append(
            m("With ties counted as half, QLoRA is preferred on {share}.", share=share)
        )
        return joined(sentences)
    low, high = record["ci"]
    values = {"share": share, "low": share_of(low), "high": share_of(high)}
    if low <= 0.5 <= high or record["p_value"] > SIGNIFICANT:
        last = m(
            "With ties counted as half, QLoRA is preferred on {share} (95% interval {low} to {high}): no clear "
            "preference.",
            **values,
        )
    elif low > 0.5:
        last = m(
            "With ties counted as half, QLoRA is preferred on {share} (95% interval {low} to {high}): a clear "
            "preference for QLoRA.",
            **values,
        )
    else:
        last = m(
            "With ties counted as half, QLoRA is preferred on {share} (95% interval {low} to {high}): a clear "
            "preference for 16-bit LoRA.",
            **values,
        )
    return joined([*sentences, last])


def votes(study: Study) -> dict[str, Any] | None:
    """Totals of ``votes.jsonl`` with QLoRA's share of the decided votes and its interval; ``None`` without votes.

    The interval and the p-value hold after each vote, however many times they were looked at before. Ties and "both
    bad" express no preference; they are counted separately.
    """
    if not study.config.compares:
        return None
    found = tally(study)
    if not found.counted:
        return None
    kept = counted_votes(read_votes(study), model_of(study))
    decided = found.candidate + found.baseline
    share = found.candidate / decided if decided else None
    ci = None if share is None else _anytime_interval(found.candidate, found.baseline)
    sentence = m("In blind votes on answers in the chat: {tally}", tally=tally_message(found))
    if share is not None and ci is not None:
        preferred = m(
            "{assistant} has {share} of the votes that prefer one (95% interval {low} to {high}, which holds after "
            "each vote).",
            assistant=Message(QLORA.plain),
            share=share_of(share),
            low=share_of(ci[0]),
            high=share_of(ci[1]),
        )
        sentence = joined([sentence, preferred])
    return {
        "votes": found.counted,
        QLORA.name: found.candidate,
        LORA.name: found.baseline,
        "ties": found.ties,
        "both_bad": found.both_bad,
        "outdated": found.outdated,
        "repeated": found.repeated,
        "questions": len({vote.question for vote in kept}),
        "share": share,
        "ci": ci,
        "p_value": found.p_value,
        "first": min(vote.time for vote in kept),
        "last": max(vote.time for vote in kept),
        "left": sum(vote.vote == "a" for vote in kept),
        "sentence": sentence,
    }


def _anytime_interval(wins: int, losses: int) -> list[float]:
    """The 95 % confidence sequence of a share: the shares whose e-value is at most 1 / 0.05."""

    def excess(share: float) -> float:
        return log_evidence(wins, losses, share) - math.log(20)

    tiny = 1e-12
    share = min(max(wins / (wins + losses), tiny), 1 - tiny)
    return [
        float(brentq(excess, tiny, share)) if wins else 0.0,
        float(brentq(excess, share, 1 - tiny)) if losses else 1.0,
    ]


def report_lacks_votes(study: Study) -> bool:
    """Whether the study has a report with another number of votes than there are now.

    Counts are compared rather than file times, because a clock that was set back would make new votes look old.
    """
    path = study.folder / "report.json"
    if not path.is_file() or not study.config.compares:
        return False
    votes = Report.load(path).votes
    return tally(study).counted != (votes.votes if votes else 0)


NAMES = {
    "copy": m("copying the answer of the nearest training question"),
    "retrieval": m("the untuned base model with three retrieved pairs"),
}


def beats_untuned(
    rows: Sequence[Mapping[str, Any]], figures: Mapping[str, Entries]
) -> list[dict[str, Any]]:
    """Each arm against each baseline: the metrics ``beaten``, ``worse`` and ``not_beaten``, with a sentence.

    A difference counts if its interval excludes zero and the Holm-adjusted p is at most 0.05.
    """
    found = []
    for baseline in NAMES:
        for arm in ARMS.values():
            family = [
                row
                for row in rows
                if row["name"] == f"{arm.cell}-{baseline}"
                and metric_of(row["metric"]).can_be_primary
            ]
            if family:
                clear = [row for row in family if row["p_value_holm"] <= SIGNIFICANT]
                beaten = [row["metric"] for row in clear if clearly_better(row)]
                worse = [row["metric"] for row in clear if clearly_worse(row)]
                record = {
                    "arm": arm.name,
                    "cell": arm.cell,
                    "baseline": baseline,
                    "beaten": beaten,
                    "not_beaten": [
                        row["metric"] for row in family if row["metric"] not in (*beaten, *worse)
                    ],
                    "worse": worse,
                }
                found.append({**record, "sentence": _baseline_sentence(record, figures)})
    return found


def shortfall_summary(record: Entries, figures: Mapping[str, Entries]) -> Message:
    """The number of metrics on which a tuned arm does not beat an untuned baseline, with one example."""
    worse, open = len(record["worse"]), len(record["not_beaten"])
    example = _listed([*record["worse"], *record["not_beaten"]][:1], record, figures)
    values = {
        "arm": ARMS[record["arm"]].short,
        "worse": worse,
        "open": open,
        "total": worse + open + len(record["beaten"]),
        "example": example,
    }
    if worse and open:
        return m(
            "{arm} is worse on {worse} of {total} metrics and not clearly better on {open} of {total} metrics, for "
            "example in {example}",
            **values,
        )
    if worse:
        return m("{arm} is worse on {worse} of {total} metrics, for example in {example}", **values)
    return m(
        "{arm} is not clearly better on {open} of {total} metrics, for example in {example}",
        **values,
    )


def _baseline_sentence(record: Entries, figures: Mapping[str, Entries]) -> Message:
    listed = {
        key: _listed(record[key], record, figures) if record[key] else ""
        for key in ("beaten", "worse", "not_beaten")
    }
    values = {"rival": NAMES[record["baseline"]], "arm": ARMS[record["arm"]].short, **listed}
    if not (record["worse"] or record["not_beaten"]):
        return m("{arm} clearly beats {rival} in {beaten}.", **values)
    if record["worse"] and record["not_beaten"]:
        found = m(
            "Against {rival}, {arm} is worse in {worse} and not clearly better in {not_beaten}.",
            **values,
        )
    elif record["worse"]:
        found = m("Against {rival}, {arm} is worse in {worse}.", **values)
    else:
        found = m("Against {rival}, {arm} is not clearly better in {not_beaten}.", **values)
    better = m("It is clearly better in {beaten}.", **values) if record["beaten"] else ""
    return joined([found, better])


def _listed(metrics: Sequence[str], record: Entries, figures: Mapping[str, Entries]) -> Text:
    cell, baseline = (figures[record[key]]["metrics"] for key in ("cell", "baseline"))
    return enumerated(
        [
            m(
                "{metric} ({value} against {other})",
                metric=Message(shown(metric).phrase),
                value=value_of(cell[metric], metric),
                other=value_of(baseline[metric], metric),
            )
            for metric in metrics
        ]
    )
