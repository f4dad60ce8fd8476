"""Recipes from the Hub: fetched by revision, and what they may not do."""

import sys

import pytest
from huggingface_hub import HfApi

from empathy_trl.errors import RecipeError, UserError
from empathy_trl.hub.pull import pull
from empathy_trl.recipe import fetch_recipe, load_recipe
from empathy_trl.recipe.layers import dump_yaml, read_yaml
from empathy_trl.recipe.load import SHIPPED
from empathy_trl.tasks import CONFIG_CLASSES

NAME = "hub:ann/kind"


@pytest.fixture
def publish(hub_server):
    """Return a function that publishes changes of the resolved ed4_tiny, or a text, as the recipe of ann/kind."""
    HfApi().create_repo("ann/kind")

    def call(text=None, top=None, **grpo):
        content = load_recipe("ed4_tiny", [], CONFIG_CLASSES).resolved() | (top or {})
        for section, changes in grpo.items():
            content["stages"]["grpo"][section] = {**(content["stages"]["grpo"][section] or {}), **changes}
        text = dump_yaml(content) if text is None else text
        HfApi().upload_file(path_or_fileobj=text.encode(), path_in_repo="recipe.yaml", repo_id="ann/kind")

    return call


def load(*overrides, trusted=False, name=NAME):
    return load_recipe(name, list(overrides), CONFIG_CLASSES, trusted)


def test_a_published_recipe_is_the_same_recipe(publish):
    publish()
    assert load().resolved() == load_recipe("ed4_tiny", [], CONFIG_CLASSES).resolved()
    assert load("--stages.grpo.trainer.max_steps", "3").stages["grpo"].trainer["max_steps"] == 3


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_recipe_may_come_from_the_hub(path, publish):
    recipe = load_recipe(path, [], CONFIG_CLASSES)
    publish(dump_yaml(recipe.resolved()))
    asks = "llm_judge" in {name for stage in recipe.stages.values() for name in stage.rewards}
    if asks:
        with pytest.raises(RecipeError, match="base_url: "):
            load()
    assert load(trusted=asks).resolved() == recipe.resolved()


def test_a_revision_and_a_commit_of_it(publish):
    publish()
    HfApi().create_tag("ann/kind", tag="v1")
    publish(top={"name": "later"})
    assert load().name == "later" and load(name=f"{NAME}@v1").name == "ed4_tiny"
    pinned = fetch_recipe(f"{NAME}@v1").name
    assert load(name=pinned).name == "ed4_tiny" and len(pinned.partition("@")[2]) == 40


def test_hub_is_left_out_and_may_be_ones_own(publish):
    publish(top={"hub": {"repo_id": "ann/kind"}}, hub={"repo_id": "ann/kind"})
    assert fetch_recipe(NAME).dropped == ["hub", "stages.grpo.hub"]
    assert [stage.hub for stage in load().stages.values()] == [None, None]
    assert load("--hub.repo_id", "bob/kind").stages["grpo"].hub.repo_id == "bob/kind"


def test_a_recipe_without_a_name_is_called_like_its_repository(publish):
    content = read_yaml(SHIPPED / "wassa_tiny.yaml")
    publish(dump_yaml({key: value for key, value in content.items() if key != "name"}))
    assert load().name == "kind"


