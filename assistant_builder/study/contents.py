"""Types of the JSON files of a study that more than one package reads; others are declared where they are written.

An entry that is not declared may have any value, and any may be missing, as in files of earlier releases:
:func:`~assistant_builder.atomic_io.read_json` says so where a missing entry is used.
"""

# the types are made at run time
# mypy: disable-error-code="valid-type"

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


def entries(name: str, *kinds: tuple[Any, str], total: bool = False) -> Any:
    """A TypedDict of kinds of values and the names of their entries, any of which may be missing unless ``total``."""
    fields = {entry: kind for kind, names in kinds for entry in names.split()}
    return TypedDict(name, fields, total=total)  # type: ignore[operator]


ArmSummary = entries(
    "ArmSummary",
    (str, "adapter_sha256 arm base_storage compute_dtype device"),
    (Text, "device_name"),
    (int, "steps tokens base_bytes adapter_bytes trainable_parameters total_parameters best_step"),
    (float, "epochs train_seconds best_validation_loss"),
    (Number, "tokens_per_second"),
    (int | None, "peak_memory_bytes max_length train_pairs"),
    (dict[str, int], "left_out"),
    (dict[str, float | Figures | None] | None, "predicted"),
)
"""``arms/<arm>/summary.json``: what a training was and took."""

ArmConfig = entries("ArmConfig", (str, "arm"), (dict[str, Any], "model train"))
"""``arms/<arm>/config.json``: the resolved settings of a training."""

TokenLengths = entries("TokenLengths", (int, "max count min total"), (float, "mean median p95"))
"""Statistics of the tokens of the pairs."""

Leak = entries(
    "Leak",
    (int, "heldout_row other_row"),
    (str, "kind heldout_question other_question"),
    (float, "similarity"),
    (Text, "split"),
    (bool, "removed"),
)
"""A held-out question that is like one of training."""

RejectedLine = entries(
    "RejectedLine", (int, "row"), (str, "reason"), (dict[str, Any] | None, "record said")
)
"""A line of ``data/rejected.jsonl``: a row that is left out, and why."""

_Problem = entries(
    "_Problem",
    (str, "severity title detail"),
    (list[int], "rows"),
    (dict[str, dict[str, Any] | None], "said"),
)

_RowNumbers = entries(
    "_RowNumbers",
    (str, "note"),
    (dict[str, Any] | None, "said"),
    (list[Annotated[list[int], Len(2, 2)]], "starts copies"),
)

_Copy = entries("_Copy", (int, "row of"), total=True)

_Near = entries(
    "_Near", (int, "row of"), (float, "similarity"), (Text, "question other"), total=True
)

_Conflict = entries("_Conflict", (Text, "text"), (list[int], "rows"), total=True)

_Details = entries(
    "_Details",
    (list[_Copy], "exact_duplicates"),
    (list[_Near], "near_duplicates"),
    (list[_Conflict], "conflicts"),
)

Findings = entries(
    "Findings",
    (dict[str, Text], "columns"),
    (
        int,
        "rows usable turns exact_duplicates near_duplicates conflicts one_word_answers over_long answers_shared",
    ),
    (TokenLengths | None, "token_lengths"),
    (list[RejectedLine], "rejected"),
    (Text, "source format"),
    (list[str], "column_names notes"),
    (list[dict[str, Any] | None], "said"),
    (int | None, "max_length"),
    (list[_Problem], "problems"),
    (_RowNumbers | None, "row_numbers"),
    (_Details, "details"),
)
"""``data/findings.json``."""

_Units = entries("_Units", (str, "kind"), (dict[str, int], "counts"))

Split = entries(
    "Split",
    (dict[str, str], "hashes"),
    (dict[str, int], "counts turns"),
    (list[Leak], "leaks"),
    (int, "leaks_removed seed"),
    (list[str], "notes cut"),
    (list[dict[str, Any] | None], "said"),
    (bool, "given"),
    (dict[str, Any], "sampled_out"),
    (_Units | None, "units"),
    (dict[str, int] | None, "clusters facts respelled"),
)
"""``data/split.json``."""

