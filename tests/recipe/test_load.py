"""Recipes from file to checked object: every error with its key, all at once; inheritance; the resolved form."""

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from empathy_trl.errors import RecipeError
from empathy_trl.io import yaml_titles
from empathy_trl.recipe import SHIPPED, find_recipe, load_recipe
from empathy_trl.rewards.base import WeightSchedule

SCRATCH = {"architecture": "qwen2", "hidden_size": 64, "layers": 2, "vocab_size": 512}
SFT = {"task": "sft", "model": {"from_scratch": SCRATCH}, "data": {"name": "ed4"}}
GRPO = {
    "task": "grpo",
    "model": {"name_or_path": "me/base"},
    "data": {"name": "ed4"},
    "rewards": {"emotion_accuracy": {}, "format": {"weight": 0.2, "tags": ["reasoning", "answer"]}},
}
STAGED = {
    "seed": 1,
    "data": {"name": "ed4", "path": "sample"},
    "trainer": {"learning_rate": 5e-7},
    "stages": {
        "sft": {"task": "sft", "model": {"from_scratch": SCRATCH}, "data": {"portion": [0, 0.5]}},
        "grpo": {
            "task": "grpo",
            "model": {"name_or_path": "stage:sft", "lora": {"r": 8}},
            "rewards": {"emotion_accuracy": {}, "format": {"weight": {"start": 0.2, "end": 1, "until": 0.5}}},
            "trainer": {"num_generations": 4, "save_strategy": "no"},
        },
    },
}


@pytest.fixture(autouse=True)
def one_process(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)


@pytest.fixture
def load(tmp_path, monkeypatch):
    """Write content as a YAML file in an empty current folder and load it."""
    monkeypatch.chdir(tmp_path)

    def write_and_load(content, overrides=(), name="recipe.yaml"):
        text = content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False)
        (tmp_path / name).write_text(text, encoding="utf-8")
        return load_recipe(tmp_path / name, list(overrides))

    return write_and_load


def changed(content, dotted, value):
    """Return a copy of a recipe with one key set, or removed if the value is `...`."""
    result = copy.deepcopy(content)
    *above, last = dotted.split(".")
    place = result
    for key in above:
        place = place.setdefault(key, {})
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return result


