"""Effects of several studies, pooled by storage, approach and metric.

A group has one storage, one approach and one metric; its studies must have different held-out questions, because
effects on the same questions are not independent.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from assistant_builder.errors import EvaluationError
from assistant_builder.i18n import m
from evals.atlas.declared import is_declared, read_atlas
from evals.atlas.effects import Effect, effects_of
from evals.declaration import LOSS
from evals.stats.meta_analysis import leave_one_out, pool, slope

LEAST = 2
"""Studies from which a group is pooled."""
MODERATORS = {
    "answer_words": "words of an answer",
    "pairs": "training pairs, per factor of 10",
}


def atlas(names: Sequence[str]) -> dict[str, Any]:
    """Pool the effects of studies, bundles and atlas files.

    Returns:
        ``notes`` of atlas files, ``missing`` (their studies without a cell), and ``groups`` by storage, approach and
        metric, the largest first: ``studies`` (their effects), ``pooled`` (None with one study), ``relative`` (the same
        in per cent of the 16-bit figures), ``moderators`` (the change of the harm per unit), and ``without`` (the mean
        and interval without each study).

    Raises:
        EvaluationError: As of :func:`effects_of`, or two have the same held-out questions.
    """
    groups: dict[tuple[str, str, str], list[Effect]] = defaultdict(list)
    notes, missing, effects = list[str](), list[str](), list[Effect]()
    for name in dict.fromkeys(names):
        if not is_declared(name):
            effects += effects_of(name)
            continue
        declared = read_atlas(Path(name))
        notes += [declared.note] if declared.note else []
        missing += [each.config.name for each in declared.missing]
        for each in declared.studies:
            effects += each.effects()
    for effect in effects:
        groups[effect.storage, effect.approach, effect.metric].append(effect)
    records = []
    for (storage, approach, metric), chosen in groups.items():
        _require_independent(chosen)
        records.append(
            {
                "storage": storage,
                "approach": approach,
                "metric": metric,
                "unit": "nats per token" if metric == LOSS else "points",
                "studies": [asdict(effect) for effect in chosen],
                **_pooled(chosen),
            }
        )
    ordered = sorted(records, key=lambda group: -len(group["studies"]))
    return {"notes": notes, "missing": missing, "groups": ordered}


def _require_independent(effects: Sequence[Effect]) -> None:
    seen: dict[str, str] = {}
    for effect in effects:
        if (other := seen.get(effect.heldout)) is not None:
            raise EvaluationError(
                m(
                    "{study} and {other} have the same test questions, so their effects are not independent",
                    study=effect.study,
                    other=other,
                ),
                where="atlas",
                remedy=m("Name one of them"),
            )
        seen[effect.heldout] = effect.study


def _pooled(effects: Sequence[Effect]) -> dict[str, Any]:
    if len(effects) < LEAST:
        return {"pooled": None, "relative": None, "moderators": {}, "without": []}
    harms, errors = [each.harm for each in effects], [each.standard_error for each in effects]
    without = leave_one_out(harms, errors) if len(effects) > LEAST else []
    return {
        "pooled": asdict(pool(harms, errors)),
        "relative": _relative(effects),
        "moderators": {
            name: asdict(found)
            for name in MODERATORS
            if (found := _moderated(effects, name)) is not None
        },
        "without": [
            {"study": effect.study, "mean": found.mean, "ci": list(found.ci)}
            for effect, found in zip(effects, without, strict=False)
        ],
    }


def _relative(effects: Sequence[Effect]) -> dict[str, Any] | None:
    """The harms in per cent of the 16-bit figures, pooled; None if one of these is unknown or 0."""
    if not all(each.reference for each in effects):
        return None
    factors = [100 / abs(each.reference or 0.0) for each in effects]
    harms = [factor * each.harm for factor, each in zip(factors, effects, strict=True)]
    errors = [factor * each.standard_error for factor, each in zip(factors, effects, strict=True)]
    return asdict(pool(harms, errors))


def _moderated(effects: Sequence[Effect], name: str) -> Any:
    known = [each for each in effects if getattr(each, name)]
    values = [float(getattr(each, name)) for each in known]
    if name == "pairs":
        values = [math.log10(value) for value in values]
    return slope([each.harm for each in known], [each.standard_error for each in known], values)
