"""The typed ``report.json``: what pages, the command line, comparisons, exports and the Python API read.

Every entry has a default, so that reports of earlier releases open; entries that are not declared are kept. Rows that
a report can have thousands of are dictionaries, which are validated and not copied.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Len
from pydantic import BaseModel, ConfigDict, Field, WrapValidator
from typing_extensions import TypedDict

from assistant_builder.arms import ARMS, TWINS
from assistant_builder.atomic_io import read_json
from assistant_builder.i18n import Message, m, text_of, written
from assistant_builder.i18n import Text as Shown
from assistant_builder.runner.document_training import QuestionCounts
from assistant_builder.study.contents import (
    Figures,
    Leak,
    Number,
    RowNumbers,
    Source,
    Text,
    Units,
)

VERSION = 2
"""Of ``report.json``: 1 has the same entries, and no schema."""
SCHEMA = Path(__file__).with_name("report.schema.json")
Outcome = Literal["no worse", "worse", "inconclusive"]
Interval = Annotated[list[float], Len(2, 2)]


def _checked(value: Any, check: Callable[[Any], Any]) -> Any:
    check(value)
    return value


AsRead = WrapValidator(_checked)
"""Validates a value and keeps it as it is, without a copy."""
Said = dict[str, Any]
"""Name of a text, or of a list of texts, next to it → the records of its messages, for readers in other languages."""


def in_files(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record with its messages, and those of the records in it, in English, and their records under ``said``."""
    texts: dict[str, Any] = {}
    said: Said = {}
    for name, value in record.items():
        texts[name] = _in_files(value)
        if isinstance(value, Message):
            said[name] = value.to_record()
        elif isinstance(value, list) and any(isinstance(each, Message) for each in value):
            said[name] = [each.to_record() if isinstance(each, Message) else None for each in value]
    return texts | ({"said": {**texts.get("said", {}), **said}} if said else {})


def _in_files(value: Any) -> Any:
    if isinstance(value, Message):
        return written(value)[0]
    if isinstance(value, dict):
        return in_files(value)
    return [_in_files(each) for each in value] if isinstance(value, list) else value


