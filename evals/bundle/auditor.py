"""Technical documentation for an auditor: the fields of the EU AI Act's Annex IV and of its Articles 10, 12 and 15.

Regulation (EU) 2024/1689. Each field is filled from the files of the study, with its source, or says "not recorded".
Nothing is invented: what only the provider knows, such as the intended purpose, is for the provider to add. This is no
legal advice, and most assistants that answer questions are not high-risk systems.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from assistant_builder.study import Study
from evals.report.markdown import escape

NOT_RECORDED = "not recorded"
LIMITATIONS = "limitations and foreseeable unintended outcomes"
COLUMNS = ("reference", "field", "content", "source")
Found = tuple[str, str] | None
"""The text of a field and its source."""
Fill = Callable[[Mapping[str, Any], Study | None], Found]


def auditor_document(report: Mapping[str, Any], study: Study | None) -> list[dict[str, str]]:
    """The fields in their order: ``reference``, ``field``, ``content`` and ``source``.

    Args:
        report: ``report.json`` of a study, or of a comparison of models.
        study: The study; None for a comparison.
    """
    rows = []
    for reference, field, fill in _FIELDS:
        found = fill(report, study) if fill is not None else None
        content, source = found if found and found[0] else (NOT_RECORDED, "")
        rows.append({"reference": reference, "field": field, "content": content, "source": source})
    return rows


def auditor_markdown(name: str, rows: list[dict[str, str]]) -> str:
    """The document as Markdown; text in it cannot form markup, HTML or links."""
    lines = [
        f"# Technical documentation of {escape(name)}",
        "",
        "Fields of Regulation (EU) 2024/1689, Annex IV and Articles 10, 12 and 15, filled from recorded files. No "
        "legal advice.",
        "",
        "| | field | content | source |",
        "| --- | --- | --- | --- |",
    ]
    cells = ([escape(" ".join(str(row[column]).split())) for column in COLUMNS] for row in rows)
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in cells), ""])


def _get(record: Any, *keys: str) -> Any:
    for key in keys:
        record = record.get(key) if isinstance(record, Mapping) else None
    return record


def _joined(values: Mapping[str, Any]) -> str:
    return "; ".join(f"{key}: {value}" for key, value in values.items() if value not in (None, ""))


def _name(report: Mapping[str, Any], study: Study | None) -> Found:
    name = report.get("study") or report.get("name")
    made = _get(report, "provenance", "assistant_builder")
    return f"{name}; made with Assistant Builder {made}", "report.json: study, provenance"


def _versions(report: Mapping[str, Any], study: Study | None) -> Found:
    packages = _get(report, "provenance", "packages") or {}
    return _joined(packages), "report.json: provenance.packages"


def _hardware(report: Mapping[str, Any], study: Study | None) -> Found:
    hardware = _get(report, "provenance", "hardware") or {}
    gpu = _get(hardware, "gpu", "name")
    found = {key: hardware.get(key) for key in ("cpu", "cores", "memory_bytes")} | {"gpu": gpu}
    return _joined(found) or str(_get(report, "provenance", "platform") or ""), (
        "report.json: provenance"
    )


def _forms(report: Mapping[str, Any], study: Study | None) -> Found:
    files = [f"{row['name']} ({row['bytes']:,} bytes)" for row in report.get("formats") or ()]
    files += [f"{each['name']} ({each['kind']})" for each in report.get("candidates") or ()]
    return ", ".join(files), "report.json: formats or candidates"


def _methods(report: Mapping[str, Any], study: Study | None) -> Found:
    train = _get(report, "config", "train")
    if not train:
        return None
    arms = ", ".join(report.get("arms") or ())
    kept = {key: train.get(key) for key in ("epochs", "learning_rate", "lora_rank", "batch_size")}
    steps = ", ".join(step["name"] for step in report.get("steps") or ())
    return f"arms: {arms}; {_joined(kept)}; steps: {steps}", "report.json: config.train, steps"


def _pretrained(report: Mapping[str, Any], study: Study | None) -> Found:
    base = _get(report, "provenance", "base_model")
    if base:
        kept = {key: base.get(key) for key in ("name", "hub_id", "revision", "sha256")}
        return _joined(kept), "report.json: provenance.base_model"
    hashes = {
        each["name"]: each.get("sha256") or each.get("url") for each in report.get("candidates", ())
    }
    return _joined(hashes), "report.json: candidates"


def _architecture(report: Mapping[str, Any], study: Study | None) -> Found:
    found = []
    for arm, each in (report.get("resources") or {}).items():
        kept = ("base_bytes", "adapter_bytes", "peak_memory_bytes", "train_seconds")
        found.append(f"{arm}: {_joined({key: each.get(key) for key in kept})}")
    return " / ".join(found), "report.json: resources"


def _data(report: Mapping[str, Any], study: Study | None) -> Found:
    data = _get(report, "provenance", "data")
    if data:
        splits = _joined(data.get("splits") or {})
        return f"file {data.get('file')}, SHA-256 {data.get('sha256')}; splits by hash: {splits}", (
            "report.json: provenance.data"
        )
    questions = report.get("questions") or {}
    return _joined(questions), "report.json: questions"


def _preparation(report: Mapping[str, Any], study: Study | None) -> Found:
    data = report.get("data") or {}
    plain = {key: value for key, value in data.items() if isinstance(value, int | str)}
    return _joined(plain), "report.json: data"


def _testing(report: Mapping[str, Any], study: Study | None) -> Found:
    frozen = _get(report, "verdict", "frozen") or report.get("declaration") or {}
    declared = frozen.get("declared") or {}
    kept = ("primary_metric", "margin", "second_metric", "second_margin", "decline_margin", "look")
    text = _joined({key: declared.get(key) for key in kept})
    return f"declared before scoring, SHA-256 {frozen.get('sha256')}: {text}", (
        "declaration.json or judgement.json"
    )


def _accuracy(report: Mapping[str, Any], study: Study | None) -> Found:
    return str(report.get("sentence") or ""), "report.json: sentence"


def _figures(report: Mapping[str, Any], study: Study | None) -> Found:
    rows = [
        f"{row['name']}, {row['metric']}: {row['delta']:.4g} [{row['ci_low']:.4g}, {row['ci_high']:.4g}]"
        for row in report.get("contrasts", ())
        if row["metric"] == report.get("primary_metric")
    ]
    return "; ".join(rows), "report.json: contrasts, 95 % intervals"


def _limits(report: Mapping[str, Any], study: Study | None) -> Found:
    found = [str(each.get("text", each) if isinstance(each, Mapping) else each)
             for each in report.get("warnings") or report.get("notes") or ()]  # fmt: skip
    return " ".join(found), "report.json: warnings or notes"


def _declines(report: Mapping[str, Any], study: Study | None) -> Found:
    rows = {
        name: f"{each['false_declines']} of {each['answerable_items']} declined by mistake, "
        f"{each['declined']} of {each['unanswerable_items']} rightly"
        for name, each in _declining(report)
    }
    return _joined(rows), "report.json: declining"


def _declining(report: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    keys = {"false_declines", "answerable_items", "declined", "unanswerable_items"}
    named = [(each["letter"], each.get("declining")) for each in report.get("candidates") or ()]
    for name, each in [*(_get(report, "declining", "cells") or {}).items(), *named]:
        if isinstance(each, Mapping) and keys <= each.keys():
            yield name, each


def _robustness(report: Mapping[str, Any], study: Study | None) -> Found:
    flips = report.get("flips")
    if not isinstance(flips, Mapping):
        return None
    floor = flips.get("noise_floor")
    return f"answers that another batch size alone changes: {_joined(floor)}" if isinstance(
        floor, Mapping
    ) else "", "report.json: flips.noise_floor"


def _logging(report: Mapping[str, Any], study: Study | None) -> Found:
    steps = report.get("steps")
    if not steps:
        written = _get(report, "declaration", "written")
        return (
            written and f"the declaration was written {written}; every answer is a line of a log",
            ("judgement.json, A.jsonl, …"),
        )
    return (
        f"{len(steps)} steps with start, duration and peak memory; every answer is a line of a log",
        ("report.json: steps; evals/**/samples.jsonl"),
    )


def _serving_log(report: Mapping[str, Any], study: Study | None) -> Found:
    served = _get(report, "config", "serving")
    return _joined(served) if isinstance(served, Mapping) else "", "report.json: config.serving"


_FIELDS: tuple[tuple[str, str, Fill | None], ...] = (
    ("Annex IV 1(a)", "intended purpose", None),
    ("Annex IV 1(a)", "name and version of the system", _name),
    ("Annex IV 1(a)", "provider", None),
    ("Annex IV 1(b)", "interaction with hardware or software that is not part of it", None),
    ("Annex IV 1(c)", "versions of relevant software", _versions),
    ("Annex IV 1(d)", "forms in which it is placed on the market", _forms),
    ("Annex IV 1(e)", "hardware on which it was made", _hardware),
    ("Annex IV 1(f)", "photographs of products of which it is a component", None),
    ("Annex IV 1(g)", "user interface provided to the deployer", None),
    ("Annex IV 1(h)", "instructions for use", None),
    ("Annex IV 2(a)", "methods and steps of development", _methods),
    ("Annex IV 2(a)", "pre-trained systems that were used", _pretrained),
    ("Annex IV 2(b)", "design specifications, key choices and assumptions", None),
    ("Annex IV 2(c)", "architecture and computational resources", _architecture),
    ("Annex IV 2(d)", "data: origin and provenance", _data),
    ("Annex IV 2(d)", "data: labelling and cleaning", _preparation),
    ("Annex IV 2(e)", "assessment of human oversight measures", None),
    ("Annex IV 2(f)", "pre-determined changes", None),
    ("Annex IV 2(g)", "validation and testing: procedures and metrics", _testing),
    ("Annex IV 2(g)", "validation and testing: results", _figures),
    ("Annex IV 2(h)", "cybersecurity measures", None),
    ("Annex IV 3", "degree of accuracy", _accuracy),
    ("Annex IV 3", LIMITATIONS, _limits),
    ("Annex IV 3", "human oversight measures", None),
    ("Annex IV 4", "appropriateness of the performance metrics", _testing),
    ("Annex IV 5", "risk management system (Article 9)", None),
    ("Annex IV 6", "changes through the lifecycle", None),
    ("Annex IV 7", "harmonised standards that were applied", None),
    ("Annex IV 8", "EU declaration of conformity", None),
    ("Annex IV 9", "post-market monitoring plan (Article 72)", None),
    ("Article 10(2)(a)", "design choices of data governance", None),
    ("Article 10(2)(b)", "data collection and origin", _data),
    ("Article 10(2)(c)", "preparation of the data", _preparation),
    ("Article 10(2)(d)", "assumptions on what the data measure", None),
    ("Article 10(2)(e)", "availability, quantity and suitability of the data", _preparation),
    ("Article 10(2)(f)", "examination for biases", None),
    ("Article 10(2)(g)", "measures against biases", None),
    ("Article 10(2)(h)", "data gaps and shortcomings", None),
    ("Article 10(5)", "special categories of personal data", None),
    ("Article 12(1)", "automatic recording of events in making and testing", _logging),
    ("Article 12(2)", "recording of events in service", _serving_log),
    ("Article 15(1)", "levels of accuracy", _figures),
    ("Article 15(3)", "accuracy metrics that are declared", _testing),
    ("Article 15(4)", "robustness: questions to decline", _declines),
    ("Article 15(4)", "robustness: numerical noise", _robustness),
    ("Article 15(4)", "feedback loops", None),
    ("Article 15(5)", "resilience against attacks", None),
)
