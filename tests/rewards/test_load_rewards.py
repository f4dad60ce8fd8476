"""From a `rewards:` mapping to rewards, and the self-check on the data's own references."""

import asyncio
import pickle
import subprocess
import sys

import pytest
from trl.trainer.utils import get_callable_name, is_async_callable

from empathy_trl.data import build
from empathy_trl.errors import RecipeError, UserError
from empathy_trl.recipe import Data
from empathy_trl.rewards import REWARDS, load_rewards, read_rewards
from empathy_trl.rewards.base import WeightSchedule
from empathy_trl.rewards.format import Length

FORMAT = "empathy_trl.rewards.format:Format"


def test_in_order_with_weights_and_parameters():
    schedule = {"start": 0, "end": 1, "until": 0.5}
    rewards = load_rewards(
        {"format": {"weight": 0.2, "tags": ["answer"]}, "emotion_accuracy": {"weight": schedule, "invalid": -1}}
    )
    assert [get_callable_name(reward) for reward in rewards] == ["format", "emotion_accuracy"]
    assert [reward.weight for reward in rewards] == [0.2, WeightSchedule(0.0, 1.0, 0.5)]
    assert (rewards[0].tags, rewards[1].invalid, rewards[1].range) == (["answer"], -1, (-1, 1.0))
    assert rewards[1].as_yaml() == {"weight": {"start": 0.0, "end": 1.0, "until": 0.5}, "invalid": -1}
    assert rewards[1].params == {"invalid": -1}


def test_objects_and_functions_are_taken_too_and_objects_are_copied():
    short = Length(min=1, max=2)
    rewards = load_rewards({"short": short, "letters": lambda prompts, completions: [1.0], "format": {}})
    assert [get_callable_name(reward) for reward in rewards] == ["short", "letters", "format"]
    assert rewards[0].max == 2 and short.__name__ == "length"
    assert rewards[1](["p"], ["c"]) == [1.0]


def test_with_another_model_everything_else_stays():
    own = {"import": f"{__name__}:Asks", "model": "stage:reward"}
    for reward in load_rewards({"empathy_model": {"weight": 2, "model": "stage:reward"}, "own": own}):
        other = reward.with_model("folder")
        assert other.as_yaml() == reward.as_yaml() | {"model": "folder"}
        assert (reward.params["model"], other.__name__) == ("stage:reward", reward.__name__)
    assert (other.function.model, reward.function.model) == ("folder", "stage:reward")


class Asks:
    def __init__(self, model):
        self.model = model

    def __call__(self, prompts, completions, **columns):
        return [1.0]