class Record(BaseModel):
    """An object of a report."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())
    said: Said = {}

    # entries by name, as of the dictionary that it was read from, for readers without attributes

    def __getitem__(self, name: str, /) -> Any:
        try:
            return getattr(self, name)
        except AttributeError:
            raise KeyError(name) from None

    def __contains__(self, name: object, /) -> bool:
        return name in self.model_fields_set

    def get(self, name: str, default: Any = None, /) -> Any:
        """An entry, or the default if the file does not have it."""
        return getattr(self, name) if name in self else default

    def message(self, name: str) -> Shown:
        """A text as a message in the language of the reader; as it is in files of releases without messages."""
        said = self.get("said")
        return text_of(said.get(name) if isinstance(said, dict) else None, self[name])

    def messages(self, name: str) -> list[Shown]:
        """The texts of a list as messages, as :meth:`message`."""
        said, texts = self.get("said"), self[name]
        records = said.get(name) if isinstance(said, dict) else None
        if not isinstance(records, list) or len(records) != len(texts):
            records = [None] * len(texts)
        return [text_of(each, text) for each, text in zip(records, texts, strict=True)]

    def keys(self) -> list[str]:
        """Names of the entries that the file has."""
        return [name for name, _ in self if name in self]


class _HasInterval(Record):
    """A paired difference, candidate minus baseline, in the units of its metric."""

    metric: str = ""
    higher_is_better: bool = True
    n: int = 0
    """Items."""


class Bound(_HasInterval):
    """A bound of a verdict: the harmful end of ``ci`` must be within ``margin``."""

    delta: float = 0.0
    ci: Interval = [0.0, 0.0]
    margin: float = 0.0
    passed: bool = False
    outcome: Outcome = "inconclusive"


class Change(Record):
    """A share or a difference with its interval, and what else was computed with it."""

    ci: Interval = [0.0, 0.0]


class ToDecline(Record):
    """The test questions that should be declined, and whether the verdict has a bound on them."""

    questions: int = 0
    needed: int | None = None
    judged: bool = False


class Frozen(Record):
    """What was declared before scoring, and what was changed since."""

    declared: dict[str, Any] = {}
    sha256: Text = None
    written: Text = None
    """UTC, ISO 8601."""
    earlier: list[dict[str, str]] | None = None
    changes: list[dict[str, Any]] | None = None


class Verdict(_HasInterval):
    """The verdict on 4-bit storage; without figures and with a ``reason`` if the study does not train both twins."""

    outcome: Outcome = "inconclusive"
    margin: float = 0.0
    delta: Number = None
    ci: Annotated[list[Number], Len(2, 2)] = [None, None]
    p_value: Number = None
    level: float = 0.95
    """Coverage of the intervals."""
    look: int = 1
    n_clusters: int | None = None
    contrast: Text = ""
    """``Q4-L16``; None without a comparison."""
    within_margin_but_worse: bool = False
    warnings: list[str] = []
    perplexity_change: Change | None = None
    bounds: list[Bound] = []
    """The primary metric first."""
    not_shown: list[str] = []
    to_decline: ToDecline | None = None
    possible_harm: list[str] | None = None
    estimand: str = ""
    clustered_by: list[str] = []
    uncovered: int = 0
    frozen: Frozen = Frozen()
    seeds: int = 1
    trained_again: Change | None = None
    action: str = ""
    reason: str = ""


class CellFigures(Record):
    """The figures of a cell or of an untuned baseline; ``nll_per_token`` in nats."""

    items: int = 0
    tokens: int = 0
    nll_per_token: Number = None
    perplexity: Number = None
    metrics: Figures = {}
    label: str = ""
    about: str = ""
    base: Text = None
    adapter: Text = None
    base_bytes: int | None = None
    compute_dtype: Text = None
    batch_size: int | None = None
    seconds: Figures = {}
    cut_answers: int | None = None


class Difference(_HasInterval):
    """A comparison of two cells on one metric, with its 95 % interval."""

    name: str = ""
    """``Q4-L16``."""
    baseline: str = ""
    candidate: str = ""
    meaning: str = ""
    delta: float = 0.0
    ci_low: float = 0.0
    ci_high: float = 0.0
    p_value: float = 1.0
    p_value_holm: float = 1.0
    n_clusters: int | None = None
    method: str = ""
    warnings: list[str] = []
    verdict: Outcome | None = None
    within_margin_but_worse: bool = False
    outcome: str = ""
    """Of a comparison between approaches."""
    lead: str = ""


class OtherClaim(Difference):
    """The difference with the clusters of the claim that is not the headline."""

    estimand: str = ""
    clustered_by: list[str] = []


class Resources(Record):
    """Memory in bytes, time in seconds and speed in tokens per second of an arm's training."""

    base_bytes: int | None = None
    adapter_bytes: int | None = None
    peak_memory_bytes: int | None = None
    train_seconds: Number = None
    train_seconds_all: list[Number] = []
    tokens_per_second: Number = None
    seconds_per_step: Number = None
    cost: Number = None
    """In the currency of ``eval.price_per_hour``."""
    cards: list[Text] = []
    devices: int | None = None
    gradient_checkpointing: bool | None = None
    trainable_parameters: int | None = None
    steps: int | None = None
    planned_steps: int | None = None
    """Those of all epochs if the training ended before, because its loss had reached the floor."""
    best_step: int | None = None
    best_validation_loss: Number = None
    predicted: dict[str, float | Figures | None] | None = None


class Twins(Record):
    """The resolved settings of both twins, compared."""

    matched: bool = False
    differences: list[dict[str, Any]] = []
    unintended: list[dict[str, Any]] = []
    same: dict[str, Any] = {}
    work: dict[str, dict[str, Any]] = {}


class ArmStorage(Record):
    """How an arm stored its base and computed."""

    base_storage: Text = None
    compute_dtype: Text = None
    device: Text = None


