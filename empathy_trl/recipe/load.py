"""Loading a recipe: find the file, merge its layers, check everything, and build the `Recipe`."""

import copy
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from empathy_trl.data import build
from empathy_trl.errors import RecipeError, UserError, show, suggestion
from empathy_trl.io import shipped_folder, user_path, yaml_titles
from empathy_trl.models.hub_files import REVISION, hub_errors, join_revision
from empathy_trl.recipe.checks import check_reward_models, check_stage, check_top, with_user_paths
from empathy_trl.recipe.layers import NO_CHANGE, RECIPE_FILE, Layers, empty_mappings, merge, parse_overrides, read_yaml
from empathy_trl.recipe.schema import Data, Model, Recipe, Stage
from empathy_trl.recipe.validate import check_section
from empathy_trl.rewards import read_rewards
from empathy_trl.rewards.base import Reward

SHIPPED = shipped_folder("recipes")
PRESETS = SHIPPED / "models"
HUB_PREFIX = "hub:"
HUB_NAME = re.compile(rf"{HUB_PREFIX}(\w[\w.-]*/\w[\w.-]*)(?:@({REVISION.pattern}))?")
PULL_FILE = "pull.json"  # in a folder that `hub.py pull` filled: the repository and the commit


def load_recipe(
    path_or_name: str | Path,
    overrides: Sequence[str] = (),
    *,
    training: bool = True,
    trust_remote_code: bool = False,
) -> Recipe:
    """Read a recipe, apply the command line's overrides and check all of it.

    Args:
        path_or_name: a YAML file, the name of one in `recipes/`, with or without `.yaml`, or `hub:USER/REPO[@revision]`.
        overrides: command line arguments, `--a.b.c value` or `--a.b.c=value`.
        training: False for a recipe that is only evaluated or talked to. Keys of the trainer then need only exist and have the
            right types: recipes of version 0.1 may have keys without effect.
        trust_remote_code: allow a recipe from the Hub, also one that `hub.py pull` fetched, to import code.

    Returns:
        The recipe; `recipe.stages["grpo"]` is a stage, `recipe.to_yaml()` says everything it does.

    Raises:
        RecipeError: with one line per problem.
        UserError: the Hub cannot be reached, or has no such recipe.
    """
    if not isinstance(overrides, (list, tuple)):
        raise RecipeError(
            [f"overrides: {show(overrides)} is not a list; expected such as ['--trainer.max_steps', '20']"]
        )
    flags, errors = parse_overrides(list(overrides))
    _find_presets(flags, "--")
    path = find_recipe(path_or_name)
    content, from_hub = _read_with_base(path)
    if is_on_hub(path_or_name):
        content.setdefault("name", _hub_id(path_or_name)[0].partition("/")[2])
        from_hub = True
    layers = Layers(content, flags)
    errors += layers.errors
    stages = {name: _with_preset(layers.merged(name)) for name in layers.stages}
    if from_hub and not trust_remote_code:
        _refuse_imports(layers, stages)
    rewards, unread = {}, []
    for name, keys in stages.items():
        stages[name], problems = with_user_paths(keys)
        unread += [f"{layers.label(name, path)}: {message}" for path, message in problems]
    if unread:  # whether something is there cannot be checked
        raise RecipeError(list(dict.fromkeys(errors + unread)))
    for position, (name, keys) in enumerate(stages.items()):
        earlier = dict(list(stages.items())[:position])
        rewards[name], problems = read_rewards(keys.get("rewards"))
        problems += check_reward_models(keys.get("rewards"), rewards[name], earlier)
        problems += check_stage(name, earlier | {name: keys}, training)
        errors += [f"{layers.label(name, path)}: {message}" for path, message in problems]
    errors += check_top(layers, stages)
    if errors:
        raise RecipeError(list(dict.fromkeys(errors)))
    built = {name: _build_stage(name, keys, rewards[name]) for name, keys in stages.items()}
    seed = layers.top.get("seed", next(iter(built.values())).seed if layers.single else 42)
    return Recipe(name=layers.name or path.stem, path=path, seed=seed, stages=built)


