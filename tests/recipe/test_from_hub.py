"""Recipes from the Hub: fetched by revision, and their imports refused unless allowed."""

import sys

import pytest
from huggingface_hub import HfApi

from empathy_trl.errors import RecipeError, UserError
from empathy_trl.hub.pull import pull
from empathy_trl.recipe import load_recipe, pin_recipe
from empathy_trl.recipe.layers import dump_yaml, read_yaml
from empathy_trl.recipe.load import SHIPPED

NAME = "hub:ann/kind"
CODE = "kindness_of_the_hub"


@pytest.fixture
def publish(hub_server, tmp_path, monkeypatch):
    """Return a function that publishes a recipe, by default ed4_tiny, as that of ann/kind; `CODE` can be imported."""
    HfApi().create_repo("ann/kind")
    (tmp_path / f"{CODE}.py").write_text("def kind(completions, **columns): return [1.0] * len(completions)")
    monkeypatch.syspath_prepend(tmp_path)
    yield lambda content: HfApi().upload_file(
        path_or_fileobj=(content if isinstance(content, str) else dump_yaml(content)).encode(),
        path_in_repo="recipe.yaml",
        repo_id="ann/kind",
    )
    sys.modules.pop(CODE, None)


@pytest.fixture
def ed4_tiny():
    return load_recipe("ed4_tiny").resolved()


def test_a_published_recipe_is_the_same_recipe(publish, ed4_tiny):
    publish(ed4_tiny)
    assert load_recipe(NAME).resolved() == ed4_tiny
    assert load_recipe(NAME, ["--stages.grpo.trainer.max_steps", "3"]).stages["grpo"].trainer["max_steps"] == 3


def test_a_revision_and_a_commit_of_it(publish, ed4_tiny):
    publish(ed4_tiny)
    HfApi().create_tag("ann/kind", tag="v1")
    publish(ed4_tiny | {"name": "later"})
    assert load_recipe(NAME).name == "later" and load_recipe(f"{NAME}@v1").name == "ed4_tiny"
    pinned = pin_recipe(f"{NAME}@v1")
    assert load_recipe(pinned).name == "ed4_tiny" and len(pinned.partition("@")[2]) == 40


def test_a_recipe_without_a_name_is_called_like_its_repository(publish):
    publish(read_yaml(SHIPPED / "wassa_tiny.yaml"))
    assert load_recipe(NAME).name == "kind"


def test_code_is_imported_only_where_it_is_allowed(publish, ed4_tiny, tmp_path):
    ed4_tiny["stages"]["grpo"]["rewards"] |= {"mine": {"import": f"{CODE}:kind"}, "more": {"import": "os:system"}}
    ed4_tiny["stages"]["sft"]["data"]["builder"] = f"{CODE}:Corpus"
    publish(ed4_tiny)
    pulled = pull("ann/kind", tmp_path / "kind") / "recipe.yaml"
    (tmp_path / "mine.yaml").write_text("extends: kind/recipe.yaml\n")
    for name in (NAME, pulled, tmp_path / "mine.yaml"):
        with pytest.raises(RecipeError) as error:
            load_recipe(name)
        assert error.value.errors == [
            f"stages.{key}: {code!r} is Python code that the recipe, which comes from the Hub, would "
            "run; read that code, then allow it with --trust_remote_code"
            for key, code in (
                ("sft.data.builder", f"{CODE}:Corpus"),
                ("grpo.rewards.mine.import", f"{CODE}:kind"),
                ("grpo.rewards.more.import", "os:system"),
            )
        ]
        assert CODE not in sys.modules
        without = ["--stages.grpo.rewards.mine", "null", "--stages.grpo.rewards.more", "null"]
        without += ["--stages.sft.data.builder", "null"]
        assert "mine" not in load_recipe(name, without).stages["grpo"].rewards
        recipe = load_recipe(name, without[2:], trust_remote_code=True)
        assert recipe.stages["grpo"].rewards["mine"].import_path == f"{CODE}:kind"
        sys.modules.pop(CODE)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: " + "[" * 100_000, "is nested too deeply"),
        ("a: !!python/object/apply:os.system [ls]\n", "could not determine a constructor"),
        ("name: ../x\ntask: sft\n", r"name: '../x' cannot be a folder's name"),
        ("name: kind\nstages: {sft: 1}\n", "stages.sft: 1 is not a mapping"),
    ],
)
def test_a_recipe_that_cannot_be_used(publish, text, message):
    publish(text)
    with pytest.raises(RecipeError, match=message):
        load_recipe(NAME)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hub:kind", "hub:kind: expected hub:USER/REPO"),
        ("hub:ann/kind@", "expected hub:USER/REPO"),
        ("hub:ann/kind@../x", "expected hub:USER/REPO"),
        ("hub:ann/none", "ann/none: no such local folder and no such model on the Hub"),
        ("hub:ann/kind@v9", "ann/kind@v9: no revision 'v9'"),
        ("hub:ann/kind", "ann/kind: has no recipe.yaml; expected a model that empathy-trl published"),
    ],
)
def test_a_recipe_that_is_not_there(publish, name, message):
    with pytest.raises(UserError, match=message):
        load_recipe(name)
