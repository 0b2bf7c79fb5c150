"""Write a bundle of a study or of a comparison of models."""

from __future__ import annotations

import hashlib
import hmac
import math
import secrets
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from assistant_builder import __version__
from assistant_builder.atomic_io import file_hash, read_json, write_bytes
from assistant_builder.errors import AssistantBuilderError, EvaluationError, StudyError
from assistant_builder.i18n import m
from assistant_builder.study import Study
from assistant_builder.study.containment import is_plain_name
from evals.bundle.auditor import LIMITATIONS, NOT_RECORDED, auditor_document
from evals.bundle.container import SEAL, digest_of, line_of, seal_of
from evals.bundle.sbom import bill_of_materials
from evals.bundle.signature import KeyProblem, sign
from evals.bundle.verify import FIGURES, FORMAT, LINES, LOSS
from evals.compare import Comparison
from evals.model_compare.declare import Record, declaration_hash
from evals.model_compare.questions import build_items
from evals.model_compare.run import FILE as JUDGEMENT
from evals.model_compare.run import (
    QUESTIONS,
    judgement_folder,
    judgements_folder,
    read_pairs,
    read_results,
    rules_of,
)
from evals.model_compare.verdict import compare
from evals.report.build import build_report
from evals.report.contrasts import figures_of
from evals.report.load import Cell
from evals.report.rules import Call, recorded_calls
from evals.report.schema import Report

SALT = "bundle-salt"
"""File in the folder: what hides hashed texts from guessing; with it the owner can show that a text is the one."""
_WRONG = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, AssertionError)
_HASHED = ("question", "reference")
_SALT_BYTES = 64
_KEPT = ("study.yaml", "declaration.json", "report.json", JUDGEMENT, QUESTIONS)
_PATTERNS = ("data/*.json*", "evals/**/*.json*", "arms/*/adapter/*", "arms/*/*.json", "?.jsonl")


class _Bundle:
    """Collects the lines; cells, comparisons and labels are shared by what refers to them."""

    def __init__(self, items: Sequence[dict[str, Any]], names: Sequence[str]) -> None:
        self.items = list(items)
        self._place = {name: place for place, name in enumerate(names)}
        self.cells: list[dict[str, Any]] = []
        self._cells: dict[int, tuple[int, Cell]] = {}
        self.labels: dict[str, list[Hashable]] = {}
        self.comparisons: list[dict[str, Any]] = []
        self._comparisons: dict[int, int] = {}
        self.figures: list[dict[str, Any]] = []
        self.claims: list[dict[str, Any]] = []
        self.verdicts: list[dict[str, Any]] = []

    def cell(self, cell: Cell) -> int:
        """The place of a cell, which is added if it is new."""
        if id(cell) not in self._cells:
            self._cells[id(cell)] = len(self.cells), cell
            samples = [cell.by_item[name] for name in self._place]
            given = [sample.get("answer") for sample in samples]
            self.cells.append(
                {
                    "name": cell.name,
                    "nll": [sample.get("nll") for sample in samples],
                    "tokens": [sample.get("tokens") for sample in samples],
                    "metrics": {},
                    **({"answers": given} if any(given) else {}),
                }
            )
        return self._cells[id(cell)][0]

    def column(self, cell: Cell, metric: str) -> int:
        """The place of a cell with the scores of a metric."""
        place = self.cell(cell)
        metrics = self.cells[place]["metrics"]
        if metric != LOSS and metric not in metrics:
            metrics[metric] = [cell.value(name, metric) for name in self._place]
        return place

    def chosen(self, names: Sequence[str]) -> list[int] | None:
        """The places of items, or None if they are all, in order."""
        places = [self._place[name] for name in names]
        return None if places == list(range(len(self._place))) else places

    def comparison(self, call: Call) -> int:
        """The place of a comparison, which is added if it is new."""
        if id(call) not in self._comparisons:
            self._comparisons[id(call)] = len(self.comparisons)
            strata = list(call.labels.get("strata", ()))
            for kind in call.labels.values():
                for name, labels in kind.items():
                    self._label(name, call.items, labels)
            self.comparisons.append(
                {
                    "baseline": self.column(call.baseline, call.metric),
                    "candidate": self.column(call.candidate, call.metric),
                    "metric": call.metric,
                    "items": self.chosen(call.items),
                    "clusters": list(call.labels["clusters"]),
                    "related": list(call.labels["related"]),
                    "strata": strata[0] if strata else None,
                    "weighted": call.metric == LOSS,
                    "options": {
                        **call.options,
                        "margin": call.options["margin"],
                        "bounds": call.options["bounds"] and list(call.options["bounds"]),
                    },
                    "result": {**result_of(call.result), "verdict": call.result.verdict},
                }
            )
        return self._comparisons[id(call)]

    def _label(self, name: str, items: Sequence[str], labels: Sequence[Hashable]) -> None:
        column = self.labels.setdefault(name, [_UNKNOWN] * len(self._place))
        for item, label in zip(items, labels, strict=True):
            place = self._place[item]
            if column[place] is not _UNKNOWN and column[place] != label:
                raise AssertionError(f"item {item} has two labels {name}")
            column[place] = label

    def coded_labels(self) -> dict[str, list[int | None]]:
        """The labels as numbers, in the order in which they occur; a missing one is None."""
        found = {}
        for name, column in self.labels.items():
            codes: dict[Hashable, int] = {}
            found[name] = [
                None
                if label is _UNKNOWN or label is None or label == "" or label != label
                else codes.setdefault(label, len(codes))
                for label in column
            ]
        return found


