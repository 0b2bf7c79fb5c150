"""Settings of the server, and the registry of serving backends.

A server serves several studies, so its options belong to no study. No result depends on them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import ConfigDict, Field, field_validator, model_validator

from assistant_builder.config.base import ConfigModel
from assistant_builder.errors import ConfigError
from assistant_builder.i18n import m
from assistant_builder.quantization.gguf_types import GGUF_TYPES
from assistant_builder.registry import Registry


@dataclass(frozen=True)
class ServingBackend:
    """A way to run the models of a server."""

    name: str  # value of ``--backend``
    label: str
    explanation: str  # what it is and whom it suits, in one phrase
    # function that serves until interrupted and imports heavy libraries itself. Its arguments are the
    # :class:`~assistant_builder.serving.registry.ModelRegistry`, the :class:`ServingConfig`, the API key (None:
    # requests need no key), and by keyword ``as_json`` (print one JSON document when ready) and ``notify`` (called with
    # each line that the user must see before the backend contacts another machine)
    start: Callable[..., None]
    requires: str = ""  # what must be installed or available; empty if nothing
    streams: bool = True  # whether it sends answers as streams
    remembers: bool = True  # whether it can keep questions
    # settings of the first study → setting: address
    contacts: Callable[[Any], dict[str, str]] = lambda config: {}

    @property
    def help(self) -> str:
        """Explanation and requirements, for help texts."""
        needs = f" (requires {self.requires})" if self.requires else ""
        return f"{self.explanation}{needs}{'' if self.streams else '; answers without streams'}"


SERVING_BACKENDS: Registry[ServingBackend] = Registry(
    "serving backend",
    builtin=(
        "assistant_builder.serving.local:LOCAL",
        "assistant_builder.serving.llamacpp:LLAMACPP",
        "assistant_builder.serving.ray_serve:RAY",
        "assistant_builder.serving.vllm:VLLM",
    ),
)


def _add_backends(schema: dict[str, Any]) -> None:
    schema["enum"] = list(SERVING_BACKENDS)


class ServingConfig(ConfigModel):
    """Address, backend and capacity of a server."""

    # validation of the backend imports all backends
    model_config = ConfigDict(validate_default=False)

    mode: Literal["tuned", "copy"] = Field("tuned", title="Mode")
    """Who answers: tuned (trained assistants) or copy (answers copied from the data, before and without training)."""
    backend: str = Field("local", title="Backend", json_schema_extra=_add_backends)
    """What runs the models."""
    host: str = Field("127.0.0.1", min_length=1, title="Address")
    """Address to listen on."""
    port: int = Field(8000, ge=0, le=65535, title="Port")
    """Port to listen on."""
    allow_host: tuple[str, ...] = Field((), title="Host names")
    """A further host name of this server; may be given several times."""
    widget: bool = Field(False, title="Widget")
    """Serve a chat bubble for websites, and a page with it: visitors ask without a key."""
    allow_origin: tuple[str, ...] = Field((), title="Origins")
    """Origin of a website whose pages may ask, such as https://example.com; may be given several times."""
    title: str = Field("", max_length=80, title="Title")
    """Name of the assistant in the widget. Empty: that of the study."""
    contact: str = Field("", max_length=200, title="Contact")
    """Line that the widget shows where the assistant declines, such as an e-mail address."""
    remember: Literal["nothing", "counts", "texts"] = Field("nothing", title="Remember")
    """What is kept of questions in the study's folder: nothing; counts (time, whether declined, vote); texts (question,
    answer and what it should have said, too, with e-mail addresses and numbers that identify people masked)."""
    keep_days: int = Field(90, ge=1, le=3650, title="Days")
    """Days after which what is remembered is deleted."""
    proxy: str = Field("", title="Proxy")
    """Address or network of a reverse proxy whose X-Forwarded-For header names the visitors; several with commas."""
    waiting: int = Field(16, ge=0, le=1000, title="Queue")
    """Requests to one assistant that may wait; further ones are rejected."""
    context: int | None = Field(None, ge=64, title="Context")
    """Maximum tokens of a prompt and its answer together. Empty: the longest pair plus the longest answer, at least
    4096, limited by the context of the base model."""
    type: str | None = Field(None, title="GGUF type")
    """llamacpp: type of the GGUF files, as of export --type. Empty: the smallest that the report calls no worse, else
    Q8_0."""
    slots: int | None = Field(None, ge=1, le=1024, title="Slots")
    """llamacpp, vllm: questions to one assistant that are answered at a time. Empty: 4 with llamacpp, 64 with vllm."""
    min_replicas: int = Field(1, ge=1, le=1000, title="Minimum replicas")
    """ray: minimum number of replicas; each loads every base once."""
    max_replicas: int = Field(2, ge=1, le=1000, title="Maximum replicas")
    """ray: maximum number of replicas."""
    ongoing: float = Field(2.0, ge=0.1, title="Requests per replica")
    """ray: unfinished requests per replica at which another one is started."""
    cpus: float = Field(1.0, ge=0.1, title="CPUs per replica")
    """ray: CPU cores of each replica."""
    gpus: float = Field(0.0, ge=0, title="GPUs per replica")
    """ray: GPUs of each replica."""

    @field_validator("backend")
    @classmethod
    def _is_registered(cls, name: str) -> str:
        if name not in SERVING_BACKENDS:
            raise ValueError(
                m("must be one of {serving_backends}", serving_backends=", ".join(SERVING_BACKENDS))
            )
        return name

    @field_validator("allow_origin")
    @classmethod
    def _are_origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        found = []
        for origin in origins:
            parts = urlsplit(origin.strip().rstrip("/").lower())
            if (
                parts.scheme not in ("http", "https")
                or not parts.hostname
                or parts.path
                or parts.query
                or ("@" in parts.netloc or "*" in parts.netloc)
            ):
                raise ValueError(
                    m(
                        "{origin!r} is no origin; write it as https://example.com, without a path",
                        origin=origin,
                    )
                )
            found.append(f"{parts.scheme}://{parts.netloc}")
        return tuple(found)

    @field_validator("type")
    @classmethod
    def _is_gguf_type(cls, name: str | None) -> str | None:
        if name is not None and name not in GGUF_TYPES:
            raise ValueError(m("must be one of {gguf_types}", gguf_types=", ".join(GGUF_TYPES)))
        return name

    @model_validator(mode="after")
    def _check_replicas(self) -> ServingConfig:
        if self.min_replicas > self.max_replicas:
            raise ConfigError(
                m(
                    "min_replicas={min_replicas} is more than max_replicas={max_replicas}",
                    min_replicas=self.min_replicas,
                    max_replicas=self.max_replicas,
                ),
                where="serve",
                remedy=m("Use a larger --max-replicas"),
            )
        if self.allow_origin and not self.widget:
            raise ConfigError(
                m("--allow-origin is for the widget"), where="serve", remedy=m("Add --widget")
            )
        return self
