"""Every shipped recipe: sound and documented; and no key of the schema that nothing reads."""

import ast
import json
import re
import shlex
from pathlib import Path

import pytest

from empathy_trl.check import describe
from empathy_trl.recipe import load_recipe, schema
from empathy_trl.recipe.layers import STAGE_KEYS, read_yaml

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
PRESETS = sorted((ROOT / "recipes" / "models").glob("*.yaml"))
ENCODERS = ("minilm",)
each_recipe = pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)


@each_recipe
def test_check_passes_offline(path, tmp_path):
    recipe = load_recipe(path)
    plan = describe(recipe, tmp_path)
    assert "\n\nThe recipe is sound." in plan
    for stage in recipe.stages.values():
        assert f"stage {stage.name}: {stage.task}" in plan


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_a_recipe_with_a_preset_is_the_one_with_its_keys_written_out(path, tmp_path):
    name = "intent9_tiny" if path.stem in ENCODERS else "ed4_tiny"
    recipe = load_recipe(name, ["--model.preset", path.stem])
    assert "\n\nThe recipe is sound." in describe(recipe, tmp_path)
    keys = read_yaml(path)["model"]
    written = [flag for key, value in keys.items() for flag in (f"--model.{key}", json.dumps(value))]
    assert recipe.resolved() == load_recipe(name, written).resolved()
    assert load_recipe(name, ["--model.preset", str(path)]).resolved() == recipe.resolved()


@pytest.mark.parametrize("path", [*RECIPES, *PRESETS], ids=lambda path: path.stem)
def test_header_says_what_how_and_with_what(path):
    what, command, needs = path.read_text(encoding="utf-8").splitlines()[:3]
    assert len(what) > 20
    called = f"--model.preset {path.stem}" if path in PRESETS else f"--recipe {path.name}"
    assert command.startswith("# accelerate launch ") and called in command
    assert needs.startswith("# Needs: ")
    for word in shlex.split(command.removeprefix("# ")):
        if "/" in word:
            assert (ROOT / word).is_file(), word


# section of the schema -> the names under which the code holds such a section
SECTIONS = {
    schema.Lora: {"lora"},
    schema.FromScratch: {"from_scratch", "scratch"},
    schema.Model: {"model", "config", "section"},
    schema.Data: {"data", "config"},
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
    assert not [path.name for path in PRESETS if f"(models/{path.name})" not in page]
