"""Pushing to the Hub: a stage's model with everything that says what it is, or any folder.

A push is one commit. What is on the Hub already is not sent again, be it from an earlier push or from one that was cut off;
a push that failed is repeated by its own command (`recipes/hub.py push`). Nothing local is written, moved or deleted.
"""

import shlex
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants
from huggingface_hub.errors import RepositoryNotFoundError

from empathy_trl.errors import UserError
from empathy_trl.publishing.contents import CARD, Contents, is_ours, model_files, run_files
from empathy_trl.publishing.merge import check_base, is_adapter, merged_files
from empathy_trl.publishing.patience import LOGIN, failures, hub_session, patiently, reason

PREFIX = {"model": "", "dataset": "datasets/"}


def push_stage(folder: Path, hub) -> str:
    """Push the model in a stage's folder with its tokenizer, recipe, record, figures, pictures and card; return its address.

    Args:
        folder: of the stage, see `contents` for what of it is published.
        hub: has the attributes of `recipe.Hub`. With `merge_adapter` an adapter goes up as a whole model; a model that is
            none goes up as it is.

    Raises:
        UserError: with the reason and the command that tries it again.
    """
    folder = Path(folder)
    with _told(folder, hub.repo_id, retry_command(folder, hub)), hub_session(), ExitStack() as stack:
        files = model_files(folder)
        merge = hub.merge_adapter and is_adapter(folder)
        if is_adapter(folder) and not merge:
            check_base(folder)
        api, repo_id = HfApi(), full_id(hub.repo_id)
        make_repository(api, repo_id, "model", hub.private)
        if merge:
            files = stack.enter_context(merged_files(folder))
        card = model_card(folder, repo_id, merge)
        contents = files | run_files(folder, repo_id) | {CARD: card.encode()}
        return commit(api, repo_id, contents, f"{folder.name}: model, recipe and results", replace=True)


def push_folder(
    folder: Path,
    repo_id: str,
    *,
    repo_type: str = "model",
    private: bool = False,
    files: list[str] | None = None,
    message: str,
    retry: str,
) -> str:
    """Push files of a folder in one commit, into a repository that is made if there is none; return its address.

    Args:
        folder: what is pushed keeps its place below it.
        repo_id: `USER/REPO`; without a user, of whoever is logged in.
        repo_type: `model` or `dataset`.
        private: of a new repository. One that is there and public is refused.
        files: names below `folder`; all files that are not hidden by default.
        message: of the commit.
        retry: the command that tries it again, for the message of an error.

    Raises:
        UserError: what happened, that nothing local was lost, and `retry`.
    """
    folder = Path(folder)
    with _told(folder, repo_id, retry), hub_session():
        contents = {name: folder / name for name in (_all_files(folder) if files is None else files)}
        if missing := [name for name, path in contents.items() if not path.is_file()]:
            raise UserError(f"{folder} has no {', '.join(missing)}")
        api, repo_id = HfApi(), full_id(repo_id)
        make_repository(api, repo_id, repo_type, private)
        return commit(api, repo_id, contents, message, repo_type=repo_type)


def retry_command(folder: Path, hub) -> str:
    """Return the command that pushes a stage's folder."""
    flags = ["--private"] * hub.private + ["--merge_adapter"] * hub.merge_adapter
    return shlex.join(["python", "recipes/hub.py", "push", str(folder), "--repo_id", hub.repo_id, *flags])


@contextmanager
def _told(folder: Path, repo_id: str, retry: str) -> Iterator[None]:
    """Turn whatever stops a push into a `UserError` that says so, and how to go on."""
    try:
        yield
    except failures() as error:
        raise UserError(
            f"{repo_id}: not pushed: {reason(error).rstrip('.')}. Everything in {folder} is as it was; to push it, run: {retry}"
        ) from error


def full_id(repo_id: str) -> str:
    """Return `USER/REPO` for a name without a user, which is that of whoever is logged in."""
    return repo_id if "/" in repo_id else f"{patiently(HfApi().whoami, repo_id)['name']}/{repo_id}"


def make_repository(api: HfApi, repo_id: str, repo_type: str, private: bool) -> None:
    """Make a repository unless it is there.

    Raises:
        UserError: it is there and public, and what is pushed shall be private.
    """

    def find_or_make():
        try:
            found = api.repo_info(repo_id, repo_type=repo_type)
        except RepositoryNotFoundError:
            api.create_repo(repo_id, repo_type=repo_type, private=private)
            return
        if private and not found.private:
            raise UserError(
                f"{constants.ENDPOINT}/{PREFIX[repo_type]}{repo_id} is public, and what is pushed shall be private; make it "
                "private in its settings, or choose another repo_id"
            )

    patiently(find_or_make, repo_id)


def commit(
    api: HfApi, repo_id: str, contents: Contents, message: str, *, repo_type: str = "model", replace: bool = False
) -> str:
    """Upload contents in one commit and return the repository's address; no commit where nothing has changed.

    An attempt that is repeated asks anew what is there: files that arrived are not sent again, and a commit that was made,
    but whose answer got lost, is not made twice.

    Args:
        replace: delete what an earlier push left and this one does not bring, such as the weights of an adapter.
    """

    def attempt():
        there = api.list_repo_files(repo_id, repo_type=repo_type) if replace else []
        stale = [name for name in there if is_ours(name) and name not in contents]
        operations = [CommitOperationAdd(name, content) for name, content in contents.items()]
        operations += [CommitOperationDelete(name) for name in stale]
        api.create_commit(repo_id, operations, commit_message=message, repo_type=repo_type)

    patiently(attempt, repo_id)
    return f"{constants.ENDPOINT}/{PREFIX[repo_type]}{repo_id}"


def check_push(hub, folder: Path) -> None:
    """Find out before a training whether its model can be pushed when it is done. The Hub is only read.

    Raises:
        UserError: nobody is logged in, the token may not write, the repository is somebody else's, or public where it shall be
            private; or the Hub cannot be asked.
    """
    try:
        with hub_session():
            _check_rights(HfApi(), hub)
    except failures() as error:
        raise UserError(
            f"hub: {hub.repo_id} cannot be pushed to: {reason(error).rstrip('.')}. Or train without it (--hub null), and push "
            f"later: {retry_command(folder, hub)}"
        ) from error


def _check_rights(api: HfApi, hub) -> None:
    user = patiently(api.whoami, hub.repo_id)
    if user.get("auth", {}).get("accessToken", {}).get("role") == "read":
        raise UserError(f"your token may only read: {LOGIN}")
    repo_id = hub.repo_id if "/" in hub.repo_id else f"{user['name']}/{hub.repo_id}"
    names = [user["name"], *(each["name"] for each in user.get("orgs", []))]
    try:
        found = patiently(lambda: api.repo_info(repo_id), repo_id)
    except RepositoryNotFoundError as error:
        if repo_id.split("/")[0] not in names:
            raise UserError(f"the name before the / is not yours (choices: {', '.join(names)})") from error
        return
    patiently(lambda: api.auth_check(repo_id, write=True), repo_id)
    if hub.private and not found.private:
        raise UserError(
            "it is public, and hub.private is true; make it private in its settings, or choose another repo_id"
        )


def _all_files(folder: Path) -> list[str]:
    names = [path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file()]
    return [name.as_posix() for name in names if not any(part.startswith(".") for part in name.parts)]


def model_card(folder: Path, repo_id: str, merged: bool) -> str:
    """Return README.md for a stage's folder, without secrets and without this machine's home folder."""
    from empathy_trl.publishing.card import model_card as card

    return card(folder, repo_id, merged=merged)
