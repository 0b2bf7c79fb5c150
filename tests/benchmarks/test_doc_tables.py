"""The planner against published figures, and the generated tables of the documentation."""

import re
from pathlib import Path

import pytest

from assistant_builder.config import StudyConfig
from assistant_builder.errors import EvaluationError
from assistant_builder.planning.advice import to_document
from assistant_builder.planning.hardware import CARDS, choose_machine
from assistant_builder.planning.plan import plan_study
from benchmarks.doc_tables import (
    EVALUATION_PAGE,
    MEMORY_CLAIMS,
    double_quant_saving,
    four_bit_gigabytes,
    hours_for,
    plan,
    read_section,
    sections,
    write_section,
)
from evals.metrics import METRICS


def test_65b_goes_from_260_to_about_35_gigabytes():
    assert 4 * plan("llama-65b").architecture.parameters / 1e9 == pytest.approx(260, rel=0.01)
    assert four_bit_gigabytes("llama-65b") == pytest.approx(35, rel=0.03)


def test_double_quantization_saves_as_much_as_published():
    bits, gigabytes = double_quant_saving("llama-65b")
    assert bits == pytest.approx(0.5 - (8 / 64 + 32 / (64 * 256)), abs=0.0005)
    assert gigabytes == pytest.approx(3, rel=0.03)


@pytest.mark.parametrize(("model", "quoted"), [("7b", 5.5), ("13b", 10), ("33b", 21), ("65b", 41)])
def test_the_paper_s_4_bit_totals(model, quoted):
    assert plan(f"llama-{model}").qlora.total_bytes / 1e9 == pytest.approx(quoted, rel=0.06)


@pytest.mark.parametrize(
    ("model", "card", "sixteen_bit"),
    [
        ("llama-2-7b", "RTX 3090 24 GB", "room"),
        ("llama-2-13b", "RTX A6000 48 GB", "room"),
        ("llama-2-70b", "A100 80 GB", "no"),
    ],
)
def test_models_fit_the_cards_they_are_quoted_with(model, card, sixteen_bit):
    seen = plan(model, card=card)
    assert seen.qlora.fit == "room" and seen.lora.fit == sixteen_bit


@pytest.mark.parametrize("claim", MEMORY_CLAIMS, ids=lambda claim: f"{claim.size} on {claim.card}")
def test_a_memory_claim_holds_for_its_arms_only(claim):
    config = StudyConfig().with_changes({"model.base": claim.model})
    document = to_document(plan_study(config, machine=choose_machine(card=claim.card)))
    assert tuple(document["recommendation"]["arms_that_fit"]) == claim.arms


def test_the_page_about_gpus_names_the_cards_of_the_catalog():
    page = (
        Path(__file__).resolve().parents[2].joinpath("docs", "gpu.md").read_text(encoding="utf-8")
    )
    (cards,) = re.findall(r"`plan --card` knows: (.*?);", page, re.DOTALL)
    assert " ".join(cards.split()).split(", ") == list(CARDS)


def test_35_gigabytes_for_llama_3_leaves_out_embeddings_and_constants():
    seen = plan("llama-3-70b")
    linear = sum(module.weights for module in seen.architecture.linear())
    assert linear / 2e9 == pytest.approx(34.2, abs=0.1)
    assert four_bit_gigabytes("llama-3-70b") == pytest.approx(39.5, abs=0.1)
    assert seen.qlora.adapter_bytes / 1e9 == pytest.approx(0.83, abs=0.01)


def test_the_time_is_proportional_to_the_tokens_and_14_hours_is_plausible():
    assert hours_for(10_000, 100) < 14 < hours_for(10_000, 512)
    assert hours_for(20_000, 100) == pytest.approx(2 * hours_for(10_000, 100), rel=0.01)


@pytest.mark.parametrize(("page", "name"), sections())
def test_the_tables_of_the_documentation_are_up_to_date(page, name):
    assert read_section(name, page) == sections()[page, name], (
        "regenerate them with: python -m benchmarks.doc_tables"
    )


def test_every_metric_has_its_blind_spots_in_the_table():
    assert all(
        info.blind_spots in read_section("metrics", EVALUATION_PAGE) for info in METRICS.values()
    )


def test_sections_are_replaced_between_their_marks(tmp_path):
    path = tmp_path / "README.md"
    path.write_text("before\n<!-- a: begin -->\nold\n<!-- a: end -->\nafter\n", encoding="utf-8")
    write_section("a", "new", path)
    write_section("a", "| new |\n| --- |", path)
    kept = "before\n<!-- a: begin -->\n\n{}\n\n<!-- a: end -->\nafter\n"
    assert path.read_text(encoding="utf-8") == kept.format("| new |\n| --- |")
    assert read_section("a", path) == "| new |\n| --- |"
    with pytest.raises(EvaluationError, match="marks of the section b"):
        write_section("b", "new", path)
