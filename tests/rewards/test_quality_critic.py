"""`quality_critic`: the mean of dimensions, each on its own scale."""

import pytest

from empathy_trl.errors import UserError
from empathy_trl.rewards.learned import QualityCritic

SCORES = {"i am sorry": [3.0, 4.0, 9.0], "ok": [1.0, 0.0, -9.0], ("my dog died", "ok"): [2.0, 2.0, 0.5]}
MODEL = {
    "id2label": {0: "Fluent", 1: "Kind", 2: "Useful"},
    "label_ranges": {"Fluent": [1, 5], "Kind": [0, 4], "Useful": [0, 1]},
}


@pytest.mark.parametrize(
    ("parameters", "reply", "expected", "why"),
    [
        ({}, "i am sorry", (0.5 + 1 + 1) / 3, "all dimensions; the last is clipped"),
        ({}, "ok", 0.0, "the lowest of all"),
        ({"dimensions": ["fluent"]}, "i am sorry", 0.5, "one"),
        ({"dimensions": ["Kind", "Fluent"]}, "<answer>i am sorry</answer>", 0.75, "two"),
        ({"pair": True}, "ok", (0.25 + 0.5 + 0.5) / 3, "read with what the user said"),
        ({"label_range": [0, 4], "dimensions": ["Fluent"]}, "i am sorry", 0.75, "a range that is given goes first"),
        ({}, "", 0.0, "empty"),
    ],
)
def test_table(make_classifier, parameters, reply, expected, why):
    reward = QualityCritic(model=make_classifier(SCORES, **MODEL), **parameters)
    assert reward.score(["my dog died"], [reply]) == [pytest.approx(expected, abs=1e-4)], why


@pytest.mark.parametrize(("pair", "expected"), [(False, 0.0), (True, None)])
def test_a_prompt_without_a_user_matters_to_a_pair_only(make_classifier, pair, expected):
    reward = QualityCritic(model=make_classifier(SCORES, **MODEL), pair=pair)
    assert reward.score([""], ["ok"]) == [None if expected is None else pytest.approx(expected, abs=1e-4)]


@pytest.mark.parametrize(
    ("settings", "parameters", "message"),
    [
        (
            MODEL,
            {"dimensions": ["Kind", "Brief"]},
            r"dimension: the model has no output 'Brief' \(choices: Fluent, Kind, U",
        ),
        ({}, {}, "label_range: the model's config.json has no label_ranges for LABEL_0"),
        (MODEL | {"label_ranges": {"Fluent": [1, 5]}}, {}, "label_range: .* no label_ranges for Kind"),
        (MODEL | {"problem_type": "single_label_classification"}, {}, "model: was trained for single_label"),
    ],
)
def test_models_that_do_not_fit(make_classifier, settings, parameters, message):
    with pytest.raises(UserError, match=f"^rewards.quality_critic: {message}"):
        QualityCritic(model=make_classifier(SCORES, **settings), **parameters).load()


@pytest.mark.parametrize("dimensions", [[], ["Kind", "kind"]])
def test_dimensions_are_different_names(dimensions):
    with pytest.raises(UserError, match="dimensions: expected different names, at least one, got"):
        QualityCritic(model="m", dimensions=dimensions)
