"""From the `rewards:` part of a recipe to callables, and the self-check on the data's own references."""

import asyncio
import pickle
import subprocess
import sys
from types import SimpleNamespace

import pytest
from trl.trainer.utils import get_callable_name, is_async_callable

from empathy_trl.data import build
from empathy_trl.errors import UserError
from empathy_trl.recipe import Data
from empathy_trl.rewards import REWARDS, build_rewards


def entry(weight=1.0, import_path=None, **params):
    return SimpleNamespace(weight=weight, import_path=import_path, params=params)


def test_builds_in_order_with_weights_and_parameters():
    schedule = SimpleNamespace(start=0.0, end=1.0, until=0.5)
    rewards, weights = build_rewards(
        {"format": entry(0.2, tags=["answer"]), "emotion_accuracy": entry(schedule, invalid=-1.0)}
    )
    assert [get_callable_name(reward) for reward in rewards] == ["format", "emotion_accuracy"]
    assert weights == [0.2, schedule]
    assert rewards[0].tags == ["answer"]
    assert rewards[1].invalid == -1.0


@pytest.mark.parametrize("name", REWARDS)
def test_the_name_in_the_registry_is_the_name_in_the_logs(name):
    assert vars(REWARDS[name])["__name__"] == name


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    (tmp_path / "my_rewards.py").write_text(
        "from dataclasses import dataclass\n"
        "CONSTANT = 1\n"
        "@dataclass\n"
        "class Kindness:\n"
        "    word: str = 'kind'\n"
        "    def __call__(self, prompts, completions, completion_ids=None, **columns):\n"
        "        return [float(self.word in completion) for completion in completions]\n"
        "def length(prompts, completions, **columns):\n"
        "    return [float(len(completion)) for completion in completions]\n"
        "async def judge(prompts, completions, **columns):\n"
        "    return [3.0]\n"
        "class NoReward:\n"
        "    pass\n"
        "class Broken:\n"
        "    def __init__(self, key='x'):\n"
        "        {}[key]\n"
        "@dataclass(frozen=True)\n"
        "class Frozen(NoReward):\n"
        "    def __call__(self, prompts, completions, **columns):\n"
        "        return [2.0]\n"
    )
    (tmp_path / "half_written.py").write_text("def length(:\n")
    (tmp_path / "divides.py").write_text("1 / 0\n")
    (tmp_path / "a_script.py").write_text("raise SystemExit('usage: a_script FILE')\n")
    (tmp_path / "needs_missing.py").write_text("import no_such_package\n")
    monkeypatch.syspath_prepend(tmp_path)


def test_an_imported_class_takes_parameters_and_the_name_of_its_key(own_module):
    rewards, _ = build_rewards({"kindness": entry(import_path="my_rewards:Kindness", word="warm")})
    assert rewards[0]([""], ["a warm word"]) == [1.0]
    assert get_callable_name(rewards[0]) == "kindness"
    assert pickle.loads(pickle.dumps(rewards[0]))([""], ["a warm word"]) == [1.0]


@pytest.mark.parametrize(("attribute", "result"), [("length", 4.0), ("Frozen", 2.0)])
def test_what_cannot_carry_a_name_is_wrapped(own_module, attribute, result):
    import my_rewards

    path = f"my_rewards:{attribute}"
    rewards, _ = build_rewards({name: entry(import_path=path) for name in ("first", "second")})
    assert [get_callable_name(reward) for reward in rewards] == ["first", "second"]
    assert rewards[0]([""], completions=["four"], label=["sad"]) == [result]
    again = pickle.loads(pickle.dumps(rewards[1]))
    assert (get_callable_name(again), again([""], ["four"])) == ("second", [result])
    assert getattr(my_rewards, attribute).__name__ == attribute


def test_a_coroutine_function_stays_one(own_module):
    rewards, _ = build_rewards({"kind": entry(import_path="my_rewards:judge")})
    assert get_callable_name(rewards[0]) == "kind" and is_async_callable(rewards[0])
    assert asyncio.run(rewards[0]([""], ["four"])) == [3.0]


