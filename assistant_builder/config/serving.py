"""How finished assistants are served: each option with its default, bounds and help text.

It belongs to no study, for a server holds several; no result depends on it.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from assistant_builder.config.parts import Part
from assistant_builder.errors import ConfigError


class ServingConfig(Part):
    """Where assistants are served, and with how much."""

    on: Literal["local", "ray", "vllm"] = Field(
        "local", title="Server", description="local: this machine. ray: as many replicas as are asked for on a Ray "
        "cluster, at the first study's executor.address. vllm: vLLM, which needs a GPU.",
    )
    host: str = Field("127.0.0.1", min_length=1, title="Address", description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65535, title="Port", description="Port to listen on.")
    allow_host: tuple[str, ...] = Field(
        (), title="Names", description="A further name of this server; may be given several times.",
    )
    waiting: int = Field(
        16, ge=0, le=1000, title="Queue", description="Questions to one assistant that may wait for their turn; "
        "further ones are refused.",
    )
    context: int | None = Field(
        None, ge=64, title="Context", description="Most tokens of a prompt and its answer together. Empty: "
        "train.max_length and the longest answer, 4096 at least, and never more than the base model reads.",
    )
    min_replicas: int = Field(1, ge=1, le=1000, title="Fewest replicas", description="ray: replicas that are always "
                              "there; each holds every base once.")
    max_replicas: int = Field(2, ge=1, le=1000, title="Most replicas", description="ray: replicas at most.")
    ongoing: float = Field(2.0, ge=0.1, title="Questions of a replica", description="ray: questions under way at which "
                           "a further replica is started.")
    cpus: float = Field(1.0, ge=0.1, title="CPUs of a replica", description="ray: processors that each replica asks "
                        "for, and uses.")
    gpus: float = Field(0.0, ge=0, title="GPUs of a replica", description="ray: GPUs that each replica asks for.")

    @model_validator(mode="after")
    def _fewest_and_most(self) -> ServingConfig:
        if self.min_replicas > self.max_replicas:
            raise ConfigError(f"min_replicas={self.min_replicas} is more than max_replicas={self.max_replicas}",
                              where="serve", remedy="Give a larger --max-replicas")
        return self