_UNKNOWN = object()


def result_of(result: Comparison) -> dict[str, Any]:
    """The figures of a comparison."""
    figures = figures_of(result)
    return {key: figures[key] for key in FIGURES}


def write_bundle(
    name: str,
    target: Path,
    *,
    private: bool = False,
    key: Path | None = None,
    password: bytes | None = None,
) -> Path:
    """Write the bundle of a finished study, or of a comparison of models of this name.

    Args:
        name: Name of the study, or of the folder of the comparison.
        target: The file; an earlier one is replaced.
        private: Whether questions, references and answers are replaced by salted hashes.
        key: An Ed25519 private key in PEM, with which it is signed.
        password: Password of the key.

    Raises:
        StudyError: There is neither, it is not finished, or its report does not follow from its scores.
        EvaluationError: The scores cannot be read, or the key cannot be used.
    """
    judged = judgements_folder() / name
    try:
        if is_plain_name(name) and (judged / JUDGEMENT).is_file():
            folder = judgement_folder(name)
            values = _of_judgement(folder)
        else:
            study = Study.open(name)
            folder, values = study.folder, _of_study(study)
    except AssistantBuilderError:
        raise
    except _WRONG as error:  # files of somebody else need not belong together
        raise StudyError(
            m(
                "its files are damaged, or do not belong together ({error})",
                error=f"{error!r:.100}",
            ),
            where=name,
            remedy=m("Run its command again, or ask whoever made it for the right files"),
        ) from error
    if private:
        _hide(values, _salt(folder))
    lines = [(each, line_of(each, values[each])) for each in LINES]
    signature = None
    if key is not None:
        try:
            signature = sign(digest_of(lines), key, password)
        except KeyProblem as problem:
            raise EvaluationError(
                m("the bundle cannot be signed: {problem}", problem=str(problem)),
                where=str(key),
                remedy=m(
                    "Make a key with 'openssl genpkey -algorithm ed25519 -out key.pem', and install the extra audit"
                ),
            ) from problem
    lines.append((SEAL, line_of(SEAL, seal_of(lines, signature))))
    write_bytes(target, b"".join(line for _, line in lines))
    return target


