"""``python -m evals score|formats|report --study FOLDER``: run an evaluation step in its own process."""

from __future__ import annotations

import argparse
import os
import re
import sys
from functools import partial
from pathlib import Path

from assistant_builder.child_process import lower_priority
from assistant_builder.runner.step_process import run_as_step
from assistant_builder.study import Study
from assistant_builder.study.steps import FORMATS, SUFFIXES


def main() -> int:
    """Run one step; the exit code is that of :func:`assistant_builder.runner.step_process.run_as_step`."""
    parser = argparse.ArgumentParser(prog="python -m evals", description=__doc__)
    parser.add_argument("step", choices=["score", FORMATS, "report"])
    parser.add_argument(
        "--part",
        type=_part,
        help="shard of the cells to score: 1/3 for the first of three; default: all",
    )
    parser.add_argument("--study", type=Path, required=True, help="the study's folder")
    arguments = parser.parse_args()
    study = Study(arguments.study.absolute())  # lm-eval's tasks run in another folder
    if arguments.step == "score":
        from evals.score import score_study

        if arguments.part is None:
            first = partial(_first_report, study)
            return run_as_step(study, "evaluate", lambda: score_study(study, on_headline=first))
        return run_as_step(
            study, f"score-{arguments.part[0]}", lambda: score_study(study, part=arguments.part)
        )
    if arguments.step == FORMATS:
        from evals.formats import score_formats

        return run_as_step(study, FORMATS, lambda: score_formats(study))
    from evals.report.build import write_report

    def report() -> list[Path]:
        path = write_report(study)
        names = (
            f"report{suffix}.{ending}"
            for suffix in ("", *SUFFIXES.values())
            for ending in ("html", "json", "md")
        )
        return [found for name in names if (found := path.with_name(name)).is_file()]

    return run_as_step(study, "report", report)


def _first_report(study: Study) -> None:
    """Write the report with the verdict, and leave the processor to whoever reads it and chats."""
    from evals.report.build import write_report

    write_report(study)
    study.record_first_verdict()
    lower_priority(os.getpid(), behind=True)


def _part(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"([1-9]\d*)/([1-9]\d*)", text)
    if found is None or int(found[1]) > int(found[2]):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a shard: write 1/3 for the first of three"
        )
    return int(found[1]), int(found[2])


if __name__ == "__main__":
    sys.exit(main())