def errors_of(load, content, overrides=()):
    with pytest.raises(RecipeError) as caught:
        load(content, overrides)
    assert str(caught.value) == "\n".join(caught.value.errors)
    return caught.value.errors


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("task", "gpro", "task: unknown task 'gpro'; did you mean grpo? (choices: sft, grpo, ppo, regress, classify)"),
        ("task", ..., "task: missing (choices: sft, grpo, ppo, regress, classify)"),
        ("task", 3, "task: 3 is not a valid str"),
        ("model", ..., "model: missing; expected mapping of name_or_path, revision, dtype, attn_implementation,"),
        ("model", "me/base", "model: 'me/base' is not a mapping; write {name_or_path: USER/REPO}"),
        ("model", {}, "model: has neither name_or_path nor from_scratch; expected one of them"),
        ("model.from_scratch", SCRATCH, "model: has both name_or_path and from_scratch; expected one of them"),
        ("model.name_or_path", "./nowhere", "model.name_or_path: no folder './nowhere'; expected stage:<name>, a folder, a file *.gguf, or a Hub id such as user/name"),
        ("model.name_or_path", "a/b/c", "model.name_or_path: no folder 'a/b/c'; expected"),
        ("model.name_or_path", "", "model.name_or_path: no folder ''; expected"),
        ("model.name_or_path", "recipe.yaml", "model.name_or_path: no folder 'recipe.yaml'; expected"),
        ("model.name_or_path", "stage:sft", "model.name_or_path: unknown stage 'sft': no stage comes before this one"),
        ("model.dtype", "bf16", "model.dtype: unknown choice 'bf16'; did you mean bfloat16? (choices: auto, float32, bfloat16, float16)"),
        ("model.lora", True, "model.lora: true is not a valid mapping of r, alpha, dropout, target_modules"),
        ("model.lora.rank", 8, "model.lora.rank: unknown key (choices: r, alpha, dropout, target_modules)"),
        ("model.lora.r", 0, "model.lora.r: 0 should be greater than or equal to 1"),
        ("model.load_in_4bit", True, "model.load_in_4bit: needs model.lora; 4-bit weights cannot be trained themselves"),
        ("model", {"name_or_path": ".", "revision": "v1"}, "model: . is a folder here, and only a model on the Hub has revisions; leave 'v1' out"),
        ("data.revision", "v1", "data.revision: sample is not on the Hub, and only data sets on the Hub have revisions; expected null"),
        ("evaluation.top_p", 0.9, "evaluation.top_p: 0.9 has no effect without temperature (the default is 0: greedy decoding)"),
        ("data", ..., "data: missing; expected mapping of name, path,"),
        ("data.name", "ed5", "data.name: unknown corpus 'ed5'; did you mean ed4? (choices: dialogues, ed4"),
        ("data.name", ..., "data.name: missing; expected str"),
        ("evaluation.bertscore", "./nowhere", "evaluation.bertscore: no folder './nowhere'; expected a folder, or a Hub id such as roberta-large"),
        ("data.path", "./nowhere", "data.path: no folder './nowhere'; expected sample, a folder, or a Hub id such as user/name"),
        ("data.path", "samples", "data.path: no folder 'samples'; expected sample, a folder"),
        ("data.path", "../../corpus", "data.path: no folder '../../corpus'; expected"),
        ("data.path", "data/mine.csv", "data.path: no file 'data/mine.csv'; expected sample, a file, a folder,"),
        ("learning_rate", 1e-6, "learning_rate: unknown key; did you mean trainer.learning_rate?"),
        ("data.on_bad_rows", "skip", "data.on_bad_rows: unknown choice 'skip' (choices: error, drop)"),
        ("data.portion", [0.5, 0.5], "data: portion [0.5, 0.5] is not a range with 0 <= low < high <= 1"),
        ("data.portion", [0, 1.5], "data: portion [0.0, 1.5] is not a range"),
        ("data.portion", 0.5, "data.portion: 0.5 is not a valid list [float, float]"),
        ("data.max_words", 0, "data.max_words: 0 should be greater than or equal to 1"),
        ("rewards", ..., "rewards: missing; task grpo needs at least one"),
        ("rewards", {}, "rewards: missing; task grpo needs at least one"),
        ("rewards", ["format"], "rewards: ['format'] is not a mapping; write names with their parameters, such as {format: {weight: 0.2}}"),
        ("rewards.emotion_acuracy", {}, "rewards.emotion_acuracy: unknown reward; did you mean emotion_accuracy? (nearest: "),
        ("rewards.format", None, "rewards.format: null is not a mapping; expected at least {}, such as {weight: 1.0}"),
        ("rewards.format.tag", ["a"], "rewards.format.tag: unknown parameter of format; did you mean tags? (choices: "),
        ("rewards.format.tags", [1], "rewards.format.tags: [1] is not a valid list of str"),
        ("rewards", {"format": {"weight": 0}, "emotion_accuracy": {"weight": {"start": 0, "end": 0, "until": 1}}}, "rewards: all weights are 0, so nothing would be learned; expected at least one other weight"),
        ("rewards", {"format": {}, "repetition_penalty": {"weight": -0.1}}, "rewards.repetition_penalty.weight: repetition_penalty is never positive, so a negative weight would reward what it should penalise; expected one above 0"),
        ("rewards", {"format": {}, "format_penalty": {"weight": {"start": 0, "end": -1, "until": 1}}}, "rewards.format_penalty.weight: format_penalty is never positive"),
        ("rewards", {"foresight": {"model": "./nowhere"}}, "rewards.foresight.model: no folder './nowhere'; expected stage:<name>, a folder"),
        ("rewards", {"empathy_model": {"model": ".", "revision": "v1"}}, "rewards.empathy_model: model: . is a folder here, and only"),
        ("rewards", {"empathy_model": {"model": "me/x", "temperature": 1.0}}, "rewards.empathy_model: temperature: 1.0 has no effect with"),
        ("rewards", {"empathy_model": {"model": "me/x", "label_range": [1, 5], "calibration": "running"}}, "rewards.empathy_model: label_range: [1, 5] has no effect with calibration: running"),
        ("rewards", {"foresight": {"device": "cpu"}}, "rewards.foresight: device: 'cpu' applies to a model, but `model` is not given"),
        ("rewards.format.weight", "high", "rewards.format.weight: 'high' is not a valid float or mapping of start, end, until"),
        ("rewards.format.weight", float("nan"), "rewards.format.weight: nan is not finite"),
        ("rewards.format.weight", {"start": 1, "end": 2, "until": 0}, "rewards.format.weight.until: 0 is not a share of the training, above 0 and at most 1"),
        ("rewards.format.weight", {"start": 1, "until": 1}, "rewards.format.weight.end: missing; expected float"),
        ("trainer", [1], "trainer: [1] is not a valid mapping"),
        ("trainer.num_generations", 4.5, "trainer.num_generations: 4.5 is not a valid int"),
        ("trainer.max_grad_norm", float("inf"), "trainer.max_grad_norm: inf is not finite"),
        ("trainer.num_generations", 3, "trainer.num_generations: 3 is refused: generation_batch_size (8) must be divisible"),
        ("trainer.learning_rat", 1.0, "trainer.learning_rat: unknown field of EmpathyGRPOConfig; did you mean learning_rate?"),
        ("trainer.seed", 1, "trainer.seed: cannot be set here; use the recipe's own `seed`"),
        ("evaluation.split", "dev", "evaluation.split: unknown choice 'dev' (choices: train, valid, test)"),
        ("evaluation.batch_size", 1.5, "evaluation.batch_size: 1.5 is not a valid int"),
        ("evaluation.limit", 0, "evaluation.limit: 0 should be greater than or equal to 1"),
        ("evaluation.classifiers", "x", "evaluation.classifiers: 'x' is not a valid mapping of epitome, emotion, intent"),
        ("evaluation.classifiers.intents", "a/b", "evaluation.classifiers.intents: unknown key; did you mean intent? (choices: epitome, emotion, intent)"),
        ("evaluation.classifiers.intent", 3, "evaluation.classifiers.intent: 3 is not a valid str"),
        ("evaluation.classifiers.intent", "outputs/intent9_tiny/classify", "evaluation.classifiers.intent: no folder 'outputs/intent9_tiny/classify'; expected stage:<name>, a folder, or a Hub id; `empathy-trl run --recipe intent9_tiny` trains one in outputs/intent9_tiny/classify"),
        ("evaluation.classifiers.intent", "stage:intent", "evaluation.classifiers.intent: unknown stage 'intent'"),
        ("hub", {"private": True}, "hub.repo_id: missing; expected str"),
        ("hub", {"repo_id": "a b/c"}, "hub: repo_id 'a b/c' is not a Hub id; expected name or user/name"),
        ("hub", {"repo_id": "a/b", "push": "always"}, "hub.push: unknown choice 'always' (choices: end, every_save)"),
        ("trainer.chat_template_kwargs", {"enable_thinking": False}, "trainer.chat_template_kwargs: cannot be set here; use model.chat_template_kwargs"),
        ("seed", -1, "seed: -1 should be greater than or equal to 0"),
        ("seed", "x", "seed: 'x' is not a valid int"),
        ("evalution", {}, "evalution: unknown key; did you mean evaluation? (choices: task, model, data, rewards,"),
        ("name", "a/b", "name: 'a/b' cannot be a folder's name"),
    ],
)  # fmt: skip
def test_one_wrong_key_is_one_line(load, key, value, expected):
    (line,) = errors_of(load, changed(GRPO, key, value))
    assert line.startswith(expected)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("model.from_scratch.architecture", "qwen", "model.from_scratch.architecture: unknown choice 'qwen'; did you mean qwen2? (choices:"),
        ("model.from_scratch.hidden_size", 60, "model.from_scratch: hidden_size 60 is not divisible by 2 × heads = 8"),
        ("model.from_scratch.layers", ..., "model.from_scratch.layers: missing; expected int"),
        ("model.from_scratch.vocab_size", 256, "model.from_scratch.vocab_size: 256 should be greater than 256"),
        ("model.from_scratch.architecture", "roberta", "model.from_scratch.architecture: roberta is an encoder, which task sft does not train (choices: qwen2, llama, gemma2, t5)"),
        ("model.chat_template", "godel", "model.chat_template: 'godel' is the input of an encoder-decoder; leave it out"),
        ("model.chat_template", "t5", "model.chat_template: unknown choice 't5' (choices: godel, chatml, a .jinja file, or the"),
        ("model.chat_template", "t5.jinja", "model.chat_template: no file 't5.jinja'"),
        ("model.lora", {"r": 8}, "model: has both from_scratch and lora; train all weights of a model from scratch; lora adapts a pretrained one"),
        ("model.revision", "abc", "model: has a revision, which only a model on the Hub can have"),
        ("model.load_in_4bit", True, "model: has load_in_4bit, which needs weights to load; expected name_or_path"),
        ("rewards", {"format": {}}, "rewards: task sft learns from no rewards; tasks that do: grpo, ppo"),
        ("trainer.num_generations", 4, "trainer.num_generations: unknown field of SFTConfig"),
    ],
)  # fmt: skip
def test_one_wrong_key_of_a_warm_start_is_one_line(load, key, value, expected):
    (line,) = errors_of(load, changed(SFT, key, value))
    assert line.startswith(expected)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("stages.grpo.model.name_or_path", "stage:sfft", "stages.grpo.model.name_or_path: unknown stage 'sfft'; did you mean sft? (choices: sft)"),
        ("stages.grpo.model.name_or_path", "stage:grpo", "stages.grpo.model.name_or_path: unknown stage 'grpo' (choices: sft)"),
        ("stages.sft.model", {"name_or_path": "stage:grpo"}, "stages.sft.model.name_or_path: unknown stage 'grpo': no stage comes before this one"),
        ("stages.grpo.model", {"name_or_path": "stage:sft", "load_in_4bit": True}, "stages.grpo.model.load_in_4bit: needs model.lora; 4-bit"),
        ("stages.grpo.trainer.num_generations", 4.5, "stages.grpo.trainer.num_generations: 4.5 is not a valid int"),
        ("trainer.learning_rate", "fast", "trainer.learning_rate: 'fast' is not a valid float"),
        ("trainer.num_generations", 8, "trainer.num_generations: unknown field of SFTConfig"),
        ("stages.sft.rewards", {"format": {}}, "stages.sft.rewards: task sft learns from no rewards; tasks that do: grpo, ppo"),
        ("stages.grpo.task", ..., "stages.grpo.task: missing (choices: sft, grpo, ppo, regress, classify)"),
        ("stages.grpo.data", {"nam": "x"}, "stages.grpo.data.nam: unknown key; did you mean name? (choices: name, path,"),
        ("data", {}, "stages.sft.data.name: missing; expected str"),
        ("stages.grpo.modle", {}, "stages.grpo.modle: unknown key; did you mean model? (choices: task, model,"),
        ("modle", {}, "modle: unknown key; did you mean model? (choices: name, extends, stages, task, model,"),
        ("seed", "x", "seed: 'x' is not a valid int"),
        ("stages", {}, "stages: {} is not a mapping from a stage's name to its keys"),
        ("stages.sft", 3, "stages.sft: 3 is not a mapping of task, model,"),
    ],
)  # fmt: skip
def test_errors_name_the_key_where_it_was_written(load, key, value, expected):
    lines = errors_of(load, changed(STAGED, key, value))
    assert lines[0].startswith(expected)
    assert len(lines) == 1 or key in (
        "data",
        "stages.sft",
    )  # in both stages; grpo's model then names no stage


