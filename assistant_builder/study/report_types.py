"""Types of ``report.json``, as far as the page, the command line and exports read it.

An entry that is not declared may have any value, and any may be missing, as in reports of earlier releases.
"""

from pathlib import Path
from typing import Any

from assistant_builder.atomic_io import read_json
from assistant_builder.i18n import t
from assistant_builder.study.contents import Figures, Number, Source, Text, TokenLengths, entries

_Bound = entries(
    "_Bound",
    (str, "metric outcome"),
    (Number, "margin delta"),
    (list[Number], "ci"),
    (int, "n"),
    (bool, "passed higher_is_better"),
)

_Verdict = entries(
    "_Verdict",
    (str, "outcome metric estimand action reason"),
    (float, "level"),
    (int, "look n uncovered seeds"),
    (Number, "margin delta p_value"),
    (list[Number] | None, "ci leave_one_out"),
    (bool, "higher_is_better within_margin_but_worse"),
    (int | None, "n_clusters"),
    (Text, "contrast"),
    (list[str], "warnings possible_harm clustered_by"),
    (dict[str, float | list[float] | None] | None, "perplexity_change trained_again"),
    (list[_Bound], "bounds"),
    (dict[str, Any], "frozen"),
)

_Cell = entries(
    "_Cell",
    (Figures, "metrics seconds"),
    (int, "items tokens"),
    (Number, "nll_per_token perplexity"),
    (str, "label about"),
    (Text, "base adapter compute_dtype"),
    (int | None, "base_bytes batch_size"),
)

_Difference = entries(
    "_Difference",
    (str, "metric name baseline candidate meaning method verdict outcome lead"),
    (Number, "delta ci_low ci_high p_value p_value_holm"),
    (int, "n"),
    (bool, "higher_is_better within_margin_but_worse"),
    (int | None, "n_clusters"),
    (list[str], "warnings"),
)

_OtherClaim = entries(
    "_OtherClaim",
    (str, "estimand verdict"),
    (Number, "delta ci_low ci_high"),
    (int, "n"),
    (list[str], "clustered_by warnings"),
)

_Item = entries(
    "_Item",
    (str, "item question"),
    (int | None, "row"),
    (Text, "reference cluster change"),
    (bool, "answerable"),
    (dict[str, Text], "answers"),
    (dict[str, Figures], "metrics"),
    (list[Any], "context"),
    (dict[str, bool | None], "declined"),
    (Figures, "nll"),
    (int, "tokens"),
    (list[Source], "sources"),
)

_Changed = entries(
    "_Changed",
    (str, "item question"),
    (int | None, "row"),
    (Text, "reference"),
    (dict[str, Text], "answers"),
)

_Flips = entries(
    "_Flips",
    (str, "metric"),
    (int, "items text_differs"),
    (list[_Changed], "lost gained"),
    (dict[str, Any] | None, "noise_floor"),
)

_Curve = entries("_Curve", (list[dict[str, Number]], "steps validation"))

_Twins = entries(
    "_Twins",
    (bool, "matched"),
    (list[dict[str, Any]], "differences unintended"),
    (dict[str, Any], "same"),
    (dict[str, dict[str, float | str | None]], "work"),
)

_Task = entries(
    "_Task",
    (str, "label about sentence"),
    (Text, "metric error"),
    (int, "items"),
    (Figures, "cells"),
    (list[_Difference], "contrasts"),
    (dict[str, dict[str, list[Any]]], "flips"),
    (list[dict[str, Any]], "listed"),
)

_ReliabilityCurve = entries(
    "_ReliabilityCurve",
    (list[dict[str, float | list[float]]], "bins"),
    (float, "ece brier"),
    (int, "n"),
)

_Reliability = entries(
    "_Reliability", (str, "metric correct_means about"), (dict[str, _ReliabilityCurve], "cells")
)

_Seeds = entries(
    "_Seeds",
    (int, "count"),
    (str, "metric sentence"),
    (list[dict[str, Any]], "runs"),
    (dict[str, Figures | dict[str, float | list[float] | None] | Number] | None, "spread"),
    (dict[str, float | list[float] | None] | None, "trained_again"),
)

_Power = entries(
    "_Power",
    (str, "metric unit"),
    (int, "n units"),
    (Number, "detectable standard_error target"),
    (int | None, "needed"),
    (Figures | None, "planned seen"),
)

_Leaks = entries(
    "_Leaks",
    (int | None, "text embedding"),
    (int, "removed left"),
    (list[dict[str, Any]], "listed"),
)

