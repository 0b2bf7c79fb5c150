"""Types of ``report.json``, as far as the page, the command line and exports read it.

An entry that is not declared may have any value, and any may be missing, as in reports of earlier releases.
"""

from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from assistant_builder.atomic_io import read_json
from assistant_builder.i18n import t
from assistant_builder.study.contents import Figures, Number, Source, Text, TokenLengths


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
    level: float
    look: int
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


class _Step(TypedDict, total=False):
    key: str
    kind: str
    label: str
    value: Number
    delta: Number
    ci_low: Number
    ci_high: Number


class _Attribution(TypedDict):
    metric: str
    steps: list[_Step]
    sentence: str


class Report(TypedDict, total=False):
    """``report.json``."""

    attribution: _Attribution | None
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


class ReportChoice(TypedDict, total=False):
    """What a report recommends."""

    recommended_approach: Text
    smallest_no_worse: _File | None


def read_report(path: Path) -> Any:
    """A report, as :class:`Report`; raises StudyError if it is damaged."""
    return read_json(
        path,
        Report,
        remedy=t(
            "Delete the file, and run 'assistant-builder run {name}': it writes the report again",
            name=path.parent.name,
        ),
    )
