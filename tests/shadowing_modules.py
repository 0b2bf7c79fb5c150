"""A folder of modules with the names of libraries, each of which leaves a mark when it is imported."""

import sys
from pathlib import Path

_MODULES = tuple(
    """
    psutil numpy yaml pydantic pydantic_core filelock tokenizers safetensors pandas scipy fsspec
    httpx regex uvicorn markupsafe typing_extensions sitecustomize usercustomize random queue
    socket tempfile statistics platform
""".split()
)
_PACKAGES = tuple(
    """
    torch transformers peft bitsandbytes trl accelerate datasets evaluate lm_eval
    sentence_transformers huggingface_hub ray pip evals assistant_builder exact_match rouge
""".split()
)
_CODE = """\
with open({marks!r}, "a") as file:
    file.write(__name__ + "\\n")
raise ImportError(__name__ + " of the current folder was imported")
"""


class Shadows:
    """The folder, and what of it was run.

    Args:
        folder: A new folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._marks = folder.with_name(f"{folder.name}.marks")
        code = _CODE.format(marks=str(self._marks))
        for name in _MODULES:
            self._write(folder / f"{name}.py", code)
        for name in _PACKAGES:
            for module in ("__init__", "__main__", name):
                self._write(folder / name / f"{module}.py", code)

    @property
    def run(self) -> list[str]:
        """Names of the modules that were imported."""
        return self._marks.read_text().split() if self._marks.exists() else []

    @staticmethod
    def _write(path: Path, code: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(code, encoding="utf-8")


def installed_command(*words: str) -> list[str]:
    """``assistant-builder …`` as its script runs it, which has its own folder on ``sys.path`` and not the current one.

    Children get nothing of it: ``-c`` with a path taken off leaves neither flag nor variable behind.
    """
    code = "import sys; del sys.path[0]; from assistant_builder.cli import main; main()"
    return [sys.executable, "-c", code, *words]
