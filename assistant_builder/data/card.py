"""The dataset card: YAML front matter as on the Hugging Face Hub, contents, splits and findings of a data file.

If ``card.md`` in the study's ``data`` folder was edited, the data step writes to ``card.generated.md`` instead.
"""

from __future__ import annotations

import html
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

from assistant_builder.atomic_io import write_text
from assistant_builder.data.split import Split
from assistant_builder.data.types import SPLITS, Pair
from assistant_builder.data.validate import Findings
from assistant_builder.i18n import capitalized, written

CARD_FILE, GENERATED_CARD_FILE = "card.md", "card.generated.md"
_SIZES = (
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
    (10_000_000, "1M<n<10M"),
)
_EXAMPLES = 3
_MAX_REASONS = 20
_MAX_CHARACTERS = 300
_MARKDOWN = re.compile(r"([\\`*_\[\]#|~$])")


def dataset_card(findings: Findings, split: Split, *, title: str) -> str:
    """Describe a checked and split data file as Markdown with YAML front matter.

    Examples are training pairs, because the held-out set must not be read before evaluation. User text is escaped.
    """
    file_name = "".join(
        character
        for character in Path(findings.dataset.source).name
        if character.isprintable() and character != "`"
    )
    sections = [
        _front_matter(findings, title),
        f"# {inline(title)}\n\nQuestion-answer data from `{file_name}`, checked and split by Assistant Builder.\n"
        "License, language and origin are unknown to the program: add them before you share the data.",
        "## Contents\n\n" + _contents(findings),
        "## Splits\n\n" + _splits(split),
        "## Findings\n\n" + _findings(findings),
        "## Examples from training\n\n" + "\n\n".join(map(_example, split.train[:_EXAMPLES])),
    ]
    return "\n\n".join(sections) + "\n"


def inline(text: Any, limit: int = _MAX_CHARACTERS) -> str:
    """User text for a paragraph or table cell: one line, at most ``limit`` characters, Markdown and HTML escaped."""
    line = " ".join(
        "".join(character if character.isprintable() else " " for character in str(text)).split()
    )
    return _MARKDOWN.sub(r"\\\1", html.escape(_truncate(line, limit), quote=False))


def fenced(text: str, language: str = "") -> str:
    """A code block whose fence is longer than any run of backticks in the text."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def table(head: list[str], rows: list[list[Any]]) -> str:
    """A Markdown table with escaped cells."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(inline(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def _truncate(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _front_matter(findings: Findings, title: str) -> str:
    from huggingface_hub import DatasetCardData

    size = len(findings.usable)
    data = DatasetCardData(
        license="unknown",
        pretty_name=" ".join(title.split()),
        size_categories=next((name for limit, name in _SIZES if size < limit), "n>10M"),
        task_categories=["question-answering", "text-generation"],
    )
    files = [
        {"split": "test" if split == "heldout" else split, "path": f"{split}.jsonl"}
        for split in SPLITS
    ]
    data.configs = [{"config_name": "default", "data_files": files}]
    return f"---\n{data.to_yaml().strip()}\n---"


def _contents(findings: Findings) -> str:
    dataset = findings.dataset
    facts: list[list[Any]] = [
        ["Format", dataset.format],
        ["Rows in the file", f"{dataset.rows:,}"],
        ["Usable pairs", f"{len(findings.usable):,}"],
        ["Answers in these pairs", f"{sum(pair.turns for pair in findings.usable):,}"],
    ]
    facts += [[f"Column for {role}", name] for role, name in dataset.columns.items() if name]
    unused = [name for name in dataset.column_names if name not in dataset.columns.values()]
    if unused:
        facts.append(["Unused columns", ", ".join(unused)])
    unanswerable = sum(not pair.answerable for pair in findings.usable)
    if unanswerable:
        facts.append(["Questions to decline", f"{unanswerable:,}"])
    lengths = findings.token_lengths()
    if lengths:
        facts.append(
            [
                "Tokens per pair (median, 95th percentile, maximum)",
                f"{lengths['median']:,}, {lengths['p95']:,}, {lengths['max']:,}",
            ]
        )
        facts.append(["Total tokens", f"{lengths['total']:,}"])
    return table(["", ""], facts)


def _splits(split: Split) -> str:
    record = split.to_record()
    rows = [
        [
            name,
            f"{record['counts'][name]:,}",
            f"{record['units']['counts'][name]:,}",
            record["hashes"][name],
        ]
        for name in SPLITS
    ]
    kind = "Groups" if record["units"]["kind"] == "group" else "Questions"
    lines = [table(["Split", "Pairs", kind, "SHA-256 of the file"], rows), ""]
    lines += [f"- {inline(written(capitalized(note))[0])}." for note in split.notes]
    lines.append("- The held-out set is not read before evaluation.")
    if split.leaks:
        kinds = sorted(Counter(leak.kind for leak in split.leaks).items())
        shown = ", ".join(f"{count} {kind}" for kind, count in kinds)
        lines.append(
            f"- Leaks found: {len(split.leaks)} ({shown}); removed: {split.leaks_removed}."
        )
    return "\n".join(lines)


def _findings(findings: Findings) -> str:
    problems = [
        [problem["severity"], written(problem["title"])[0], written(problem["detail"])[0]]
        for problem in findings.problems
    ]
    text = table(["", "Finding", "Detail"], problems) if problems else "No problems were found."
    rejected = findings.rejected
    if rejected:
        rows = [[entry.row, written(entry.reason)[0]] for entry in rejected[:_MAX_REASONS]]
        text += "\n\n### Rejected rows\n\n" + table(["Row", "Reason"], rows)
        if len(rejected) > _MAX_REASONS:
            text += f"\n\nThe first {_MAX_REASONS} of {len(rejected):,}."
    return text


def _example(pair: Pair) -> str:
    record = pair.to_record()
    for message in record["messages"]:
        message["content"] = _truncate(message["content"], _MAX_CHARACTERS)
    return fenced(json.dumps(record, ensure_ascii=False, indent=2), "json")


# The card file of a study


def write_card(folder: Path, text: str) -> None:
    """Write the generated card, to ``card.generated.md`` if ``card.md`` was edited."""
    write_text(folder / (GENERATED_CARD_FILE if is_card_edited(folder) else CARD_FILE), text)


def is_card_edited(folder: Path) -> bool:
    """Whether ``card.md`` was edited."""
    return (folder / GENERATED_CARD_FILE).is_file()