def test_two_rewards_of_one_class_have_their_own_names():
    path = "empathy_trl.rewards.format:Format"
    rewards, _ = build_rewards(
        {"outer": entry(import_path=path), "format": entry(), "inner": entry(import_path=path, tags=["answer"])}
    )
    assert [get_callable_name(reward) for reward in rewards] == ["outer", "format", "inner"]
    assert [get_callable_name(pickle.loads(pickle.dumps(reward))) for reward in rewards] == ["outer", "format", "inner"]
    assert rewards[2].tags == ["answer"]


@pytest.mark.parametrize(
    ("name", "reward", "message"),
    [
        ("accuracy", entry(), r"rewards.accuracy: unknown reward \(choices: .*emotion_accuracy, .*format"),
        ("format", entry(tag=["answer"]), "rewards.format: .*unexpected keyword argument 'tag'"),
        ("reasoning_length", entry(min=5, max=2), "rewards.reasoning_length: min and max: .*min 5 and max 2"),
        (
            "k",
            entry(import_path="my_rewards.Kindness"),
            "rewards.k.import: 'my_rewards.Kindness' is not of the form",
        ),
        (
            "k",
            entry(import_path="my_reward:Kindness"),
            "rewards.k.import: cannot import my_reward: .*PYTHONPATH",
        ),
        (
            "k",
            entry(import_path="needs_missing:K"),
            "cannot import needs_missing: No module named 'no_such_package'",
        ),
        (
            "k",
            entry(import_path="my_rewards:Kind"),
            "my_rewards has no class or function Kind; did you mean Kindness.*Kindness, length",
        ),
        ("k", entry(import_path="my_rewards:CONSTANT"), "has no class or function CONSTANT"),
        (
            "k",
            entry(import_path="my_rewards:Kindness", words=1),
            r"rewards.k.import: my_rewards:Kindness\(words=1\) raises TypeError: .*argument 'words'",
        ),
        ("k", entry(import_path="my_rewards:Broken"), r"rewards.k.import: my_rewards:Broken\(\) raises KeyError: 'x'"),
        ("k", entry(import_path="half_written:length"), "rewards.k.import: cannot import half_written: SyntaxError: "),
        ("k", entry(import_path="divides:length"), "rewards.k.import: cannot import divides: ZeroDivisionError: div"),
        ("k", entry(import_path="a_script:length"), "rewards.k.import: cannot import a_script: SystemExit: usage: "),
        ("k", entry(import_path=3), "rewards.k.import: 3 is not of the form package.module:Name"),
        ("k", entry(import_path="my_rewards:length", unit=1), r"a function takes no parameters \(got unit\)"),
        (
            "k",
            entry(import_path="my_rewards:NoReward"),
            "my_rewards:NoReward makes objects that cannot be called",
        ),
    ],
)
def test_errors_name_the_reward(own_module, name, reward, message):
    with pytest.raises(UserError, match=message):
        build_rewards({name: reward})


def test_the_references_of_the_data_score_at_the_top():
    rows = build(Data(name="ed4", portion=(0.0, 0.05)), "train", "sft")
    rewards, _ = build_rewards(
        {"emotion_accuracy": entry(), "format": entry(), "reasoning_length": entry(min=5, max=30)}
    )
    assert len(rows) >= 20
    for reward in rewards:
        scores = reward(rows["prompt"], rows["completion"], label=rows["label"])
        assert set(scores) == {1.0}, reward.__name__


@pytest.mark.parametrize("module", ["empathy_trl.rewards", "empathy_trl.rewards.explain"])
def test_imports_nothing_heavy_and_nothing_above(module):
    others = {
        "torch",
        "transformers",
        "trl",
        "pandas",
        "empathy_trl.recipe",
        "empathy_trl.tasks",
        "empathy_trl.trainers",
    }
    code = f"import sys, {module}; print(sorted({others} & set(sys.modules)))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"
