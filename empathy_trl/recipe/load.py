"""Recipes from the Hub, `hub:USER/REPO[@revision]`: fetched, and kept from doing what only a recipe of one's own may do.

A recipe is somebody else's text here. Its settings may train a model; they may not import code, say which secret goes to
which server, upload anything, or read and write files of this machine. What would is refused by its key, unless the user
gives that key on the command line, or trusts the whole recipe (`--trust_recipe`). Where something is pushed to is never
taken from it.

Loading a recipe: find the file, lay the layers over each other, check everything, build the `Recipe`.
"""

import copy
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from empathy_trl.errors import RecipeError, UserError
from empathy_trl.models.hub_files import REVISION, join_revision, looks_local, split_revision
from empathy_trl.recipe.checks import check_encoder_decoder, check_rewards, check_stage, check_top
from empathy_trl.recipe.layers import (
    LARGEST,
    RECIPE_FILE,
    Layers,
    check_harmless,
    decides,
    merge,
    parse_overrides,
    read_yaml,
    stage_of,
)
from empathy_trl.recipe.schema import CONFIG_CLASSES, HUB_MODEL, SAMPLE, Recipe, Reward, Stage
from empathy_trl.recipe.validate import show, suggestion

PREFIX = "hub:"
PULL_FILE = "pull.json"  # in a folder that was fetched: what was
NAME = re.compile(rf"{PREFIX}(\w[\w.-]*/\w[\w.-]*)(?:@({REVISION.pattern}))?")
FOLDER_NAME = re.compile(r"\w[\w.-]*")

REWARD_KEYS = {
    "import": "runs code that the recipe names",
    "base_url": "sends prompts and replies to a server that the recipe names",
    "api_key_env": "sends a secret of this machine to a server",
    "cache_dir": "writes into a folder of this machine",
    "file": "reads a file of this machine",
}
# A number or true/false can name nothing; of the trainer's fields that take a text, a list or a mapping, these cannot either.
TRAINER_TEXTS = {
    *("cache_implementation", "critic_kind", "critic_name_or_path", "dataset_text_field", "eos_token", "pad_token"),
    *("gradient_checkpointing_kwargs", "importance_sampling_level", "include_num_input_tokens_seen", "label_names"),
    *("length_column_name", "log_level", "log_level_replica", "logging_strategy", "loss_type", "lr_scheduler_kwargs"),
    *(
        "lr_scheduler_type",
        "multi_objective_aggregation",
        "optim",
        "packing_strategy",
        "pad_to_multiple_of",
        "report_to",
    ),
    *(
        "kl_estimator",
        "loss",
        "objective",
        "run_name",
        "save_strategy",
        "scale_rewards",
        "shared_prefix",
        "torch_compile_mode",
        "train_sampling_strategy",
    ),
    *("truncation_mode", "vllm_importance_sampling_mode", "vllm_mode", "vllm_model_impl"),
}
REPORTS_HERE = ("none", "tensorboard")
ATTENTION = (
    "eager",
    "sdpa",
    "flash_attention_2",
    "flash_attention_3",
    "flex_attention",
)  # others are code from the Hub


@dataclass(frozen=True)
class HubRecipe:
    """A recipe as its author published it.

    Attributes:
        name: `hub:USER/REPO@commit`, which will always be this text.
        text: of the file.
        content: what the file says, without `dropped`.
        dropped: dotted keys that are not taken over.
    """

    name: str
    text: str
    content: dict[str, Any]
    dropped: list[str]


def is_from_hub(path_or_name: str | Path) -> bool:
    """Return whether a recipe is somebody else's: named as one on the Hub, or in a folder that `hub.py pull` filled."""
    return is_on_hub(path_or_name) or (Path(path_or_name).parent / PULL_FILE).is_file()


def is_on_hub(path_or_name: str | Path) -> bool:
    """Return whether a recipe is named as one on the Hub."""
    return isinstance(path_or_name, str) and path_or_name.startswith(PREFIX)


