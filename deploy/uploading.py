"""Upload a staged Space to the Hugging Face Hub."""

from __future__ import annotations

import re
from pathlib import Path

from deploy.card import REPO_ID, front_matter, hub
from deploy.staging import staged_files
from inference.errors import InferenceError, InputError, shown
from inference.formats.files import inside

_TOKEN = re.compile(r"[\x21-\x7e]+")


def check_target(repo_id: str, token: str) -> None:
    """Raise InputError if the id of the Space or the token is malformed."""
    if "/" not in repo_id or not REPO_ID.fullmatch(repo_id):
        raise InputError(f"--to {shown(repo_id)} is not the id of a Space. Pass OWNER/NAME.")
    if not _TOKEN.fullmatch(token):  # before a library repeats it in an error
        raise InputError("The token is empty or contains invalid characters. Copy it again.")


def upload(folder: str | Path, repo_id: str, token: str) -> str:
    """Replace the contents of the Space, created if needed, by the staged files; returns its address.

    It is one commit: the Hub builds a Space after each, and `upload_folder` makes several if hf_xet is installed.

    HF_ENDPOINT, if set, replaces huggingface.co.

    Raises:
        InputError: the id or the token is malformed.
        InferenceError: the Hub refused the upload or could not be reached.
    """
    check_target(repo_id, token)
    folder = Path(folder)
    files = staged_files(folder)
    sdk = front_matter(folder)["sdk"]
    library = hub()
    api, place = library.HfApi(token=token), {"repo_id": repo_id, "repo_type": "space"}
    new = [library.CommitOperationAdd(name, inside(folder, name)) for name in files]
    from huggingface_hub.errors import HfHubHTTPError

    try:
        url = api.create_repo(**place, space_sdk=sdk, exist_ok=True)
        old = {*api.list_repo_files(**place)} - {*files, ".gitattributes"}  # of an earlier version
        deleted = [library.CommitOperationDelete(name, is_folder=False) for name in sorted(old)]
        api.create_commit(**place, operations=[*deleted, *new], commit_message="Triptych")
    except HfHubHTTPError as error:
        reason = error.server_message or f"status {error.response.status_code}"
        raise InferenceError(f"The Hub refused {repo_id}: {reason}. Does the token have write access?") from None
    except Exception as error:  # the HTTP library has errors of its own, which repeat what was sent
        message = f"Cannot upload {repo_id} ({type(error).__name__}). The folder is ready; try again."
        raise InferenceError(message) from None
    return str(url)
