"""The arms: the assistants that a study can train, with their names, colours, storage and evaluation cells.

Arms differ in the storage of the frozen base on which the adapter is trained. Configuration, command line, page,
report, chat and export read this registry, so that one call of :func:`register` in a plugin adds an arm. The paired
twins, ``TWINS``, are the default of every study and decide its verdict; a further arm is trained on the same pairs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from assistant_builder.i18n import N_, Message, Text, bits, m, t
from assistant_builder.quantization import UNQUANTIZED
from assistant_builder.registry import Registry

Symbol = Literal["circle", "diamond", "square", "triangle-up", "cross"]
"""Shape of an arm's marks in charts."""
FOUR_BIT = "4-bit"
"""Name of the storage ``model.quant_type`` in cells, whatever its bits; labels have ``{bits}`` for those."""
# part of the names of training runs (lora-2), folders and CSS classes
_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")
_CELL = re.compile(r"[A-Z][A-Za-z0-9]{0,15}")
_RESERVED = frozenset({"a", "b", "base", "both", "full", "hidden", "neither"})
_COLOR = re.compile(r"#[0-9a-f]{6}")


@dataclass(frozen=True)
class Arm:
    """One assistant that a study can train."""

    name: str  # key in ``study.yaml``, on the command line, in folders and in ``report.json``
    label: str  # name in tables, in charts and on the page: ``Compact (QLoRA, 4-bit)``
    short: str  # technical name in sentences: ``QLoRA``
    color: str  # colour on a light background, ``#rrggbb``
    dark_color: str = ""  # colour on a dark background; empty: ``color``
    symbol: Symbol = "square"  # shape of its marks in charts
    plain: str = ""  # name in sentences for readers who know no technical terms: ``Compact``; empty: ``short``
    # name of the quantization method that stores the base, ``float16`` for none; None: the study's ``model.quant_type``
    storage: str | None = None
    # whether the adapter is trained through the rounding of ``train.qat_type``, and the assistant is served rounded
    rounds: bool = False
    # name of the cell that scores the adapter as served: on the base that it was trained on
    cell: str = ""
    merged_cell: str = ""  # name of the cell that scores the adapter merged into that base; empty: ``cell`` and ``M``
    # name of the cell that scores that base without an adapter; empty: ``B16``, ``B4``, or for a storage that neither
    # has ``cell`` and ``B``
    untuned_cell: str = ""

    def __post_init__(self) -> None:
        """Validate the names and colours (ValueError), and set the default of empty ones."""
        if not _NAME.fullmatch(self.name) or self.name in _RESERVED:
            raise ValueError(
                f"arm name {self.name!r} must consist of a-z, 0-9 and _, and not be one of "
                f"{', '.join(sorted(_RESERVED))}"
            )
        for color in (self.color, self.dark_color or self.color):
            if not _COLOR.fullmatch(color):
                raise ValueError(f"colour {color!r} of arm {self.name} must look like #1a2b3c")
        cell = self.cell or self.name.replace("_", "").capitalize()
        if not _CELL.fullmatch(cell):
            raise ValueError(
                f"cell name {cell!r} of arm {self.name} must consist of letters and digits and begin with a capital"
            )
        shared = {UNQUANTIZED: "B16", None: "B4"}
        for key, value in (
            ("dark_color", self.color),
            ("plain", self.short),
            ("cell", cell),
            ("merged_cell", f"{cell}M"),
            ("untuned_cell", shared.get(self.storage, f"{cell}B")),
        ):
            object.__setattr__(self, key, getattr(self, key) or value)

    @property
    def base(self) -> str:
        """Storage of its base in cells: ``float16``, ``4-bit``, or the name of the method."""
        return self.storage or FOUR_BIT

    @property
    def quantized(self) -> bool:
        """Whether its base is stored in fewer than 16 bits."""
        return self.storage != UNQUANTIZED

    @property
    def base_label(self) -> str:
        """Storage of its base in text: ``16-bit``, ``4-bit`` (with the bits of the context), or the method's name."""
        return "16-bit" if not self.quantized else self.storage or f"{bits()}-bit"

    @property
    def cells(self) -> tuple[str, ...]:
        """The cells of a further arm: as served, untuned, and merged."""
        return tuple(dict.fromkeys((self.cell, self.untuned_cell, self.merged_cell)))

    def base_storage(self, quant_type: str) -> str:
        """The quantization method that stores its base in a study with this ``model.quant_type``."""
        return self.storage or quant_type


