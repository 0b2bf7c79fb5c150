"""Types of the JSON files of a study that more than one package reads; others are declared where they are written.

An entry that is not declared may have any value, and any may be missing, as in files of earlier releases:
:func:`~assistant_builder.atomic_io.read_json` says so where a missing entry is used.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Protocol, overload

from annotated_types import Len
from typing_extensions import TypedDict


class Entries(Protocol):
    """Entries by name: a dictionary, or a record with attributes."""

    def __getitem__(self, name: str, /) -> Any: ...

    def __contains__(self, name: object, /) -> bool: ...

    @overload
    def get(self, name: str, /) -> Any: ...

    @overload
    def get(self, name: str, default: Any, /) -> Any: ...


Number = float | None
Text = str | None
Figures = dict[str, Number]


class TrainingStop(TypedDict):
    """Where a training ended because nothing was left to learn."""

    after: int | None
    of: int
    schedule: str


class ArmSummary(TypedDict, total=False):
    """``arms/<arm>/summary.json``: what a training was and took."""

    adapter_sha256: str
    arm: str
    base_storage: str
    compute_dtype: str
    device: str
    device_name: Text
    steps: int
    tokens: int
    base_bytes: int
    adapter_bytes: int
    trainable_parameters: int
    total_parameters: int
    best_step: int
    epochs: float
    train_seconds: float
    best_validation_loss: float
    tokens_per_second: Number
    peak_memory_bytes: int | None
    max_length: int | None
    train_pairs: int | None
    left_out: dict[str, int]
    stop: TrainingStop | None
    predicted: dict[str, float | Figures | None] | None


class ArmConfig(TypedDict, total=False):
    """``arms/<arm>/config.json``: the resolved settings of a training."""

    arm: str
    model: dict[str, Any]
    train: dict[str, Any]


class TokenLengths(TypedDict, total=False):
    """Statistics of the tokens of the pairs."""

    max: int
    count: int
    min: int
    total: int
    mean: float
    median: float
    p95: float


class Leak(TypedDict, total=False):
    """A held-out question that is like one of training."""

    heldout_row: int
    other_row: int
    kind: str
    heldout_question: str
    other_question: str
    similarity: float
    split: Text
    removed: bool


class RejectedLine(TypedDict, total=False):
    """A line of ``data/rejected.jsonl``: a row that is left out, and why."""

    row: int
    reason: str
    record: dict[str, Any] | None
    said: dict[str, Any] | None


class _Problem(TypedDict, total=False):
    severity: str
    title: str
    detail: str
    rows: list[int]
    said: dict[str, dict[str, Any] | None]


class RowNumbers(TypedDict, total=False):
    """Rows of the file by the numbers of the program, where they differ."""

    note: str
    said: dict[str, Any] | None
    starts: list[Annotated[list[int], Len(2, 2)]]
    copies: list[Annotated[list[int], Len(2, 2)]]


class _Copy(TypedDict):
    row: int
    of: int


class _Near(TypedDict):
    row: int
    of: int
    similarity: float
    question: Text
    other: Text


class _Conflict(TypedDict):
    text: Text
    rows: list[int]


class _Details(TypedDict, total=False):
    exact_duplicates: list[_Copy]
    near_duplicates: list[_Near]
    conflicts: list[_Conflict]


class Findings(TypedDict, total=False):
    """``data/findings.json``."""

    columns: dict[str, Text]
    rows: int
    usable: int
    turns: int
    exact_duplicates: int
    near_duplicates: int
    conflicts: int
    declining: int
    to_decline: int
    declines_with: Text
    one_word_answers: int
    over_long: int
    answers_shared: int
    token_lengths: TokenLengths | None
    rejected: list[RejectedLine]
    source: Text
    format: Text
    column_names: list[str]
    notes: list[str]
    said: list[dict[str, Any] | None]
    max_length: int | None
    problems: list[_Problem]
    row_numbers: RowNumbers | None
    details: _Details


class Units(TypedDict, total=False):
    """What was divided: rows, groups or clusters, by split."""

    kind: str
    counts: dict[str, int]


class Split(TypedDict, total=False):
    """``data/split.json``."""

    hashes: dict[str, str]
    counts: dict[str, int]
    turns: dict[str, int]
    leaks: list[Leak]
    leaks_removed: int
    seed: int
    notes: list[str]
    cut: list[str]
    said: list[dict[str, Any] | None]
    given: bool
    sampled_out: dict[str, Any]
    units: Units | None
    clusters: dict[str, int] | None
    facts: dict[str, int] | None
    respelled: dict[str, int] | None


class Embedding(TypedDict, total=False):
    """``data/embedding.json``."""

    leaks: list[Leak]
    threshold: float
    removed: bool
    embedder_warning: list[Any]


class Step(TypedDict, total=False):
    """A line of ``arms/<arm>/metrics.jsonl``."""

    event: str
    step: int
    steps: int
    tokens: int
    epoch: float
    busy_seconds: float
    elapsed_seconds: float
    loss: Number
    learning_rate: Number
    grad_norm: Number
    tokens_per_second: Number
    eta_seconds: Number
    memory_bytes: int | None


class Turn(TypedDict, total=False):
    """A message of a conversation."""

    role: str
    content: str


class PairLine(TypedDict, total=False):
    """A line of ``data/train.jsonl``, ``validation.jsonl`` and ``heldout.jsonl``."""

    row: int
    messages: Annotated[list[Turn], Len(1)]
    group: Text
    cluster: Text
    family: Text
    answerable: bool


class Source(TypedDict, total=False):
    """A fact that was found for a question."""

    question: str
    answer: str
    row: int | None
    similarity: Number


class SampleLine(TypedDict, total=False):
    """A line of ``samples.jsonl``: a held-out item in a cell."""

    item: str
    question: str
    reference: str
    finish: str
    row: int | None
    answer: Text
    generated: Text
    cluster: Text
    nll: Number
    confidence: Number
    served_similarity: Number
    mean_probability: Number
    tokens: int
    turn: int
    metrics: Figures
    answerable: bool
    prompt: list[Turn]
    declined: bool | None
    sources: list[Source]
    neighbours: list[dict[str, Any]]


class _Evidence(TypedDict, total=False):
    similarity: float
    certainty: float
    nearby: float
    answers: list[str]


class ItemLine(TypedDict, total=False):
    """A line of ``evals/tasks/items.jsonl``: a held-out item as it is asked."""

    item: str
    question: str
    reference: str
    prompt: str
    target: str
    context: str
    lead: str
    row: int
    tokens: int
    turn: int
    messages: list[Turn]
    answerable: bool
    cluster: Text
    sources: list[Source]
    evidence: _Evidence


class Scores(TypedDict, total=False):
    """``scores.json`` of a cell."""

    items: int
    bytes: int
    tokens: int
    nll_per_token: Number
    metrics: Figures
    seconds: Figures
    inputs: dict[str, Any]
    declining: dict[str, int]
    tensor_types: dict[str, int]
    base: Text
    adapter: Text
    compute_dtype: Text
    base_bytes: int | None
    batch_size: int | None
    thresholds: list[float]


class _Hardware(TypedDict, total=False):
    cores: int | None
    memory_bytes: int


class _Origin(TypedDict, total=False):
    name: Text
    hub_id: Text
    revision: Text
    sha256: Text


class Provenance(TypedDict, total=False):
    """``provenance.json``."""

    hardware: _Hardware
    packages: dict[str, Text]
    base_model: _Origin
    created: Text
    assistant_builder: Text
    git_revision: Text
    python: Text
    platform: Text
    data: dict[str, Any]


class _Miss(TypedDict, total=False):
    row: int
    question: str
    expected: str
    history: str
    found: list[Source]
    rank: int | None


class RecallFile(TypedDict, total=False):
    """``retrieval/recall.json``: how often the fact of a validation question is found."""

    questions: int
    covered: int
    missed: int
    hits: dict[str, int]
    recall: Figures
    misses: list[_Miss]


class MadeFrom(TypedDict, total=False):
    """``made_from.json``: which study a study was made from, and the corrections that it is trained on."""

    study: Text
    version_of: Text
    corrections: list[dict[str, Any]]


@dataclass(frozen=True)
class OwnQuestion:
    """A question of the owner, which is asked and never trained on."""

    question: str
    row: int | None = (
        None  # of the fact that it asks for in other words; None: the file does not answer it
    )
    known: str = ""  # question of that fact in the file
    answer: str = ""


@dataclass(frozen=True)
class OwnQuestions:
    """``own_questions.json``."""

    questions: tuple[OwnQuestion, ...] = ()


class OwnAnswer(TypedDict, total=False):
    """An answer to one of these questions."""

    text: str
    declined: bool


class OwnAnswers(TypedDict, total=False):
    """Those of one training run in ``own_answers.json``; ``model`` identifies its adapter, index and rule."""

    model: str
    answers: dict[str, OwnAnswer]


class _File(TypedDict, total=False):
    name: str
    arm: str


class FirstVerdict(TypedDict):
    """``evals/evaluate.verdict.json``: when the first verdict was there."""

    seconds: float


class ReportChoice(TypedDict, total=False):
    """What ``report.json`` recommends; the whole file is ``evals.report.schema.Report``."""

    recommended_approach: Text
    smallest_no_worse: _File | None
