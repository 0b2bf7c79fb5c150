"""Limits on uploads, and the size of other requests."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from assistant_builder.errors import ConfigError
from assistant_builder.i18n import m

SIZE_VARIABLE, COUNT_VARIABLE = "ASSISTANT_BUILDER_MAX_UPLOAD", "ASSISTANT_BUILDER_MAX_UPLOADS"
_UNITS = {"": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9}


@dataclass(frozen=True)
class Limits:
    """Limits on uploads and requests."""

    # largest file that can be uploaded, in bytes
    file_bytes: int = 250 * 10**6  # the limit of the readers
    files_at_once: int = 4  # files per upload request
    # uploaded files that the server stores at a time, of all users together
    stored_files: int = 100
    # largest request that is not an upload, in bytes; edited rows and conversations are sent in these
    message_bytes: int = 32 * 10**6

    @property
    def stored_bytes(self) -> int:
        """Bytes of uploaded files that the server stores at a time: four of the largest."""
        return 4 * self.file_bytes

    @classmethod
    def from_environment(cls) -> Limits:
        """The limits with the values of :data:`SIZE_VARIABLE` and :data:`COUNT_VARIABLE`; raises ConfigError."""
        text, count = (
            os.environ.get(SIZE_VARIABLE, "").strip(),
            os.environ.get(COUNT_VARIABLE, "").strip(),
        )
        found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(|kb|mb|gb)", text.lower())
        size = int(float(found[1]) * _UNITS[found[2]]) if found else 0
        if text and size <= 0:
            raise ConfigError(
                m("{text!r} is not a size", text=text),
                where=SIZE_VARIABLE,
                remedy=m("Set it to e.g. 250MB"),
            )
        if count and not (count.isascii() and count.isdigit() and int(count) > 0):
            raise ConfigError(
                m("{number!r} is not a number of files", number=count),
                where=COUNT_VARIABLE,
                remedy=m("Set it to e.g. 100"),
            )
        return cls(file_bytes=size or cls.file_bytes, stored_files=int(count or cls.stored_files))
