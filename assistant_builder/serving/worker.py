"""The process that holds the models of a server: ``python -m assistant_builder.serving.worker ASSISTANTS``.

It speaks the protocol of :mod:`assistant_builder.chat.worker`, with the assistants' ids for arms.
"""

from __future__ import annotations

import argparse
import json
import threading
from pathlib import Path

from assistant_builder.chat.worker import run_server
from assistant_builder.serving.session import SharedSession
from assistant_builder.study import Study
from assistant_builder.worker import prepare_libraries


def main(arguments: list[str] | None = None) -> None:
    """Start the worker."""
    parser = argparse.ArgumentParser(description="Answer questions with trained assistants of several studies.")
    parser.add_argument("assistants", help="JSON: [[id, folder of the study, arm], …]")
    options = parser.parse_args(arguments)
    prepare_libraries()
    session = SharedSession({name: (Study(Path(folder)), arm) for name, folder, arm in json.loads(options.assistants)})
    run_server(session, idle_seconds=threading.TIMEOUT_MAX, exit_on_run=False)  # as long as the server


if __name__ == "__main__":
    main()
