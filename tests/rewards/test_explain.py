"""`explain_rewards`: values, weights and totals as a trainer would have them, and an error for every reward that misbehaves."""

import asyncio
import re

import numpy
import pytest
import torch
from datasets import Dataset

from empathy_trl.errors import UserError
from empathy_trl.rewards import load_rewards
from empathy_trl.rewards.base import WeightSchedule
from empathy_trl.rewards.explain import SHOWN_ROWS, explain_rewards
from empathy_trl.rewards.format import SentenceEnd
from tests.rewards import own_rewards

PROMPTS = ["How?", [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "I am sad."}]]
COMPLETIONS = ["Fine.", [{"role": "assistant", "content": "I see"}]]


def own(name, **params):
    return {"import": f"tests.rewards.own_rewards:{name}", **params}


def test_rows_weights_means_and_totals():
    rewards = {"sentence_end": {"weight": 0.5}, "emotion_accuracy": {"weight": 2.0, "invalid": -0.5}}
    table = explain_rewards(rewards, PROMPTS, COMPLETIONS, label=["sad", None])
    assert table.weights == {"sentence_end": 0.5, "emotion_accuracy": 2.0}
    assert table.rows == [
        {"prompt": "How?", "completion": "Fine.", "sentence_end": 1.0, "emotion_accuracy": -0.5, "total": -0.5},
        {"prompt": "I am sad.", "completion": "I see", "sentence_end": 0.0, "emotion_accuracy": None, "total": 0.0},
    ]
    assert table.means == {"sentence_end": 0.5, "emotion_accuracy": -0.5, "total": -0.25}
    assert table.metrics == {"invalid_share": 1.0}


def test_a_completion_to_which_nothing_applies_has_no_total():
    table = explain_rewards({"nowhere": own("nowhere")}, PROMPTS, COMPLETIONS)
    assert [row["total"] for row in table.rows] == [None, None]
    assert table.means == {"nowhere": None, "total": None}


def test_rewards_of_a_stage_and_of_yaml_are_the_same():
    as_yaml = {"length": {"weight": 0.5, "min": 1}, "sentence_end": {}}
    of_stage = {reward.__name__: reward for reward in load_rewards(as_yaml)}
    mixed = {"length": of_stage["length"], "sentence_end": {}}
    tables = [explain_rewards(rewards, PROMPTS, COMPLETIONS) for rewards in (as_yaml, of_stage, mixed)]
    assert tables[0] == tables[1] == tables[2]
    assert list(tables[2].weights) == ["length", "sentence_end"]


@pytest.mark.parametrize(("progress", "weight"), [(0.0, 1.0), (0.25, 2.0), (0.5, 3.0), (1.0, 3.0)])
def test_a_scheduled_weight_is_that_of_the_progress(progress, weight):
    schedule = {"start": 1.0, "end": 3.0, "until": 0.5}
    own = SentenceEnd()
    own.weight = WeightSchedule(**schedule)
    for entry in ({"weight": schedule}, own):
        table = explain_rewards({"sentence_end": entry}, ["p"], ["Fine."], progress=progress)
        assert table.weights["sentence_end"] == table.rows[0]["total"] == weight


def test_asynchronous_rewards_run_at_the_same_time():
    rewards = {"sentence_end": {}, "one": own("meets"), "two": own("meets")}
    table = explain_rewards(rewards, PROMPTS, COMPLETIONS)
    assert list(table.weights) == list(rewards)
    assert [row["total"] for row in table.rows] == [3.0, 2.0]


def test_works_inside_a_running_loop():
    async def notebook():
        return explain_rewards({"one": own("meets"), "two": own("meets")}, PROMPTS, COMPLETIONS)

    assert [row["total"] for row in asyncio.run(notebook()).rows] == [2.0, 2.0]


def test_rewards_are_called_as_trl_calls_them():
    table = explain_rewards({"sees": own("Sees"), "loads": own("Loads")}, PROMPTS, COMPLETIONS, label=["sad", "angry"])
    assert [(row["sees"], row["loads"]) for row in table.rows] == [(1.0, 1.0)] * 2


def test_completion_ids_are_passed_on():
    rewards = {"reasoning_length": {"unit": "tokens", "min": 1, "max": 2, "softness": 0}}
    table = explain_rewards(rewards, PROMPTS, COMPLETIONS, completion_ids=[[1, 2], [1, 2, 3]])
    assert [row["total"] for row in table.rows] == [1.0, 0.0]


def test_what_rewards_log_is_there():
    table = explain_rewards({"a": own("Logs", value=1.0), "b": own("Logs", value=2.0)}, PROMPTS, COMPLETIONS)
    assert table.metrics == {"kindness": 1.5}
    assert [(row["a/why"], row["b/why"]) for row in table.rows] == [("because", "because")] * 2
    assert "kindness: 1.500" in str(table)


@pytest.mark.parametrize(
    "values", [[1, 0], [True, None], numpy.array([1.0, 0.0]), torch.tensor([1.0, 0.0]), iter([0.5, 0.5])]
)
def test_any_kind_of_number_is_a_number(values, monkeypatch):
    monkeypatch.setattr(own_rewards, "letters", lambda prompts, completions, **columns: values)
    rows = explain_rewards({"letters": own("letters")}, PROMPTS, COMPLETIONS).rows
    assert all(row["letters"] is None or type(row["letters"]) is float for row in rows)


