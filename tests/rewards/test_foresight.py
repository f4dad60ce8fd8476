"""`foresight` as a table of (reflection, next turn, others' turns, expected, why), in words and by a model."""

import asyncio
import pickle

import pytest
from trl.trainer.utils import is_async_callable

from empathy_trl.errors import UserError
from empathy_trl.rewards.staged import Foresight
from tests.rewards.three_parts import NEXT, OTHERS, PROMPT, REFLECTION, REPLY, TURN, reply


def earned(reward, reflection, following, others, **columns):
    columns |= {"next_user": [following], "other_users": [others]}
    return reward.score([PROMPT], [reply(reflect=reflection)], **columns)[0]


CASES = [
    ("visit toast", "visit toast", ["bus lake"], 1.0, "what comes, word for word"),
    ("visit toast", "visit train", ["bus lake"], 0.75, "half of it: cosine 1/2"),
    ("visits", "visiting", ["bus lake"], 1.0, "inflected"),
    ("garden", "visit toast", ["bus lake"], 0.5, "nothing of it"),
    ("visit", "visit", ["visit"], 0.5, "fits everybody"),
    ("visit", "toast", ["visit"], 0.0, "fits everybody but the user"),
    ("visit", "visit", ["visit", "bus"], 0.75, "fits one of two others"),
    (TURN, "My sister moved, and the flat is so quiet", ["bus"], 0.5, "what was said is not foreseen"),
    (f"{TURN} visit", "My sister visits the flat", ["bus"], 1.0, "what is new in both counts"),
    ("", "visit", ["bus"], 0.0, "no reflection"),
    ("visit", None, ["bus"], None, "the talk ends here"),
    ("visit", " \u200b", ["bus"], None, "the user says nothing"),
    ("visit", "visit", [], None, "nobody to compare with"),
    ("visit", "visit", None, None, "nobody to compare with"),
    ("", None, ["bus"], None, "does not apply, whatever the reflection is"),
    ("明天去看姐姐", "明天看姐姐", ["公交车"], 0.5 + 5 / (2 * (5 * 4) ** 0.5) * 0.8, "no spaces: 4 of 5 and 4 characters"),
]  # fmt: skip


@pytest.mark.parametrize(("reflection", "following", "others", "expected", "why"), CASES)
def test_table(reflection, following, others, expected, why):
    found = earned(Foresight(), reflection, following, others)
    assert found == (None if expected is None else pytest.approx(expected)), why


def test_a_thought_that_was_of_use_earns_more_than_others():
    gold = earned(Foresight(), REFLECTION, NEXT, OTHERS)
    vague = earned(Foresight(), "They seem to have a lot on their mind, I should listen and be kind.", NEXT, OTHERS)
    parrot = earned(Foresight(), TURN, NEXT, OTHERS)
    assert gold > 0.6 and 0.45 < vague < 0.51 and parrot == 0.5


def test_a_broken_reflection_earns_nothing_and_other_parts_do_not_matter():
    completions = [REPLY, REPLY.replace("</respond>", ""), REPLY.replace("<reflect>", ""), "", [{"content": None}]]
    n = len(completions)
    columns = {"next_user": [NEXT] * n, "other_users": [OTHERS] * n}
    whole, beside, *broken = Foresight().score([PROMPT] * n, completions, **columns)
    assert whole == beside > 0.6 and broken == [0.0, 0.0, 0.0]


def test_what_is_logged():
    logged = {}
    columns = {"next_user": ["visit", "visit", None], "other_users": [["visit", "bus"], ["bus"], ["bus"]]}
    completions = [reply(reflect="visit"), "", REPLY]
    Foresight().score([PROMPT] * 3, completions, log_metric=logged.__setitem__, **columns)
    assert logged == {"foresight/next": 1.0, "foresight/others": 0.5}  # of the row that applies and has a reflection
    Foresight().score([PROMPT], [""], next_user=["visit"], other_users=[["bus"]], log_metric=pytest.fail)


def test_the_call_is_a_coroutine_with_the_same_result():
    reward = pickle.loads(pickle.dumps(Foresight()))
    columns = {"next_user": [NEXT], "other_users": [OTHERS]}
    assert is_async_callable(reward)
    assert asyncio.run(reward([PROMPT], [REPLY], [[1]], **columns)) == Foresight().score([PROMPT], [REPLY], **columns)
    assert list(reward.tags) == ["reflect"]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"other_users": [[]]}, "needs a column `next_user` in the data"),
        ({"next_user": ["x"]}, "needs a column `other_users` in the data"),
        ({"next_user": [3], "other_users": [[]]}, "`next_user` holds 3; expected a text or null"),
        ({"next_user": ["x"], "other_users": ["bus"]}, "`other_users` holds 'bus'; expected a list of texts or null"),
        ({"next_user": ["x"], "other_users": [[None]]}, r"`other_users` holds \[None\]; expected a list of texts"),
    ],
)
def test_columns_that_do_not_fit(columns, message):
    with pytest.raises(UserError, match=f"^rewards.foresight: {message}"):
        Foresight().score([PROMPT], [REPLY], **columns)


# By a model

SCORES = {("visit", "a plan"): [4.0], ("bus", "a plan"): [1.0], ("rain", "a plan"): [0.0]}
OURS = {"id2label": {0: "similarity"}, "label_ranges": {"similarity": [0, 4]}, "problem_type": "regression"}


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({}, (1 + 1 - 1 / 8) / 2),
        ({"label_range": [0, 8]}, (1 + 0.5 - 1 / 16) / 2),
        ({"dimension": "similarity"}, 15 / 16),
    ],
)
def test_the_similarity_of_a_cross_encoder(make_classifier, parameters, expected):
    reward = Foresight(model=make_classifier(SCORES, **OURS), device="cpu", **parameters)
    reward.load()
    assert earned(reward, "a plan", "visit", ["bus", "rain"]) == pytest.approx(expected, abs=1e-3)
    assert earned(reward, "", "visit", ["bus"]) == 0.0
    assert earned(reward, "a plan", None, ["bus"]) is None


def test_metrics_of_a_model_carry_the_reward_s_name(make_classifier):
    logged = {}
    reward = Foresight(model=make_classifier(SCORES, **OURS))
    earned(reward, "a plan", "visit", ["bus", "rain"], log_metric=logged.__setitem__)
    assert logged["foresight/next"] == pytest.approx(1.0, abs=1e-3)
    assert logged["foresight/others"] == pytest.approx(1 / 8, abs=1e-3)
    assert "scorer/foresight/cache_hit_share" in logged


def test_a_model_that_is_missing_or_unfit_stops_the_run_at_its_start(make_classifier, tmp_path):
    with pytest.raises(UserError, match=r"^rewards\.foresight: .*nowhere"):
        Foresight(model=str(tmp_path / "nowhere")).load()
    two = {pair: score * 2 for pair, score in SCORES.items()}
    unfit = make_classifier(two, problem_type="single_label_classification")
    with pytest.raises(UserError, match=r"^rewards\.foresight: model: was trained for single_label_class"):
        Foresight(model=unfit).load()
    Foresight().load()  # no model, nothing to load
