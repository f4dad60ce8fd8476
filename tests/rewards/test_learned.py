"""Rewards by models of ratings and of levels, against numbers worked out by hand."""

import math
import pickle

import numpy as np
import pytest

from empathy_trl.errors import UserError
from empathy_trl.rewards.learned import (
    EmpathyModel,
    Epitome,
    QualityCritic,
    RewardModel,
    SemanticSimilarity,
    add_to_moments,
)

# quality_critic
SCORES = {"i am sorry": [3.0, 4.0, 9.0], "ok": [1.0, 0.0, -9.0], ("my dog died", "ok"): [2.0, 2.0, 0.5]}
MODEL = {
    "id2label": {0: "Fluent", 1: "Kind", 2: "Useful"},
    "label_ranges": {"Fluent": [1, 5], "Kind": [0, 4], "Useful": [0, 1]},
}


# reward_model
REWARD_MODEL_SCORES = {("my dog died", "i am sorry"): [4.0], ("my dog died", "ok"): [1.0], ("i won", "ok"): [2.5]}
RATED = {"id2label": {0: "overall"}, "problem_type": "regression", "label_ranges": {"overall": [1, 5]}}
PAIRS = {"id2label": {0: "overall"}, "problem_type": "regression", "score_moments": {"mean": 2.5, "std": 1.5}}
FOREIGN = {"id2label": {0: "LABEL_0"}}


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


# semantic_similarity
SEMANTIC_SIMILARITY_SCORES = {
    ("my dog died", "a dog"): [2.0],
    ("my dog died", "ok"): [-1.0],
    ("i won", "a dog"): [0.5],
    ("x", "y"): [9.0],
}
PROMPT = [{"role": "system", "content": "x"}, {"role": "user", "content": "my dog died"}]
SIGMOID = {"sentence_transformers": {"activation_fn": "torch.nn.modules.activation.Sigmoid"}}
IDENTITY = {"sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"}}
OURS = {"id2label": {0: "similarity"}, "label_ranges": {"similarity": [0, 4]}, "problem_type": "regression"}


@pytest.mark.parametrize(
    ("prompt", "column", "expected", "why"),
    [
        ("my dog died", None, 0.5, "a plain prompt"),
        ([*PROMPT, {"role": "assistant", "content": "ok"}, {"role": "user", "content": "i won"}], None, 0.125, "the last"),
        ("other", "my dog died", 0.5, "a column goes first"),
        ("my dog died", "", None, "nothing in the column"),
        ("my dog died", "\u200b", None, "nothing to see in the column"),
        (PROMPT[:1], None, None, "the user said nothing"),
        ("", None, None, "an empty prompt"),
    ],
)  # fmt: skip
def test_the_users_utterance(make_classifier, prompt, column, expected, why):
    reward = SemanticSimilarity(
        model=make_classifier(SEMANTIC_SIMILARITY_SCORES, **OURS), column=None if column is None else "utterance"
    )
    found = reward.score([prompt, prompt], ["a dog", ""], utterance=[column, column])
    assert found == ([None, None] if expected is None else [pytest.approx(expected, abs=1e-4), 0.0]), why


def test_none_in_the_column(make_classifier):
    reward = SemanticSimilarity(model=make_classifier(SEMANTIC_SIMILARITY_SCORES, **OURS), column="utterance")
    found = reward.score(["p", "p"], ["a dog", "a dog"], utterance=[None, "my dog died"])
    assert found == [None, pytest.approx(0.5, abs=1e-4)]
    with pytest.raises(UserError, match="rewards.semantic_similarity: needs a column `utterance` in the data"):
        reward.score(["p"], ["a dog"])


# empathy_model
EMPATHY_MODEL_SCORES = {
    "cold": [3.0, 1.0],
    "tepid": [3.0, 2.0],
    "warm": [3.0, 3.0],
    "hot": [3.0, 7.0],
    "icy": [3.0, -2.0],
}
NAMES = {"id2label": {0: "Emotion", 1: "Empathy"}}
RANGES = {"label_ranges": {"Emotion": [1, 7], "Empathy": [0, 5]}}


def score(reward, *replies):
    return reward.score(["p"] * len(replies), list(replies))


