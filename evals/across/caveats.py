"""What a careful reader must know before believing a comparison of two studies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from assistant_builder.study import Study
from evals.across.matching import Matching, trained_on
from evals.across.wording import metric_shown
from evals.report.reading import Cell
from evals.report.wording import plain, plural

_MAKING = ("data.", "model.", "train.")
_FOLLOWING = {"train data, SHA-256": "data.", "base model, SHA-256": "model."}
"""What differs as a consequence of settings, and is told only where no such setting differs."""
_SCORING = ("eval.max_new_tokens", "arithmetic of scoring")


def warnings(
    record: Mapping[str, Any], a: Study, b: Study, cells: tuple[Cell, Cell], matching: Matching
) -> list[str]:
    """One sentence each, what bears on the verdict first.

    Args:
        record: The comparison so far.
        a: The baseline.
        b: The candidate.
        cells: A scored cell of each.
        matching: Their items.
    """
    return [
        *_about_statistics(record), *_about_leaks(a, b, cells, matching), *_about_the_metric(record, a, b),
        *_about_items(record, matching), *_about_training(record, a, b),
    ]


def _about_statistics(record: Mapping[str, Any]) -> Iterator[str]:
    cells: dict[str, list[str]] = {}
    for verdict in record["verdicts"]:
        for text in verdict["warnings"]:
            cells.setdefault(f"{metric_shown(verdict['metric']).label}: {text}", []).append(verdict["cell"])
    yield from (f"{' and '.join(names)}, {text}" for text, names in cells.items())


def _about_leaks(a: Study, b: Study, cells: tuple[Cell, Cell], matching: Matching) -> Iterator[str]:
    for study, other, cell, side in ((a, b, cells[0], 0), (b, a, cells[1], 1)):
        if study.folder == other.folder:
            continue
        found = trained_on(study, cell, other)
        if found is None:
            yield f"Whether {other.name} was trained on held-out items of {study.name} is not on record"
            continue
        compared = len(found & {pair[side] for pair in matching.shared})
        if compared:
            yield (f"{plural(compared, 'item')} of {study.name} compared here also "
                   f"{'stands' if compared == 1 else 'stand'} in the training or validation split of {other.name}, "
                   "which flatters its scores: a leak across the studies")
        if len(found) > compared:
            more = len(found) - compared
            yield (f"{plural(more, 'held-out item')} of {study.name} {'stands' if more == 1 else 'stand'} in the "
                   f"training or validation split of {other.name}; not held out there, so not compared here")


def _about_the_metric(record: Mapping[str, Any], a: Study, b: Study) -> Iterator[str]:
    if record["loss"] != "nll_per_token":
        yield ("The two studies split the same references into different tokens, so their losses per token are not "
               "comparable: the loss is given in nats per UTF-8 byte of the reference instead"
               + (f", and the margin of {plain(a.config.eval.margin)} nats per token is converted at the bytes that a "
                  f"token of {a.name} has here" if a.config.eval.primary_metric == "nll_per_token" else ""))
    ours, theirs = ((study.config.eval.primary_metric, study.config.eval.margin) for study in (a, b))
    if ours != theirs:
        yield (f"{b.name} was set up to be judged on {metric_shown(theirs[0]).phrase} with a margin of "
               f"{plain(theirs[1])}; the verdicts go by {a.name}: {metric_shown(ours[0]).phrase}, margin "
               f"{plain(ours[1])}")
    if not set(a.config.arms) & set(b.config.arms):
        yield (f"{a.name} trains {a.config.arms[0]} alone and {b.name} {b.config.arms[0]} alone, so that there are no "
               "two assistants to compare: no verdict")
    elif not record["verdicts"]:
        yield f"{metric_shown(ours[0]).label}, which decides the verdict, was not scored in both studies: no verdict"


def _about_items(record: Mapping[str, Any], matching: Matching) -> Iterator[str]:
    if record["only_a"] or record["only_b"]:
        yield (f"Left out: {plural(record['only_a'], 'held-out item')} that only {record['a']} has and "
               f"{record['only_b']:,} that only {record['b']} has; the verdict speaks of the shared ones alone")
    if matching.other_system:
        were = "was" if matching.other_system == 1 else "were"
        yield f"{plural(matching.other_system, 'shared item')} {were} asked under different system prompts"


def _about_training(record: Mapping[str, Any], a: Study, b: Study) -> Iterator[str]:
    if a.folder == b.folder:
        yield "A and B are the same study"
        return
    if max(a.config.seeds, b.config.seeds) == 1:
        yield ("One training run on each side: the intervals are over items and leave out how much another training "
               "seed would move the scores")
    else:
        yield "Only the first training run of each study is compared; the other seeds are in its own report"
    changed = [row["setting"] for row in record["differences"]]
    made = [key for key in changed if key.startswith(_MAKING)]
    made += [key for key, cause in _FOLLOWING.items() if key in changed and not any(k.startswith(cause) for k in made)]
    if len(made) > 1:
        yield f"The studies differ in more than one thing ({', '.join(made)}), so no single one explains the result"
    scored = [key for key in changed if key in _SCORING]
    if scored:
        yield f"They were not scored alike ({', '.join(scored)}), which can move scores by itself"
