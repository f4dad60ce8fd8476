"""Redial: who answers what, prompts, emotions, sources, splits, and what is reported."""

import copy
import json
from pathlib import Path

import pytest

from empathy_trl.data import build, read_split
from empathy_trl.data.redial import (
    SLOTS,
    SYSTEM,
    UNSAID,
    check_layout,
    conversation_of,
    fill_slots,
    film_ids,
    keep_end,
    keep_start,
    keep_turns,
    length,
    make_prompt,
    read_dialogue,
)
from empathy_trl.data.tables import BadRow, Row, Table
from empathy_trl.errors import DataError
from empathy_trl.recipe import Data

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "redial"
S, R = "seeker", "recommender"


def dialogue(identity="1", messages=((S, "Hi"), (R, "Hello")), movies=None, liked=None):
    turns = [{"role": role, "text": text} for role, text in messages]
    return {"conversation_id": identity, "messages": turns, "movies": movies or {}, "liked": liked or {}}


@pytest.fixture
def source(tmp_path):
    """Return a function that writes the dialogues of one or several splits, and returns the section of a recipe."""

    def write(train=(), settings=(), **splits):
        for split, dialogues in {"train": train, **splits}.items():
            (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(each) + "\n" for each in dialogues))
        return Data(name="redial", path=str(tmp_path), **dict(settings))

    return write


FILMS = {"12": "The Salt Line  (2011)", "7": "Halcyon", "8": "Undertow (2014)"}
TALK = dialogue(
    messages=[
        (R, "Welcome!"),
        (S, "Hi"),
        (S, "I liked @12"),
        (R, "Me too."),
        (R, "Try @7"),
        (S, "ok, or @8?"),
        (R, "No."),
    ],
    movies=FILMS,
    liked={"12": 1, "7": 1, "8": 0},
)


def test_every_answer_is_a_row(source):
    rows = build(source(test=[TALK]), "test", "sft")
    assert rows.column_names == [
        *("prompt", "text", "reference", "conversation", "recommends", "movies", "liked", "context_movies", "emotion"),
        "completion",
    ]
    first, second = rows
    assert first["prompt"] == [
        {"role": "system", "content": SYSTEM + SLOTS["placeholder"]},
        {"role": "user", "content": UNSAID},
        {"role": "assistant", "content": "Welcome!"},
        {"role": "user", "content": "Hi\nI liked <movie>"},
    ]
    assert first["text"] == "Hi\nI liked <movie>"
    assert first["reference"] == "Me too.\nTry <movie>"
    assert first["completion"] == [{"role": "assistant", "content": "Me too.\nTry <movie>"}]
    assert (first["recommends"], first["movies"]) == (True, ["Halcyon"])
    assert first["context_movies"] == ["The Salt Line (2011)"]
    assert (second["reference"], second["recommends"], second["movies"]) == ("No.", False, [])
    assert second["context_movies"] == ["The Salt Line (2011)", "Halcyon", "Undertow (2014)"]
    assert first["liked"] == second["liked"] == ["The Salt Line (2011)", "Halcyon"]
    assert first["conversation"] == "1" and first["emotion"] is None


def test_titles_stand_in_the_texts_if_asked_for(source):
    rows = build(source(test=[TALK], settings={"slots": "title"}), "test", "ppo")
    assert rows[0]["text"] == "Hi\nI liked The Salt Line (2011)"
    assert rows[0]["reference"] == "Me too.\nTry Halcyon"
    assert rows[0]["prompt"][0]["content"].endswith(SLOTS["title"])


def test_columns_are_the_same_where_all_lists_are_empty(source):
    bare, full = (build(source(test=[each]), "test", "grpo").features for each in (dialogue(), TALK))
    assert bare == full