EVIL = "evil_reward_of_the_hub"
SECRET = {"model": "m", "base_url": "https://evil.test/v1", "api_key_env": "HF_TOKEN"}
REFUSED = [
    (
        {"rewards": {"mine": {"import": f"{EVIL}:Kind"}}},
        r"stages.grpo.rewards.mine.import: '.*' runs code that the recipe",
    ),
    (
        {"rewards": {"llm_judge": SECRET}},
        r"stages.grpo.rewards.llm_judge.base_url: 'https://evil.test/v1' sends prompts",
    ),
    ({"rewards": {"llm_judge": SECRET}}, r"stages.grpo.rewards.llm_judge.api_key_env: 'HF_TOKEN' sends a secret"),
    ({"rewards": {"llm_judge": {"cache_dir": "/x"}}}, r"rewards.llm_judge.cache_dir: '/x' writes into a folder"),
    ({"rewards": {"safety": {"file": "/etc/passwd"}}}, r"rewards.safety.file: '/etc/passwd' reads a file"),
    (
        {"rewards": {"reward_model": {"model": "/ann/reward"}}},
        r"reward_model.model: '/ann/reward' is a place on the author's",
    ),
    ({"trainer": {"report_to": "wandb"}}, r"stages.grpo.trainer.report_to: uploads to 'wandb'"),
    ({"trainer": {"report_to": ["tensorboard", "all"]}}, r"trainer.report_to: uploads to 'all'"),
    ({"trainer": {"deepspeed": "/x.json"}}, r"trainer.deepspeed: '/x.json' may name files, servers or code"),
    ({"trainer": {"vllm_server_base_url": "http://evil"}}, r"trainer.vllm_server_base_url: "),
    ({"trainer": {"log_completions_hub_repo": "ann/x"}}, r"trainer.log_completions_hub_repo: "),
    ({"trainer": {"trackio_space_id": "ann/x"}}, r"trainer.trackio_space_id: "),
    ({"trainer": {"chat_template_path": "ann/x"}}, r"trainer.chat_template_path: "),
    ({"trainer": {"generation_kwargs": {"custom_generate": "ann/x"}}}, r"trainer.generation_kwargs: "),
    ({"trainer": {"trust_remote_code": True}}, r"trainer.trust_remote_code: runs code from the Hub"),
    ({"model": {"attn_implementation": "ann/kernel"}}, r"model.attn_implementation: 'ann/kernel' may be code"),
    (
        {"model": {"name_or_path": "/ann/model"}},
        r"stages.grpo.model.name_or_path: '/ann/model' is a place on the author's",
    ),
    ({"model": {"name_or_path": "outputs/model"}}, r"model.name_or_path: 'outputs/model' is a place on the author's"),
    (
        {"data": {"path": "~/data"}},
        r"stages.grpo.data.path: '~/data' is a place on the author's machine; give this key",
    ),
    ({"data": {"path": "mine.csv"}}, r"stages.grpo.data.path: 'mine.csv' is a place on the author's machine"),
    ({"data": {"emotions": "emotions.csv"}}, r"data.emotions: 'emotions.csv' is a place on the author's machine"),
    ({"evaluation": {"classifiers": {"emotion": "../c"}}}, r"evaluation.classifiers.emotion: '../c' is a place"),
    ({"evaluation": {"bertscore": "/ann/b"}}, r"stages.grpo.evaluation.bertscore: '/ann/b' is a place on the author's"),
    ({"trainer": {"critic_name_or_path": "../c"}}, r"trainer.critic_name_or_path: '../c' is a place"),
    ({"top": {"extends": "ed4_tiny"}}, r"extends: a recipe from the Hub has to stand alone"),
    ({"top": {"name": "../../x"}}, r"name: '../../x' cannot be a folder's name"),
    ({"top": {"name": ".."}}, r"name: '..' cannot be a folder's name"),
    ({"top": {"rewards": {"mine": {"import": f"{EVIL}:Kind"}}}}, r"(?m)^rewards.mine.import: "),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED, ids=[message[:50] for _, message in REFUSED])
def test_what_a_recipe_from_the_hub_may_not(publish, changes, message, tmp_path, monkeypatch):
    (tmp_path / f"{EVIL}.py").write_text("def Kind(**columns): return [1.0]")
    monkeypatch.syspath_prepend(tmp_path)
    publish(**changes)
    with pytest.raises(RecipeError, match=message):
        load()
    assert EVIL not in sys.modules


