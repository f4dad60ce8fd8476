"""Strict YAML, and merging recipes, stages and the command line."""

import copy
import math
import re

import pytest
import yaml

from empathy_trl.errors import RecipeError
from empathy_trl.recipe.layers import STAGE_KEYS, Layers, dump_yaml, merge, parse_overrides, parse_yaml, read_yaml
from empathy_trl.recipe.schema import Stage


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("5e-7", 5e-7),
        ("1e-4", 1e-4),
        ("1E5", 1e5),
        (".5", 0.5),
        ("1.", 1.0),
        ("-2.5e+3", -2500.0),
        (".inf", math.inf),
        ("-1", -1),
        ("+3", 3),
        ("0", 0),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("on", "on"),
        ("off", "off"),
        ("yes", "yes"),
        ("no", "no"),
        ("1:30", "1:30"),
        ("010", "010"),
        ("1_000", "1_000"),
        ("2024-01-01", "2024-01-01"),
        ("1e", "1e"),
        ("stage:sft", "stage:sft"),
        ("<<", "<<"),
        ("'5e-7'", "5e-7"),
        ("[1, 2.0, no]", [1, 2.0, "no"]),
        ("{start: 0.5, end: 1}", {"start": 0.5, "end": 1}),
    ],
)
def test_scalars_are_those_of_yaml_1_2(text, expected):
    value = parse_yaml(text, "here")
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty; expected keys such as task, model and data"),
        ("# only a comment\n", "is empty; expected keys"),
        ("- task\n- model\n", "the top level is a list; expected keys"),
        ("just text\n", "the top level is a str; expected keys"),
        ("a: 1\nb: [1, 2\nc: 3\n", ":3: while parsing a flow sequence, expected ',' or ']'"),
        ("a: 1\nb: c: d\n", ":2: mapping values are not allowed here"),
        ("a: 1\n\tb: 2\n", ":2: while scanning for the next token, found character '\\t'"),
        ("a: 1\nb:\n  c: 1\n  d: 2\n  c: 3\n", ":5: duplicate key 'c', first on line 3"),
        ("task: sft\nmodel: {x: 1}\ntask: grpo\n", ":3: duplicate key 'task', first on line 1"),
        ("a: 1\n2: b\n", ":2: the key 2 is not a string; put it in quotes"),
        ("a: 1\nb: !!python/object:os.system {}\n", ":2: could not determine a constructor for the tag"),
        ("a: !!set {b}\n", ":1: could not determine a constructor for the tag"),
        ("a: &x\n  b: *x\n", ":1: found unconstructable recursive node"),
        ("a: 1\n---\nb: 2\n", ":2: expected a single document in the stream"),
        ("a: *nobody\n", ":1: found undefined alias 'nobody'"),
        ("a: 1\nb: \x07\n", ":2: character '\\x07' is not allowed in YAML"),
        ("[" * 1200, "is nested too deeply"),
        ("a: !!int x\n", "invalid literal for int() with base 10: 'x'"),
    ],
)
def test_errors_name_file_and_line(tmp_path, text, message):
    path = tmp_path / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(RecipeError, match="^" + re.escape(str(path))) as caught:
        read_yaml(path)
    assert message in str(caught.value)
    assert len(caught.value.errors) == 1


def test_unreadable_files(tmp_path):
    with pytest.raises(RecipeError, match="nowhere.yaml: cannot be read: No such file"):
        read_yaml(tmp_path / "nowhere.yaml")
    with pytest.raises(RecipeError, match="cannot be read: Is a directory"):
        read_yaml(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"task: caf\xe9\n")
    with pytest.raises(RecipeError, match=r"latin.yaml, line \d: byte 0x\w\w at offset 9 is not UTF-8"):
        read_yaml(tmp_path / "latin.yaml")


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path):
    (tmp_path / "bom.yaml").write_bytes(b"\xef\xbb\xbftask: sft\n")
    assert read_yaml(tmp_path / "bom.yaml") == {"task": "sft"}


def test_what_is_dumped_is_read_back_by_this_loader_and_by_pyyaml(tmp_path):
    words = [
        "no",
        "on",
        "true",
        "5e-7",
        "1e5",
        "010",
        "1:30",
        "2024-01-01",
        "",
        "null",
        "a: b",
        "traurig, ñ ❤",
        "#x",
        "<<",
    ]
    shared = [1, 2]
    content = {
        "words": words,
        "numbers": [5e-7, 1e-4, 1e22, 0.1, -3, True, None],
        "twice": [shared, shared],
        "z": {},
    }
    path = tmp_path / "dumped.yaml"
    path.write_text(dump_yaml(content), encoding="utf-8")
    assert read_yaml(path) == content
    assert yaml.safe_load(path.read_text(encoding="utf-8")) == content
    assert "&id" not in path.read_text(encoding="utf-8")


