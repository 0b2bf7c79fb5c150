"""Upload of a finished export to the model hub, as a private repository unless the user asks for a public one.

The token is that of the hub's client (``HF_TOKEN``, or the file that ``hf auth login`` writes), and the hub is that of
``HF_ENDPOINT``. Only files that ``export.json`` lists are uploaded, so that other files of the folder stay on this
machine.
"""

from __future__ import annotations

import glob
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from assistant_builder.errors import AssistantBuilderError, ConfigError, HubError
from assistant_builder.export.atomic_dir import describe_files
from assistant_builder.export.retrieval_files import FOLDER
from assistant_builder.i18n import Text, m
from assistant_builder.i18n.quantities import format_bytes
from assistant_builder.models import hub


def check_push(repo: str) -> None:
    """Check before an export starts whether it can be uploaded to ``repo``; the hub is not asked.

    Raises:
        ConfigError: ``repo`` is not a name of the form owner/name, or there is no token.
        HubError: The hub is switched off by ``HF_HUB_OFFLINE``.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise ConfigError(
            m(
                "{repo!r} is not a repository: {error_summary}",
                repo=repo,
                error_summary=hub.error_summary(error),
            ),
            where="--push",
            remedy=m("Name it owner/name, e.g. me/support-assistant"),
        ) from error
    if repo.count("/") != 1:
        raise ConfigError(
            m("{repo!r} has no owner", repo=repo),
            where="--push",
            remedy=m("Name it owner/name, e.g. me/{value}", value=repo or "support-assistant"),
        )
    if hub.offline():
        raise HubError(
            m("HF_HUB_OFFLINE is set"),
            where="--push",
            remedy=m("Unset it, or export without --push"),
        )
    _token()


def _token() -> str:
    from huggingface_hub import get_token

    try:
        token = get_token()
    except Exception as error:  # a token that must be refreshed, or exchanged for another one
        raise HubError(
            m(
                "the token of the hub cannot be used: {error_summary}",
                error_summary=hub.error_summary(error),
            ),
            where="--push",
            remedy=m("Log in with 'hf auth login', or set HF_TOKEN"),
        ) from error
    if not token:
        raise ConfigError(
            m("there is no token of the hub"),
            where="--push",
            remedy=m("Log in with 'hf auth login', or set HF_TOKEN to a token with write access"),
        )
    return token


def uploaded_files(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Name and bytes of each file of an export that is uploaded: all but the archive, which contains the others.

    ``record`` is the content of ``export.json``.
    """
    return [file for file in record["files"] if file["name"] != record["archive"]]


def upload_lines(record: Mapping[str, Any], repo: str, *, public: bool) -> list[str]:
    """What will be uploaded, in lines for the terminal: repository, files and sizes, and whether pairs are in it."""
    files = uploaded_files(record)
    total, width = sum(file["bytes"] for file in files), max(len(file["name"]) for file in files)
    lines = [
        f"Uploading {len(files)} files ({format_bytes(total)}) to {repo} ({'public' if public else 'private'}):",
        *(f"  {file['name']:{width}}  {format_bytes(file['bytes'])}" for file in files),
    ]
    if any(file["name"].startswith(f"{FOLDER}/") for file in files):
        lines.append(
            f"The folder {FOLDER}/ contains the training pairs as plain text (--with-data)."
        )
    return lines


def push_export(record: Mapping[str, Any], repo: str, *, public: bool = False) -> dict[str, Any]:
    """Upload an export.

    Args:
        record: ``export.json`` with the path of the folder, see :func:`assistant_builder.export.export.read_export`.
        repo: Repository, ``owner/name``; it is created if it does not exist.
        public: Whether a new repository is public, and an existing one may be.

    Returns:
        ``repo``, ``url``, ``private`` and ``files``, the names and bytes of the uploaded files.

    Raises:
        HubError: The hub cannot be reached, refuses the token or the upload, or an existing repository is public. The
            export stays in its folder.
        ConfigError: There is no token.
    """
    from huggingface_hub import HfApi, constants

    files = uploaded_files(record)

    def again(remedy: Text) -> Text:
        return m(
            "The export is complete in {folder}. {remedy} Then upload it with: {command}",
            folder=record["folder"],
            remedy=remedy,
            command=_command(record, repo, public),
        )

    api = HfApi(token=_token())
    try:
        repo = api.create_repo(repo, private=not public, exist_ok=True).repo_id
        private = bool(api.model_info(repo, timeout=hub.TIMEOUT_SECONDS).private)
        if not private and not public:
            raise HubError(
                m("the repository {repo} exists and is public", repo=repo),
                where=constants.ENDPOINT,
                remedy=again(m("Make it private on its page, name another one, or pass --public.")),
            )
        api.upload_folder(
            repo_id=repo,
            folder_path=record["folder"],
            commit_message="Upload an export of Assistant Builder",
            allow_patterns=[glob.escape(file["name"]) for file in files],
        )
    except AssistantBuilderError:
        raise
    except Exception as error:  # see models/hub.py: the client's errors differ between its releases
        raise _explained(error, repo, again) from error
    return {"repo": repo, "url": f"{constants.ENDPOINT}/{repo}", "private": private, "files": files}


def _command(record: Mapping[str, Any], repo: str, public: bool) -> str:
    uploaded = {file["name"] for file in uploaded_files(record)}
    words = ["hf", "upload", repo, record["folder"], ".", *([] if public else ["--private"])]
    for file in describe_files(Path(record["folder"])):
        if file["name"] not in uploaded:
            words += ["--exclude", file["name"]]
    return shlex.join(words)


def _explained(error: Exception, repo: str, again: Callable[[Text], Text]) -> HubError:
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError

    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    what, remedy = {
        401: (
            m("the hub does not accept the token"),
            m("Log in with 'hf auth login', or set HF_TOKEN."),
        ),
        403: (
            m("the token may not write to {repo}", repo=repo),
            m("Use a token with write access, or an owner that is yours."),
        ),
        404: (
            m("the hub does not know {repo} or its owner", repo=repo),
            m("Check the spelling of --push."),
        ),
    }.get(status or 0, ("", ""))
    if not what:
        reason = hub.error_summary(error)
        what = (
            m("the hub refused the upload for {repo} ({reason})", repo=repo, reason=reason)
            if status
            else m("the hub cannot be reached for {repo} ({reason})", repo=repo, reason=reason)
        )
        remedy = (
            m("Correct what it names.")
            if status and status < 500
            else m("Check the network connection.")
        )
    return HubError(what, where=constants.ENDPOINT, remedy=again(remedy))
