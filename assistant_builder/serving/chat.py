"""The process of the page's chat: ``python -m assistant_builder.serving.chat --study FOLDER``.

It holds the assistants of a study in PyTorch, and the index of copied answers, each from its first question on.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from assistant_builder.chat.answer_server import IDLE_SECONDS, run_server
from assistant_builder.child_process import configure_libraries
from assistant_builder.inference.copying import BesideCopies, CopySession
from assistant_builder.inference.session import BASE, ChatSession, Session
from assistant_builder.retrieval.copying import COPY
from assistant_builder.study import Study


def page_session(study: Study) -> Session:
    """The assistants of a study, their untuned base, and :data:`COPY`."""
    trained = ChatSession(study, (*study.config.arms, BASE))
    return BesideCopies(trained, CopySession({COPY: (study, COPY)}), whole=True)


def main() -> None:
    """Start the worker of a study."""
    parser = argparse.ArgumentParser(
        description="Answer questions with the trained assistants of a study."
    )
    parser.add_argument("--study", type=Path, required=True, help="the study's folder")
    parser.add_argument("--approach", help="the approach of the assistants; default: the main one")
    parser.add_argument(
        "--idle-seconds", type=float, default=IDLE_SECONDS, help="idle time until the process ends"
    )
    options = parser.parse_args()
    configure_libraries()
    run_server(page_session(Study(options.study, options.approach)), options.idle_seconds)


if __name__ == "__main__":
    main()
