"""`reward_model`: one score of a pair of texts, by the range of ratings or by the moments of a model of pairs."""

import math

import pytest
from transformers import BertModel, BertTokenizer

from empathy_trl.errors import UserError
from empathy_trl.rewards.learned import RewardModel

SCORES = {("my dog died", "i am sorry"): [4.0], ("my dog died", "ok"): [1.0], ("i won", "ok"): [2.5]}
RATED = {"id2label": {0: "overall"}, "problem_type": "regression", "label_ranges": {"overall": [1, 5]}}
PAIRS = {"id2label": {0: "overall"}, "problem_type": "regression", "score_moments": {"mean": 2.5, "std": 1.5}}
FOREIGN = {"id2label": {0: "LABEL_0"}}


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


@pytest.mark.parametrize(
    ("settings", "parameters", "said", "reply", "expected", "why"),
    [
        (RATED, {}, "my dog died", "i am sorry", 0.75, "its place in the range"),
        (RATED, {}, "my dog died", "ok", 0.0, "the lowest rating"),
        (RATED, {}, "i won", "ok", 0.375, "the same reply to something else"),
        (RATED, {}, "my dog died", "<answer>i am sorry</answer>", 0.75, "the reply in its tags"),
        (RATED, {"label_range": [0, 4]}, "my dog died", "i am sorry", 1.0, "a range that is given goes first"),
        (PAIRS, {}, "i won", "ok", 0.5, "an average score"),
        (PAIRS, {}, "my dog died", "i am sorry", sigmoid(1), "one deviation above"),
        (PAIRS, {}, "my dog died", "ok", sigmoid(-1), "one deviation below"),
        (PAIRS, {"label_range": [0, 4]}, "my dog died", "ok", 0.25, "a range goes before the moments"),
        (FOREIGN, {"label_range": [0, 4]}, "my dog died", "ok", 0.25, "a model from elsewhere, with its range"),
        (RATED, {}, "my dog died", " ", 0.0, "empty"),
        (PAIRS, {}, "my dog died", "", 0.0, "empty"),
        (RATED, {}, "", "ok", None, "nothing was said"),
    ],
)
def test_table(make_classifier, settings, parameters, said, reply, expected, why):
    reward = RewardModel(model=make_classifier(SCORES, **settings), **parameters)
    (value,) = reward.score([[{"role": "user", "content": said}]], [reply])
    assert value == (None if expected is None else pytest.approx(expected, abs=1e-4)), why


def test_only_what_the_user_said_last_is_read(make_classifier):
    turns = [("system", "Listen."), ("user", "hi"), ("assistant", "hello"), ("user", "my dog died")]
    prompt = [{"role": role, "content": content} for role, content in turns]
    reward = RewardModel(model=make_classifier(SCORES, **RATED))
    assert reward.score([prompt], ["i am sorry"]) == [pytest.approx(0.75, abs=1e-4)]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (FOREIGN, "label_range: the model's config.json has no label_ranges for LABEL_0"),
        (RATED | {"problem_type": "multi_label_classification"}, "model: was trained for multi_label_classification"),
        (PAIRS | {"score_moments": {"mean": 1.0, "std": 0.0}}, "model: gave all held-out replies the same score"),
    ],
)
def test_models_that_do_not_fit(make_classifier, settings, message):
    with pytest.raises(UserError, match=f"^rewards.reward_model: {message}"):
        RewardModel(model=make_classifier(SCORES, **settings)).load()


def test_a_model_with_several_outputs_belongs_to_other_rewards(make_classifier):
    names = {"id2label": {0: "Empathy", 1: "Emotion"}, "problem_type": "regression"}
    folder = make_classifier({"a": [1.0, 2.0]}, **names)
    message = r"model: has 2 outputs \(Empathy, Emotion\); expected one.* quality_critic, .* empathy_model"
    with pytest.raises(UserError, match=f"^rewards.reward_model: {message}"):
        RewardModel(model=folder).load()


def test_a_fresh_head_is_refused(make_classifier, tmp_path):
    folder = make_classifier(SCORES, **RATED)
    BertModel.from_pretrained(folder).save_pretrained(tmp_path / "base")  # the head is left out
    BertTokenizer.from_pretrained(folder).save_pretrained(tmp_path / "base")
    with pytest.raises(
        UserError, match=r"^rewards.reward_model: .*base: has no trained head: classifier\.bias, classifier"
    ):
        RewardModel(model=str(tmp_path / "base")).load()
