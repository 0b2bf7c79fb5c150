"""What can be exported: which arm in which form, which cell measured it, how large it will be, which to take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from assistant_builder.atomic_io import read_json
from assistant_builder.config import ARMS, Arm
from assistant_builder.errors import StudyError
from assistant_builder.models.remote_code import allows_code
from assistant_builder.study import Study

Format = Literal["adapter", "merged"]
FORMATS: tuple[Format, ...] = get_args(Format)
BESIDE_WEIGHTS = 6_000_000
"""Bytes of tokenizer, card and the like, roughly."""


@dataclass(frozen=True)
class Kind:
    """One way to take an assistant out.

    Attributes:
        arm: Whose adapter.
        format: ``adapter``: the adapter alone, to be put on its base; ``merged``: the whole model in float16.
    """

    arm: Arm
    format: Format

    @property
    def name(self) -> str:
        """Name of its folder below ``exports/``."""
        return f"{self.arm}-{self.format}"

    @property
    def cell(self) -> str:
        """The cell of the evaluation that scored just this."""
        return {"qlora-adapter": "Q4", "qlora-merged": "QD", "lora-adapter": "L16", "lora-merged": "LM"}[self.name]

    @property
    def arm_cell(self) -> str:
        """The cell that the verdict is about."""
        return {"qlora": "Q4", "lora": "L16"}[self.arm]


KINDS = tuple(Kind(arm, format) for arm in reversed(ARMS) for format in FORMATS)


def parse_kind(arm: str, format: str) -> Kind:
    """The kind of these names.

    Raises:
        ValueError: There is none.
    """
    for kind in KINDS:
        if (kind.arm, kind.format) == (arm, format):
            return kind
    wrong, known = (arm, ("qlora", "lora")) if arm not in ARMS else (format, FORMATS)
    raise ValueError(f"{wrong!r} is none of {', '.join(known)}")


def require_trained(study: Study, kind: Kind) -> dict[str, Any]:
    """The arm's ``summary.json``.

    Raises:
        StudyError: The study does not train the arm, or has not yet, or its adapter is not the one that the summary is
            about.
    """
    arms = study.config.arms
    if kind.arm not in arms:
        raise StudyError(
            f"the study trains {' and '.join(arms)} alone, and has no {kind.arm} assistant",
            where=f"study {study.name}",
            remedy=f"Export --arm {arms[0]}, or train both with 'assistant-builder run {study.name} --set "
            f"arms={','.join(ARMS)}'",
        )
    folder = study.arm_folder(kind.arm)
    trained = study.step(f"train-{kind.arm}").state == "succeeded"
    if not trained or not (folder / "adapter" / "adapter_model.safetensors").is_file():
        raise StudyError(f"the {kind.arm} assistant is not trained yet", where=f"study {study.name}",
                         remedy=f"Train it with 'assistant-builder run {study.name}'")
    summary: dict[str, Any] = read_json(folder / "summary.json")
    return summary


def planned_bytes(study: Study, kind: Kind) -> int:
    """Bytes of the folder to come, the archive of an adapter included."""
    summary = read_json(study.arm_folder(kind.arm) / "summary.json")
    if kind.format == "adapter":
        return 2 * (int(summary["adapter_bytes"]) + BESIDE_WEIGHTS)
    return 2 * (int(summary["total_parameters"]) - int(summary["trainable_parameters"])) + BESIDE_WEIGHTS


@dataclass(frozen=True)
class Advice:
    """Which export to take.

    Attributes:
        adapter: The arm whose adapter is the better choice.
        merged: The arm to merge.
        why: In plain words.
    """

    adapter: Arm
    merged: Arm
    why: str


_ALONE: dict[Arm, str] = {
    "qlora": "This study trains QLoRA alone, so that it is what there is to take. Whether its 16-bit twin would be "
    "better was not measured. Its adapter is served on the base in 4 bits; merged, it is a 16-bit model.",
    "lora": "This study trains 16-bit LoRA alone, so that it is what there is to take. What 4-bit would cost was not "
    "measured.",
}
"""What to say where there is one arm to take."""


def advice(report: Mapping[str, Any] | None, arms: Sequence[Arm] = ARMS) -> Advice:
    """What the verdict says about which export to take.

    In 16 bits both merged models are of one size, so merging QLoRA gives its saving up and keeps its loss: there LoRA
    is the choice unless QLoRA came out ahead.

    Args:
        report: ``report.json``; None before the evaluation.
        arms: The arms that the study trains.
    """
    if len(arms) == 1:
        (arm,) = arms
        return Advice(arm, arm, _ALONE[arm])
    if report is None:
        return Advice("lora", "lora", "Nothing is measured yet: until the evaluation is done, nobody knows what 4-bit "
                      "cost, and 16-bit LoRA is the safe choice.")
    verdict = report["verdict"]
    low, high = verdict["ci"]
    ahead = low > 0 if verdict["higher_is_better"] else high < 0
    if ahead:
        return Advice("qlora", "qlora", "QLoRA came out ahead of its 16-bit twin: take QLoRA in either form.")
    if verdict["outcome"] == "no worse":
        return Advice("qlora", "lora", "4-bit was no worse than you allowed. Take QLoRA's adapter if the assistant "
                      "will be served in 4 bits, where it saves memory. A merged model is 16-bit in either case and of "
                      "the same size: there LoRA has the better of it.")
    if verdict["outcome"] == "worse":
        return Advice("lora", "lora", "4-bit made the assistant measurably worse: take 16-bit LoRA, unless it does not "
                      "fit where it is to run.")
    return Advice("lora", "lora", "It could not be told whether 4-bit cost more than you allowed: 16-bit LoRA is the "
                  "safe choice; QLoRA's adapter needs less memory where it is served.")


def base_name(study: Study) -> tuple[str, Path | None]:
    """What to load the adapter on: a name that others can use, and the folder that this machine has, if any."""
    from assistant_builder.models.bundled import BASE
    from assistant_builder.models.catalog import resolve

    model = study.config.model
    ref = resolve(model.base, trust_remote_code=allows_code(model))
    if ref.kind == "bundled":
        assert ref.entry is not None
        return ref.entry.hub_id, BASE.folder
    return (ref.hub_id, None) if ref.hub_id else (ref.name, ref.folder)
