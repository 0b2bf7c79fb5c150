"""Which assistants are served, and under which names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from assistant_builder.config import ARMS, Arm
from assistant_builder.errors import ConfigError, ModelError
from assistant_builder.study import Study


@dataclass(frozen=True)
class Assistant:
    """One trained assistant.

    Attributes:
        id: The name a client asks for: that of the study, and its arm.
        folder: The study's folder.
        arm: ``qlora`` or ``lora``.
        created: When its training began, seconds since 1970.
    """

    id: str
    folder: Path
    arm: Arm
    created: int

    @property
    def study(self) -> Study:
        """The study it comes from."""
        return Study(self.folder)

    @property
    def adapter(self) -> Path:
        """Folder of its adapter."""
        return self.study.arm_folder(self.arm) / "adapter"


@dataclass(frozen=True)
class Roster:
    """The assistants that are served.

    Attributes:
        assistants: All of them.
        aliases: Name of a study → the assistant that is meant by it.
    """

    assistants: tuple[Assistant, ...]
    aliases: dict[str, str]

    @property
    def ids(self) -> list[str]:
        """The names of all assistants."""
        return [assistant.id for assistant in self.assistants]

    def find(self, model: str) -> Assistant | None:
        """The assistant that a client means."""
        wanted = self.aliases.get(model, model)
        return next((assistant for assistant in self.assistants if assistant.id == wanted), None)


def choose(wanted: Sequence[str], recommended: Callable[[Study], Arm]) -> Roster:
    """The assistants of ``NAME`` (all arms that its study trains) and ``NAME:ARM``.

    Args:
        wanted: What shall be served.
        recommended: Which arm of a study is meant where its name alone is asked for.

    Raises:
        StudyError: There is no study of that name.
        ModelError: An arm is not trained, or the study does not train it at all.
        ConfigError: There is no arm of that name, or two assistants would have one name.
    """
    arms: dict[str, list[Arm]] = {}
    for text in wanted:  # NAME alone: all arms that its study trains
        name, colon, arm = text.partition(":")
        if colon and arm not in ARMS:
            raise ConfigError(f"{arm!r} is none of {', '.join(ARMS)}", where=text, remedy="Write NAME or NAME:qlora")
        chosen = arms.setdefault(name, [])
        trained = Study.open(name).config.arms
        if colon and arm not in trained:
            raise ModelError(f"the study trains {' and '.join(trained)} alone, and has no {arm} assistant",
                             where=f"study {name}", remedy=f"Serve {name}, or train both with 'assistant-builder run "
                             f"{name} --set arms={','.join(ARMS)}'")
        chosen += [known for known in reversed(trained) if arm in ("", known) and known not in chosen]
    assistants, aliases = [], {}
    for name, chosen in arms.items():
        study = Study.open(name)
        assistants += [_assistant(study, arm) for arm in chosen]
        best = recommended(study)
        aliases[name] = f"{name}-{best if best in chosen else chosen[0]}"
    names = [*aliases, *(assistant.id for assistant in assistants)]
    double = sorted({name for name in names if names.count(name) > 1})
    if double:
        raise ConfigError(f"two assistants would be asked for by the name {double[0]!r}", where="serve",
                          remedy="Serve them apart, or rename one of the studies")
    return Roster(tuple(assistants), aliases)


def _assistant(study: Study, arm: Arm) -> Assistant:
    step = study.step(f"train-{arm}")
    found = Assistant(f"{study.name}-{arm}", study.folder.resolve(), arm, int(step.started or 0))
    if step.state != "succeeded" or not (found.adapter / "adapter_model.safetensors").is_file():
        raise ModelError(f"the {arm} assistant is not trained yet", where=f"study {study.name}",
                         remedy=f"Train it with 'assistant-builder run {study.name}'")
    return found
