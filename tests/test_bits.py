"""The bits of a storage in labels and sentences, in every language, in plans, exports and on the page."""

import re

import pytest

from assistant_builder.arms import QAT, QLORA, label
from assistant_builder.config import StudyConfig
from assistant_builder.export_formats import ExportSpec, formats_of_cell
from assistant_builder.i18n import bits, t, use_bits, use_language
from assistant_builder.planning.advice import to_document, warnings
from assistant_builder.planning.hardware import CARDS
from assistant_builder.planning.plan import plan_study
from assistant_builder.quantization import METHODS, texts_of
from assistant_builder.ui.plan.view import plan_panel, plan_text

CALLED_4_BIT = re.compile(r"(?<![\w.])4[- ][Bb]its?\b")


@pytest.mark.parametrize(
    ("language", "compact", "rounded"),
    [
        ("en", "Compact (QLoRA, 8-bit)", "4-bit file"),
        ("de", "Kompakt (QLoRA, 8 Bit)", "4-Bit-Datei"),
        ("es", "Compacto (QLoRA, 8 bits)", "archivo de 4 bits"),
        ("fr", "Compact (QLoRA, 8 bits)", "fichier 4 bits"),
    ],
)
def test_labels_name_the_bits_of_the_storage_in_every_language(language, compact, rounded):
    with use_language(language), texts_of("int8"):
        assert label(QLORA.name) == compact
        assert rounded in label(QAT.name)  # the file of the arm qat is in 4 bits in any study
        assert not CALLED_4_BIT.search(t("{bits}-bit is no worse"))
        assert "8" in t("{bits}-bit is no worse")
        assert "4" in t("The base model had been rounded to {bits} bits before.", bits=4)
    assert "4" in label(QLORA.name)


def test_values_are_left_as_they_are():
    with use_bits(8):
        assert t("Compare with {name}", name="4-bit") == "Compare with 4-bit"
        assert t("{bits}-bit is worse") == "8-bit is worse"
    with texts_of("a storage of a plugin that is gone"):
        assert bits() == 4


@pytest.mark.parametrize("machine", [None, "A100 80 GB"])
def test_a_plan_of_int8_counts_half_and_never_says_4_bit(machine):
    config = StudyConfig().with_changes({"model.quant_type": "int8"})
    plan = plan_study(config, machine=CARDS[machine] if machine else None)
    linear = {module.name for module in plan.architecture.linear()}
    narrow, wide = (
        sum(stored for name, _, stored in method.layers if name in linear)
        for method in (plan.qlora, plan.lora)
    )
    assert narrow == sum(
        METHODS["int8"].weight_bytes(module.outputs, module.inputs, double_quant=True)
        for module in plan.architecture.linear()
    )
    assert 0.5 < narrow / wide < 0.51
    columns, rows, lines = plan_text(plan)
    texts = [
        str(to_document(plan)),
        *warnings(plan),
        *columns,
        *map(str, rows),
        *lines,
        plan_panel(plan),
    ]
    assert not [found[0] for text in texts for found in CALLED_4_BIT.finditer(text)]
    assert any("8-bit" in text for text in texts)


def test_the_requantized_cell_is_the_export_of_the_study_s_own_storage():
    narrow, wide = ExportSpec("qlora", "prequantized"), ExportSpec("lora", "prequantized", "INT8")
    assert narrow.cell_in("nf4") == "QR"
    assert narrow.cell_in("int8") is None
    assert narrow.cell_in("fp4") is None
    assert (wide.cell_in("nf4"), wide.cell_in("int8")) == (None, "LR")
    assert ExportSpec("qlora", "adapter").cell_in("int8") == "Q4"
    assert narrow.cell == "QR"
    assert wide.cell is None
    for quant_type, expected in (
        ("nf4", ["prequantized"]),
        ("int8", ["prequantized"]),
        ("fp4", []),
    ):
        assert [format.name for format in formats_of_cell("lora", "LR", quant_type)] == expected
