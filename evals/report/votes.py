"""What people preferred when they voted blind in the chat."""

from __future__ import annotations

from typing import Any

from assistant_builder.chat.votes import counting, model_of, read_votes, tally, tally_sentence
from assistant_builder.files import read_json
from assistant_builder.study import Study
from evals.report.wording import percent
from evals.significance import sign_test


def votes(study: Study) -> dict[str, Any] | None:
    """``votes.jsonl`` added up, with the share of QLoRA among the decided votes and its interval; ``None`` without any.

    The share is of votes that prefer one; ties and "both bad" say nothing about which is preferred and are counted
    beside it.
    """
    if not study.config.compares:
        return None
    found = tally(study)
    if not found.counted:
        return None
    kept = counting(read_votes(study), model_of(study))
    test = sign_test(found.qlora, found.lora, found.ties + found.both_bad)
    record = {
        "votes": found.counted, "qlora": found.qlora, "lora": found.lora, "ties": found.ties,
        "both_bad": found.both_bad, "outdated": found.outdated, "repeated": found.repeated,
        "questions": len({vote.question for vote in kept}), "share": test.share,
        "ci": None if test.share is None else [test.ci_low, test.ci_high], "p_value": test.p_value,
        "first": min(vote.time for vote in kept), "last": max(vote.time for vote in kept),
        "left": sum(vote.vote == "a" for vote in kept),
    }
    return {**record, "sentence": _sentence(record, tally_sentence(found))}


def report_lacks_votes(study: Study) -> bool:
    """Whether the study has a report that speaks of fewer votes, or of more, than there are now.

    They are counted: by the times of the files, a clock that was set back would make new votes look old.
    """
    path = study.folder / "report.json"
    if not path.is_file():
        return False
    if not study.config.compares:
        return False
    told = read_json(path).get("votes") or {}
    return bool(tally(study).counted != told.get("votes", 0))


def _sentence(record: dict[str, Any], counts: str) -> str:
    text = f"In blind votes on answers in the chat: {counts}"
    if record["share"] is None:
        return text
    low, high = record["ci"]
    return (f"{text} QLoRA has {percent(record['share'])} of the votes that prefer one (95% interval {percent(low)} to "
            f"{percent(high)}).")
