"""Every shipped recipe: sound, documented, and with no key that nothing reads."""

import ast
import re
import shlex
from pathlib import Path

import pytest
import yaml

from empathy_trl.check import describe
from empathy_trl.recipe import load_recipe, schema
from empathy_trl.recipe.layers import STAGE_KEYS, read_yaml

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
each_recipe = pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)


@each_recipe
def test_check_passes_offline(path, tmp_path):
    plan = describe(load_recipe(path), tmp_path)
    assert "\n\nThe recipe is sound." in plan
    for stage in load_recipe(path).stages.values():
        assert f"stage {stage.name}: {stage.task}" in plan


@pytest.mark.parametrize(
    "override, verdict",
    [
        (
            ["--stages.grpo.trainer.max_completion_length", "10000000"],
            "cannot run on this machine: about .* GB of memory",
        ),
        (["--stages.grpo.trainer.num_train_epochs", "2"], r"The recipe is sound\.$"),
    ],
)
def test_verdict_holds_the_plan_against_the_machine(tmp_path, override, verdict):
    assert re.search(verdict, describe(load_recipe("ed4_tiny", override), tmp_path))


def test_the_plan_names_the_model_of_foresight(tmp_path):
    overrides = ["--stages.grpo.rewards.foresight.model", "me/similarity"]
    plan = describe(load_recipe("empath_tiny", overrides), tmp_path)
    assert "downloads: reward model me/similarity\n" in plan


@each_recipe
def test_header_says_what_how_and_with_what(path):
    what, command, needs = path.read_text(encoding="utf-8").splitlines()[:3]
    assert len(what) > 20
    assert command.startswith("# accelerate launch ") and f"--recipe {path.name}" in command
    assert needs.startswith("# Needs: ")
    for word in shlex.split(command.removeprefix("# ")):
        if "/" in word:
            assert (ROOT / word).is_file(), word


@each_recipe
def test_every_key_reaches_the_resolved_recipe(path, tmp_path):
    """Removing a key changes what is run, unless the key says the default, which the resolved recipe then says too."""
    content = read_yaml(path)
    if "extends" in content:
        content["extends"] = str(path.parent / content["extends"])
    resolved = load_recipe(path).resolved()
    unread = []
    for keys in leaves(content):
        if keys == ("extends",):
            continue
        changed = tmp_path / "changed.yaml"
        changed.write_text(yaml.safe_dump({"name": path.stem, **without(content, keys)}, sort_keys=False))
        try:
            same = load_recipe(changed).resolved() == resolved
        except ValueError:
            continue  # required, so it is read
        if same and not says(resolved, keys):
            unread.append(".".join(keys))
    assert not unread


def says(resolved, keys):
    """Whether every stage that the key holds for has it in its resolved form."""
    stages = [resolved["stages"][keys[1]]] if keys[0] == "stages" else list(resolved["stages"].values())
    keys = keys[2:] if keys[0] == "stages" else keys
    for content in stages:
        for key in keys:
            if not isinstance(content, dict) or key not in content:
                break
            content = content[key]
        else:
            return True
    return False


def leaves(content, path=()):
    for key, value in content.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, (*path, key))
        else:
            yield (*path, key)


def without(content, keys):
    if len(keys) == 1:
        return {key: value for key, value in content.items() if key != keys[0]}
    return {key: without(value, keys[1:]) if key == keys[0] else value for key, value in content.items()}


# section of the schema -> the names under which the code holds such a section
SECTIONS = {
    schema.Lora: {"lora"},
    schema.FromScratch: {"from_scratch", "scratch"},
    schema.Model: {"model", "config", "section"},
    schema.Data: {"data", "config"},
    schema.WeightSchedule: {"weight"},
    schema.Reward: {"reward"},
    schema.Classifiers: {"classifiers"},
    schema.Evaluation: {"evaluation", "settings"},
    schema.Hub: {"hub"},
    schema.Stage: {"stage", "s"},
}


def keys_read(holders):
    """Names of the attributes read from anything called like one of `holders`, outside the schema and its checks."""
    names = set()
    for file in [*(ROOT / "empathy_trl").rglob("*.py"), *(ROOT / "recipes").glob("*.py")]:
        if file.parent.name == "recipe" and file.stem in ("schema", "checks", "validate", "layers", "load"):
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                holder = getattr(node.value, "id", getattr(node.value, "attr", None))
                names |= {node.attr} if holder in holders else set()
    return names


@pytest.mark.parametrize("section, holders", SECTIONS.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_every_key_of_the_schema_is_read_somewhere(section, holders):
    assert not set(section.model_fields) - keys_read(holders)


def test_every_key_of_a_recipe_is_documented():
    page = (ROOT / "recipes" / "README.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"`([\w.]+)", page))
    keys = {f"{name}.{field}" for name, section in (
        ("model", schema.Model), ("model.lora", schema.Lora), ("model.from_scratch", schema.FromScratch),
        ("data", schema.Data), ("evaluation", schema.Evaluation), ("evaluation.classifiers", schema.Classifiers), ("hub", schema.Hub),
    ) for field in section.model_fields}  # fmt: skip
    keys |= {*STAGE_KEYS, "stages", "extends", "seed", "name"}
    assert not keys - documented


def test_every_recipe_is_in_the_index():
    page = (ROOT / "recipes" / "README.md").read_text(encoding="utf-8")
    assert not [path.name for path in RECIPES if f"({path.name})" not in page]
