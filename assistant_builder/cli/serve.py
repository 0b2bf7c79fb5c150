"""The command ``serve``."""

from __future__ import annotations

from typing import Annotated, Any

import annotated_types
import typer
from pydantic import ValidationError

from assistant_builder.arms import ARMS, plain_order
from assistant_builder.cli import output
from assistant_builder.cli.options import ApproachName, Consent, Json, TrustAddress, TrustRemoteCode
from assistant_builder.config.serving import SERVING_BACKENDS, ServingConfig
from assistant_builder.errors import ConfigError
from assistant_builder.study import Study
from assistant_builder.study.report_types import read_report

_DEFAULTS = ServingConfig()


def _option(key: str) -> Any:
    """A command-line option with the help text and bounds of a setting."""
    field = ServingConfig.model_fields[key]
    bounds = {type(bound): bound for bound in field.metadata}
    least, most = bounds.get(annotated_types.Ge), bounds.get(annotated_types.Le)
    return typer.Option(
        help=field.description, min=least.ge if least else None, max=most.le if most else None
    )


def serve(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME[:ARM]",
            help=f"Studies to serve; append :ARM to serve only one arm ({', '.join(ARMS)}).",
        ),
    ],
    backend: Annotated[str, _option("backend")] = _DEFAULTS.backend,
    host: Annotated[str, _option("host")] = _DEFAULTS.host,
    port: Annotated[int, _option("port")] = _DEFAULTS.port,
    allow_host: Annotated[list[str], _option("allow_host")] = [],  # noqa: B006 - typer never changes it
    widget: Annotated[bool, _option("widget")] = _DEFAULTS.widget,
    allow_origin: Annotated[list[str], _option("allow_origin")] = [],  # noqa: B006
    title: Annotated[str, _option("title")] = _DEFAULTS.title,
    contact: Annotated[str, _option("contact")] = _DEFAULTS.contact,
    remember: Annotated[str, _option("remember")] = _DEFAULTS.remember,
    keep_days: Annotated[int, _option("keep_days")] = _DEFAULTS.keep_days,
    proxy: Annotated[str, _option("proxy")] = _DEFAULTS.proxy,
    waiting: Annotated[int, _option("waiting")] = _DEFAULTS.waiting,
    context: Annotated[int | None, _option("context")] = _DEFAULTS.context,
    type: Annotated[str | None, _option("type")] = _DEFAULTS.type,
    slots: Annotated[int | None, _option("slots")] = _DEFAULTS.slots,
    min_replicas: Annotated[int, _option("min_replicas")] = _DEFAULTS.min_replicas,
    max_replicas: Annotated[int, _option("max_replicas")] = _DEFAULTS.max_replicas,
    ongoing: Annotated[float, _option("ongoing")] = _DEFAULTS.ongoing,
    cpus: Annotated[float, _option("cpus")] = _DEFAULTS.cpus,
    gpus: Annotated[float, _option("gpus")] = _DEFAULTS.gpus,
    approach: ApproachName = None,
    trust_remote_code: TrustRemoteCode = False,
    trust_address: TrustAddress = [],  # noqa: B006 - typer reads the default and never changes it
    as_json: Json = False,
) -> None:
    """Serve trained assistants over an OpenAI-compatible API.

    The models are NAME-ARM for each arm, and NAME for the recommended one. To serve other machines, set --host and put
    an API key into ASSISTANT_BUILDER_API_KEY.
    """
    from assistant_builder.serving.auth import take_key
    from assistant_builder.serving.registry import select_models

    key = take_key()
    try:
        config = ServingConfig(
            backend=backend,
            host=host,
            port=port,
            allow_host=tuple(allow_host),
            widget=widget,
            allow_origin=tuple(allow_origin),
            title=title,
            contact=contact,
            proxy=proxy,
            remember=remember,
            keep_days=keep_days,
            waiting=waiting,
            context=context,
            type=type,
            slots=slots,
            min_replicas=min_replicas,
            max_replicas=max_replicas,
            ongoing=ongoing,
            cpus=cpus,
            gpus=gpus,
        )
    except ValidationError as error:
        raise _invalid_options(error) from error
    models = select_models(names, _recommended, output.check_approach(approach))
    consent = Consent(trust_remote_code, trust_address)
    consent.connect(SERVING_BACKENDS[backend].contacts(models.assistants[0].study.config))
    for assistant in models.assistants:
        consent.allow(assistant.study.config)
    for line in models.warnings:
        output.note(f"warning: {line}")
    if widget:
        from assistant_builder.serving.widget import widget_assistant

        widget_assistant(models)
    if remember != "nothing" and not SERVING_BACKENDS[backend].remembers:
        able = ", ".join(name for name, known in SERVING_BACKENDS.items() if known.remembers)
        raise ConfigError(
            f"{SERVING_BACKENDS[backend].label} keeps no questions",
            where="serve --remember",
            remedy=f"Choose another --backend: {able}",
        )
    SERVING_BACKENDS[backend].start(models, config, key, as_json=as_json, notify=consent.note)


def _invalid_options(error: ValidationError) -> ConfigError:
    """An error that lists every invalid option in one line."""
    problems = [
        f"--{str(item['loc'][0]).replace('_', '-')} {item['input']}: {item['msg']}"
        for item in error.errors()
    ]
    return ConfigError(
        "; ".join(problems), where="serve", remedy="Correct it; 'serve --help' lists all options"
    )


def _recommended(study: Study) -> str:
    """The arm that the report recommends; without a report, QLoRA or the only arm."""
    from assistant_builder.export_formats import advice

    report = study.report_file
    arms = study.config.arms
    return advice(read_report(report), arms).adapter if report.is_file() else plain_order(arms)[0]
