"""Upload a staged Space to the Hugging Face Hub."""

from __future__ import annotations

import glob
import re
from pathlib import Path

from deploy.card import REPO_ID, front_matter, hub
from deploy.staging import staged_files
from inference.errors import InferenceError, InputError, shown

_TOKEN = re.compile(r"[\x21-\x7e]+")


def check_target(repo_id: str, token: str) -> None:
    """Raise InputError if the id of the Space or the token is malformed."""
    if "/" not in repo_id or not REPO_ID.fullmatch(repo_id):
        raise InputError(f"--to {shown(repo_id)} is not the id of a Space. Pass OWNER/NAME.")
    if not _TOKEN.fullmatch(token):  # before a library repeats it in an error
        raise InputError("The token is empty or contains invalid characters. Copy it again.")


def upload(folder: str | Path, repo_id: str, token: str) -> str:
    """Replace the contents of the Space, created if needed, by the staged files; returns its address.

    HF_ENDPOINT, if set, replaces huggingface.co.

    Raises:
        InputError: the id or the token is malformed.
        InferenceError: the Hub refused the upload or could not be reached.
    """
    check_target(repo_id, token)
    folder = Path(folder)
    files = staged_files(folder)
    sdk = front_matter(folder)["sdk"]
    api = hub().HfApi(token=token)
    from huggingface_hub.errors import HfHubHTTPError

    try:
        url = api.create_repo(repo_id, repo_type="space", space_sdk=sdk, exist_ok=True)
        api.upload_folder(
            repo_id=repo_id,
            repo_type="space",
            folder_path=folder,
            allow_patterns=[glob.escape(name) for name in files],
            delete_patterns=["*"],  # files of an earlier version
            commit_message="Triptych",
        )
    except HfHubHTTPError as error:
        reason = error.server_message or f"status {error.response.status_code}"
        raise InferenceError(f"The Hub refused {repo_id}: {reason}. Does the token have write access?") from None
    except Exception as error:  # the HTTP library has errors of its own, which repeat what was sent
        message = f"Cannot upload {repo_id} ({type(error).__name__}). The folder is ready; try again."
        raise InferenceError(message) from None
    return str(url)