@pytest.mark.parametrize("temperature", [0.6, 2.0])
def test_zscore_sigmoid_over_the_batch(make_classifier, temperature):
    reward = EmpathyModel(
        model=make_classifier(EMPATHY_MODEL_SCORES, **NAMES), calibration="zscore_sigmoid", temperature=temperature
    )
    z = math.sqrt(1.5)  # 1, 2, 3 have the mean 2 and the standard deviation sqrt(2 / 3)
    expected = [sigmoid(-z / temperature), 0.5, sigmoid(z / temperature)]
    np.testing.assert_allclose(score(reward, "cold", "tepid", "warm"), expected, atol=1e-4)
    # an empty reply earns 0 and moves nobody
    np.testing.assert_allclose(
        score(reward, "warm", "", "cold", "tepid"), [expected[2], 0, expected[0], 0.5], atol=1e-4
    )


@pytest.mark.parametrize("calibration", ["zscore_sigmoid", "running"])
@pytest.mark.parametrize("replies", [["warm"], ["warm", "warm", "warm"]], ids=["one", "equal"])
def test_without_a_deviation_the_reward_is_in_the_middle(make_classifier, calibration, replies):
    reward = EmpathyModel(model=make_classifier(EMPATHY_MODEL_SCORES, **NAMES), calibration=calibration)
    assert score(reward, *replies) == [0.5] * len(replies)


def test_running_moments_count_all_that_was_seen(make_classifier):
    reward = EmpathyModel(model=make_classifier(EMPATHY_MODEL_SCORES, **NAMES), calibration="running")
    np.testing.assert_allclose(
        score(reward, "cold", "warm", ""),
        [sigmoid(-1 / 0.6), sigmoid(1 / 0.6), 0],
        atol=1e-4,
    )
    assert score(reward, "") == [0.0]
    # seen so far: 1, 3 and now 2, 2; the mean stays 2, the standard deviation is sqrt(1 / 2)
    assert score(reward, "tepid", "tepid") == pytest.approx([0.5, 0.5], abs=1e-4)
    copy = pickle.loads(pickle.dumps(reward))
    for one in (reward, copy):
        # 1, 3, 2, 2, 7: mean 3, variance (4 + 0 + 1 + 1 + 16) / 5
        assert score(one, "hot") == [pytest.approx(sigmoid(4 / math.sqrt(4.4) / 0.6), abs=1e-4)]


def test_welford_agrees_with_numpy_far_from_zero():
    values = np.random.default_rng(0).normal(1e6, 1, 1000)
    seen = (0, 0.0, 0.0)
    for part in np.array_split(values, [1, 10, 500]):
        seen = add_to_moments(seen, part)
    count, mean, squares = seen
    assert (count, mean) == (1000, pytest.approx(values.mean(), rel=1e-12))
    assert math.sqrt(squares / count) == pytest.approx(values.std(), rel=1e-6)


# epitome
L2, L8 = math.log(2), math.log(8)
# reactions 0.25 0.25 0.5, explorations 0.8 0.2 / reactions 0.8 0.1 0.1, explorations 0.5 0.5
EPITOME_SCORES = {("my dog died", "i am sorry"): [0, 0, L2, L2 * 2, 0], ("my dog died", "ok"): [L8, 0, 0, 5, 5]}
GROUPS = {"label_groups": [["reactions", ["0", "1", "2"]], ["explorations", ["0", "1"]]]}  # not in the order of names


