"""Train the same assistant on two base models, and compare them on the held-out questions.

python examples/compare_bases.py support.csv smollm2-135m-instruct qwen3-0.6b [train.epochs=2 …]
"""

import sys
from pathlib import Path

from assistant_builder.config import slug
from assistant_builder.runner.open_study import open_or_create
from assistant_builder.runner.run import run_study
from evals.study_compare import compare_studies


def main(source: str, first: str, second: str, *settings: str) -> None:
    """Run a study for each base model, and print the verdicts on the second one."""
    studies = []
    for base in (first, second):
        changes = {**dict(setting.split("=", 1) for setting in settings), "model.base": base}
        study = open_or_create(
            source, name=slug(f"{Path(source).stem} {base}"), changes=changes, redo=False
        )
        run_study(study)
        studies.append(study)
    comparison = compare_studies(*studies)
    print(f"{comparison['shared_items']} held-out questions, loss in {comparison['loss']}")
    for verdict in comparison["verdicts"]:
        print(f"{verdict['cell']}: {verdict['outcome']}. {verdict['sentence']}")
    print(*(f"note: {warning}" for warning in comparison["warnings"]), sep="\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