def load_seeds(
    path_or_name: str | Path, overrides: Sequence[str], seeds: Sequence[int], *, trust_remote_code: bool = False
) -> dict[int, Recipe]:
    """Return seed -> the recipe with this seed, for a run with several seeds.

    Args:
        path_or_name, overrides, trust_remote_code: as for `load_recipe`.
        seeds: whole numbers from 0 to 2**32 - 1, each once.

    Raises:
        RecipeError: as `load_recipe`, also if every stage has a seed of its own, so that all runs would be the same.
        UserError: the seeds are not such numbers, or are given twice; `--seed` is among the overrides; the recipe has a section `hub`,
            to which every seed would be pushed.
    """
    seeds = list(seeds) if isinstance(seeds, Iterable) else seeds
    given = seeds if isinstance(seeds, list) else []  # 5 may be meant as the number of seeds
    numbers = [seed for seed in given if isinstance(seed, int) and not isinstance(seed, bool) and 0 <= seed < 2**32]
    if not numbers or len(numbers) < len(given):
        raise UserError(f"seeds: got {show(seeds)}; expected whole numbers from 0 to {2**32 - 1}, such as 1,2,3")
    if twice := [seed for seed in numbers if numbers.count(seed) > 1]:
        raise UserError(f"seeds: {twice[0]} is given twice; expected different seeds")
    if any(str(flag).partition("=")[0] == "--seed" for flag in overrides):
        raise UserError("--seed: given together with several seeds; expected one of the two")
    recipes = {
        seed: load_recipe(path_or_name, [*overrides, "--seed", str(seed)], trust_remote_code=trust_remote_code)
        for seed in numbers
    }
    first = recipes[numbers[0]]
    for name, stage in first.stages.items():
        if stage.hub is not None:
            raise UserError(
                f"stages.{name}.hub: every seed would be pushed to {stage.hub.repo_id}, one over the other; leave the section out with "
                f"--hub null or --stages.{name}.hub null, and publish one seed with empathy-trl hub push"
            )
    return recipes


def load_data(name: str, split: str = "train", *, task: str = "grpo", **settings):
    """Return one split of a corpus as a `datasets.Dataset`, with the columns that a trainer of the task takes.

        load_data("ed4")                                # the sample in the package
        load_data("ed4", "valid", path="my_folder")     # train.csv, valid.csv and test.csv of your own

    Args:
        name: of the corpus, a key of `empathy_trl.data.CORPORA`.
        split: `train`, `valid` or `test`.
        task: `sft`, `grpo`, `ppo`, `regress` or `classify`.
        **settings: other keys of `data` in a recipe, such as `path`, `revision` and `on_bad_rows`.

    Raises:
        RecipeError: an unknown key or a wrong value.
        DataError: a file or a row cannot be used; names both.
        UserError: an unknown corpus or split, or a corpus without rows for the task.
    """
    keys = {"name": name, **settings}
    if isinstance(keys.get("path"), Path):
        keys["path"] = str(keys["path"])
    keys = with_user_paths({"data": keys})[0]["data"]
    if errors := [f"{'.'.join(('data', *path))}: {message}" for path, message in check_section(keys, Data)]:
        raise RecipeError(errors)
    return build(Data.model_validate(keys), split, task)


def find_recipe(path_or_name: str | Path, beside: Path = Path()) -> Path:
    """Return the file of a recipe; one on the Hub is downloaded into the Hub's cache.

    Args:
        path_or_name: a path, the name of a file in `recipes/`, both with or without `.yaml`, or `hub:USER/REPO[@revision]`.
        beside: the folder that a relative path starts from.

    Raises:
        RecipeError: there is no such file; names the nearest of the shipped recipes.
        UserError: the Hub cannot be reached, or the repository has no recipe.
    """
    if is_on_hub(path_or_name):
        return _download(path_or_name)
    path_or_name = user_path(path_or_name)
    path = _find_yaml(path_or_name, beside, Path("recipes"), SHIPPED)
    if path is None:
        raise RecipeError([f"{path_or_name}: no such recipe{_shipped(path_or_name, SHIPPED)}"])
    return path


def _find_yaml(path_or_name: Path, beside: Path, *folders: Path) -> Path | None:
    """Return the file of a path relative to `beside`, with or without `.yaml`; a bare name is looked for in `folders` too."""
    for folder in (beside, *(folders if len(path_or_name.parts) == 1 else ())):
        for path in (folder / path_or_name, folder / f"{path_or_name}.yaml"):
            if path.is_file():
                return path
    return None


def _shipped(path_or_name: Path, folder: Path) -> str:
    """Return the end of a message about an unknown name: what the folder of the package has."""
    return suggestion(path_or_name.stem, [Path(name).stem for name, _ in yaml_titles(folder)])


def is_on_hub(path_or_name: str | Path) -> bool:
    """Return whether a recipe is named as one on the Hub."""
    return isinstance(path_or_name, str) and path_or_name.startswith(HUB_PREFIX)


def pin_recipe(name: str) -> str:
    """Return `hub:USER/REPO@commit` for a recipe on the Hub: a name that will always mean the same text."""
    return HUB_PREFIX + join_revision(_hub_id(name)[0], _download(name).parent.name)


def _hub_id(name: str) -> tuple[str, str | None]:
    """Return repository and revision of `hub:USER/REPO[@revision]`."""
    match = HUB_NAME.fullmatch(name)
    if match is None or ".." in name:
        raise UserError(f"--recipe {name}: expected hub:USER/REPO, or hub:USER/REPO@ with a branch, a tag or a commit")
    return match.groups()