@pytest.mark.parametrize(("written", "read"), [("title", {}), ("placeholder", {"slots": "title"})])
def test_films_are_looked_for_as_the_data_writes_them(load, written, read):
    content = changed(GRPO, "data", {"name": "redial", "slots": written})
    (line,) = errors_of(load, changed(content, "rewards", {"recommendation": {"mode": "any", **read}}))
    looked_for = read.get("slots", "placeholder")
    assert line == f"rewards.recommendation.slots: {looked_for}, but data.slots is {written}; expected the same in both"
    load(changed(content, "rewards", {"recommendation": {"mode": "any", "slots": written}}), [])


def test_all_errors_come_at_once(load):
    content = changed(STAGED, "data", {"name": "ed5", "path": "./nowhere"})
    content["trainer"]["learnin_rate"] = 1
    content["stages"]["grpo"]["rewards"] = {"emotion_acuracy": {}, "format": {"weight": "x"}}
    content["stages"]["grpo"]["trainer"] = {"num_generations": 3, "bf16": 3}
    keys = [line.split(":")[0] for line in errors_of(load, content, ["--seed", "--stages.spo.seed", "1"])]
    assert keys == [
        "--seed",
        "--stages.spo",
        "data.name",
        "data.path",
        "trainer.learnin_rate",  # of SFTConfig
        "stages.grpo.rewards.emotion_acuracy",
        "stages.grpo.rewards.format.weight",
        "trainer.learnin_rate",  # of GRPOConfig
        "stages.grpo.trainer.bf16",
    ]


