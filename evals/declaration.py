"""What a verdict is about, declared before scoring: metrics, margins, the claim, its clusters and its items.

``auto`` settings are resolved from the data alone, never from scores. The declaration is frozen with its hash in
``declaration.json`` when scoring starts. Verdicts and exit codes are by what was declared; a report shows which
settings were changed afterwards, and earlier declarations of the same test questions (:data:`DECLARED`).

A held-out item is *covered* if its fact was taught in another wording: a training pair has its cluster or, without a
cluster column, its answer, which has three words or more or is that of no other training pair.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_left
from collections import Counter
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from functools import cached_property
from statistics import median
from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict

from assistant_builder.atomic_io import append_jsonl, read_json, read_jsonl, write_json
from assistant_builder.config import StudyConfig
from assistant_builder.data import Pair, load_split
from assistant_builder.i18n import N_
from assistant_builder.study import Study, home
from assistant_builder.study.steps import arm_runs
from evals.metrics.text import normalise, words
from evals.stats.intervals import flip_interval, look_level
from evals.tasks.held_out import heldout_pairs

FILE = "declaration.json"  # file in the study folder; it is kept when scores are deleted
DECLARED = "declarations.jsonl"
"""File in the home folder: which test questions were scored, when, by which study, and with which adapters."""
LOSS, EXACT, OVERLAP, FACTS = "nll_per_token", "exact_match", "token_f1", "facts_kept"
FALSE_DECLINES, RIGHT_DECLINES = "false_decline", "right_decline"
ENOUGH_TO_DECLINE = 40
"""Fewest questions to decline from which the share of right declines is judged: 66 equal pairs give ±5.5."""
_MOST_TO_DECLINE = 10_000
_SHARED = 0.1
"""Share of the questions of the smaller of two tests from which the later one is a further look."""
SIMILAR_QUESTIONS = "similar_questions.json"
"""File in the folder of the scores: the group of similar questions of each item."""
_FACT_WORDS = 3
SHORT_ANSWER, LONG_ANSWER = 12, 30
"""Median words of an answer up to which exact match, and up to which token F1, is the primary metric."""
SHARE_OF_GAIN = 0.03
"""Margin of the loss, as a share of what tuning in 16-bit gained: the upper end of the usual claim, 1 to 3 %."""
WITHOUT_GAIN = 0.03  # margin of the loss in nats per token where the untuned base was not scored

Estimand = Literal["wordings", "facts"]
_LABELS: dict[Estimand, tuple[str, ...]] = {"wordings": (), "facts": ("group", "family", "cluster")}
"""Labels of the clusters of a claim. Facts are strata of a claim about new wordings of these facts: wordings are drawn
within them, so that the variance between facts is no part of the error. The items count as independent, which is never
too little (Cochran, Sampling Techniques, 1977, chapter 5)."""
LABEL_NAMES = {"cluster": N_("fact"), "answer": N_("shared answer")}
"""Labels whose names in sentences differ."""
CLAIMS: dict[str, str] = {
    "wordings": N_("new wordings of the facts that the test asks for"),
    "facts": N_("new facts of the same kind"),
    "respelled": N_("questions of training, respelled"),
}
"""What a verdict is about, by the claim (``estimand``); the last one is that of a test without other wordings."""
LABELS = ("cluster", "family", "group", "answer")
"""Labels of a held-out item; ``answer`` is its normalised reference answer, if it has three words or more."""


@dataclass(frozen=True)
class Declaration:
    """What is frozen before scoring.

    Attributes:
        primary_metric: The metric of the verdict.
        margin: Largest harm that counts as no worse; ``None`` for :data:`SHARE_OF_GAIN` of what tuning gained.
        second_metric: A metric of another kind, whose bound must hold too.
        second_margin: Its margin, as for ``margin``.
        decline_margin: Margin of the share of falsely declined questions.
        estimand: ``wordings`` (new wordings of facts that were taught) or ``facts`` (new facts of the same kind).
        clusters: Labels by which the items are clustered; of nested ones the coarser counts.
        other_clusters: Those of the other claim, which is reported beside the headline.
        items: Items of the headline: ``covered`` or ``all``, without those that should be declined.
        arms: Arms that are compared.
        cells: Cells that are scored, which include the formats of exports.
        right_decline_margin: Margin of the share of rightly declined questions; ``None`` if the test has fewer than
            :func:`enough_to_decline` of them, or in a declaration of an earlier version.
        seeds: Training seeds; ``None`` in a declaration of an earlier version, as the next ones.
        eval_seed: Seed of the bootstrap and the permutation tests.
        resamples: Number of resamples.
        formats: Types of the GGUF files that are scored, and ``all arms`` if those of every arm are.
        look: Number of the look: 1 + the earlier tests, scored on this computer, that share questions with this one.
        facts_margin: Margin of the share of facts kept; ``None`` if most references have none, if exact match is a
            bound, which counts each lost fact, or in a declaration of an earlier version.
    """

    primary_metric: str
    margin: float | None
    second_metric: str
    second_margin: float | None
    decline_margin: float
    estimand: Estimand
    clusters: tuple[str, ...]
    other_clusters: tuple[str, ...]
    items: Literal["covered", "all"]
    arms: tuple[str, ...]
    cells: tuple[str, ...]
    right_decline_margin: float | None = None
    facts_margin: float | None = None
    seeds: int | None = None
    eval_seed: int | None = None
    resamples: int | None = None
    formats: tuple[str, ...] | None = None
    look: int = 1

    @property
    def bounds(self) -> dict[str, float | None]:
        """The metrics whose bounds a "no worse" needs together → margin, the primary one first."""
        further = {RIGHT_DECLINES: self.right_decline_margin, FACTS: self.facts_margin}
        return {
            self.primary_metric: self.margin,
            self.second_metric: self.second_margin,
            FALSE_DECLINES: self.decline_margin,
            **{metric: margin for metric, margin in further.items() if margin is not None},
        }

    @property
    def sha256(self) -> str:
        """Hash of the canonical JSON of all fields."""
        return json_hash(self.to_record())

    def to_record(self) -> dict[str, Any]:
        """All fields as a JSON value."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
        }

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Declaration:
        """The inverse of :meth:`to_record`."""
        values: dict[str, Any] = {
            field.name: tuple(value) if isinstance(value, list) else value
            for field in fields(cls)
            if (value := record.get(field.name, field)) is not field
        }
        return cls(**values)


