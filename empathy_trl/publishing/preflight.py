"""Whether a model can be pushed when it is trained: asked before the training, and not after hours of it."""

from pathlib import Path

from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from huggingface_hub import HfApi
from huggingface_hub.errors import RepositoryNotFoundError

from empathy_trl.errors import UserError
from empathy_trl.hub import ADAPTER_FILE, expand
from empathy_trl.publishing.patience import LOGIN, failures, hub_session, patiently, reason
from empathy_trl.publishing.push import full_id, refuse_public, retry_command
from empathy_trl.recipe.layers import LABEL_TASKS, stage_of


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