def test_a_recipe_becomes_typed_objects(load):
    recipe = load(STAGED)
    sft, grpo = recipe.stages.values()
    assert (recipe.name, recipe.seed, list(recipe.stages)) == ("recipe", 1, ["sft", "grpo"])
    assert (sft.name, sft.task, sft.seed, sft.rewards, sft.hub) == ("sft", "sft", 1, {}, None)
    assert sft.model.from_scratch.heads == 4 and sft.model.name_or_path is None
    assert sft.data.portion == (0.0, 0.5) and grpo.data.portion == (0.0, 1.0)
    assert grpo.model.name_or_path == "stage:sft" and grpo.model.lora.alpha == 32
    assert grpo.rewards["emotion_accuracy"].weight == 1.0
    assert grpo.rewards["format"].weight == WeightSchedule(start=0.2, end=1, until=0.5)
    assert grpo.trainer == {"learning_rate": 5e-7, "num_generations": 4, "save_strategy": "no"}
    assert grpo.evaluation.split == "test" and grpo.evaluation.limit is None


def test_a_recipe_without_stages_is_one_stage_named_after_its_task(load):
    recipe = load({**GRPO, "seed": 7}, ["--stages.grpo.trainer.max_steps", "3"], name="mine.yaml")
    assert (recipe.name, recipe.seed, list(recipe.stages)) == ("mine", 7, ["grpo"])
    stage = recipe.stages["grpo"]
    assert stage.seed == 7 and stage.trainer == {"max_steps": 3}
    assert stage.rewards["format"].params == {"tags": ["reasoning", "answer"]}


def test_stages_that_would_overwrite_each_other_on_the_hub(load):
    ids = ["--stages.sft.hub.repo_id", "ann/a", "--stages.grpo.hub.repo_id"]
    with pytest.raises(RecipeError, match="stages.grpo.hub.repo_id: ann/a is the repository of stage sft"):
        load((SHIPPED / "ed4_tiny.yaml").read_text(), [*ids, "ann/a"])
    assert load((SHIPPED / "ed4_tiny.yaml").read_text(), [*ids, "ann/b"]).stages["sft"].hub.repo_id == "ann/a"


def test_numbers_without_a_dot_are_floats(load):
    text = yaml.safe_dump(GRPO) + "trainer: {learning_rate: 5e-7, beta: 1e-4, max_grad_norm: 1}\n"
    trainer = load(text).stages["grpo"].trainer
    assert trainer == {"learning_rate": 5e-7, "beta": 1e-4, "max_grad_norm": 1}
    assert isinstance(trainer["learning_rate"], float)


