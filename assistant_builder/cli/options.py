"""Options that several commands have, and their help."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, TypeVar, get_args, get_type_hints

import annotated_types
import typer
from pydantic import BaseModel
from typer.core import TyperCommand, TyperOption

from assistant_builder.cli import output
from assistant_builder.config import Approach, read_value
from assistant_builder.registry import Listed
from assistant_builder.runner.consent import Consent

ApproachName = Annotated[
    Approach | None,
    typer.Option(
        "--approach",
        help="Which assistant of a study with both approaches: grounded or memory. Default: the one that the "
        "report recommends.",
    ),
]
Json = Annotated[
    bool,
    typer.Option("--json", help="Print one JSON document to standard output and nothing else."),
]
Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the study.")]
Settings = Annotated[
    list[str],
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change a setting, e.g. train.epochs=2. Can be "
        "repeated. 'assistant-builder settings' lists all settings.",
    ),
]
TrustRemoteCode = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code",
        help="Allow this command to run the Python code in the base model's "
        "folder or repository. Read that code first.",
    ),
]
TrustAddress = Annotated[
    list[str],
    typer.Option(
        "--trust-address",
        metavar="ADDRESS",
        help="Allow to connect to this address of a cluster, "
        "store or judge, which comes from a file. Can be repeated. It is remembered.",
    ),
]
Command = TypeVar("Command", bound=Callable[..., Any])
_TRUST_KEY = "model.trust_remote_code"
_ENTRY = re.compile(r"^    (\w+)(?: \((\S+)\))?: (.+(?:\n {8}.+)*)", re.MULTILINE)


def documented(
    fields: type[BaseModel] | None = None, **values: str
) -> Callable[[Command], Command]:
    """Decorate a command: the section ``Args:`` of its docstring is the help of its arguments and options.

    An entry is ``name: help`` or ``name (METAVAR): help``. Keyword-only parameters are options.

    Args:
        fields: Model whose fields are options, too; the command receives them as ``**settings``.
        values: Values of the ``{placeholders}`` of the section.
    """

    def decorate(command: Command) -> Command:
        command.__doc__, _, section = inspect.cleandoc(command.__doc__ or "").partition(
            "\n\nArgs:\n"
        )
        entries = {name: more for name, *more in _ENTRY.findall(section)}
        hints = get_type_hints(command, include_extras=True)
        parameters: list[inspect.Parameter] = []
        for parameter in inspect.signature(command).parameters.values():
            if parameter.kind is parameter.VAR_KEYWORD and fields is not None:
                first = [known.kind for known in parameters].index(parameter.KEYWORD_ONLY)
                parameters[first:first] = [_of_field(fields, name) for name in fields.model_fields]
                continue
            kind, *infos = get_args(hints[parameter.name]) or (hints[parameter.name],)
            if not infos or not isinstance(infos[0], typer.models.ParameterInfo):
                kind = hints[parameter.name]
                names = [f"--{parameter.name.replace('_', '-')}"] if kind is bool else []
                infos = [
                    typer.Option(*names)
                    if parameter.kind is parameter.KEYWORD_ONLY
                    else typer.Argument()
                ]
            if parameter.name in entries:
                metavar, text = entries[parameter.name]
                infos[0].help = " ".join(text.split()).format(**values)
                infos[0].metavar = metavar or None
            parameters.append(parameter.replace(annotation=Annotated[kind, infos[0]]))
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        return command

    return decorate


def _of_field(model: type[BaseModel], name: str) -> inspect.Parameter:
    """A command-line option with the help text, bounds and default of a field."""
    field = model.model_fields[name]
    bounds: dict[Any, Any] = {type(bound): bound for bound in field.metadata}
    least, most = bounds.get(annotated_types.Ge), bounds.get(annotated_types.Le)
    option = typer.Option(
        help=field.description, min=least.ge if least else None, max=most.le if most else None
    )
    kind: Any = field.annotation
    several = isinstance(field.default, tuple)
    if several:
        kind = list[str]
    elif isinstance(field.default, str):
        kind = str
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=[] if several else field.default,
        annotation=Annotated[kind, option],
    )


def with_choices(**registries: Mapping[str, Listed]) -> type[TyperCommand]:
    """A command whose options of these names take an entry of a registry; the help lists the entries.

    The registries are read when the help is printed, because reading them imports plugins.
    """

    class Command(TyperCommand):
        def format_help(self, ctx: Any, formatter: Any) -> None:
            for param in self.params:
                registry = registries.get(param.name or "")
                if registry is not None and isinstance(param, TyperOption):
                    entries = [f"{entry.name}: {entry.help}" for entry in registry.values()]
                    param.help = (
                        f"{(param.help or '').partition(':')[0].rstrip('.')}: {'; '.join(entries)}."
                    )
                    param.metavar = "|".join(registry)
            super().format_help(ctx, formatter)

    return Command


def user_consent(trust: bool, addresses: Sequence[str] = ()) -> Consent:
    """What the user of a command permits; questions and notes go to the terminal."""
    return Consent(trust, addresses, output.note, output.confirm)


def split_consent(
    settings: list[str], trust: bool, addresses: Sequence[str] = ()
) -> tuple[list[str], Consent]:
    """Separate the permission to run the base model's code from the settings.

    ``--set model.trust_remote_code=true`` has the same effect as ``--trust-remote-code``: it is not saved.
    """
    trusting = [
        text
        for text in settings
        if text.partition("=")[0] == _TRUST_KEY
        and read_value(_TRUST_KEY, text.partition("=")[2]) is True
    ]
    rest = [text for text in settings if text not in trusting]
    return rest, user_consent(trust or bool(trusting), addresses)


def parse_settings(settings: list[str]) -> dict[str, str]:
    """``["train.epochs=2"]`` → ``{"train.epochs": "2"}``."""
    wrong = [text for text in settings if "=" not in text]
    if wrong:
        raise typer.BadParameter(
            f"{wrong[0]!r} is not KEY=VALUE, e.g. --set train.epochs=2", param_hint="--set"
        )
    return dict(text.split("=", 1) for text in settings)