def _of_study(study: Study) -> dict[str, Any]:
    path = study.report_file
    if not path.is_file():
        raise StudyError(
            m("{study} {name} has no report", name=study.name),
            where="bundle",
            remedy=m("Finish it with 'assistant-builder run {name}'", name=study.name),
        )
    report = Report.load(path)
    view = study.of_choice(getattr(report, "recommended_approach", None) or None)
    with recorded_calls() as calls:
        rebuilt = build_report(view)
    written = read_json(path)
    for part in ("outcome", "delta", "ci", "bounds"):
        if written["verdict"].get(part) != rebuilt["verdict"].get(part):
            raise StudyError(
                m(
                    "the report does not follow from the scores: its verdict has another {part}",
                    part=part,
                ),
                where=str(path),
                remedy=m("Write it again with 'assistant-builder run {name}'", name=study.name),
            )
    find = _finder(calls)
    rows = {row["item"]: row for row in rebuilt["items"]}
    names = [str(item) for item in rows]
    bundle = _Bundle(
        [
            {
                "item": str(row["item"]),
                **{key: row.get(key) for key in ("answerable", "question", "reference")},
            }
            for row in rows.values()
        ],
        names,
    )
    by_name: dict[str, Cell] = {}
    for row in rebuilt["contrasts"]:
        candidate, _, baseline = row["name"].rpartition("-")
        call = find(row, row["metric"], baseline, candidate)
        by_name |= {baseline: call.baseline, candidate: call.candidate}
        bundle.claims.append(
            {
                "place": f"contrasts: {row['name']}, {row['metric']}",
                "comparison": bundle.comparison(call),
                "baseline": baseline,
                "candidate": candidate,
                "metric": row["metric"],
                **{key: row[key] for key in ("delta", "ci_low", "ci_high", "p_value", "n")},
                "n_clusters": row["n_clusters"],
            }
        )
        for side in (call.baseline, call.candidate):
            record = {**rebuilt["cells"], **rebuilt["baselines"]}[side.name]
            value = record["metrics"].get(row["metric"])
            place = f"cells: {side.name}, {row['metric']}"
            items = bundle.chosen(call.items)
            same = [each for each in bundle.figures if each["place"] == place]
            if (
                value is not None
                and not same
                and math.isclose(value, _figure(side, row["metric"], call.items), rel_tol=1e-12)
            ):
                bundle.figures.append(
                    {
                        "place": place,
                        "cell": bundle.column(side, row["metric"]),
                        "metric": row["metric"],
                        "items": items,
                        "value": value,
                    }
                )
    verdict = rebuilt["verdict"]
    if rebuilt.get("verdict", {}).get("bounds"):
        _add_verdict(bundle, "verdict", verdict, find, rebuilt["sentence"])
    declaration = read_json(study.folder / "declaration.json")
    return {
        "bundle": {
            **_head("study", study.name),
            "storage": study.config.model.quant_type,
            "approach": view.config.approaches[0],
        },
        "declaration": {key: declaration[key] for key in ("declared", "sha256", "heldout_sha256")}
        | {"written": declaration.get("written")},
        **_parts(bundle),
        "provenance": _plain(rebuilt["provenance"]),
        "files": files_of(study.folder),
        "auditor": auditor_document(written, study),
        "sbom": bill_of_materials(),
    }


def _figure(cell: Cell, metric: str, items: Sequence[str]) -> float:
    from evals.report.load import figure

    return figure(cell, metric, list(items))


def _of_judgement(folder: Path) -> dict[str, Any]:
    record = read_json(folder / JUDGEMENT, Record)
    if not (folder / "report.json").is_file():
        raise StudyError(
            m("the comparison {name} is not finished", name=folder.name),
            where="bundle",
            remedy=m("Run its command 'assistant-builder judge' again: it continues"),
        )
    if declaration_hash(record) != record["sha256"]:
        raise StudyError(
            m("the declaration was changed after it was written"),
            where=str(folder / JUDGEMENT),
            remedy=m("Judge the models again under another name"),
        )
    pairs = read_pairs(folder)
    items = build_items(pairs)
    results = {
        each["letter"]: read_results(folder, each["letter"]) for each in record["candidates"]
    }
    names = {each["letter"]: f"{each['letter']} ({each['name']})" for each in record["candidates"]}
    with recorded_calls() as calls:
        compared = compare(items, results, names, rules_of(record, pairs), record["level"])
    find = _finder(calls)
    bundle = _Bundle([dict(item) for item in items], [item["item"] for item in items])
    for row in compared["contrasts"]:
        metric = LOSS if row["metric"] == "nll_per_byte" else row["metric"]
        call = find(row, metric, row["baseline"], row["candidate"])
        claim = {key: row[key] for key in ("baseline", "candidate", "delta", "ci_low", "ci_high")}
        claim |= {key: row[key] for key in ("p_value", "n", "n_clusters")}
        place = f"contrasts: {row['name']}, {row['metric']}"
        number = bundle.comparison(call)
        bundle.claims.append({"place": place, "comparison": number, "metric": metric, **claim})
        for side, key in ((call.baseline, "a"), (call.candidate, "b")):
            bundle.figures.append(
                {
                    "place": f"{place}, {side.name}",
                    "cell": bundle.column(side, metric),
                    "metric": metric,
                    "items": bundle.chosen(call.items),
                    "value": row[key],
                }
            )
    for verdict in compared["verdicts"]:
        _add_verdict(bundle, f"verdict on {verdict['cell']}", verdict, find, verdict["sentence"])
    report = read_json(folder / "report.json")
    return {
        "bundle": _head("judgement", record["name"]),
        "declaration": _plain(record),
        **_parts(bundle),
        "provenance": _plain(record["provenance"]),
        "files": files_of(folder),
        "auditor": auditor_document(report, None),
        "sbom": bill_of_materials(),
    }


