"""The command ``serve``."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import annotated_types
import typer
from pydantic import ValidationError

from assistant_builder.atomic_io import read_json
from assistant_builder.cli import output
from assistant_builder.cli.options import Consent, Json, TrustRemoteCode
from assistant_builder.config import Arm
from assistant_builder.config.serving import ServingConfig
from assistant_builder.errors import ConfigError
from assistant_builder.study import Study

_DEFAULTS = ServingConfig()


def _option(key: str) -> Any:
    """A command-line option with the help text and bounds of a setting."""
    field = ServingConfig.model_fields[key]
    bounds = {type(bound): bound for bound in field.metadata}
    least, most = bounds.get(annotated_types.Ge), bounds.get(annotated_types.Le)
    return typer.Option(help=field.description, min=least.ge if least else None, max=most.le if most else None)


def serve(
    names: Annotated[list[str], typer.Argument(metavar="NAME[:ARM]", help="Studies to serve; append :qlora or "
                                               ":lora to serve only that arm.")],
    on: Annotated[str, _option("on")] = _DEFAULTS.on,
    host: Annotated[str, _option("host")] = _DEFAULTS.host,
    port: Annotated[int, _option("port")] = _DEFAULTS.port,
    allow_host: Annotated[list[str], _option("allow_host")] = [],  # noqa: B006 - typer never changes it
    waiting: Annotated[int, _option("waiting")] = _DEFAULTS.waiting,
    context: Annotated[int | None, _option("context")] = _DEFAULTS.context,
    min_replicas: Annotated[int, _option("min_replicas")] = _DEFAULTS.min_replicas,
    max_replicas: Annotated[int, _option("max_replicas")] = _DEFAULTS.max_replicas,
    ongoing: Annotated[float, _option("ongoing")] = _DEFAULTS.ongoing,
    cpus: Annotated[float, _option("cpus")] = _DEFAULTS.cpus,
    gpus: Annotated[float, _option("gpus")] = _DEFAULTS.gpus,
    trust_remote_code: TrustRemoteCode = False,
    as_json: Json = False,
) -> None:
    """Serve trained assistants over an OpenAI-compatible API.

    The models are NAME-qlora, NAME-lora, and NAME for the recommended arm. To serve other machines, set --host and put
    an API key into ASSISTANT_BUILDER_API_KEY.
    """
    from assistant_builder.serving.door import digest_of, take_key
    from assistant_builder.serving.roster import choose

    key = take_key()
    try:
        config = ServingConfig(
            on=on, host=host, port=port, allow_host=tuple(allow_host), waiting=waiting, context=context,
            min_replicas=min_replicas, max_replicas=max_replicas, ongoing=ongoing, cpus=cpus, gpus=gpus,
        )
    except ValidationError as error:
        raise _invalid_options(error) from error
    roster = choose(names, _recommended)
    consent = Consent(trust_remote_code)
    for assistant in roster.assistants:
        consent.allow(assistant.study.config)
    if on == "vllm":
        from assistant_builder.serving.vllm import serve_by_vllm, vllm_command

        command = vllm_command(roster, config)
        return output.print_json({"command": command}) if as_json else serve_by_vllm(command, config, key)
    digest = digest_of(key) if key is not None else None
    if on == "ray":
        from assistant_builder.serving.local import ready_text
        from assistant_builder.serving.on_ray import serve_on_ray

        def ready(text: str) -> None:
            warning = text.startswith("warning: ")
            print(text if warning else ready_text(roster, text, as_json=as_json), flush=True,
                  file=sys.stderr if warning else sys.stdout)

        first = roster.assistants[0].study
        address = first.config.executor.address
        consent.note(f"serves on the Ray cluster at {address} (executor.address of study {first.name})")
        return serve_on_ray(roster, config, digest, address, ready)
    from assistant_builder.serving.local import serve_here

    serve_here(roster, config, digest, as_json=as_json)


def _invalid_options(error: ValidationError) -> ConfigError:
    """An error that lists every invalid option in one line."""
    problems = [f"--{str(item['loc'][0]).replace('_', '-')} {item['input']}: {item['msg']}" for item in error.errors()]
    return ConfigError("; ".join(problems), where="serve", remedy="Correct it; 'serve --help' lists all options")


def _recommended(study: Study) -> Arm:
    """The arm that the report recommends; without a report, the last arm of the study."""
    from evals.export.kinds import advice

    report = study.folder / "report.json"
    arms = study.config.arms
    return advice(read_json(report), arms).adapter if report.is_file() else arms[-1]