def fetch_recipe(name: str) -> HubRecipe:
    """Download the recipe of a model.

    Args:
        name: `hub:USER/REPO` or `hub:USER/REPO@revision`.

    Raises:
        UserError: the repository cannot be reached or has no recipe.
        RecipeError: what it has cannot be read, or is larger or more intricate than a recipe has to be.
    """
    path, repo = _download(name)
    pinned = PREFIX + join_revision(repo, path.parent.name)  # the cache has one folder for each commit
    return _read(path, pinned, repo.partition("/")[2])


def read_pulled(path: Path) -> HubRecipe:
    """Return the recipe in a folder that `hub.py pull` filled; its `name` is the path. Raises RecipeError as `fetch_recipe`."""
    return _read(path, str(path), path.absolute().parent.name)


def _read(path: Path, name: str, default_name: str) -> HubRecipe:
    text = _checked_text(path, name)
    content = read_yaml(path)
    content.setdefault("name", default_name)
    dropped = [(*keys, "hub") for keys, section in _sections(content) if section.pop("hub", None) is not None]
    return HubRecipe(name, text, content, [".".join(keys) for keys in dropped])


def _download(name: str) -> tuple[Path, str]:
    """Return the recipe's file in the cache, and the id of its repository."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import RemoteEntryNotFoundError

    from empathy_trl.models.hub_files import hub_errors

    found = NAME.fullmatch(name)
    if found is None or ".." in name:
        raise UserError(f"--recipe {name}: expected hub:USER/REPO, or hub:USER/REPO@ with a branch, a tag or a commit")
    repo, revision = found.groups()
    with hub_errors(repo, revision):
        try:
            return Path(hf_hub_download(repo, RECIPE_FILE, revision=revision)), repo
        except RemoteEntryNotFoundError as error:
            raise UserError(
                f"{join_revision(repo, revision)}: has no {RECIPE_FILE}; expected a model that was published by run.py"
            ) from error


def _checked_text(path: Path, name: str) -> str:
    """Return a file's text, unless reading it as YAML might take for ever."""
    if (size := path.stat().st_size) > LARGEST:  # not even read
        raise RecipeError([f"{name}: {RECIPE_FILE} has {size:,} bytes; expected at most {LARGEST:,}"])
    text = path.read_text(encoding="utf-8", errors="replace")
    check_harmless(text, f"{name}: {RECIPE_FILE}")
    return text


def refusals(content: dict[str, Any], flags: dict[str, Any]) -> list[str]:
    """Return one line for every key of a recipe from the Hub that is refused; none for what the user gives himself.

    Args:
        content: of `HubRecipe`.
        flags: the overrides of the command line, nested.
    """
    found = [] if FOLDER_NAME.fullmatch(str(content["name"])) else [(("name",), _no_folder(content["name"]))]
    if "extends" in content:
        found.append((("extends",), "a recipe from the Hub has to stand alone"))
    for keys, section in _sections(content):
        found += [((*keys, *path), message) for path, message in _refused(section)]
    return [f"{'.'.join(path)}: {message}" for path, message in found if not decides(flags, path)]


def _no_folder(name: Any) -> str:
    return f"{show(name)} cannot be a folder's name; expected letters, digits, -, . and _"


def _sections(content: dict[str, Any]) -> Iterator[tuple[tuple[str, ...], dict]]:
    """Yield (keys above it, mapping) for the top level and every stage."""
    yield (), content
    stages = content.get("stages")
    for name, own in stages.items() if isinstance(stages, dict) else ():
        if isinstance(own, dict):
            yield ("stages", name), own


