"""`semantic_similarity`: pairs of user and reply, on the model's own scale, which is never guessed."""

import math

import pytest

from empathy_trl.errors import UserError
from empathy_trl.rewards.learned import SemanticSimilarity

SCORES = {("my dog died", "a dog"): [2.0], ("my dog died", "ok"): [-1.0], ("i won", "a dog"): [0.5], ("x", "y"): [9.0]}
PROMPT = [{"role": "system", "content": "x"}, {"role": "user", "content": "my dog died"}]
SIGMOID = {"sentence_transformers": {"activation_fn": "torch.nn.modules.activation.Sigmoid"}}
IDENTITY = {"sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"}}
OURS = {"id2label": {0: "similarity"}, "label_ranges": {"similarity": [0, 4]}, "problem_type": "regression"}


@pytest.mark.parametrize(
    ("settings", "parameters", "reply", "expected", "why"),
    [
        (SIGMOID, {}, "a dog", 1 / (1 + math.exp(-2)), "the sigmoid of a cross-encoder"),
        (SIGMOID, {}, "ok", 1 / (1 + math.exp(1)), "the other side of it"),
        ({"sbert_ce_default_activation_function": "torch.nn.modules.activation.Sigmoid"}, {}, "ok", 0.26894, "older"),
        (OURS, {}, "a dog", 0.5, "2 of 0 to 4"),
        (OURS, {}, "ok", 0.0, "below the range"),
        (IDENTITY, {"label_range": [-2, 2]}, "ok", 0.25, "-1 of -2 to 2"),
        (SIGMOID, {"label_range": [-2, 2]}, "ok", 0.25, "a range that is given goes first"),
        ({}, {"label_range": [-2, 2]}, "<respond>a dog</respond>", 1.0, "a model that says nothing"),
        (OURS, {"dimension": "Similarity"}, "a dog", 0.5, "by name"),
        (SIGMOID, {}, "", 0.0, "empty"),
    ],
)
def test_the_scale(make_classifier, settings, parameters, reply, expected, why):
    reward = SemanticSimilarity(model=make_classifier(SCORES, **settings), **parameters)
    assert reward.score([PROMPT], [reply]) == [pytest.approx(expected, abs=1e-4)], why


def test_the_scale_is_not_that_of_the_batch(make_classifier):
    reward = SemanticSimilarity(model=make_classifier(SCORES, **OURS))
    alone = reward.score([PROMPT], ["a dog"])
    assert reward.score([PROMPT, "x"], ["a dog", "y"])[:1] == pytest.approx(alone, abs=1e-5)


@pytest.mark.parametrize(
    ("prompt", "column", "expected", "why"),
    [
        ("my dog died", None, 0.5, "a plain prompt"),
        (
            [*PROMPT, {"role": "assistant", "content": "ok"}, {"role": "user", "content": "i won"}],
            None,
            0.125,
            "the last",
        ),
        ("other", "my dog died", 0.5, "a column goes first"),
        ("my dog died", "", None, "nothing in the column"),
        ("my dog died", "\u200b", None, "nothing to see in the column"),
        (PROMPT[:1], None, None, "the user said nothing"),
        ("", None, None, "an empty prompt"),
    ],
)
def test_the_users_utterance(make_classifier, prompt, column, expected, why):
    reward = SemanticSimilarity(model=make_classifier(SCORES, **OURS), column=None if column is None else "utterance")
    found = reward.score([prompt, prompt], ["a dog", ""], utterance=[column, column])
    assert found == ([None, None] if expected is None else [pytest.approx(expected, abs=1e-4), 0.0]), why


def test_none_in_the_column(make_classifier):
    reward = SemanticSimilarity(model=make_classifier(SCORES, **OURS), column="utterance")
    assert reward.score(["p", "p"], ["a dog", "a dog"], utterance=[None, "my dog died"]) == [
        None,
        pytest.approx(0.5, abs=1e-4),
    ]
    with pytest.raises(UserError, match="rewards.semantic_similarity: needs a column `utterance` in the data"):
        reward.score(["p"], ["a dog"])


@pytest.mark.parametrize(
    ("outputs", "settings", "message"),
    [
        (1, {}, "label_range: the model's config.json has no label_ranges for LABEL_0; give .lowest, highest."),
        (1, IDENTITY, "label_range: the model's config.json has no label_ranges for LABEL_0"),
        (2, OURS | {"id2label": {0: "a", 1: "b"}}, r"dimension: missing; the model has several .*\(choices: a, b\)"),
        (
            2,
            {"problem_type": "single_label_classification"},
            "model: was trained for single_label_class.*expected regr",
        ),
    ],
)
def test_what_the_model_does_not_say_is_asked_for(make_classifier, outputs, settings, message):
    scores = {pair: score * outputs for pair, score in SCORES.items()}
    with pytest.raises(UserError, match=f"^rewards.semantic_similarity: {message}"):
        SemanticSimilarity(model=make_classifier(scores, **settings)).load()
