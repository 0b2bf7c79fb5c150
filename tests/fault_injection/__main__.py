"""``python -m tests.fault_injection``: inject faults, print counts and lost results; exit code 1 if any were lost."""

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from assistant_builder.errors import AssistantBuilderError
from assistant_builder.models.bundled import ensure_base_model, ensure_embedder
from assistant_builder.study import Study
from tests.fault_injection.corruption import damage_files, repair_damage
from tests.fault_injection.full_disk import full_disk
from tests.fault_injection.kills import kill_every_step, kill_training
from tests.fault_injection.study import Row, outcome, run, small_study, table


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.fault_injection", description=__doc__)
    parser.add_argument(
        "--kills", type=int, default=20, help="kills at random moments of training (20)"
    )
    parser.add_argument("--damages", type=int, default=500, help="damaged files (500)")
    parser.add_argument("--disks", type=int, default=6, help="disks that fill up (6)")
    parser.add_argument("--seed", type=int, default=0, help="seed of all random choices (0)")
    parser.add_argument("--base", default="", help="base model; by default the bundled one")
    parser.add_argument(
        "--keep", type=Path, metavar="DIR", help="work in this folder and leave everything in it"
    )
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> int:
    """Inject the requested faults and print the table."""
    options = parse(words)
    made = [ensure_base_model(), ensure_embedder()]
    with tempfile.TemporaryDirectory(prefix="faults-") as scratch:
        folder = options.keep or Path(scratch)
        (folder / "models").mkdir(parents=True, exist_ok=True)
        for model in made:
            if not (folder / "models" / model.name).exists():
                (folder / "models" / model.name).symlink_to(model.resolve())
        os.environ["ASSISTANT_BUILDER_HOME"] = str(folder.resolve())
        try:
            rows = inject(options)
        except AssistantBuilderError as error:
            sys.stderr.write(f"fault_injection: {error}\n")
            return 1
    print(table(rows))
    return 1 if any(row.lost for row in rows) else 0


def inject(options: argparse.Namespace) -> list[Row]:
    """Run the undisturbed study, then every kind of fault."""
    reference = undisturbed(options.base)
    wanted = outcome(reference)
    return [
        damage_files(reference, wanted, options.damages, options.seed),
        kill_every_step(reference, wanted, options.seed, log),
        kill_training(reference, wanted, options.kills, options.seed, log),
        full_disk(reference, wanted, options.disks, options.seed, log),
        repair_damage(reference, wanted, options.seed, log),
    ]


def undisturbed(base: str) -> Study:
    """The reference study without faults; created once a folder."""
    try:
        study = Study.open("undisturbed")
    except AssistantBuilderError:
        study = small_study("undisturbed", base)
    code, output = run(study)
    if code:
        raise AssistantBuilderError(
            f"the undisturbed run failed: {output.strip().splitlines()[-1]}"
        )
    return study


def log(line: str) -> None:
    """Print progress to stderr."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
