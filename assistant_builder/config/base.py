"""The base class of all settings, and types that several sections share.

``Field(title=…)`` is the label of a setting and its docstring the help text, which translations are made of, too.
``json_schema_extra={"level": "basic"}`` marks a setting that the page shows outside the advanced pane.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, GetCoreSchemaHandler

from assistant_builder.i18n import m
from assistant_builder.registry import find_registry

ComputeDtype = Literal["auto", "bfloat16", "float16", "float32"]
BASIC: dict[str, Any] = {"level": "basic"}


class ConfigModel(BaseModel):
    """Base class of all settings: immutable, and unknown options are errors."""

    model_config = ConfigDict(
        extra="forbid", validate_default=True, frozen=True, use_attribute_docstrings=True
    )

    @classmethod
    def __pydantic_init_subclass__(cls, **options: Any) -> None:
        """Join the lines of the help texts."""
        for field in cls.model_fields.values():
            field.description = " ".join((field.description or "").split()) or None


@dataclass(frozen=True)
class RegistryName:
    """Type of a setting that names an entry of a registry: ``Annotated[str, RegistryName("a.b:C")]``.

    The registry is given as text and imported when a value is validated, because its module may import this package.
    Names that plugins register are accepted; plugins are imported only for names that the product does not register.
    """

    place: str  # ``module:attribute`` of the registry, as for :func:`assistant_builder.registry.find_registry`
    flag: str = ""  # attribute that must be true for an entry to be valid; empty allows any entry
    others: tuple[str, ...] = ()  # valid values that are no entries, such as ``auto``

    def choices(self) -> tuple[str, ...]:
        """The valid names, in the order of the registry."""
        return (
            *self.others,
            *(name for name, entry in find_registry(self.place).items() if self._allows(entry)),
        )

    def meanings(self) -> dict[str, str]:
        """What the valid entries say about themselves in ``about``, if anything, as messages to translate."""
        entries = (
            (name, find_registry(self.place)[name])
            for name in self.choices()
            if name not in self.others
        )
        return {name: about for name, entry in entries if (about := getattr(entry, "about", ""))}

    def _allows(self, entry: Any) -> bool:
        return not self.flag or bool(getattr(entry, self.flag))

    def _check(self, name: str) -> str:
        if name in self.others:
            return name
        registry = find_registry(self.place)
        if name in registry and self._allows(registry[name]):
            return name
        raise ValueError(m("it should be one of {choices}", choices=", ".join(self.choices())))

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> Any:
        return handler(Annotated[source, AfterValidator(self._check)])


ArmName = Annotated[str, RegistryName("assistant_builder.arms:ARMS")]