# every kind
SCORES_OF = {QualityCritic: SCORES, RewardModel: REWARD_MODEL_SCORES, SemanticSimilarity: SEMANTIC_SIMILARITY_SCORES,
             EmpathyModel: EMPATHY_MODEL_SCORES, Epitome: EPITOME_SCORES}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "settings", "parameters", "prompt", "reply", "expected", "why"),
    [
        (QualityCritic, MODEL, {}, "my dog died", "i am sorry", (0.5 + 1 + 1) / 3, "all dimensions; the last is clipped"),
        (QualityCritic, MODEL, {}, "my dog died", "ok", 0.0, "the lowest of all"),
        (QualityCritic, MODEL, {"dimensions": ["fluent"]}, "my dog died", "i am sorry", 0.5, "one"),
        (QualityCritic, MODEL, {"dimensions": ["Kind", "Fluent"]}, "my dog died", "<answer>i am sorry</answer>", 0.75, "two"),
        (QualityCritic, MODEL, {"pair": True}, "my dog died", "ok", (0.25 + 0.5 + 0.5) / 3, "read with what the user said"),
        (QualityCritic, MODEL, {"label_range": [0, 4], "dimensions": ["Fluent"]}, "my dog died", "i am sorry", 0.75, "a range that is given goes first"),
        (QualityCritic, MODEL, {}, "my dog died", "", 0.0, "empty"),
        (QualityCritic, MODEL, {}, "", "ok", 0.0, "a prompt without a user matters"),
        (QualityCritic, MODEL, {"pair": True}, "", "ok", None, "to a pair only"),
        (RewardModel, RATED, {}, "my dog died", "i am sorry", 0.75, "its place in the range"),
        (RewardModel, RATED, {}, "my dog died", "ok", 0.0, "the lowest rating"),
        (RewardModel, RATED, {}, "i won", "ok", 0.375, "the same reply to something else"),
        (RewardModel, RATED, {}, "my dog died", "<answer>i am sorry</answer>", 0.75, "the reply in its tags"),
        (RewardModel, RATED, {"label_range": [0, 4]}, "my dog died", "i am sorry", 1.0, "a range that is given goes first"),
        (RewardModel, PAIRS, {}, "i won", "ok", 0.5, "an average score"),
        (RewardModel, PAIRS, {}, "my dog died", "i am sorry", sigmoid(1), "one deviation above"),
        (RewardModel, PAIRS, {}, "my dog died", "ok", sigmoid(-1), "one deviation below"),
        (RewardModel, PAIRS, {"label_range": [0, 4]}, "my dog died", "ok", 0.25, "a range goes before the moments"),
        (RewardModel, RATED, {}, "my dog died", " ", 0.0, "empty"),
        (RewardModel, RATED, {}, "", "ok", None, "nothing was said"),
        (SemanticSimilarity, SIGMOID, {}, PROMPT, "a dog", 1 / (1 + math.exp(-2)), "the sigmoid of a cross-encoder"),
        (SemanticSimilarity, SIGMOID, {}, PROMPT, "ok", 1 / (1 + math.exp(1)), "the other side of it"),
        (SemanticSimilarity, {"sbert_ce_default_activation_function": "torch.nn.modules.activation.Sigmoid"}, {}, PROMPT, "ok", 0.26894, "older"),
        (SemanticSimilarity, OURS, {}, PROMPT, "a dog", 0.5, "2 of 0 to 4"),
        (SemanticSimilarity, OURS, {}, PROMPT, "ok", 0.0, "below the range"),
        (SemanticSimilarity, IDENTITY, {"label_range": [-2, 2]}, PROMPT, "ok", 0.25, "-1 of -2 to 2"),
        (SemanticSimilarity, SIGMOID, {"label_range": [-2, 2]}, PROMPT, "ok", 0.25, "a range that is given goes first"),
        (SemanticSimilarity, {}, {"label_range": [-2, 2]}, PROMPT, "<respond>a dog</respond>", 1.0, "a model that says nothing"),
        (SemanticSimilarity, SIGMOID, {}, PROMPT, "", 0.0, "empty"),
        (EmpathyModel, NAMES | RANGES, {}, "p", "cold", 0.2, "1 of 0 to 5"),
        (EmpathyModel, NAMES | RANGES, {}, "p", "<answer>warm</answer>", 0.6, "3 of 0 to 5"),
        (EmpathyModel, NAMES | RANGES, {}, "p", "hot", 1.0, "above the range"),
        (EmpathyModel, NAMES | RANGES, {}, "p", "icy", 0.0, "below the range"),
        (EmpathyModel, NAMES | RANGES, {"label_range": [1, 3]}, "p", "tepid", 0.5, "a range that is given goes first"),
        (EmpathyModel, NAMES | RANGES, {"dimension": "Emotion"}, "p", "cold", 1 / 3, "3 of 1 to 7"),
        (EmpathyModel, NAMES | RANGES, {}, "p", "", 0.0, "empty"),
        (Epitome, GROUPS, {"mechanism": "reactions"}, "my dog died", "i am sorry", (0.25 + 2 * 0.5) / 2, "expected level 1.25 of 2"),
        (Epitome, GROUPS, {"mechanism": "reactions"}, "my dog died", "<answer>ok</answer>", (0.1 + 0.2) / 2, "expected level 0.3 of 2"),
        (Epitome, GROUPS, {"mechanism": "explorations"}, "my dog died", "i am sorry", 0.2, "two levels"),
        (Epitome, GROUPS, {"mechanism": "explorations"}, [{"role": "user", "content": "my dog died"}], "ok", 0.5, "its own softmax"),
        (Epitome, GROUPS, {"mechanism": "explorations"}, "my dog died", "", 0.0, "empty"),
        (Epitome, GROUPS, {"mechanism": "explorations"}, [{"role": "system", "content": "my dog died"}], "ok", None, "no user"),
    ],
)  # fmt: skip
def test_table(make_classifier, kind, settings, parameters, prompt, reply, expected, why):
    reward = kind(model=make_classifier(SCORES_OF[kind], **settings), **parameters)
    assert reward.score([prompt], [reply]) == [None if expected is None else pytest.approx(expected, abs=1e-4)], why


