"""Where the steps of a study run, and what they ask the machines there for."""

from __future__ import annotations

from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from assistant_builder.config.base import ConfigModel
from assistant_builder.store_kinds import example_urls


def _add_examples(schema: dict[str, Any]) -> None:
    schema["examples"] = example_urls()


class ExecutorConfig(ConfigModel):
    """Where the steps of a study run; no result depends on it, but for the rounding of sums over several devices."""

    kind: Literal["local", "ray"] = Field(
        "local", title="Executor", description="local: one step after the other on this machine. ray: as tasks of a "
        "Ray cluster, both arms, all seeds and the cells of the evaluation at once where there is room; the home "
        "folder has to lie on a path that all nodes see, or store be set.",
    )
    store: str | None = Field(
        None, title="Store", description="URL of a place for studies (s3://bucket/folder, or another that fsspec "
        "reaches), which this one is kept in while it runs: another machine can carry it on from there. Empty: none. "
        "Credentials are read from the environment.", json_schema_extra=_add_examples,
    )
    address: str = Field(
        "auto", min_length=1, title="Ray address", description="Address of the cluster's head (host:port). auto: the "
        "cluster that this machine is a node of.",
    )
    devices: int | None = Field(
        None, ge=1, le=64, title="Devices of a training", description="GPUs that train one assistant together, or "
        "processes where there is no GPU; they share out each step's pairs, so that batch_size has to be a multiple. "
        "Empty: all GPUs that the training sees and that divide batch_size.",
    )
    spread: Literal["auto", "ddp", "fsdp"] = Field(
        "auto", title="How devices share", description="ddp: each device holds the whole model. fsdp: each holds a "
        "part of every layer, for a model that does not fit one device. auto: ddp where both arms fit.",
    )
    train_cpus: float = Field(1.0, gt=0, title="CPUs of a training", description="Processors that each training step "
                              "asks a node of the cluster for, and uses.")
    train_gpus: float | None = Field(
        None, ge=0, title="GPUs of a training", description="GPUs that each training step asks for, and sees. Empty: "
        "as many as executor.devices, else one, where a node of the cluster has them.",
    )
    train_memory_gb: float | None = Field(
        None, gt=0, title="Memory of a training, GB", description="Main memory that each training step asks for. "
        "Empty: what the plan says of a training on processors, and nothing where it asks for GPUs.",
    )
    evaluate_cpus: float = Field(1.0, gt=0, title="CPUs of the evaluation", description="Processors that the "
                                 "evaluation asks a node of the cluster for, and uses.")
    evaluate_gpus: float | None = Field(
        None, ge=0, title="GPUs of the evaluation", description="GPUs that the evaluation asks for, and sees. Empty: "
        "one, where a node of the cluster has one.",
    )
    evaluate_memory_gb: float | None = Field(
        None, gt=0, title="Memory of the evaluation, GB", description="Main memory that the evaluation asks for. "
        "Empty: room for both bases at once, and nothing where it asks for GPUs.",
    )
    evaluate_tasks: int = Field(
        2, ge=1, le=64, title="Parts of the evaluation", description="Tasks of a Ray cluster that score cells at once, "
        "those of one base together; what compares cells is done after them. 1: one task scores all.",
    )
    retries: int = Field(3, ge=0, le=100, title="Tries after a loss", description="How often a step is tried again, "
                         "from its last checkpoint, after the node that it ran on was lost.")

    @model_validator(mode="after")
    def _store_is_a_url_without_secrets(self) -> ExecutorConfig:
        if self.store is None:
            return self
        try:
            parts = urlsplit(self.store)
        except ValueError:  # brackets that do not match, say
            parts = urlsplit("")
        if parts.password or parts.query or parts.fragment or "::" in self.store:
            raise ValueError("store must be a plain URL without a password, key or query, for it is written down; the "
                             "environment holds the credentials, for S3 as AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY "
                             "and, where it is not Amazon's, AWS_ENDPOINT_URL")
        if not parts.scheme or "://" not in self.store or not (parts.netloc + parts.path).strip("/"):
            raise ValueError(f"store is not a URL; examples are {', '.join(example_urls())}")
        return self