class Point(TypedDict, total=False):
    """A loss in nats per token after a step."""

    step: float
    loss: float


class Curve(Record):
    """Training and validation losses."""

    steps: Annotated[list[Point], AsRead] = []
    validation: Annotated[list[Point], AsRead] = []


if TYPE_CHECKING:
    _Scores = dict[str, Any]  # readers take those that there are
else:
    _Scores = Figures


class CopiedAnswer(TypedDict, total=False):
    """The copied answer to a held-out item, with its scores."""

    answer: Text
    declined: bool
    metrics: _Scores


class Item(TypedDict, total=False):
    """A held-out item with the answers and scores of all cells."""

    item: str
    row: int | None
    turn: int
    cluster: Text
    answerable: bool
    question: str
    context: list[Any]
    reference: Text
    change: Text
    answers: dict[str, Text]
    declined: dict[str, bool | None]
    tokens: int
    nll: _Scores
    metrics: dict[str, _Scores]
    sources: list[Source]
    copied: CopiedAnswer
    uncovered: bool


class FlippedItem(TypedDict, total=False):
    """An item that only one of the twins answers right."""

    item: str
    row: int | None
    question: str
    reference: Text
    answers: dict[str, Text]


class NoiseCell(Record):
    """A cell compared with itself, scored with another batch size."""

    batch_size: int | None = None
    other_batch_size: int | None = None
    lost: int = 0
    gained: int = 0
    text_differs: int = 0
    largest_nll_per_token_shift: Number = None
    items: int = 0


class NoiseFloor(Record):
    """What another scoring batch size changes."""

    cells: dict[str, NoiseCell] = {}
    delta: Number = None
    ci: list[Number] | None = None
    verdict: Outcome | None = None
    sentence: str = ""


class Flips(Record):
    """Answers that are right in one of the twins only."""

    metric: str = "exact_match"
    items: int = 0
    lost: Annotated[list[FlippedItem], AsRead] = []
    gained: Annotated[list[FlippedItem], AsRead] = []
    text_differs: int = 0
    noise_floor: NoiseFloor | None = None


class FidelityPair(Record):
    """KL divergence in nats between the predictions of two cells, token by token."""

    name: str = ""
    label: str = ""
    reference: str = ""
    candidate: str = ""
    tokens: int | None = None
    kl_mean: Number = None
    kl_median: Number = None
    kl_p99: Number = None
    kl_max: Number = None
    top1_agreement: Number = None
    delta_nll: Number = None


class Fidelity(Record):
    """How much the predictions changed."""

    pairs: list[FidelityPair] = []
    skipped: Text = None
    sentence: str = ""


class Task(Record):
    """An lm-eval task; one without figures has an ``error``."""

    label: str = ""
    about: str = ""
    metric: Text = None
    items: int = 0
    cells: Figures = {}
    contrasts: list[Difference] = []
    flips: dict[str, dict[str, list[Any]]] = {}
    """Name of a contrast → ids of the documents ``lost`` and ``gained``."""
    sentence: str = ""
    error: Text = None


class SeedRun(Record):
    """A training seed: the figure of each cell by its name, and the difference."""

    __pydantic_extra__: dict[str, Number] = Field(init=False)

    seed: int = 1
    training_seed: int = 0
    delta: Number = None
    ci: Interval | None = None
    verdict: Text = None
    twins: bool | None = None
    """Whether the settings of both arms match; None without both records."""


class Spread(Record):
    """Mean and standard deviation over the seeds; a difference has an interval, a cell has ends."""

    mean: float = 0.0
    sd: float = 0.0
    ci: Interval | None = None
    min: Number = None
    max: Number = None


class Seeds(Record):
    """The training seeds."""

    count: int = 1
    metric: str = ""
    runs: list[SeedRun] = []
    spread: dict[str, Spread | float] | None = None
    """Of each cell and of ``delta``; ``within_arm_sd`` is a number."""
    trained_again: Change | None = None
    sentence: str = ""