def _download(name: str) -> Path:
    """Return the recipe's file in the Hub's cache, whose folder is called like the commit."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import RemoteEntryNotFoundError

    repo, revision = _hub_id(name)
    with hub_errors(repo, revision):
        try:
            return Path(hf_hub_download(repo, RECIPE_FILE, revision=revision))
        except RemoteEntryNotFoundError as error:
            raise UserError(
                f"{join_revision(repo, revision)}: has no {RECIPE_FILE}; expected a model that empathy-trl published"
            ) from error


def _read_with_base(path: Path) -> tuple[dict[str, Any], bool]:
    """Return a file's content merged over that of the recipe it extends, and whether one of them was pulled from the Hub."""
    content, was_pulled = read_yaml(path), (path.parent / PULL_FILE).is_file()
    _find_presets(content, beside=path.parent)
    base = content.pop("extends", None)
    if base is None:
        return content, was_pulled
    if not isinstance(base, str):
        raise RecipeError([f"extends: {show(base)} is not a recipe's path or name"])
    origin = find_recipe(base, path.parent)
    below = read_yaml(origin)
    if "extends" in below:
        raise RecipeError([f"extends: {base} itself extends {below['extends']}; a recipe may extend one that does not"])
    _find_presets(below, beside=origin.parent)
    if empty := list(empty_mappings(content, below)):
        raise RecipeError([f"{'.'.join(key)}: {NO_CHANGE}" for key in empty])
    return merge(below, content), was_pulled or is_on_hub(base) or (origin.parent / PULL_FILE).is_file()


def _find_presets(content: dict[str, Any], flag: str = "", beside: Path = Path()) -> None:
    """Replace every preset that a file or the command line names by the path of its file.

    Args:
        content: is changed.
        flag: what stands before a key in an error.
        beside: the folder that a relative path starts from; a name is looked for in `recipes/models/` as well.
    """
    stages = content.get("stages")
    sections = {"": content} | {
        f"stages.{name}.": own for name, own in (stages.items() if isinstance(stages, dict) else ())
    }
    for prefix, section in sections.items():
        model = section.get("model") if isinstance(section, dict) else None
        if not isinstance(model, dict) or (name := model.get("preset")) is None:
            continue
        key = f"{flag}{prefix}model.preset"
        if not isinstance(name, str) or not name:
            raise RecipeError([f"{key}: {show(name)} is not a preset's name or path"])
        name = user_path(name)
        path = _find_yaml(name, beside, Path("recipes", "models"), PRESETS)
        if path is None:
            model_flag = f"; a model's folder or Hub id is given with {key.replace('preset', 'name_or_path')}"
            hint = model_flag if len(name.parts) > 1 and name.suffix != ".yaml" else ""
            raise RecipeError([f"{key}: no preset {str(name)!r}{_shipped(name, PRESETS)}{hint}"])
        if empty := list(empty_mappings({**model, "preset": None}, _read_preset(path))):
            raise RecipeError([f"{flag}{prefix}{'.'.join(('model', *inner))}: {NO_CHANGE}" for inner in empty])
        model["preset"] = str(path)


def _read_preset(path: Path) -> dict[str, Any]:
    """Return the `model` section of a preset's file, which has no other one.

    Raises:
        RecipeError: names the file and what is wrong with it.
    """
    content = read_yaml(path)
    errors = [f"{key}: a preset holds the section model and nothing else" for key in content if key != "model"]
    if not errors:
        errors = [f"{'.'.join(('model', *key))}: {message}" for key, message in check_section(content["model"], Model)]
    if errors:
        raise RecipeError([f"{path}: {error}" for error in errors])
    return content["model"]


def _with_preset(keys: dict[str, Any]) -> dict[str, Any]:
    """Return a stage's keys with its model's preset, if it has one, written out below what else is said of the model."""
    model = keys.get("model")
    if not isinstance(model, dict) or "preset" not in model:
        return keys
    own = {key: value for key, value in model.items() if key != "preset"}
    below = {} if model["preset"] is None else {"model": _read_preset(Path(model["preset"]))}
    return keys | merge(below, {"model": own})


def _refuse_imports(layers: Layers, stages: dict[str, dict]) -> None:
    """Raise RecipeError for every key that would import code, before anything is imported."""
    errors = []
    for name, keys in stages.items():
        rewards = keys.get("rewards")
        entries = rewards.items() if isinstance(rewards, dict) else ()
        places = [
            (("rewards", key, "import"), entry.get("import")) for key, entry in entries if isinstance(entry, dict)
        ]
        if isinstance(keys.get("data"), dict):
            places.append((("data", "builder"), keys["data"].get("builder")))
        errors += [
            f"{layers.label(name, path)}: {show(code)} is Python code that the recipe, which comes from the Hub, would run; "
            "read that code, then allow it with --trust_remote_code"
            for path, code in places
            if code is not None
        ]
    if errors:
        raise RecipeError(list(dict.fromkeys(errors)))


def _build_stage(name: str, keys: dict, rewards: dict[str, Reward]) -> Stage:
    """Return the stage that checked keys describe."""
    return Stage.model_validate({**copy.deepcopy(keys), "name": name, "rewards": rewards})