_Data = entries(
    "_Data",
    (dict[str, Any], "split"),
    (_Leaks, "leaks"),
    (dict[str, int | None], "findings"),
    (dict[str, str], "columns"),
    (Text, "source format"),
    (int | None, "rows usable rejected"),
    (list[str], "notes"),
    (TokenLengths | None, "token_lengths"),
    (dict[str, Any] | None, "row_numbers"),
)

_Export = entries(
    "_Export",
    (str, "cell arm measured how label keeps metric"),
    (list[str], "formats"),
    (int | None, "bytes"),
    (Number, "margin figure delta ci_low ci_high lost_share exact_match"),
)

_Approach = entries(
    "_Approach",
    (str, "name label"),
    (int, "items"),
    (Figures, "metrics"),
    (Number, "declined_rightly declined_falsely"),
    (Text, "verdict"),
)

_File = entries("_File", (str, "name arm"))

_Format = entries(
    "_Format",
    (str, "name arm verdict outcome metric"),
    (int, "bytes n"),
    (Figures, "metrics"),
    (Number, "delta margin kl level tokens_per_second first_token_seconds load_seconds"),
    (list[Number], "ci"),
    (bool, "higher_is_better"),
    (list[_Bound], "bounds"),
    (dict[str, int] | None, "flips same_answers"),
    (dict[str, int], "tensor_types"),
    (list[str], "warnings"),
    (int | None, "kl_items resident_bytes"),
)

_RiskCurve = entries(
    "_RiskCurve",
    (int, "n"),
    (list[Figures], "points"),
    (Figures | None, "chosen"),
    (list[int], "false_declines right_declines"),
)

_FollowUps = entries("_FollowUps", (Figures, "after_turns"), (dict[str, dict[str, Any]], "cells"))

_ConfigData = entries("_ConfigData", (Text, "source"))

_ConfigTrain = entries("_ConfigTrain", (float, "epochs"))

_Config = entries(
    "_Config",
    (_ConfigData, "data"),
    (_ConfigTrain, "train"),
    (dict[str, Any], "model eval retrieval"),
    (list[str], "arms approaches"),
    (int, "seeds"),
)

_Warning = entries("_Warning", (str, "code level text"))

_Fidelity = entries("_Fidelity", (list[dict[str, float | str | None]], "pairs"))

_Step = entries("_Step", (str, "key kind label"), (Number, "value delta ci_low ci_high"))

_Attribution = entries("_Attribution", (str, "metric sentence"), (list[_Step], "steps"), total=True)

Report = entries(
    "Report",
    (_Attribution | None, "attribution"),
    (dict[str, _Cell], "cells baselines"),
    (list[_Difference], "contrasts approach_comparisons"),
    (list[_Item], "items"),
    (
        str,
        """
        primary_metric study objection sentence approach_metric recommended_approach approach_sentence approach
        formats_reference formats_skipped formats_sentence formats_action
        """,
    ),
    (_Reliability | None, "reliability"),
    (dict[str, dict[str, Any]], "resources arms"),
    (_Seeds, "seeds"),
    (_Verdict, "verdict"),
    (int, "version answer_limit added_answers"),
    (list[dict[str, str | float]], "identities"),
    (_Twins | None, "twins"),
    (dict[str, _Curve], "curves"),
    (_Flips | None, "flips"),
    (_Fidelity | None, "fidelity"),
    (list[dict[str, Any]], "worst steps beats_untuned formats_through"),
    (dict[str, _Task], "tasks"),
    (dict[str, Any] | None, "judge votes"),
    (dict[str, dict[str, dict[str, int]]], "declining"),
    (list[_Power], "power"),
    (_Data, "data"),
    (dict[str, Any], "provenance uncovered not_verbatim"),
    (_Config, "config"),
    (list[dict[str, str]], "context"),
    (dict[str, int], "taught"),
    (_OtherClaim, "other_claim"),
    (list[_Export], "exports"),
    (list[_Warning], "warnings"),
    (list[str], "basis summary not_compared"),
    (dict[str, dict[str, _RiskCurve]], "risk_coverage"),
    (list[_Approach], "approaches"),
    (list[_Format], "formats"),
    (_File | None, "smallest_no_worse"),
    (_FollowUps, "conversation"),
)
"""``report.json``."""

ReportChoice = entries(
    "ReportChoice", (Text, "recommended_approach"), (_File | None, "smallest_no_worse")
)
"""What a report recommends."""


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
