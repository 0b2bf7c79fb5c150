"""What the plan assumes besides what was measured; every option of the command comes from here."""

from __future__ import annotations

import argparse
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from assistant_builder.errors import ConfigError

Profile = Literal["even", "office"]
DAY_SECONDS = 86_400.0


class Assumptions(BaseModel):
    """The load, the nodes, the store and the simulation."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    studies_a_day: float = Field(1000.0, gt=0, description="Studies that come in a day, as a Poisson process")
    profile: Profile = Field("office", description="When they come. even: at any time alike. office: nine in ten of "
                             "them from 8 to 18 o'clock")
    seeds: int = Field(1, ge=1, le=20, description="Trainings of each arm")
    variation: float = Field(0.5, ge=0, le=5, description="Coefficient of variation of a study's size: all its steps "
                             "take longer or shorter by one factor, lognormal with mean 1")
    node_cpus: int = Field(16, ge=1, description="Processors of a node")
    node_gpus: int = Field(0, ge=0, description="GPUs of a node")
    node_memory_gb: float = Field(64.0, gt=0, description="Memory of a node, GB")
    node_price: float = Field(0.80, ge=0, description="Price of a node and hour, in any currency; about what clouds "
                              "ask for 16 processors with 64 GB")
    loss_hours: float = Field(720.0, gt=0, description="Mean time between two losses of a node, hours")
    back_minutes: float = Field(10.0, ge=0, description="Until a lost node is back, minutes")
    noticed_seconds: float = Field(30.0, ge=0, description="Until Ray takes a node for lost, seconds")
    goal_hours: float = Field(2.0, gt=0, description="Within how many hours a study is to be done")
    goal_share: float = Field(0.95, gt=0, lt=1, description="Share of the studies that are to be done by then")
    kept_days: float = Field(365.0, gt=0, description="How long studies are kept, days; nothing deletes them by itself")
    store_tb: float = Field(10.0, gt=0, description="Size of the shared store, TB")
    store_reads: float = Field(250_000.0, gt=0, description="Reads a second that the store answers; default quota of "
                               "an Amazon EFS file system")
    store_writes: float = Field(50_000.0, gt=0, description="Writes a second that the store takes; default quota of "
                                "an Amazon EFS file system")
    store_mb_per_second: float = Field(1250.0, gt=0, description="What the store reads or writes a second, MB; "
                                       "a network of 10 Gbit/s")
    days: int = Field(2, ge=1, description="Simulated days after the first, which only fills the cluster")
    repetitions: int = Field(5, ge=2, description="Repetitions of each simulation")
    seed: int = Field(0, ge=0, description="Seed of everything drawn")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Give a parser one option for each assumption."""
    for name, field in Assumptions.model_fields.items():
        kind: Any = field.annotation
        named = get_origin(kind) is Literal
        parser.add_argument(
            f"--{name.replace('_', '-')}", type=str if named else kind, choices=get_args(kind) if named else None,
            default=field.default, metavar=None if named else kind.__name__.upper(),
            help=f"{field.description} ({field.default})".replace("%", "%%"),
        )


def read_options(options: argparse.Namespace) -> Assumptions:
    """The assumptions that were given.

    Raises:
        ConfigError: One is out of its bounds; all of them are named.
    """
    try:
        return Assumptions(**{name: getattr(options, name) for name in Assumptions.model_fields})
    except ValidationError as error:
        told = "; ".join(f"--{str(each['loc'][0]).replace('_', '-')}: {each['msg']}" for each in error.errors())
        raise ConfigError(told, remedy="See python -m evals.capacity --help") from error


def command_line(assumptions: Assumptions) -> str:
    """The command that makes the page with these assumptions."""
    words = [f"--{name.replace('_', '-')} {getattr(assumptions, name)}"
             for name, field in Assumptions.model_fields.items() if getattr(assumptions, name) != field.default]
    return " ".join(["python -m evals.capacity", *words, "--write"])
