"""Train QLoRA and its 16-bit baseline on a data file, and print what 4-bit cost.

python examples/train_and_compare.py support.csv [train.epochs=2 …]
"""

import sys

import assistant_builder as ab

source, *settings = sys.argv[1:]
study = ab.run(source, **dict(setting.split("=", 1) for setting in settings))
print(f"4-bit is {study.report.verdict.outcome}. {study.report.sentence}")
print(*study.conclusion, sep="\n")
