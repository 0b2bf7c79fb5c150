"""Types of the JSON files of a study that more than one package reads; others are declared where they are written.

An entry that is not declared may have any value. Entries that an earlier release did not write are not required.
"""

from pathlib import Path
from typing import Annotated, Any, NotRequired

from annotated_types import Len
from pydantic import ConfigDict, with_config
from typing_extensions import TypedDict

from assistant_builder.atomic_io import read_json
from assistant_builder.errors import StudyError
from assistant_builder.i18n import t

Number = float | None
Text = str | None
Figures = dict[str, Number]


class ArmSummary(TypedDict):
    """``arms/<arm>/summary.json``: what a training was and took."""

    adapter_sha256: str
    arm: NotRequired[str]
    base_storage: NotRequired[str]
    compute_dtype: NotRequired[str]
    device: NotRequired[str]
    steps: NotRequired[int]
    epochs: NotRequired[float]
    tokens: NotRequired[int]
    train_seconds: NotRequired[float]
    tokens_per_second: NotRequired[Number]
    peak_memory_bytes: NotRequired[int | None]
    base_bytes: NotRequired[int]
    adapter_bytes: NotRequired[int]
    trainable_parameters: NotRequired[int]
    total_parameters: NotRequired[int]
    best_step: NotRequired[int]
    best_validation_loss: NotRequired[float]
    max_length: NotRequired[int | None]
    train_pairs: NotRequired[int | None]
    left_out: NotRequired[dict[str, int]]
    predicted: NotRequired[dict[str, float | Figures | None] | None]


class ArmConfig(TypedDict):
    """``arms/<arm>/config.json``: the resolved settings of a training."""

    arm: str
    model: NotRequired[dict[str, Any]]
    train: NotRequired[dict[str, Any]]


class TokenLengths(TypedDict):
    """Statistics of the tokens of the pairs."""

    max: int
    mean: float
    count: NotRequired[int]
    min: NotRequired[int]
    median: NotRequired[float]
    p95: NotRequired[float]
    total: NotRequired[int]


class Leak(TypedDict):
    """A held-out question that is like one of training."""

    heldout_row: int
    other_row: int
    kind: str
    similarity: float
    heldout_question: str
    other_question: str
    split: NotRequired[Text]
    removed: NotRequired[bool]


class RejectedLine(TypedDict):
    """A line of ``data/rejected.jsonl``: a row that is left out, and why."""

    row: int
    reason: str
    record: NotRequired[dict[str, Any] | None]


class _Problem(TypedDict):
    severity: str
    title: str
    detail: str
    rows: NotRequired[list[int]]


class _RowNumbers(TypedDict):
    note: NotRequired[str]
    starts: NotRequired[list[Annotated[list[int], Len(2, 2)]]]
    copies: NotRequired[list[Annotated[list[int], Len(2, 2)]]]


class Findings(TypedDict):
    """``data/findings.json``."""

    columns: dict[str, Text]
    rows: int
    usable: int
    token_lengths: TokenLengths | None
    rejected: list[RejectedLine]
    source: NotRequired[Text]
    format: NotRequired[Text]
    column_names: NotRequired[list[str]]
    turns: NotRequired[int]
    max_length: NotRequired[int | None]
    notes: NotRequired[list[str]]
    problems: NotRequired[list[_Problem]]
    row_numbers: NotRequired[_RowNumbers | None]
    details: NotRequired[dict[str, Any]]
    exact_duplicates: NotRequired[int]
    near_duplicates: NotRequired[int]
    conflicts: NotRequired[int]
    one_word_answers: NotRequired[int]
    over_long: NotRequired[int]
    answers_shared: NotRequired[int]


class _Hashes(TypedDict):
    train: str
    validation: str
    heldout: str


class _Counts(TypedDict):
    train: int
    validation: int
    heldout: int


class _Units(TypedDict):
    kind: str
    counts: NotRequired[dict[str, int]]


@with_config(ConfigDict(extra="forbid"))
class _Facts(TypedDict):
    facts: int
    single: int
    test: int
    known: int


