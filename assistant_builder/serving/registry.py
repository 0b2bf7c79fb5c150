"""The models that a server serves: their names, their folders, and the limits of their prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from assistant_builder.arms import ARMS, QLORA, plain_order, with_arm
from assistant_builder.chat.ask import (
    WHOLE,
    context_tokens,
    default_system_prompt,
    longest_answer,
)
from assistant_builder.config import Approach
from assistant_builder.data import Message
from assistant_builder.errors import ConfigError, ModelError, StudyError
from assistant_builder.i18n import m
from assistant_builder.inference.chunks import Sampling
from assistant_builder.models.checkpoint_dir import context_length
from assistant_builder.models.fetch import fetch_base
from assistant_builder.models.template_process import LimitedChatTokenizer, TemplateProcess
from assistant_builder.retrieval.answering import reads_conversations
from assistant_builder.retrieval.build import lookup_stamp
from assistant_builder.retrieval.copying import COPY
from assistant_builder.retrieval.decline import FILE, Mode, rule_of
from assistant_builder.retrieval.promise import (
    BROKEN,
    if_broken,
    require_promise,
    version_name,
)
from assistant_builder.study import Study
from assistant_builder.study.versions import served_version, versions_file

_LONG = 50_000
"""Characters of a conversation whose tokens take some hundredths of a second to count."""


@dataclass(frozen=True)
class ServedModel:
    """One assistant: a trained one, or one that copies answers."""

    id: str  # name of the model in a request: ``STUDY-ARM``
    folder: Path
    arm: str  # :data:`COPY` for one that copies answers
    created: int  # Unix time at which its training began
    grounded: bool = False  # whether it looks facts up
    shows_sources: bool = False  # whether completions may contain the facts that were found
    approach: Approach | None = None  # of the assistant; None for the main one
    # folder of the first study of its versions; None if it is not served as one of them
    first: Path | None = None
    lookup: str = ""  # stamp of its rule and index as evaluated; "" before the evaluation

    @property
    def study(self) -> Study:
        """The study."""
        return Study(self.folder, self.approach)

    @property
    def version(self) -> str:
        """Its name with that of its version: that of its study, and the arm."""
        return version_name(self.study, self.arm)

    @property
    def root(self) -> Study:
        """The first study of its versions, which has the token of the widget and the questions of visitors."""
        return Study(self.first or self.folder)

    @property
    def adapter(self) -> Path:
        """Folder of its adapter."""
        return self.study.arm_folder(self.arm) / "adapter"

    @property
    def mode(self) -> Mode:
        """Whether it was trained, or copies answers."""
        return "copy" if self.arm == COPY else "tuned"

    @property
    def latest_lookup(self) -> str:
        """The present stamp of its rule and index; ``lookup`` while they are being evaluated."""
        if self.arm == COPY:  # its session reads them again
            return ""
        evaluated = self.grounded and _is_evaluated(self.study)
        return lookup_stamp(self.study, [self.arm]) if evaluated else self.lookup

    @property
    def declines(self) -> bool:
        """Whether it has a rule for declining."""
        return self.arm == COPY or rule_of(self.study.arm_folder(self.arm) / FILE) is not None


@dataclass(frozen=True)
class ModelRegistry:
    """The assistants of a server."""

    assistants: tuple[ServedModel, ...]
    aliases: dict[str, str]  # name of a study → id of its default assistant
    # selects the same names again; None if the assistants stay as they are
    select: Callable[[], ModelRegistry] | None = field(default=None, compare=False, repr=False)

    @property
    def published(self) -> str:
        """A text that changes when another version of a study is published, or its rule, index or promise changes."""
        roots = {assistant.root.folder: assistant.root for assistant in self.assistants}
        files = sorted(
            file for root in roots.values() for file in (versions_file(root), root.folder / BROKEN)
        )
        versions = [str(file.stat().st_mtime_ns) if file.is_file() else "-" for file in files]
        return " ".join([*versions, *(assistant.latest_lookup for assistant in self.assistants)])

    @property
    def warnings(self) -> list[str]:
        """What the operator of the server should know about the assistants."""
        never = [each for each in self.assistants if each.grounded and not each.declines]
        return [
            f"{each.id} declines no question: "
            + (
                f"its study has no rule for it yet; 'assistant-builder run {each.folder.name}' fits one"
                if not _is_evaluated(each.study)
                else "its evaluation gave it no rule for it"
            )
            for each in never
        ]

    def latest(self) -> ModelRegistry:
        """The assistants that are published now; raises what :func:`select_models` raises."""
        return self if self.select is None else self.select()

    @property
    def ids(self) -> list[str]:
        """Ids of all assistants."""
        return [assistant.id for assistant in self.assistants]

    def find(self, model: str) -> ServedModel | None:
        """The assistant of an id or alias."""
        wanted = self.aliases.get(model, model)
        return next((assistant for assistant in self.assistants if assistant.id == wanted), None)


def _is_evaluated(study: Study) -> bool:
    try:
        return study.step("evaluate").state == "succeeded"
    except StudyError:  # its record is damaged
        return False


def select_models(
    wanted: Sequence[str], recommended: Callable[[Study], str], approach: Approach | None = None
) -> ModelRegistry:
    """The assistants of ``NAME`` (all arms that its published version trains) and ``NAME:ARM``.

    ``recommended`` returns the default arm of a study; ``approach`` is None for the recommended one.

    Raises:
        StudyError: There is no study of that name.
        ModelError: An arm is not trained, or the study does not train it at all.
        ConfigError: There is no arm or approach of that name, or two assistants would have one name.
    """
    arms: dict[str, list[str]] = {}
    for text in wanted:  # NAME alone: all arms that its study trains
        name, colon, arm = text.partition(":")
        if colon and arm not in ARMS:
            raise ConfigError(
                m("{arm!r} is not one of {arms}", arm=arm, arms=", ".join(ARMS)),
                where=text,
                remedy=m("Write NAME or NAME:{name}", name=QLORA.name),
            )
        chosen = arms.setdefault(name, [])
        trained = served_version(Study.open(name)).config.arms
        if colon and arm not in trained:
            raise ModelError(
                m(
                    "the {study} trains {trained} alone, and has no {arm} assistant",
                    trained=" and ".join(trained),
                    arm=arm,
                ),
                where=m("{study} {name}", name=name),
                remedy=m(
                    "Serve {name}, or train both with 'assistant-builder run {name} --set arms={with_arm}'",
                    name=name,
                    with_arm=",".join(with_arm(trained, arm)),
                ),
            )
        chosen += [
            known for known in plain_order(trained) if arm in ("", known) and known not in chosen
        ]
    assistants: list[ServedModel] = []
    aliases: dict[str, str] = {}
    for name, chosen in arms.items():
        first = Study.open(name)
        study = served_version(first).of_choice(approach)
        for arm in chosen:
            step = study.step(f"train-{arm}")
            config = study.config
            found = ServedModel(
                f"{name}-{arm}",
                study.folder.resolve(),
                arm,
                int(step.started or 0),
                config.grounded,
                config.retrieval.sources_in_endpoint,
                study.approach,
                first.folder.resolve(),
            )
            if (
                step.state != "succeeded"
                or not (found.adapter / "adapter_model.safetensors").is_file()
            ):
                raise ModelError(
                    m("the {arm} assistant is not trained yet", arm=arm),
                    where=m("{study} {name}", name=name),
                    remedy=m(
                        "Train it with 'assistant-builder run {name}', or serve copied answers with --mode copy",
                        name=name,
                    ),
                )
            require_promise(study, arm)
            if if_broken(study, first, arm) == "copy":
                found = replace(found, arm=COPY)
            assistants.append(replace(found, lookup=found.latest_lookup))
        best = recommended(study)
        aliases[name] = f"{name}-{best if best in chosen else chosen[0]}"
    _require_different([*aliases, *(assistant.id for assistant in assistants)])
    return ModelRegistry(
        tuple(assistants), aliases, partial(select_models, wanted, recommended, approach)
    )


def select_copies(wanted: Sequence[str]) -> ModelRegistry:
    """The copying assistants of studies, which need not be trained, by name.

    Raises:
        StudyError: There is no study of that name.
        ConfigError: A name has an arm, or two assistants would have one name.
    """
    assistants = []
    for name in dict.fromkeys(wanted):
        if ":" in name:
            raise ConfigError(
                m("copied answers are those of the data, and not of an arm"),
                where=name,
                remedy=m("Write {name}", name=name.partition(":")[0]),
            )
        first = Study.open(name)
        study = served_version(first)
        found = ServedModel(
            f"{name}-{COPY}",
            study.folder.resolve(),
            COPY,
            int((study.folder / "study.yaml").stat().st_mtime),
            grounded=True,
            shows_sources=study.config.retrieval.sources_in_endpoint,
            first=first.folder.resolve(),
        )
        require_promise(study, COPY)
        assistants.append(replace(found, lookup=found.latest_lookup))
    aliases = {name: f"{name}-{COPY}" for name in dict.fromkeys(wanted)}
    _require_different([*aliases, *aliases.values()])
    return ModelRegistry(tuple(assistants), aliases, partial(select_copies, wanted))


def _require_different(names: Sequence[str]) -> None:
    double = sorted({name for name in names if names.count(name) > 1})
    if double:
        raise ConfigError(
            m("two assistants would have the name {double!r}", double=double[0]),
            where="serve",
            remedy=m("Serve them separately, or rename one of the {studies}"),
        )


@dataclass(frozen=True)
class PromptLimits:
    """Tokenizer and limits of one study's assistants, for the check of a request."""

    # counts the tokens of a conversation's prompt; blocks, and raises ModelError
    count: Callable[[Sequence[Message]], int]
    longest: int  # most tokens of a prompt: one less than prompt and answer may have together
    system: str  # the system prompt that the assistants were trained with; empty without one
    close: Callable[[], None] = lambda: None  # ends the processes that count
    conversations: bool = False  # whether the assistants read earlier turns
    # most tokens of an answer, unless a request sets its own limit
    longest_answer: int = Sampling().max_new_tokens


