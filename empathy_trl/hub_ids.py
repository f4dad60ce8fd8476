"""Names of models: a folder, `stage:<name>`, `openai:NAME`, or a Hub id, with `@revision` or without; no library needed."""

import re
from pathlib import Path

from empathy_trl.errors import UserError

REVISION = re.compile(r"\w[\w./+-]*")  # branch, tag, commit, or refs/pr/1
NO_HUB_ID = ("stage:", "openai:")


def looks_local(name: str) -> bool:
    """Whether a name that is no folder was meant to be one; a Hub id reads `name` or `owner/name`."""
    plain = name.partition("@")[0]
    return plain.startswith((".", "/", "~", "outputs/", "stage:")) or plain.count("/") > 1


def split_revision(name: str) -> tuple[str, str | None]:
    """Return the parts of `USER/REPO@revision`: the Hub id, and branch, tag or commit (None where none is given).

    A folder stays as it is, also with an @ in its path, and so do `stage:<name>` and `openai:NAME@x`.

    Raises:
        UserError: what stands behind the @ cannot be a revision, or what stands before it is a folder.
    """
    if "@" not in name or name.startswith(NO_HUB_ID) or looks_local(name) or Path(name).is_dir():
        return name, None
    plain, _, revision = name.partition("@")
    if not plain:
        return name, None
    if not REVISION.fullmatch(revision) or ".." in revision:
        raise UserError(
            f"{name}: {revision!r} is no revision; expected USER/REPO@ with a branch, a tag or a commit behind it"
        )
    if Path(plain).is_dir():
        raise UserError(
            f"{name}: {plain} is a folder here, and only a model on the Hub has revisions; expected {plain}"
        )
    return plain, revision


def join_revision(name: str, revision: str | None) -> str:
    """Return the inverse of `split_revision`, for messages."""
    return f"{name}@{revision}" if revision else name


def one_revision(name: str, revision: str | None) -> tuple[str, str | None]:
    """Return name and revision of a model whose revision may stand in its name or beside it.

    Raises:
        UserError: it stands in both places, and they differ; or what `split_revision` raises.
    """
    plain, inside = split_revision(name)
    if inside is not None and revision not in (None, inside):
        raise UserError(f"{name}: its revision is also given as {revision!r}; expected one of them")
    return plain, inside or revision