STAGED = {
    "seed": 1,
    "model": {"name_or_path": "me/base", "revision": "abc", "lora": {"r": 8}},
    "data": {"name": "ed4", "path": "me/corpus", "revision": "def"},
    "rewards": {"format": {"weight": 0.2}},
    "trainer": {"learning_rate": 1e-4, "max_steps": 5},
    "hub": {"repo_id": "me/final"},
    "stages": {
        "sft": {"task": "sft", "trainer": {"learning_rate": 1e-3}},
        "grpo": {
            "task": "grpo",
            "model": {"name_or_path": "stage:sft"},
            "data": {"path": "sample"},
            "trainer": {"learning_rate": 1e-6, "beta": 0.1},
        },
    },
}


@pytest.mark.parametrize(
    ("lower", "upper", "expected"),
    [
        ({"a": 1}, {"b": 2}, {"a": 1, "b": 2}),
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": 3}}, {"a": {"b": 3, "c": 2}}),
        ({"a": {"b": 1}}, {"a": 3}, {"a": 3}),
        ({"a": 3}, {"a": {"b": 1}}, {"a": {"b": 1}}),
        ({"a": [1]}, {"a": [2]}, {"a": [2]}),
        ({"a": {"b": 1}}, {"a": None}, {}),
        ({"a": 1}, {"a": None}, {"a": None}),
        ({"model": {"from_scratch": {"layers": 2}}}, {"model": {"name_or_path": "x"}}, {"model": {"name_or_path": "x"}}),
        (
            {"model": {"name_or_path": "x", "revision": "r", "dtype": "auto"}},
            {"model": {"from_scratch": {"layers": 2}}},
            {"model": {"dtype": "auto", "from_scratch": {"layers": 2}}},
        ),
        ({"model": {"name_or_path": "x"}}, {"model": {"from_scratch": None}}, {"model": {"name_or_path": "x", "from_scratch": None}}),
        ({"data": {"path": "a/b", "revision": "r"}}, {"data": {"path": "c"}}, {"data": {"path": "c"}}),
    ],
)  # fmt: skip
def test_merge(lower, upper, expected):
    before = copy.deepcopy((lower, upper))
    assert merge(lower, upper) == expected
    assert (lower, upper) == before


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], {}),
        (["--seed", "3"], {"seed": 3}),
        (["--trainer.learning_rate", "5e-7"], {"trainer": {"learning_rate": 5e-7}}),
        (["--trainer.max_steps=-1"], {"trainer": {"max_steps": -1}}),
        (["--trainer.max_steps", "-1"], {"trainer": {"max_steps": -1}}),
        (["--trainer.save_strategy", "no", "--trainer.bf16", "true"], {"trainer": {"save_strategy": "no", "bf16": True}}),
        (["--data.portion", "[0, 0.5]"], {"data": {"portion": [0, 0.5]}}),
        (["--rewards.format", "{weight: 2}"], {"rewards": {"format": {"weight": 2}}}),
        (["--model.name_or_path", "stage:sft"], {"model": {"name_or_path": "stage:sft"}}),
        (["--model.lora", "null"], {"model": {"lora": None}}),
        (["--data.path=a=b"], {"data": {"path": "a=b"}}),
        (["--trainer.run_name=--x"], {"trainer": {"run_name": "--x"}}),
        (["--seed", "3", "--seed=4"], {"seed": 4}),
        (["--data.revision", "a", "--data.path", "me/data"], {"data": {"revision": "a", "path": "me/data"}}),
    ],
)  # fmt: skip
def test_overrides(arguments, expected):
    assert parse_overrides(arguments) == (expected, [])


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--seed"], ["--seed: has no value; expected --seed value (null for none)"]),
        (["--seed", "--trainer.beta", "0"], ["--seed: has no value; expected --seed value (null for none)"]),
        (["--seed="], ["--seed: has no value; expected --seed value (null for none)"]),
        (["grpo"], ["grpo: unexpected argument; expected --key value, such as --trainer.max_steps 20"]),
        (["-x", "3"], [
            "-x: unexpected argument; expected --key value, such as --trainer.max_steps 20",
            "3: unexpected argument; expected --key value, such as --trainer.max_steps 20",
        ]),
        (["--"], ["--: unexpected argument; expected --key value, such as --trainer.max_steps 20"]),
        (["--a..b", "1"], ["--a..b: unexpected argument; expected", "1: unexpected argument"]),
        pytest.param(
            ["--stages.sft.trainer.max_steps", "8", "--stages.sft", "null"],
            ["--stages.sft: null is given together with --stages.sft.trainer.max_steps; expected one of the two"],
            marks=pytest.mark.faults,
        ),
        pytest.param(
            ["--model.lora", "null", "--model.lora.r", "4"],
            ["--model.lora: null is given together with --model.lora.r; expected one of the two"],
            marks=pytest.mark.faults,
        ),
        pytest.param(
            ["--stages.sft.model.from_scratch.layers", "4", "--stages.sft.model.name_or_path", "me/base"],
            ["--stages.sft.model.name_or_path: 'me/base' is given together with --stages.sft.model.from_scratch.layers; expected one"],
            marks=pytest.mark.faults,
        ),
        (["--data", "{name: "], ["--data:1: while parsing a flow node, expected the node content"]),
    ],
)  # fmt: skip
def test_arguments_that_are_no_overrides(arguments, expected):
    _, errors = parse_overrides(arguments)
    assert len(errors) == len(expected)
    assert all(error.startswith(start) for error, start in zip(errors, expected, strict=True))


