"""The parts of ``docs/evaluation.md`` that commands remake, between marks.

``python -m evals.readme`` remakes the quick ones (metrics, decline recogniser), ``python -m evals.simulate --write``
the simulations.
"""

from __future__ import annotations

import re
from pathlib import Path

from assistant_builder.atomic_io import write_text
from assistant_builder.errors import EvaluationError
from evals.declining import labelled_answers
from evals.declining import table as declining_table
from evals.metrics import METRIC_INFO

README = Path(__file__).parents[1] / "docs" / "evaluation.md"


def read_part(name: str, path: Path = README) -> str:
    """What stands between the marks of a part.

    Raises:
        EvaluationError: There is no such file, or no such part in it.
    """
    return _found(name, path)[1]


def write_part(name: str, text: str, path: Path = README) -> None:
    """Replace what stands between the marks of a part.

    Raises:
        EvaluationError: There is no such file, or no such part in it.
    """
    before, _, after = _found(name, path)
    write_text(path, f"{before}\n\n{text.strip()}\n\n{after}")


def _found(name: str, path: Path) -> tuple[str, str, str]:
    if not path.is_file():
        raise EvaluationError("there is no such file", where=str(path), remedy="Run this in a checkout of the project")
    parts = re.split(f"(<!-- {name}: begin -->|<!-- {name}: end -->)", path.read_text(encoding="utf-8"))
    if len(parts) != 5:
        raise EvaluationError(f"the marks of the part {name} are missing", where=str(path), remedy="Put them back")
    return parts[0] + parts[1], parts[2].strip(), parts[3] + parts[4]


def quick_parts() -> dict[str, str]:
    """Name and text of the parts that take no simulation."""
    return {"metrics": metric_table(), "declining": declining_table(labelled_answers())}


def metric_table() -> str:
    """What each metric sees, and what it is blind to."""
    lines = ["| metric | in | better | what it sees | what it does not see |", "| --- | --- | --- | --- | --- |"]
    for info in METRIC_INFO.values():
        better = "higher" if info.higher_is_better else "lower"
        weighted = ", weighted by tokens" if info.token_weighted else ""
        lines.append(
            f"| {info.label} (`{info.name}`) | {info.unit}{weighted} | {better} | {info.meaning} | {info.blind_spots} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    for name, text in quick_parts().items():
        write_part(name, text)
