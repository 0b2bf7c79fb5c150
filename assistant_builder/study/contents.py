"""Types of the JSON files of a study that more than one package reads; others are declared where they are written.

An entry that is not declared may have any value, and any may be missing, as in files of earlier releases:
:func:`~assistant_builder.atomic_io.read_json` says so where a missing entry is used.
"""

from pathlib import Path
from typing import Annotated, Any

from annotated_types import Len
from typing_extensions import TypedDict

from assistant_builder.atomic_io import read_json
from assistant_builder.i18n import t

Number = float | None
Text = str | None
Figures = dict[str, Number]


class ArmSummary(TypedDict, total=False):
    """``arms/<arm>/summary.json``: what a training was and took."""

    adapter_sha256: str
    arm: str
    base_storage: str
    compute_dtype: str
    device: str
    steps: int
    epochs: float
    tokens: int
    train_seconds: float
    tokens_per_second: Number
    peak_memory_bytes: int | None
    base_bytes: int
    adapter_bytes: int
    trainable_parameters: int
    total_parameters: int
    best_step: int
    best_validation_loss: float
    max_length: int | None
    train_pairs: int | None
    left_out: dict[str, int]
    predicted: dict[str, float | Figures | None] | None


class ArmConfig(TypedDict, total=False):
    """``arms/<arm>/config.json``: the resolved settings of a training."""

    arm: str
    model: dict[str, Any]
    train: dict[str, Any]


class TokenLengths(TypedDict, total=False):
    """Statistics of the tokens of the pairs."""

    max: int
    mean: float
    count: int
    min: int
    median: float
    p95: float
    total: int


class Leak(TypedDict, total=False):
    """A held-out question that is like one of training."""

    heldout_row: int
    other_row: int
    kind: str
    similarity: float
    heldout_question: str
    other_question: str
    split: Text
    removed: bool


class RejectedLine(TypedDict, total=False):
    """A line of ``data/rejected.jsonl``: a row that is left out, and why."""

    row: int
    reason: str
    record: dict[str, Any] | None


class _Problem(TypedDict, total=False):
    severity: str
    title: str
    detail: str
    rows: list[int]


class _RowNumbers(TypedDict, total=False):
    note: str
    starts: list[Annotated[list[int], Len(2, 2)]]
    copies: list[Annotated[list[int], Len(2, 2)]]


class Findings(TypedDict, total=False):
    """``data/findings.json``."""

    columns: dict[str, Text]
    rows: int
    usable: int
    token_lengths: TokenLengths | None
    rejected: list[RejectedLine]
    source: Text
    format: Text
    column_names: list[str]
    turns: int
    max_length: int | None
    notes: list[str]
    problems: list[_Problem]
    row_numbers: _RowNumbers | None
    details: dict[str, Any]
    exact_duplicates: int
    near_duplicates: int
    conflicts: int
    one_word_answers: int
    over_long: int
    answers_shared: int


class _Hashes(TypedDict, total=False):
    train: str
    validation: str
    heldout: str


class _Counts(TypedDict, total=False):
    train: int
    validation: int
    heldout: int


class _Units(TypedDict, total=False):
    kind: str
    counts: dict[str, int]


class _Facts(TypedDict, total=False):
    facts: int
    single: int
    test: int
    known: int


class Split(TypedDict, total=False):
    """``data/split.json``."""

    hashes: _Hashes
    counts: _Counts
    turns: _Counts
    leaks: list[Leak]
    leaks_removed: int
    notes: list[str]
    given: bool
    cut: list[str]
    seed: int
    sampled_out: dict[str, Any]
    units: _Units | None
    clusters: _Counts | None
    facts: _Facts | None
    respelled: dict[str, int] | None


class Embedding(TypedDict, total=False):
    """``data/embedding.json``."""

    leaks: list[Leak]
    threshold: float
    removed: bool


class Step(TypedDict, total=False):
    """A line of ``arms/<arm>/metrics.jsonl``."""

    event: str
    step: int
    steps: int
    epoch: float
    loss: Number
    learning_rate: Number
    grad_norm: Number
    memory_bytes: int | None
    tokens_per_second: Number
    tokens: int
    busy_seconds: float
    elapsed_seconds: float
    eta_seconds: Number


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
    row: int | None
    question: str
    reference: str
    answer: Text
    nll: Number
    tokens: int
    metrics: Figures
    answerable: bool
    prompt: list[Turn]
    turn: int
    finish: str
    confidence: Number
    generated: Text
    cluster: Text
    declined: bool | None
    mean_probability: Number
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
    row: int
    question: str
    messages: list[Turn]
    reference: str
    prompt: str
    target: str
    tokens: int
    answerable: bool
    context: str
    lead: str
    turn: int
    cluster: Text
    sources: list[Source]
    evidence: _Evidence


