"""A study with answers to judge, and what judging left in its folder."""

from typing import Any

from assistant_builder.atomic_io import read_jsonl, write_jsonl
from assistant_builder.chat_endpoint import RetryPolicy
from assistant_builder.config import StudyConfig
from assistant_builder.study import Study
from assistant_builder.study.addresses import allow_addresses
from evals.judge.pairwise import judge_study

QUICK = RetryPolicy(timeout_seconds=10, attempts=3, backoff_seconds=0.01)
KINDS = ("Q4", "L16", "same")
"""Who is right in the made-up items, in turn."""


def make_study(items: int = 9, **settings: Any) -> Study:
    """Cells L16 and Q4 whose answers are right in turn: QLoRA's, LoRA's, both (identical)."""
    study = Study.create(
        StudyConfig(name="judged").with_changes(
            {
                "eval.judge_model": "judge-7b",
                **{f"eval.{key}": value for key, value in settings.items()},
            }
        )
    )
    for cell in ("L16", "Q4"):
        write_jsonl(
            study.cell_folder(cell) / "samples.jsonl",
            [
                {
                    "item": str(row),
                    "cluster": None,
                    "prompt": [
                        {"role": "system", "content": "Be brief."},
                        {"role": "user", "content": f"Question {row}?"},
                    ],
                    "reference": f"Right {row}.",
                    "answer": f"Right {row}."
                    if KINDS[row % 3] in (cell, "same")
                    else f"Wrong {row}.",
                }
                for row in range(items)
            ],
        )
    return study


def point_at(study: Study, url: str) -> None:
    allow_addresses([url])
    study.write_config(study.config.with_changes({"eval.judge_url": url}))


def run(study: Study, url: str, **options: Any) -> dict[str, Any]:
    point_at(study, url)
    return judge_study(study, patience=options.pop("patience", QUICK), **options)


def lines_of(study: Study) -> dict[str, dict[str, Any]]:
    return {line["item"]: line for line in read_jsonl(study.folder / "evals" / "judge.jsonl")}


def everything_on_disk(study: Study) -> str:
    return "\n".join(
        path.read_text(encoding="utf-8")
        for path in study.folder.rglob("*")
        if path.is_file() and path.name != "study.yaml"
    )
