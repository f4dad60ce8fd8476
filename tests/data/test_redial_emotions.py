"""Emotions joined to the dialogues by conversation and number of the message."""

import json

import pytest

from empathy_trl.data import build, read_split
from empathy_trl.data.redial import SLOTS, SYSTEM
from empathy_trl.errors import DataError
from empathy_trl.recipe import Data

MESSAGES = [("seeker", "Hi"), ("seeker", "bad day"), ("recommender", "Oh no"), ("seeker", "yes"), ("recommender", "Hm")]
HEADER = "conversation_id,turn,emotion\n"


@pytest.fixture
def config(tmp_path):
    """Return a function that writes the table, and returns the section of a recipe."""
    dialogue = {"conversation_id": "9", "movies": {}, "liked": {}}
    dialogue["messages"] = [{"role": role, "text": text} for role, text in MESSAGES]
    (tmp_path / "test.jsonl").write_text(json.dumps(dialogue) + "\n")

    def write(content, name="emotions.csv", **settings):
        (tmp_path / name).write_text(content)
        return Data(name="redial", path=str(tmp_path), emotions=str(tmp_path / name), **settings)

    return write


def test_the_emotion_of_the_last_turn_ends_the_instruction(config):
    rows = build(config(HEADER + "9,1,sad\n"), "test", "grpo")
    assert list(rows["emotion"]) == ["sad", None]
    systems = [row["prompt"][0]["content"] for row in rows]
    assert systems == [f"{SYSTEM}{SLOTS['placeholder']} They feel sad.", SYSTEM + SLOTS["placeholder"]]


@pytest.mark.parametrize(
    "lines, expected, why",
    [
        ("9,0,happy\n9,1,sad\n", ["sad", None], "the last message of a turn counts"),
        ("9,0,happy\n", ["happy", None], "where it has none, the one before"),
        ("9,1,sad\n9,3,calm\n", ["sad", "calm"], "each turn its own"),
    ],
)
def test_a_turn_of_several_messages(config, lines, expected, why):
    assert list(build(config(HEADER + lines), "test", "grpo")["emotion"]) == expected, why


def test_json_lines(config):
    content = json.dumps({"conversation_id": 9, "turn": 3, "emotion": "very happy"}) + "\n"
    assert list(build(config(content, "emotions.jsonl"), "test", "sft")["emotion"]) == [None, "very happy"]


def test_rows_about_others_are_counted(config):
    _, report = read_split(config(HEADER + "9,1,sad\n9,2,sorry\n10,0,happy\n11,0,happy\n"), "test")
    assert report.notes["emotions of other dialogues"] == 2
    assert report.notes["emotions of the recommender"] == 1


@pytest.mark.parametrize(
    "lines, message",
    [
        ("9,1,sad\n9,1,glad\n", "line 3: second emotion: conversation 9, turn 1 was rated in line 2"),
        ("9,1,sad\n9,5,glad\n", "line 3: no such turn: conversation 9 has no turn 5; its messages are 0 to 4"),
        ("9,1,sad\n9,one,glad\n", "line 3: turn is no number: 'one'; expected the number of a message, from 0"),
        ("9,1,sad\n9,-1,glad\n", "line 3: turn is no number: '-1'"),
        (f"9,1,sad\n9,{'9' * 5000},glad\n", "line 3: turn is no number: '9999"),
        ("9,1,sad\n9,3,\n", "line 3: no emotion: emotion is ''"),
        ("10,0,sad\n", "no row of .*emotions.csv is about a seeker's message in .*test.jsonl"),
        ("9,2,sad\n", "no row of .*emotions.csv is about a seeker's message"),
    ],
)
def test_bad_tables(config, lines, message):
    with pytest.raises(DataError, match=message):
        build(config(HEADER + lines), "test", "grpo")


def test_two_dialogues_of_one_id(config, tmp_path):
    section = config(HEADER + "9,1,sad\n")
    (tmp_path / "test.jsonl").write_text(2 * (tmp_path / "test.jsonl").read_text())
    with pytest.raises(
        DataError, match=r"test\.jsonl, line 2: conversation 9 is also in line 1, so data\.emotions cannot"
    ):
        build(section, "test", "grpo")


def test_bad_rows_are_dropped_and_counted_if_asked_for(config):
    rows, report = read_split(config(HEADER + "9,1,sad\n9,1,glad\n", on_bad_rows="drop"), "test")
    assert rows[0]["emotion"] == "sad" and report.notes["second emotion"] == 1


def test_no_such_table_or_column(config):
    section = config("conversation_id,turn,feeling\n9,1,sad\n")
    with pytest.raises(DataError, match="no column 'emotion'"):
        build(section, "test", "grpo")
    with pytest.raises(DataError, match="data.emotions: no file 'nowhere.csv'"):
        build(section.model_copy(update={"emotions": "nowhere.csv"}), "test", "grpo")