class Scores(TypedDict, total=False):
    """``scores.json`` of a cell."""

    items: int
    nll_per_token: Number
    metrics: Figures
    inputs: dict[str, Any]
    declining: dict[str, int]
    base: Text
    adapter: Text
    base_bytes: int | None
    batch_size: int | None
    bytes: int
    compute_dtype: Text
    seconds: Figures
    tensor_types: dict[str, int]
    tokens: int


class _Bound(TypedDict, total=False):
    metric: str
    margin: Number
    delta: Number
    ci: list[Number]
    outcome: str
    n: int
    passed: bool
    higher_is_better: bool


class _Verdict(TypedDict, total=False):
    outcome: str
    metric: str
    margin: Number
    delta: Number
    ci: list[Number] | None
    p_value: Number
    n: int
    higher_is_better: bool
    n_clusters: int | None
    contrast: Text
    within_margin_but_worse: bool
    warnings: list[str]
    perplexity_change: dict[str, float | list[float] | None] | None
    bounds: list[_Bound]
    possible_harm: list[str]
    estimand: str
    clustered_by: list[str]
    leave_one_out: list[Number] | None
    uncovered: int
    frozen: dict[str, Any]
    seeds: int
    trained_again: dict[str, float | list[float] | None] | None
    action: str
    reason: str


class _Cell(TypedDict, total=False):
    metrics: Figures
    items: int
    tokens: int
    nll_per_token: Number
    perplexity: Number
    label: str
    about: str
    base: Text
    adapter: Text
    base_bytes: int | None
    compute_dtype: Text
    batch_size: int | None
    seconds: Figures


class _Difference(TypedDict, total=False):
    metric: str
    delta: Number
    ci_low: Number
    ci_high: Number
    p_value: Number
    n: int
    higher_is_better: bool
    name: str
    baseline: str
    candidate: str
    meaning: str
    n_clusters: int | None
    method: str
    warnings: list[str]
    p_value_holm: Number
    verdict: str
    within_margin_but_worse: bool
    outcome: str
    lead: str


class _OtherClaim(TypedDict, total=False):
    estimand: str
    verdict: str
    delta: Number
    ci_low: Number
    ci_high: Number
    n: int
    clustered_by: list[str]
    warnings: list[str]


class _Item(TypedDict, total=False):
    item: str
    row: int | None
    question: str
    reference: Text
    answerable: bool
    answers: dict[str, Text]
    metrics: dict[str, Figures]
    context: list[Any]
    cluster: Text
    change: Text
    declined: dict[str, bool | None]
    nll: Figures
    tokens: int
    sources: list[Source]


class _Changed(TypedDict, total=False):
    item: str
    row: int | None
    question: str
    reference: Text
    answers: dict[str, Text]


class _Flips(TypedDict, total=False):
    metric: str
    items: int
    lost: list[_Changed]
    gained: list[_Changed]
    text_differs: int
    noise_floor: dict[str, Any] | None


class _Curve(TypedDict, total=False):
    steps: list[dict[str, Number]]
    validation: list[dict[str, Number]]


class _Twins(TypedDict, total=False):
    matched: bool
    differences: list[dict[str, Any]]
    unintended: list[dict[str, Any]]
    same: dict[str, Any]
    work: dict[str, dict[str, float | str | None]]


class _Task(TypedDict, total=False):
    label: str
    about: str
    metric: Text
    items: int
    cells: Figures
    contrasts: list[_Difference]
    flips: dict[str, dict[str, list[Any]]]
    listed: list[dict[str, Any]]
    sentence: str
    error: Text


class _ReliabilityCurve(TypedDict, total=False):
    bins: list[dict[str, float | list[float]]]
    ece: float
    brier: float
    n: int


class _Reliability(TypedDict, total=False):
    metric: str
    correct_means: str
    cells: dict[str, _ReliabilityCurve]
    about: str


class _Seeds(TypedDict, total=False):
    count: int
    metric: str
    runs: list[dict[str, Any]]
    sentence: str
    spread: dict[str, Figures | dict[str, float | list[float] | None] | Number] | None
    trained_again: dict[str, float | list[float] | None] | None


class _Power(TypedDict, total=False):
    metric: str
    n: int
    detectable: Number
    units: int
    unit: str
    standard_error: Number
    target: Number
    needed: int | None
    planned: Figures | None
    seen: Figures | None


class _Leaks(TypedDict, total=False):
    text: int | None
    embedding: int | None
    removed: int
    left: int
    listed: list[dict[str, Any]]


class _Data(TypedDict, total=False):
    split: dict[str, Any]
    leaks: _Leaks
    findings: dict[str, int | None]
    columns: dict[str, str]
    source: Text
    format: Text
    rows: int | None
    usable: int | None
    rejected: int | None
    notes: list[str]
    token_lengths: TokenLengths | None
    row_numbers: dict[str, Any] | None


