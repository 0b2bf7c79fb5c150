"""The readers under a coverage-guided fuzzer: ``python -m tests.fuzz [TARGET …] --seconds 60``.

Needs ``pip install '.[fuzz]'`` (atheris has no wheels for every system). An input that fails is written to
``--artifacts`` and ends the run with another exit code than 0; ``--replay FILE`` runs it again.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

NAMES = ("data", "workbook", "pasted", "yaml", "records")
_MEMORY_MIB = 2_048
_SLOWEST_SECONDS = 90  # by the clock of a machine that may be busy with other work


def main(arguments: list[str] | None = None) -> int:
    """Fuzz each target in its own process, because the fuzzer ends its process."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument(
        "targets", nargs="*", metavar="TARGET", help="which readers; by default all"
    )
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument(
        "--artifacts", type=Path, default=Path("fuzz-found"), help="where breaking inputs go"
    )
    parser.add_argument("--replay", type=Path, help="run one input of one target")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    targets = options.targets or list(NAMES)
    if unknown := set(targets) - set(NAMES):
        parser.error(f"no such target: {', '.join(sorted(unknown))} (there are {', '.join(NAMES)})")
    if options.replay:
        from tests.fuzz.targets import TARGETS

        TARGETS[targets[0]](options.replay.read_bytes())
        return 0
    if options.inside:
        _fuzz(targets[0], options.seconds, options.artifacts)
    options.artifacts.mkdir(parents=True, exist_ok=True)
    worst = 0
    for target in targets:
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "tests.fuzz",
                target,
                "--inside",
                "--seconds",
                str(options.seconds),
                "--artifacts",
                str(options.artifacts),
            ],
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        tries = [
            line
            for line in done.stderr.splitlines()
            if line.startswith(("Done ", "stat::number_of_executed"))
        ]
        print(
            f"{target}: {' '.join(tries[-1:]) if not done.returncode else done.stderr[-4_000:]}",
            flush=True,
        )
        worst = max(worst, abs(done.returncode))
    return worst


def _fuzz(target: str, seconds: int, artifacts: Path) -> None:
    import atheris

    with atheris.instrument_imports(include=["assistant_builder", "openpyxl", "yaml"]):
        from tests.fuzz.seeds import seeds
        from tests.fuzz.targets import TARGETS

    with tempfile.TemporaryDirectory() as corpus:
        for number, seed in enumerate(seeds(target)):
            TARGETS[target](seed)  # imports on first use would count as a slow input
            (Path(corpus) / f"seed-{number}").write_bytes(seed)
        atheris.Setup(
            [
                sys.argv[0],
                corpus,
                f"-max_total_time={seconds}",
                f"-rss_limit_mb={_MEMORY_MIB}",
                f"-timeout={_SLOWEST_SECONDS}",
                f"-artifact_prefix={artifacts}/{target}-",
                "-print_final_stats=1",
                "-max_len=8192",
            ],
            TARGETS[target],
        )
        atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