def _add_verdict(
    bundle: _Bundle, place: str, verdict: Mapping[str, Any], find: _Find, sentence: str
) -> None:
    metric = LOSS if verdict["metric"] == "nll_per_byte" else verdict["metric"]
    named = [verdict.get("baseline"), verdict.get("cell")]
    calls = []
    for bound in verdict["bounds"]:
        row = {**bound, "ci_low": bound["ci"][0], "ci_high": bound["ci"][1]}
        calls.append(
            find(row, bound["metric"], *named, margin=bound["margin"], level=verdict["level"])
        )
    bundle.verdicts.append(
        {
            "place": place,
            "outcome": verdict["outcome"],
            "sentence": sentence,
            "metric": metric,
            "bounds": [bound["metric"] for bound in verdict["bounds"]] + list(verdict["not_shown"]),
            "comparisons": [bundle.comparison(call) for call in calls],
            "delta": verdict["delta"],
            "ci_low": verdict["ci"][0],
            "ci_high": verdict["ci"][1],
            "margin": verdict["margin"],
        }
    )


_Find = Callable[..., Call]


def _finder(calls: Iterable[Call]) -> _Find:
    known: dict[tuple[Any, ...], list[Call]] = {}
    for call in calls:
        result = call.result
        key = (
            call.metric,
            float(result.delta),
            float(result.ci_low),
            float(result.ci_high),
            result.n,
        )
        known.setdefault(key, []).append(call)

    def find(
        row: Mapping[str, Any],
        metric: str,
        baseline: str | None = None,
        candidate: str | None = None,
        **options: Any,
    ) -> Call:
        key = metric, row["delta"], row["ci_low"], row["ci_high"], row["n"]
        for call in known.get(key, ()):
            names = call.baseline.name, call.candidate.name
            wanted = baseline or names[0], candidate or names[1]
            given = {**call.options, "margin": call.result.margin}
            if names == wanted and all(given[name] == each for name, each in options.items()):
                return call
        raise AssertionError(f"no comparison has the figures of {metric}")

    return find


def _parts(bundle: _Bundle) -> dict[str, Any]:
    return {
        "items": bundle.items,
        "cells": bundle.cells,
        "comparisons": bundle.comparisons,
        "figures": bundle.figures,
        "claims": bundle.claims,
        "verdicts": bundle.verdicts,
        "labels": bundle.coded_labels(),
    }


def _head(kind: str, name: str) -> dict[str, Any]:
    def known(package: str) -> str | None:
        try:
            return version(package)
        except PackageNotFoundError:
            return None

    return {
        "format": FORMAT,
        "kind": kind,
        "name": name,
        "questions": "text",
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "statistics": {
            "assistant_builder": __version__,
            "numpy": known("numpy"),
            "scipy": known("scipy"),
        },
    }


def _plain(value: Any) -> Any:
    """A value without subclasses of the types of JSON."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value


def files_of(folder: Path) -> list[dict[str, Any]]:
    """Path, size and hash of the files that the verdict follows from."""
    paths = {folder / name for name in _KEPT} | {
        path for pattern in _PATTERNS for path in folder.glob(pattern)
    }
    return [
        {
            "path": path.relative_to(folder).as_posix(),
            "bytes": path.stat().st_size,
            "sha256": file_hash(path),
        }
        for path in sorted(paths)
        if path.is_file() and not path.is_symlink()
    ]


def _salt(folder: Path) -> bytes:
    path = folder / SALT
    if not path.is_file() or path.stat().st_size < _SALT_BYTES:
        write_bytes(path, secrets.token_hex(32).encode(), mode=0o600)
    return path.read_bytes()


def _hide(values: dict[str, Any], salt: bytes) -> None:
    def hashed(text: str) -> str:
        return hmac.new(salt, text.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()

    values["bundle"]["questions"] = "hashed"
    values["items"] = [
        {
            **{key: item[key] for key in ("item", "answerable")},
            **{f"{key}_hmac_sha256": hashed(item[key] or "") for key in _HASHED},
        }
        for item in values["items"]
    ]
    for cell in values["cells"]:
        if "answers" in cell:
            given = cell.pop("answers")
            cell["answers_hmac_sha256"] = [
                None if answer is None else hashed(answer) for answer in given
            ]
    if "prompts" in values["declaration"]:
        values["declaration"]["prompts"] = []
    for row in values["auditor"]:  # a warning may quote a question, a prompt or a reply
        if row["field"] == LIMITATIONS:
            row.update(content=NOT_RECORDED, source="")
