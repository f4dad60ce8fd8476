"""Film slots and lengths: a film is never cut in two, the oldest goes first."""

import pytest

from empathy_trl.data.redial_files import fill_slots, film_ids, keep_end, keep_start, keep_turns, length

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
