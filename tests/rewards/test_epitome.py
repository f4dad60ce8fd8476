"""`epitome`: the expected level of a mechanism, read from its own group of logits."""

import math

import pytest

from empathy_trl.errors import UserError
from empathy_trl.rewards.learned import Epitome

L2, L8 = math.log(2), math.log(8)
# reactions 0.25 0.25 0.5, explorations 0.8 0.2 / reactions 0.8 0.1 0.1, explorations 0.5 0.5
SCORES = {("my dog died", "i am sorry"): [0, 0, L2, L2 * 2, 0], ("my dog died", "ok"): [L8, 0, 0, 5, 5]}
GROUPS = {"label_groups": [["reactions", ["0", "1", "2"]], ["explorations", ["0", "1"]]]}  # not in the order of names


@pytest.mark.parametrize(
    ("mechanism", "prompt", "reply", "expected", "why"),
    [
        ("reactions", "my dog died", "i am sorry", (0.25 + 2 * 0.5) / 2, "expected level 1.25 of 2"),
        ("reactions", "my dog died", "<answer>ok</answer>", (0.1 + 0.2) / 2, "expected level 0.3 of 2"),
        ("explorations", "my dog died", "i am sorry", 0.2, "two levels"),
        ("explorations", [{"role": "user", "content": "my dog died"}], "ok", 0.5, "its own softmax"),
        ("explorations", "my dog died", "", 0.0, "empty"),
        ("explorations", [{"role": "system", "content": "my dog died"}], "ok", None, "no user"),
    ],
)
def test_table(make_classifier, mechanism, prompt, reply, expected, why):
    reward = Epitome(model=make_classifier(SCORES, **GROUPS), mechanism=mechanism)
    assert reward.score([prompt], [reply]) == [expected if expected is None else pytest.approx(expected, abs=1e-4)], why


@pytest.mark.parametrize(
    ("settings", "mechanism", "message"),
    [
        (GROUPS, "interpretations", r"the model has no group 'interpretations' \(choices: reactions, explor"),
        ({}, "explorations", r"the model has no group 'explorations' \(choices: label\)"),
        (
            {"label_groups": [["a", ["0"]], ["b", ["0", "1", "2", "3"]]]},
            "a",
            "a has one level in the model; expected two",
        ),
    ],
)
def test_models_that_do_not_fit(make_classifier, settings, mechanism, message):
    with pytest.raises(UserError, match=f"^rewards.epitome: mechanism: {message}"):
        Epitome(model=make_classifier(SCORES, **settings), mechanism=mechanism).load()
