"""Publishing a stage's model with its recipe, results and card, or files as a data set.

A push is one commit. Files that are already on the Hub, from an earlier or interrupted push, are not sent again. A push
does not write, move or delete local files, so a failed push can be repeated with `empathy-trl hub push`.

`MODEL`, `RUN` and `IMAGES` name the files that are published. Everything else in the folder stays local: checkpoints
and optimizer states, `training_args.bin` (a pickle), `predictions_*.jsonl` (they contain data rows), a critic, logs.
Published files contain neither a token nor the path of the home folder (`without_secrets`).
"""

import json
import os
import re
import shlex
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from fnmatch import fnmatchcase
from importlib.util import find_spec
from pathlib import Path

from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    constants,
    eval_result_entries_to_yaml,
    hf_hub_download,
)
from huggingface_hub.errors import RemoteEntryNotFoundError, RepositoryNotFoundError
from safetensors import SafetensorError
from tqdm.auto import tqdm
from transformers import TrainerCallback

from empathy_trl.errors import UserError
from empathy_trl.evaluation.base import eval_path
from empathy_trl.hub.card import CARD_FILE, NOTES_FILE, model_card
from empathy_trl.hub.pull import LOGIN, hub_requests, retry
from empathy_trl.hub.results import ENTRIES_FILE, source_name, to_entries
from empathy_trl.hub.stage_folder import read_stage_files
from empathy_trl.io import hold_folder, is_hub_id, nearest_path, on_hub, read_json, read_rows, user_name, user_path
from empathy_trl.models.adapters import (
    EXAMPLES,
    adapter_changes,
    adapter_here,
    adapter_outputs,
    base_config,
    difference,
    example_inputs,
    merge_adapter,
)
from empathy_trl.models.hub_files import ADAPTER_FILE, VOCABULARY_FILES, adapter_base
from empathy_trl.models.load import load_model, lora_config
from empathy_trl.recipe.layers import LABEL_TASKS, RECIPE_FILE, dump_yaml, read_yaml, stage_of
from empathy_trl.recipe.provenance import RUN_FILE
from empathy_trl.recipe.schema import SAMPLE
from empathy_trl.text import mask

WEIGHTS = ["model.safetensors", "model-*-of-*.safetensors", "model.safetensors.index.json", "adapter_model.safetensors"]
TOKENIZER = [
    *VOCABULARY_FILES,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "merges.txt",
    "chat_template.jinja",
]
MODEL = [*WEIGHTS, "config.json", "generation_config.json", ADAPTER_FILE, *TOKENIZER]
RUN = [RECIPE_FILE, RUN_FILE, "metrics.jsonl", "samples.md", NOTES_FILE, "eval_*.json"]
IMAGES = ["*.png"]
DRAWN = ["reward_curve.png", "critic_curves.png", "confusion_*.png", "ratings_*.png"]  # images that a run draws
PREFIX = {"model": "", "dataset": "datasets/"}

Contents = dict[str, Path | bytes]  # name in the repository -> a local file, or its content


def push(folder: str | Path, repo_id: str, *, private: bool = False, merge_adapter: bool = False) -> str:
    """Publish the model in a stage's folder with recipe, results and card, in one commit; return its address.

    Args:
        folder: the folder of a trained stage, such as outputs/ed4_tiny/grpo.
        repo_id: `USER/REPO`, or `REPO` for the user who is logged in; created if it does not exist.
        private: create it private; refused if it exists and is public.
        merge_adapter: publish an adapter and its base as one model; a whole model is published as it is.

    Raises:
        UserError: `repo_id` is not a Hub id, the folder holds no trained model, another process writes there, or the Hub
            refuses; with the command that tries it again.
    """
    if not is_hub_id(repo_id):
        raise UserError(f"repo_id: {repo_id!r} is not a Hub id; expected USER/REPO")
    folder = user_path(folder)
    files, merge = _model(folder, merge_adapter)
    again = _push_command(folder, repo_id, private, merge_adapter)
    # a run that trains would change the files in the middle; a folder that cannot be written to does not change
    held = hold_folder(folder) if os.access(folder, os.W_OK) else nullcontext()
    with held, _push_errors(folder, repo_id, again), ExitStack() as stack:
        api, repo_id = HfApi(), _full_id(repo_id)
        _create(api, repo_id, "model", private)
        if merge:
            files = stack.enter_context(_merged_files(folder))
        contents = _contents(folder, repo_id, files, merged=merge)
        return _commit(api, repo_id, contents, f"{folder.name}: model, recipe and results", replace=True)


