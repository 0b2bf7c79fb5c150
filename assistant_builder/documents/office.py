"""The archive of a Word or PowerPoint document, which is checked before a library opens it."""

from __future__ import annotations

import io
import zipfile

from assistant_builder.documents.docx_reader import docx_blocks
from assistant_builder.documents.limits import check_size
from assistant_builder.documents.pptx_reader import pptx_blocks
from assistant_builder.documents.types import Block
from assistant_builder.errors import DataError
from assistant_builder.i18n import m

_MAX_MEMBERS = 5_000
_READERS = {"word/document.xml": docx_blocks, "ppt/presentation.xml": pptx_blocks}


def office_blocks(data: bytes) -> tuple[str, list[Block]]:
    """Title and blocks of a Word or PowerPoint document; its content decides which it is.

    Raises:
        DataError: It is damaged, too large, or neither of them.
    """
    damaged = m("this is no Word or PowerPoint document, or it is damaged")
    remedy = m("Open it in the program that it is from, and save it again as .docx or .pptx")
    try:
        members = zipfile.ZipFile(io.BytesIO(data)).infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OverflowError) as error:
        raise DataError(damaged, remedy=remedy) from error
    # zipfile reads no more than this size
    check_size(sum(member.file_size for member in members))
    names = {member.filename for member in members}
    reader = next((read for name, read in _READERS.items() if name in names), None)
    if len(members) > _MAX_MEMBERS or reader is None:
        raise DataError(damaged, remedy=remedy)
    return reader(data)
