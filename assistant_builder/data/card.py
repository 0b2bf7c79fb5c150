"""The dataset card that every upload gets: YAML front matter as on the Hugging Face hub, then what was found."""

from __future__ import annotations

import html
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

from assistant_builder.data.findings import Findings
from assistant_builder.data.records import SPLITS
from assistant_builder.data.splitting import Split

_SIZES = (
    (1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"), (10_000_000, "1M<n<10M"),
)  # fmt: skip
_EXAMPLES = 3
_REASONS = 20
_SHOWN = 300
_MARKDOWN = re.compile(r"([\\`*_\[\]#|~$])")


def dataset_card(findings: Findings, split: Split, *, title: str) -> str:
    """Describe a checked and split file.

    Examples come from training only, since nobody should read the held-out set before evaluation. Text of the file is
    escaped, so that it stays inside its table cell or code block.

    Args:
        findings: Of the file.
        split: Made from them.
        title: Heading of the card.

    Returns:
        Markdown with YAML front matter.
    """
    parts = [
        _front_matter(findings, title),
        f"# {inline(title)}\n\nQuestion-answer data read from `{_code(Path(findings.dataset.source).name)}`, checked "
        "and split by Assistant Builder.\nLicence, language and origin are not known to the program: fill them in "
        "before sharing the data.",
        "## Contents\n\n" + _contents(findings),
        "## Splits\n\n" + _splits(split),
        "## Findings\n\n" + _findings(findings),
        "## Examples from training\n\n" + "\n\n".join(_example(pair.to_record()) for pair in split.train[:_EXAMPLES]),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def inline(text: Any, most: int = _SHOWN) -> str:
    """User text for a paragraph or table cell: one line, cut to ``most`` characters, markup and HTML escaped."""
    bare = " ".join("".join(character if character.isprintable() else " " for character in str(text)).split())
    cut = bare if len(bare) <= most else bare[: most - 1] + "…"
    return _MARKDOWN.sub(r"\\\1", html.escape(cut, quote=False))


def fenced(text: str, language: str = "") -> str:
    """A code block whose fence is longer than any run of backticks in the text."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def table(head: list[str], rows: list[list[Any]]) -> str:
    """A markdown table; the cells are escaped."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(inline(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def _code(text: str) -> str:
    return "".join(character for character in text if character.isprintable() and character != "`")


def _front_matter(findings: Findings, title: str) -> str:
    from huggingface_hub import DatasetCardData

    size = len(findings.usable)
    data = DatasetCardData(
        license="unknown",
        pretty_name=" ".join(title.split()),
        size_categories=next((name for most, name in _SIZES if size < most), "n>10M"),
        task_categories=["question-answering", "text-generation"],
    )
    files = [
        {"split": "test" if split == "heldout" else split, "path": f"{split}.jsonl"} for split in SPLITS
    ]
    data.configs = [{"config_name": "default", "data_files": files}]
    return f"---\n{data.to_yaml().strip()}\n---"


def _contents(findings: Findings) -> str:
    dataset = findings.dataset
    facts: list[list[Any]] = [
        ["Format", dataset.format],
        ["Rows in the file", f"{dataset.rows:,}"],
        ["Usable pairs", f"{len(findings.usable):,}"],
        ["Answers in them", f"{sum(pair.turns for pair in findings.usable):,}"],
    ]
    facts += [[f"Column for {role}", name] for role, name in dataset.columns.items() if name]
    unused = [name for name in dataset.column_names if name not in dataset.columns.values()]
    if unused:
        facts.append(["Columns not used", ", ".join(unused)])
    unanswerable = sum(not pair.answerable for pair in findings.usable)
    if unanswerable:
        facts.append(["Questions to be declined", f"{unanswerable:,}"])
    lengths = findings.token_lengths()
    if lengths:
        facts.append(["Tokens of a pair (median, 95th percentile, longest)",
                      f"{lengths['median']:,}, {lengths['p95']:,}, {lengths['max']:,}"])
        facts.append(["Tokens in all", f"{lengths['total']:,}"])
    return table(["", ""], facts)


def _splits(split: Split) -> str:
    record = split.to_record()
    rows = [
        [name, f"{record['counts'][name]:,}", f"{record['units']['counts'][name]:,}", record["hashes"][name]]
        for name in SPLITS
    ]
    kind = "Groups" if record["units"]["kind"] == "group" else "Questions"
    text = table(["Split", "Pairs", kind, "SHA-256 of the file"], rows)
    text += "\n\n" + "\n".join(f"- {inline(note[0].upper() + note[1:])}." for note in split.notes)
    text += "\n- Held-out is read by nothing before evaluation."
    if split.leaks:
        kinds = Counter(leak.kind for leak in split.leaks)
        shown = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
        text += f"\n- Leaks found: {len(split.leaks)} ({shown}); removed: {split.leaks_removed}."
    return text


def _findings(findings: Findings) -> str:
    problems = [[problem["severity"], problem["title"], problem["detail"]] for problem in findings.problems]
    text = table(["", "What", "Detail"], problems) if problems else "Nothing was found."
    rejected = findings.rejected
    if rejected:
        rows = [[rejection.row, rejection.reason] for rejection in rejected[:_REASONS]]
        more = f"\n\nThe first {_REASONS} of {len(rejected):,}." if len(rejected) > _REASONS else ""
        text += "\n\n### Rejected rows\n\n" + table(["Row", "Reason"], rows) + more
    return text


def _example(record: dict[str, Any]) -> str:
    def short(text: str) -> str:
        return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"

    messages = [{**message, "content": short(message["content"])} for message in record["messages"]]
    return fenced(json.dumps({**record, "messages": messages}, ensure_ascii=False, indent=2), "json")
