"""Generated sections of ``evals/README.md``, delimited by HTML comments.

``python -m evals.readme`` writes the sections on metrics and refusals, ``python -m evals.simulate --write`` the
simulations.
"""

from __future__ import annotations

import re
from pathlib import Path

from assistant_builder.atomic_io import write_text
from assistant_builder.errors import EvaluationError
from evals.metrics import METRICS
from evals.metrics.refusal import labelled_answers
from evals.metrics.refusal import table as refusal_table

README = Path(__file__).with_name("README.md")


def read_part(name: str, path: Path = README) -> str:
    """The text of a generated section.

    Raises:
        EvaluationError: The file or the section does not exist.
    """
    return _found(name, path)[1]


def write_part(name: str, text: str, path: Path = README) -> None:
    """Replace the text of a generated section.

    Raises:
        EvaluationError: The file or the section does not exist.
    """
    before, _, after = _found(name, path)
    write_text(path, f"{before}\n\n{text.strip()}\n\n{after}")


def _found(name: str, path: Path) -> tuple[str, str, str]:
    if not path.is_file():
        raise EvaluationError("there is no such file", where=str(path), remedy="Run this in a checkout of the project")
    parts = re.split(f"(<!-- {name}: begin -->|<!-- {name}: end -->)", path.read_text(encoding="utf-8"))
    if len(parts) != 5:
        raise EvaluationError(f"the delimiters of the section {name} are missing", where=str(path),
                              remedy="Restore them")
    return parts[0] + parts[1], parts[2].strip(), parts[3] + parts[4]


def quick_parts() -> dict[str, str]:
    """Name and text of the sections that need no simulation."""
    return {"metrics": metric_table(), "refusal": refusal_table(labelled_answers())}


def metric_table() -> str:
    """Explanation and blind spots of each metric as a Markdown table."""
    lines = ["| metric | in | better | what it sees | what it does not see |", "| --- | --- | --- | --- | --- |"]
    for info in METRICS.values():
        better = "higher" if info.higher_is_better else "lower"
        weighted = ", weighted by tokens" if info.token_weighted else ""
        lines.append(
            f"| {info.label} (`{info.name}`) | {info.unit}{weighted} | {better} | {info.explanation} "
            f"| {info.blind_spots} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    for name, text in quick_parts().items():
        write_part(name, text)