class Judge(Record):
    """The preference of a judge model."""

    model: str = ""
    url_host: str = ""
    items: int = 0
    wins: int = 0
    losses: int = 0
    ties: int = 0
    failures: int = 0
    disagreements: int = 0
    preference: Number = None
    """For QLoRA: a win counts 1, a tie ½."""
    ci: list[Number] | None = None
    p_value: Number = None
    first_preferred: Number = None
    seconds: Number = None
    sentence: str = ""


class Votes(Record):
    """Blind votes on answers in the chat."""

    votes: int = 0
    qlora: int = 0
    lora: int = 0
    ties: int = 0
    both_bad: int = 0
    outdated: int = 0
    repeated: int = 0
    questions: int = 0
    left: int = 0
    share: Number = None
    ci: list[Number] | None = None
    p_value: Number = None
    first: str = ""
    last: str = ""
    sentence: str = ""


class OwnCounts(Record):
    """How an assistant answered the questions of the owner, with 95 % intervals of the shares."""

    wordings: int = 0
    right: int = 0
    right_ci: Interval = [0.0, 1.0]
    declined_wrongly: int = 0
    unanswered: int = 0
    """Questions that the file does not answer."""
    declined: int = 0
    declined_ci: Interval = [0.0, 1.0]


class OwnRow(TypedDict, total=False):
    """A question of the owner with the answers of the arms; ``row`` and ``reference`` are None where none is right."""

    question: str
    row: int | None
    known: str
    reference: Text
    answers: dict[str, str]
    right: dict[str, bool]
    declined: dict[str, bool]


class OwnQuestions(Record):
    """Questions of the owner, which are not trained on, where each answer occurs once in the file."""

    arms: dict[str, OwnCounts] = {}
    """Those that were asked all questions."""
    questions: list[OwnRow] = []


class DeclineCounts(Record):
    """Questions that a cell declined."""

    unanswerable_items: int = 0
    declined: int = 0
    answerable_items: int = 0
    false_declines: int = 0


class Declining(Record):
    """Questions that the cells declined."""

    cells: dict[str, DeclineCounts] = {}


class Power(Record):
    """What the held-out set can detect on a metric, in its units."""

    metric: str = ""
    n: int = 0
    units: int = 0
    unit: str = "items"
    standard_error: Number = None
    detectable: Number = None
    target: Number = None
    needed: int | None = None


class Leaks(Record):
    """Held-out questions that occur in training; None where no search is on record."""

    text: int | None = None
    embedding: int | None = None
    removed: int = 0
    left: int = 0
    listed: list[Leak] = []


class SplitSummary(TypedDict, total=False):
    """Entries of ``data/split.json``; None for those that an earlier release did not write."""

    given: bool | None
    cut: list[str] | None
    seed: int | None
    counts: dict[str, int] | None
    turns: dict[str, int] | None
    hashes: dict[str, str] | None
    sampled_out: dict[str, Any] | None
    units: Units | None
    clusters: dict[str, int] | None
    facts: dict[str, int] | None
    respelled: dict[str, int] | None


class Data(Record):
    """The data of the study."""

    source: Text = None
    format: Text = None
    columns: dict[str, str] = {}
    rows: int | None = None
    usable: int | None = None
    rejected: int | None = None
    findings: dict[str, int | None] = {}
    token_lengths: dict[str, Number] | None = None
    notes: list[str] = []
    row_numbers: RowNumbers | None = None
    split: SplitSummary = {}
    leaks: Leaks = Leaks()


class StepTime(Record):
    """Time and peak memory of a finished step."""

    name: str = ""
    started: Number = None
    seconds: Number = None
    peak_memory_bytes: int | None = None


class Attribution(Record):
    """The difference between the twins in two steps."""

    metric: str = ""
    sentence: str = ""