class Split(TypedDict):
    """``data/split.json``."""

    hashes: _Hashes
    counts: _Counts
    turns: _Counts
    leaks: list[Leak]
    leaks_removed: NotRequired[int]
    notes: NotRequired[list[str]]
    given: NotRequired[bool]
    cut: NotRequired[list[str]]
    seed: NotRequired[int]
    sampled_out: NotRequired[dict[str, Any]]
    units: NotRequired[_Units | None]
    clusters: NotRequired[_Counts | None]
    facts: NotRequired[_Facts | None]
    respelled: NotRequired[dict[str, int] | None]


class Embedding(TypedDict):
    """``data/embedding.json``."""

    leaks: list[Leak]
    threshold: NotRequired[float]
    removed: NotRequired[bool]


class Step(TypedDict):
    """A line of ``arms/<arm>/metrics.jsonl``."""

    event: str
    step: NotRequired[int]
    steps: NotRequired[int]
    epoch: NotRequired[float]
    loss: NotRequired[Number]
    learning_rate: NotRequired[Number]
    grad_norm: NotRequired[Number]
    memory_bytes: NotRequired[int | None]
    tokens_per_second: NotRequired[Number]
    tokens: NotRequired[int]
    busy_seconds: NotRequired[float]
    elapsed_seconds: NotRequired[float]
    eta_seconds: NotRequired[Number]


class Turn(TypedDict):
    """A message of a conversation."""

    role: str
    content: str


class PairLine(TypedDict):
    """A line of ``data/train.jsonl``, ``validation.jsonl`` and ``heldout.jsonl``."""

    row: int
    messages: Annotated[list[Turn], Len(1)]
    group: NotRequired[Text]
    cluster: NotRequired[Text]
    family: NotRequired[Text]
    answerable: NotRequired[bool]


class Source(TypedDict):
    """A fact that was found for a question."""

    question: str
    answer: str
    row: NotRequired[int | None]
    similarity: NotRequired[Number]


class SampleLine(TypedDict):
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
    turn: NotRequired[int]
    finish: NotRequired[str]
    confidence: NotRequired[Number]
    generated: NotRequired[Text]
    cluster: NotRequired[Text]
    declined: NotRequired[bool | None]
    mean_probability: NotRequired[Number]
    sources: NotRequired[list[Source]]
    neighbours: NotRequired[list[dict[str, Any]]]


class _Evidence(TypedDict):
    similarity: float
    certainty: float
    nearby: float
    answers: list[str]


class ItemLine(TypedDict):
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
    context: NotRequired[str]
    lead: NotRequired[str]
    turn: NotRequired[int]
    cluster: NotRequired[Text]
    sources: NotRequired[list[Source]]
    evidence: NotRequired[_Evidence]


class Scores(TypedDict):
    """``scores.json`` of a cell."""

    items: int
    nll_per_token: Number
    metrics: Figures
    inputs: NotRequired[dict[str, Any]]
    declining: NotRequired[dict[str, int]]
    base: NotRequired[Text]
    adapter: NotRequired[Text]
    base_bytes: NotRequired[int | None]
    batch_size: NotRequired[int | None]
    bytes: NotRequired[int]
    compute_dtype: NotRequired[Text]
    seconds: NotRequired[Figures]
    tensor_types: NotRequired[dict[str, int]]
    tokens: NotRequired[int]


class _Bound(TypedDict):
    metric: str
    margin: Number
    delta: Number
    ci: list[Number]
    outcome: str
    n: int
    passed: NotRequired[bool]
    higher_is_better: NotRequired[bool]


class _Verdict(TypedDict):
    outcome: str
    metric: str
    margin: Number
    delta: Number
    ci: list[Number] | None
    p_value: Number
    n: int
    higher_is_better: bool
    n_clusters: NotRequired[int | None]
    contrast: NotRequired[Text]
    within_margin_but_worse: NotRequired[bool]
    warnings: NotRequired[list[str]]
    perplexity_change: NotRequired[dict[str, float | list[float] | None] | None]
    bounds: NotRequired[list[_Bound]]
    possible_harm: NotRequired[list[str]]
    estimand: NotRequired[str]
    clustered_by: NotRequired[list[str]]
    leave_one_out: NotRequired[list[Number] | None]
    uncovered: NotRequired[int]
    frozen: NotRequired[dict[str, Any]]
    seeds: NotRequired[int]
    trained_again: NotRequired[dict[str, float | list[float] | None] | None]
    action: NotRequired[str]
    reason: NotRequired[str]


