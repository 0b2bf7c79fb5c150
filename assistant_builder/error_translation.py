"""Translates exceptions of the system and of libraries to errors for the user: out of memory, disk full, not writable.

Libraries report these by ``errno``, as a ``RuntimeError`` with a C++ message, or with their own exceptions.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence

from assistant_builder.errors import AssistantBuilderError, ResourceError, StudyError
from assistant_builder.i18n import N_, m

TRAINING_MEMORY = N_(
    "Lower train.micro_batch_size, train.max_length or eval.batch_size, set train.gradient_checkpointing=on, or "
    "choose a smaller base model; then run again"
)
CHAT_MEMORY = N_("Close other programs, or wait until training ends; then ask again")
_MEMORY_SIGNS = (
    "can't allocate memory",
    "Cannot allocate memory",
    "os error 12",
    "std::bad_alloc",
    "bad allocation",
    "out of memory",
    "can't start new thread",
    "failed to map segment",
    "could not create a primitive",
    "STATUS_ALLOC_FAILED",  # of cuBLAS and cuDNN
)
_ONEDNN_SIGN = "could not create a primitive"
_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_DISK_SIGNS = (
    "No space left on device",
    "os error 28",
    "os error 27",
    "Disk quota exceeded",
    "File too large",
    "PytorchStreamWriter failed",
    "file write failed",
    "unexpected pos",
    "iostream error",
)
_SHARED_MEMORY_SIGNS = (
    "/dev/shm",
    "shared memory",
    "</torch_",
)  # of NCCL, and of tensors that processes share
_PERMISSION_ERRORS = {errno.EROFS, errno.EACCES, errno.EPERM}


def translate_error(error: BaseException) -> AssistantBuilderError:
    """Translate an exception to an error for the user."""
    if isinstance(error, ResourceError):
        return error
    if ran_out_of_memory(error):
        return ResourceError(m("memory ran out"), remedy=m(TRAINING_MEMORY))
    full = next(
        (cause for cause in _exception_chain(error) if _has_sign(cause, _DISK_ERRORS, _DISK_SIGNS)),
        None,
    )
    if full is not None and any(sign in str(full) for sign in _SHARED_MEMORY_SIGNS):
        return ResourceError(
            m("shared memory is full"),
            where="/dev/shm",
            remedy=m(
                "Start the container with more of it, for example --shm-size=1g; then run again"
            ),
        )
    if full is not None:
        return ResourceError(
            m("the disk is full"),
            where=_file_of(full),
            remedy=m("Free space, then run again; the run resumes without loss"),
        )
    if isinstance(error, AssistantBuilderError):
        return error
    if isinstance(error, OSError):
        return _translate_os_error(error)
    name, text = type(error).__name__, str(error)
    return AssistantBuilderError(
        f"{name}: {text}" if text else name,
        remedy=m("See the log for details; running again resumes"),
    )


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether the exception, or one of its causes, means that CPU or GPU memory ran out."""
    return any(
        isinstance(cause, MemoryError)
        or "OutOfMemory" in type(cause).__name__
        or _has_sign(cause, {errno.ENOMEM}, _MEMORY_SIGNS)
        for cause in _exception_chain(error)
    )


def needs_new_process(error: BaseException) -> bool:
    """Whether the process must be replaced: oneDNN does not retry a primitive for which it once had no memory."""
    return any(_ONEDNN_SIGN in str(cause) for cause in _exception_chain(error))


def _translate_os_error(error: OSError) -> AssistantBuilderError:
    message = error.strerror or str(error) or type(error).__name__
    where = _file_of(error)
    if error.errno in _PERMISSION_ERRORS:
        return StudyError(
            m("it is not writable ({message})", message=message),
            where=where,
            remedy=m("Make the folder writable, or copy it to a writable place; then run again"),
        )
    if isinstance(error, FileNotFoundError):
        return StudyError(
            m("it does not exist"),
            where=where or message,
            remedy=m("Restore it, or connect its disk again; then run again"),
        )
    return AssistantBuilderError(
        m("the system reports: {message}", message=message),
        where=where,
        remedy=m("Check the disk; running again resumes"),
    )


def _file_of(error: BaseException) -> str:
    return str(error.filename or "") if isinstance(error, OSError) else ""


def _exception_chain(error: BaseException) -> Iterator[BaseException]:
    """The exception and its causes."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__


def _has_sign(error: BaseException, numbers: set[int], signs: Sequence[str]) -> bool:
    if isinstance(error, OSError) and error.errno in numbers:
        return True
    return not isinstance(error, AssistantBuilderError) and any(
        sign in str(error) for sign in signs
    )