class Export(Record):
    """A way to export an assistant, compared with the cell that was measured."""

    cell: str = ""
    arm: str = ""
    measured: str = ""
    how: str = ""
    formats: list[str] = []
    label: str = ""
    bytes: int | None = None
    metric: str = ""
    margin: Number = None
    figure: Number = None
    delta: Number = None
    ci_low: Number = None
    ci_high: Number = None
    keeps: str = ""
    lost_share: Number = None
    exact_match: Number = None


class AgainstBaseline(Record):
    """Metrics on which an arm beats an untuned baseline, and those on which it does not."""

    arm: str = ""
    cell: str = ""
    baseline: str = ""
    beaten: list[str] = []
    not_beaten: list[str] = []
    worse: list[str] = []
    sentence: str = ""


class ReportWarning(Record):
    """What limits the conclusions."""

    code: str = ""
    level: Literal["serious", "note"] = "note"
    text: str = ""


class Approach(Record):
    """A way of building the assistant, with its figures on the same items."""

    name: str = ""
    label: str = ""
    items: int = 0
    metrics: Figures = {}
    declined_rightly: Number = None
    declined_falsely: Number = None
    verdict: Outcome | None = None


class FileName(Record):
    """A GGUF file."""

    name: str = ""
    arm: str = ""


class GgufFile(FileName, Bound):
    """A scored GGUF file, compared with the 16-bit assistant."""

    bytes: int = 0
    tensor_types: dict[str, int] = {}
    metrics: Figures = {}
    verdict: str = ""
    bounds: list[Bound] = []
    not_shown: list[str] = []
    level: float = 0.95
    flips: dict[str, int] = {}
    same_answers: dict[str, int] = {}
    warnings: list[str] = []
    kl: Number = None
    kl_items: int | None = None
    tokens_per_second: Number = None
    first_token_seconds: Number = None
    resident_bytes: int | None = None
    load_seconds: Number = None


class Through(_HasInterval):
    """A file that was trained through the rounding, against the same type that was rounded afterwards."""

    arm: str = ""
    against: str = ""
    name: str = ""
    delta: float = 0.0
    ci: Interval = [0.0, 0.0]
    sentence: str = ""


class PromiseAt(Record):
    """A threshold of confidence, the share of the questions that is answered there, and the wrong share of these."""

    threshold: Number = None
    answered: Number = None
    wrong: Number = None


class PromisePrice(PromiseAt):
    """The same for another share of wrong answers; without a threshold nothing can be promised."""

    most_wrong: float = 0.0


class PromiseOf(PromiseAt):
    """What can be promised of an assistant; ``needed``: units that would do if nothing can be."""

    as_it_is: PromiseAt = PromiseAt()
    needed: int | None = None
    price: list[PromisePrice] = []


class Promise(Record):
    """Of what assistants answer, at most ``most_wrong`` is wrong, with probability ``sure``."""

    most_wrong: float = 0.0
    sure: float = 0.0
    facts: int = 0
    to_decline: int = 0
    cells: dict[str, PromiseOf] = {}


class RightOf(Record):
    """Items, and how many of them are answered exactly."""

    items: int = 0
    right: int = 0


class ConversationCell(Record):
    """Counts of an assistant, by the number of unrelated turns before a question."""

    items: int = 0
    """Questions with an answer."""
    right: dict[str, int] = {}
    to_decline: int = 0
    declined: dict[str, int] = {}
    follow_ups: RightOf = RightOf()


class Conversation(Record):
    """Shares of right answers alone and after unrelated turns."""

    after_turns: Figures = {}
    follow_ups: Number = None
    cells: dict[str, ConversationCell] = {}


class VerbatimCounts(Record):
    """Answers to validation questions, and those that are word for word a fact."""

    shown: int = 0
    verbatim: int = 0


class NotVerbatim(Record):
    """Answers to test questions in other words than a fact of their prompt."""

    answers: int = 0
    generated: int = 0
    generated_right: int = 0
    shown: int = 0
    right: int = 0
    own_words: bool = False
    """Whether the fact that such an answer repeats is shown instead."""
    values: str = "anywhere"
    """What must contain the values of other answers: one fact for an ``answer``, or one for each ``sentence``."""
    validation: VerbatimCounts = VerbatimCounts()