def test_roles_alternate_and_the_user_begins():
    """As the templates of Llama 2, Gemma and others demand."""
    for turns in ([(S, "a")], [(R, "b"), (S, "c")], [(S, "a"), (R, "b"), (S, "c")]):
        roles = [message["role"] for message in make_prompt(turns, "placeholder")]
        assert roles == ["system", *["user", "assistant"] * (len(roles) // 2 - 1), "user"]


def test_a_context_loses_its_oldest_turns_and_a_reply_its_end(source):
    config = source(test=[TALK], settings={"context_tokens": 6, "reply_tokens": 3})
    rows, report = read_split(config, "test")
    assert rows[1]["turns"] == [(S, "ok, or <movie>?")]
    assert rows[0]["turns"] == [(R, "Welcome!"), (S, "Hi\nI liked <movie>")]
    assert rows[0]["reference"] == "Me too." and not rows[0]["recommends"] and rows[0]["movies"] == []
    assert rows[1]["context_movies"] == ["The Salt Line (2011)", "Halcyon", "Undertow (2014)"]  # cut turns count too
    assert report.shortened == 1 and report.notes["shortened answers"] == 1


def test_what_is_no_example_is_counted(source):
    silent = dialogue("2", [(S, "Anyone?"), (S, " ")])
    opening = dialogue("3", [(R, "Hi"), (S, ""), (R, "there"), (S, "yes")])
    _, report = read_split(source(test=[TALK, silent, opening]), "test")
    assert report.notes == {
        "answers": 2,
        "openings by the recommender": 2,
        "dialogues without an answer": 2,
        "dialogues without likes": 2,
        "messages without text": 2,
    }
    assert "test.jsonl: 3 read, 0 dropped, 3 used, 0 shortened; 2 answers, " in str(report)


def test_nobody_answers(source):
    with pytest.raises(DataError, match=r"test\.jsonl: no recommender answers a seeker in any of 1 dialogues"):
        read_split(source(test=[dialogue(messages=[(R, "Hi"), (S, "Hi")])]), "test")


def test_an_unknown_film_is_an_error_that_names_it_or_is_dropped(source):
    bad = dialogue("8", [(S, "I saw @5"), (R, "ok")])
    config = source(test=[TALK, bad])
    with pytest.raises(
        DataError, match=r"test\.jsonl: 1 of 2 rows .*\n  line 2: unknown film id: @5 in conversation 8"
    ):
        build(config, "test", "grpo")
    rows, report = read_split(config.model_copy(update={"on_bad_rows": "drop"}), "test")
    assert {row["conversation"] for row in rows} == {"1"}
    assert report.dropped == {"unknown film id": 1}


MANY = [dialogue(str(number // 2), [(S, f"a{number}"), (R, f"b{number}")]) for number in range(60)]


def test_valid_is_split_off_the_training_dialogues_where_it_is_missing(source):
    config = source(train=MANY, test=[TALK])
    parts = {
        split: {row["conversation"] for row in build(config, split, "grpo")} for split in ("train", "valid", "test")
    }
    assert not parts["train"] & parts["valid"]
    assert (len(parts["train"]), len(parts["valid"]), len(parts["test"])) == (27, 3, 1)
    assert "(valid of a 90/10 split by conversation)" in read_split(config, "valid")[1].source


def test_a_valid_part_of_its_own_is_used(source):
    config = source(train=MANY, valid=[TALK])
    assert (len(build(config, "train", "grpo")), len(build(config, "valid", "grpo"))) == (60, 2)


def test_names_of_the_original_files(source, tmp_path):
    config = source(train=MANY, test=[TALK])
    for split in ("train", "test"):
        (tmp_path / f"{split}.jsonl").rename(tmp_path / f"{split}_data.jsonl")
    assert (len(build(config, "train", "grpo")), len(build(config, "test", "grpo"))) == (54, 2)


def test_portions_are_of_dialogues(source):
    config = source(train=MANY, valid=[TALK], settings={"portion": (0.0, 0.5)})
    assert len(build(config, "train", "grpo")) == 30


@pytest.mark.parametrize("with_valid", [False, True])
def test_hub(monkeypatch, with_valid):
    from datasets import Dataset, DatasetDict

    from empathy_trl.data import sources as hub

    splits = {"train": Dataset.from_list(MANY), "test": Dataset.from_list([TALK])}
    splits |= {"validation": Dataset.from_list(MANY[:2])} if with_valid else {}
    monkeypatch.setattr(hub, "load_hub", lambda path, revision: DatasetDict(splits))
    config = Data(name="redial", path="someone/films")
    assert len(build(config, "train", "sft")) == (60 if with_valid else 54)
    assert len(build(config, "valid", "sft")) == (2 if with_valid else 6)
    assert build(config, "test", "sft")[0]["movies"] == ["Halcyon"]


# Emotions joined to the dialogues by conversation and number of the message

MESSAGES = [("seeker", "Hi"), ("seeker", "bad day"), ("recommender", "Oh no"), ("seeker", "yes"), ("recommender", "Hm")]
HEADER = "conversation_id,turn,emotion\n"


@pytest.fixture
def joined(tmp_path):
    """Return a function that writes the table, and returns the section of a recipe."""
    dialogue = {"conversation_id": "9", "movies": {}, "liked": {}}
    dialogue["messages"] = [{"role": role, "text": text} for role, text in MESSAGES]
    (tmp_path / "test.jsonl").write_text(json.dumps(dialogue) + "\n")

    def write(content, name="emotions.csv", **settings):
        (tmp_path / name).write_text(content)
        return Data(name="redial", path=str(tmp_path), emotions=str(tmp_path / name), **settings)

    return write


def test_the_emotion_of_the_last_turn_ends_the_instruction(joined):
    rows = build(joined(HEADER + "9,1,sad\n"), "test", "grpo")
    assert list(rows["emotion"]) == ["sad", None]
    systems = [row["prompt"][0]["content"] for row in rows]
    assert systems == [f"{SYSTEM}{SLOTS['placeholder']} They feel sad.", SYSTEM + SLOTS["placeholder"]]


@pytest.mark.parametrize(
    "lines, expected, why",
    [
        ("9,0,happy\n9,1,sad\n", ["sad", None], "the last message of a turn counts"),
        ("9,0,happy\n", ["happy", None], "where it has none, the one before"),
        ("9,1,sad\n9,3,calm\n", ["sad", "calm"], "each turn its own"),
        ("9,1.0,sad\n9,3.0,calm\n", ["sad", "calm"], "numbers as pandas writes them beside an empty cell"),
    ],
)
def test_a_turn_of_several_messages(joined, lines, expected, why):
    assert list(build(joined(HEADER + lines), "test", "grpo")["emotion"]) == expected, why


def test_json_lines(joined):
    content = json.dumps({"conversation_id": 9, "turn": 3, "emotion": "very happy"}) + "\n"
    assert list(build(joined(content, "emotions.jsonl"), "test", "sft")["emotion"]) == [None, "very happy"]


def test_rows_about_others_are_counted(joined):
    _, report = read_split(joined(HEADER + "9,1,sad\n9,2,sorry\n10,0,happy\n11,0,happy\n"), "test")
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
def test_bad_tables(joined, lines, message):
    with pytest.raises(DataError, match=message):
        build(joined(HEADER + lines), "test", "grpo")


def test_two_dialogues_of_one_id(joined, tmp_path):
    section = joined(HEADER + "9,1,sad\n")
    (tmp_path / "test.jsonl").write_text(2 * (tmp_path / "test.jsonl").read_text())
    with pytest.raises(
        DataError, match=r"test\.jsonl, line 2: conversation 9 is also in line 1, so data\.emotions cannot"
    ):
        build(section, "test", "grpo")


def test_bad_rows_are_dropped_and_counted_if_asked_for(joined):
    rows, report = read_split(joined(HEADER + "9,1,sad\n9,1,glad\n", on_bad_rows="drop"), "test")
    assert rows[0]["emotion"] == "sad" and report.notes["second emotion"] == 1


def test_no_such_table_or_column(joined):
    section = joined("conversation_id,turn,feeling\n9,1,sad\n")
    with pytest.raises(DataError, match="no column 'emotion'"):
        build(section, "test", "grpo")
    with pytest.raises(DataError, match="data.emotions: no file 'nowhere.csv'"):
        build(section.model_copy(update={"emotions": "nowhere.csv"}), "test", "grpo")


@pytest.mark.skipif(not REAL.is_dir(), reason="the real dialogues are not here")
@pytest.mark.parametrize(
    "split, dialogues, answers, recommending, openings",
    [("train", 1542, 8338, 4306, 996), ("valid", 203, 1121, 543, 140), ("test", 197, 1024, 539, 118)],
)
def test_the_real_dialogues(split, dialogues, answers, recommending, openings):
    rows, report = read_split(Data(name="redial", path=str(REAL)), split)
    assert (report.read, report.used, report.dropped) == (dialogues, dialogues, {})
    assert report.notes["answers"] == len(rows) == answers
    assert report.notes["openings by the recommender"] == openings
    assert report.notes.get("dialogues without likes", 0) == (3 if split == "train" else 0)
    assert sum(row["recommends"] for row in rows) == recommending
    assert all(row["recommends"] == ("<movie>" in row["reference"]) for row in rows)


BY_ROLE = {
    "conversation_id": "9",
    "messages": [
        {"role": "seeker", "text": "Hi &amp; hello, I saw  @12"},
        {"role": "recommender", "text": "Try @7 <b>now</b>"},
    ],
    "movies": {"12": "The Salt Line  (2011)", "7": "Halcyon"},
    "liked": {"12": 1, "7": 2},
}
FORM = {"suggested": 0, "seen": 1}
ORIGINAL = {
    "conversationId": "9",
    "messages": [
        {"messageId": 1, "senderWorkerId": 4, "text": "Hi &amp; hello, I saw  @12", "timeOffset": 0},
        {"messageId": 2, "senderWorkerId": 5, "text": "Try @7 <b>now</b>", "timeOffset": 3},
    ],
    "movieMentions": {"12": "The Salt Line  (2011)", "7": "Halcyon"},
    "initiatorWorkerId": 4,
    "respondentWorkerId": 5,
    "initiatorQuestions": {"12": FORM | {"liked": 1}},
    "respondentQuestions": {"12": FORM | {"liked": 0}, "7": FORM | {"liked": 2}},
}
HUB = ORIGINAL | {
    "conversationId": 9,
    "movieMentions": [
        {"movieId": "12", "movieName": "The Salt Line  (2011)"},
        {"movieId": "7", "movieName": "Halcyon"},
    ],
    "initiatorQuestions": [FORM | {"movieId": "12", "liked": 1}],
    "respondentQuestions": [FORM | {"movieId": "7", "liked": 2}],
}
# a column of mappings that the Hub keeps as one structure has null for every film of another row
STRUCTURE = BY_ROLE | {"movies": BY_ROLE["movies"] | {"99": None}, "liked": BY_ROLE["liked"] | {"99": None}}


def parse(cells):
    return read_dialogue(Row("line 3", cells))


@pytest.mark.parametrize("cells", [BY_ROLE, ORIGINAL, HUB, STRUCTURE], ids=["by role", "original", "hub", "structure"])
def test_every_layout_gives_the_same_dialogue(cells):
    assert parse(cells) == {
        "where": "line 3",
        "conversation": "9",
        "messages": [("seeker", "Hi & hello, I saw @12"), ("recommender", "Try @7 now")],
        "films": {"12": "The Salt Line (2011)", "7": "Halcyon"},
        "likes": {"12": 1, "7": 2},
    }
    assert conversation_of(Row("line 3", cells)) == "9"


def test_forms_nobody_filled_in_are_empty_lists_in_the_original():
    likes = parse(ORIGINAL | {"initiatorQuestions": [], "respondentQuestions": []})["likes"]
    assert likes == {}
    assert parse(ORIGINAL | {"initiatorQuestions": []})["likes"] == {"12": 0, "7": 2}  # the recommender's answer


def with_text(text):
    cells = copy.deepcopy(BY_ROLE)
    cells["messages"][1]["text"] = text
    return cells


@pytest.mark.parametrize(
    "cells, reason, detail",
    [
        (with_text("See @5, @5 or @6"), "unknown film id", "@5, @6 in conversation 9 has no title among its 2 films"),
        (BY_ROLE | {"liked": {"3": 1}}, "unknown film id", "@3 in conversation 9"),
        (BY_ROLE | {"movies": {"12": None, "7": " "}}, "unknown film id", "@12, @7 in conversation 9"),
        (BY_ROLE | {"liked": {"7": 3}}, "unknown like", "3 for @7; expected 0, 1, 2"),
        (BY_ROLE | {"messages": None}, "no messages", "messages is 'None'; expected a list"),
        (BY_ROLE | {"messages": []}, "no messages", "conversation 9 has no text"),
        (BY_ROLE | {"messages": [{"role": "seeker", "text": None}]}, "no messages", "conversation 9 has no text"),
        (BY_ROLE | {"messages": ["Hi"]}, "no messages", "expected a list of mappings"),
        (BY_ROLE | {"messages": [{"role": "bot", "text": "Hi"}]}, "unknown sender", "role of message 0 is 'bot'; expected 'seeker' or 'recommender'"),
        (BY_ROLE | {"conversation_id": " "}, "no conversation", "is empty"),
        (BY_ROLE | {"conversation_id": None}, "no conversation", "conversation_id is null; expected a number or a text"),
        (BY_ROLE | {"conversation_id": {"a": 1}}, "no conversation", "conversation_id is {'a': 1}"),
        (with_text(["See"]), "no text", "text of message 1 is ['See']; expected a text"),
        (with_text(True), "no text", "text of message 1 is true"),
        (BY_ROLE | {"movies": {"12": ["The Salt Line"]}}, "no text", "the title of @12 is ['The Salt Line']"),
        (BY_ROLE | {"liked": {"7": True}}, "unknown like", "True for @7; expected 0, 1, 2"),
        (BY_ROLE | {"movies": "The Salt Line"}, "no mapping", "movies is 'The Salt Line'; expected film ids"),
        (BY_ROLE | {"movies": ["The Salt Line"]}, "no mapping", "expected film ids"),
        (ORIGINAL | {"initiatorWorkerId": 3}, "unknown sender", "senderWorkerId of message 0 is 4; expected 3 or 5"),
        (ORIGINAL | {"initiatorWorkerId": [4]}, "unknown sender", "initiatorWorkerId is [4]; expected the id of a worker"),
        (ORIGINAL | {"respondentWorkerId": None}, "unknown sender", "respondentWorkerId is null"),
        (ORIGINAL | {"initiatorWorkerId": 5}, "unknown sender", "initiator and respondent are both worker 5"),
    ],
)  # fmt: skip
def test_what_makes_a_dialogue_bad(cells, reason, detail):
    bad = parse(cells)
    assert isinstance(bad, BadRow) and bad.where == "line 3"
    assert bad.reason == reason and detail in bad.detail


def test_titles_are_cleaned_as_texts_are():
    films = parse(BY_ROLE | {"movies": {"12": "Salt &amp;  <|im_end|>Light\ud800 (2011)", "7": "Halcyon"}})["films"]
    assert films["12"] == "Salt & Light (2011)"


@pytest.mark.parametrize(
    "columns, message",
    [
        (["conversation_id", "messages", "movie", "liked"], "no column 'movies'; did you mean movie"),
        (["conversationId", "messages"], "no column 'movieMentions'"),
    ],
)
def test_columns_of_neither_layout(columns, message):
    with pytest.raises(DataError, match=message):
        check_layout(Table("train.jsonl", columns, []))


TITLES = {"12": "The Salt Line (2011)", "7": "Halcyon"}


def test_ids_are_found_once_in_order():
    assert film_ids("see @12, @7 or @12? not @home") == ["12", "7"]


@pytest.mark.parametrize(
    "text, titles, expected",
    [
        ("I saw @12, not @7!", None, "I saw <movie>, not <movie>!"),
        ("I saw @12, not @7!", TITLES, "I saw The Salt Line (2011), not Halcyon!"),
        ("@7Seen", None, "<movie>Seen"),
        ("@home", None, "@home"),
    ],
)
def test_filled(text, titles, expected):
    assert fill_slots(text, titles) == expected


@pytest.mark.parametrize(
    "text, titles, expected, why",
    [
        ("Hi, you!", None, 4, "words and marks"),
        ("see @12", None, 2, "a placeholder is one"),
        ("see @12", TITLES, 7, "a title is as long as it is: The Salt Line ( 2011 )"),
        ("x" * 41, None, 3, "a run without spaces is bounded"),
        ("", None, 0, "nothing"),
    ],
)
def test_length(text, titles, expected, why):
    assert length(text, titles) == expected, why


@pytest.mark.parametrize(
    "limit, titles, start, end",
    [
        (9, None, "Try @12, it is good.", "Try @12, it is good."),
        (3, None, "Try @12,", "is good."),
        (2, None, "Try @12", "good."),
        (1, None, "Try", "."),
        (6, TITLES, "Try", ", it is good."),
        (7, TITLES, "Try @12", ", it is good."),
    ],
)
def test_whole_words_and_whole_films_are_kept(limit, titles, start, end):
    text = "Try @12, it is good."
    assert (keep_start(text, limit, titles), keep_end(text, limit, titles)) == (start, end)


def test_something_is_kept_in_any_case():
    assert keep_start("@12 @7", 1, TITLES) == "@12"
    assert keep_end("@7 @12", 1, TITLES) == "@12"


@pytest.mark.parametrize(
    "limit, expected",
    [
        (9, ["a b c", "d e", "f g h i"]),
        (8, ["d e", "f g h i"]),  # whole turns
        (5, ["f g h i"]),
        (3, ["g h i"]),  # of the last one its end
    ],
)
def test_oldest_turns_go_first(limit, expected):
    assert keep_turns(["a b c", "d e", "f g h i"], limit, None) == expected