def test_columns_of_a_data_set_are_taken_as_they_are():
    data = Dataset.from_dict({"prompt": ["a", "b"], "completion": ["x", "y"], "reference": ["x", "z"]})
    table = explain_rewards({"bleu": {}}, data["prompt"], data["completion"], reference=data["reference"])
    assert [row["bleu"] for row in table.rows] == [1.0, 0.0]


@pytest.mark.parametrize(
    ("rewards", "arguments", "message"),
    [
        ({"emotion_confidence": {}}, {}, "rewards.emotion_confidence: needs a policy.* without a trainer"),
        ({"r": own("Returns", values=[1.0])}, {}, "rewards.r: returned 1 values for 2 completions"),
        ({"r": own("Returns", values=None)}, {}, "rewards.r: returned None; expected a list with a number or None per"),
        ({"r": own("Returns", values="no")}, {}, "rewards.r: returned 'no'; expected a list"),
        ({"r": own("Returns", values=[1.0, "1"])}, {}, "rewards.r: returned '1' for completion 2 of 2, 'I see' .*; expected a finite"),
        ({"r": own_rewards.Returns([float("nan"), 1])}, {}, "rewards.r: returned nan for completion 1"),
        ({"r": own_rewards.Returns([1, float("-inf")])}, {}, "rewards.r: returned -inf for completion 2"),
        ({"r": own("Returns", values=[[1], 1])}, {}, r"rewards.r: returned \[1\] for completion 1"),
        ({"r": own("Logs", extra=3)}, {}, "rewards.r: log_extra `why`: 3 values for 2 completions"),
        ({"length": {}}, {"label": ["sad"]}, "column `label`: 1 values for 2 completions"),
        ({"length": {}}, {"label": "so"}, "column `label`: 'so' is not a list"),
        ({"length": {}}, {"prompts": ["p"]}, "prompts: 1 values for 2 completions"),
        ({"length": {}}, {"progress": 1.5}, "progress: 1.5 is not between 0 and 1"),
        ({"lenght": {}, "bleu": {"weight": "much"}}, {}, r"rewards.lenght: unknown reward; did you mean length(.|\n)*bleu.weight"),
        ({"total": own("letters")}, {}, "rewards.total: the table has a column of this name"),
        (["length"], {}, r"rewards: \['length'\] is not a mapping"),
    ],
)  # fmt: skip
def test_errors(rewards, arguments, message):
    with pytest.raises(UserError, match=message):
        explain_rewards(rewards, **{"prompts": PROMPTS, "completions": COMPLETIONS, **arguments})


@pytest.mark.faults
@pytest.mark.parametrize(
    ("columns", "message"),
    [({}, "missing a required argument: 'label'; .*data: none"), ({"label": [0, 1], "text": ["", ""]}, "argument 'text'; .*data: label, text")],
)  # fmt: skip
def test_a_reward_that_cannot_take_the_columns_is_named(columns, message):
    with pytest.raises(UserError, match=rf"rewards.r: cannot be called: .*{message}\)"):
        explain_rewards({"r": own("reads_label")}, PROMPTS, COMPLETIONS, **columns)


def test_the_policy_is_missed_before_anything_is_loaded_or_called():
    with pytest.raises(UserError, match="needs a policy"):
        explain_rewards({"fails": own("Fails"), "emotion_confidence": {}}, PROMPTS, COMPLETIONS, label=["sad", "sad"])


def test_infrastructure_that_fails_is_no_number():
    with pytest.raises(ConnectionError, match="the judge is gone"):
        explain_rewards({"fails": own("Fails")}, PROMPTS, COMPLETIONS)


def test_printed_as_an_aligned_table():
    rewards = {"sentence_end": {"weight": 0.25}, "emotion_accuracy": {}}
    shown = str(explain_rewards(rewards, PROMPTS, COMPLETIONS, label=["sad", None]))
    assert shown.split("\n") == [
        "        sentence_end  emotion_accuracy  total  completion",
        "weight         0.250             1.000",
        "1              1.000             0.000  0.250  Fine.",
        "2              0.000              none  0.000  I see",
        "mean           0.500             0.000  0.125  of 2 completions",
        "invalid_share: 1.000",
    ]


def test_long_and_wild_texts_are_cut_for_reading_only():
    wild = "line one\n\n\x1b[31mline two\u202e " + "word " * 100
    table = explain_rewards({"length": {}}, ["p"], [wild])
    line = str(table).split("\n")[2]
    assert "line one [31mline two word" in line and line.endswith("…") and len(line) < 100
    assert table.rows[0]["completion"] == wild


def test_many_rows_are_counted_not_printed():
    n = SHOWN_ROWS + 7
    table = explain_rewards({"length": {}}, ["p"] * n, ["a b c d e"] * n)
    lines = str(table).split("\n")
    assert lines[-2:] == ["... and 7 more", lines[-1]] and re.match(rf"mean .* of {n} completions", lines[-1])
    assert len(lines) == SHOWN_ROWS + 4 and len(table.rows) == n


def test_pandas():
    rewards = {"bleu": {}, "logs": own("Logs")}
    frame = explain_rewards(rewards, PROMPTS, COMPLETIONS, reference=["Fine.", None]).to_pandas()
    assert list(frame) == ["prompt", "completion", "bleu", "logs", "total", "logs/why"]
    assert frame["bleu"].tolist()[0] == 1.0 and frame["bleu"].isna().tolist() == [False, True]


def test_no_completions():
    table = explain_rewards({"length": {}}, [], [])
    assert (table.rows, table.means) == ([], {"length": None, "total": None})
    assert "of 0 completions" in str(table)