def preview_push(folder: str | Path, repo_id: str, *, private: bool = False, merge_adapter: bool = False) -> str:
    """Return lines that say which files `push` with the same arguments would write and delete; the Hub is only read.

    Raises:
        UserError: as `push`. Whether you may write to the repository is not checked.
    """
    folder = user_path(folder)
    files, merge = _model(folder, merge_adapter)
    if merge:
        files = {name: path for name, path in files.items() if name in TOKENIZER}
    with hub_requests(f"{repo_id}: no preview", "Nothing was changed"):
        api, repo_id = HfApi(), _full_id(repo_id)
        try:
            _refuse_public(retry(lambda: api.repo_info(repo_id), repo_id), private)
            existing = api.list_repo_files(repo_id)
        except RepositoryNotFoundError:
            existing = []
        contents = _contents(folder, repo_id, files, merged=merge)
    names = sorted(contents) + ["config.json, model*.safetensors (adapter and base, merged)"] * merge
    gone = [] if merge else [name for name in _ours(existing) if name not in contents]
    lines = [f"  {name}" for name in names] + [f"  {name} (deleted)" for name in gone]
    return "\n".join([f"{repo_id}: files of a push of {folder}; nothing was published", *lines])


def _model(folder: Path, merge_adapter: bool) -> tuple[Contents, bool]:
    """Return the files of a folder's model, and whether it is an adapter that is to be merged; UserError for a local base."""
    files, is_adapter = model_files(folder), (folder / ADAPTER_FILE).is_file()
    if is_adapter and not merge_adapter:
        _check_base(folder)
    return files, merge_adapter and is_adapter


def push_dataset(folder: Path, repo_id: str, files: list[str], *, private: bool, message: str, again: str) -> str:
    """Publish files of a folder as a data set, in one commit; return its address.

    Args:
        repo_id: as in `push`.
        files: names below `folder`, kept in the data set.
        private: as in `push`.
        message: the title of the commit.
        again: the command that repeats the push, for the message of an error.

    Raises:
        UserError: what happened, that nothing local was lost, and `again`.
    """
    with _push_errors(folder, repo_id, again):
        contents = {name: folder / name for name in files}
        if missing := [name for name, path in contents.items() if not path.is_file()]:
            raise UserError(f"{folder} has no {', '.join(missing)}")
        api, repo_id = HfApi(), _full_id(repo_id)
        _create(api, repo_id, "dataset", private)
        return _commit(api, repo_id, contents, message, repo_type="dataset")


class PushCheckpoints(TrainerCallback):
    """Pushes every checkpoint when it is saved, before the training goes on.

    The card and the results of an earlier push are about other weights, so they go until the push at the end.
    A push that fails is reported and stops nothing; failures that differ only in numbers are reported once.

    Args:
        hub: a `recipe.Hub`.
    """

    def __init__(self, hub):
        self.hub, self.reported = hub, set()

    def on_save(self, args, state, control, **kwargs):
        if not state.is_world_process_zero:
            return
        checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        try:
            self._push(checkpoint)
        except UserError as error:
            if (kind := re.sub(r"\d", "", str(error))) not in self.reported:
                self.reported.add(kind)
                tqdm.write(str(error), file=sys.stderr)  # above the progress bar

    def _push(self, checkpoint: Path) -> None:
        """Push the model in a checkpoint, with the recipe and the metrics so far, which lie in the folder above it."""
        what = f"{self.hub.repo_id}: {checkpoint.name} was not pushed"
        with hub_requests(
            what,
            f"It is in {checkpoint.parent}; training continues, and further failures of this kind are not reported",
        ):
            files = model_files(checkpoint)
            api, repo_id = HfApi(), _full_id(self.hub.repo_id)
            _create(api, repo_id, "model", self.hub.private)
            texts = _matching(checkpoint.parent, [RECIPE_FILE, "metrics.jsonl"])
            contents = files | {path.name: _cleaned(path, repo_id) for path in texts}
            _commit(api, repo_id, contents, checkpoint.name, replace=True)


# ---- checks before training ----


def check_pushes(recipe, folder: Path) -> None:
    """Find out before training whether every stage that has `hub:` can be pushed; the main process asks, and only reads.

    Args:
        recipe: a checked `Recipe`.
        folder: the folder of its run.

    Raises:
        UserError: in every process: nobody is logged in, the token may not write, the repository belongs to someone else or is
            public and must be private, or the Hub cannot be reached; or an adapter has a local base.
    """
    message = [None]
    if PartialState().is_main_process:
        try:
            for stage in recipe.stages.values():
                if stage.hub is not None:
                    _check_base_of(recipe, stage)
                    _check_rights(stage.hub, folder / stage.name)
        except UserError as error:
            message = [str(error)]
    if message := broadcast_object_list(message)[0]:
        raise UserError(message)