@pytest.mark.parametrize("content", [SFT, GRPO, STAGED, {**GRPO, "hub": {"repo_id": "me/model"}, "seed": 9}])
def test_a_resolved_recipe_loads_as_itself(load, tmp_path, content):
    first = load(content, ["--evaluation.limit", "5"], name="first.yaml")
    (tmp_path / "second.yaml").write_text(first.to_yaml(), encoding="utf-8")
    second = load_recipe(tmp_path / "second.yaml")
    assert second.resolved() == first.resolved()
    assert second.to_yaml() == first.to_yaml()
    assert yaml.safe_load(first.to_yaml()) == first.resolved()
    assert first.resolved()["name"] == "first"


def test_resolved_is_a_copy(load):
    recipe = load({**GRPO, "trainer": {"lr_scheduler_kwargs": {"a": 1}}})
    stage = recipe.resolved()["stages"]["grpo"]
    stage["trainer"]["lr_scheduler_kwargs"]["a"] = stage["rewards"]["format"]["tags"][0] = "changed"
    stage = recipe.resolved()["stages"]["grpo"]
    assert stage["trainer"]["lr_scheduler_kwargs"] == {"a": 1}
    assert stage["rewards"]["format"] == {"weight": 0.2, "tags": ["reasoning", "answer"]}


def test_overrides_are_checked_like_the_file(load):
    recipe = load(STAGED, ["--stages.grpo.trainer.max_steps=2", "--seed", "3", "--data.max_words", "9"])
    assert recipe.stages["grpo"].trainer["max_steps"] == 2
    assert {stage.seed for stage in recipe.stages.values()} == {3}
    assert {stage.data.max_words for stage in recipe.stages.values()} == {9}
    overrides = [
        "--stages.grpo.trainer.max_steps",
        "2.5",
        "--trainer.bf16",
        "on",
        "--trainer.learning_rate",
        "5e-7",
    ]
    assert errors_of(load, STAGED, overrides) == [
        "trainer.bf16: 'on' is not a valid bool (true or false)",
        "stages.grpo.trainer.max_steps: 2.5 is not a valid int",
    ]


def test_an_override_without_effect_is_an_error(load):
    content = changed(STAGED, "stages.sft.trainer", {"learning_rate": 1e-3})
    content["stages"]["grpo"]["trainer"]["learning_rate"] = 1e-6
    use = "--stages.sft.trainer.learning_rate, --stages.grpo.trainer.learning_rate"
    assert errors_of(load, content, ["--trainer.learning_rate", "1"]) == [
        f"--trainer.learning_rate: has no effect, stages sft, grpo set their own; use {use}"
    ]


def test_a_local_folder_goes_wherever_a_hub_id_goes(load, tmp_path):
    for folder in ("weights/mine/v1", "corpus/mine/v1"):
        (tmp_path / folder).mkdir(parents=True)
    overrides = ["--model.name_or_path", "weights/mine/v1", "--data.path", "./corpus/mine/v1"]
    content = changed(
        changed(GRPO, "model.revision", "abc"), "data", {"name": "ed4", "path": "me/hub", "revision": "x"}
    )
    stage = load(content, overrides).stages["grpo"]
    assert (stage.model.name_or_path, stage.model.revision) == ("weights/mine/v1", None)
    assert (stage.data.path, stage.data.revision) == ("corpus/mine/v1", None)