def test_a_folder_here_is_not_read_in_place_of_the_hub(publish, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for place in ("ann/data", "private"):
        (tmp_path / place).mkdir(parents=True)
    publish(data={"path": "ann/data"}, model={"name_or_path": "private"})
    with pytest.raises(RecipeError) as error:
        load()
    assert [line.partition(";")[0] for line in str(error.value).splitlines()] == [
        "stages.grpo.model.name_or_path: 'private' is a place on this machine",
        "stages.grpo.data.path: 'ann/data' is a place on this machine",
    ]


def test_a_recipe_that_was_pulled_is_still_from_the_hub(publish, tmp_path):
    publish(rewards={"mine": {"import": f"{EVIL}:Kind"}})
    path = pull("ann/kind", tmp_path / "kind") / "recipe.yaml"
    with pytest.raises(RecipeError, match=r"rewards.mine.import: '.*' runs code that the recipe names"):
        load(name=path)
    assert load("--stages.grpo.rewards.mine", "null", name=path).name == "ed4_tiny"
    mine = tmp_path / "mine.yaml"
    mine.write_text("extends: kind/recipe.yaml\n")
    with pytest.raises(RecipeError, match="extends: kind/recipe.yaml was fetched from the Hub"):
        load(name=mine)
    assert EVIL not in sys.modules


def test_what_the_user_gives_is_his_own(publish):
    publish(rewards={"llm_judge": SECRET}, data={"path": "/ann/data"}, trainer={"report_to": "wandb"})
    recipe = load(
        *("--stages.grpo.rewards.llm_judge.base_url", "http://localhost:1/v1"),
        *("--stages.grpo.rewards.llm_judge.api_key_env", "OPENAI_API_KEY"),
        *("--stages.grpo.data.path", "sample", "--stages.grpo.trainer.report_to", "none"),
    )
    assert recipe.stages["grpo"].rewards["llm_judge"].params["base_url"] == "http://localhost:1/v1"
    without = ("--stages.grpo.rewards.llm_judge", "null", "--stages.grpo.data.path", "sample")
    assert "llm_judge" not in load(*without, "--stages.grpo.trainer.report_to", "none").stages["grpo"].rewards


def test_a_trusted_recipe_may_import(publish, tmp_path, monkeypatch):
    (tmp_path / "trusted_reward.py").write_text("def kind(completions, **columns): return [1.0] * len(completions)")
    monkeypatch.syspath_prepend(tmp_path)
    publish(rewards={"mine": {"import": "trusted_reward:kind"}})
    assert load(trusted=True).stages["grpo"].rewards["mine"].import_path == "trusted_reward:kind"
    publish(top={"name": ".."})
    with pytest.raises(RecipeError, match="name: '..' cannot be a folder's name"):
        load(trusted=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &x [1]\nb: *x\n", "repeats parts of itself by aliases"),
        ("a: " + "x" * 1_000_001, "has 1,000,004 bytes; expected at most 1,000,000"),
        ("a: " + "[" * 100_000, "is nested too deeply; expected at most 50 levels"),
        ("- " * 100_000, "is nested too deeply; expected at most 50 levels"),
        ("a: !!python/object/apply:os.system [ls]\n", "could not determine a constructor"),
        ("[1]", "the top level is a list"),
        ("a: [", "recipe.yaml:"),
        ("name: kind\nstages: {sft: 1}\n", "stages.sft: 1 is not a mapping"),
        ("name: kind\nstages: []\nrewards: 1\n", "stages: "),
        ("name: [x]\ntask: sft\n", r"name: \['x'\] cannot be a folder's name"),
    ],
)
def test_a_recipe_that_cannot_be_read(publish, text, message):
    publish(text)
    with pytest.raises(RecipeError, match=message):
        load()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hub:kind", "hub:kind: expected hub:USER/REPO"),
        ("hub:ann/kind@", "expected hub:USER/REPO"),
        ("hub:ann/../kind", "expected hub:USER/REPO"),
        ("hub:ann/kind@../x", "expected hub:USER/REPO"),
        ("hub:ann/none", "ann/none: no such local folder and no such model on the Hub"),
        ("hub:ann/kind@v9", "ann/kind@v9: no revision 'v9'"),
        ("hub:ann/kind", "ann/kind: has no recipe.yaml; expected a model that was published by run.py"),
    ],
)
def test_a_recipe_that_is_not_there(publish, name, message):
    with pytest.raises(UserError, match=message):
        load(name=name)