class _Cell(TypedDict):
    metrics: Figures
    items: NotRequired[int]
    tokens: NotRequired[int]
    nll_per_token: NotRequired[Number]
    perplexity: NotRequired[Number]
    label: NotRequired[str]
    about: NotRequired[str]
    base: NotRequired[Text]
    adapter: NotRequired[Text]
    base_bytes: NotRequired[int | None]
    compute_dtype: NotRequired[Text]
    batch_size: NotRequired[int | None]
    seconds: NotRequired[Figures]


class _Difference(TypedDict):
    metric: str
    delta: Number
    ci_low: Number
    ci_high: Number
    p_value: Number
    n: int
    higher_is_better: bool
    name: NotRequired[str]
    baseline: NotRequired[str]
    candidate: NotRequired[str]
    meaning: NotRequired[str]
    n_clusters: NotRequired[int | None]
    method: NotRequired[str]
    warnings: NotRequired[list[str]]
    p_value_holm: NotRequired[Number]
    verdict: NotRequired[str]
    within_margin_but_worse: NotRequired[bool]
    outcome: NotRequired[str]
    lead: NotRequired[str]


class _OtherClaim(TypedDict):
    estimand: str
    verdict: str
    delta: Number
    ci_low: Number
    ci_high: Number
    n: int
    clustered_by: NotRequired[list[str]]
    warnings: NotRequired[list[str]]


class _Item(TypedDict):
    item: str
    row: int | None
    question: str
    reference: Text
    answerable: bool
    answers: dict[str, Text]
    metrics: dict[str, Figures]
    context: NotRequired[list[Any]]
    cluster: NotRequired[Text]
    change: NotRequired[Text]
    declined: NotRequired[dict[str, bool | None]]
    nll: NotRequired[Figures]
    tokens: NotRequired[int]
    sources: NotRequired[list[Source]]


class _Changed(TypedDict):
    item: str
    row: int | None
    question: str
    reference: Text
    answers: dict[str, Text]


class _Flips(TypedDict):
    metric: str
    items: int
    lost: list[_Changed]
    gained: list[_Changed]
    text_differs: int
    noise_floor: NotRequired[dict[str, Any] | None]


class _Curve(TypedDict):
    steps: list[dict[str, Number]]
    validation: list[dict[str, Number]]


class _Twins(TypedDict):
    matched: bool
    differences: list[dict[str, Any]]
    unintended: list[dict[str, Any]]
    same: dict[str, Any]
    work: dict[str, dict[str, float | str | None]]


class _Task(TypedDict):
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


class _ReliabilityCurve(TypedDict):
    bins: list[dict[str, float | list[float]]]
    ece: float
    brier: float
    n: int


class _Reliability(TypedDict):
    metric: str
    correct_means: str
    cells: dict[str, _ReliabilityCurve]
    about: str


class _Seeds(TypedDict):
    count: int
    metric: str
    runs: list[dict[str, Any]]
    sentence: str
    spread: NotRequired[dict[str, Figures | dict[str, float | list[float] | None] | Number] | None]
    trained_again: NotRequired[dict[str, float | list[float] | None] | None]


class _Power(TypedDict):
    metric: str
    n: int
    detectable: Number
    units: NotRequired[int]
    unit: NotRequired[str]
    standard_error: NotRequired[Number]
    target: NotRequired[Number]
    needed: NotRequired[int | None]
    planned: NotRequired[Figures | None]
    seen: NotRequired[Figures | None]


class _Leaks(TypedDict):
    text: int | None
    embedding: int | None
    removed: int
    left: int
    listed: list[dict[str, Any]]