@dataclass(frozen=True)
class HeldOut:
    """The held-out pairs with what a declaration needs to know of them.

    Attributes:
        pairs: The pairs by row.
        covered: Rows whose fact was taught in another wording.
    """

    pairs: dict[int, Pair]
    covered: frozenset[int]

    @classmethod
    def of(cls, heldout: Sequence[Pair], training: Sequence[Pair]) -> HeldOut:
        """Find the covered pairs."""
        asked = [pair for pair in training if pair.answerable]
        taught = {
            (name, label)
            for pair in asked
            for name in ("cluster", "answer")
            if (label := _label(pair, name)) is not None
        }
        shared = Counter(normalise(pair.answer) for pair in asked)
        covered = frozenset(
            pair.row
            for pair in heldout
            if pair.answerable
            and (
                pair.respelled is not None
                or _fact(pair) in taught
                or pair.cluster is None
                and shared[normalise(pair.answer)] == 1
            )
        )
        return cls({pair.row: pair for pair in heldout}, covered)

    @classmethod
    def read(cls, study: Study) -> HeldOut:
        """Those of a study whose data steps are done.

        Raises:
            EvaluationError: No held-out pair is left.
        """
        return cls.of(heldout_pairs(study), load_split(study.folder / "data", "train"))

    def labels(self, names: Sequence[str], rows: Sequence[int]) -> dict[str, list[Hashable]]:
        """A label for each row, by the name of the label."""
        return {name: [self.label(row, name) for row in rows] for name in names}

    def label(self, row: int, name: str) -> str | None:
        """One label of a row; a report asks for each of them thousands of times."""
        key = row, name
        if key not in self._labels:
            self._labels[key] = _label(self.pairs[row], name)
        return self._labels[key]

    @cached_property
    def _labels(self) -> dict[tuple[int, str], str | None]:
        return {}


