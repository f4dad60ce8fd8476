"""Both layouts of ReDial give the same dialogue; each way to be wrong has one clear reason."""

import copy

import pytest

from empathy_trl.data.redial_files import check_layout, conversation_of, read_dialogue
from empathy_trl.data.tables import BadRow, Row, Table
from empathy_trl.errors import DataError

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
        (
            BY_ROLE | {"messages": [{"role": "bot", "text": "Hi"}]},
            "unknown sender",
            "role of message 0 is 'bot'; expected 'seeker' or 'recommender'",
        ),
        (BY_ROLE | {"conversation_id": " "}, "no conversation", "is empty"),
        (
            BY_ROLE | {"conversation_id": None},
            "no conversation",
            "conversation_id is null; expected a number or a text",
        ),
        (BY_ROLE | {"conversation_id": {"a": 1}}, "no conversation", "conversation_id is {'a': 1}"),
        (with_text(["See"]), "no text", "text of message 1 is ['See']; expected a text"),
        (with_text(True), "no text", "text of message 1 is true"),
        (BY_ROLE | {"movies": {"12": ["The Salt Line"]}}, "no text", "the title of @12 is ['The Salt Line']"),
        (BY_ROLE | {"liked": {"7": True}}, "unknown like", "True for @7; expected 0, 1, 2"),
        (BY_ROLE | {"movies": "The Salt Line"}, "no mapping", "movies is 'The Salt Line'; expected film ids"),
        (BY_ROLE | {"movies": ["The Salt Line"]}, "no mapping", "expected film ids"),
        (ORIGINAL | {"initiatorWorkerId": 3}, "unknown sender", "senderWorkerId of message 0 is 4; expected 3 or 5"),
        (
            ORIGINAL | {"initiatorWorkerId": [4]},
            "unknown sender",
            "initiatorWorkerId is [4]; expected the id of a worker",
        ),
        (ORIGINAL | {"respondentWorkerId": None}, "unknown sender", "respondentWorkerId is null"),
        (ORIGINAL | {"initiatorWorkerId": 5}, "unknown sender", "initiator and respondent are both worker 5"),
    ],
)
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
