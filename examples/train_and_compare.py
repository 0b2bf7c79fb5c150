"""Train QLoRA and its 16-bit baseline on a data file, and print what 4-bit cost.

python examples/train_and_compare.py support.csv [train.epochs=2 …]
"""

import sys

from assistant_builder.atomic_io import read_json
from assistant_builder.runner.open_study import open_or_create
from assistant_builder.runner.run import run_study
from evals.report.conclusion import conclude


def main(source: str, *settings: str) -> None:
    """Create or resume the study that is named as the file, run its missing steps, and read its report."""
    changes = dict(setting.split("=", 1) for setting in settings)
    study = open_or_create(source, name=None, changes=changes, redo=False)
    run_study(
        study, on_event=lambda event: event.state != "running" and print(event.step, event.state)
    )
    report = read_json(study.report_file)
    print(
        f"4-bit is {report['verdict']['outcome']}. {report['sentence']}",
        *conclude(report).lines,
        sep="\n",
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
