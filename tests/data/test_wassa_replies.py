"""Turns as prompts: who answers whom, and a warm start that writes the asked format."""

import itertools

import pytest

from empathy_trl.data import build
from empathy_trl.data.wassa import SYSTEM, answered_turns, make_completion, reply_columns
from empathy_trl.errors import DataError
from empathy_trl.recipe import Data
from empathy_trl.rewards.format import Format
from empathy_trl.tags import reply_text, user_text


def row(text, conversation, speaker, turn=None, number=0):
    return {"text": text, "conversation": conversation, "speaker": speaker, "labels": [3.0, 1.6, 4.0], "turn": turn,
            "number": number}  # fmt: skip


def texts(rows):
    return [(turn["text"], reply["text"]) for turn, reply in answered_turns(rows)]


@pytest.mark.parametrize(
    "rows, expected, why",
    [
        (
            [("a", "1", "x"), ("b", "1", "y"), ("c", "1", "x")],
            [("a", "b"), ("b", "c")],
            "every turn but the last is answered",
        ),
        ([("a", "1", "x"), ("b", "1", "x"), ("c", "1", "y")], [("b", "c")], "nobody answers themselves"),
        ([("a", "1", "x"), ("b", "2", "y")], [], "another conversation is no answer"),
        ([("a", "1", None), ("b", "1", None)], [("a", "b")], "without speakers the next turn counts"),
        ([("a", None, "x"), ("b", None, "y")], [], "without conversations nothing is known"),
        ([("a", "1", "x", "4"), ("b", "1", "y", "5")], [("a", "b")], "ids in sequence"),
        ([("a", "1", "x", "4"), ("b", "1", "y", "4")], [("a", "b")], "ids that count exchanges"),
        ([("a", "1", "x", "4"), ("b", "1", "y", "7")], [], "the source lacks turns 5 and 6"),
        ([("a", "1", "x", "4"), ("b", "1", "y", "3")], [], "an earlier turn is no answer"),
        ([("a", "1", "x", "t4"), ("b", "1", "y", "t9")], [("a", "b")], "ids that are no numbers tell nothing"),
    ],
)
def test_who_answers_whom(rows, expected, why):
    assert texts([row(*cells, number=number) for number, cells in enumerate(rows)]) == expected, why


def neighbours(content):
    """All (turn, next turn) of a CSV of turns, by their texts."""
    lines = [line.split(",") for line in content.splitlines()[1:]]
    return {(a[2], b[2]) for a, b in itertools.pairwise(lines) if a[0] == b[0]}


@pytest.mark.parametrize("header", ["conversation_id,speaker,text", "conversation_id,turn_id,text"])
def test_a_turn_whose_answer_is_in_another_split_or_was_dropped_has_none(tmp_path, header):
    lines = [f"{i // 10},{i % 10 % 2 if 'speaker' in header else i % 10},turn {i}" for i in range(200)]
    lines[33] = lines[33].rpartition(",")[0] + ","  # no text
    content = "\n".join([header + ",Emotion", *(f"{line},1" for line in lines)])
    (tmp_path / "turns.csv").write_text(content)
    for split_by in ("row", "conversation"):
        config = Data(
            name="wassa", path=str(tmp_path), split_by=split_by, ranges={"Emotion": (0, 5)}, on_bad_rows="drop"
        )
        rows = [row for split in ("train", "valid", "test") for row in build(config, split, "grpo")]
        pairs = {(row["text"], row["reference"]) for row in rows}
        assert pairs and pairs <= neighbours(content)


def test_turns_that_nobody_answers_are_an_error_that_says_what_is_needed():
    with pytest.raises(
        DataError, match=r"turns\.csv: no turn is answered by the next one; .* a column conversation_id"
    ):
        reply_columns([row("a", None, None)], "turns.csv", ["Emotion"], with_completion=False)


@pytest.mark.parametrize(
    "aim, approach",
    [(5, "show that I understand"), (3, "show that I understand"), (2, "acknowledge it"), (0, "keep it short")],
)
def test_a_warm_start_is_written_as_asked(aim, approach):
    ratings = {"Emotion": 2.67, "EmotionalPolarity": 1.67, "Empathy": 1.0}
    completion = make_completion("I am sorry.", ratings, {"Empathy": aim})
    assert completion[0]["role"] == "assistant"
    assert Format(tags=["reasoning", "answer"])(None, [completion]) == [1.0]
    assert reply_text(completion) == "I am sorry."
    assert f"content: negative; intensity: 3; approach: {approach}<" in completion[0]["content"]


def test_columns_of_the_sample():
    config = Data(name="wassa", split_by="conversation")
    rated, prompts, warm = (build(config, "test", task) for task in ("regress", "grpo", "sft"))
    assert prompts.column_names == ["prompt", "text", "reference", "conversation"]
    assert warm.column_names == [*prompts.column_names, "completion"]
    assert len(prompts) == len(rated) - len(set(rated["conversation"]))  # all but each conversation's last turn
    for row in prompts:
        assert row["prompt"][0] == {"role": "system", "content": SYSTEM} and user_text(row["prompt"]) == row["text"]
    assert set(Format(tags=["reasoning", "answer"])(None, warm["completion"])) == {1.0}


def test_no_conversation_is_in_two_splits():
    config = Data(name="wassa", split_by="conversation")
    parts = [set(build(config, split, "grpo")["conversation"]) for split in ("train", "valid", "test")]
    assert not parts[0] & parts[1] and not parts[0] & parts[2] and not parts[1] & parts[2]


def test_other_ratings_have_no_warm_start(tmp_path):
    (tmp_path / "turns.csv").write_text(
        "conversation_id,speaker,text,Warmth\n" + "".join(f"{i // 4},{i % 2},turn {i},{i % 3}\n" for i in range(80))
    )
    config = Data(name="wassa", path=str(tmp_path), split_by="conversation", ranges={"Warmth": (0, 2)})
    assert len(build(config, "train", "grpo")) > 20
    with pytest.raises(
        DataError, match="a warm start needs the ratings Emotion, EmotionalPolarity, Empathy; found Warmth"
    ):
        build(config, "train", "sft")
