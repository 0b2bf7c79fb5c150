"""Command line and environment of child Python processes, which must not import modules from the working directory.

``python -m`` and ``python -c`` put the working directory first on ``sys.path``, so a ``psutil.py`` in the folder of an
untrusted study would be executed. ``-P`` excludes the folder in the process itself and in those that
:mod:`multiprocessing` spawns (``subprocess._args_from_interpreter_flags``); ``PYTHONSAFEPATH`` excludes it in all other
descendants. The variable is set only for children, never for this process.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]
"""The folder that contains this package and ``evals``."""
_INSTALLED = ("site-packages", "dist-packages")


def python_command(*arguments: str) -> list[str]:
    """The argument vector of a Python process: ``python_command("-m", "evals", "score")``."""
    return [sys.executable, "-P", *arguments]


def python_environment() -> dict[str, str]:
    """The environment of a Python process: that of this process, with safe paths.

    Folders in the user's ``PYTHONPATH`` are kept. Empty entries, as from ``PYTHONPATH=$PYTHONPATH:folder``, are
    removed, since Python reads them as the working directory. The folder of a checkout that is not installed is added.
    """
    folders = [folder for folder in os.environ.get("PYTHONPATH", "").split(os.pathsep) if folder]
    if _ROOT.name not in _INSTALLED and str(_ROOT) not in folders:
        folders.append(str(_ROOT))
    environment = {**os.environ, "PYTHONSAFEPATH": "1"}
    environment.pop("PYTHONPATH", None)
    return {**environment, "PYTHONPATH": os.pathsep.join(folders)} if folders else environment
