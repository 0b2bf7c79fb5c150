"""Settings of the executor: where the steps of a study run, and the resources that they request there."""

from __future__ import annotations

from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from assistant_builder.config.base import ConfigModel
from assistant_builder.i18n import N_, m
from assistant_builder.store_kinds import example_urls


def _add_examples(schema: dict[str, Any]) -> None:
    schema["examples"] = example_urls()


class ExecutorConfig(ConfigModel):
    """Where the steps of a study run; apart from the rounding of sums over several devices, no result depends on it."""

    kind: Literal["local", "ray"] = Field("local", title=N_("Executor"))
    """local: one step at a time on this machine. ray: tasks of a Ray cluster, which trains arms and seeds and scores
    cells in parallel if it has the resources; all nodes must share the home folder, or store must be set."""
    store: str | None = Field(None, title=N_("Store"), json_schema_extra=_add_examples)
    """URL of an object store (s3://bucket/folder, or another one that fsspec supports) with which the project is synced
    while it runs, so that another machine can resume it. Empty: none. Credentials are read from the environment."""
    address: str = Field("auto", min_length=1, title=N_("Ray address"))
    """Address of the cluster's head node (host:port). auto: the cluster of which this machine is a node."""
    devices: int | None = Field(None, ge=1, le=64, title=N_("Devices per training"))
    """Number of GPUs that train one assistant in parallel, or of processes without a GPU. batch_size must be a multiple
    of it. Empty: the largest number of visible GPUs that divides batch_size."""
    spread: Literal["auto", "ddp", "fsdp"] = Field("auto", title=N_("Parallel strategy"))
    """ddp: each device holds the complete model. fsdp: each holds a shard of every layer, for a model that does not fit
    on one device. auto: ddp if both arms fit, else fsdp."""
    train_cpus: float = Field(1.0, gt=0, title=N_("CPUs per training"))
    """CPU cores that each training step requests from a cluster node and uses."""
    train_gpus: float | None = Field(None, ge=0, title=N_("GPUs per training"))
    """GPUs that each training step requests and sees. Empty: executor.devices, or one, if a cluster node has them."""
    train_memory_gb: float | None = Field(None, gt=0, title=N_("Memory per training, GB"))
    """Main memory that each training step requests. Empty: the planned memory of a training on CPUs; none if the step
    requests GPUs."""
    evaluate_cpus: float = Field(1.0, gt=0, title=N_("CPUs of the evaluation"))
    """CPU cores that the evaluation requests from a cluster node and uses."""
    evaluate_gpus: float | None = Field(None, ge=0, title=N_("GPUs of the evaluation"))
    """GPUs that the evaluation requests and sees. Empty: one, if a cluster node has one."""
    evaluate_memory_gb: float | None = Field(None, gt=0, title=N_("Memory of the evaluation, GB"))
    """Main memory that the evaluation requests. Empty: enough for the larger base; none if it requests GPUs."""
    evaluate_tasks: int = Field(2, ge=1, le=64, title=N_("Evaluation tasks"))
    """Number of tasks of a Ray cluster that score cells in parallel; cells are compared after all tasks have finished.
    1: one task scores all cells."""
    retries: int = Field(3, ge=0, le=100, title=N_("Retries"))
    """How often a step is resumed from its last checkpoint after the node that ran it was lost."""

    @model_validator(mode="after")
    def _check_store(self) -> ExecutorConfig:
        if self.store is None:
            return self
        try:
            parts = urlsplit(self.store)
        except ValueError:  # for example unbalanced brackets
            parts = urlsplit("")
        if parts.password or parts.query or parts.fragment or "::" in self.store:
            raise ValueError(
                m(
                    "store must be a plain URL without a password, key or query, because it is saved in study.yaml; "
                    "put the credentials into the environment, for S3 as AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and, "
                    "if it is not Amazon's, AWS_ENDPOINT_URL"
                )
            )
        if (
            not parts.scheme
            or "://" not in self.store
            or not (parts.netloc + parts.path).strip("/")
        ):
            raise ValueError(
                m(
                    "store is not a URL; examples are {example_urls}",
                    example_urls=", ".join(example_urls()),
                )
            )
        return self
