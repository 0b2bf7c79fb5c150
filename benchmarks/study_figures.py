"""``python -m benchmarks.study_figures STUDY…``: take the figures of finished studies over into the documentation.

The figures are kept in ``benchmarks/study_figures.json`` with the release, the commit, the date and the processor that
computed them, one entry for each study and processor. The tables of README.md and of the pages are made from that file
by ``python -m benchmarks.doc_tables``, which runs at the end. Run it for each study on each processor, at one commit.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import assistant_builder as ab
from assistant_builder.arms import ARMS, LORA, QLORA
from assistant_builder.atomic_io import write_json
from assistant_builder.devices import device_name
from assistant_builder.errors import EvaluationError
from benchmarks.paths import ROOT
from evals.report.approaches import FACTS
from evals.report.number_format import signed, size
from evals.report.schema import Report

FILE = ROOT / "benchmarks" / "study_figures.json"
TITLES = {"demo": "Ostrel Sound Ferries (demo)", "harrowby-seeds": "Harrowby Seeds (not tuned on)"}
"""Study → what the tables call its dataset."""
APPROACHES = {
    "copy": "copying the best fact",
    f"base{FACTS}": "untuned base that reads the facts",
    f"{LORA.name}{FACTS}": "LoRA, 16-bit",
    f"{QLORA.name}{FACTS}": "QLoRA, 4-bit",
}
"""Approach of a report → what the tables call it."""
_INSTRUCTIONS = {
    "amx_bf16": "AMX",
    "avx512_bf16": "AVX512-BF16",
    "avx512f": "AVX512",
    "avx2": "AVX2",
}


@dataclass(frozen=True)
class Share:
    """Of one approach: right and falsely declined in percent, rightly declined as a number of questions."""

    right: float
    falsely: float
    rightly: int


@dataclass(frozen=True)
class Figures:
    """What one study showed on one processor."""

    study: str
    processor: str
    instructions: str  # the widest of the processor; empty if the study was made on another one
    release: str
    commit: str
    date: str
    answerable: int
    to_decline: int
    shares: dict[str, Share]
    four_bit: str  # verdict of QLoRA on LoRA, with its interval in points
    file: str  # the smallest file that is no worse
    training_minutes: int  # both arms
    conclusion: list[str] = field(default_factory=list)


def figures(report: Report, conclusion: Sequence[str]) -> Figures:
    """The figures of a report.

    Raises:
        EvaluationError: The study looks no facts up, or its commit is not known.
    """
    approaches = {each.name: each for each in report.approaches}
    made = report.provenance
    if not APPROACHES.keys() <= approaches.keys():
        raise EvaluationError(
            "its report does not compare the approaches with facts", where=report.study
        )
    if not made.get("git_revision"):
        raise EvaluationError(
            "the commit of the study is not known",
            where=report.study,
            remedy="Run it in a checkout of the project",
        )
    answerable = report.taught["items"]
    others = approaches["copy"].items - answerable
    verdict, smallest = report.verdict, report.smallest_no_worse
    files = [
        f"{ARMS[each.arm].short} as {each.name}, {size(each.bytes)}"
        for each in report.formats
        if smallest and (each.name, each.arm) == (smallest.name, smallest.arm)
    ]
    interval = " to ".join(signed(100 * _number(end), 1) for end in verdict.ci)
    return Figures(
        study=report.study,
        processor=processor(report),
        instructions=instructions(report),
        release=made["assistant_builder"],
        commit=made["git_revision"][:8],
        date=made["created"][:10],
        answerable=answerable,
        to_decline=others,
        shares={
            name: Share(
                round(100 * _number(approaches[name].metrics["exact_match"]), 1),
                round(100 * _number(approaches[name].metrics["false_decline"]), 1),
                round(others * _number(approaches[name].metrics["right_decline"])),
            )
            for name in APPROACHES
        },
        four_bit=f"{verdict.outcome} ({signed(100 * _number(verdict.delta), 1)}; {interval})",
        file=files[0] if files else "",
        training_minutes=round(
            sum(_number(each.train_seconds) for each in report.resources.values()) / 60
        ),
        conclusion=list(conclusion),
    )


def _number(value: float | None) -> float:
    if value is None:
        raise EvaluationError("a figure of the report is missing")
    return value


def processor(report: Report) -> str:
    """Name, widest instructions, cores and precision."""
    hardware, widest = report.provenance["hardware"], instructions(report)
    dtypes = {str(each["compute_dtype"]) for each in report.resources.values()}
    name = f"{hardware['cpu']} with {widest}" if widest else hardware["cpu"]
    return f"{name}, {hardware['cores']} cores, {'/'.join(sorted(dtypes))}"


def instructions(report: Report) -> str:
    """The widest instructions of this processor, if the study was made on one of its kind."""
    path = Path("/proc/cpuinfo")
    if report.provenance["hardware"]["cpu"] != device_name("cpu") or not path.is_file():
        return ""
    flags = path.read_text(encoding="utf-8").split()
    return next((name for flag, name in _INSTRUCTIONS.items() if flag in flags), "")


def kept() -> list[Figures]:
    """The entries of the file."""
    entries = json.loads(FILE.read_text(encoding="utf-8")) if FILE.is_file() else []
    return [
        Figures(**{**each, "shares": {name: Share(**own) for name, own in each["shares"].items()}})
        for each in entries
    ]


def of(study: str) -> Figures:
    """The latest entry of a study; raises EvaluationError without one."""
    found = [each for each in kept() if each.study == study]
    if not found:
        raise EvaluationError(f"there are no figures of {study}", where=str(FILE))
    return found[-1]


def made_by(entries: Sequence[Figures]) -> str:
    """The sentence above a table: the command, the release, and where the figures were computed."""
    names = " ".join(dict.fromkeys(each.study for each in entries))
    releases = ", ".join(dict.fromkeys(each.release for each in entries))
    places = dict.fromkeys(f"commit {e.commit}, {e.date}, {e.processor}" for e in entries)
    separator = ";\n"
    return f"`python -m benchmarks.study_figures {names}`, release {releases}:\n{separator.join(places)}."


def table(entries: Sequence[Figures]) -> str:
    """A column for each study and processor; of a single study the first cell names it."""
    titles = [TITLES.get(each.study, each.study) for each in entries]
    first, heads = "", titles
    if len({each.processor for each in entries}) > 1:
        heads = [each.instructions or each.processor for each in entries]
        if len(set(titles)) == 1:
            first = titles[0]
        else:
            heads = [f"{title}, {head}" for title, head in zip(titles, heads, strict=True)]
    rows = [
        (
            "new questions about the facts, others",
            *(f"{e.answerable}, {e.to_decline}" for e in entries),
        ),
        *(
            (f"right, %: {label}", *(f"{e.shares[name].right:.1f}" for e in entries))
            for name, label in APPROACHES.items()
        ),
        *(
            (
                f"{what}: copying, LoRA, QLoRA",
                *(", ".join(text(e, name) for name in _THREE) for e in entries),
            )
            for what, text in (
                ("declined by mistake, %", lambda e, name: f"{e.shares[name].falsely:.1f}"),
                ("others declined", lambda e, name: str(e.shares[name].rightly)),
            )
        ),
        ("QLoRA compared with LoRA, points", *(e.four_bit for e in entries)),
        ("smallest file that is no worse", *(e.file or "not written" for e in entries)),
        ("training of both, minutes", *(str(e.training_minutes) for e in entries)),
    ]
    rule = ["---", *["---:"] * len(entries)]
    lines = ["| " + " | ".join(cells) + " |" for cells in ([first, *heads], rule, *rows)]
    return f"{made_by(entries)}\n\n" + "\n".join(lines)


_THREE = tuple(name for name in APPROACHES if not name.startswith("base"))


def conclusion_block(study: str) -> str:
    """The last lines of a run."""
    entry = of(study)
    return f"{made_by([entry])}\n\n```\n" + "\n".join(entry.conclusion) + "\n```"


def main(words: Sequence[str] | None = None) -> None:
    """Replace the entries of the named studies, and remake the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("studies", nargs="+", metavar="STUDY", help="a finished study")
    new = []
    for name in parser.parse_args(words).studies:
        study = ab.open(name)
        new.append(figures(study.report, study.conclusion))
    replaced = {(each.study, each.processor) for each in new}
    rest = [each for each in kept() if (each.study, each.processor) not in replaced]
    order = list(TITLES)
    both = sorted(
        [*rest, *new],
        key=lambda each: order.index(each.study) if each.study in order else len(order),
    )
    write_json(FILE, [asdict(each) for each in both])

    from benchmarks.doc_tables import write_sections

    write_sections()


if __name__ == "__main__":
    main()
