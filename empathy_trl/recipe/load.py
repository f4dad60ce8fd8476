"""Loading a recipe: find the file, lay the layers over each other, check everything, build the `Recipe`."""

import copy
from pathlib import Path
from typing import Any

from empathy_trl.errors import RecipeError
from empathy_trl.recipe.checks import check_rewards, check_stage, check_top
from empathy_trl.recipe.encoder_decoders import check_encoder_decoder
from empathy_trl.recipe.from_hub import HubRecipe, fetch_recipe, is_from_hub, is_on_hub, read_pulled, refusals
from empathy_trl.recipe.layers import Layers, merge, parse_overrides
from empathy_trl.recipe.schema import Recipe, Reward, Stage
from empathy_trl.recipe.validation import show, suggestion
from empathy_trl.recipe.yaml_io import read_yaml

SHIPPED = Path(__file__).resolve().parents[2] / "recipes"


def load_recipe(
    path_or_name: str | Path, overrides: list[str], config_classes: dict[str, str], trusted: bool = False
) -> Recipe:
    """Read a recipe, lay the command line over it and check all of it.

    Args:
        path_or_name: a YAML file, the name of one in `recipes/`, with or without `.yaml`, or `hub:USER/REPO[@revision]`.
        overrides: command line arguments, `--a.b.c value` or `--a.b.c=value`.
        config_classes: task -> `module:Class` of its trainer's config; imported only here.
        trusted: a recipe from the Hub (also one that `hub.py pull` fetched) may do what your own may, see `from_hub`.

    Raises:
        RecipeError: with one line per problem.
    """
    flags, errors = parse_overrides(overrides)
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
