"""Train the same assistant on two base models, and compare them on the held-out questions.

python examples/compare_bases.py support.csv smollm2-135m-instruct qwen3-0.6b [train.epochs=2 …]
"""

import sys
from pathlib import Path

import assistant_builder as ab

source, first, second, *settings = sys.argv[1:]
changes = dict(setting.split("=", 1) for setting in settings)
comparison = ab.compare(
    *(
        ab.run(source, name=f"{Path(source).stem} {base}", base=base, **changes)
        for base in (first, second)
    )
)
print(f"{comparison['shared_items']} held-out questions, loss in {comparison['loss']}")
for verdict in comparison["verdicts"]:
    print(f"{verdict['cell']}: {verdict['outcome']}. {verdict['sentence']}")
print(*(f"note: {warning}" for warning in comparison["warnings"]), sep="\n")