def test_a_stage_inherits_from_the_top_level():
    layers = Layers(STAGED, {})
    assert layers.errors == []
    sft, grpo = layers.merged("sft"), layers.merged("grpo")
    assert sft["trainer"] == {"learning_rate": 1e-3, "max_steps": 5}
    assert grpo["trainer"] == {"learning_rate": 1e-6, "max_steps": 5, "beta": 0.1}
    assert sft["model"] == STAGED["model"]
    assert grpo["model"] == {"name_or_path": "stage:sft", "lora": {"r": 8}}, "a revision belongs to its repository"
    assert grpo["data"] == {"name": "ed4", "path": "sample"}
    assert "rewards" not in sft and grpo["rewards"] == STAGED["rewards"]
    assert "hub" not in sft and grpo["hub"] == STAGED["hub"]
    assert sft["seed"] == grpo["seed"] == 1


def test_a_recipe_without_stages_is_one_stage_named_after_its_task():
    layers = Layers({"task": "sft", "name": "mine", "seed": 2}, {"stages": {"sft": {"seed": 3}}})
    assert layers.errors == [] and layers.name == "mine"
    assert layers.merged("sft") == {"task": "sft", "seed": 3}
    assert layers.label("sft", ("trainer", "x")) == "trainer.x"
    both = {"trainer": {"beta": 1, "max_steps": 2}, "stages": {"sft": {"trainer": {"beta": 2}}}}
    only = "sets the same as --stages.sft.trainer.beta, as this is the only stage; expected one of the two"
    assert Layers({"task": "sft"}, both).errors == [f"--trainer.beta: {only}"]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (("trainer", "max_steps"), "trainer.max_steps"),
        (("trainer", "learning_rate"), "stages.grpo.trainer.learning_rate"),
        (("trainer", "beta"), "stages.grpo.trainer.beta"),
        (("rewards", "format", "tags"), "rewards.format.tags"),
        (("evaluation",), "stages.grpo.evaluation"),
        (("model", "lora", "r"), "model.lora.r"),
    ],
)
def test_a_key_is_named_where_it_was_written(path, expected):
    assert Layers(STAGED, {}).label("grpo", path) == expected


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--seed", "3", "--trainer.max_steps", "1", "--model.name_or_path", "./mine", "--rewards.format.weight", "1"], []),
        (["--stages.grpo.trainer.learning_rate", "1"], []),
        (["--data.portion", "[0, 1]", "--model.lora", "null", "--hub.private", "true"], []),
        (
            ["--trainer.learning_rate", "1"],
            ["--trainer.learning_rate: has no effect, stages sft, grpo set their own; use --stages.sft.trainer.learning_rate, --stages.grpo.trainer.learning_rate"],
        ),
        (
            ["--trainer", "{beta: 1, max_steps: 2}"],
            ["--trainer.beta: has no effect in stage grpo, which sets its own; give --stages.grpo.trainer.beta as well"],
        ),
        (["--trainer.beta", "1", "--stages.grpo.trainer.beta", "2"], []),
        pytest.param(
            ["--trainer.beta", "1", "--stages.grpo.trainer.beta", "2", "--stages.sft.trainer.beta", "2"],
            ["--trainer.beta: has no effect, because every stage gets its own with --stages.sft.trainer.beta, --stages.grpo.trainer.beta; delete one of them"],
            marks=pytest.mark.faults,
        ),
        (
            ["--data.path", "./mine"],
            ["--data.path: has no effect in stage grpo, which sets its own; give --stages.grpo.data.path as well"],
        ),
        (
            ["--task", "sft"],
            ["--task: has no effect, stages sft, grpo set their own; use --stages.sft.task, --stages.grpo.task"],
        ),
        (["--stages.gpro.seed", "1"], ["--stages.gpro: unknown stage 'gpro'; did you mean grpo? (choices: sft, grpo)"]),
        (["--stages.grpo", "1"], ["--stages.grpo: 1 is not a mapping; expected --stages.grpo.<key> value"]),
        (["--stages", "1"], ["--stages: expected --stages.<name>.<key> value for a stage of the recipe"]),
        (
            ["--trainr.beta", "1"],
            ["trainr: unknown key; did you mean trainer? (choices: name, extends, stages, task, model, data, rewards, trainer, evaluation, hub, seed)"],
        ),
    ],
)  # fmt: skip
def test_overrides_that_would_silently_do_nothing_are_errors(arguments, expected):
    before = copy.deepcopy(STAGED)
    overrides, errors = parse_overrides(arguments)
    assert errors == []
    assert Layers(STAGED, overrides).errors == expected
    assert before == STAGED


