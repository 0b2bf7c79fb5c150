"""Facts about the study for the report: data, training runs, and which exports keep the measured quality."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assistant_builder.arms import ARMS, LORA, QLORA, TWINS, further_arms
from assistant_builder.atomic_io import read_json, read_jsonl
from assistant_builder.export_formats import formats_of_cell
from assistant_builder.i18n import Message, m, text_of
from assistant_builder.study import Study
from assistant_builder.study.contents import ArmSummary, Embedding, Findings, Split, Step
from assistant_builder.study.steps import run_of
from evals.compare import Verdict
from evals.report.contrasts import Comparisons

_COUNTED = (
    "exact_duplicates",
    "near_duplicates",
    "conflicts",
    "one_word_answers",
    "over_long",
    "answers_shared",
)
_SPLIT = (
    "given",
    "cut",
    "seed",
    "counts",
    "turns",
    "hashes",
    "sampled_out",
    "units",
    "clusters",
    "facts",
    "respelled",
)
_LISTED = 20  # number of leaks listed with their questions; the study's data folder has all of them


def data_summary(study: Study) -> dict[str, Any]:
    """Counts, hashes and leaks from ``data/findings.json``, ``data/split.json`` and ``data/embedding.json``.

    Values that are not on record are ``None``.
    """
    folder = study.folder / "data"
    findings, split = (
        read_record(folder / "findings.json", Findings),
        read_record(folder / "split.json", Split),
    )
    return {
        "source": study.config.data.source or findings.get("source"),
        "format": findings.get("format"),
        "columns": {role: name for role, name in findings.get("columns", {}).items() if name},
        "rows": findings.get("rows"),
        "usable": findings.get("usable"),
        "rejected": _amount(findings.get("rejected")),
        "findings": {key: _amount(findings[key]) for key in _COUNTED if key in findings},
        "token_lengths": findings.get("token_lengths"),
        "notes": [*findings.get("notes", []), *split.get("notes", [])],
        "row_numbers": findings.get("row_numbers"),
        "split": {key: split.get(key) for key in _SPLIT},
        "leaks": _leaks(split, read_record(study.embedding_file, Embedding)),
    }


def read_record(path: Path, content: Any) -> dict[str, Any]:
    """The content of a JSON file; empty if the file does not exist."""
    return read_json(path, content) if path.exists() else {}


def _leaks(split: Mapping[str, Any], embedding: Mapping[str, Any]) -> dict[str, Any]:
    """Leaks found by text and by embedding comparison, and the number of held-out rows removed for them."""
    text, near = split.get("leaks"), embedding.get("leaks")
    found = [leak for listed in (text, near) if isinstance(listed, list) for leak in listed]
    found.sort(key=lambda leak: bool(leak.get("removed")))
    left, removed = (
        {leak["heldout_row"] for leak in found if bool(leak.get("removed")) == gone}
        for gone in (False, True)
    )
    return {
        "text": _amount(text),
        "embedding": _amount(near),
        "removed": len(removed),
        "left": len(left),
        "listed": found[:_LISTED],
    }


def _amount(value: Any) -> int | None:
    """A count that is given as a number or as a list."""
    if value is None:
        return None
    return int(value) if isinstance(value, (int, float)) else len(value)


INTENDED = ("arm", "base_storage")
"""The settings that may differ between twins: the arm's name and the storage of the frozen base."""
EQUAL_IN_TWINS = (
    "steps",
    "tokens",
    "train_pairs",
    "trainable_parameters",
    "total_parameters",
    "compute_dtype",
)
"""Entries of ``summary.json`` that are equal if both arms did the same work."""
_CONTRACT = (
    "base_bytes",
    "adapter_bytes",
    "peak_memory_bytes",
    "train_seconds",
    "tokens_per_second",
)


def arm_records(
    study: Study, file: str, content: Any, *, seed: int = 1
) -> dict[str, dict[str, Any]]:
    """``arms/<arm>/<file>`` of each arm that has it; for later seeds ``arms/<arm>-<seed>/<file>``."""
    paths = {arm: study.arm_folder(run_of(arm, seed)) / file for arm in study.config.arms}
    return {arm: read_json(path, content) for arm, path in paths.items() if path.exists()}