def _fact(pair: Pair) -> tuple[str, str | None]:
    """The label by which a held-out fact is looked up in training."""
    return ("answer", _label(pair, "answer")) if pair.cluster is None else ("cluster", pair.cluster)


def _label(pair: Pair, name: str) -> str | None:
    if name != "answer":
        return str(label) if (label := getattr(pair, name)) is not None else None
    answer = normalise(pair.answer)
    return answer if len(words(answer)) >= _FACT_WORDS else None


def enough_to_decline(margin: float, look: int) -> int:
    """Questions to decline from which assistants that decline the same ones are shown to be no worse."""
    counts, level = range(_MOST_TO_DECLINE), look_level(look)
    return bisect_left(
        counts,
        -margin,
        lo=ENOUGH_TO_DECLINE,
        key=lambda count: -flip_interval(0, 0, count, level)[1],
    )


def declare(
    config: StudyConfig, heldout: HeldOut, training: Sequence[Pair], look: int = 1
) -> Declaration:
    """Resolve the settings of the evaluation from the data.

    Args:
        config: The study's settings.
        heldout: The held-out pairs.
        training: The training pairs, whose answers decide on the metric.
        look: Number of the look at the questions.
    """
    chosen = config.eval
    fitting = metric_for_length(answer_words(training))
    primary = fitting if chosen.primary_metric == "auto" else chosen.primary_metric
    second = LOSS if primary != LOSS else EXACT if fitting == EXACT else OVERLAP
    asked = [pair for pair in heldout.pairs.values() if pair.answerable]
    covered = len(heldout.covered)
    estimand: Estimand = (
        chosen.estimand
        if chosen.estimand != "auto"
        else ("wordings" if 2 * covered >= max(len(asked), 1) else "facts")
    )
    other: Estimand = "facts" if estimand == "wordings" else "wordings"
    declines = enough_to_decline(chosen.right_decline_margin, look)
    return Declaration(
        primary_metric=primary,
        margin=chosen.margin if chosen.margin is not None else _margin(primary),
        second_metric=second,
        decline_margin=chosen.decline_margin,
        second_margin=chosen.second_margin if chosen.second_margin is not None else _margin(second),
        estimand=estimand,
        clusters=_clusters(estimand, asked),
        other_clusters=_clusters(other, asked),
        items="covered" if estimand == "wordings" and covered else "all",
        arms=tuple(config.arms),
        cells=tuple(config.cells),
        facts_margin=_facts_margin(asked, primary, second),
        right_decline_margin=chosen.right_decline_margin
        if (len(heldout.pairs) - len(asked) >= declines)
        else None,
        look=look,
        seeds=config.seeds,
        eval_seed=chosen.seed,
        resamples=chosen.bootstrap_resamples,
        formats=_files(config),
    )


def _files(config: StudyConfig) -> tuple[str, ...]:
    every = config.formats.types and config.formats.arms == "all"
    return (*config.formats.types, *(["all arms"] if every else []))


def answer_words(training: Sequence[Pair]) -> float:
    """Median words of the answers to answerable questions; 0 without any."""
    lengths = [
        len(words(message.content))
        for pair in training
        if pair.answerable
        for message in pair.messages
        if message.role == "assistant"
    ]
    return float(median(lengths)) if lengths else 0.0


