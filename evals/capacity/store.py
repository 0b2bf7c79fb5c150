"""What studies ask of the path that all nodes share: requests a second, bytes, and how much stays there.

Requests are counted as the program makes them; a file system's own cache may answer some of the reads and looks.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from assistant_builder.jobs import cluster, nodes
from assistant_builder.leases import RENEW_SECONDS
from evals.capacity.assumptions import DAY_SECONDS, Assumptions
from evals.capacity.measured import Measured
from evals.capacity.workload import alone_seconds, stages_of


@dataclass(frozen=True)
class Requests:
    """Requests, of a second or of a whole study.

    Attributes:
        reads: Files read whole.
        writes: Files put in place whole, and lines appended.
        looks: Files only asked for: whether they are there, and since when.
    """

    reads: float = 0.0
    writes: float = 0.0
    looks: float = 0.0

    def times(self, factor: float) -> Requests:
        """As many of each, ``factor`` times."""
        return Requests(self.reads * factor, self.writes * factor, self.looks * factor)

    @classmethod
    def sum(cls, parts: Iterable[Requests]) -> Requests:
        """All of them together."""
        found = list(parts)
        return cls(*(sum(getattr(part, name) for part in found) for name in ("reads", "writes", "looks")))


RUN_LOOK = Requests(looks=2)
"""One look of a run at its study: whether it is cancelled, for what could start and for what is under way."""
STEP_LOOK = Requests(reads=3, looks=1)
"""What each step under way adds to it: its status, its lease, its progress."""
RENEWAL = Requests(reads=1, writes=1, looks=1)
"""One renewal of a step's lease: whose it is, whether the study is there, and the lease anew."""
CANCEL_LOOK = Requests(looks=1)
OPTIMIZER_STEP = Requests(writes=2, looks=3)
"""A line of metrics and the progress; the study, the file of metrics and a cancel are looked for."""


@dataclass(frozen=True)
class Source:
    """One reason for requests.

    Attributes:
        name: What asks.
        each: Requests a second of each that asks.
        study_seconds: For how many seconds in all one study asks so.
        constant: What in the code decides how often.
    """

    name: str
    each: Requests
    study_seconds: float
    constant: str

    @property
    def study(self) -> Requests:
        """Requests of a whole study."""
        return self.each.times(self.study_seconds)


def sources(measured: Measured, assumptions: Assumptions) -> list[Source]:
    """Every reason for requests, for studies that wait for nothing."""
    stages = stages_of(measured, assumptions.seeds)
    tasks = [task for stage in stages for task in stage]
    computing, turnaround = sum(task.seconds for task in tasks), alone_seconds(stages)
    training = sum(task.seconds for task in tasks if task.step.startswith("train-"))
    trainings = sum(task.step.startswith("train-") for task in tasks)
    steps_a_second = measured.optimizer_steps * trainings / training
    return [
        Source("a run looks at its study", RUN_LOOK.times(1 / cluster.POLL_SECONDS), turnaround,
               "`jobs.cluster.POLL_SECONDS`"),
        Source("… and at each step under way", STEP_LOOK.times(1 / cluster.POLL_SECONDS), computing,
               "`jobs.cluster.POLL_SECONDS`"),
        Source("a step's lease is renewed", RENEWAL.times(1 / RENEW_SECONDS), computing, "`leases.RENEW_SECONDS`"),
        Source("a step's task looks for a cancel", CANCEL_LOOK.times(1 / nodes.POLL_SECONDS), computing,
               "`jobs.nodes.POLL_SECONDS`"),
        Source("the actor looks for a cancel", CANCEL_LOOK.times(1 / nodes.MIND_SECONDS), turnaround,
               "`jobs.nodes.MIND_SECONDS`"),
        Source("a training tells its steps", OPTIMIZER_STEP.times(steps_a_second), training,
               "optimizer steps, as measured"),
    ]


def study_requests(measured: Measured, assumptions: Assumptions) -> Requests:
    """Requests of one study from its beginning to its end."""
    return Requests.sum(source.study for source in sources(measured, assumptions))


def a_second(requests: Requests, studies_a_day: float) -> Requests:
    """Requests a second of so many studies a day, on average."""
    return requests.times(studies_a_day / DAY_SECONDS)


# bytes


def kept_bytes(measured: Measured, seeds: int, *, checkpoints: bool) -> int:
    """What the folder of a finished study holds."""
    return sum(count for kind, count in measured.study_bytes(seeds).items() if checkpoints or kind != "checkpoints")


def written_bytes(measured: Measured, seeds: int) -> int:
    """What a study writes: all that it keeps, and each checkpoint of which the last and the best are kept."""
    kept = measured.study_bytes(seeds)
    gone = max(0, measured.checkpoints - measured.checkpoints_kept)
    return round(sum(kept.values()) + gone * kept["checkpoints"] / max(1, measured.checkpoints_kept))


def read_bytes(measured: Measured, seeds: int) -> int:
    """What a study reads at least: the base model, by every training and by the evaluation."""
    return measured.base_bytes * (2 * seeds + 1)