@dataclass(frozen=True)
class CellSpec:
    """One combination of base and adapter that an evaluation scores."""

    name: str  # key in ``eval.cells`` and ``report.json``
    # storage of the frozen base: ``float16``, ``4-bit`` (the study's ``model.quant_type``), or the name of a
    # quantization method
    base: str
    adapter: str | None  # the arm whose adapter is used; None: untuned
    # None: the adapter stays separate from the base. ``merged``: it is merged into the base, which is then stored in
    # float16. ``quantized``: the merged model is quantized to 4 bits. ``rounded``: it has the values of a file of the
    # type ``train.qat_type``
    merged: Literal["merged", "quantized", "rounded"] | None
    label: str  # name in tables
    about: Message  # description in the report

    def scorable(self, arms: Iterable[str]) -> bool:
        """Whether a study that trains these arms, the one of the adapter among them, can score the cell.

        A cell that holds all 16-bit weights of the base in memory at once, as merging does, also needs an arm that
        trains on them: a study without one may run where they do not fit.
        """
        trained = set(arms)
        wide = self.base == UNQUANTIZED or self.merged is not None
        return (self.adapter is None or self.adapter in trained) and (
            not wide or not all(ARMS[arm].quantized for arm in trained)
        )


ARMS: Registry[Arm] = Registry("arm")
"""Every arm by its name, in the order of training."""
CELLS: Registry[CellSpec] = Registry("cell")
"""Every evaluation cell by its name, in the order of the report."""

LORA = ARMS.register(
    Arm(
        "lora",
        N_("Full (LoRA, 16-bit)"),
        "16-bit LoRA",
        "#0a63bf",
        "#6fb3ff",
        "circle",
        N_("Full"),
        storage=UNQUANTIZED,
        cell="L16",
        merged_cell="LM",
    )
)
QLORA = ARMS.register(
    Arm(
        "qlora",
        N_("Compact (QLoRA, {bits}-bit)"),
        "QLoRA",
        "#bf4a0b",
        "#ff9f63",
        "diamond",
        N_("Compact"),
        storage=None,
        cell="Q4",
        merged_cell="QD",
    )
)
TWINS = (LORA.name, QLORA.name)
"""The paired arms whose comparison is the verdict of a study: the 16-bit baseline, then the candidate."""
TWINS_TITLE = N_("Compact (QLoRA, {bits}-bit) or Full (LoRA, 16-bit)?")
"""Title of what compares the twins."""
_ABOUT = {
    "B16": m("the base model in float16, before any training"),
    "B4": m("the base model stored in {bits} bits, before any training"),
    "L16": m("the baseline: adapter trained on the float16 base, answering on it"),
    "Q4": m("QLoRA as served: adapter trained on the {bits}-bit base, answering on it"),
    "L4": m("the 16-bit-trained adapter put on the {bits}-bit base"),
    "Q16": m("QLoRA's adapter moved to the full base, as most tools export it"),
    "QD": m("QLoRA's adapter merged into its own base, widened back to 16 bits"),
    "QR": m("that export quantized to {bits} bits again"),
    "LM": m("the 16-bit adapter merged into the float16 base"),
    "LR": m(
        "tuned in 16-bit, merged, quantized to {bits} bits afterwards: QLoRA's rival at the same serving memory"
    ),
}
for _cell in (
    CellSpec("B16", UNQUANTIZED, None, None, N_("Untuned, 16-bit"), _ABOUT["B16"]),
    CellSpec("B4", FOUR_BIT, None, None, N_("Untuned, {bits}-bit"), _ABOUT["B4"]),
    CellSpec("L16", UNQUANTIZED, "lora", None, LORA.label, _ABOUT["L16"]),
    CellSpec("Q4", FOUR_BIT, "qlora", None, QLORA.label, _ABOUT["Q4"]),
    CellSpec("L4", FOUR_BIT, "lora", None, N_("LoRA adapter, {bits}-bit base"), _ABOUT["L4"]),
    CellSpec("Q16", UNQUANTIZED, "qlora", None, N_("QLoRA adapter, 16-bit base"), _ABOUT["Q16"]),
    CellSpec("QD", FOUR_BIT, "qlora", "merged", N_("QLoRA export"), _ABOUT["QD"]),
    CellSpec("QR", FOUR_BIT, "qlora", "quantized", N_("QLoRA export, requantized"), _ABOUT["QR"]),
    CellSpec("LM", UNQUANTIZED, "lora", "merged", N_("LoRA export"), _ABOUT["LM"]),
    CellSpec("LR", UNQUANTIZED, "lora", "quantized", N_("LoRA export, quantized"), _ABOUT["LR"]),
):
    CELLS.register(_cell)
TWIN_CELLS = tuple(_ABOUT)
"""The cells that the comparison of the twins consists of; the default of ``eval.cells``."""


