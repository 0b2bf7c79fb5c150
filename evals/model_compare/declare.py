"""What is fixed before the first answer: questions, models, prompts, sampling, metrics and margins, with a hash."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any, cast

from typing_extensions import TypedDict

from assistant_builder import __version__
from assistant_builder.config import StudyConfig
from assistant_builder.data import Pair
from assistant_builder.errors import ConfigError
from assistant_builder.i18n import Message, m
from evals.declaration import (
    LOSS,
    OVERLAP,
    WITHOUT_GAIN,
    Declaration,
    HeldOut,
    declare,
    json_hash,
    note_use,
)
from evals.metrics import metric_of
from evals.model_compare.candidates import Candidate, Item, Prompts
from evals.stats.intervals import look_level

_BYTES_A_TOKEN = 3  # fewer than in any usual tokenizer, so that no reference answer is cut
_PACKAGES = ("numpy", "scipy", "torch", "transformers", "xllamacpp")
_EXCERPT = 60
SETTINGS = "eval."


class _CandidateRecord(TypedDict):
    letter: str
    name: str
    kind: str
    gives_loss: bool


class _Sampling(TypedDict):
    max_tokens: int


class Record(TypedDict):
    """Content of ``judgement.json``."""

    name: str
    inputs: dict[str, Any]
    candidates: list[_CandidateRecord]
    prompts: list[dict[str, Any]]
    sampling: _Sampling
    declared: dict[str, Any]
    level: float
    rests_on_answers: bool
    provenance: dict[str, Any]
    written: str
    sha256: str


def declaration_hash(record: Mapping[str, Any]) -> str:
    """The hash of a declaration, without the excerpts of prompts, which a bundle may have to leave out."""
    return json_hash(
        {key: value for key, value in record.items() if key not in ("sha256", "prompts")}
    )


def settings_of(changes: Mapping[str, Any]) -> StudyConfig:
    """The settings of a comparison, which are those of an evaluation.

    Raises:
        ConfigError: One is unknown, out of bounds, or not about an evaluation.
    """
    other = [key for key in changes if not key.startswith(SETTINGS)]
    if other:
        raise ConfigError(
            m("{key} is no setting of a comparison of models", key=other[0]),
            where="--set",
            remedy=m("Settings that begin with eval. apply, for example eval.margin=0.05"),
        )
    return StudyConfig().with_changes(dict(changes))


def answer_limit(config: StudyConfig, items: Sequence[Item]) -> int:
    """Most tokens of an answer, which no candidate's tokenizer decides."""
    longest = max(len(item["reference"].encode("utf-8")) for item in items)
    return config.eval.answer_limit(-(-longest // _BYTES_A_TOKEN))


def inputs_of(
    questions: Path, items: Sequence[Item], candidates: Sequence[Candidate], config: StudyConfig
) -> dict[str, Any]:
    """What a judgement depends on; another one of the same inputs continues it."""
    return {
        "code": __version__,
        "questions": {
            "file": questions.name,
            "items": len(items),
            "sha256": json_hash(list(items)),
        },
        "candidates": [
            {"letter": each.letter, "given": each.given, "kind": each.kind, **each.identity()}
            for each in candidates
        ],
        "eval": config.eval.model_dump(mode="json"),
    }


def prompt_differences(
    candidates: Sequence[Candidate], items: Sequence[Item]
) -> list[dict[str, Any]]:
    """How the prompts of local candidates differ from those of the first local one, before anything is scored.

    Returns:
        ``a``, ``b`` (letters), ``items`` (how many have other prompts), ``what`` (``chat template`` or ``tokenizer``)
        and the first difference: ``item``, ``a_text``, ``b_text``.
    """
    made = [(each.letter, prompts) for each in candidates if (prompts := each.prompts(items))]
    if len(made) < 2:
        return []
    (first, own), *others = made
    return [
        found
        for letter, prompts in others
        if (found := _difference(first, own, letter, prompts)) is not None
    ]


def _difference(a: str, own: Prompts, b: str, other: Prompts) -> dict[str, Any] | None:
    unlike = [name for name in own.ids if list(own.ids[name]) != list(other.ids[name])]
    if not unlike:
        return None
    template = [name for name in unlike if own.texts[name] != other.texts[name]]
    name = (template or unlike)[0]
    one, two = own.texts[name], other.texts[name]
    place = next(
        (place for place, (x, y) in enumerate(zip(one, two, strict=False)) if x != y),
        min(len(one), len(two)),
    )
    return {
        "a": a,
        "b": b,
        "items": len(unlike),
        "what": "chat template" if template else "tokenizer",
        "item": name,
        "a_text": one[place : place + _EXCERPT],
        "b_text": two[place : place + _EXCERPT],
    }


def difference_text(found: Mapping[str, Any]) -> Message:
    """A difference of prompts in a sentence."""
    values = {key: found[key] for key in ("a", "b", "items", "item")}
    if found["what"] == "tokenizer":
        return m(
            "The tokenizers of {a} and {b} differ on {items} questions, first on item {item}: they read other tokens "
            "of the same prompt.",
            **values,
        )
    return m(
        "The chat templates of {a} and {b} differ on {items} questions, first on item {item}: {a} has {one!r} where "
        "{b} has {two!r}. A file with a wrong template answers worse.",
        **values,
        one=found["a_text"],
        two=found["b_text"],
    )


def freeze(
    name: str,
    pairs: Sequence[Pair],
    candidates: Sequence[Candidate],
    config: StudyConfig,
    inputs: dict[str, Any],
    prompts: list[dict[str, Any]],
    sampling: dict[str, Any],
) -> Record:
    """Declare metrics, margins and level, and note the use of the questions."""
    heldout = HeldOut.of(pairs, ())
    models = {
        each["letter"]: str(each.get("sha256") or each.get("url")) for each in inputs["candidates"]
    }
    _, look = note_use(heldout, f"judge {name}", models)
    loss = all(each.gives_loss for each in candidates)
    declared = declared_for(pairs, config, look, loss=loss)
    declared = replace(declared, cells=tuple(each.letter for each in candidates))
    record: dict[str, Any] = {
        "name": name,
        "inputs": inputs,
        "candidates": [
            {
                "letter": each.letter,
                "name": each.name,
                "kind": each.kind,
                "gives_loss": each.gives_loss,
                **found,
            }
            for each, found in zip(candidates, inputs["candidates"], strict=True)
        ],
        "prompts": prompts,
        "sampling": sampling,
        "declared": declared.to_record(),
        # the comparisons with one reference share the error of a look
        "level": 1 - (1 - look_level(look)) / (len(candidates) - 1),
        "rests_on_answers": not loss,
        "provenance": provenance(),
        "written": datetime.now(UTC).isoformat(timespec="milliseconds"),
    }
    record["sha256"] = declaration_hash(record)
    return cast(Record, record)


def declared_for(
    pairs: Sequence[Pair], config: StudyConfig, look: int, *, loss: bool
) -> Declaration:
    """The declaration of a study for questions without training data; ``loss``: whether every candidate gives it.

    The claim is about other questions of the same kind. The margin of the loss is 0.03 nats a token unless one is set,
    because nothing was tuned whose gain would set it.

    Raises:
        ConfigError: The primary metric is the loss, and a candidate does not give it.
    """
    declared = declare(config, HeldOut.of(pairs, ()), pairs, look)
    chosen = config.eval
    if loss:
        margins: dict[str, Any] = {
            "margin": WITHOUT_GAIN if declared.margin is None else declared.margin,
            "second_margin": WITHOUT_GAIN
            if declared.second_margin is None
            else declared.second_margin,
        }
        return replace(declared, arms=(), formats=None, seeds=None, **margins)
    primary = declared.primary_metric
    if primary == LOSS:
        if chosen.primary_metric == LOSS:
            raise ConfigError(
                m("the primary metric is the loss, which not every candidate gives"),
                where="eval.primary_metric",
                remedy=m("Endpoints and logs give answers alone: choose token_f1 or exact_match"),
            )
        primary = OVERLAP
    switched = primary != declared.primary_metric or declared.margin is None
    margin = metric_of(primary).default_margin if switched else declared.margin
    second = (
        metric_of(OVERLAP).default_margin
        if chosen.second_margin is None
        else (chosen.second_margin)
    )
    return replace(
        declared,
        arms=(),
        formats=None,
        seeds=None,
        primary_metric=primary,
        margin=margin,
        second_metric=OVERLAP,  # in place of the loss
        second_margin=margin if primary == OVERLAP else second,
    )


def provenance() -> dict[str, Any]:
    """Versions and machine."""
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = installed_version(package)
        except ImportError:
            found[package] = "not installed"
    return {
        "assistant_builder": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": found,
    }
