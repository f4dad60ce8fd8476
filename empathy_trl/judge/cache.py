"""Scores kept on disk: one small file per question, so that no question is paid for twice.

A file is named by the hash of the request without the server's address: messages (reply, rubric and scale are in them),
model and sampling settings. Files are written whole or not at all, so any number of processes, also on several machines
with a shared folder, may use one cache at a time. A file holds scores, no text of anybody's conversation.
"""

import hashlib
import json
import os
from pathlib import Path

from empathy_trl.errors import UserError
from empathy_trl.files import write_text


def default_folder() -> str:
    """Return `$EMPATHY_TRL_CACHE/judge`, or `~/.cache/empathy_trl/judge` without that variable."""
    return os.path.join(os.environ.get("EMPATHY_TRL_CACHE") or "~/.cache/empathy_trl", "judge")


def question_key(request: dict) -> str:
    """Return the hash of a request, 64 hexadecimal digits."""
    return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()


class Cache:
    """Answers as text, by key.

    Args:
        folder: where they are, `~` allowed; None keeps nothing.

    Raises:
        UserError: the folder or a file in it cannot be read or written.
    """

    def __init__(self, folder: str | None):
        self.folder = None if folder is None else Path(folder).expanduser()

    def get(self, key: str) -> str | None:
        """Return what was put under a key; None if there is nothing."""
        if self.folder is None:
            return None
        try:
            return self._path(key).read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._refusal(error) from error

    def put(self, key: str, answer: str):
        """Keep an answer."""
        if self.folder is None:
            return
        try:
            write_text(self._path(key), answer)
        except OSError as error:
            raise self._refusal(error) from error

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.json"  # no folder with a hundred thousand files

    def _refusal(self, error: OSError) -> UserError:
        return UserError(f"cache_dir: cannot use {self.folder}: {error.strerror}; set another folder, or null for none")