def resources(study: Study, summaries: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Time and memory of each arm in bytes, seconds and tokens per second.

    ``cost`` is that of one run in the currency of the price (``None`` without a price); ``train_seconds_all`` and
    ``cards``, the name of the card or ``cpu``, have one entry per seed.
    """
    price = study.config.eval.price_per_hour
    others = [
        arm_records(study, "summary.json", ArmSummary, seed=seed)
        for seed in range(2, study.config.seeds + 1)
    ]
    found = {}
    for arm, summary in summaries.items():
        seconds, steps = summary.get("train_seconds"), summary.get("steps")
        planned = (summary.get("stop") or {}).get("of")
        found[arm] = {
            **dict.fromkeys(_CONTRACT),
            **summary,
            "seconds_per_step": seconds / steps if seconds is not None and steps else None,
            "planned_steps": planned if planned != steps else None,
            "cost": price * seconds / 3600 if seconds is not None and price is not None else None,
            "train_seconds_all": [
                runs[arm].get("train_seconds") for runs in (summaries, *others) if arm in runs
            ],
            "cards": [
                runs[arm].get("device_name")
                if runs[arm].get("device") == "cuda"
                else runs[arm].get("device")
                for runs in (summaries, *others)
                if arm in runs
            ],
        }
    return found


def twins(
    configs: dict[str, dict[str, Any]], summaries: dict[str, dict[str, Any]]
) -> dict[str, Any] | None:
    """Compare the resolved settings of the twins; ``None`` unless both are there.

    ``differences`` are intended, others ``unintended``; ``work`` is what both runs did.
    """
    if not set(TWINS) <= set(configs):
        return None
    flat: dict[str, dict[str, Any]] = {arm: dict(flatten(configs[arm])) for arm in TWINS}
    keys = sorted(set().union(*flat.values()))
    unequal = _unequal(keys, flat)
    unintended = [row for row in unequal if row["setting"] not in INTENDED]
    if set(TWINS) <= set(summaries):
        unintended += _unequal(EQUAL_IN_TWINS, summaries)
    differing = {row["setting"] for row in unequal}
    return {
        "matched": not unintended and "base_storage" in differing,
        "differences": [row for row in unequal if row["setting"] in INTENDED],
        "unintended": unintended,
        "same": {key: flat[LORA.name].get(key) for key in keys if key not in differing},
        "work": {
            arm: {
                key: summary.get(key)
                for key in (*EQUAL_IN_TWINS, "epochs", "best_step", "adapter_sha256")
            }
            for arm, summary in summaries.items()
            if arm in TWINS
        },
    }


def _unequal(keys: Iterable[str], records: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    rows = [{"setting": key, **{arm: records[arm].get(key) for arm in TWINS}} for key in keys]
    return [row for row in rows if row[TWINS[0]] != row[TWINS[1]]]


def flatten(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of a JSON value by dotted key, which starts with ``prefix``; lists of plain values are leaves."""
    if isinstance(tree, dict) and tree:
        for key, value in tree.items():
            yield from flatten(value, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(tree, list) and any(isinstance(value, (dict, list)) for value in tree):
        for number, value in enumerate(tree):
            yield from flatten(value, f"{prefix}.{number}")
    else:
        yield prefix, tree


def curves(study: Study) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Training and validation loss of each arm.

    A run that was resumed from a checkpoint logs some steps twice; the last entry counts, which led to the adapter.
    """
    kept = (
        "step",
        "epoch",
        "loss",
        "learning_rate",
        "grad_norm",
        "tokens_per_second",
        "elapsed_seconds",
    )
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for arm in study.config.arms:
        events: dict[str, dict[int, dict[str, Any]]] = {"step": {}, "validation": {}}
        for line in read_jsonl(study.arm_folder(arm) / "metrics.jsonl", Step):
            if line.get("event") in events and line.get("loss") is not None:
                events[line["event"]][line["step"]] = {
                    key: line[key] for key in kept if key in line
                }
        steps, checked = ([rows[step] for step in sorted(rows)] for rows in events.values())
        if steps or checked:
            found[arm] = {"steps": steps, "validation": checked}
    return found


@dataclass(frozen=True)
class Export:
    """One way to export an assistant.

    Attributes:
        cell: The cell that scores the export.
        separate_adapter: Whether the adapter is served separately from the base and adds to its bytes.
    """

    cell: str
    arm: str
    separate_adapter: bool
    how: Message

    @property
    def measured(self) -> str:
        """The cell whose quality the report measured: that of the arm as trained."""
        return ARMS[self.arm].cell


EXPORTS = (
    Export(
        QLORA.cell,
        QLORA.name,
        True,
        m("QLoRA's adapter, served on the base in {bits} bits as in training."),
    ),
    Export("Q16", QLORA.name, True, m("QLoRA's adapter, served on the full 16-bit base.")),
    Export(
        "QD",
        QLORA.name,
        False,
        m(
            "QLoRA's adapter merged into the base it was trained on ({bits}-bit weights widened to 16 bits), served "
            "in 16 bits."
        ),
    ),
    Export(
        "QR",
        QLORA.name,
        False,
        m(
            "QLoRA's adapter merged into the base it was trained on, the result quantized to {bits} bits again for "
            "serving. The merged weights are close to the {bits}-bit levels they came from, so rounding them again "
            "can undo the merge."
        ),
    ),
    Export(
        LORA.cell,
        LORA.name,
        True,
        m("LoRA's adapter, served on the 16-bit base as in training."),
    ),
    Export("L4", LORA.name, True, m("LoRA's adapter, served on the base in {bits} bits.")),
    Export(
        "LM",
        LORA.name,
        False,
        m("LoRA's adapter merged into the 16-bit base, served in 16 bits."),
    ),
    Export(
        "LR",
        LORA.name,
        False,
        m(
            "LoRA's adapter merged into the 16-bit base, the result quantized to {bits} bits for serving."
        ),
    ),
)


def all_exports() -> tuple[Export, ...]:
    """The exports of the twins, then those of the further arms."""
    found = list(EXPORTS)
    for arm in map(ARMS.__getitem__, further_arms(ARMS)):
        served = (
            m(
                "The adapter of {arm} merged and rounded to the format that it was trained through.",
                arm=arm.short,
            )
            if arm.rounds
            else m("The adapter of {arm}, served on its base as in training.", arm=arm.short)
        )
        merged = m(
            "The adapter of {arm} merged into the base it was trained on, served in 16 bits.",
            arm=arm.short,
        )
        found += [
            Export(arm.cell, arm.name, not arm.rounds, served),
            Export(arm.merged_cell, arm.name, False, merged),
        ]
    return tuple(found)


def exports(
    compared: Comparisons,
    cells: Mapping[str, Mapping[str, Any]],
    summaries: Mapping[str, Mapping[str, Any]],
    primary: str,
    margin: float,
    quant_type: str,
) -> list[dict[str, Any]]:
    """Every scored export, compared with the cell that was measured.

    ``keeps`` is the outcome of the verdict's rule against the measured cell, ``lost_share`` the harm as a share of the
    gain from tuning (``None`` without a known gain), ``bytes`` the weights as served, with a separate adapter.
    """
    keeps: dict[Verdict, str] = {"no worse": "yes", "worse": "no", "inconclusive": "cannot be told"}
    found = []
    for export in all_exports():
        if export.cell not in cells:
            continue
        cell, result = (
            cells[export.cell],
            compared.get((f"{export.cell}-{export.measured}", primary)),
        )
        stored, adapter = cell.get("base_bytes"), summaries.get(export.arm, {}).get("adapter_bytes")
        if stored is not None and export.separate_adapter:
            stored = None if adapter is None else stored + adapter
        untuned, tuned = (
            cells[name]["metrics"].get(primary) if name in cells else None
            for name in (ARMS[export.arm].untuned_cell, export.measured)
        )
        lost_share = None
        if result and untuned is not None and tuned is not None:
            gained = tuned - untuned if result.higher_is_better else untuned - tuned
            lost_share = result.harm[0] / gained if gained > 0 else None
        found.append(
            {
                "cell": export.cell,
                "arm": export.arm,
                "measured": export.measured,
                "how": export.how,
                "formats": [
                    format.name for format in formats_of_cell(export.arm, export.cell, quant_type)
                ],
                "label": text_of(cell.get("said", {}).get("label"), cell["label"]),
                "bytes": stored,
                "metric": primary,
                "margin": margin,
                "figure": cell["metrics"].get(primary),
                "delta": result.delta if result else None,
                "ci_low": result.ci_low if result else None,
                "ci_high": result.ci_high if result else None,
                "keeps": "measured"
                if export.cell == export.measured
                else keeps[result.verdict]
                if result
                else "cannot be told",
                "lost_share": lost_share,
                "exact_match": cell["metrics"].get("exact_match"),
            }
        )
    return found
