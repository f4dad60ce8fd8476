"""`emotion_alignment`: the probability of the labels that fit, by name or by a mapping."""

import math

import pytest

from empathy_trl.errors import UserError
from empathy_trl.rewards.emotion import EmotionAlignment

# probabilities 0.5, 0.25, 0.25 and 0.1, 0.1, 0.8
SCORES = {
    "there there": [math.log(2), 0.0, 0.0],
    "well done": [0.0, 0.0, math.log(8)],
}
LABELS = {"id2label": {0: "Consoling", 1: "Sympathizing", 2: "Acknowledging"}}
MAPPING = {
    "sad": ["consoling", "sympathizing"],
    "joyful": ["Acknowledging"],
    "odd": ["consoling", "sympathizing", "acknowledging"],
}


@pytest.fixture
def folder(make_classifier):
    return make_classifier(SCORES, **LABELS)


@pytest.mark.parametrize(
    ("parameters", "emotion", "reply", "expected", "why"),
    [
        ({}, "consoling", "there there", 0.5, "the label itself, in any case"),
        ({}, " ACKNOWLEDGING ", "well done", 0.8, "spaces around it"),
        ({"mapping": MAPPING}, "sad", "there there", 0.75, "the sum of what fits"),
        ({"mapping": MAPPING}, "Sad", "<answer>well done</answer>", 0.2, "what does not fit"),
        ({"mapping": MAPPING}, "joyful", "well done", 0.8, "another emotion"),
        ({"mapping": MAPPING}, "odd", "well done", 1.0, "everything fits"),
        ({"mapping": MAPPING}, "sympathizing", "there there", 0.25, "an emotion beside the mapping"),
        ({}, None, "there there", None, "a row without emotion"),
        ({}, None, "", None, "neither emotion nor reply"),
        ({}, "consoling", "", 0.0, "empty"),
    ],
)
def test_table(folder, parameters, emotion, reply, expected, why):
    reward = EmotionAlignment(model=folder, **parameters)
    (found,) = reward.score(["p"], [reply], emotion=[emotion])
    assert found == (None if expected is None else pytest.approx(expected, abs=1e-4)), why
    assert found is None or found <= 1


def test_rows_have_their_own_labels_and_column(folder):
    reward = EmotionAlignment(model=folder, column="label", mapping=MAPPING)
    found = reward.score(["p"] * 3, ["there there", "", "there there"], label=["sad", "sad", "joyful"])
    assert found == [pytest.approx(0.75, abs=1e-4), 0.0, pytest.approx(0.25, abs=1e-4)]


@pytest.mark.parametrize(
    ("completion", "expected", "why"),
    [
        ("<react>*There* + *there*</react><respond>Well done!</respond>", 0.75, "the reaction, not the response"),
        ("<react>*Well* + *done*</react><respond>There, there.</respond>", 0.2, "one that does not fit"),
        ("<react></react><respond>There, there.</respond>", 0.0, "no reaction"),
        ("<react>there there<respond>There, there.</respond>", 0.0, "a broken reaction"),
    ],
)
def test_the_reaction_of_a_reply_in_three_parts(make_classifier, completion, expected, why):
    seen = {"* there * + * there *": SCORES["there there"], "* well * + * done *": SCORES["well done"]}
    reward = EmotionAlignment(model=make_classifier(seen, **LABELS), mapping=MAPPING, reply_tags=["react"])
    assert reward.score(["p"], [completion], emotion=["sad"]) == [pytest.approx(expected, abs=1e-4)], why
    assert reward.tags == ["react"]


@pytest.mark.parametrize(
    ("parameters", "columns", "message"),
    [
        ({}, {}, "needs a column `emotion` in the data"),
        (
            {},
            {"emotion": ["consoling", "sad"]},
            r"column: the data has the emotion 'sad', and the model has no such label \(choices: Consoling, Symp.*ging\)$",
        ),
        (
            {"mapping": MAPPING},
            {"emotion": ["x", None]},
            r"choices: Consoling, .*or an emotion of `mapping`: sad, joyful",
        ),
        (
            {"mapping": {"sad": ["hugging"]}},
            {},
            r"mapping: of sad: the model has no label 'hugging' \(choices: Consoling, Sympathizing, Acknowledging\)",
        ),
    ],
)
def test_names_that_do_not_fit(folder, parameters, columns, message):
    with pytest.raises(UserError, match=f"^rewards.emotion_alignment.*{message}"):
        EmotionAlignment(model=folder, **parameters).score(["p"] * 2, ["ok"] * 2, **columns)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"label_groups": [["a", ["x"]], ["b", ["y", "z"]]]},
            r"model: has several groups of labels \(a, b\); expected",
        ),
        ({"label_groups": [["a", ["x"]]]}, "model: has 3 outputs, but label_groups in its config.json name 1"),
        ({"problem_type": "multi_label_classification"}, "model: was trained for multi_label_classification"),
    ],
)
def test_models_that_do_not_fit(make_classifier, settings, message):
    with pytest.raises(UserError, match=f"^rewards.emotion_alignment: {message}"):
        EmotionAlignment(model=make_classifier(SCORES, **settings)).load()


@pytest.mark.parametrize("fitting", [[], ["a", "A"]])
def test_a_mapping_without_labels_or_with_one_twice(fitting):
    with pytest.raises(UserError, match="mapping: sad needs labels of the model, all different, got"):
        EmotionAlignment(model="m", mapping={"sad": fitting})