def _check_base_of(recipe, stage) -> None:
    """Raise UserError if a stage makes an adapter whose base is local, and it is to be published as an adapter."""
    if stage.hub.merge_adapter or stage.task in LABEL_TASKS:  # labels: merged after training
        return
    adapter, base = _adapter_of(recipe, stage.model)
    if adapter is not None and base is not None:
        raise UserError(
            f"hub.merge_adapter: false, but the base of the adapter ({base}) is only on this machine, so nobody could load what is "
            "published; expected true"
        )


def _adapter_of(recipe, model) -> tuple:
    """Return the `PeftConfig` of the adapter that a stage produces (or None), and its base if that is local (or None)."""
    earlier, config = stage_of(model.name_or_path), None
    if earlier is not None:
        before, base = _adapter_of(recipe, recipe.stages[earlier].model)
        base = base if before else model.name_or_path
    else:
        before = adapter_here(model)
        below = before.base_model_name_or_path if before else model.name_or_path
        base = below if Path(user_name(below or "")).is_dir() else None
        config = base_config(model.name_or_path, model.revision) if before and model.lora else None
    asked = lora_config(model.lora)
    if asked is None or before is None or not adapter_changes(asked, before, config):
        return asked or before, base
    return asked, f"{model.name_or_path}, merged with its adapter"


def _check_rights(hub, folder: Path) -> None:
    again = _push_command(folder, hub.repo_id, hub.private, hub.merge_adapter)
    advice = f"Or train without it (--hub null), and push later: {again}"
    with hub_requests(f"hub: {hub.repo_id} cannot be pushed to", advice):
        api = HfApi()
        user = retry(api.whoami, hub.repo_id)
        if user.get("auth", {}).get("accessToken", {}).get("role") == "read":
            raise UserError(f"your token may only read: {LOGIN}")
        repo_id = _full_id(hub.repo_id)
        try:
            found = retry(lambda: api.repo_info(repo_id), repo_id)
        except RepositoryNotFoundError as error:
            names = [user["name"], *(each["name"] for each in user.get("orgs", []))]
            if repo_id.split("/")[0] not in names:
                message = f"the name before the / is not yours (choices: {', '.join(names)})"
                raise UserError(f"{message}; set hub.repo_id to one of them") from error
            return
        retry(lambda: api.auth_check(repo_id, write=True), repo_id)
        _refuse_public(found, hub.private)


def _check_base(folder: Path) -> None:
    """Raise UserError if an adapter's base is a local folder."""
    base, _ = adapter_base(folder / ADAPTER_FILE, str(folder))
    if Path(base).is_dir() or Path(base).is_absolute():
        raise UserError(
            f"{folder}: the base of this adapter is the folder {base}, which exists only on this machine; publish both as one model with "
            "--merge_adapter (hub.merge_adapter: true in a recipe)"
        )


# ---- one commit ----


def _push_command(folder: Path, repo_id: str, private: bool, merge_adapter: bool) -> str:
    flags = ["--private"] if private else []
    flags += ["--merge_adapter"] if merge_adapter else []
    return shlex.join(["empathy-trl", "hub", "push", str(folder), "--repo_id", repo_id, *flags])


def _push_errors(folder: Path, repo_id: str, again: str):
    return hub_requests(f"{repo_id}: not pushed", f"{folder} is unchanged; to push it, run: {again}")


def _full_id(repo_id: str) -> str:
    """Return `USER/REPO`; a name without a user belongs to the one who is logged in."""
    return repo_id if "/" in repo_id else f"{retry(HfApi().whoami, repo_id)['name']}/{repo_id}"


def _create(api: HfApi, repo_id: str, repo_type: str, private: bool) -> None:
    """Create a repository unless it exists; UserError if it is public and must be private."""

    def find_or_create():
        try:
            found = api.repo_info(repo_id, repo_type=repo_type)
        except RepositoryNotFoundError:
            api.create_repo(repo_id, repo_type=repo_type, private=private)
        else:
            _refuse_public(found, private)

    retry(find_or_create, repo_id)


