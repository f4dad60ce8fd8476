"""`emotion_confidence` with a table as policy; tests/trainers/test_policy_scorer.py has the real one."""

import dataclasses
import math
import pickle

import pytest

from empathy_trl.errors import UserError
from empathy_trl.rewards.emotion import EmotionConfidence, answer_prefix


class Policy:
    """Answers every question with the same log-probabilities and remembers the questions."""

    def __init__(self, *log_probabilities):
        self.log_probabilities = list(log_probabilities)
        self.calls = []

    def __call__(self, prompts, prefixes, choices):
        self.calls.append((prompts, prefixes, choices))
        return [self.log_probabilities for _ in prompts]


def reward_with(policy, **parameters):
    reward = EmotionConfidence(**parameters)
    reward.policy = policy
    return reward


@pytest.mark.parametrize(
    ("label", "expected", "why"),
    [
        ("sad", 0.5, "probabilities are relative to the labels: 0.02 of 0.04"),
        ("joyful", 0.25, ""),
        (" Angry", 0.25, "case and space do not count"),
        ("afraid", 0.0, "impossible"),
        (None, None, "no label, not applicable"),
    ],
)
def test_the_share_of_the_gold_label(label, expected, why):
    policy = Policy(math.log(0.02), math.log(0.01), math.log(0.01), -math.inf)
    rewards = reward_with(policy)(["p"], ["<answer>angry</answer>"], label=[label])
    assert rewards == [expected if expected is None else pytest.approx(expected)], why


def test_very_small_probabilities_do_not_underflow():
    reward = reward_with(Policy(-2000.0, -2000.0, -3000.0, -3000.0))
    assert reward(["p"], ["x"], label=["sad"]) == [pytest.approx(0.5)]


@pytest.mark.parametrize(
    ("completion", "prefix", "why"),
    [
        (
            "<reasoning>r</reasoning><answer>sad</answer>",
            "<reasoning>r</reasoning><answer>",
            "up to the answer",
        ),
        ("<reasoning>r</reasoning>\n<answer>sad", "<reasoning>r</reasoning>\n<answer>", "as it was written"),
        ("<answer>sad</answer><answer>sad</answer>", "<answer>", "the first counts"),
        ("<reasoning>r</reasoning>", "<reasoning>r</reasoning><answer>", "no answer"),
        ("<reasoning>r</reasoning> so sad", "<reasoning>r</reasoning><answer>", "no answer tag"),
        ("<reasoning>r", "<reasoning>r</reasoning><answer>", "reasoning cut off"),
        ("r", "r<answer>", "no reasoning either"),
        ("", "<answer>", "empty"),
    ],
)
def test_where_the_answer_comes(completion, prefix, why):
    assert answer_prefix(completion) == prefix, why


def test_asks_once_for_the_whole_batch():
    policy = Policy(0.0, 0.0)
    reward = reward_with(policy, labels=["Joy", "Fear"])
    prompts = [[{"role": "user", "content": "a"}], [{"role": "user", "content": "b"}]]
    completions = [
        [{"role": "assistant", "content": "x<answer>Joy</answer>"}],
        [{"role": "assistant", "content": ""}],
    ]
    assert reward(prompts, completions, label=["fear", "joy"]) == [0.5, 0.5]
    assert policy.calls == [(prompts, ["x<answer>", "<answer>"], ["Joy</answer>", "Fear</answer>"])]


@pytest.mark.parametrize(
    ("policy", "columns", "message"),
    [
        (None, {"label": ["sad"]}, "rewards.emotion_confidence: no policy to ask"),
        (Policy(0, 0, 0, 0), {}, "rewards.emotion_confidence: needs a column `label`"),
        (Policy(0, 0, 0, 0), {"label": ["happy"]}, "rewards.emotion_confidence.labels: .* 'happy'"),
    ],
)
def test_errors_name_the_culprit(policy, columns, message):
    with pytest.raises(UserError, match=message):
        reward_with(policy)(["p"], ["x"], **columns)


def test_the_policy_is_no_parameter():
    assert [field.name for field in dataclasses.fields(EmotionConfidence)] == ["labels"]


def test_pickles_and_has_its_name():
    reward = pickle.loads(pickle.dumps(EmotionConfidence(labels=["a", "b"])))
    assert reward == EmotionConfidence(labels=["a", "b"])
    assert reward.policy is None
    assert reward.__name__ == "emotion_confidence"
