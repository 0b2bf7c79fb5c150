"""The base class of all settings, and what several sections share.

``Field(title=…)`` is the label, ``description`` the help text; ``json_schema_extra={"level": "basic"}`` marks
what the page shows outside the advanced pane.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, GetCoreSchemaHandler

from assistant_builder.registry import find_registry

ComputeDtype = Literal["auto", "bfloat16", "float16", "float32"]
BASIC: dict[str, Any] = {"level": "basic"}


class ConfigModel(BaseModel):
    """Base class of all settings: immutable, and unknown options are errors."""

    model_config = ConfigDict(extra="forbid", validate_default=True, frozen=True)


@dataclass(frozen=True)
class NameOf:
    """The type of a setting whose value is the name of an entry of a registry: ``Annotated[str, NameOf("a.b:C")]``.

    The module of the registry comes after this package in the order of imports. The setting therefore gives its place
    as text, and the module is imported when a value is validated. An unknown name is reported together with all other
    mistakes in the settings, before anything is trained, and a name that a plugin registers is accepted. Plugins are
    imported only for names that the product itself does not register.

    Attributes:
        place: As for :func:`assistant_builder.registry.find_registry`.
        flag: Attribute that must be true of an entry to be chosen; empty: any entry.
    """

    place: str
    flag: str = ""

    def choices(self) -> tuple[str, ...]:
        """The names that can be chosen, in the order of the registry."""
        return tuple(name for name, entry in find_registry(self.place).items() if self._allows(entry))

    def _allows(self, entry: Any) -> bool:
        return not self.flag or bool(getattr(entry, self.flag))

    def _check(self, name: str) -> str:
        registry = find_registry(self.place)
        if name in registry and self._allows(registry[name]):
            return name
        raise ValueError(f"it should be one of {', '.join(self.choices())}")

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> Any:
        return handler(Annotated[source, AfterValidator(self._check)])


ArmName = Annotated[str, NameOf("assistant_builder.arms:ARMS")]