def test_a_tilde_is_the_home_folder(load, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    content = changed(changed(GRPO, "data.path", "~/corpus"), "model.name_or_path", "~/adapter")
    content["model"]["load_in_4bit"] = True
    keys = [line.split(": ")[0] for line in errors_of(load, content)]
    assert keys == ["model.name_or_path", "model.load_in_4bit", "data.path"]
    for folder in ("corpus", "adapter"):
        (tmp_path / folder).mkdir()
    (tmp_path / "adapter" / "adapter_config.json").touch()
    assert load(content).stages["grpo"].data.path == str(tmp_path / "corpus")


@pytest.mark.parametrize("weights", [(0, 1), ({"start": 0, "end": 1, "until": 0.5}, 0), ({"start": 1, "end": 0, "until": 1}, 0)])  # fmt: skip
def test_one_weight_other_than_zero_is_enough(load, weights):
    rewards = {name: {"weight": weight} for name, weight in zip(("format", "emotion_accuracy"), weights, strict=True)}
    assert list(load(changed(GRPO, "rewards", rewards)).stages["grpo"].rewards) == list(rewards)


def test_a_recipe_of_version_0_1_with_a_field_without_effect_is_still_evaluated(load, tmp_path):
    (line,) = errors_of(load, changed(GRPO, "trainer", {"per_device_eval_batch_size": 32}))
    assert line.startswith("trainer.per_device_eval_batch_size: has no effect with task grpo")
    recipe = load_recipe(tmp_path / "recipe.yaml", training=False)
    assert recipe.stages["grpo"].trainer == {"per_device_eval_batch_size": 32}


@pytest.mark.parametrize("content", [SFT, STAGED])
def test_only_a_pretrained_model_can_be_evaluated_untrained(load, content):
    overrides = ["--evaluation.untrained", "true"]
    message = "evaluation.untrained: has no effect, because no stage starts from a pretrained model that generates text; leave it out"
    assert errors_of(load, content, overrides) == [message]
    load(changed(STAGED, "stages.sft.model", {"name_or_path": "me/base"}), overrides)
    assert "untrained" not in load(content).to_yaml()


LORA = {"r": 4, "alpha": 8}
PRESETS = {  # name -> the model of a preset
    "small": {"name_or_path": "me/small", "revision": "v1", "dtype": "bfloat16", "lora": LORA},
    "other": {"name_or_path": "me/other"},
}
JUDGED = {  # a policy, a model of its own kind, and the policy again
    "model": {"preset": "small", "dtype": "float32"},
    "stages": {
        "reward": {"task": "regress", "model": {"name_or_path": "me/encoder"}, "data": {"name": "wassa"}},
        "more": {"task": "regress", "model": {"name_or_path": "stage:reward"}, "data": {"name": "wassa"}},
        "sft": {"task": "sft", "data": {"name": "ed4"}},
        "grpo": {**GRPO, "model": {"name_or_path": "stage:sft"}},
    },
}


@pytest.fixture
def presets(tmp_path):
    for name, model in PRESETS.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump({"model": model}))


def models(recipe):
    return {name: stage.model.model_dump(exclude_defaults=True) for name, stage in recipe.stages.items()}


SMALL, FULL_LORA = {"name_or_path": "me/small", "revision": "v1"}, {"lora": {"r": 4, "alpha": 8}}


@pytest.mark.parametrize(
    ("overrides", "sft", "grpo"),
    [
        ([], {**SMALL, "dtype": "float32", **FULL_LORA}, {"dtype": "float32", **FULL_LORA}),
        (["--model.preset", "other"], {"name_or_path": "me/other"}, {}),  # replaces what the file says beside its own
        (["--model.preset", "small"], {**SMALL, "dtype": "bfloat16", **FULL_LORA}, {"dtype": "bfloat16", **FULL_LORA}),
        (["--model.lora.r", "2", "--model.preset", "small.yaml"],
         {**SMALL, "dtype": "bfloat16", "lora": {"r": 2, "alpha": 8}}, {"dtype": "bfloat16", "lora": {"r": 2, "alpha": 8}}),
        (["--model.lora", "null"], {**SMALL, "dtype": "float32"}, {"dtype": "float32"}),
        (["--model.name_or_path", "me/copy"], {"name_or_path": "me/copy", "dtype": "float32", **FULL_LORA},
         {"dtype": "float32", **FULL_LORA}),  # the revision is that of the preset's repository
        (["--stages.sft.model.preset", "other"], {"name_or_path": "me/other"}, {}),
        (["--stages.sft.model.name_or_path", "me/copy"], {"name_or_path": "me/copy", "dtype": "float32", **FULL_LORA},
         {"dtype": "float32", **FULL_LORA}),
    ],
)  # fmt: skip
def test_a_preset_replaces_the_model_of_the_layers_below(load, presets, overrides, sft, grpo):
    recipe = load(JUDGED, overrides)
    encoder = {"name_or_path": "me/encoder"}  # is another model, which no top level's preset describes
    expected = {"reward": encoder, "more": {"name_or_path": "stage:reward"}, "sft": sft}
    assert models(recipe) == {**expected, "grpo": {"name_or_path": "stage:sft", **grpo}}
    assert "preset" not in recipe.to_yaml()


def test_a_recipe_may_name_a_preset_over_the_model_that_it_extends(load, presets, tmp_path):
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(GRPO | {"model": {"from_scratch": SCRATCH}}))
    recipe = load({"extends": "base.yaml", "model": {"preset": "other"}}, name="child.yaml")
    assert models(recipe) == {"grpo": {"name_or_path": "me/other"}}