class Uncovered(Record):
    """Figures on the items whose facts were not taught."""

    items: int = 0
    cells: dict[str, Figures] = {}


class Report(Record):
    """``report.json`` of a study, or of one of its approaches.

    Read it with :meth:`load`. ``verdict`` compares QLoRA with its 16-bit twin; ``cells``, ``baselines`` and
    ``contrasts`` have the figures that it rests on, ``items`` the answers.
    """

    version: int = 1
    study: str = ""
    primary_metric: str = ""
    verdict: Verdict = Verdict()
    cells: dict[str, CellFigures] = {}
    baselines: dict[str, CellFigures] = {}
    contrasts: list[Difference] = []
    resources: dict[str, Resources] = {}
    twins: Twins | None = None
    arms: dict[str, ArmStorage] = {}
    curves: dict[str, Curve] = {}
    flips: Flips | None = None
    fidelity: Fidelity | None = None
    tasks: dict[str, Task] = {}
    seeds: Seeds = Seeds()
    judge: Judge | None = None
    votes: Votes | None = None
    declining: Declining | None = None
    power: list[Power] = []
    data: Data = Data()
    items: Annotated[list[Item], AsRead] = []
    steps: list[StepTime] = []
    provenance: dict[str, Any] = {}
    config: dict[str, Any] = {}
    """The settings of the study."""
    context: list[dict[str, str]] = []
    answer_limit: int = 0
    taught: dict[str, int] = {}
    """``items`` to answer, and those ``covered`` by an answer that training has."""
    added_answers: int = 0
    uncovered: Uncovered | None = None
    other_claim: OtherClaim | None = None
    exports: list[Export] = []
    beats_untuned: list[AgainstBaseline] = []
    attribution: Attribution | None = None
    warnings: list[ReportWarning] = []
    objection: str = ""
    sentence: str = ""
    basis: list[str] = []
    promise: Promise | None = None
    conversation: Conversation | None = None
    not_verbatim: NotVerbatim | None = None
    own_questions: OwnQuestions | None = None
    document_questions: QuestionCounts | None = None
    approach: str = ""
    """``grounded`` or ``memory``; empty if facts are not looked up in either way."""
    approach_metric: str = ""
    approaches: list[Approach] = []
    approach_comparisons: list[Difference] = []
    recommended_approach: Text = None
    approach_sentence: str = ""
    to_come: list[Literal["cells", "files"]] = []
    """What is not scored yet: the further cells, the GGUF files. Empty in the final report."""
    formats: list[GgufFile] = []
    formats_reference: str = ""
    smallest_no_worse: FileName | None = None
    formats_skipped: str = ""
    formats_through: list[Through] = []
    formats_sentence: str = ""
    formats_action: str = ""

    @classmethod
    def load(cls, path: Path) -> Report:
        """Read a report of this or an earlier release.

        Raises:
            StudyError: The file is missing, damaged, or lacks the verdict.
        """
        report: Report = read_json(
            path,
            cls,
            remedy=m(
                "Delete the file, and run 'assistant-builder run {name}': it writes the report again",
                name=path.parent.name,
            ),
        )
        return report

    @property
    def trained_arms(self) -> tuple[str, ...]:
        """The arms of the study; reports name them where these are not just the twins.

        Raises:
            ConfigError: An arm is not registered here.
        """
        return tuple(ARMS.find(arm).name for arm in self.config.get("arms", TWINS))

    @property
    def compares(self) -> bool:
        """Whether the study trains QLoRA and its 16-bit twin, so that there is a verdict."""
        return self.verdict.contrast is not None


def schema_text() -> str:
    """The JSON schema of ``report.json``, as ``report.schema.json`` has it."""
    return json.dumps(Report.model_json_schema(), ensure_ascii=False, indent=1) + "\n"


if __name__ == "__main__":
    SCHEMA.write_text(schema_text(), encoding="utf-8")