Embedding = entries("Embedding", (list[Leak], "leaks"), (float, "threshold"), (bool, "removed"))
"""``data/embedding.json``."""

Step = entries(
    "Step",
    (str, "event"),
    (int, "step steps tokens"),
    (float, "epoch busy_seconds elapsed_seconds"),
    (Number, "loss learning_rate grad_norm tokens_per_second eta_seconds"),
    (int | None, "memory_bytes"),
)
"""A line of ``arms/<arm>/metrics.jsonl``."""

Turn = entries("Turn", (str, "role content"))
"""A message of a conversation."""

PairLine = entries(
    "PairLine",
    (int, "row"),
    (Annotated[list[Turn], Len(1)], "messages"),
    (Text, "group cluster family"),
    (bool, "answerable"),
)
"""A line of ``data/train.jsonl``, ``validation.jsonl`` and ``heldout.jsonl``."""

Source = entries("Source", (str, "question answer"), (int | None, "row"), (Number, "similarity"))
"""A fact that was found for a question."""

SampleLine = entries(
    "SampleLine",
    (str, "item question reference finish"),
    (int | None, "row"),
    (Text, "answer generated cluster"),
    (Number, "nll confidence mean_probability"),
    (int, "tokens turn"),
    (Figures, "metrics"),
    (bool, "answerable"),
    (list[Turn], "prompt"),
    (bool | None, "declined"),
    (list[Source], "sources"),
    (list[dict[str, Any]], "neighbours"),
)
"""A line of ``samples.jsonl``: a held-out item in a cell."""

_Evidence = entries("_Evidence", (float, "similarity certainty nearby"), (list[str], "answers"))

ItemLine = entries(
    "ItemLine",
    (str, "item question reference prompt target context lead"),
    (int, "row tokens turn"),
    (list[Turn], "messages"),
    (bool, "answerable"),
    (Text, "cluster"),
    (list[Source], "sources"),
    (_Evidence, "evidence"),
)
"""A line of ``evals/tasks/items.jsonl``: a held-out item as it is asked."""

Scores = entries(
    "Scores",
    (int, "items bytes tokens"),
    (Number, "nll_per_token"),
    (Figures, "metrics seconds"),
    (dict[str, Any], "inputs"),
    (dict[str, int], "declining tensor_types"),
    (Text, "base adapter compute_dtype"),
    (int | None, "base_bytes batch_size"),
)
"""``scores.json`` of a cell."""

_Hardware = entries("_Hardware", (int | None, "cores"), (int, "memory_bytes"))

_Origin = entries("_Origin", (Text, "name hub_id revision sha256"))

Provenance = entries(
    "Provenance",
    (_Hardware, "hardware"),
    (dict[str, Text], "packages"),
    (_Origin, "base_model"),
    (Text, "created assistant_builder git_revision python platform"),
    (dict[str, Any], "data"),
)
"""``provenance.json``."""

_Miss = entries(
    "_Miss",
    (int, "row"),
    (str, "question expected history"),
    (list[Source], "found"),
    (int | None, "rank"),
)

RecallFile = entries(
    "RecallFile",
    (int, "questions covered missed"),
    (dict[str, int], "hits"),
    (Figures, "recall"),
    (list[_Miss], "misses"),
)
"""``retrieval/recall.json``: how often the fact of a validation question is found."""

MadeFrom = entries("MadeFrom", (Text, "study version_of"), (list[dict[str, Any]], "corrections"))
"""``made_from.json``: which study a study was made from, and the corrections that it is trained on."""

_File = entries("_File", (str, "name arm"))

ReportChoice = entries(
    "ReportChoice", (Text, "recommended_approach"), (_File | None, "smallest_no_worse")
)
"""What ``report.json`` recommends; the whole file is ``evals.report.schema.Report``."""