def _refuse_public(found, private: bool) -> None:
    if private and not found.private:
        raise UserError(
            "the repository is public, but must be private; change this in its settings, or choose another repo_id"
        )


def _commit(
    api: HfApi, repo_id: str, contents: Contents, message: str, *, repo_type: str = "model", replace: bool = False
) -> str:
    """Upload contents in one commit and return the repository's address; no commit is made where nothing has changed.

    Every attempt compares with what is there: files that arrived are not sent again, and a commit whose answer was lost is
    not made twice.

    Args:
        replace: delete files of an earlier push that this one does not bring, such as the weights of an adapter. Files in
            subfolders, and images that no run draws, are the user's and stay.

    Raises:
        UserError: an adapter would replace its own base.
    """
    adapter = contents.get(ADAPTER_FILE)
    if adapter is not None and adapter_base(adapter, str(adapter.parent))[0] == repo_id:
        raise UserError(
            "the repository holds the base of this adapter, which the push would delete; choose another repo_id, or publish both as "
            "one model with --merge_adapter (hub.merge_adapter: true in a recipe)"
        )

    def attempt():
        existing = api.list_repo_files(repo_id, repo_type=repo_type) if replace else []
        operations = [CommitOperationAdd(name, content) for name, content in contents.items()]
        operations += [CommitOperationDelete(name) for name in _ours(existing) if name not in contents]
        api.create_commit(repo_id, operations, commit_message=message, repo_type=repo_type)

    retry(attempt, repo_id)
    return mask(f"{constants.ENDPOINT}/{PREFIX[repo_type]}{repo_id}")


def _ours(names: list[str]) -> list[str]:
    """Return the files in a repository that pushes write."""
    published = [CARD_FILE, *MODEL, *RUN, *DRAWN]
    # `*` also matches a slash
    return [name for name in names if name == ENTRIES_FILE or ("/" not in name and _matches(name, published))]


# ---- what is published ----


def _contents(folder: Path, repo_id: str, files: Contents, merged: bool) -> Contents:
    """Return what is published of a stage: the files of its model, those of its run, its card, and results of benchmarks."""
    card = without_secrets(model_card(folder, repo_id, merged=merged))
    return files | _run_files(folder, repo_id) | {CARD_FILE: card} | _benchmark_results(folder, repo_id)


def model_files(folder: Path) -> Contents:
    """Return the files of the model or the adapter in a folder, and of its tokenizer.

    Raises:
        UserError: the folder holds no model.
    """
    if not folder.is_dir():
        raise UserError(
            f"{folder}: {'is a file' if folder.is_file() else 'no such folder'}{nearest_path(str(folder))}; expected the folder of a trained stage, such as "
            "outputs/ed4_tiny/grpo"
        )
    files = {path.name: path for path in _matching(folder, MODEL)}
    has_weights = any(_matches(name, WEIGHTS) for name in files)
    if not has_weights or not {"config.json", ADAPTER_FILE} & files.keys():
        stages = sorted(path.parent.name for path in folder.glob(f"*/{RUN_FILE}"))
        hint = f"; it holds the stages {', '.join(stages)}: name one of these" if stages else ""
        raise UserError(f"{folder}: holds no model; expected {ADAPTER_FILE} or config.json, with *.safetensors{hint}")
    return files


@contextmanager
def _merged_files(folder: Path) -> Iterator[Contents]:
    """Yield the files of an adapter and its base as one model; the adapter's folder stays as it is.

    The base is loaded unquantised on the CPU, also for an adapter that was trained on a 4-bit base, as in the QLoRA paper. The
    merged model is then also compared with the adapter on the 4-bit base. This takes memory for both models, and room for one
    in the temporary folder.

    Raises:
        UserError: the base cannot be loaded, the merged model differs from its adapter, or the temporary folder is full.
    """
    with tempfile.TemporaryDirectory(prefix="merged-") as name:
        model, tokenizer = load_model(folder)
        inputs = example_inputs(model, tokenizer, _examples(folder))
        quantised = _outputs_in_4_bits(folder, inputs)
        try:
            merged, change = merge_adapter(model, inputs, name=str(folder), folder=name)
            tokenizer.save_pretrained(name)
        except (OSError, SafetensorError) as error:
            raise UserError(
                f"the merged model cannot be written to {tempfile.gettempdir()} ({error}); free some space there, or set TMPDIR to "
                "another folder"
            ) from error
        print(f"{folder}: adapter and base merged: {change}")
        if quantised is not None:
            change = difference(quantised, merged, inputs)
            print(f"{folder}: compared with the adapter on the 4-bit base that it was trained on: {change}")
        yield model_files(Path(name)) | {path.name: path for path in _matching(folder, TOKENIZER)}


