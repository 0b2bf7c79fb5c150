"""Python processes that this program starts: none of them imports modules of its working directory.

``python -m`` and ``python -c`` put the working directory first on ``sys.path``. Whoever runs a study in a folder that
somebody else has filled would run a ``psutil.py`` that lies there. ``-P`` keeps the folder out of the process itself
and of those that :mod:`multiprocessing` spawns (``subprocess._args_from_interpreter_flags``); ``PYTHONSAFEPATH`` keeps
it out of every other Python process further down. The variable is set for children alone, never for this process.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]
"""The folder that holds this package and ``evals``."""
_INSTALLED = ("site-packages", "dist-packages")


def python_command(*arguments: str) -> list[str]:
    """The argument vector of a Python process: ``python_command("-m", "evals", "score")``."""
    return [sys.executable, "-P", *arguments]


def python_environment() -> dict[str, str]:
    """The environment of a Python process: that of this one, with safe paths.

    Folders of the user's ``PYTHONPATH`` stay. Empty entries go, as ``PYTHONPATH=$PYTHONPATH:folder`` makes them: Python
    reads them as the working directory. A checkout that is not installed is added, since nothing else leads to it.
    """
    folders = [folder for folder in os.environ.get("PYTHONPATH", "").split(os.pathsep) if folder]
    if _ROOT.name not in _INSTALLED and str(_ROOT) not in folders:
        folders.append(str(_ROOT))
    environment = {**os.environ, "PYTHONSAFEPATH": "1"}
    environment.pop("PYTHONPATH", None)
    return {**environment, "PYTHONPATH": os.pathsep.join(folders)} if folders else environment