def _refused(section: dict) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield (path, why) for what is refused among the keys of a stage."""
    parts = {key: value if isinstance(value, dict) else {} for key, value in section.items()}
    for name, entry in parts.get("rewards", {}).items():
        if isinstance(entry, dict):
            yield from ((("rewards", name, *path), message) for path, message in _refused_of_reward(entry))
    for key, value in parts.get("trainer", {}).items():
        if (message := _refused_of_trainer(key, value)) is not None:
            yield ("trainer", key), message
    attention = parts.get("model", {}).get("attn_implementation")
    if attention is not None and attention not in ATTENTION:
        message = f"{show(attention)} may be code from the Hub; expected one of {', '.join(ATTENTION)}{TRUST}"
        yield ("model", "attn_implementation"), message
    for path, place in _places(parts):
        if _is_local(place) or (path[0] == "data" and isinstance(place, str) and place != SAMPLE and "/" not in place):
            yield path, _elsewhere(place)


TRUST = ", unless you give the key yourself, or trust the whole recipe with --trust_recipe"


def _refused_of_reward(entry: dict) -> Iterator[tuple[tuple[str, ...], str]]:
    for key, why in REWARD_KEYS.items():
        if entry.get(key) is not None:
            yield (key,), f"{show(entry[key])} {why}; a recipe from the Hub may not{TRUST}"
    if "import" not in entry and "base_url" not in entry and _is_local(entry.get("model")):
        yield ("model",), _elsewhere(entry["model"])


def _refused_of_trainer(key: str, value: Any) -> str | None:
    """Return why a field of the trainer is refused, None where it is not."""
    if key == "trust_remote_code" and value:
        return f"runs code from the Hub; a recipe from there may not{TRUST}"
    if key == "report_to" and isinstance(value, (str, list)):
        away = [each for each in ([value] if isinstance(value, str) else value) if each not in REPORTS_HERE]
        return f"uploads to {show(away[0])}; a recipe from the Hub may not{TRUST}" if away else None
    if isinstance(value, (str, list, dict)) and key not in TRAINER_TEXTS:
        return f"{show(value)} may name files, servers or code; a recipe from the Hub may not{TRUST}"
    return None


def _places(parts: dict[str, dict]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield (path, value) of the keys that say where a model or data is."""
    classifiers = parts.get("evaluation", {}).get("classifiers")
    yield from ((("evaluation", "classifiers", kind), model) for kind, model in _items(classifiers))
    for section, keys in (
        ("model", ["name_or_path"]),
        ("data", ["path", "emotions"]),
        ("evaluation", ["bertscore"]),
        ("trainer", ["critic_name_or_path"]),
    ):
        yield from (((section, key), parts.get(section, {}).get(key)) for key in keys)


def _items(mapping: Any):
    return mapping.items() if isinstance(mapping, dict) else ()


def _is_local(place: Any) -> bool:
    """Return whether a value says a place on somebody's disk; a stage, the sample and Hub ids are none."""
    if not isinstance(place, str) or place == SAMPLE or stage_of(place) is not None:
        return False
    if os.path.exists(place):  # a folder here would be read in place of what is on the Hub
        return True
    try:
        return looks_local(place) or not HUB_MODEL.fullmatch(split_revision(place)[0])
    except UserError:  # behind its @ is no revision
        return True


def _elsewhere(place: str) -> str:
    whose = "this machine" if os.path.exists(place) else "the author's machine"
    return f"{show(place)} is a place on {whose}; give this key with one of yours, or a Hub id"


SHIPPED = Path(__file__).resolve().parents[2] / "recipes"


def load_recipe(
    path_or_name: str | Path,
    overrides: Sequence[str] = (),
    config_classes: dict[str, str] = CONFIG_CLASSES,
    trusted: bool = False,
) -> Recipe:
    """Read a recipe, lay the command line over it and check all of it.

    Args:
        path_or_name: a YAML file, the name of one in `recipes/`, with or without `.yaml`, or `hub:USER/REPO[@revision]`.
        overrides: command line arguments, `--a.b.c value` or `--a.b.c=value`.
        config_classes: task -> `module:Class` of its trainer's config; imported only here.
        trusted: a recipe from the Hub (also one that `hub.py pull` fetched) may do what your own may, see `from_hub`.

    Returns:
        The recipe; `recipe.stages["grpo"]` is a stage, `recipe.to_yaml()` says everything it does.

    Raises:
        RecipeError: with one line per problem.
    """
    flags, errors = parse_overrides(list(overrides))
    if is_on_hub(path_or_name):
        path, content = _from_hub(fetch_recipe(path_or_name), flags, trusted)
    elif is_from_hub(path := find_recipe(path_or_name)):
        path, content = _from_hub(read_pulled(path), flags, trusted)
    else:
        content = _with_base(path)
    layers = Layers(content, flags)
    errors += layers.errors
    contents = {name: layers.merged(name) for name in layers.stages}
    for name, content in contents.items():
        before = list(contents)[: list(contents).index(name)]
        earlier = {stage: contents[stage].get("task") for stage in before}
        problems = [*check_stage(content, earlier, config_classes)]
        problems += check_encoder_decoder(name, {stage: contents[stage] for stage in (*before, name)}, config_classes)
        errors += [f"{layers.label(name, path)}: {message}" for path, message in problems]
    errors += check_top(layers, contents, config_classes)
    if errors:
        raise RecipeError(list(dict.fromkeys(errors)))
    stages = {name: _stage(name, content) for name, content in contents.items()}
    seed = layers.top.get("seed", next(iter(stages.values())).seed if layers.single else 42)
    return Recipe(name=layers.name or path.stem, path=path, seed=seed, stages=stages)


