"""Pushing to the Hub: a stage's model with everything that says what it is, or files as a data set.

A push is one commit. What is on the Hub already is not sent again, be it from an earlier push or from one that was cut off;
a push that failed is repeated by its own command (`recipes/hub.py push`). Nothing local is written, moved or deleted.

Pushing while a model is still being trained.

Whether a model can be pushed when it is trained: asked before the training, and not after hours of it.

An adapter put into its base for good, in a folder of its own, so that whoever loads it needs no peft.
"""

import re
import shlex
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants
from huggingface_hub.errors import RepositoryNotFoundError
from safetensors import SafetensorError
from transformers import TrainerCallback

from empathy_trl.errors import UserError
from empathy_trl.hub.client import LOGIN, failures, hub_session, patiently, reason
from empathy_trl.hub.contents import (
    CARD,
    TOKENIZER,
    Contents,
    cleaned,
    found,
    is_ours,
    model_files,
    run_files,
    without_secrets,
)
from empathy_trl.models.hub_files import ADAPTER_FILE, adapter_base, expand
from empathy_trl.recipe.layers import LABEL_TASKS, stage_of
from empathy_trl.recipe.schema import HUB_MODEL, Hub
from empathy_trl.text import mask

PREFIX = {"model": "", "dataset": "datasets/"}


def push(folder: str | Path, repo_id: str, *, private: bool = False, merge_adapter: bool = False) -> str:
    """Publish the model in a stage's folder with recipe, results and card, in one commit; return its address.

    Args:
        folder: of a trained stage, such as outputs/ed4_tiny/grpo.
        repo_id: `USER/REPO`; it is made if it is not there.
        private: only you can see it; refused if it is there and public.
        merge_adapter: an adapter and its base go up as one model.

    Raises:
        UserError: `repo_id` is not a Hub id, the folder holds no trained model, or the Hub refuses; with the command that
            tries it again.
    """
    if not HUB_MODEL.fullmatch(repo_id):
        raise UserError(f"repo_id: {repo_id!r} is not a Hub id; expected USER/REPO")
    return push_stage(Path(folder), Hub(repo_id=repo_id, private=private, merge_adapter=merge_adapter))


def push_stage(folder: Path, hub) -> str:
    """Push the model in a stage's folder with its tokenizer, recipe, record, figures, pictures and card; return its address.

    Args:
        folder: of the stage, see `contents` for what of it is published.
        hub: has the attributes of `recipe.Hub`. With `merge_adapter` an adapter goes up as a whole model; a model that is
            none goes up as it is.

    Raises:
        UserError: with the reason and the command that tries it again.
    """
    from empathy_trl.hub.card import model_card

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


class PushCheckpoints(TrainerCallback):
    """Pushes every checkpoint that is saved, before the training goes on. A push that fails is told, and stops nothing.

    What fails at every checkpoint for the same reason is told once.

    Args:
        hub: has the attributes of `recipe.Hub`.
    """

    def __init__(self, hub):
        self.hub, self.told = hub, set()

    def on_save(self, args, state, control, **kwargs):
        if not state.is_world_process_zero:
            return
        checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        try:
            push_checkpoint(checkpoint, self.hub)
        except failures() as error:
            said = reason(error)
            if (kind := re.sub(r"\d", "", said)) not in self.told:
                self.told.add(kind)
                print(
                    f"\n{self.hub.repo_id}: {checkpoint.name} was not pushed: {said}. It is in {checkpoint.parent}; training "
                    "goes on, and says no more of this kind",
                    file=sys.stderr,
                )


def check_pushes(recipe, folder: Path) -> None:
    """Raise UserError, in every process, if a stage that has `hub:` could not be pushed; the main process asks the Hub.

    Args:
        recipe: a checked `Recipe`.
        folder: of its run.
    """
    said = [None]
    if PartialState().is_main_process:
        try:
            for stage in recipe.stages.values():
                if stage.hub is not None:
                    check_base_of(recipe, stage)
                    check_push(stage.hub, folder / stage.name)
        except UserError as error:
            said = [str(error)]
    if said := broadcast_object_list(said)[0]:
        raise UserError(said)


def check_base_of(recipe, stage) -> None:
    """Raise UserError if a stage makes an adapter whose base is only on this machine, and it is to go up as an adapter."""
    model = stage.model
    if model.lora is None or stage.hub.merge_adapter or stage.task in LABEL_TASKS:  # labels: merged after training
        return
    while (earlier := stage_of(model.name_or_path)) is not None and recipe.stages[earlier].model.lora is not None:
        model = recipe.stages[earlier].model
    folder = Path(expand(model.name_or_path))
    if earlier is not None or (folder.is_dir() and not (folder / ADAPTER_FILE).is_file()):
        raise UserError(
            f"hub.merge_adapter: false, but the base of the adapter ({model.name_or_path}) is only on this machine, and nobody "
            "could load what is published; expected true"
        )


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
    repo_id = full_id(hub.repo_id)
    names = [user["name"], *(each["name"] for each in user.get("orgs", []))]
    try:
        found = patiently(lambda: api.repo_info(repo_id), repo_id)
    except RepositoryNotFoundError as error:
        if repo_id.split("/")[0] not in names:
            raise UserError(f"the name before the / is not yours (choices: {', '.join(names)})") from error
        return
    patiently(lambda: api.auth_check(repo_id, write=True), repo_id)
    refuse_public(found, hub.private)


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter, and not a whole model."""
    return (folder / ADAPTER_FILE).is_file()


def check_base(folder: Path) -> None:
    """Raise UserError if an adapter's base is a folder on this machine: nobody else could load what is published."""
    base, _ = adapter_base(folder / ADAPTER_FILE, str(folder))
    if Path(base).is_dir() or Path(base).is_absolute():
        raise UserError(
            f"{folder}: the base of this adapter is the folder {base}, which nobody else has; publish the two as one model with "
            "--merge_adapter (hub.merge_adapter: true in a recipe)"
        )


@contextmanager
def merged_files(folder: Path) -> Iterator[Contents]:
    """Give the files of the model that an adapter and its base are together; the adapter's folder stays as it is.

    The base is loaded as it was published, not quantised (an adapter trained on a 4-bit base is merged into the full one, as
    QLoRA's authors do), on the CPU, with room for both models in memory and for one of them in the temporary folder.

    Raises:
        UserError: the base cannot be loaded, or there is no room to write the merged model.
    """
    from empathy_trl.models.load import load_model
    from empathy_trl.recipe import Model

    with tempfile.TemporaryDirectory(prefix="merged-") as name:
        model, tokenizer = load_model(Model(name_or_path=str(folder)), seed=0, is_trainable=False)
        try:
            model.merge_and_unload().save_pretrained(name)
            tokenizer.save_pretrained(name)
        except (OSError, SafetensorError) as error:
            raise UserError(
                f"the merged model cannot be written to {tempfile.gettempdir()} ({error}); make room there, or let TMPDIR name "
                "another folder"
            ) from error
        yield model_files(Path(name)) | {path.name: path for path in found(folder, TOKENIZER)}