class _Data(TypedDict):
    split: dict[str, Any]
    leaks: _Leaks
    findings: dict[str, int | None]
    columns: NotRequired[dict[str, str]]
    source: NotRequired[Text]
    format: NotRequired[Text]
    rows: NotRequired[int | None]
    usable: NotRequired[int | None]
    rejected: NotRequired[int | None]
    notes: NotRequired[list[str]]
    token_lengths: NotRequired[TokenLengths | None]
    row_numbers: NotRequired[dict[str, Any] | None]


class _Export(TypedDict):
    cell: str
    arm: str
    measured: str
    how: str
    label: str
    keeps: str
    formats: NotRequired[list[str]]
    bytes: NotRequired[int | None]
    metric: NotRequired[str]
    margin: NotRequired[Number]
    figure: NotRequired[Number]
    delta: NotRequired[Number]
    ci_low: NotRequired[Number]
    ci_high: NotRequired[Number]
    lost_share: NotRequired[Number]
    exact_match: NotRequired[Number]


class _Approach(TypedDict):
    name: str
    label: str
    items: int
    metrics: Figures
    declined_rightly: NotRequired[Number]
    declined_falsely: NotRequired[Number]
    verdict: NotRequired[Text]


class _File(TypedDict):
    name: str
    arm: str


class _Format(TypedDict):
    name: str
    arm: str
    bytes: int
    metrics: Figures
    delta: Number
    ci: list[Number]
    verdict: str
    outcome: NotRequired[str]
    metric: NotRequired[str]
    margin: NotRequired[Number]
    n: NotRequired[int]
    higher_is_better: NotRequired[bool]
    bounds: NotRequired[list[_Bound]]
    flips: NotRequired[dict[str, int] | None]
    same_answers: NotRequired[dict[str, int] | None]
    tensor_types: NotRequired[dict[str, int]]
    warnings: NotRequired[list[str]]
    kl: NotRequired[Number]
    kl_items: NotRequired[int | None]
    level: NotRequired[Number]
    tokens_per_second: NotRequired[Number]
    first_token_seconds: NotRequired[Number]
    resident_bytes: NotRequired[int | None]
    load_seconds: NotRequired[Number]


class _RiskCurve(TypedDict):
    n: int
    points: list[Figures]
    chosen: Figures | None
    false_declines: NotRequired[list[int]]
    right_declines: NotRequired[list[int]]


class _FollowUps(TypedDict):
    after_turns: Figures
    cells: dict[str, dict[str, Any]]


class _ConfigData(TypedDict):
    source: Text


class _ConfigTrain(TypedDict):
    epochs: float


class _Config(TypedDict):
    data: _ConfigData
    train: _ConfigTrain
    model: dict[str, Any]
    eval: dict[str, Any]
    arms: NotRequired[list[str]]
    approaches: NotRequired[list[str]]
    retrieval: NotRequired[dict[str, Any]]
    seeds: NotRequired[int]


class _Warning(TypedDict):
    code: str
    level: str
    text: str


class _Fidelity(TypedDict):
    pairs: list[dict[str, float | str | None]]