# models that do not fit
TWO = {"a": [1.0, 2.0]}


@pytest.mark.parametrize(
    ("kind", "parameters", "scores", "settings", "message"),
    [
        (QualityCritic, {"dimensions": ["Kind", "Brief"]}, SCORES, MODEL, r"dimension: the model has no output 'Brief' \(choices: Fluent, Kind, U"),
        (QualityCritic, {}, SCORES, {}, "label_range: the model's config.json has no label_ranges for LABEL_0"),
        (QualityCritic, {}, SCORES, MODEL | {"label_ranges": {"Fluent": [1, 5]}}, "label_range: .* no label_ranges for Kind"),
        (QualityCritic, {}, SCORES, MODEL | {"problem_type": "single_label_classification"}, "model: was trained for single_label"),
        (RewardModel, {}, REWARD_MODEL_SCORES, FOREIGN, "label_range: the model's config.json has no label_ranges for LABEL_0"),
        (RewardModel, {}, REWARD_MODEL_SCORES, PAIRS | {"score_moments": {"mean": 1.0, "std": 0.0}}, "model: gave all held-out replies the same score"),
        (RewardModel, {}, REWARD_MODEL_SCORES, RATED | {"problem_type": "multi_label_classification"}, "model: was trained for multi_label_class"),
        (RewardModel, {}, TWO, NAMES, r"model: has 2 outputs \(Emotion, Empathy\); expected one.* quality_critic, .* empathy_model"),
        (SemanticSimilarity, {}, SEMANTIC_SIMILARITY_SCORES, IDENTITY, "label_range: .* no label_ranges for LABEL_0; give .lowest, highest."),
        (SemanticSimilarity, {}, TWO, NAMES, r"dimension: missing; the model has several .*\(choices: Emotion, Empathy\)"),
        (SemanticSimilarity, {}, TWO, {"problem_type": "single_label_classification"}, "model: was trained for single_label_class.*expected regr"),
        (EmpathyModel, {"dimension": "LABEL_1"}, TWO, {}, "label_range: the model's config.json has no label_ranges for LABEL_1; give .lowest"),
        (EmpathyModel, {}, TWO, {}, r"dimension: the model has no output 'Empathy' \(choices: LABEL_0, LABEL_1\)"),
        (Epitome, {"mechanism": "other"}, EPITOME_SCORES, GROUPS, r"mechanism: the model has no group 'other' \(choices: reactions, explor"),
        (Epitome, {"mechanism": "other"}, EPITOME_SCORES, {}, r"mechanism: the model has no group 'other' \(choices: label\)"),
        (Epitome, {"mechanism": "a"}, EPITOME_SCORES, {"label_groups": [["a", ["0"]], ["b", ["0", "1", "2", "3"]]]}, "mechanism: a has one level in the model; exp"),
    ],
)  # fmt: skip
def test_models_that_do_not_fit(make_classifier, kind, parameters, scores, settings, message):
    with pytest.raises(UserError, match=f"^rewards.{kind(model='m', **parameters).__name__}: {message}"):
        kind(model=make_classifier(scores, **settings), **parameters).load()
