"""Uploads: a folder becomes one commit of a repository; an error becomes one sentence.

    folder ─ upload ─→ create_repo ─→ branch ─→ one create_commit ─→ CommitInfo

`upload_folder` of huggingface_hub may divide a folder into several commits; one `create_commit` is there as a whole or
not at all. Whatever failed can be run again: what has arrived is not sent twice.
"""

import fnmatch
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import (
    CommitInfo,
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    constants,
    get_session,
    get_token,
)

# Errors of the HTTP client, httpx or httpx2, depending on the version of huggingface_hub.
from huggingface_hub.errors import HfHubHTTPError, HTTPError, LocalTokenNotFoundError
from huggingface_hub.utils import validate_repo_id


logger = logging.getLogger(__name__)

MAIN = "main"
# The client retries what it sends in pieces, but neither the creation of a repository nor the commit itself, and it
# waits for an answer for ever.
WAITS_SECONDS = (1, 4)
TIMEOUT_SECONDS = 120
TRANSIENT = {408, 429, 500, 502, 503, 504}

Result = TypeVar("Result")


def check_repo_id(option: str, repo_id: str) -> None:
    """Raise a ValueError for an id that the Hub does not allow."""
    if repo_id.count("/") != 1:
        raise ValueError(f"{option} {repo_id} is no id on the Hub; write the owner and the name, as in you/name.")
    validate_repo_id(repo_id)


def find_token(token: str | None = None) -> str:
    """The token that is given, or the one that `hf auth login` or HF_TOKEN left; an OSError if there is none."""
    if found := token or get_token():
        return found
    raise LocalTokenNotFoundError(
        "publishing needs a token of the Hub and none was found; run `hf auth login`, or set HF_TOKEN."
    )


def check_token(token: str) -> None:
    """Check a token with the Hub; raises OSError if it is not accepted or the Hub cannot be reached."""
    _ask("The Hub", lambda: HfApi(token=token).whoami(), WAITS_SECONDS)


def upload(
    folder: Path,
    repo_id: str,
    repo_type: str,
    *,
    message: str,
    token: str,
    private: bool = False,
    revision: str = MAIN,
    replaces: Sequence[str] = (),
    variables: dict[str, str] | None = None,
    space_sdk: str = "gradio",
) -> CommitInfo:
    """Create the repository if there is none, and bring a folder's files there in one commit.

    Args:
        folder: all of its files are uploaded; those that are there already, unchanged, are not sent.
        repo_id: owner/name.
        repo_type: "model", "dataset" or "space".
        message: of the commit.
        token: one that may write.
        private: create it so that its owner alone sees it.
        revision: the branch, which starts at `main` if it is new.
        replaces: patterns of files that go if they are in the repository and not in the folder.
        variables: of the Space, for its environment.
        space_sdk: of a new Space, "gradio" or "static".

    Returns:
        The commit; the last one if nothing has changed.

    Raises:
        OSError: the Hub refused, failed or was out of reach.
        ValueError: `private` is asked for and the repository is public.
    """
    api = HfApi(token=token)
    where: dict[str, Any] = {"repo_id": repo_id, "repo_type": repo_type}
    space: dict[str, Any] = {"space_sdk": space_sdk} if repo_type == "space" else {}

    def create() -> None:
        api.create_repo(**where, **space, private=private or None, exist_ok=True)
        if private and not api.repo_info(**where).private:
            raise ValueError(f"{repo_id} is on the Hub already, and public; make it private there, or leave --private.")
        if revision != MAIN:
            api.create_branch(**where, branch=revision, exist_ok=True)
        for name, value in (variables or {}).items():
            api.add_space_variable(repo_id, name, value)

    def commit() -> CommitInfo:
        files = {path.relative_to(folder).as_posix(): path for path in list_files(folder)}
        there = api.list_repo_files(**where, revision=revision)
        gone = [name for name in there if name not in files and any(fnmatch.fnmatch(name, old) for old in replaces)]
        operations: list[CommitOperationAdd | CommitOperationDelete]
        operations = [CommitOperationAdd(name, path) for name, path in files.items()]
        operations += [CommitOperationDelete(name) for name in gone]
        return api.create_commit(**where, revision=revision, operations=operations, commit_message=message)

    _ask(repo_id, create, WAITS_SECONDS)
    return _ask(repo_id, commit, WAITS_SECONDS)


def list_files(folder: Path) -> list[Path]:
    """All files in a folder and those below it, in order."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _ask(repo_id: str, request: Callable[[], Result], waits: Sequence[float]) -> Result:
    """The answer to a request that may be repeated; after the last failure, an OSError of one sentence."""
    get_session().timeout = TIMEOUT_SECONDS
    try:
        return request()
    except HTTPError as error:
        if not waits or not _is_transient(error):
            raise OSError(_explain(error, repo_id)) from error
        logger.warning("The Hub failed (%s); trying again in %g s.", _describe(error), waits[0])
    time.sleep(waits[0])
    return _ask(repo_id, request, waits[1:])


def _is_transient(error: HTTPError) -> bool:
    return not isinstance(error, HfHubHTTPError) or error.response.status_code in TRANSIENT


def _describe(error: HTTPError) -> str:
    if isinstance(error, HfHubHTTPError):
        return f"status {error.response.status_code}"
    return f"{type(error).__name__}: {' '.join(str(error).split())}".rstrip(": ")


def _explain(error: HTTPError, repo_id: str) -> str:
    """A sentence that tells the user what a failure of the Hub means."""
    if not isinstance(error, HfHubHTTPError):
        return (
            f"the Hub at {constants.ENDPOINT} cannot be reached ({_describe(error)}); check the network and run the "
            "command again: what has arrived is not sent twice."
        )
    status = error.response.status_code
    if status == 401:
        return "the Hub does not accept the token (status 401); run `hf auth login` again, or set HF_TOKEN."
    if status == 403:
        return (
            f"the token has no right to write to {repo_id} (status 403); take a token with the role 'write', and a "
            "repository of your own or of an organisation that lets you."
        )
    if status in TRANSIENT:
        return (
            f"the Hub failed {len(WAITS_SECONDS) + 1} times in a row (status {status}); run the command again later: "
            "what has arrived is not sent twice."
        )
    return f"the Hub refused what was asked of {repo_id}: {' '.join(str(error).split())}"
