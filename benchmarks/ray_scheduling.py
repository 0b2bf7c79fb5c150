"""``python -m benchmarks.ray_scheduling``: the cost of scheduling steps with Ray, measured with steps that sleep."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from assistant_builder.atomic_io import write_text
from assistant_builder.cluster.ray_client import TaskRegistryClient, connect
from assistant_builder.cluster.resources import ResourceRequest
from assistant_builder.config import StudyConfig
from assistant_builder.errors import AssistantBuilderError
from assistant_builder.study import Study
from assistant_builder.study.addresses import allow_addresses

_POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Scheduling:
    """Independent steps on some slots."""

    steps: int  # number of steps
    slots: int  # number of steps that ran at once
    seconds: float  # duration of each step
    start_seconds: float  # time until the actor that owns the tasks answered
    wall_seconds: float  # time from the start of the first step to the end of the last

    @property
    def ideal_seconds(self) -> float:
        """Wall time if scheduling and starting processes took none."""
        return -(-self.steps // self.slots) * self.seconds

    @property
    def excess(self) -> float:
        """Overhead as a share of the ideal wall time."""
        return self.wall_seconds / self.ideal_seconds - 1

    @property
    def overhead_seconds(self) -> float:
        """Overhead of each step, in seconds of a slot."""
        return (self.wall_seconds - self.ideal_seconds) * self.slots / self.steps


def measure(address: str, steps: int, slots: int, seconds: float) -> Scheduling:
    """Run steps that sleep on a cluster with ``slots`` CPUs, one for each step.

    Raises:
        AssistantBuilderError: The cluster does not answer, or a step failed.
    """
    allow_addresses([address])  # the user's own words
    connect(address)
    with tempfile.TemporaryDirectory() as folder:
        study = Study(Path(folder).resolve())
        write_text(study.folder / "study.yaml", StudyConfig().to_yaml())
        began = time.monotonic()
        client = TaskRegistryClient(study)
        client.results()
        started = time.monotonic()
        names = [f"train-sleep-{number}" for number in range(steps)]
        try:
            for name in names:
                client.start(
                    name,
                    ["-c", f"import time; time.sleep({seconds})"],
                    ResourceRequest(1.0),
                    retries=0,
                )
            while None in (results := client.results()).values():
                time.sleep(_POLL_SECONDS)
            ended = time.monotonic()
        finally:
            client.shut_down()
    failed = {
        name: result for name, result in results.items() if result is None or result.returncode != 0
    }
    if failed:
        raise AssistantBuilderError(f"steps failed: {failed}", where="scheduling")
    return Scheduling(steps, slots, seconds, started - began, ended - started)


def main(words: Sequence[str] | None = None) -> int:
    """Measure, and print one JSON document."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.ray_scheduling", description=__doc__
    )
    parser.add_argument(
        "--address", default="", help="address of the cluster; by default one is started here"
    )
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--slots", type=int, default=4, help="number of CPUs of the cluster")
    parser.add_argument("--seconds", type=float, default=5.0, help="duration of each step")
    args = parser.parse_args(words)
    try:
        address = args.address
        if not address:
            import ray

            ray.init(
                num_cpus=args.slots,
                include_dashboard=False,
                log_to_driver=False,
                logging_level="ERROR",
            )
            address = ray.get_runtime_context().gcs_address
        found = measure(address, args.steps, args.slots, args.seconds)
    except AssistantBuilderError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    figures = {
        **asdict(found),
        "excess": found.excess,
        "overhead_seconds_a_step": found.overhead_seconds,
    }
    sys.stdout.write(
        json.dumps({key: round(value, 3) for key, value in figures.items()}, indent=2) + "\n"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