class _Export(TypedDict, total=False):
    cell: str
    arm: str
    measured: str
    how: str
    label: str
    keeps: str
    formats: list[str]
    bytes: int | None
    metric: str
    margin: Number
    figure: Number
    delta: Number
    ci_low: Number
    ci_high: Number
    lost_share: Number
    exact_match: Number


class _Approach(TypedDict, total=False):
    name: str
    label: str
    items: int
    metrics: Figures
    declined_rightly: Number
    declined_falsely: Number
    verdict: Text


class _File(TypedDict, total=False):
    name: str
    arm: str


class _Format(TypedDict, total=False):
    name: str
    arm: str
    bytes: int
    metrics: Figures
    delta: Number
    ci: list[Number]
    verdict: str
    outcome: str
    metric: str
    margin: Number
    n: int
    higher_is_better: bool
    bounds: list[_Bound]
    flips: dict[str, int] | None
    same_answers: dict[str, int] | None
    tensor_types: dict[str, int]
    warnings: list[str]
    kl: Number
    kl_items: int | None
    level: Number
    tokens_per_second: Number
    first_token_seconds: Number
    resident_bytes: int | None
    load_seconds: Number


class _RiskCurve(TypedDict, total=False):
    n: int
    points: list[Figures]
    chosen: Figures | None
    false_declines: list[int]
    right_declines: list[int]


class _FollowUps(TypedDict, total=False):
    after_turns: Figures
    cells: dict[str, dict[str, Any]]


class _ConfigData(TypedDict, total=False):
    source: Text


class _ConfigTrain(TypedDict, total=False):
    epochs: float


class _Config(TypedDict, total=False):
    data: _ConfigData
    train: _ConfigTrain
    model: dict[str, Any]
    eval: dict[str, Any]
    arms: list[str]
    approaches: list[str]
    retrieval: dict[str, Any]
    seeds: int


class _Warning(TypedDict, total=False):
    code: str
    level: str
    text: str


class _Fidelity(TypedDict, total=False):
    pairs: list[dict[str, float | str | None]]


class Report(TypedDict, total=False):
    """``report.json``."""

    attribution: dict[str, Any] | None
    cells: dict[str, _Cell]
    contrasts: list[_Difference]
    items: list[_Item]
    primary_metric: str
    reliability: _Reliability | None
    resources: dict[str, dict[str, Any]]
    seeds: _Seeds
    verdict: _Verdict
    version: int
    study: str
    baselines: dict[str, _Cell]
    identities: list[dict[str, str | float]]
    twins: _Twins | None
    arms: dict[str, dict[str, Any]]
    curves: dict[str, _Curve]
    flips: _Flips | None
    fidelity: _Fidelity | None
    worst: list[dict[str, Any]]
    tasks: dict[str, _Task]
    judge: dict[str, Any] | None
    votes: dict[str, Any] | None
    declining: dict[str, dict[str, dict[str, int]]]
    power: list[_Power]
    data: _Data
    steps: list[dict[str, Any]]
    provenance: dict[str, Any]
    config: _Config
    context: list[dict[str, str]]
    answer_limit: int
    taught: dict[str, int]
    added_answers: int
    uncovered: dict[str, Any]
    other_claim: _OtherClaim
    exports: list[_Export]
    beats_untuned: list[dict[str, Any]]
    warnings: list[_Warning]
    objection: str
    sentence: str
    basis: list[str]
    summary: list[str]
    risk_coverage: dict[str, dict[str, _RiskCurve]]
    approach_metric: str
    approaches: list[_Approach]
    approach_comparisons: list[_Difference]
    recommended_approach: str
    approach_sentence: str
    approach: str
    formats: list[_Format]
    formats_reference: str
    smallest_no_worse: _File | None
    formats_skipped: str
    formats_through: list[dict[str, Any]]
    formats_sentence: str
    formats_action: str
    not_compared: list[str]
    conversation: _FollowUps
    not_verbatim: dict[str, Any]


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
    found: list[Source]
    rank: int | None
    history: str


_Hits = TypedDict("_Hits", {"1": int, "3": int, "5": int}, total=False)


class RecallFile(TypedDict, total=False):
    """``retrieval/recall.json``: how often the fact of a validation question is found."""

    questions: int
    covered: int
    hits: _Hits
    recall: Figures
    missed: int
    misses: list[_Miss]


class MadeFrom(TypedDict, total=False):
    """``made_from.json``: which study a study was made from, and the corrections that it is trained on."""

    study: Text
    version_of: Text
    corrections: list[dict[str, Any]]


class ReportChoice(TypedDict, total=False):
    """What a report recommends."""

    recommended_approach: Text
    smallest_no_worse: _File | None


def read_report(path: Path) -> Any:
    """A report, as :class:`Report`; raises StudyError if it is damaged."""
    return read_json(path, Report, remedy=t(
        "Delete the file, and run 'assistant-builder run {name}': it writes the report again", name=path.parent.name))
