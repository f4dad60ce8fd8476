"""Both layouts of ReDial give the same dialogue; each way to be wrong has one clear reason; a film is never cut in two."""

import copy

import pytest

from empathy_trl.data.redial_files import (
    check_layout,
    conversation_of,
    fill_slots,
    film_ids,
    keep_end,
    keep_start,
    keep_turns,
    length,
    read_dialogue,
)
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
