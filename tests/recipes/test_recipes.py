"""Every shipped recipe: sound and documented; and no key of the schema that nothing reads."""

import ast
import re
import shlex
from pathlib import Path

import pytest

from empathy_trl.check import describe
from empathy_trl.recipe import load_recipe, schema
from empathy_trl.recipe.layers import STAGE_KEYS

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
each_recipe = pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)


@each_recipe
def test_check_passes_offline(path, tmp_path):
    recipe = load_recipe(path)
    plan = describe(recipe, tmp_path)
    assert "\n\nThe recipe is sound." in plan
    for stage in recipe.stages.values():
        assert f"stage {stage.name}: {stage.task}" in plan


@each_recipe
def test_header_says_what_how_and_with_what(path):
    what, command, needs = path.read_text(encoding="utf-8").splitlines()[:3]
    assert len(what) > 20
    assert command.startswith("# accelerate launch ") and f"--recipe {path.name}" in command
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