class Report(TypedDict):
    """``report.json``; those of earlier releases may lack required entries, see :func:`read_report`."""

    attribution: dict[str, Any] | None
    cells: dict[str, _Cell]
    contrasts: list[_Difference]
    items: list[_Item]
    primary_metric: str
    reliability: _Reliability | None
    resources: dict[str, dict[str, Any]]
    seeds: _Seeds
    verdict: _Verdict
    version: NotRequired[int]
    study: NotRequired[str]
    baselines: NotRequired[dict[str, _Cell]]
    identities: NotRequired[list[dict[str, str | float]]]
    twins: NotRequired[_Twins | None]
    arms: NotRequired[dict[str, dict[str, Any]]]
    curves: NotRequired[dict[str, _Curve]]
    flips: NotRequired[_Flips | None]
    fidelity: NotRequired[_Fidelity | None]
    worst: NotRequired[list[dict[str, Any]]]
    tasks: NotRequired[dict[str, _Task]]
    judge: NotRequired[dict[str, Any] | None]
    votes: NotRequired[dict[str, Any] | None]
    declining: NotRequired[dict[str, dict[str, dict[str, int]]]]
    power: NotRequired[list[_Power]]
    data: NotRequired[_Data]
    steps: NotRequired[list[dict[str, Any]]]
    provenance: NotRequired[dict[str, Any]]
    config: NotRequired[_Config]
    context: NotRequired[list[dict[str, str]]]
    answer_limit: NotRequired[int]
    taught: NotRequired[dict[str, int]]
    added_answers: NotRequired[int]
    uncovered: NotRequired[dict[str, Any]]
    other_claim: NotRequired[_OtherClaim]
    exports: NotRequired[list[_Export]]
    beats_untuned: NotRequired[list[dict[str, Any]]]
    warnings: NotRequired[list[_Warning]]
    objection: NotRequired[str]
    sentence: NotRequired[str]
    basis: NotRequired[list[str]]
    summary: NotRequired[list[str]]
    risk_coverage: NotRequired[dict[str, dict[str, _RiskCurve]]]
    approach_metric: NotRequired[str]
    approaches: NotRequired[list[_Approach]]
    approach_comparisons: NotRequired[list[_Difference]]
    recommended_approach: NotRequired[str]
    approach_sentence: NotRequired[str]
    approach: NotRequired[str]
    formats: NotRequired[list[_Format]]
    formats_reference: NotRequired[str]
    smallest_no_worse: NotRequired[_File | None]
    formats_skipped: NotRequired[str]
    formats_through: NotRequired[list[dict[str, Any]]]
    formats_sentence: NotRequired[str]
    formats_action: NotRequired[str]
    not_compared: NotRequired[list[str]]
    conversation: NotRequired[_FollowUps]
    not_verbatim: NotRequired[dict[str, Any]]


class _Hardware(TypedDict):
    cores: int | None
    memory_bytes: int


class _Origin(TypedDict, total=False):
    name: Text
    hub_id: Text
    revision: Text
    sha256: Text


class Provenance(TypedDict):
    """``provenance.json``."""

    hardware: _Hardware
    packages: NotRequired[dict[str, Text]]
    base_model: NotRequired[_Origin]
    created: NotRequired[Text]
    assistant_builder: NotRequired[Text]
    git_revision: NotRequired[Text]
    python: NotRequired[Text]
    platform: NotRequired[Text]
    data: NotRequired[dict[str, Any]]


class _Miss(TypedDict):
    row: int
    question: str
    expected: str
    found: list[Source]
    rank: NotRequired[int | None]
    history: NotRequired[str]


_Hits = TypedDict("_Hits", {"1": int, "3": NotRequired[int], "5": NotRequired[int]})


class RecallFile(TypedDict):
    """``retrieval/recall.json``: how often the fact of a validation question is found."""

    questions: int
    covered: int
    hits: _Hits
    recall: NotRequired[Figures]
    missed: NotRequired[int]
    misses: NotRequired[list[_Miss]]


class MadeFrom(TypedDict, total=False):
    """``made_from.json``: which study a study was made from, and the corrections that it is trained on."""

    study: Text
    version_of: Text
    corrections: list[dict[str, Any]]


class ReportChoice(TypedDict, total=False):
    """What a report recommends."""

    recommended_approach: Text
    smallest_no_worse: _File | None


def read_report(path: Path) -> dict[str, Any]:
    """A report, as :class:`Report`; empty if it is of an earlier release and lacks what is shown of one.

    Raises:
        StudyError: An entry is of a wrong type, or the file is damaged.
    """
    found = read_json(path, remedy=(remedy := _report_remedy(path)))
    if not found or not Report.__required_keys__ <= found.keys() and "version" in found:
        return {}
    read_json(path, Report, remedy=remedy)
    return found


def present_report(path: Path) -> dict[str, Any]:
    """A report; raises StudyError if it is damaged or of an earlier release."""
    found = read_report(path)
    if not found:
        raise StudyError(t("the report is of an earlier release"), where=str(path), remedy=_report_remedy(path))
    return found


def _report_remedy(path: Path) -> str:
    return t("Delete the file, and run 'assistant-builder run {name}': it writes the report again",
             name=path.parent.name)