@pytest.mark.parametrize(
    ("file", "flags", "expected"),
    [
        ({}, ["--model.preset", "smolm2"], "--model.preset: no preset 'smolm2'; did you mean smollm2? (choices: "),
        ({}, ["--stages.sft.model.preset", "nowhere/x.yaml"], "--stages.sft.model.preset: no preset 'nowhere/x.yaml' (choices: "),
        ({}, ["--model.preset", "models/x"], "; a model's folder or Hub id is given with --model.name_or_path"),
        ({}, ["--model.preset", "3"], "--model.preset: 3 is not a preset's name or path"),
        ({}, ["--model.preset", "small", "--model.lora", "{}"], "--model.lora: {} changes nothing"),
        ({}, ["--stages.reward.model.lora.r", "2", "--stages.reward.model.preset", "none"], "--stages.reward.model.preset: no preset"),
        ({"model": {}, "trainer": {}}, [], "small.yaml: trainer: a preset holds the section model and nothing else"),
        ({"model": {"nam": 1}}, [], "small.yaml: model.nam: unknown key"),
        ({"model": {"preset": "other"}}, [], "small.yaml: model.preset: unknown key"),
        ({"model": {"dtype": "auto"}}, [], "small.yaml: model: has neither name_or_path nor from_scratch"),
        ({"model": "me/small"}, [], "small.yaml: model: 'me/small' is not a mapping"),
        ({}, [], "small.yaml: is empty"),
    ],
)  # fmt: skip
def test_presets_that_cannot_be(load, presets, tmp_path, file, flags, expected):
    if not flags:
        (tmp_path / "small.yaml").write_text(yaml.safe_dump(file) if file else "")
    assert expected in errors_of(load, JUDGED, flags)[0]


def test_a_preset_that_no_stage_would_take_is_an_error(load, presets):
    stages = {name: JUDGED["stages"][name] for name in ("reward", "more")}
    message = "--model.preset: has no effect, no stage takes it from the top level; use --stages.<name>.model.preset"
    assert errors_of(load, {"stages": stages}, ["--model.preset", "small"]) == [message]


def test_a_flag_that_a_stage_with_its_own_preset_would_not_take_is_an_error(load, presets):
    stages = {**JUDGED["stages"], "sft": {**JUDGED["stages"]["sft"], "model": {"preset": "small"}}}
    message = "--model.dtype: has no effect in stage sft, which sets its own; give --stages.sft.model.dtype as well"
    assert errors_of(load, {"stages": stages}, ["--model.dtype", "float32"]) == [message]


def test_only_the_last_stage_inherits_where_to_push(load):
    recipe = load({**STAGED, "hub": {"repo_id": "me/final"}})
    assert recipe.stages["sft"].hub is None
    assert recipe.stages["grpo"].hub.repo_id == "me/final"


def test_rewards_at_the_top_level_are_for_the_stages_that_learn_from_them(load):
    content = changed(STAGED, "stages.grpo.rewards", ...)
    content["rewards"] = {"format": {}}
    recipe = load(content)
    assert recipe.stages["sft"].rewards == {} and list(recipe.stages["grpo"].rewards) == ["format"]
    del content["stages"]["grpo"]
    assert errors_of(load, content) == ["rewards: no stage learns from rewards; tasks that do: grpo, ppo"]


def test_a_recipe_extends_another_once(load, tmp_path):
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(STAGED, sort_keys=False), encoding="utf-8")
    child = {
        "extends": "base.yaml",
        "seed": 5,
        "stages": {"grpo": {"trainer": {"beta": 0.1}, "rewards": {"format": None}}},
    }
    recipe = load(child, name="child.yaml")
    assert (recipe.name, recipe.seed) == ("child", 5)
    assert recipe.stages["grpo"].trainer == {
        "learning_rate": 5e-7,
        "num_generations": 4,
        "save_strategy": "no",
        "beta": 0.1,
    }
    assert list(recipe.stages["grpo"].rewards) == ["emotion_accuracy"]
    assert "extends" not in recipe.resolved()
    assert errors_of(load, {"extends": "child"}) == [
        "extends: child itself extends base.yaml; a recipe may extend one that does not"
    ]
    assert errors_of(load, {"extends": "bsae.yaml"})[0].startswith("bsae.yaml: no such recipe")
    assert errors_of(load, {"extends": 3}) == ["extends: 3 is not a recipe's path or name"]