def _count_words(messages: Sequence[Message]) -> int:
    return sum(len(message.content.split()) for message in messages)


# a request is bounded by its characters, and an answer is as long as it is in the data
_COPY_LIMITS = PromptLimits(_count_words, WHOLE, "", longest_answer=WHOLE)


def prompt_limits(models: ModelRegistry, context: int | None = None) -> dict[str, PromptLimits]:
    """The limits of every assistant, by its id.

    ``context``: see :func:`assistant_builder.chat.ask.context_tokens`.

    Raises:
        ConfigError: The context is longer than a base reads.
        ModelError: A base is not available, or has no tokenizer.
    """
    found = {
        assistant.folder: study_prompt_limits(assistant.study, context)
        for assistant in models.assistants
        if assistant.mode == "tuned"
    }
    return {each.id: found.get(each.folder, _COPY_LIMITS) for each in models.assistants}


def is_long(messages: Sequence[Message]) -> bool:
    """Whether counting the tokens of a conversation takes long."""
    return sum(len(message.content) for message in messages) > _LONG


def study_prompt_limits(study: Study, context: int | None = None) -> PromptLimits:
    """The limits of a study's assistants; reads the tokenizer of its base."""
    folder = fetch_base(study.config.model)
    # two processes, so that a prompt of megabytes, which takes seconds, does not delay short ones
    processes = [TemplateProcess(folder) for _ in range(2)]
    short, long = (LimitedChatTokenizer(process, study.template_date) for process in processes)
    short.chat_template()  # starts the process with the server, so that a broken tokenizer is reported now

    def count(messages: Sequence[Message]) -> int:
        return (long if is_long(messages) else short).prompt_tokens(messages)

    def end() -> None:
        for process in processes:
            process.close()

    most_tokens = context_tokens(study, context_length(folder), context) - 1
    return PromptLimits(
        count,
        most_tokens,
        default_system_prompt(study),
        end,
        reads_conversations(study),
        longest_answer(study),
    )