def metric_for_length(length: float) -> str:
    """The primary metric for answers of a median length in words."""
    return EXACT if length <= SHORT_ANSWER else OVERLAP if length <= LONG_ANSWER else LOSS


def _margin(metric: str) -> float | None:
    from evals.metrics import metric_of

    return None if metric == LOSS else metric_of(metric).default_margin


def _facts_margin(pairs: Sequence[Pair], primary: str, second: str) -> float | None:
    from evals.metrics.fact_recall import facts_kept

    if {EXACT, FACTS} & {primary, second}:
        return None
    found = sum(facts_kept(pair.answer, pair.answer, pair.question) is not None for pair in pairs)
    return _margin(FACTS) if 2 * found > len(pairs) else None


def _clusters(estimand: Estimand, pairs: Sequence[Pair]) -> tuple[str, ...]:
    """The labels of a claim that the pairs have; for facts the shared answer where they have none."""
    present = tuple(
        name for name in _LABELS[estimand] if any(_label(pair, name) is not None for pair in pairs)
    )
    return present or (("answer",) if estimand == "facts" else ())


class _Declared(TypedDict):
    heldout_sha256: str
    study: str
    written: str
    questions: NotRequired[list[str]]
    adapters: NotRequired[dict[str, str]]
    formats: NotRequired[list[str]]


class _File(TypedDict):
    declared: dict[str, Any]
    sha256: str
    heldout_sha256: str
    written: NotRequired[str]


def freeze(study: Study) -> None:
    """Write the declaration, unless one was written for the same held-out pairs: scores may have been seen since.

    Each use of the test is a line of :data:`DECLARED`: the first one, and those with other adapters or types of files.
    """
    training, heldout = load_split(study.folder / "data", "train"), HeldOut.read(study)
    tests, written = _Uses(heldout), _now()
    record = _declared(study, tests)
    last = next((line for line in tests.same[::-1] if line["study"] == study.name), None)
    if record is None:
        declared = declare(study.config, heldout, training, tests.look(written))
        record = {
            "declared": declared.to_record(),
            "sha256": declared.sha256,
            "heldout_sha256": tests.hashes[0],
            "written": written,
        }
        write_json(study.folder / FILE, record)
        last = None
    line: _Declared = {
        "heldout_sha256": tests.hashes[0],
        "study": study.name,
        "written": written,
        "questions": sorted(tests.questions),
        "adapters": _adapters(study),
        "formats": sorted(_files(study.config)),
    }
    if last is None or _differs(last, line):
        append_jsonl(home() / DECLARED, line)


def note_use(heldout: HeldOut, user: str, models: Mapping[str, str]) -> tuple[str, int]:
    """Note a use of a test that belongs to no study, and return the hash of the test and the number of the look.

    Args:
        heldout: The pairs.
        user: Who uses it.
        models: Name of a model → hash of its weights, or its address.
    """
    tests, written = _Uses(heldout), _now()
    look = tests.look(written)
    line: _Declared = {
        "heldout_sha256": tests.hashes[0],
        "study": user,
        "written": written,
        "questions": sorted(tests.questions),
        "adapters": dict(models),
        "formats": [],
    }
    append_jsonl(home() / DECLARED, line)
    return tests.hashes[0], look


def frozen(study: Study, heldout: HeldOut) -> dict[str, Any] | None:
    """The content of ``declaration.json``, or ``None`` if scoring started before there was one, or on other pairs.

    Its ``sha256`` is ``None`` if the declaration was changed after it was written. ``earlier`` has the earlier uses of
    the same test questions on this computer: ``{"study", "written"}``; ``file_types`` the types of files that were
    scored on them, in the order of the choices.
    """
    tests = _Uses(heldout)
    record = _declared(study, tests)
    if record is None:
        return None
    own = [line for line in tests.same if line["study"] == study.name]
    present = own[-1] if own else {"study": study.name, "written": record.get("written", "")}
    chosen = [record["declared"].get("formats"), *(line.get("formats") for line in own)]
    return {
        **record,
        "sha256": record["sha256"] if record["sha256"] == json_hash(record["declared"]) else None,
        "earlier": [
            {"study": line["study"], "written": line["written"]}
            for line in tests.same
            if line is not present and line["written"] <= present["written"]
        ],
        "file_types": list(
            dict.fromkeys(tuple(sorted(types)) for types in chosen if types is not None)
        ),
    }


