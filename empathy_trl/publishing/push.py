"""Pushing to the Hub: a stage's model with everything that says what it is, or files as a data set.

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
from empathy_trl.publishing.contents import CARD, Contents, cleaned, is_ours, model_files, run_files, without_secrets
from empathy_trl.publishing.merge import check_base, is_adapter, merged_files
from empathy_trl.publishing.patience import failures, hub_session, patiently, reason
from empathy_trl.secrets import mask

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
    from empathy_trl.model_card.card import model_card  # not at the top: it brings torch

    folder = Path(folder)
    files = model_files(folder)
    merge = hub.merge_adapter and is_adapter(folder)
    if is_adapter(folder) and not merge:
        check_base(folder)
    with _told(folder, hub.repo_id, retry_command(folder, hub)), hub_session(), ExitStack() as stack:
        api, repo_id = HfApi(), full_id(hub.repo_id)
        make_repository(api, repo_id, "model", hub.private)
        if merge:
            files = stack.enter_context(merged_files(folder))
        card = model_card(folder, repo_id, merged=merge)
        contents = files | run_files(folder, repo_id) | {CARD: without_secrets(card)}
        return commit(api, repo_id, contents, f"{folder.name}: model, recipe and results", replace=True)


def push_checkpoint(checkpoint: Path, hub) -> None:
    """Push the model in a checkpoint, with the recipe and the figures up to there that lie in the folder above it.

    Raises:
        UserError, or one of `failures()`: as it came.
    """
    with hub_session():
        files = model_files(checkpoint)
        api, repo_id = HfApi(), full_id(hub.repo_id)
        make_repository(api, repo_id, "model", hub.private)
        texts = [path for name in ("recipe.yaml", "metrics.jsonl") if (path := checkpoint.parent / name).is_file()]
        commit(api, repo_id, files | {path.name: cleaned(path, repo_id) for path in texts}, checkpoint.name)


def push_dataset(folder: Path, repo_id: str, files: list[str], *, private: bool, message: str, retry: str) -> str:
    """Push files of a folder in one commit, into a data set that is made if there is none; return its address.

    Args:
        repo_id: `USER/REPO`; without a user, of whoever is logged in.
        files: names below `folder`, where they stand in the data set too.
        private: of a new data set. One that is there and public is refused.
        message: of the commit.
        retry: the command that tries it again, for the message of an error.

    Raises:
        UserError: what happened, that nothing local was lost, and `retry`.
    """
    with _told(folder, repo_id, retry), hub_session():
        contents = {name: folder / name for name in files}
        if missing := [name for name, path in contents.items() if not path.is_file()]:
            raise UserError(f"{folder} has no {', '.join(missing)}")
        api, repo_id = HfApi(), full_id(repo_id)
        make_repository(api, repo_id, "dataset", private)
        return commit(api, repo_id, contents, message, repo_type="dataset")


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
        refuse_public(found, private)

    patiently(find_or_make, repo_id)


def refuse_public(found, private: bool) -> None:
    """Raise UserError if a repository that was found is public, and what is pushed shall be private."""
    if private and not found.private:
        raise UserError(
            "it is there and public, and shall be private; change that in its settings, or take another repo_id"
        )


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
    return mask(f"{constants.ENDPOINT}/{PREFIX[repo_type]}{repo_id}")