def _from_hub(found: HubRecipe, flags: dict[str, Any], trusted: bool) -> tuple[Path, dict[str, Any]]:
    """Return name and content of a recipe from the Hub; what it may not do is an error before anything of it is used."""
    refused = [line for line in refusals(found.content, flags) if not trusted or line.startswith(("name:", "extends:"))]
    if refused:
        raise RecipeError(refused)
    return Path(found.name), found.content


def find_recipe(path_or_name: str | Path, beside: Path = Path()) -> Path:
    """Return the file of a recipe: a path (relative to `beside`), or a name in `recipes/`, with or without `.yaml`.

    Raises:
        RecipeError: there is none; names the nearest of the shipped recipes.
    """
    folders = [beside]
    if len(Path(path_or_name).parts) == 1:
        folders += [Path("recipes"), SHIPPED]
    for folder in folders:
        for path in (folder / path_or_name, folder / f"{path_or_name}.yaml"):
            if path.is_file():
                return path
    shipped = [Path(name).stem for name, _ in list_recipes(SHIPPED)]
    raise RecipeError([f"{path_or_name}: no such recipe{suggestion(Path(path_or_name).stem, shipped)}"])


def read_rewards(rewards: dict[str, dict]) -> dict[str, Reward]:
    """Return the rewards that a recipe's `rewards:` describes, for those who have no recipe.

    Raises:
        RecipeError: with one line per problem.
    """
    if errors := [".".join(("rewards", *path)) + f": {message}" for path, message in check_rewards(rewards, {})]:
        raise RecipeError(errors)
    return {name: Reward.from_yaml(entry) for name, entry in rewards.items()}


def list_recipes(folder: Path) -> list[tuple[str, str]]:
    """Return the file name and the first comment line of every recipe in a folder."""
    recipes = []
    for path in sorted(Path(folder).glob("*.yaml")):
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        recipes.append((path.name, next((line.lstrip("# ") for line in lines if line.startswith("#")), "")))
    return recipes


def _with_base(path: Path) -> dict[str, Any]:
    """Return the content of a file laid over that of the recipe it extends."""
    content = read_yaml(path)
    base = content.pop("extends", None)
    if base is None:
        return content
    if not isinstance(base, str):
        raise RecipeError([f"extends: {show(base)} is not a recipe's path or name"])
    origin = find_recipe(base, path.parent)
    if is_from_hub(origin):
        raise RecipeError(
            [f"extends: {base} was fetched from the Hub; copy what you want of it, or a recipe of your own"]
        )
    below = read_yaml(origin)
    if "extends" in below:
        raise RecipeError([f"extends: {base} itself extends {below['extends']}; a recipe may extend one that does not"])
    return merge(below, content)


def _stage(name: str, content: dict) -> Stage:
    """Return the stage that checked keys describe."""
    rewards = {key: Reward.from_yaml(entry) for key, entry in content.get("rewards", {}).items()}
    return Stage.model_validate({**copy.deepcopy(content), "name": name, "rewards": rewards})
