"""Kind `staged`: the format is counted, the spoken part is compared, whole turns are rewarded."""

import json

import pytest
from datasets import Dataset

from empathy_trl.evaluation.replies import Prediction, StagedReplyEvaluator
from empathy_trl.recipe import Data, Evaluation, Model, Stage
from empathy_trl.rewards import read_rewards
from empathy_trl.tags import PARTS, write_parts

EVALUATOR = StagedReplyEvaluator()
SYSTEM = {"role": "system", "content": "Write <react>…</react><respond>…</respond><reflect>…</reflect>."}
SPOKEN = ["I am so sorry.", "That is great!", "How are you?"]
WHOLE = [write_parts({"react": "*nods*", "respond": words, "reflect": "They may cry."}) for words in SPOKEN]
ROWS = Dataset.from_dict(
    {
        "prompt": [[SYSTEM, {"role": "user", "content": turn}] for turn in ("my dog died", "i won", "hello")],
        "text": ["my dog died", "i won", "hello"],
        "reference": SPOKEN,
        "turn": WHOLE,
    }
)
REWARDS = read_rewards(
    {"format": {"weight": 2.0, "tags": list(PARTS), "partial": True}, "length": {"min": 1, "max": 9}}
)[0]
STAGE = Stage(
    name="grpo",
    task="grpo",
    model=Model(name_or_path="unused"),
    data=Data(name="dialogues"),
    evaluation=Evaluation(max_new_tokens=3),
)


def scored(completions):
    predictions = [Prediction(completion, likelihood=(2.0, 1)) for completion in completions]
    return EVALUATOR.score(STAGE, ROWS, ROWS, predictions, REWARDS)


def test_gold_turns_keep_the_format_and_earn_what_they_earn_as_references():
    result, table = scored(WHOLE)
    people = result["baselines"]["reference"]
    for name in ("format_adherence", "reward_format", "reward_length", "reference_similarity", "reply_words"):
        assert result["metrics"][name]["value"] == pytest.approx(people[name]["value"]), name
    assert people["format_adherence"]["value"] == people["reward_format"]["value"] == 1
    assert [row["reply"] for row in table] == SPOKEN and json.loads(json.dumps(table)) == table


def test_broken_turns_are_counted_and_have_no_reply_where_the_spoken_part_is_broken():
    result, table = scored([WHOLE[0], WHOLE[1].replace("</reflect>", ""), "How are you?"])
    assert [row["reply"] for row in table] == [SPOKEN[0], SPOKEN[1], ""]  # nobody is told what stands in no part
    assert [row["metrics"]["format_adherence"] for row in table] == [1, 0, 0]
    assert result["metrics"]["format_adherence"]["value"] == pytest.approx(1 / 3)
    assert result["metrics"]["empty_share"]["value"] == pytest.approx(1 / 3)
    assert list(EVALUATOR.column_titles(result))[:4] == ["reward", "reward_format", "reward_length", "format_adherence"]


def test_a_reward_that_applies_to_no_row_is_left_out_with_the_reason():
    rows = ROWS.add_column("next_user", SPOKEN).add_column("other_users", [[], [], []])
    predictions = [Prediction(completion, likelihood=(2.0, 1)) for completion in WHOLE]
    result, _ = EVALUATOR.score(STAGE, rows, rows, predictions, REWARDS | read_rewards({"foresight": {}})[0])
    assert "reward_foresight" not in result["metrics"] and "reward_length" in result["metrics"]
    assert EVALUATOR.summary(result | {"recipe": "r", "stage": "grpo", "model": "m"})[-1] == (
        "reward_foresight: none, because it applies to none of the 3 rows"
    )


def test_perplexity_is_that_of_the_whole_turn(tiny):
    model, tokenizer = tiny
    predictions = EVALUATOR.predict(model, tokenizer, STAGE, ROWS, 2)
    whole = [len(tokenizer(turn)["input_ids"]) for turn in WHOLE]
    assert [prediction.likelihood[1] for prediction in predictions] == [tokens + 1 for tokens in whole]  # and the end