def test_an_override_of_the_data_leaves_a_stage_with_data_of_another_kind_alone():
    ratings = {"name": "rated_replies", "path": "sample"}
    content = {
        "data": {"name": "dialogues", "path": "sample", "instruction": "Answer."},
        "stages": {"sft": {"task": "sft"}, "reward": {"task": "regress", "data": ratings}},
    }
    layers = Layers(content, {"data": {"path": "./mine"}})
    assert layers.errors == []
    assert layers.merged("sft")["data"]["path"] == "./mine" and layers.merged("reward")["data"] == ratings
    del content["stages"]["sft"]
    assert Layers(content, {"data": {"path": "./mine"}}).errors == [
        "--data.path: has no effect, no stage takes it from the top level; use --stages.<name>.data.path"
    ]


def test_an_override_that_no_stage_takes_is_an_error():
    content = {"stages": {"sft": {"task": "sft", "model": {"from_scratch": {"layers": 1}}}, "more": {"task": "sft"}}}
    content["stages"]["more"]["model"] = {"name_or_path": "stage:sft"}
    errors = Layers(content, {"model": {"name_or_path": "me/base"}, "rewards": {"format": {}}}).errors
    assert errors == [
        f"--{key}: has no effect, no stage takes it from the top level; use --stages.<name>.{key}"
        for key in ("model.name_or_path", "rewards.format")
    ]


@pytest.mark.parametrize(
    ("stages", "expected"),
    [
        (None, "stages: null is not a mapping from a stage's name to its keys"),
        ({}, "stages: {} is not a mapping from a stage's name to its keys"),
        (["sft"], "stages: ['sft'] is not a mapping from a stage's name to its keys"),
        ({"sft": 3}, "stages.sft: 3 is not a mapping of task, model, data,"),
        ({"a.b": {}}, "stages: 'a.b' cannot be a folder's name; use letters, digits, - and _"),
    ],
)
def test_stages_of_the_wrong_shape(stages, expected):
    (error,) = Layers({"stages": stages}, {}).errors
    assert error.startswith(expected)


def test_the_keys_of_a_stage_are_those_of_its_class():
    assert set(STAGE_KEYS) | {"name"} == set(Stage.model_fields)


def test_null_takes_a_stage_away():
    layers = Layers(STAGED, {"stages": {"sft": None, "grpo": {"trainer": {"beta": 0.2}}}})
    assert layers.errors == [] and list(layers.stages) == ["grpo"]
    assert layers.merged("grpo")["trainer"]["beta"] == 0.2


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"sft": None, "grpo": None}, "--stages.grpo: null leaves no stage"),
        ({"stf": None}, "--stages.stf: unknown stage 'stf'; did you mean sft? (choices: sft, grpo)"),
    ],
)
def test_some_stage_has_to_stay(changes, message):
    assert message in Layers(STAGED, {"stages": changes}).errors


@pytest.mark.faults
@pytest.mark.parametrize(
    ("changes", "flags", "expected"),
    [
        ({}, ["--rewards", "{}"], ["--rewards: {}"]),
        ({}, ["--stages.grpo.rewards", "{}"], ["--stages.grpo.rewards: {}"]),  # inherited
        ({}, ["--stages.grpo.rewards.format", "{}"], ["--stages.grpo.rewards.format: {}"]),
        ({}, ["--stages.grpo.rewards.length", "{}"], []),  # a new one, with its defaults
        ({"rewards": {}}, [], ["stages.grpo.rewards: {}"]),
        ({"trainer": {}}, [], []),  # there is none that it could leave out
    ],
)
def test_an_empty_mapping_over_one_with_keys_is_no_way_to_leave_it_out(changes, flags, expected):
    content = {
        "rewards": {"format": {"weight": 2}},
        "stages": {"sft": {"task": "sft", "rewards": {}}, "grpo": {"task": "grpo"}},
    }
    content["stages"]["grpo"] |= changes
    overrides, _ = parse_overrides(flags)
    errors = Layers(content, overrides).errors
    assert [error.partition(" changes nothing")[0] for error in errors if " changes nothing" in error] == expected
