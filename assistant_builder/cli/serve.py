"""The command ``serve``; its other options are the fields of ``ServingConfig`` (config/serving.py)."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from assistant_builder import api
from assistant_builder.arms import ARMS
from assistant_builder.cli import output
from assistant_builder.cli.options import (
    ApproachName,
    Json,
    TrustAddress,
    TrustRemoteCode,
    documented,
    user_consent,
)
from assistant_builder.config.serving import SERVING_BACKENDS, ServingConfig
from assistant_builder.errors import ConfigError
from assistant_builder.i18n import joined, m


@documented(ServingConfig, arms=", ".join(ARMS))
def serve(
    names: list[str],
    *,
    approach: ApproachName = None,
    trust_remote_code: TrustRemoteCode = False,
    trust_address: TrustAddress = [],
    as_json: Json = False,
    **settings: Any,
) -> None:
    """Serve assistants over an OpenAI-compatible API.

    The models are NAME-ARM for each arm, and NAME for the recommended one; with --mode copy NAME-copy, and NAME. To
    serve other machines, set --host and put an API key into ASSISTANT_BUILDER_API_KEY.

    Args:
        names (NAME[:ARM]): Studies to serve; append :ARM to serve only one arm ({arms}).
    """
    from assistant_builder.serving.auth import take_key
    from assistant_builder.serving.registry import select_copies, select_models

    key = take_key()
    try:
        config = ServingConfig(**settings)
    except ValidationError as error:
        problems = [
            f"--{str(item['loc'][0]).replace('_', '-')} {item['input']}: {item['msg']}"
            for item in error.errors()
        ]
        raise ConfigError(
            joined(problems, "; "),
            where="serve",
            remedy=m("Correct it; 'serve --help' lists all options"),
        ) from error
    backend = SERVING_BACKENDS[config.backend]
    copies = config.mode == "copy"
    if copies and config.backend != "local":
        raise ConfigError(
            m(
                "copied answers need no backend, and --backend {name} runs models",
                name=config.backend,
            ),
            where="serve --mode copy",
            remedy=m("Omit --backend, or serve trained assistants with --mode tuned"),
        )
    models = select_copies(names) if copies else select_models(names, api.recommended_arm, approach)
    consent = user_consent(trust_remote_code, trust_address)
    consent.connect(backend.contacts(models.assistants[0].study.config))
    for assistant in models.assistants:
        consent.allow(assistant.study.config)
    for line in models.warnings:
        output.note(f"warning: {line}")
    if config.widget:
        from assistant_builder.serving.widget import widget_assistant

        widget_assistant(models)
    if config.remember != "nothing" and not backend.remembers:
        able = ", ".join(name for name, known in SERVING_BACKENDS.items() if known.remembers)
        raise ConfigError(
            m("{label} keeps no questions", label=backend.label),
            where=m("serve --remember"),
            remedy=m("Choose another --backend: {able}", able=able),
        )
    if copies:
        output.note("Answers are looked up in the data, not trained.")
    for name in dict.fromkeys(each.study.name for each in models.assistants if not copies):
        if api.open(name).recommends_copies:
            output.note(
                f"note: the report of {name} recommends copied answers (--mode copy), because training is not shown to "
                "be better"
            )
    backend.start(models, config, key, as_json=as_json, notify=consent.note)