def register(arm: Arm) -> Arm:
    """Add a further arm, and the cells that its attributes name; ValueError if another arm or cell has the name."""
    base: Text = (arm.storage or m("{bits}-bit")) if arm.quantized else m("16-bit")
    values = {"arm": arm.short, "base": base}
    served = (
        m(
            "{arm} as served: adapter merged into the {base} base and rounded to the format that it was trained for",
            **values,
        )
        if arm.rounds
        else m("{arm} as served: adapter trained on the {base} base, answering on it", **values)
    )
    untuned = m("the base model stored as {base}, before any training", **values)
    merged = m("the adapter of {arm} merged into its own base, in 16 bits", **values)
    rounded: Literal["rounded"] | None = "rounded" if arm.rounds else None
    for cell in (
        CellSpec(arm.cell, arm.base, arm.name, rounded, arm.label, served),
        CellSpec(arm.untuned_cell, arm.base, None, None, f"Untuned, {arm.storage}", untuned),
        CellSpec(arm.merged_cell, arm.base, arm.name, "merged", f"{arm.short} export", merged),
    ):
        if cell.name not in (LORA.untuned_cell, QLORA.untuned_cell):
            CELLS.register(cell)
    return ARMS.register(arm)


QAT = register(
    Arm(
        "qat",
        N_("Rounding-aware (QAT, 4-bit file)"),
        "QAT LoRA",
        "#00785a",
        "#4fd1ab",
        "triangle-up",
        N_("Rounding-aware"),
        storage=UNQUANTIZED,
        rounds=True,
        cell="QT",
        merged_cell="QTM",
    )
)
"""LoRA that is trained through the rounding of the file to ship."""


def with_arm(arms: Iterable[str], added: str) -> list[str]:
    """The arms and one more, in the order of training."""
    wanted = {*arms, added}
    return [arm for arm in ARMS if arm in wanted]


def continued(arm: str, arms: Iterable[str]) -> str | None:
    """The arm whose trained adapter an arm starts from in a study with these arms; None: from a new adapter."""
    return LORA.name if ARMS[arm].rounds and LORA.name in arms else None


def compares(arms: Iterable[str]) -> bool:
    """Whether a study that trains these arms compares the twins, and so has a verdict."""
    return set(TWINS) <= set(arms)


def headline_arms(arms: Sequence[str]) -> tuple[str, ...]:
    """The arms of the headline: the twins, or the first arm if only one twin is trained."""
    return TWINS if compares(arms) else tuple(arms[:1])


def further_arms(arms: Iterable[str]) -> tuple[str, ...]:
    """The arms other than the twins, in the given order."""
    return tuple(arm for arm in arms if arm not in TWINS)


def plain_order(arms: Iterable[str]) -> tuple[str, ...]:
    """The order of columns, panes and choices: QLoRA, its 16-bit twin, then further arms as given."""
    return tuple(sorted(arms, key=lambda arm: -TWINS.index(arm) if arm in TWINS else 1))


def main_cells(arms: Iterable[str]) -> tuple[str, ...]:
    """The untuned bases and the assistants as served: the columns of the first table, and cells of additional tasks."""
    known = [ARMS[arm] for arm in (*TWINS, *further_arms(arms))]
    return tuple(
        dict.fromkeys([*(arm.untuned_cell for arm in known), *(arm.cell for arm in known)])
    )


def untuned_base(arms: Sequence[str]) -> str:
    """The cell of the untuned base with retrieval: ``B16``, else that of the first arm."""
    return (
        LORA.untuned_cell if CELLS[LORA.untuned_cell].scorable(arms) else ARMS[arms[0]].untuned_cell
    )


def base_owner(arms: Iterable[str]) -> str:
    """The arm whose base is the untuned base model in the chat: ``lora``, else the first."""
    return next(arm for arm in ARMS if arm in arms)


def label(arm: str) -> str:
    """The label of an arm in the language of the page; the name itself if the arm is unknown."""
    return t(ARMS[arm].label) if arm in ARMS else arm


def plain(arm: str) -> str:
    """The plain name of an arm in the language of the page; the name itself if the arm is unknown."""
    return t(ARMS[arm].plain) if arm in ARMS else arm


def css_variables(*, dark: bool = False) -> str:
    """The CSS custom property ``--arm-NAME`` of every arm, and ``--candidate`` for differences between the twins."""
    colors = {arm.name: arm.dark_color if dark else arm.color for arm in ARMS.values()}
    return " ".join(
        [
            *(f"--arm-{name}: {color};" for name, color in colors.items()),
            f"--candidate: {colors[QLORA.name]};",
        ]
    )


def css_rules(*rules: str) -> str:
    """CSS rules for every arm; each contains ``ARM`` for its name: ``.bar.ARM { fill: var(--arm-ARM); }``."""
    return "\n".join(rule.replace("ARM", arm) for rule in rules for arm in ARMS)