@pytest.mark.parametrize("name", REWARDS)
def test_the_name_in_the_registry_is_the_name_in_the_logs(name):
    assert vars(REWARDS[name])["__name__"] == name


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    (tmp_path / "their_rewards.py").write_text(
        "from dataclasses import dataclass\n"
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
    monkeypatch.syspath_prepend(tmp_path)


def test_an_imported_class_takes_parameters_and_the_name_of_its_key(own_module):
    rewards = load_rewards({"kindness": {"import": "their_rewards:Kindness", "word": "warm"}})
    assert rewards[0]([""], ["a warm word"]) == [1.0]
    assert get_callable_name(rewards[0]) == "kindness"
    assert pickle.loads(pickle.dumps(rewards[0]))([""], ["a warm word"]) == [1.0]


@pytest.mark.parametrize(("attribute", "result"), [("length", 4.0), ("Frozen", 2.0)])
def test_what_cannot_carry_a_name_is_wrapped(own_module, attribute, result):
    import their_rewards

    path = f"their_rewards:{attribute}"
    rewards = load_rewards({name: {"import": path} for name in ("first", "second")})
    assert [get_callable_name(reward) for reward in rewards] == ["first", "second"]
    assert rewards[0]([""], completions=["four"], label=["sad"]) == [result]
    again = pickle.loads(pickle.dumps(rewards[1]))
    assert (get_callable_name(again), again([""], ["four"])) == ("second", [result])
    assert getattr(their_rewards, attribute).__name__ == attribute


def test_a_coroutine_function_stays_one(own_module):
    rewards = load_rewards({"kind": {"import": "their_rewards:judge"}})
    assert get_callable_name(rewards[0]) == "kind" and is_async_callable(rewards[0])
    assert asyncio.run(rewards[0]([""], ["four"])) == [3.0]


def test_two_rewards_of_one_class_have_their_own_names():
    path = "empathy_trl.rewards.format:Format"
    rewards = load_rewards({"outer": {"import": path}, "format": {}, "inner": {"import": path, "tags": ["answer"]}})
    assert [get_callable_name(reward) for reward in rewards] == ["outer", "format", "inner"]
    assert [get_callable_name(pickle.loads(pickle.dumps(reward))) for reward in rewards] == ["outer", "format", "inner"]
    assert rewards[2].tags == ["answer"]


@pytest.mark.parametrize(
    ("name", "entry", "message"),
    [
        ("accuracy", {}, r"rewards.accuracy: unknown reward; did you mean .*emotion_accuracy"),
        ("format", ["answer"], r"rewards.format: \['answer'\] is not a mapping; expected at least {}"),
        ("format", {"tag": ["answer"]}, r"rewards.format.tag: unknown parameter of format; did you mean tags\?"),
        ("format", {"tags": [1]}, r"rewards.format.tags: \[1\] is not a valid list of str"),
        ("length", {"min": 2.0}, "rewards.length.min: 2.0 is not a valid int"),
        ("length", {"softness": float("inf")}, "rewards.length.softness: inf is not finite"),
        ("foresight", {"model": 3}, "rewards.foresight.model: 3 is not a valid str"),
        ("llm_judge", {"base_url": "u", "rubric": 1}, r"rubric: 1 is not a valid mapping(.|\n)*llm_judge.model: missing; expected str"),
        ("recommendation", {"mode": "lked"}, "rewards.recommendation.mode: unknown choice 'lked'; did you mean liked"),
        ("reasoning_length", {"min": 5, "max": 2}, "rewards.reasoning_length: min and max: .*min 5 and max 2"),
        ("format", {"weight": "high"}, "rewards.format.weight: 'high' is not a valid float or mapping of start, end, until"),
        ("format", {"weight": float("nan")}, "rewards.format.weight: nan is not finite"),
        ("format", {"weight": {"start": 1, "until": "x"}}, r"weight.until: 'x' is not a valid float(.|\n)*weight.end: missing; exp"),
        ("format", {"weight": {"start": 1, "end": 0, "until": 2}}, "rewards.format.weight.until: 2 is not a share of the tr"),
        ("safety", {"weight": -1}, "rewards.safety.weight: safety is never positive, so a negative weight"),
        ("k", {"import": "their_rewards.Kindness"}, "rewards.k.import: 'their_rewards.Kindness' is not of the form"),
        ("k", {"import": "their_reward:Kindness"}, "rewards.k.import: cannot import their_reward: .*PYTHONPATH"),
        ("k", {"import": "half_written:length"}, "rewards.k.import: cannot import half_written: SyntaxError: "),
        ("k", {"import": "divides:length"}, "rewards.k.import: cannot import divides: ZeroDivisionError: div"),
        ("k", {"import": "a_script:length"}, "rewards.k.import: cannot import a_script: SystemExit: usage: "),
        ("k", {"import": "their_rewards:Kind"}, "their_rewards has no class or function Kind; did you mean Kindness"),
        ("k", {"import": "their_rewards:Kindness", "words": 1}, "rewards.k.words: unknown parameter of k; did you mean word"),
        ("k", {"import": "their_rewards:Broken", "key": 1}, r"rewards.k.import: their_rewards:Broken\(key=1\) raises KeyError: 1"),
        ("k", {"import": "their_rewards:length", "unit": 1}, r"a function takes no parameters \(got unit\)"),
        ("k", {"import": "their_rewards:NoReward"}, "their_rewards:NoReward creates objects that are not callable"),
    ],
)  # fmt: skip
def test_errors_name_the_reward_and_the_key(own_module, name, entry, message):
    with pytest.raises(RecipeError, match=message):
        load_rewards({name: entry})


def test_all_problems_are_reported_and_the_other_rewards_read():
    rewards, problems = read_rewards({"length": {}, "format": {"tags": 1, "weight": []}, "nothing": None})
    assert list(rewards) == ["length"]
    names = [".".join(path) for path, _ in problems]
    assert names == ["rewards.format.weight", "rewards.format.tags", "rewards.nothing"]
    with pytest.raises(UserError, match="rewards: 3 is not a mapping from a reward's name"):
        load_rewards(3)


def test_the_references_of_the_data_score_at_the_top():
    rows = build(Data(name="ed4", portion=(0.0, 0.05)), "train", "sft")
    rewards = load_rewards({"emotion_accuracy": {}, "format": {}, "reasoning_length": {"min": 5, "max": 30}})
    assert len(rows) >= 20
    for reward in rewards:
        scores = reward(rows["prompt"], rows["completion"], label=rows["label"])
        assert set(scores) == {1.0}, reward.__name__


def test_imports_nothing_heavy():
    code = "import sys, empathy_trl.rewards.explain as _; print({'torch', 'transformers', 'trl', 'pandas'} & {*sys.modules})"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "set()"