def uses(study: Study, names: Collection[str]) -> int:
    """How many times studies of these names were scored on the test of a study, up to its own last time."""
    lines = [line["study"] for line in _Uses(HeldOut.read(study)).same if line["study"] in names]
    return len(lines) - lines[::-1].index(study.name) if study.name in lines else 0


def look_at(study: Study, heldout: HeldOut) -> int:
    """The number of the look at the questions of a study whose declaration cannot tell it."""
    tests = _Uses(heldout)
    own = [line["written"] for line in tests.same if line["study"] == study.name]
    return tests.look(min(own, default=_now()))


class _Uses:
    """The declarations on this computer, and which of them are of the same test.

    Attributes:
        hashes: The hash of the test, and the one of earlier releases, in which the numbers of the rows counted.
        questions: A hash of each question that has an answer, with it.
        same: The declarations of the same test.
    """

    def __init__(self, heldout: HeldOut) -> None:
        pairs = heldout.pairs.values()
        texts = [[[message.role, message.content] for message in pair.messages] for pair in pairs]
        numbered = [[pair.row, text] for pair, text in zip(pairs, texts, strict=True)]
        self.hashes = json_hash(sorted([text] for text in texts)), json_hash(sorted(numbered))
        self.questions = {
            hashlib.sha256(
                f"{normalise(pair.question)}\0{normalise(pair.answer)}".encode()
            ).hexdigest()[:12]
            for pair in pairs
            if pair.answerable
        }
        path = home() / DECLARED
        self._lines: list[_Declared] = read_jsonl(path, _Declared) if path.is_file() else []
        self.same = [line for line in self._lines if line["heldout_sha256"] in self.hashes]

    def look(self, before: str) -> int:
        """The number of the look: 1 + the tests before a time that share questions with this one."""
        own = self.questions
        return 1 + len(
            {
                line["heldout_sha256"]
                for line in self._lines
                if line["heldout_sha256"] not in self.hashes
                and line["written"] < before
                and (other := line.get("questions"))
                and len(own.intersection(other)) >= _SHARED * min(len(own), len(other))
            }
        )


def _declared(study: Study, tests: _Uses) -> dict[str, Any] | None:
    path = study.folder / FILE
    record: dict[str, Any] | None = read_json(path, _File) if path.exists() else None
    return record if record and record["heldout_sha256"] in tests.hashes else None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def json_hash(value: Any) -> str:
    """SHA-256 of a JSON value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _differs(last: _Declared, line: _Declared) -> bool:
    known, now = last.get("adapters", {}), line.get("adapters", {})
    return last.get("formats", line.get("formats")) != line.get("formats") or any(
        known[run] != now[run] for run in known.keys() & now.keys()
    )


def _adapters(study: Study) -> dict[str, str]:
    return {
        view.arm_folder(run).name: str(view.arm_summary(run).get("adapter_sha256"))
        for view in study.views
        for run in arm_runs(view.config.seeds, view.config.arms)
        if (view.arm_folder(run) / "summary.json").is_file()
    }


def changes(frozen: Mapping[str, Any], now: Declaration) -> list[dict[str, Any]]:
    """What was changed after scoring had started: ``{"name", "was", "now"}``; ``frozen`` is the record of a file."""
    after = now.to_record()
    return [
        {"name": name, "was": was, "now": after[name]}
        for name, was in frozen.items()
        if was != after[name]
    ]