USERS_MODULE = """
from dataclasses import dataclass

@dataclass
class Kindness:
    words: int = 3

    def __post_init__(self):
        if self.words < 1:
            raise ValueError(f"words {self.words} should be at least 1")

    def __call__(self, prompts, completions, completion_ids=None, **columns):
        return [1.0] * len(completions)
"""


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"import": "users_rewards:Kindness", "words": 2}, None),
        ({"import": "users_rewards:Kindness", "word": 2}, "rewards.kind.word: unknown parameter of kind; did you mean words? (choices:"),
        ({"import": "users_rewards:Kindness", "words": 2.5}, "rewards.kind.words: 2.5 is not a valid int"),
        ({"import": "users_rewards:Kindness", "words": 0}, "rewards.kind.import: users_rewards:Kindness(words=0) raises ValueError: words 0 should be at least 1"),
        ({"import": "users_rewards:Kindnes"}, "rewards.kind.import: users_rewards has no class or function Kindnes; did you mean Kindness? (choices: "),
        ({"import": "no_such_module:Kindness"}, "rewards.kind.import: cannot import no_such_module: No module"),
        ({"import": "users_rewards.Kindness"}, "rewards.kind.import: 'users_rewards.Kindness' is not of the form package.module:Name"),
        ({"import": 3}, "rewards.kind.import: 3 is not of the form package.module:Name"),
        ({"import": "broken_rewards:Kindness"}, "rewards.kind.import: cannot import broken_rewards: SyntaxError: "),
    ],
)  # fmt: skip
def test_a_users_own_reward(load, tmp_path, monkeypatch, entry, expected):
    (tmp_path / "users_rewards.py").write_text(USERS_MODULE, encoding="utf-8")
    (tmp_path / "broken_rewards.py").write_text("def kind(:\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "users_rewards", raising=False)
    content = changed(GRPO, "rewards", {"kind": entry})
    if expected is None:
        recipe = load(content)
        reward = recipe.stages["grpo"].rewards["kind"]
        assert (reward.import_path, reward.params) == ("users_rewards:Kindness", {"words": 2})
        assert recipe.resolved()["stages"]["grpo"]["rewards"]["kind"] == {"weight": 1.0, **entry}
    else:
        (line,) = errors_of(load, content)
        assert line.startswith(expected)


def test_recipes_are_found_by_path_and_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "mine.yaml").write_text("# What it trains\n# how\ntask: sft\n", encoding="utf-8")
    (tmp_path / "recipes" / "bare.yaml").write_text("task: sft\n", encoding="utf-8")
    for name in (
        "mine",
        "mine.yaml",
        "recipes/mine",
        "recipes/mine.yaml",
        tmp_path / "recipes" / "mine.yaml",
    ):
        assert find_recipe(name).samefile(tmp_path / "recipes" / "mine.yaml")
    assert yaml_titles(tmp_path / "recipes") == [("bare.yaml", ""), ("mine.yaml", "What it trains")]
    for shipped, _ in yaml_titles(SHIPPED):
        assert find_recipe(Path(shipped).stem) == SHIPPED / shipped
    with pytest.raises(
        RecipeError, match=r"^ed4_tny.yaml: no such recipe; did you mean ed4_tiny\? \(nearest: ed4_tiny"
    ):
        find_recipe("ed4_tny.yaml")
    with pytest.raises(RecipeError, match="^nowhere/mine.yaml: no such recipe"):
        find_recipe("nowhere/mine.yaml")


def test_reading_recipes_imports_no_heavy_library():
    code = "import sys, empathy_trl.recipe; print({'torch', 'transformers', 'trl', 'datasets', 'sklearn'} & set(sys.modules))"
    root = Path(__file__).resolve().parent.parent
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    assert result.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("hub", "trainer", "expected"),
    [
        ({"merge_adapter": True}, {}, "hub.merge_adapter: a model from scratch has no adapter; expected false"),
        ({"push": "every_save"}, {"save_strategy": "no"}, "hub.push: every_save, but trainer.save_strategy is 'no'"),
    ],
)
def test_a_hub_section_that_asks_for_what_cannot_be(load, hub, trainer, expected):
    (line,) = errors_of(load, {**SFT, "hub": {"repo_id": "me/it", **hub}, "trainer": trainer})
    assert line.startswith(expected)


@pytest.mark.faults
def test_every_path_in_a_recipe_is_read_alike(load, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "m").mkdir()
    content = changed(GRPO, "data", {"name": "redial", "path": "./m/", "emotions": "~/m/e.csv"}) | {"task": "ppo"}
    content["rewards"] = {"recommendation": {}, "foresight": {"model": "m/"}, "safety": {"file": "~/words.txt"}}
    content["trainer"] = {"critic_kind": "model", "critic_name_or_path": "./m"}
    content["evaluation"] = {"bertscore": "m//", "classifiers": {"emotion": "./m/"}}
    (tmp_path / "words.txt").write_text("never mind")
    stage = load(changed(content, "model.name_or_path", "~/m/")).stages["ppo"]
    assert (stage.model.name_or_path, stage.data.path, stage.data.emotions) == (
        f"{tmp_path}/m",
        "m",
        f"{tmp_path}/m/e.csv",
    )
    assert (stage.rewards["foresight"].params, stage.rewards["foresight"].model) == ({"model": "m"}, "m")
    assert stage.rewards["safety"].params == {"file": f"{tmp_path}/words.txt"}
    assert (stage.trainer["critic_name_or_path"], stage.evaluation.bertscore) == ("m", "m")
    assert stage.evaluation.classifiers.emotion == "m"
    (line,) = errors_of(load, changed(content, "model.name_or_path", "$NOWHERE/m"))
    assert line == "model.name_or_path: $NOWHERE/m: the environment variable NOWHERE is not set"
    (tmp_path / "sample").mkdir()
    assert load(changed(GRPO, "data.path", "./sample/")).stages["grpo"].data.path == "./sample", (
        "not the embedded corpus"
    )


@pytest.mark.faults
def test_a_mistyped_folder_is_no_hub_id(load, tmp_path):
    (tmp_path / "models/mine").mkdir(parents=True)
    for name in ("models/mien", "./models/mien/", "models/mien/"):
        (line,) = errors_of(load, changed(GRPO, "model.name_or_path", name))
        assert line.startswith(
            f"model.name_or_path: no folder {name!r}; did you mean models/mine?; expected stage:<name>"
        )
