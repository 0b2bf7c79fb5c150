"""``python -m assistant_builder``: the command line.

``-m`` puts the working directory first on ``sys.path``. This module removes it before other imports, unless the program
itself was loaded from there. It cannot protect what Python imports earlier: the package itself and a few modules of the
standard library. ``assistant-builder`` and ``python -P -m assistant_builder`` never search the working directory.
"""

import os
import sys

if __name__ == "__main__":
    try:
        _here = os.getcwd()
    except OSError:  # the folder was deleted, so nothing can be imported from it
        _here = ""
    _root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    if not sys.flags.safe_path and sys.path[0] == _here != _root:
        del sys.path[0]

from assistant_builder.cli import main  # noqa: E402

if __name__ == "__main__":
    main()