def _outputs_in_4_bits(folder: Path, inputs: list[dict]) -> tuple | None:
    """Return `adapter_outputs` on a stage's 4-bit base; None if it has no such base, or if bitsandbytes is missing."""
    if not read_stage_files(folder).stage["model"].get("load_in_4bit"):
        return None
    if find_spec("bitsandbytes") is None:
        print(f"{folder}: not compared with the adapter on its 4-bit base, because bitsandbytes is not installed")
        return None
    return adapter_outputs(load_model(folder, load_in_4bit=True)[0], inputs)


def _examples(folder: Path) -> list[tuple[str, str]]:
    """Return messages and replies from the predictions of a stage, to compare a merged model with its adapter on."""
    for path in _matching(folder, ["predictions_*.jsonl"]):
        try:
            rows = read_rows(path)[: len(EXAMPLES)]
        except UserError:  # any texts will do
            continue
        if rows and all(isinstance(row.get(key), str) for row in rows for key in ("text", "completion")):
            return [(row["text"], row["completion"]) for row in rows]
    return list(EXAMPLES)


def _run_files(folder: Path, repo_id: str) -> Contents:
    """Return what the run left beside the model: cleaned texts, and images."""
    texts = {path.name: _cleaned(path, repo_id) for path in _matching(folder, RUN)}
    return texts | {path.name: path for path in _matching(folder, IMAGES)}


def _benchmark_results(folder: Path, repo_id: str) -> Contents:
    """Return the file of `.eval_results/` if a benchmark asks for a figure of the stage; print what each evaluation gives it."""
    entries, files = [], read_stage_files(folder)
    for split, evaluation in files.evaluations.items():
        about = f"{eval_path(folder, split).name}: {ENTRIES_FILE} has"
        try:
            benchmark = _benchmark(evaluation["data"]["source"])
            given = to_entries(evaluation, benchmark, repo_id, *files.over_seeds(evaluation))
        except UserError as reason:
            print(f"{about} no value of {source_name(evaluation['data']['source'])}, because {reason}")
            continue
        entries += given
        print(f"{about} {', '.join(each.task_id for each in given)} for the benchmark {given[0].dataset_id}")
    return {ENTRIES_FILE: without_secrets(dump_yaml(eval_result_entries_to_yaml(entries)))} if entries else {}


def _benchmark(source: str) -> dict:
    """Return the content of the `eval.yaml` that makes a data set on the Hub a benchmark.

    Raises:
        UserError: why the data are no benchmark.
    """
    if source == SAMPLE:
        raise UserError("the embedded corpora are not on the Hub")
    if not on_hub(source, needs_owner=True):
        raise UserError("it is local; expected the id of a data set on the Hub as data.path")
    try:
        return read_yaml(Path(hf_hub_download(source, "eval.yaml", repo_type="dataset")))
    except (RemoteEntryNotFoundError, RepositoryNotFoundError) as error:
        raise UserError("it is no benchmark on the Hub (its repository has no eval.yaml that you may read)") from error


def _cleaned(path: Path, repo_id: str) -> bytes:
    """Return a text as it is published.

    An evaluation names the repository as its model instead of the folder. A recipe loses `hub`, so that repeating the run does
    not push to this repository.
    """
    if path.name == RECIPE_FILE:
        recipe = read_yaml(path)
        stages = {name: {**stage, "hub": None} for name, stage in recipe.get("stages", {}).items()}
        text = dump_yaml({key: value for key, value in recipe.items() if key != "hub"} | {"stages": stages})
    elif path.name.startswith("eval_"):
        text = json.dumps(read_json(path) | {"model": repo_id}, indent=2, ensure_ascii=False) + "\n"
    else:
        text = path.read_text(encoding="utf-8")
    return without_secrets(text)


def without_secrets(text: str) -> bytes:
    """Return a text in UTF-8 with `~` for the home folder and `[token]` for what looks like a token."""
    home = str(Path.home())
    return mask(text if home == "/" else re.sub(rf"{re.escape(home)}(?![\w.-])", "~", text)).encode()


def _matching(folder: Path, patterns: list[str]) -> list[Path]:
    """Return the files directly in a folder whose names match one of the patterns, sorted."""
    return [path for path in sorted(folder.iterdir()) if path.is_file() and _matches(path.name, patterns)]


def _matches(name: str, patterns: list[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
